//! Where a queue begins and ends, by offset and by time. At the leader, after a ReadIndex. As in the official broker
//! an unknown topic or queue is an empty one, not an error. A queue that moved is asked segment by segment.

use std::sync::Arc;

use flotilla_api::remoting::codes::{request as codes, response};
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::offset::{OffsetResponse, QueueHeader, SearchOffsetHeader, TimestampResponse};

use flotilla_controller::metadata::Segment;

use crate::error::Failure;
use crate::forward::{self, Repeat};
use crate::machine::SegmentBounds;
use crate::node::{Broker, Owned};
use crate::replica::Replica;
use crate::router::Origin;
use crate::topic_changes;

/// Names the segment meant in requests between nodes: its generation.
const SEGMENT_FIELD: &str = "flotillaSegment";

/// Has any of these questions answered by the owner of the queue, or of those of its segments that may know; a queue
/// that does not exist is an empty one.
pub async fn route(
    broker: &Arc<Broker>,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let header = QueueHeader::decode(&request.fields)?;
    let queue = number(header.queue);
    let owned = Owned::Queue(header.topic, queue);
    if topic_changes::confirmed_owner(broker, owned).await.is_none() {
        return Ok(match request.code {
            codes::GET_EARLIEST_MSG_STORETIME => timestamp_answer(request, -1),
            _ => answer(request, 0),
        });
    }
    loop {
        let segments = broker.segments(header.topic, queue);
        let found = in_segments(broker, owned, &segments, request, origin).await?;
        // One of those asked may have said that the queue went on elsewhere.
        if broker.segments(header.topic, queue).len() <= segments.len() {
            return Ok(found);
        }
    }
}

/// Asks those of the segments that may know, in the order in which they do.
async fn in_segments(
    broker: &Arc<Broker>,
    owned: Owned<'_>,
    segments: &[Segment],
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let sealed: Vec<Segment> = segments
        .iter()
        .filter(|segment| segment.end.is_some())
        .copied()
        .collect();
    let open = || forward::at_owner(broker, owned, request, origin, Repeat::Harmless);
    if sealed.is_empty() || request.code == codes::GET_MAX_OFFSET {
        return open().await;
    }
    if request.code == codes::SEARCH_OFFSET_BY_TIMESTAMP && SearchOffsetHeader::decode(&request.fields)?.is_upper() {
        // The last message stored in time is in the newest segment that begins early enough.
        let newest = open().await?;
        if offset_in(&newest) > Some(0) {
            return Ok(newest);
        }
        for segment in sealed.iter().rev() {
            let found = in_segment(broker, *segment, request, origin).await?;
            if offset_in(&found) > Some(0) {
                return Ok(found);
            }
        }
        return Ok(newest);
    }
    for segment in sealed {
        let found = in_segment(broker, segment, request, origin).await?;
        let is_there = match request.code {
            codes::GET_EARLIEST_MSG_STORETIME => found.fields.get("timestamp") != Some("-1"),
            _ => offset_in(&found) < segment.end,
        };
        if is_there {
            return Ok(found);
        }
    }
    open().await
}

/// The first queue offset that can be read, whichever segment it is in.
pub async fn first(broker: &Arc<Broker>, topic: &str, queue: u32) -> Result<i64, Failure> {
    let mut request = RemotingCommand::request(codes::GET_MIN_OFFSET);
    request.fields.push("topic", topic);
    request.fields.push("queueId", i64::from(queue));
    let found = route(broker, &request, &Origin::local(broker)).await?;
    offset_in(&found).ok_or_else(|| Failure::Unknown("an answer without offset".to_owned()))
}

async fn in_segment(
    broker: &Arc<Broker>,
    segment: Segment,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let mut request = request.clone();
    request.fields.set(SEGMENT_FIELD, i64::from(segment.generation));
    forward::at_owner(broker, Owned::Group(segment.group), &request, origin, Repeat::Harmless).await
}

