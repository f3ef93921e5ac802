//! Consumer groups: who is in them, and how far they are.

use std::collections::BTreeSet;

use flotilla_api::http::{ConsumerGroup, ConsumerMember, ConsumerQueue};
use flotilla_api::remoting::language;
use serde_json::Value;

use super::json::{document, items};
use super::problem::Problem;
use crate::node::Broker;

/// `GET /v1/consumer-groups`.
pub fn list(broker: &Broker) -> Value {
    items(
        names(broker)
            .iter()
            .map(|name| document(&describe(broker, name)))
            .collect(),
    )
}

/// `GET /v1/consumer-groups/{group}`.
pub fn one(broker: &Broker, consumer_group: &str) -> Result<Value, Problem> {
    if !names(broker).contains(consumer_group) {
        return Err(Problem::not_found(format!(
            "consumer group {consumer_group} does not exist"
        )));
    }
    Ok(document(&describe(broker, consumer_group)))
}

/// Every group with settings or members.
pub fn names(broker: &Broker) -> BTreeSet<String> {
    let configured = broker.state.subscription_groups().into_iter().map(|group| group.name);
    configured.chain(broker.state.active_consumer_groups()).collect()
}

fn describe(broker: &Broker, name: &str) -> ConsumerGroup {
    let members = broker.state.members(name).into_iter().map(|member| ConsumerMember {
        client_id: member.client_id,
        node: member.node,
        language: language::name(member.language).to_owned(),
        version: member.version,
    });
    ConsumerGroup {
        name: name.to_owned(),
        members: members.collect(),
        queues: progress(broker, name),
    }
}

/// How far a consumer group is in every queue it has read or subscribes to.
pub fn progress(broker: &Broker, consumer_group: &str) -> Vec<ConsumerQueue> {
    let read = broker.state.consumer_offsets_of(consumer_group).into_iter();
    let mut queues: BTreeSet<(String, u32)> = read.map(|(topic, queue, _)| (topic, queue)).collect();
    for subscription in broker.state.subscriptions(consumer_group) {
        let count = broker
            .state
            .topic(&subscription.topic)
            .map_or(0, |config| config.queues);
        queues.extend((0..count).map(|queue| (subscription.topic.clone(), queue)));
    }
    let progress = queues.into_iter().filter_map(|(topic, queue)| {
        let bounds = broker.state.queue_bounds(&topic, queue)?;
        let consumer_offset = broker.state.consumer_offset(consumer_group, &topic, queue);
        let from = consumer_offset.unwrap_or(bounds.min_offset).max(bounds.min_offset);
        let lag = (bounds.max_offset - from).max(0);
        Some(ConsumerQueue {
            topic,
            queue,
            consumer_offset,
            max_offset: bounds.max_offset,
            lag,
        })
    });
    progress.collect()
}
