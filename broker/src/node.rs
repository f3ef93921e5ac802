//! One node: its sockets, its volume, its replica of the Raft group, and the order in which they start and stop.
//!
//! Start: bind every listener, lock the volume, answer peers and `/healthz`, learn or make the founding, open the
//! replica, serve clients, be ready. Stop: leave the routes, hand leadership over, let clients go, answer what
//! waits, close the replica, close the sockets.
//!
//! Holds: nothing takes part in Raft before the founding names this volume. A crash at any step is a restart.
//! Not here: deciding which groups exist; this version has one, with the members of the configuration.

mod address;
mod events;
mod founding;
mod listeners;
mod peering;
mod retention;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use flotilla_raft_store::disk::files::FileDisk;
use flotilla_raft_store::group::{Group, GroupConfig};
use flotilla_raft_store::identity::GroupIdentity;
use flotilla_raft_store::runtime::TokioRuntime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

pub use founding::FoundingError;
pub use listeners::{BoundPorts, Listeners};

use crate::config::{Flush, Member, Settings};
use crate::connection_table::ConnectionTable;
use crate::http;
use crate::incoming::{Budget, REQUEST_BYTES_MAX};
use crate::long_poll::ParkedPulls;
use crate::machine::{Machine, MachineSettings, StateReader};
use crate::membership;
use crate::metrics::Metrics;
use crate::peer::{DigestInfo, NodeInfo, PeerTransport, Peers, ReplicaInfo, serve_peers};
use crate::server::serve_remoting;
use crate::volume::{Founding, Owner, Volume, cluster_id};

/// The Raft group of a broker, with everything generic filled in.
pub type BrokerGroup = Group<TokioRuntime, FileDisk, PeerTransport, Machine>;

/// The only Raft group's name.
pub const GROUP_NAME: &str = "g1";
/// Its number, shown in positions.
pub const GROUP_NUMBER: u16 = 1;
/// Which creation of the group it is: the first.
const GROUP_CREATION: u64 = 1;

/// How often the node's own address is looked up and its figures renewed.
const INTRODUCE_INTERVAL: Duration = Duration::from_secs(2);
/// How long the founder waits for others before the first election, and how often it asks.
const FIRST_ELECTION_WAIT_MAX: Duration = Duration::from_secs(1);
const FIRST_ELECTION_POLL: Duration = Duration::from_millis(5);
/// How long tasks are given to end once they were told to.
const STOP_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a planned stop waits for another leader.
const HAND_OVER_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often a planned stop looks whether all clients have left.
const LEAVE_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// What every request handler of a node stands on.
#[derive(Debug)]
pub struct Broker {
    /// This node's stable name.
    pub node: String,
    /// The cluster's name.
    pub cluster: String,
    /// Settings of this node.
    pub settings: Settings,
    /// Name of the Raft group.
    pub group_name: String,
    /// Its number in positions.
    pub group_number: u16,
    /// This node's replica.
    pub group: BrokerGroup,
    /// The replica's applied state.
    pub state: StateReader,
    /// All members.
    pub peers: Arc<Peers>,
    /// Client connections of this node.
    pub connections: Arc<ConnectionTable>,
    /// Pulls waiting for a message.
    pub parked: Arc<ParkedPulls>,
    /// Room for long requests.
    pub request_budget: Budget,
    /// What this node counts.
    pub metrics: Arc<Metrics>,
    /// Set while this node's disk is too full for more messages.
    pub disk_full: AtomicBool,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    broker: Arc<Broker>,
    ports: BoundPorts,
    leaving: watch::Sender<bool>,
    stop_clients: watch::Sender<bool>,
    stop_all: watch::Sender<bool>,
    clients: JoinSet<()>,
    tasks: JoinSet<()>,
    /// Keeps the folder locked while the node runs.
    _volume: Volume,
}

/// The Raft group of the cluster called `cluster`.
pub fn group_identity(cluster: &str) -> GroupIdentity {
    GroupIdentity {
        cluster: cluster_id(cluster),
        group: u32::from(GROUP_NUMBER),
        creation: GROUP_CREATION,
    }
}

/// This node's replica as the others are told.
pub fn replica_info(broker: &Broker) -> ReplicaInfo {
    let status = broker.group.status();
    ReplicaInfo {
        leader: status.leader,
        term: status.term,
        last_index: status.last.map_or(0, |id| id.index),
        flushed_index: status.flushed.map_or(0, |id| id.index),
        committed_index: status.committed.map_or(0, |id| id.index),
        applied_index: status.applied.map_or(0, |id| id.index),
        log_offset_end: status.log_offsets.1,
        closed: status.closed,
        digest: last_digest(broker),
    }
}

