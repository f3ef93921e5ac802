//! PULL_MESSAGE and LITE_PULL_MESSAGE: messages of one queue from a queue offset on.
//!
//! Committed messages are served by the node that was asked, from its own log, if it has a replica of the queue's Raft
//! group. What its own copy cannot know for sure (a pull past the end, a queue or subscription it has not heard of, the
//! end of the queue for a pull that does not wait) the leader says after a ReadIndex. A pull that may wait is parked
//! here: the message will be applied here, too. A node without a replica passes the pull on to the leader, where it
//! waits for as long as the client's connection is open. The consumer offset a pull carries is stored when the pull arrives, not when it is woken.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flotilla_api::remoting::codes::{request as codes, response};
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::offset::UpdateConsumerOffsetHeader;
use flotilla_api::remoting::headers::pull::PullMessageResponse;
use flotilla_api::tag::TagFilter;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::offset;
use super::pull_request::Pull;
use super::pull_result::{Place, PullResult, PullStatus, place};
use super::stored::{Copied, EntryReader};
use crate::error::Failure;
use crate::forward::{self, Pursuit, Repeat};
use crate::long_poll::Woken;
use crate::node::Broker;
use crate::replica::Replica;
use crate::router::Origin;
use crate::topic_changes;

/// Messages looked at for one answer when a filter leaves many out.
const SCANNED_MAX: usize = 4_096;
/// Messages looked up at a time.
const LOOKED_UP_MAX: usize = 512;
/// Before a parked pull looks again at what was not there, though it should be.
const STALE_PAUSE: Duration = Duration::from_millis(10);
/// First reservation for an answer.
const BODY_BYTES: usize = 8 * 1024;

/// True for what this node may just not have heard of yet.
fn may_be_stale(failure: &Failure) -> bool {
    let code = match failure {
        // The segment is not open here yet.
        Failure::Unavailable(_) => return true,
        Failure::Answer { code, .. } => *code,
        _ => return false,
    };
    matches!(
        code,
        response::TOPIC_NOT_EXIST
            | response::INVALID_PARAMETER
            | response::SUBSCRIPTION_NOT_EXIST
            | response::SUBSCRIPTION_NOT_LATEST
    )
}

/// A pull at the node the client asked.
pub async fn pull(broker: &Arc<Broker>, request: RemotingCommand, origin: &Origin) -> Result<RemotingCommand, Failure> {
    let mut pull = Pull::decode(&request)?;
    if topic_changes::confirmed_owner(broker, pull.segment()).await.is_none() {
        // Says what is wrong if there is still no such queue.
        pull.check(broker)?;
    }
    let patience = pull.suspend;
    let begun = Instant::now();
    let mut pursuit = Pursuit::until(begun + patience.unwrap_or_default() + forward::HOLD_MAX);
    let (replica, prepared) = loop {
        let asked = broker.owner(pull.segment());
        let looked = match broker.replica_of(pull.segment()) {
            Some(replica) => match pull_here(broker, &replica, &pull, &request, origin).await {
                Ok(Looked::Nothing(prepared)) => break (replica, prepared),
                Ok(Looked::Answered(answer)) => Ok(answer),
                Err(failure) => Err(failure),
            },
            None => pull_elsewhere(broker, &pull, &request, origin).await,
        };
        let (Err(failure @ Failure::Moved(_)), Some(asked)) = (&looked, asked) else {
            return looked;
        };
        let seen = broker.leadership(asked);
        let Some(again) = pursuit.learn(broker, pull.segment(), (asked, &seen), failure, true) else {
            return looked;
        };
        pursuit.wait(broker, again).await;
        pull.suspend = patience.and_then(|patience| patience.checked_sub(begun.elapsed()));
    };
    drop(request);
    wait(broker, &replica, &pull, prepared, origin).await
}

/// What looking once comes to.
enum Looked {
    /// There is an answer.
    Answered(RemotingCommand),
    /// The pull may wait for a message; its answer is prepared.
    Nothing(RemotingCommand),
}