fn offset_in(answer: &RemotingCommand) -> Option<i64> {
    answer.fields.get("offset")?.parse().ok()
}

/// First queue offset and one past the last of what is open here; (0, 0) for a queue that does not exist.
pub fn bounds(replica: &Replica, topic: &str, queue: u32) -> (i64, i64) {
    replica
        .state
        .queue_bounds(topic, queue)
        .map_or((0, 0), |bounds| (bounds.min_offset, bounds.max_offset))
}

/// The segment that a question is about: the one it names, else the open one. An error unless that is here.
fn asked_segment(
    replica: &Replica,
    request: &RemotingCommand,
    header: &QueueHeader<'_>,
) -> Result<SegmentBounds, Failure> {
    let (topic, queue) = (header.topic, number(header.queue));
    let named = request.fields.get(SEGMENT_FIELD).and_then(|named| named.parse().ok());
    let generation = named.or_else(|| replica.state.generation(topic, queue));
    let segment = generation.and_then(|generation| replica.state.segment(topic, queue, generation));
    segment.ok_or_else(|| not_here(replica, topic, queue))
}

/// The generation of a queue's open segment, or why it is not in this Raft group.
pub(super) fn open_generation(replica: &Replica, topic: &str, queue: u32) -> Result<u32, Failure> {
    let generation = replica.state.generation(topic, queue);
    generation.ok_or_else(|| not_here(replica, topic, queue))
}

/// Why a segment of a queue is not in a Raft group.
pub fn not_here(replica: &Replica, topic: &str, queue: u32) -> Failure {
    match replica.state.moved_to(topic, queue) {
        Some(successor) => Failure::Moved(successor),
        None => Failure::not_open(topic, queue),
    }
}

/// The number of a queue that may exist; a negative one is a queue that does not.
fn number(queue: i32) -> u32 {
    u32::try_from(queue).unwrap_or(u32::MAX)
}

fn timestamp_answer(request: &RemotingCommand, timestamp: i64) -> RemotingCommand {
    let mut answer = RemotingCommand::response(request, response::SUCCESS);
    TimestampResponse { timestamp }.encode(&mut answer.fields);
    answer
}

/// A queue offset as these questions are answered.
pub(super) fn answer(request: &RemotingCommand, offset: i64) -> RemotingCommand {
    let mut answer = RemotingCommand::response(request, response::SUCCESS);
    OffsetResponse { offset }.encode(&mut answer.fields);
    answer
}

/// GET_MAX_OFFSET: the queue offset of the next message.
pub async fn max(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = QueueHeader::decode(&request.fields)?;
    replica.group.read_index().await?;
    Ok(answer(request, asked_segment(replica, request, &header)?.max_offset))
}

/// GET_MIN_OFFSET: the first queue offset that can be read.
pub async fn min(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = QueueHeader::decode(&request.fields)?;
    replica.group.read_index().await?;
    Ok(answer(request, asked_segment(replica, request, &header)?.min_offset))
}

/// SEARCH_OFFSET_BY_TIMESTAMP: the first message at or after a time (`LOWER`), or the last at or before it.
pub async fn by_timestamp(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = SearchOffsetHeader::decode(&request.fields)?;
    let queue = QueueHeader::decode(&request.fields)?;
    replica.group.read_index().await?;
    let generation = asked_segment(replica, request, &queue)?.generation;
    let (topic, number) = (header.topic, number(header.queue));
    let offset = replica
        .state
        .offset_by_time(topic, number, generation, header.timestamp, header.is_upper())
        .map_err(|error| Failure::storage(&error))?;
    Ok(answer(request, offset))
}

/// GET_EARLIEST_MSG_STORETIME: when the first readable message was stored, -1 without one.
pub async fn earliest_store_time(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = QueueHeader::decode(&request.fields)?;
    replica.group.read_index().await?;
    let segment = asked_segment(replica, request, &header)?;
    Ok(timestamp_answer(request, segment.min_store_time))
}
