//! VIEW_MESSAGE_BY_ID and QUERY_MESSAGE: single messages by position and by key.

use std::cmp::Reverse;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::BytesMut;
use flotilla_api::limits::{PULL_BYTES_MAX, QUERY_MESSAGES_MAX};
use flotilla_api::message as wire;
use flotilla_api::positions::Position;
use flotilla_api::properties;
use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;

use flotilla_api::remoting::headers::query::{QueryMessageHeader, QueryMessageResponse, ViewMessageHeader};

use super::stored::{self, Copied, EntryReader};
use crate::error::Failure;
use crate::forward::{self, Repeat};
use crate::machine::{FoundByKey, Located};
use crate::node::{Broker, Owned};
use crate::replica::Replica;
use crate::router::Origin;

/// Messages a query by unique key is answered with at most.
const UNIQUE_KEY_MESSAGES_MAX: usize = 32;

/// The message at a position, from the copy of its Raft group here or from the leader: the node that took it in may
/// apply it a moment after the leader acknowledged it.
pub async fn route(
    broker: &Arc<Broker>,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let number = ViewMessageHeader::decode(&request.fields)?.position;
    let position = Position::from_i64(number).filter(|position| {
        let group = position.group();
        broker.metadata.read(|metadata| metadata.groups.contains_key(&group))
    });
    let group = position.ok_or_else(|| not_found(number))?.group();
    if let Some(replica) = broker.replicas.get(group) {
        let _reading = broker.answers.begin_read(origin.connection.as_deref()).await?;
        if let Ok(found) = view_by_id(&replica, request).await {
            return Ok(found);
        }
    }
    forward::at_owner(broker, Owned::Group(group), request, origin, Repeat::Harmless).await
}

fn not_found(position: i64) -> Failure {
    let remark = format!("can not find message by the offset, {position}");
    Failure::answer(response::SYSTEM_ERROR, remark)
}

/// The message at a position in a replica. Any number may come: ids of other systems are tried as positions, too.
pub async fn view_by_id(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let number = ViewMessageHeader::decode(&request.fields)?.position;
    let not_found = || not_found(number);
    let position = Position::from_i64(number).filter(|position| position.group() == replica.number);
    let position = position.ok_or_else(not_found)?;
    let located = locate(replica, position).await?.ok_or_else(not_found)?;
    let mut body = BytesMut::new();
    let copied = EntryReader::new(replica)
        .copy(&located, PULL_BYTES_MAX, &mut body)
        .await;
    match copied.map_err(|error| Failure::storage(&error))? {
        Copied::Yes => Ok(RemotingCommand::response(request, response::SUCCESS).with_body(body.freeze())),
        Copied::NoRoom | Copied::Removed => Err(not_found()),
    }
}

/// Finds the place in its queue of the message at `position`: both orders agree within a queue, so by halving.
pub async fn locate(replica: &Replica, position: Position) -> Result<Option<Located>, Failure> {
    if replica
        .state
        .applied()
        .is_none_or(|applied| applied.index < position.log_index())
    {
        return Ok(None);
    }
    let frame = EntryReader::new(replica)
        .frame(position.log_index(), position.slot())
        .await;
    let Some(frame) = frame.map_err(|error| Failure::storage(&error))? else {
        return Ok(None);
    };
    let Some(append) = stored::append(&frame) else {
        return Ok(None);
    };
    let wanted = (position.log_index(), position.slot());
    let segments = replica.state.segments_of(append.topic).into_iter();
    for (_, segment) in segments.filter(|(queue, _)| *queue == append.queue) {
        let (mut low, mut high) = (segment.min_offset, segment.max_offset);
        while low < high {
            let middle = low + (high - low) / 2;
            let found = replica.state.locate(append.topic, append.queue, middle, 1);
            let found = found.map_err(|error| Failure::storage(&error))?;
            let Some(located) = found.into_iter().next() else {
                return Ok(None);
            };
            match (located.log_index, located.slot).cmp(&wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some(located)),
            }
        }
    }
    // A message that was refused in apply lies in the log, but in no queue.
    Ok(None)
}

/// Messages of a topic with a key, newest first, from the Raft groups led here. Tools ask every node and put the
/// answers together.
pub async fn query(broker: &Broker, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = QueryMessageHeader::decode(&request.fields)?;
    let unique = header.unique_key == Some(true);
    let asked = usize::try_from(header.max_messages).unwrap_or_default();
    let messages_max = if unique {
        UNIQUE_KEY_MESSAGES_MAX
    } else {
        asked.clamp(1, QUERY_MESSAGES_MAX)
    };
    let stored = header.begin_timestamp..=header.end_timestamp;
    let groups = broker
        .topic(header.topic)
        .map_or_else(Vec::new, |topic| broker.groups_of(&topic));
    let mut found = Vec::new();
    for replica in groups.into_iter().filter_map(|group| broker.led(group)) {
        replica.group.read_index().await?;
        let here = find_by_key(&replica, header.topic, header.key, stored.clone(), messages_max).await?;
        found.extend(here.into_iter().map(|key| (replica.clone(), key.located)));
    }
    found.sort_by_key(|(_, located)| Reverse((located.store_time, located.log_index, located.slot)));
    found.truncate(messages_max);

    let _reading = broker.answers.begin_read(None).await?;
    let mut body = BytesMut::new();
    let mut newest = None;
    for (replica, located) in &found {
        let start = body.len();
        let copied = EntryReader::new(replica).copy(located, usize::MAX, &mut body).await;
        if copied.map_err(|error| Failure::storage(&error))? != Copied::Yes {
            continue;
        }
        // The index holds hashes; the message says which key it has.
        let has_key = wire::peek_properties(&body[start..])
            .is_ok_and(|properties| properties::keys(properties).any(|has| has == header.key));
        if !has_key || body.len() > PULL_BYTES_MAX && start > 0 {
            body.truncate(start);
        } else if newest.is_none() {
            newest = Some((replica.number, *located));
        }
    }
    let (group, newest) = newest.ok_or_else(|| {
        Failure::answer(
            response::QUERY_NOT_FOUND,
            "can not find message, maybe time range not correct",
        )
    })?;
    let position = Position::new(group, newest.log_index, newest.slot).map_or(0, Position::as_i64);
    let mut answer = RemotingCommand::response(request, response::SUCCESS);
    let header = QueryMessageResponse {
        index_last_update_timestamp: newest.store_time,
        index_last_update_position: position,
    };
    header.encode(&mut answer.fields);
    Ok(answer.with_body(body.freeze()))
}

/// [`StateReader::find_by_key`](crate::machine::StateReader::find_by_key) on a thread that may wait for the disk.
pub async fn find_by_key(
    replica: &Replica,
    topic: &str,
    key: &str,
    stored: RangeInclusive<i64>,
    max: usize,
) -> Result<Vec<FoundByKey>, Failure> {
    let (state, topic, key) = (replica.state.clone(), topic.to_owned(), key.to_owned());
    let find = move || state.find_by_key(&topic, &key, *stored.start(), *stored.end(), max);
    let found = tokio::task::spawn_blocking(find).await;
    found
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|error| Failure::storage(&error))
}