/// The last digest this replica computed.
pub fn last_digest(broker: &Broker) -> Option<DigestInfo> {
    let digest = broker.state.last_digest()?;
    Some(DigestInfo {
        nonce: digest.nonce,
        index: digest.log_id.index,
        value: digest.value,
    })
}

impl Node {
    /// Starts a node on bound sockets; returns once it takes clients. Until the group is founded it waits for the
    /// other members; dropping the future gives up and closes everything.
    pub async fn start(settings: Settings, members: Vec<Member>, listeners: Listeners) -> anyhow::Result<Self> {
        let ports = listeners.ports().context("read the bound ports")?;
        let owner = Owner {
            cluster: settings.cluster.name.clone(),
            node: settings.node.clone(),
            replica: settings.replica_id(),
        };
        let mut volume = Volume::open(&settings.data, &owner)?;
        let identity = group_identity(&settings.cluster.name);
        let metrics = Arc::new(Metrics::new());
        let peers = Peers::new(&settings.node, identity, &members, metrics.clone());
        let stage = Arc::new(OnceLock::new());
        let (leaving, stop_clients, stop_all) = (
            watch::Sender::new(false),
            watch::Sender::new(false),
            watch::Sender::new(false),
        );
        if !settings.controllers.is_empty() {
            warn!("controllers are configured, but this version places replicas by cluster.members alone");
        }

        let mut introduction = Introduction {
            peers: peers.clone(),
            host: settings.advertised_host(),
            ports,
            info: NodeInfo {
                node: settings.node.clone(),
                replica: owner.replica,
                volume: volume.id().to_owned(),
                founding: volume.founding().cloned(),
                ..NodeInfo::default()
            },
        };
        introduction.renew().await;
        let mut tasks = JoinSet::new();
        let peering = Arc::new(peering::Peering {
            peers: peers.clone(),
            broker: stage.clone(),
        });
        tasks.spawn(serve_peers(
            listeners.peer,
            peers.clone(),
            peering,
            stop_all.subscribe(),
        ));
        tasks.spawn(peers.clone().probe(stop_all.subscribe()));
        tasks.spawn(http::serve(listeners.http, stage.clone(), stop_all.subscribe()));

        let founding = founding::take_part(&mut volume, &settings, &peers).await?;
        introduction.info.founding = Some(founding.clone());
        introduction.renew().await;

        let broker = open(settings, &mut volume, identity, peers, metrics).await?;
        if stage.set(broker.clone()).is_err() {
            unreachable!("the broker of a node is made once");
        }
        found(&broker, &founding).await?;

        let mut clients = JoinSet::new();
        for listener in [listeners.remoting, listeners.vip, listeners.name_server] {
            clients.spawn(serve_remoting(listener, broker.clone(), stop_clients.subscribe()));
        }
        introduction.info.ready = true;
        introduction.renew().await;
        tasks.spawn(introduction.keep(leaving.subscribe(), stop_all.subscribe()));
        tasks.spawn(retention::keep(broker.clone(), stop_all.subscribe()));
        tasks.spawn(membership::expire(broker.clone(), stop_all.subscribe()));
        info!(
            node_id = broker.node,
            remoting = ports.remoting,
            http = ports.http,
            "takes clients"
        );
        Ok(Self {
            broker,
            ports,
            leaving,
            stop_clients,
            stop_all,
            clients,
            tasks,
            _volume: volume,
        })
    }

    /// What its handlers stand on.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Where it listens.
    pub fn ports(&self) -> BoundPorts {
        self.ports
    }

    /// Returns when the replica closed itself, with the reason.
    pub async fn closed(&self) -> String {
        self.broker.group.closed().await
    }

    /// Stops in order. `hurry` cuts the wait for clients to leave short.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        info!(node_id = self.broker.node, "leaves the routes");
        self.leaving.send_replace(true);
        if self.broker.peers.nodes().len() > 1 {
            let patience = Duration::from_secs(self.broker.settings.policy.leave_seconds);
            tokio::select! {
                () = self.clients_gone() => {}
                () = tokio::time::sleep(patience) => {}
                () = hurry => {}
            }
        }
        if self.broker.group.is_leader() && self.broker.peers.nodes().len() > 1 {
            match timeout(HAND_OVER_WAIT_MAX, self.broker.group.transfer_leader(None)).await {
                Ok(Ok(())) => info!(node_id = self.broker.node, "handed leadership over"),
                Ok(Err(error)) => warn!(%error, "hand leadership over"),
                Err(_) => warn!("nobody took leadership over in time"),
            }
        }
        self.stop_clients.send_replace(true);
        join_all(&mut self.clients, "client ports").await;
        if timeout(STOP_WAIT_MAX, self.broker.group.shutdown()).await.is_err() {
            warn!("the replica did not close in time");
        }
        self.stop_all.send_replace(true);
        join_all(&mut self.tasks, "tasks").await;
        info!(node_id = self.broker.node, "stopped");
    }

    async fn clients_gone(&self) {
        let mut checks = tokio::time::interval(LEAVE_CHECK_INTERVAL);
        while !self.broker.connections.is_empty() {
            checks.tick().await;
        }
    }
}

