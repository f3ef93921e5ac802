//! Where a queue begins and ends, by offset and by time. At the leader, after a ReadIndex. As in the official broker
//! an unknown topic or queue is an empty one, not an error.

use std::sync::Arc;

use flotilla_api::remoting::codes::{request as codes, response};
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::offset::{OffsetResponse, QueueHeader, SearchOffsetHeader, TimestampResponse};

use crate::error::Failure;
use crate::forward::{self, Repeat};
use crate::node::{Broker, Owned};
use crate::replica::Replica;
use crate::router::Origin;
use crate::topic_changes;

/// Has any of these questions answered by the owner of the queue; a queue that does not exist is an empty one.
pub async fn route(
    broker: &Arc<Broker>,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let header = QueueHeader::decode(&request.fields)?;
    let owned = Owned::Queue(header.topic, number(header.queue));
    if topic_changes::confirmed_owner(broker, owned).await.is_none() {
        return Ok(match request.code {
            codes::GET_EARLIEST_MSG_STORETIME => {
                let mut answer = RemotingCommand::response(request, response::SUCCESS);
                TimestampResponse { timestamp: -1 }.encode(&mut answer.fields);
                answer
            }
            _ => answer(request, 0),
        });
    }
    forward::at_owner(broker, owned, request, origin, Repeat::Harmless).await
}

/// First queue offset and one past the last; (0, 0) for a queue that does not exist.
pub fn bounds(replica: &Replica, topic: &str, queue: u32) -> (i64, i64) {
    replica
        .state
        .queue_bounds(topic, queue)
        .map_or((0, 0), |bounds| (bounds.min_offset, bounds.max_offset))
}

/// The number of a queue that may exist; a negative one is a queue that does not.
fn number(queue: i32) -> u32 {
    u32::try_from(queue).unwrap_or(u32::MAX)
}

fn answer(request: &RemotingCommand, offset: i64) -> RemotingCommand {
    let mut answer = RemotingCommand::response(request, response::SUCCESS);
    OffsetResponse { offset }.encode(&mut answer.fields);
    answer
}

/// GET_MAX_OFFSET: the queue offset of the next message.
pub async fn max(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = QueueHeader::decode(&request.fields)?;
    replica.group.read_index().await?;
    Ok(answer(request, bounds(replica, header.topic, number(header.queue)).1))
}

/// GET_MIN_OFFSET: the first queue offset that can be read.
pub async fn min(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = QueueHeader::decode(&request.fields)?;
    replica.group.read_index().await?;
    Ok(answer(request, bounds(replica, header.topic, number(header.queue)).0))
}

/// SEARCH_OFFSET_BY_TIMESTAMP: the first message at or after a time (`LOWER`), or the last at or before it.
pub async fn by_timestamp(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = SearchOffsetHeader::decode(&request.fields)?;
    replica.group.read_index().await?;
    let queue = number(header.queue);
    let offset = match replica.state.queue_bounds(header.topic, queue) {
        Some(_) => replica
            .state
            .offset_by_time(header.topic, queue, header.timestamp, header.is_upper())
            .map_err(|error| Failure::storage(&error))?,
        None => 0,
    };
    Ok(answer(request, offset))
}

/// GET_EARLIEST_MSG_STORETIME: when the first readable message was stored, -1 without one.
pub async fn earliest_store_time(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = QueueHeader::decode(&request.fields)?;
    replica.group.read_index().await?;
    let bounds = replica.state.queue_bounds(header.topic, number(header.queue));
    let mut answer = RemotingCommand::response(request, response::SUCCESS);
    let timestamp = bounds.map_or(-1, |bounds| bounds.min_store_time);
    TimestampResponse { timestamp }.encode(&mut answer.fields);
    Ok(answer)
}
