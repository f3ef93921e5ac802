//! HEART_BEAT and UNREGISTER_CLIENT: who takes part in which group.
//!
//! The node that gets a heartbeat notes the connection it came over. Only a heartbeat that would change the
//! replicated membership goes to the leaders of its consumer groups' coordinator slots, and is answered after its change
//! is applied there; all others end here. Each slot gets a part of its own, which follows the slot when that moves.
//! A client beats at every node of its route, so the leader keeps the node a member is recorded with while that node
//! lives: otherwise each beat would move the member and make the whole group share out its queues again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flotilla_api::names;
use flotilla_api::remoting::bodies::{ConsumerData, HeartbeatData, MessageModel};
use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::consumer::{HeartbeatResponse, UnregisterClientHeader};
use flotilla_controller::coordinator_slots::slot;
use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::propose;
use crate::connection_table::SeenClient;
use crate::consumer_groups;
use crate::coordinators;
use crate::error::Failure;
use crate::forward::{self, Repeat};
use crate::membership;
use crate::node::{Broker, Owned};
use crate::replica::Replica;
use crate::router::Origin;
use crate::state::{Command, GroupShape, Join, JoinGroup, Refusal, Subscription};

/// Longest client id.
const CLIENT_ID_BYTES_MAX: usize = 255;

/// Changes of the membership under way in this process; further ones wait, with their connections.
static UNDER_WAY: Semaphore = Semaphore::const_new(4_096);

/// A heartbeat at the node the client is connected to.
pub async fn heartbeat(
    broker: &Arc<Broker>,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let data = decode(request)?;
    // The first heartbeat of a connection is the leader's to judge: this copy may not show yet that the client's last
    // connection took it out of its groups.
    let known = match &origin.connection {
        Some(connection) => {
            let noted = broker.connections.heartbeat(connection, seen(&data, request));
            noted.ok_or_else(|| Failure::answer(response::SYSTEM_BUSY, "too many clients on one connection"))?
        }
        None => false,
    };
    for consumer in &data.consumers {
        let clustering = consumer.message_model == MessageModel::Clustering;
        consumer_groups::used(broker, &consumer.group_name, clustering).await;
    }
    let parts = by_slot(&data).into_iter();
    let changed = parts.filter(|part| {
        let changes = |replica: &Replica| changes(replica, &join_of(broker, replica, &part.told, request, origin));
        // Where nobody here knows, the leader does.
        !known || coordinators::here(broker, &part.any_group, changes).unwrap_or(true)
    });
    let changed: Vec<_> = changed
        .map(|part| (part.any_group, request.clone().with_body(part.told.to_bytes())))
        .collect();
    if changed.is_empty() {
        return Ok(answer(request));
    }
    let joined = to_the_end(join_all_groups(Arc::clone(broker), data, changed, origin.clone())).await;
    joined.map(|refused| refused.unwrap_or_else(|| answer(request)))
}

