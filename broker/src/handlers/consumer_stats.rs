//! Consumer and producer groups as tools see them: progress, connections, subscriptions.

use std::sync::Arc;

use flotilla_api::names;
use flotilla_api::remoting::bodies::{
    Connection, ConsumeFromWhere, ConsumeStats, ConsumeType, ConsumerConnection, GroupList, MessageModel,
    OffsetWrapper, ProducerConnection, SubscriptionData,
};
use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::consumer::{ConsumeStatsHeader, ConsumerGroupHeader, ProducerGroupHeader};
use flotilla_api::remoting::headers::topic::TopicHeader;
use flotilla_api::remoting::language;
use flotilla_api::tag::TagFilter;

use super::topic_admin::message_queue;
use crate::coordinators;
use crate::error::Failure;
use crate::forward::{self, Repeat};
use crate::node::{Broker, Owned};
use crate::replica::Replica;
use crate::router::Origin;
use crate::state::{ConsumerGroup, Subscription};

/// GET_CONSUME_STATS: how far a consumer group is behind, for the queues led here. Tools ask every node and put the
/// answers together.
pub async fn consume_stats(broker: &Arc<Broker>, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = ConsumeStatsHeader::decode(&request.fields)?;
    let mut stats = ConsumeStats::default();
    for replica in broker.replicas.led() {
        replica.group.read_index().await?;
        for topic in topics_of(&replica, &header) {
            for queue in replica.state.queues_of(&topic) {
                if let Some(progress) = progress(&replica, header.consumer_group, &topic, queue)? {
                    stats.offsets.push((message_queue(broker, &topic, queue), progress));
                }
            }
        }
    }
    Ok(RemotingCommand::response(request, response::SUCCESS).with_body(stats.to_bytes()))
}

fn topics_of(replica: &Replica, header: &ConsumeStatsHeader<'_>) -> Vec<String> {
    let listed = header
        .topic_list
        .unwrap_or_default()
        .split(';')
        .filter(|topic| !topic.is_empty());
    let mut topics: Vec<String> = listed.map(str::to_owned).collect();
    if topics.is_empty() {
        topics.extend(header.topic.filter(|topic| !topic.is_empty()).map(str::to_owned));
    }
    if topics.is_empty() {
        topics.extend(
            replica
                .state
                .consumer_offsets_of(header.consumer_group)
                .into_iter()
                .map(|(topic, ..)| topic),
        );
        topics.dedup();
    }
    topics
}

fn progress(replica: &Replica, group: &str, topic: &str, queue: u32) -> Result<Option<OffsetWrapper>, Failure> {
    let Some(bounds) = replica.state.queue_bounds(topic, queue) else {
        return Ok(None);
    };
    let consumer_offset = replica.state.consumer_offset(group, topic, queue).unwrap_or_default();
    let last = match consumer_offset - 1 {
        last if last >= bounds.min_offset => replica
            .state
            .locate(topic, queue, last, 1)
            .map_err(|error| Failure::storage(&error))?,
        _ => Vec::new(),
    };
    Ok(Some(OffsetWrapper {
        broker_offset: bounds.max_offset,
        consumer_offset,
        last_timestamp: last.first().map_or(0, |message| message.store_time),
        pull_offset: consumer_offset,
    }))
}

/// GET_CONSUMER_CONNECTION_LIST. A group that is not online as far as this node knows is looked up at its coordinator.
pub async fn consumer_connections(
    broker: &Arc<Broker>,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let group = ConsumerGroupHeader::decode(&request.fields)?.consumer_group;
    let known = coordinators::here(broker, group, |replica| {
        replica.state.consumer_group(group, |known| known.cloned())
    });
    match known.flatten() {
        Some(known) => Ok(online(broker, request, known)),
        None => forward::at_owner(broker, Owned::Members(group), request, origin, Repeat::Harmless).await,
    }
}