async fn join_all(tasks: &mut JoinSet<()>, what: &str) {
    let joined = async { while tasks.join_next().await.is_some() {} };
    if timeout(STOP_WAIT_MAX, joined).await.is_err() {
        warn!(what, "did not stop in time");
        tasks.abort_all();
    }
}

/// Opens state and log of this node's replica.
async fn open(
    settings: Settings,
    volume: &mut Volume,
    identity: GroupIdentity,
    peers: Arc<Peers>,
    metrics: Arc<Metrics>,
) -> anyhow::Result<Arc<Broker>> {
    let folder = volume.open_group_folder(GROUP_NAME)?;
    let connections = Arc::new(ConnectionTable::new(settings.policy.connections_max));
    let parked = Arc::new(ParkedPulls::new(settings.policy.parked_pulls_max));
    let events = Arc::new(events::NodeEvents {
        node: settings.node.clone(),
        parked: parked.clone(),
        connections: connections.clone(),
    });
    let state_folder = folder.join("state");
    let (machine, state) =
        tokio::task::spawn_blocking(move || Machine::open(&state_folder, MachineSettings::default(), events))
            .await
            .context("open the state")?
            .context("open the state")?;
    let config = GroupConfig {
        identity,
        replica: settings.replica_id(),
        node: settings.node.clone(),
        folder,
        timing: settings.timing(),
        log_file_bytes: settings.log.file_bytes,
        flush_sync: settings.log.flush == Flush::Sync,
    };
    let transport = PeerTransport::new(peers.clone());
    let group = Group::open(config, FileDisk, transport, machine)
        .await
        .context("open the log")?;
    Ok(Arc::new(Broker {
        node: settings.node.clone(),
        cluster: settings.cluster.name.clone(),
        group_name: GROUP_NAME.to_owned(),
        group_number: GROUP_NUMBER,
        settings,
        group,
        state,
        peers,
        connections,
        parked,
        request_budget: Budget::new(REQUEST_BYTES_MAX),
        metrics,
        disk_full: AtomicBool::new(false),
    }))
}

/// The founder initialises the group; a restart after a crash in between does it again, which changes nothing.
async fn found(broker: &Broker, founding: &Founding) -> anyhow::Result<()> {
    if broker.node != broker.settings.founder() || !broker.group.status().members.is_empty() {
        return Ok(());
    }
    majority_takes_part(broker).await;
    let members = founding
        .iter()
        .map(|(node, member)| (member.replica, node.clone()))
        .collect();
    broker
        .group
        .initialize(members)
        .await
        .context("initialise the raft group")
}

/// Waits a moment until so many others take part that the first election can succeed: one that comes too early costs
/// an election timeout.
async fn majority_takes_part(broker: &Broker) {
    let deadline = Instant::now() + FIRST_ELECTION_WAIT_MAX;
    let others: Vec<String> = broker
        .peers
        .nodes()
        .into_iter()
        .filter(|node| !node.here)
        .map(|node| node.name)
        .collect();
    while Instant::now() < deadline {
        let asked = others.iter().map(|node| broker.peers.ask_info(node, deadline));
        let answers = futures_util::future::join_all(asked).await;
        let taking_part = answers.iter().flatten().filter(|info| info.replica_status.is_some());
        if taking_part.count() >= others.len().div_ceil(2) {
            return;
        }
        tokio::time::sleep(FIRST_ELECTION_POLL).await;
    }
}

/// Keeps what this node says about itself up to date.
struct Introduction {
    peers: Arc<Peers>,
    host: String,
    ports: BoundPorts,
    info: NodeInfo,
}

impl Introduction {
    /// Looks its own address up again; an address that cannot be looked up stays as it was.
    async fn renew(&mut self) {
        if let Some(remoting) = address::resolve(&self.host, self.ports.remoting).await {
            let at = |port| Some(std::net::SocketAddr::new(remoting.ip(), port));
            self.info.remoting = Some(remoting);
            self.info.http = at(self.ports.http);
            self.info.name_server = at(self.ports.name_server);
        }
        self.peers.set_local(self.info.clone());
    }

    async fn keep(mut self, mut leaving: watch::Receiver<bool>, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTRODUCE_INTERVAL) => {}
                Ok(()) = leaving.changed() => self.info.leaving = *leaving.borrow_and_update(),
                _ = stop.wait_for(|stop| *stop) => return,
            }
            self.renew().await;
        }
    }
}
