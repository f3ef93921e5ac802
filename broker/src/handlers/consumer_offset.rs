//! QUERY_CONSUMER_OFFSET and UPDATE_CONSUMER_OFFSET, at the leader.

use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::offset::{OffsetResponse, QueryConsumerOffsetHeader, UpdateConsumerOffsetHeader};

use super::{offset, propose};
use crate::error::{Failure, check_group};
use crate::node::Broker;
use crate::state::{Command, OffsetUpdate, SubscriptionGroupConfig};

/// Answers with the stored consumer offset. Without one, a consumer group that is new on a young topic starts at 0,
/// whatever its client would choose; young means that nothing was removed from the queue yet. Code 22 makes the
/// client choose.
pub async fn query(broker: &Broker, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = QueryConsumerOffsetHeader::decode(&request.fields)?;
    check_group(header.consumer_group)?;
    broker.group.read_index().await?;
    let not_found = || {
        Failure::answer(
            response::QUERY_NOT_FOUND,
            "Not found, maybe this group consumer boot first",
        )
    };
    let queue = u32::try_from(header.queue).map_err(|_| not_found())?;
    let offset = match broker.state.consumer_offset(header.consumer_group, header.topic, queue) {
        Some(stored) => stored,
        None if header.set_zero_if_not_found == Some(false) => return Err(not_found()),
        None => {
            let known = broker.state.queue_bounds(header.topic, queue).is_some();
            if known && offset::bounds(broker, header.topic, queue).0 == 0 {
                0
            } else {
                return Err(not_found());
            }
        }
    };
    let mut answer = RemotingCommand::response(request, response::SUCCESS);
    OffsetResponse { offset }.encode(&mut answer.fields);
    Ok(answer)
}

/// Stores a consumer offset as given, also when it goes back. An unknown consumer group is created with the defaults.
pub async fn update(broker: &Broker, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
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
    let update = Command::UpdateConsumerOffsets(vec![OffsetUpdate {
        group: consumer_group.to_owned(),
        topic: topic.to_owned(),
        queue,
        offset: commit_offset,
    }]);
    if broker.state.subscription_group(consumer_group).is_some() {
        propose::one(broker, &update).await?;
    } else {
        let config = SubscriptionGroupConfig::new(consumer_group);
        propose::several(
            broker,
            &[
                Command::PutSubscriptionGroup {
                    config,
                    if_absent: true,
                },
                update,
            ],
        )
        .await?;
    }
    Ok(RemotingCommand::response(request, response::SUCCESS))
}
