//! Who leaves a consumer group without saying so, and who is told when a group changes.
//!
//! A client is connected to every node, so a closed connection alone means little: a member leaves when no living
//! node knows it any more. The node that sees the last connection close asks the others and then takes the client
//! out. What that misses (a node that died, a leave that met an election) the leader finds by comparing the
//! replicated members with what all living nodes see: gone for [`ABSENT_MAX`], a member is taken out. A killed node
//! therefore causes no rebalance by itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_api::remoting::codes::request;
use flotilla_api::remoting::frame::RemotingCommand;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::connection_table::{ConnectionTable, Departed};
use crate::forward::{self, Repeat};
use crate::node::{Broker, Owned};
use crate::router::Origin;
use crate::server::stopped;

/// How long a member may be seen by no living node before it is taken out.
pub const ABSENT_MAX: Duration = Duration::from_secs(45);
/// How often the leader compares.
const COMPARE_INTERVAL: Duration = Duration::from_secs(10);
/// How long another node may take to say whom it knows.
const ASK_MAX: Duration = Duration::from_secs(2);

/// Numbers of the requests this process sends to clients.
static NEXT_OPAQUE: AtomicI32 = AtomicI32::new(1);

/// Tells the group's clients connected to this node to look at the group again (NOTIFY_CONSUMER_IDS_CHANGED).
/// Called by apply on every node, so every client hears it over some connection.
pub fn notify_consumers(connections: &ConnectionTable, consumer_group: &str) {
    for connection in connections.consumers_of(consumer_group) {
        let mut notice = RemotingCommand::request(request::NOTIFY_CONSUMER_IDS_CHANGED).mark_one_way();
        notice.opaque = NEXT_OPAQUE.fetch_add(1, Ordering::Relaxed);
        notice.fields.push("consumerGroup", consumer_group);
        if !connection.push(notice) {
            debug!(peer = %connection.peer, consumer_group, "a connection takes no notification");
        }
    }
}

/// Tells nodes without a replica of the coordinator to look at the group again, too: clients may be connected there.
pub fn notify_other_nodes(broker: &Arc<Broker>, group: u16, consumer_group: String) {
    let with_replica = broker.metadata.read(|metadata| {
        let members = metadata.groups.get(&group).map(|group| &group.members);
        let nodes = members.into_iter().flatten().map(|replica| replica.node.clone());
        nodes.collect::<HashSet<_>>()
    });
    let others: Vec<_> = other_living_nodes(broker)
        .into_iter()
        .filter(|node| !with_replica.contains(node))
        .collect();
    // Without a runtime the process is going down.
    if let (false, Ok(runtime)) = (others.is_empty(), tokio::runtime::Handle::try_current()) {
        let broker = Arc::clone(broker);
        runtime.spawn(async move {
            for node in others {
                let call = forward::members_changed_call(&consumer_group);
                let deadline = (Instant::now() + ASK_MAX).into_std();
                if let Err(error) = broker.peers.call(&node, call, deadline).await {
                    debug!(node, %error, consumer_group, "tell a node that members changed");
                }
            }
        });
    }
}

/// Takes out the clients whose last connection to this node closed, unless another node has them.
pub fn clients_departed(broker: &Arc<Broker>, departed: Vec<Departed>) {
    let departed: Vec<_> = departed
        .into_iter()
        .filter(|client| !client.consumer_groups.is_empty())
        .collect();
    // Without a runtime the process is going down, and the sweep of another node takes over.
    if let (false, Ok(runtime)) = (departed.is_empty(), tokio::runtime::Handle::try_current()) {
        let broker = Arc::clone(broker);
        runtime.spawn(async move {
            for client in departed {
                client_departed(&broker, client).await;
            }
        });
    }
}

async fn client_departed(broker: &Arc<Broker>, client: Departed) {
    for group in &client.consumer_groups {
        leave_unless_announced(broker, &client.client_id, group).await;
    }
}

/// Takes a client out of a consumer group that it announced at this node, unless it does so still, here or elsewhere.
/// Whoever stops seeing it asks the others only then, so of several that do at the same time the last one takes it out.
pub async fn leave_unless_announced(broker: &Arc<Broker>, client_id: &str, consumer_group: &str) {
    if broker.connections.announces(client_id, consumer_group) {
        return;
    }
    let deadline = (Instant::now() + ASK_MAX).into_std();
    let call = forward::announces_call(&(client_id.to_owned(), consumer_group.to_owned()));
    let nodes = other_living_nodes(broker);
    let answers = nodes.iter().map(|node| broker.peers.call(node, call.clone(), deadline));
    let elsewhere = join_all(answers).await.into_iter();
    let elsewhere = elsewhere.flatten().any(|answer| answer.first() == Some(&1));
    // It may have come back in the meantime.
    if !elsewhere && !broker.connections.announces(client_id, consumer_group) {
        leave(broker, client_id, consumer_group).await;
    }
}

/// Another node asks with [`forward::announces_call`].
pub fn announced_here(broker: &Broker, member: Bytes) -> bool {
    let members = decode_members(member).unwrap_or_default();
    members
        .iter()
        .any(|(client_id, group)| broker.connections.announces(client_id, group))
}

