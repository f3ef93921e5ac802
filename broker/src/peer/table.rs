//! All nodes as one process sees them: where they are, whether they live, and one connection for calls to each.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_raft_store::identity::GroupIdentity;
use flotilla_raft_store::transport::Purpose;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{debug, info};

use super::calls::{CallKind, Placed};
use super::handshake::{Channel, Hello};
use super::line::Line;
use super::stream::{PeerReceiver, PeerSender, dial};
use super::{LIVING_FOR, PROBE_INTERVAL};
use crate::metrics::Metrics;

/// How long a probe waits.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a node says about itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub node: String,
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
    /// The epoch of its copy of the metadata.
    pub epoch: u64,
    /// Its replicas, by the number of the Raft group.
    pub replicas: BTreeMap<u16, ReplicaInfo>,
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
    /// The `host:port` of its peer port.
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

/// The members of a cluster, and connections to them. One per process and kind of member.
#[derive(Debug)]
pub struct Peers {
    local: String,
    cluster: [u8; 16],
    nodes: RwLock<BTreeMap<String, Arc<Node>>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Node {
    address: RwLock<String>,
    seen: RwLock<Option<(NodeInfo, Instant)>>,
    line: RwLock<Arc<Line>>,
}

/// The identity in the handshake of calls, which are for no Raft group in particular.
pub fn calls_identity(cluster: [u8; 16]) -> GroupIdentity {
    GroupIdentity {
        cluster,
        group: 0,
        creation: 0,
    }
}

impl Peers {
    /// A table without members, seen from `local`.
    pub fn new(local: &str, cluster: [u8; 16], metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            local: local.to_owned(),
            cluster,
            nodes: RwLock::default(),
            metrics,
        })
    }

    /// Sets who the members are: names, and `host:port` of their peer ports. What is known of those that stay is kept.
    pub fn set_members(&self, members: impl IntoIterator<Item = (String, String)>) {
        let mut nodes = self.nodes.write();
        let mut before = std::mem::take(&mut *nodes);
        for (name, address) in members {
            let node = match before.remove(&name) {
                Some(node) => {
                    let mut known = node.address.write();
                    if *known != address {
                        // Whatever is still open leads to where the member was.
                        *node.line.write() = Arc::default();
                        *known = address;
                    }
                    drop(known);
                    node
                }
                None => Arc::new(Node {
                    address: RwLock::new(address),
                    seen: RwLock::default(),
                    line: RwLock::default(),
                }),
            };
            nodes.insert(name, node);
        }
        // What this process says of itself outlives its absence from the list.
        if let Some(local) = before.remove(&self.local) {
            nodes.entry(self.local.clone()).or_insert(local);
        }
    }

    /// The cluster's id.
    pub fn cluster(&self) -> [u8; 16] {
        self.cluster
    }

    /// Where the peer port of the member `name` is.
    pub fn address(&self, name: &str) -> Option<String> {
        Some(self.nodes.read().get(name)?.address.read().clone())
    }

    fn get(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.read().get(name).cloned()
    }

    /// Says what this node is now.
    pub fn set_local(&self, info: NodeInfo) {
        let local = self
            .nodes
            .write()
            .entry(self.local.clone())
            .or_insert_with(|| {
                Arc::new(Node {
                    address: RwLock::default(),
                    seen: RwLock::default(),
                    line: RwLock::default(),
                })
            })
            .clone();
        *local.seen.write() = Some((info, Instant::now()));
    }

    /// All members, sorted by name.
    pub fn nodes(&self) -> Vec<NodeView> {
        self.nodes
            .read()
            .iter()
            .map(|(name, node)| self.view(name, node))
            .collect()
    }

    /// One member.
    pub fn node(&self, name: &str) -> Option<NodeView> {
        self.get(name).map(|node| self.view(name, &node))
    }

    /// True while the member answers.
    pub fn is_living(&self, name: &str) -> bool {
        name == self.local
            || self.get(name).is_some_and(|node| {
                let seen = node.seen.read();
                seen.as_ref().is_some_and(|(_, at)| at.elapsed() < LIVING_FOR)
            })
    }

    /// Where clients reach a node, if that is known.
    pub fn remoting_address(&self, name: &str) -> Option<SocketAddr> {
        self.get(name)?.seen.read().as_ref()?.0.remoting
    }

    /// What the members that answer say about their replicas of a Raft group.
    pub fn replicas(&self, group: u16) -> Vec<(String, ReplicaInfo)> {
        let nodes = self.nodes.read();
        let said = nodes.iter().filter_map(|(name, node)| {
            let seen = node.seen.read();
            let (info, at) = seen.as_ref()?;
            (at.elapsed() < LIVING_FOR).then(|| Some((name.clone(), info.replicas.get(&group)?.clone())))?
        });
        said.collect()
    }

    fn view(&self, name: &str, node: &Node) -> NodeView {
        let here = name == self.local;
        let seen = node.seen.read();
        NodeView {
            name: name.to_owned(),
            here,
            living: here || seen.as_ref().is_some_and(|(_, at)| at.elapsed() < LIVING_FOR),
            peer_address: node.address.read().clone(),
            info: seen.as_ref().map(|(info, _)| info.clone()),
        }
    }

    fn saw(&self, name: &str, info: NodeInfo) {
        let Some(node) = self.get(name) else { return };
        let (ready, leaving) = (info.ready, info.leaving);
        let before = node.seen.write().replace((info, Instant::now()));
        let before = before.map(|(info, at)| (info.ready, info.leaving, at.elapsed() < LIVING_FOR));
        if before != Some((ready, leaving, true)) {
            info!(node = name, ready, leaving, "heard from a node");
        }
    }

    /// Passes a client's request to `node` and waits for the answer. See [`super::surely_not_sent`] for what a
    /// failure leaves open.
    pub async fn call(&self, node: &str, request: Bytes, deadline: Instant) -> io::Result<Bytes> {
        self.call_kind(node, CallKind::Forward, request, deadline).await
    }

    /// Asks `node` for something.
    pub async fn call_kind(&self, name: &str, kind: CallKind, request: Bytes, deadline: Instant) -> io::Result<Bytes> {
        let placed = self.place(name, kind, request, deadline).await?;
        placed.answer().await
    }

    /// Puts a question to `name` on its way, behind those placed before it. Its answer is waited for apart.
    pub async fn place(&self, name: &str, kind: CallKind, request: Bytes, deadline: Instant) -> io::Result<Placed> {
        let Some(node) = self.get(name) else {
            let why = format!("{name} is not a member");
            return Err(io::Error::new(io::ErrorKind::NotConnected, why));
        };
        let hello = || self.hello(name, Channel::Calls, calls_identity(self.cluster), 0);
        let (address, line) = (node.address.read().clone(), node.line.read().clone());
        line.place(&address, hello, &self.metrics, (kind, request), deadline)
            .await
    }

    fn hello(&self, to: &str, channel: Channel, identity: GroupIdentity, replica: u64) -> Hello {
        Hello {
            channel,
            identity,
            replica,
            from: self.local.clone(),
            to: to.to_owned(),
        }
    }

    /// Dials a replica of a Raft group on the member `name`.
    pub(super) async fn dial(
        &self,
        name: &str,
        purpose: Purpose,
        identity: GroupIdentity,
        replica: u64,
    ) -> io::Result<(PeerSender, PeerReceiver)> {
        let address = self.address(name).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("{name} is not a member of this cluster"),
            )
        })?;
        let hello = self.hello(name, Channel::Raft(purpose), identity, replica);
        dial(&address, &hello, &self.metrics).await
    }

    /// Asks `node` who and how it is, and remembers the answer.
    pub async fn ask_info(&self, node: &str, deadline: Instant) -> io::Result<NodeInfo> {
        let bytes = self.call_kind(node, CallKind::Info, Bytes::new(), deadline).await?;
        let info: NodeInfo = serde_json::from_slice(&bytes)?;
        self.saw(node, info.clone());
        Ok(info)
    }

    /// Asks all other members, over and over, until `stop` says true. Tells `heard` of every answer.
    pub async fn probe(
        self: Arc<Self>,
        heard: impl Fn(&NodeInfo) + Clone + Send + 'static,
        stop: watch::Receiver<bool>,
    ) {
        let mut probed = BTreeMap::new();
        let mut probes = tokio::task::JoinSet::new();
        let mut ticks = tokio::time::interval(PROBE_INTERVAL);
        let mut stopped = stop.clone();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            let members: Vec<String> = self
                .nodes
                .read()
                .keys()
                .filter(|name| **name != self.local)
                .cloned()
                .collect();
            probed.retain(|name, task: &mut tokio::task::AbortHandle| {
                let stays = members.contains(name);
                if !stays {
                    task.abort();
                }
                stays
            });
            for name in members {
                probed.entry(name).or_insert_with_key(|name| {
                    probes.spawn(self.clone().probe_one(name.clone(), heard.clone(), stop.clone()))
                });
            }
            while let Some(ended) = probes.try_join_next() {
                // A member that nobody probes any more would look dead for ever.
                if let Err(error) = ended
                    && let Ok(panic) = error.try_into_panic()
                {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }

    async fn probe_one(self: Arc<Self>, name: String, heard: impl Fn(&NodeInfo), mut stop: watch::Receiver<bool>) {
        let mut living = false;
        let mut ticks = tokio::time::interval(PROBE_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let asked = self.ask_info(&name, Instant::now() + PROBE_TIMEOUT).await;
            let lives = self.is_living(&name);
            match asked {
                Ok(info) => heard(&info),
                Err(error) => {
                    debug!(node = name, %error, "no answer to a probe");
                    if living && !lives {
                        info!(node = name, %error, "a node stopped answering");
                    }
                }
            }
            living = lives;
        }
    }
}
