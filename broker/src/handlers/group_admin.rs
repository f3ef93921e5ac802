//! Subscription groups as tools see and change them.

use std::sync::Arc;

use flotilla_api::remoting::bodies::{self, GroupRetryPolicy, SubscriptionGroupTable};
use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::admin::{DeleteGroupHeader, GroupPageHeader, GroupPageResponse};
use flotilla_api::remoting::headers::consumer::GroupHeader;
use flotilla_controller::state::{Command as ControllerCommand, Refusal};
use flotilla_controller::subscription_group::SubscriptionGroupConfig;
use futures_util::future::join_all;

use super::propose;
use super::topic_admin::page;
use crate::controllers::NoController;
use crate::error::{Failure, check_group};
use crate::forward::{self, Repeat};
use crate::node::{Broker, Owned};
use crate::replica::Replica;
use crate::router::Origin;
use crate::state::Command;
use crate::topic_changes;

/// UPDATE_AND_CREATE_SUBSCRIPTIONGROUP.
pub async fn put(broker: &Broker, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let config = stored(bodies::SubscriptionGroupConfig::from_bytes(&request.body)?);
    check_group(&config.name)?;
    let command = ControllerCommand::PutSubscriptionGroups {
        configs: vec![config],
        if_absent: false,
    };
    let reply = broker.controllers.propose(command).await?;
    topic_changes::epoch_reached(broker, reply.epoch()).await;
    Ok(RemotingCommand::response(request, response::SUCCESS))
}

/// DELETE_SUBSCRIPTIONGROUP: every Raft group forgets it, then its record goes. A group that does not exist is deleted
/// already.
pub async fn delete(
    broker: &Arc<Broker>,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let header = DeleteGroupHeader::decode(&request.fields)?;
    let groups = broker.groups().into_iter();
    let forgotten = groups.map(|(number, _)| {
        // Forgetting twice is forgetting once.
        forward::at_owner(broker, Owned::Group(number), request, origin, Repeat::Harmless)
    });
    for forgotten in join_all(forgotten).await {
        forgotten?;
    }
    let command = ControllerCommand::DeleteSubscriptionGroup {
        name: header.consumer_group.to_owned(),
    };
    match broker.controllers.propose(command).await {
        Ok(reply) => drop(topic_changes::epoch_reached(broker, reply.epoch()).await),
        Err(NoController::Refused(Refusal::GroupNotExist)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(RemotingCommand::response(request, response::SUCCESS))
}

/// The part of [`delete`] of one Raft group, at its leader.
pub async fn forget(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = DeleteGroupHeader::decode(&request.fields)?;
    let command = Command::ForgetSubscriptionGroup {
        group: header.consumer_group.to_owned(),
        clean_offsets: header.clean_offset.unwrap_or_default(),
    };
    propose::one(replica, &command).await?;
    Ok(RemotingCommand::response(request, response::SUCCESS))
}

/// GET_SUBSCRIPTIONGROUP_CONFIG; code 26 if there is no such group.
pub fn group_config(broker: &Broker, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let group = GroupHeader::decode(&request.fields)?.consumer_group;
    let config = broker.subscription_group(group).ok_or_else(|| {
        Failure::answer(
            response::SUBSCRIPTION_GROUP_NOT_EXIST,
            format!("No group in this broker: {group}"),
        )
    })?;
    Ok(RemotingCommand::response(request, response::SUCCESS).with_body(shown(&config).to_bytes()))
}

/// GET_ALL_SUBSCRIPTIONGROUP_CONFIG, in pages if asked so.
pub fn all_groups(broker: &Broker, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = GroupPageHeader::decode(&request.fields)?;
    let groups: Vec<_> = broker
        .metadata
        .read(|metadata| metadata.subscription_groups.values().cloned().collect());
    let total = i32::try_from(groups.len()).unwrap_or(i32::MAX);
    let (skip, take) = page(header.group_sequence, header.max_groups);
    let shown = groups
        .into_iter()
        .skip(skip)
        .take(take)
        .map(|group| (group.name.clone(), shown(&group)));
    let body = SubscriptionGroupTable {
        groups: shown.collect(),
        ..SubscriptionGroupTable::default()
    };
    let mut answer = RemotingCommand::response(request, response::SUCCESS);
    GroupPageResponse {
        total_groups: Some(total),
    }
    .encode(&mut answer.fields);
    Ok(answer.with_body(body.to_bytes()))
}

fn stored(asked: bodies::SubscriptionGroupConfig) -> SubscriptionGroupConfig {
    let default_policy = asked.group_retry_policy == GroupRetryPolicy::default();
    SubscriptionGroupConfig {
        consume_enable: asked.consume_enable,
        consume_from_min_enable: asked.consume_from_min_enable,
        consume_broadcast_enable: asked.consume_broadcast_enable,
        consume_message_orderly: asked.consume_message_orderly,
        retry_queues: u32::try_from(asked.retry_queue_nums).unwrap_or_default(),
        retry_times_max: asked.retry_max_times,
        broker_id: asked.broker_id,
        which_broker_when_consume_slowly: asked.which_broker_when_consume_slowly,
        notify_membership_changes: asked.notify_consumer_ids_changed_enable,
        consume_timeout_minutes: asked.consume_timeout_minute,
        sys_flag: asked.group_sys_flag,
        retry_policy: (!default_policy)
            .then(|| serde_json::to_string(&asked.group_retry_policy).ok())
            .flatten(),
        attributes: asked.attributes,
        ..SubscriptionGroupConfig::new(asked.group_name)
    }
}

fn shown(stored: &SubscriptionGroupConfig) -> bodies::SubscriptionGroupConfig {
    let policy = stored
        .retry_policy
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok());
    bodies::SubscriptionGroupConfig {
        attributes: stored.attributes.clone(),
        broker_id: stored.broker_id,
        consume_broadcast_enable: stored.consume_broadcast_enable,
        consume_enable: stored.consume_enable,
        consume_from_min_enable: stored.consume_from_min_enable,
        consume_message_orderly: stored.consume_message_orderly,
        consume_timeout_minute: stored.consume_timeout_minutes,
        group_name: stored.name.clone(),
        group_retry_policy: policy.unwrap_or_default(),
        group_sys_flag: stored.sys_flag,
        notify_consumer_ids_changed_enable: stored.notify_membership_changes,
        retry_max_times: stored.retry_times_max,
        retry_queue_nums: i32::try_from(stored.retry_queues).unwrap_or(i32::MAX),
        which_broker_when_consume_slowly: stored.which_broker_when_consume_slowly,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tool_sets_it_sees_again() {
        let body = br#"{"groupName":"G","consumeEnable":false,"retryMaxTimes":3,"retryQueueNums":2,
            "groupRetryPolicy":{"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":1}}}"#;
        let asked = bodies::SubscriptionGroupConfig::from_bytes(body).unwrap();
        assert_eq!(shown(&stored(asked.clone())), asked);
        let plain = bodies::SubscriptionGroupConfig {
            group_name: "G".to_owned(),
            ..Default::default()
        };
        assert_eq!(stored(plain.clone()), SubscriptionGroupConfig::new("G"));
        assert_eq!(shown(&stored(plain.clone())), plain);
    }
}