/// Runs what changes the membership in a task of its own: with its connection a request ends wherever it is, and a
/// client that is taken in must be taken out again.
async fn to_the_end<T: Send + 'static>(change: impl Future<Output = T> + Send + 'static) -> T {
    let turn = UNDER_WAY.acquire().await.expect("never closed");
    let change = tokio::spawn(async move {
        let _turn = turn;
        change.await
    });
    match change.await {
        Ok(outcome) => outcome,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime goes down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Takes a client into its groups, a request for each coordinator slot with one of its consumer groups; the first answer
/// that is no success.
async fn join_all_groups(
    broker: Arc<Broker>,
    data: HeartbeatData,
    parts: Vec<(String, RemotingCommand)>,
    origin: Origin,
) -> Result<Option<RemotingCommand>, Failure> {
    let joined = parts
        .iter()
        .map(|(group, part)| forward::at_owner(&broker, Owned::Members(group), part, &origin, Repeat::Harmless));
    let joined = join_all(joined).await;
    // The client may have left while its heartbeat was on the way: then it was let in again behind its leaving.
    if origin.connection.is_some() {
        for consumer in &data.consumers {
            membership::leave_unless_announced(&broker, &data.client_id, &consumer.group_name).await;
        }
    }
    for joined in joined {
        let answer = joined?;
        if answer.code != response::SUCCESS {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

/// What the coordinator of one slot is told of a heartbeat.
struct Part {
    /// One of the slot's consumer groups in it.
    any_group: String,
    /// The heartbeat with these alone.
    told: HeartbeatData,
}

fn by_slot(data: &HeartbeatData) -> Vec<Part> {
    let mut parts: BTreeMap<u32, Part> = BTreeMap::new();
    for consumer in &data.consumers {
        let part = parts.entry(slot(&consumer.group_name)).or_insert_with(|| Part {
            any_group: consumer.group_name.clone(),
            told: HeartbeatData {
                client_id: data.client_id.clone(),
                fingerprint: data.fingerprint,
                without_subscriptions: data.without_subscriptions,
                ..HeartbeatData::default()
            },
        });
        part.told.consumers.push(consumer.clone());
    }
    parts.into_values().collect()
}

/// A heartbeat that changes something, at the leader.
pub async fn join(
    broker: &Broker,
    replica: &Replica,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let data = decode(request)?;
    let Some(any_group) = data.consumers.first().map(|consumer| consumer.group_name.as_str()) else {
        return Ok(answer(request));
    };
    let join = join_of(broker, replica, &data, request, origin);
    let changes = || changes(replica, &join).map_err(|refusal| coordinators::not_here(any_group, refusal));
    if !changes()? {
        // What this node has applied already reflects the heartbeat; whether it still leads must be certain.
        replica.group.read_index().await?;
        if !changes()? {
            return Ok(answer(request));
        }
    }
    propose::one(replica, &Command::Join(join)).await?;
    Ok(answer(request))
}

fn decode(request: &RemotingCommand) -> Result<HeartbeatData, Failure> {
    let mut data = HeartbeatData::from_bytes(&request.body)?;
    if data.client_id.is_empty() || data.client_id.len() > CLIENT_ID_BYTES_MAX {
        return Err(Failure::malformed("clientID is missing or too long"));
    }
    // As in the official broker a group that cannot exist is left out silently.
    data.consumers
        .retain(|consumer| names::validate_group(&consumer.group_name).is_ok());
    data.producers
        .retain(|producer| names::validate_group(&producer.group_name).is_ok());
    Ok(data)
}

/// Fingerprints of the second version of heartbeats are not kept: clients then always send what they subscribe to.
fn answer(request: &RemotingCommand) -> RemotingCommand {
    let mut answer = RemotingCommand::response(request, response::SUCCESS);
    let header = HeartbeatResponse {
        supports_heartbeat_v2: Some(true),
        subscription_changed: Some(true),
    };
    header.encode(&mut answer.fields);
    answer
}

fn seen(data: &HeartbeatData, request: &RemotingCommand) -> SeenClient {
    SeenClient {
        client_id: data.client_id.clone(),
        language: request.language,
        version: request.version,
        consumer_groups: data
            .consumers
            .iter()
            .map(|consumer| consumer.group_name.clone())
            .collect(),
        producer_groups: data
            .producers
            .iter()
            .map(|producer| producer.group_name.clone())
            .collect(),
        subscriptions: (!data.without_subscriptions).then(|| {
            let groups = data.consumers.iter();
            groups
                .map(|consumer| (consumer.group_name.clone(), subscriptions(consumer)))
                .collect()
        }),
    }
}

/// The replicated part of a heartbeat: consumer groups. Producers are known to the nodes they are connected to.
fn join_of(
    broker: &Broker,
    replica: &Replica,
    data: &HeartbeatData,
    request: &RemotingCommand,
    origin: &Origin,
) -> Join {
    Join {
        client_id: data.client_id.clone(),
        node: recorded_node(broker, replica, data).unwrap_or_else(|| origin.node(broker).to_owned()),
        language: request.language,
        version: request.version,
        groups: data
            .consumers
            .iter()
            .map(|consumer| join_group(consumer, data.without_subscriptions))
            .collect(),
        now_ms: propose::now_ms(),
    }
}

/// The node this client is a member with already, if that node lives.
fn recorded_node(broker: &Broker, replica: &Replica, data: &HeartbeatData) -> Option<String> {
    let mut nodes = data.consumers.iter().filter_map(|consumer| {
        let group = &consumer.group_name;
        let node = replica.state.consumer_group(group, |known| {
            let member = known?.members.get(&data.client_id)?;
            Some(member.node.clone())
        });
        node.ok().flatten()
    });
    let node = nodes.next()?;
    broker.peers.is_living(&node).then_some(node)
}

fn subscriptions(consumer: &ConsumerData) -> Vec<Subscription> {
    let subscriptions = consumer
        .subscriptions
        .iter()
        .filter(|subscription| names::validate_topic(&subscription.topic).is_ok());
    let subscriptions = subscriptions.map(|subscription| Subscription {
        topic: subscription.topic.clone(),
        expression_type: subscription.expression_type.clone(),
        expression: subscription.sub_string.clone(),
        version: subscription.sub_version,
    });
    subscriptions.collect()
}

fn join_group(consumer: &ConsumerData, without_subscriptions: bool) -> JoinGroup {
    JoinGroup {
        group: consumer.group_name.clone(),
        shape: GroupShape {
            consume_type: consumer.consume_type.ordinal(),
            message_model: consumer.message_model.ordinal(),
            consume_from_where: consumer.consume_from_where.ordinal(),
        },
        subscriptions: (!without_subscriptions).then(|| subscriptions(consumer)),
    }
}

fn changes(replica: &Replica, join: &Join) -> Result<bool, Refusal> {
    replica.state.would_change(join)
}

/// A client says goodbye at the node it is connected to. It says so at every node; the first one takes it out.
pub async fn unregister(
    broker: &Arc<Broker>,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let header = UnregisterClientHeader::decode(&request.fields)?;
    let producer_group = header.producer_group.filter(|group| !group.is_empty());
    let consumer_group = header.consumer_group.filter(|group| !group.is_empty());
    broker
        .connections
        .unregister(header.client_id, producer_group, consumer_group);
    if let Some(group) = consumer_group {
        let (broker, group) = (Arc::clone(broker), group.to_owned());
        let (request, origin) = (request.clone(), origin.clone());
        return to_the_end(async move {
            forward::at_owner(&broker, Owned::Members(&group), &request, &origin, Repeat::Harmful).await
        })
        .await;
    }
    Ok(RemotingCommand::response(request, response::SUCCESS))
}

/// Takes a client out of a consumer group, at the leader, whatever node it is recorded with.
pub async fn leave(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = UnregisterClientHeader::decode(&request.fields)?;
    let answer = RemotingCommand::response(request, response::SUCCESS);
    let Some(group) = header.consumer_group.filter(|group| !group.is_empty()) else {
        return Ok(answer);
    };
    replica.group.read_index().await?;
    let member = coordinators::at_leader(replica, group, |known| known?.members.get(header.client_id).cloned())?;
    if let Some(member) = member {
        let command = Command::Leave {
            client_id: member.client_id,
            node: member.node,
            groups: BTreeSet::from([group.to_owned()]).into_iter().collect(),
        };
        propose::one(replica, &command).await?;
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"clientID":"10.0.0.1@1#2","consumerDataSet":[
        {"consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","consumeType":"CONSUME_PASSIVELY","groupName":"CG",
         "messageModel":"CLUSTERING","subscriptionDataSet":[
            {"subString":"TagA||TagB","subVersion":17,"topic":"T"},{"subString":"*","subVersion":17,"topic":"bad topic"}]},
        {"groupName":"bad group"}],"producerDataSet":[{"groupName":"PG"}]}"#;

    #[test]
    fn what_cannot_exist_is_left_out() {
        let data = decode(&RemotingCommand::request(34).with_body(BODY.as_bytes())).unwrap();
        assert_eq!(data.consumers.len(), 1);
        let group = join_group(&data.consumers[0], false);
        assert_eq!(
            group.shape,
            GroupShape {
                consume_type: 1,
                message_model: 1,
                consume_from_where: 4
            }
        );
        let subscriptions = group.subscriptions.unwrap();
        assert_eq!(subscriptions.len(), 1);
        assert_eq!((subscriptions[0].topic.as_str(), subscriptions[0].version), ("T", 17));
        assert_eq!(subscriptions[0].expression_type, "TAG");
        assert!(join_group(&data.consumers[0], true).subscriptions.is_none());
    }

    #[test]
    fn a_heartbeat_without_client_is_refused() {
        assert!(decode(&RemotingCommand::request(34).with_body(&b"{}"[..])).is_err());
        assert!(decode(&RemotingCommand::request(34)).is_err());
    }

    #[test]
    fn the_answer_keeps_clients_sending_their_subscriptions() {
        let answer = answer(&RemotingCommand::request(34));
        assert_eq!(answer.fields.get("IS_SUPPORT_HEART_BEAT_V2"), Some("true"));
        assert_eq!(answer.fields.get("IS_SUB_CHANGE"), Some("true"));
        assert!(answer.version >= 232, "clients read the broker's version from here");
    }
}