async fn pull_here(
    broker: &Arc<Broker>,
    replica: &Arc<Replica>,
    pull: &Pull,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<Looked, Failure> {
    let prepared = RemotingCommand::response(request, response::SUCCESS);
    let ((), looked) = tokio::join!(commit(broker, pull, origin), async {
        let mut reading = broker.answers.begin_read(origin.connection.as_deref()).await?;
        let looked = look(broker, replica, pull, pull.queue_offset).await;
        // The offset may take longer to store than the messages to read.
        reading.end_turn();
        looked.map(|looked| (looked, reading))
    });
    let (looked, mut reading) = match looked {
        Ok((looked, reading)) => (Ok(looked), Some(reading)),
        Err(failure) => (Err(failure), None),
    };
    let settled = match &looked {
        Ok((result, _)) if result.needs_leader(pull.queue_offset) => false,
        Ok((result, _)) if result.may_wait(pull.queue_offset) => pull.suspend.is_some(),
        Ok(_) => true,
        Err(failure) => !may_be_stale(failure),
    };
    if !settled {
        drop(reading.take());
        let asked = pull.with_filter(broker, request);
        match forward::at_owner(broker, pull.segment(), &asked, origin, Repeat::Harmless).await {
            // The leader knows no more than the end of the queue: wait for the message here.
            Ok(answer) if answer.code == response::PULL_NOT_FOUND && pull.suspend.is_some() => {}
            // Nobody leads at the moment: the client need not know.
            Err(failure) if failure.surely_not_done() && pull.suspend.is_some() && looked.is_ok() => {}
            outcome => return outcome.map(Looked::Answered),
        }
    } else {
        let (result, body) = looked?;
        if !result.may_wait(pull.queue_offset) {
            return Ok(Looked::Answered(answer(prepared, pull.queue_offset, result, body)));
        }
    }
    Ok(Looked::Nothing(prepared))
}

/// A pull of a queue that has no replica here.
async fn pull_elsewhere(
    broker: &Arc<Broker>,
    pull: &Pull,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    pull.check(broker).or_else(|failure| match may_be_stale(&failure) {
        true => Ok((0, TagFilter::All)),
        false => Err(failure),
    })?;
    commit(broker, pull, origin).await;
    let asked = pull.with_filter(broker, request);
    let _counted = origin.connection.as_ref().map(|connection| connection.parked());
    let patience = pull.suspend.unwrap_or_default();
    let _reading = match pull.suspend {
        None => Some(broker.answers.begin_read(origin.connection.as_deref()).await?),
        // As many of these may wait for a message as the client has queues.
        Some(_) => None,
    };
    forward::wait_at_owner(broker, pull.segment(), &asked, origin, patience).await
}

/// A pull at the leader, for what only the leader knows; answered at once.
pub async fn pull_fresh(
    broker: &Arc<Broker>,
    replica: &Arc<Replica>,
    request: &RemotingCommand,
) -> Result<RemotingCommand, Failure> {
    let pull = Pull::decode(request)?;
    replica.group.read_index().await?;
    let _reading = broker.answers.begin_read(None).await?;
    let (result, body) = look(broker, replica, &pull, pull.queue_offset).await?;
    let prepared = RemotingCommand::response(request, response::SUCCESS);
    Ok(answer(prepared, pull.queue_offset, result, body))
}

/// A pull at the leader for a node without a replica; waits for a message if it may.
pub async fn pull_waiting(
    broker: &Arc<Broker>,
    replica: &Arc<Replica>,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let pull = Pull::decode(request)?;
    let prepared = RemotingCommand::response(request, response::SUCCESS);
    let reading = broker.answers.begin_read(None).await?;
    let (mut result, mut body) = look(broker, replica, &pull, pull.queue_offset).await?;
    if result.status != PullStatus::Found {
        replica.group.read_index().await?;
        (result, body) = look(broker, replica, &pull, pull.queue_offset).await?;
    }
    if pull.suspend.is_none() || !result.may_wait(pull.queue_offset) {
        return Ok(answer(prepared, pull.queue_offset, result, body));
    }
    drop(reading);
    wait(broker, replica, &pull, prepared, origin).await
}

/// Parks the pull until a message for it is applied here, or its time is over.
async fn wait(
    broker: &Arc<Broker>,
    replica: &Arc<Replica>,
    pull: &Pull,
    prepared: RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let deadline = Instant::now() + pull.suspend.unwrap_or_default();
    let _counted = origin.connection.as_ref().map(|connection| connection.parked());
    let mut parked = broker
        .parked
        .park(&pull.topic, pull.number())
        .map_err(|error| Failure::answer(response::SYSTEM_BUSY, format!("[OVERLOAD]system busy, {error}")))?;
    // Messages that do not pass the filter are left behind without an answer for each.
    let mut queue_offset = pull.queue_offset;
    let mut woken_at = None;
    loop {
        let reading = broker.answers.begin_read(origin.connection.as_deref()).await?;
        let looked = look(broker, replica, pull, queue_offset).await;
        let (result, body) = match looked {
            Err(failure) if may_be_stale(&failure) && Instant::now() < deadline => {
                // The leader knew better; what it knows is about to be applied here.
                drop(reading);
                tokio::time::sleep(STALE_PAUSE).await;
                continue;
            }
            Err(Failure::Moved(segment)) => {
                // The message it waits for comes elsewhere: the client asks again, and is led there.
                broker.learn_moved(pull.owned(), segment);
                let result = PullResult {
                    status: PullStatus::NoMatchedMessage,
                    next_offset: queue_offset,
                    min_offset: pull.queue_offset,
                    max_offset: broker.known_end(&pull.topic, pull.number()).max(queue_offset),
                };
                return Ok(answer(prepared, pull.queue_offset, result, Bytes::new()));
            }
            looked => looked?,
        };
        let behind = result.needs_leader(queue_offset);
        if !behind && !result.may_wait(queue_offset) {
            let exhausted = result.status == PullStatus::NoMatchedMessage && result.next_offset >= result.max_offset;
            if !exhausted {
                return Ok(answer(prepared, pull.queue_offset, result, body));
            }
            if result.next_offset > queue_offset {
                // What follows may be in another segment.
                queue_offset = result.next_offset;
                continue;
            }
        }
        drop((reading, body));
        match timeout_at(deadline, parked.wait(queue_offset)).await {
            // Once in a while there is nothing for this pull behind it: a topic made anew under its name.
            Ok(Woken::Appended)
                if Instant::now() < deadline && woken_at.replace(queue_offset) == Some(queue_offset) =>
            {
                tokio::time::sleep(STALE_PAUSE).await;
            }
            Ok(Woken::Appended | Woken::HandedOver) if Instant::now() < deadline => {}
            Ok(_) | Err(_) => {
                let passed_some = queue_offset > pull.queue_offset;
                let status = if passed_some {
                    PullStatus::NoMatchedMessage
                } else {
                    PullStatus::OffsetOverflowOne
                };
                let result = PullResult {
                    status,
                    next_offset: queue_offset,
                    ..result
                };
                return Ok(answer(prepared, pull.queue_offset, result, Bytes::new()));
            }
        }
    }
}

/// One look at the queue as it is here.
async fn look(
    broker: &Broker,
    replica: &Replica,
    pull: &Pull,
    queue_offset: i64,
) -> Result<(PullResult, Bytes), Failure> {
    let (queue, filter) = pull.check(broker)?;
    let segment = replica.state.segment_at(&pull.topic, queue, queue_offset);
    let segment = segment.ok_or_else(|| offset::not_here(replica, &pull.topic, queue))?;
    if let Some(successor) = segment.successor
        && queue_offset >= segment.max_offset
    {
        return Err(Failure::Moved(successor));
    }
    let (min_offset, max_offset) = (segment.min_offset, segment.max_offset);
    let (status, next_offset, body) = match place(min_offset, max_offset, queue_offset) {
        Place::Nothing(status, next_offset) => (status, next_offset, Bytes::new()),
        Place::Readable => scan(broker, replica, pull, queue, &filter, queue_offset..max_offset).await?,
    };
    // Clients take it for the end of the queue.
    let max_offset = match segment.successor {
        None => max_offset,
        Some(_) => broker.known_end(&pull.topic, queue).max(max_offset),
    };
    Ok((
        PullResult {
            status,
            next_offset,
            min_offset,
            max_offset,
        },
        body,
    ))
}

async fn scan(
    broker: &Broker,
    replica: &Replica,
    pull: &Pull,
    queue: u32,
    filter: &TagFilter,
    range: std::ops::Range<i64>,
) -> Result<(PullStatus, i64, Bytes), Failure> {
    let mut reader = EntryReader::new(replica);
    let mut body = BytesMut::with_capacity(BODY_BYTES);
    let (mut next, mut scanned, mut found, mut removed) = (range.start, 0, 0, false);
    'scan: while next < range.end && scanned < SCANNED_MAX && found < pull.messages_max {
        let at_a_time = match filter {
            TagFilter::All => pull.messages_max - found,
            TagFilter::Hashes(_) => LOOKED_UP_MAX,
        };
        let located = replica.state.locate(&pull.topic, queue, next, at_a_time);
        let located = located.map_err(|error| Failure::storage(&error))?;
        if located.is_empty() {
            // Retention moved the beginning of the queue past this place in the meantime.
            removed = true;
            let segment = replica.state.segment_at(&pull.topic, queue, range.start);
            next = next.max(segment.map_or(next, |segment| segment.min_offset));
            break;
        }
        for message in located {
            if filter.matches(message.tag_hash) {
                let copied = reader.copy(&message, pull.bytes_max, &mut body).await;
                match copied.map_err(|error| Failure::storage(&error))? {
                    Copied::Yes => found += 1,
                    Copied::NoRoom => break 'scan,
                    Copied::Removed if found > 0 => break 'scan,
                    Copied::Removed => removed = true,
                }
            }
            next = message.queue_offset + 1;
            scanned += 1;
            if found == pull.messages_max {
                break 'scan;
            }
        }
    }
    let status = match (found, removed) {
        (0, true) => PullStatus::MessageWasRemoving,
        (0, false) => PullStatus::NoMatchedMessage,
        _ => PullStatus::Found,
    };
    if found == 0 && next == range.start {
        return Err(Failure::answer(
            response::SYSTEM_ERROR,
            "the queue's index ends before the queue does",
        ));
    }
    broker.metrics.messages_out.inc_by(found as u64);
    broker.metrics.message_bytes_out.inc_by(body.len() as u64);
    Ok((status, next, body.freeze()))
}

