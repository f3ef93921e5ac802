//! All members as one node sees them: where they are, whether they live, and one connection for calls to each.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_raft_store::identity::GroupIdentity;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tracing::{debug, info};

use super::calls::{CallConnection, CallKind};
use super::handshake::Channel;
use super::stream::dial;
use super::{LIVING_FOR, PROBE_INTERVAL};
use crate::config::Member;
use crate::metrics::Metrics;
use crate::volume::Founding;

/// A failed dial is not tried again for this long, so that waiting callers do not queue up behind each other.
const REDIAL_AFTER: Duration = Duration::from_millis(100);
/// How long a probe waits.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a node says about itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub node: String,
    /// Its replica's Raft id.
    pub replica: u64,
    /// Its volume's id.
    pub volume: String,
    /// With whom the group was founded, once it knows.
    pub founding: Option<Founding>,
    /// It takes clients.
    pub ready: bool,
    /// It is about to stop: leave it out of routes.
    pub leaving: bool,
    /// Where clients reach it now.
    pub remoting: Option<SocketAddr>,
    /// Its admin API.
    pub http: Option<SocketAddr>,
    /// Its name-server port.
    pub name_server: Option<SocketAddr>,
    /// Its replica of the Raft group.
    pub replica_status: Option<ReplicaInfo>,
}

/// A replica as its node sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// Node name of the leader it knows.
    pub leader: Option<String>,
    /// Its term.
    pub term: u64,
    /// Last log index in its log.
    pub last_index: u64,
    /// Last log index flushed.
    pub flushed_index: u64,
    /// Last log index known committed.
    pub committed_index: u64,
    /// Last log index applied.
    pub applied_index: u64,
    /// One past the last log offset.
    pub log_offset_end: u64,
    /// Why it stopped, if it did.
    pub closed: Option<String>,
    /// Its last digest.
    pub digest: Option<DigestInfo>,
}

/// The digest a replica computed at a digest point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestInfo {
    /// The digest point's nonce.
    pub nonce: u64,
    /// Its log index.
    pub index: u64,
    /// Digest of the state at it.
    pub value: u64,
}

/// A node as seen from here.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// It is this node.
    pub here: bool,
    /// It answered within [`LIVING_FOR`].
    pub living: bool,
    /// The configured `host:port` of its peer port.
    pub peer_address: String,
    /// What it said last, if it ever did.
    pub info: Option<NodeInfo>,
}

impl NodeView {
    /// Where clients reach it, if they should be sent there: living, ready and not about to stop.
    pub fn routable(&self) -> Option<SocketAddr> {
        let info = self
            .info
            .as_ref()
            .filter(|info| self.living && info.ready && !info.leaving)?;
        info.remoting
    }
}

/// The members of the cluster, and connections to them. One per node.
#[derive(Debug)]
pub struct Peers {
    local: String,
    identity: GroupIdentity,
    nodes: BTreeMap<String, Node>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Node {
    address: String,
    seen: RwLock<Option<(NodeInfo, Instant)>>,
    current: RwLock<Option<Arc<CallConnection>>>,
    dialling: Mutex<Option<Instant>>,
}

impl Peers {
    /// The table of `members`, seen from `local`.
    pub fn new(local: &str, identity: GroupIdentity, members: &[Member], metrics: Arc<Metrics>) -> Arc<Self> {
        let node = |member: &Member| Node {
            address: member.address.clone(),
            seen: RwLock::default(),
            current: RwLock::default(),
            dialling: Mutex::default(),
        };
        let nodes = members
            .iter()
            .map(|member| (member.name.clone(), node(member)))
            .collect();
        Arc::new(Self {
            local: local.to_owned(),
            identity,
            nodes,
            metrics,
        })
    }

    /// This node's name.
    pub fn local_name(&self) -> &str {
        &self.local
    }

    /// The Raft group all members belong to.
    pub fn identity(&self) -> GroupIdentity {
        self.identity
    }