/// Takes a client out of a consumer group; what cannot be done now the sweep does later.
async fn leave(broker: &Arc<Broker>, client_id: &str, consumer_group: &str) {
    let mut request = RemotingCommand::request(request::UNREGISTER_CLIENT);
    request.fields.push("clientID", client_id);
    request.fields.push("consumerGroup", consumer_group);
    let left = forward::at_owner(
        broker,
        Owned::Members(consumer_group),
        &request,
        &Origin::local(broker),
        Repeat::Harmful,
    )
    .await;
    match left {
        Ok(_) => debug!(client_id, consumer_group, "a client left with its connection"),
        Err(failure) => info!(
            client_id,
            consumer_group,
            ?failure,
            "a client that left could not be taken out yet"
        ),
    }
}

fn other_living_nodes(broker: &Broker) -> Vec<String> {
    let nodes = broker.peers.nodes().into_iter();
    nodes
        .filter(|node| node.living && !node.here)
        .map(|node| node.name)
        .collect()
}

/// Compares the members of the Raft groups led here with what the living nodes see, until `shutdown`.
pub async fn expire(broker: Arc<Broker>, mut shutdown: watch::Receiver<bool>) {
    let mut absent = Absent::default();
    let mut ticks = tokio::time::interval(COMPARE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopped(&mut shutdown) => return,
        }
        let led = broker.replicas.led();
        if led.is_empty() {
            absent = Absent::default();
            continue;
        }
        let Some(alive) = alive_anywhere(&broker).await else {
            continue;
        };
        // One whose slot moves meanwhile is watched anew where that arrives.
        let members = led.iter().flat_map(|replica| replica.state.members());
        for (client_id, group) in absent.compare(members.collect(), &alive, Instant::now()) {
            info!(
                client_id,
                consumer_group = group,
                "taking out a member that no node has seen"
            );
            leave(&broker, &client_id, &group).await;
        }
    }
}

/// Client id and consumer group.
pub type Membership = (String, String);

/// Members seen by no node, and since when.
#[derive(Debug, Default)]
struct Absent {
    since: HashMap<Membership, Instant>,
}

impl Absent {
    /// The members that have been absent too long.
    fn compare(&mut self, members: Vec<Membership>, alive: &HashSet<Membership>, now: Instant) -> Vec<Membership> {
        let mut since = HashMap::new();
        for member in members.into_iter().filter(|member| !alive.contains(member)) {
            let first = self.since.get(&member).copied().unwrap_or(now);
            since.insert(member, first);
        }
        self.since = since;
        let gone = self
            .since
            .iter()
            .filter(|(_, first)| now.duration_since(**first) >= ABSENT_MAX);
        gone.map(|(member, _)| member.clone()).collect()
    }
}

/// `None` when a living node did not say: then nobody can be called absent.
async fn alive_anywhere(broker: &Broker) -> Option<HashSet<Membership>> {
    let mut alive: HashSet<Membership> = broker.connections.alive_members().into_iter().collect();
    for node in other_living_nodes(broker) {
        let deadline = (Instant::now() + ASK_MAX).into_std();
        match broker.peers.call(&node, forward::alive_members_call(), deadline).await {
            Ok(answer) => alive.extend(decode_members(answer)?),
            Err(error) => {
                debug!(node, %error, "ask for members that are alive");
                return None;
            }
        }
    }
    Some(alive)
}

/// (client, consumer group) pairs as `length: 2 | client | length: 2 | group` each.
pub fn encode_members(members: &[Membership]) -> Bytes {
    let mut out = BytesMut::new();
    for (client_id, group) in members {
        for text in [client_id, group] {
            // Longer names are refused in heartbeats.
            let length = u16::try_from(text.len()).unwrap_or_default();
            out.put_u16(length);
            out.put_slice(&text.as_bytes()[..usize::from(length)]);
        }
    }
    out.freeze()
}

fn decode_members(mut bytes: Bytes) -> Option<Vec<Membership>> {
    let mut members = Vec::new();
    let text = |bytes: &mut Bytes| {
        let length = usize::from(bytes.try_get_u16().ok()?);
        (length <= bytes.len()).then(|| String::from_utf8(bytes.split_to(length).to_vec()).ok())?
    };
    while bytes.has_remaining() {
        members.push((text(&mut bytes)?, text(&mut bytes)?));
    }
    Some(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(client_id: &str) -> Membership {
        (client_id.to_owned(), "G".to_owned())
    }

    #[test]
    fn members_survive_their_bytes() {
        let members = vec![member("a"), member("b")];
        let bytes = encode_members(&members);
        assert_eq!(decode_members(bytes.clone()), Some(members));
        assert_eq!(decode_members(bytes.slice(..bytes.len() - 1)), None);
    }

    #[test]
    fn only_a_member_absent_all_the_time_is_gone() {
        let mut absent = Absent::default();
        let start = Instant::now();
        let members = || vec![member("stays"), member("gone"), member("back")];
        let alive = HashSet::from([member("stays")]);
        assert!(absent.compare(members(), &alive, start).is_empty());
        let with_back = HashSet::from([member("stays"), member("back")]);
        assert!(absent.compare(members(), &with_back, start + ABSENT_MAX / 2).is_empty());
        assert_eq!(absent.compare(members(), &alive, start + ABSENT_MAX), [member("gone")]);
    }
}