fn answer(mut prepared: RemotingCommand, queue_offset: i64, result: PullResult, body: Bytes) -> RemotingCommand {
    prepared.code = result.status.code(queue_offset);
    let header = PullMessageResponse {
        suggest_which_broker_id: 0,
        next_begin_offset: result.next_offset,
        min_offset: result.min_offset,
        max_offset: result.max_offset,
        offset_delta: None,
        topic_sys_flag: Some(0),
        group_sys_flag: Some(0),
        forbidden_type: None,
    };
    header.encode(&mut prepared.fields);
    prepared.with_remark(result.status.remark()).with_body(body)
}

/// Stores the consumer offset a pull carries, if it is ahead of the stored one. It is repeated with every pull, so
/// that a failure is worth no more than a line.
async fn commit(broker: &Arc<Broker>, pull: &Pull, origin: &Origin) {
    let (Some(offset), Ok(queue)) = (pull.commit_offset, u32::try_from(pull.queue)) else {
        return;
    };
    let replica = broker.replica_of(pull.owned());
    let known = replica.and_then(|replica| replica.state.consumer_offset(&pull.consumer_group, &pull.topic, queue));
    if known.is_some_and(|known| known >= offset) {
        return;
    }
    let mut update = RemotingCommand::request(codes::UPDATE_CONSUMER_OFFSET);
    let header = UpdateConsumerOffsetHeader {
        consumer_group: &pull.consumer_group,
        topic: &pull.topic,
        queue: pull.queue,
        commit_offset: offset,
    };
    header.encode(&mut update.fields);
    if let Err(failure) = forward::at_owner(broker, pull.owned(), &update, origin, Repeat::Harmful).await {
        debug!(
            consumer_group = pull.consumer_group,
            topic = pull.topic,
            queue,
            ?failure,
            "store an offset with a pull"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_unheard_of_is_asked_of_the_leader() {
        assert!(may_be_stale(&Failure::no_topic("T")));
        assert!(may_be_stale(&Failure::answer(24, "")));
        assert!(!may_be_stale(&Failure::answer(16, "")));
        assert!(!may_be_stale(&Failure::NotLeader { leader: None }));
    }
}