    /// Where the peer port of the member `name` is configured to be.
    pub fn address(&self, name: &str) -> Option<&str> {
        self.nodes.get(name).map(|node| node.address.as_str())
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Says what this node is now.
    pub fn set_local(&self, info: NodeInfo) {
        self.saw(&self.local, info);
    }

    /// All members, sorted by name.
    pub fn nodes(&self) -> Vec<NodeView> {
        self.nodes.iter().map(|(name, node)| self.view(name, node)).collect()
    }

    /// One member.
    pub fn node(&self, name: &str) -> Option<NodeView> {
        self.nodes.get(name).map(|node| self.view(name, node))
    }

    /// Where clients reach a node, if that is known.
    pub fn remoting_address(&self, name: &str) -> Option<SocketAddr> {
        self.nodes.get(name)?.seen.read().as_ref()?.0.remoting
    }

    fn view(&self, name: &str, node: &Node) -> NodeView {
        let here = name == self.local;
        let seen = node.seen.read();
        NodeView {
            name: name.to_owned(),
            here,
            living: here || seen.as_ref().is_some_and(|(_, at)| at.elapsed() < LIVING_FOR),
            peer_address: node.address.clone(),
            info: seen.as_ref().map(|(info, _)| info.clone()),
        }
    }

    fn saw(&self, name: &str, info: NodeInfo) {
        let Some(node) = self.nodes.get(name) else { return };
        let before = node.seen.write().replace((info.clone(), Instant::now()));
        let before = before.map(|(info, at)| (info.ready, info.leaving, at.elapsed() < LIVING_FOR));
        if name != self.local && before != Some((info.ready, info.leaving, true)) {
            info!(
                node = name,
                ready = info.ready,
                leaving = info.leaving,
                "heard from a node"
            );
        }
    }

    /// Passes a client's request to `node` and waits for the answer. See [`super::surely_not_sent`] for what a
    /// failure leaves open.
    pub async fn call(&self, node: &str, request: Bytes, deadline: Instant) -> io::Result<Bytes> {
        self.call_kind(node, CallKind::Forward, request, deadline).await
    }

    /// Asks `node` for something.
    pub async fn call_kind(&self, node: &str, kind: CallKind, request: Bytes, deadline: Instant) -> io::Result<Bytes> {
        let connection = self.connection(node, deadline).await?;
        connection.call(kind, request, deadline).await
    }

    /// Asks `node` who and how it is, and remembers the answer.
    pub async fn ask_info(&self, node: &str, deadline: Instant) -> io::Result<NodeInfo> {
        let bytes = self.call_kind(node, CallKind::Info, Bytes::new(), deadline).await?;
        let info: NodeInfo = serde_json::from_slice(&bytes)?;
        self.saw(node, info.clone());
        Ok(info)
    }

    async fn connection(&self, name: &str, deadline: Instant) -> io::Result<Arc<CallConnection>> {
        let not_sent = |why: String| io::Error::new(io::ErrorKind::NotConnected, why);
        let node = self
            .nodes
            .get(name)
            .ok_or_else(|| not_sent(format!("{name} is not a member")))?;
        if let Some(connection) = node.usable() {
            return Ok(connection);
        }
        let until = tokio::time::Instant::from_std(deadline);
        let dialled = tokio::time::timeout_at(until, async {
            let mut failed_at = node.dialling.lock().await;
            if let Some(connection) = node.usable() {
                return Ok(connection);
            }
            if failed_at.is_some_and(|at| at.elapsed() < REDIAL_AFTER) {
                return Err(not_sent(format!("{name} could not be reached a moment ago")));
            }
            match dial(self, name, Channel::Calls).await {
                Ok((sender, receiver)) => {
                    let connection = CallConnection::start(sender, receiver);
                    *node.current.write() = Some(connection.clone());
                    *failed_at = None;
                    Ok(connection)
                }
                Err(error) => {
                    *failed_at = Some(Instant::now());
                    Err(not_sent(format!("connect to {name}: {error}")))
                }
            }
        });
        dialled
            .await
            .unwrap_or_else(|_| Err(not_sent(format!("connect to {name}: no time left"))))
    }

    /// Asks all other members, over and over, until `stop` says true.
    pub async fn probe(self: Arc<Self>, stop: watch::Receiver<bool>) {
        let mut probes = tokio::task::JoinSet::new();
        for name in self.nodes.keys().filter(|name| **name != self.local) {
            let (peers, name, mut stop) = (self.clone(), name.clone(), stop.clone());
            probes.spawn(async move {
                let mut living = false;
                let mut ticks = tokio::time::interval(PROBE_INTERVAL);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                loop {
                    tokio::select! {
                        _ = ticks.tick() => {}
                        _ = stop.wait_for(|stop| *stop) => return,
                    }
                    let asked = peers.ask_info(&name, Instant::now() + PROBE_TIMEOUT).await;
                    let lives = peers.node(&name).is_some_and(|view| view.living);
                    if let Err(error) = asked {
                        debug!(node = name, %error, "no answer to a probe");
                        if living && !lives {
                            info!(node = name, %error, "a node stopped answering");
                        }
                    }
                    living = lives;
                }
            });
        }
        while probes.join_next().await.is_some() {}
    }
}

impl Node {
    fn usable(&self) -> Option<Arc<CallConnection>> {
        self.current.read().clone().filter(|connection| !connection.is_broken())
    }
}
