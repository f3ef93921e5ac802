//! QUERY_CONSUMER_OFFSET and UPDATE_CONSUMER_OFFSET, at the leader.

use std::sync::Arc;

use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::offset::{QueryConsumerOffsetHeader, QueueHeader, UpdateConsumerOffsetHeader};

use super::{offset, propose};
use crate::consumer_groups;
use crate::error::{Failure, check_group};
use crate::forward::{self, Repeat};
use crate::node::{Broker, Owned};
use crate::replica::Replica;
use crate::router::Origin;
use crate::state::{Command, OffsetUpdate};
use crate::topic_changes;

/// Has the owner of the queue asked or told. Both requests name the queue alike.
pub async fn route(
    broker: &Arc<Broker>,
    request: &RemotingCommand,
    origin: &Origin,
    repeat: Repeat,
) -> Result<RemotingCommand, Failure> {
    let header = QueueHeader::decode(&request.fields)?;
    let owned = Owned::Queue(header.topic, u32::try_from(header.queue).unwrap_or(u32::MAX));
    if topic_changes::confirmed_owner(broker, owned).await.is_none() {
        if repeat == Repeat::Harmless {
            return Err(not_found());
        }
        if broker.topic(header.topic).is_none() {
            return Err(Failure::no_topic(header.topic));
        }
        let what = format!("queue {} of topic {} does not exist", header.queue, header.topic);
        return Err(Failure::invalid(what));
    }
    if repeat == Repeat::Harmful {
        let group = UpdateConsumerOffsetHeader::decode(&request.fields)?.consumer_group;
        check_group(group)?;
        consumer_groups::used(broker, group, false).await;
    }
    let answer = forward::at_owner(broker, owned, request, origin, repeat).await;
    let code = match &answer {
        Ok(answer) => answer.code,
        Err(failure) => failure.code_and_remark().0,
    };
    if code != response::QUERY_NOT_FOUND || repeat == Repeat::Harmful {
        return answer;
    }
    // The owner knows its own segment only: whether the queue is young the first one tells.
    let asked = QueryConsumerOffsetHeader::decode(&request.fields)?;
    let queue = u32::try_from(header.queue).unwrap_or(u32::MAX);
    let moved = broker.segments(header.topic, queue).len() > 1;
    if moved && asked.set_zero_if_not_found != Some(false) && offset::first(broker, header.topic, queue).await? == 0 {
        return Ok(offset::answer(request, 0));
    }
    answer
}

fn not_found() -> Failure {
    Failure::answer(
        response::QUERY_NOT_FOUND,
        "Not found, maybe this group consumer boot first",
    )
}

/// Answers with the stored consumer offset. Without one, a consumer group that is new on a young topic starts at 0,
/// whatever its client would choose; young means that nothing was removed from the queue yet. Code 22 makes the
/// client choose.
pub async fn query(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = QueryConsumerOffsetHeader::decode(&request.fields)?;
    check_group(header.consumer_group)?;
    replica.group.read_index().await?;
    let queue = u32::try_from(header.queue).map_err(|_| not_found())?;
    offset::open_generation(replica, header.topic, queue)?;
    let offset = match replica
        .state
        .consumer_offset(header.consumer_group, header.topic, queue)
    {
        Some(stored) => stored,
        None if header.set_zero_if_not_found == Some(false) => return Err(not_found()),
        None => {
            if offset::bounds(replica, header.topic, queue).0 == 0 {
                0
            } else {
                return Err(not_found());
            }
        }
    };
    Ok(offset::answer(request, offset))
}

/// Stores a consumer offset as given, also when it goes back.
pub async fn update(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = UpdateConsumerOffsetHeader::decode(&request.fields)?;
    check_group(header.consumer_group)?;
    let UpdateConsumerOffsetHeader {
        consumer_group,
        topic,
        queue,
        commit_offset,
    } = header;
    let queue = u32::try_from(queue).map_err(|_| Failure::invalid(format!("queue {queue} of topic {topic}")))?;
    if commit_offset < 0 {
        return Err(Failure::invalid(format!("consumer offset {commit_offset}")));
    }
    offset::open_generation(replica, topic, queue)?;
    let update = Command::UpdateConsumerOffsets(vec![OffsetUpdate {
        group: consumer_group.to_owned(),
        topic: topic.to_owned(),
        queue,
        offset: commit_offset,
    }]);
    propose::one(replica, &update).await?;
    Ok(RemotingCommand::response(request, response::SUCCESS))
}