/// The coordinator's word on the members of a group: code 206 if it has none.
pub async fn confirm_online(
    broker: &Broker,
    replica: &Replica,
    request: &RemotingCommand,
) -> Result<RemotingCommand, Failure> {
    let group = ConsumerGroupHeader::decode(&request.fields)?.consumer_group;
    replica.group.read_index().await?;
    let known = coordinators::at_leader(replica, group, |known| known.cloned())?;
    let known = known.ok_or_else(|| {
        let remark = format!("the consumer group[{group}] not online");
        Failure::answer(response::CONSUMER_NOT_ONLINE, remark)
    })?;
    Ok(online(broker, request, known))
}

fn online(broker: &Broker, request: &RemotingCommand, group: ConsumerGroup) -> RemotingCommand {
    let connections = group.members.into_values().map(|member| Connection {
        // Only the node a client is connected to knows its address.
        client_addr: broker.connections.address_of(&member.client_id).map_or_else(
            || member.client_id.split('@').next().unwrap_or_default().to_owned(),
            |address| address.to_string(),
        ),
        client_id: member.client_id,
        language: language::name(member.language).to_owned(),
        version: member.version,
    });
    let shape = group.shape;
    let body = ConsumerConnection {
        connections: connections.collect(),
        consume_from_where: ConsumeFromWhere::from_ordinal(shape.consume_from_where).unwrap_or_default(),
        consume_type: ConsumeType::from_ordinal(shape.consume_type).unwrap_or_default(),
        message_model: MessageModel::from_ordinal(shape.message_model).unwrap_or_default(),
        subscriptions: group
            .subscriptions
            .into_iter()
            .map(|(topic, subscription)| (topic, shown(subscription)))
            .collect(),
    };
    RemotingCommand::response(request, response::SUCCESS).with_body(body.to_bytes())
}

fn shown(subscription: Subscription) -> SubscriptionData {
    let tags = subscription
        .expression
        .split("||")
        .map(str::trim)
        .filter(|tag| !tag.is_empty() && *tag != "*");
    SubscriptionData {
        class_filter_mode: false,
        code_set: match TagFilter::parse(&subscription.expression) {
            Ok(TagFilter::Hashes(hashes)) => hashes,
            Ok(TagFilter::All) | Err(_) => Vec::new(),
        },
        tags_set: tags.map(str::to_owned).collect(),
        expression_type: subscription.expression_type,
        sub_string: subscription.expression,
        sub_version: subscription.version,
        topic: subscription.topic,
    }
}

/// GET_PRODUCER_CONNECTION_LIST: the producers connected to this node. Producers connect to every node.
pub fn producer_connections(broker: &Broker, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let group = ProducerGroupHeader::decode(&request.fields)?.producer_group;
    let producers = broker.connections.producers_of(group);
    if producers.is_empty() {
        return Err(Failure::answer(
            response::SYSTEM_ERROR,
            format!("the producer group[{group}] not exist"),
        ));
    }
    let connections = producers.into_iter().map(|producer| Connection {
        client_addr: producer.peer.to_string(),
        client_id: producer.client_id,
        language: language::name(producer.language).to_owned(),
        version: producer.version,
    });
    let body = ProducerConnection {
        connections: connections.collect(),
    };
    Ok(RemotingCommand::response(request, response::SUCCESS).with_body(body.to_bytes()))
}

/// QUERY_TOPIC_CONSUME_BY_WHO: groups with offsets in a topic, and those that subscribe to it now, as far as they are
/// led here. Tools ask every node.
pub fn groups_of_topic(broker: &Broker, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let topic = TopicHeader::decode(&request.fields)?.topic;
    let mut groups = Vec::new();
    for replica in broker.replicas.led() {
        groups.extend(replica.state.groups_of_topic(topic));
        groups.extend(replica.state.subscribers_of(topic));
    }
    groups.retain(|group| !names::is_system_group(group));
    groups.sort_unstable();
    groups.dedup();
    Ok(RemotingCommand::response(request, response::SUCCESS).with_body(GroupList { groups }.to_bytes()))
}
