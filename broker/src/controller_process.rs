//! One controller: its replica of the controllers' Raft group, the port where it answers, and an ingress that serves
//! clients like any node, by passing their requests on.
//!
//! Start: bind, lock the volume, answer other controllers, learn or make the founding, open the replica, then serve
//! clients once the cluster is known. Stop: hand leadership over, close.
//!
//! Holds: nothing takes part in Raft before the founding names this volume, or the leader gave it a new replica id.

mod drains;
mod duties;
mod founding;
mod rebalancer;
mod rebalancing;
mod replacements;
mod server;

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use flotilla_controller::feed::Feed;
use flotilla_controller::machine::Machine;
use flotilla_controller::metadata::{Metadata, Policy};
use flotilla_controller::protocol::Founding;
use flotilla_raft_store::disk::files::FileDisk;
use flotilla_raft_store::group::{Group, GroupConfig, Timing};
use flotilla_raft_store::identity::GroupIdentity;
use flotilla_raft_store::runtime::TokioRuntime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::config::{ControllerSettings, Member, Policy as NodePolicy, Ports, Settings};
use crate::controllers::Controllers;
use crate::http;
use crate::metrics::Metrics;
use crate::node::{BoundPorts, Broker, bind, metadata_copy, spawn_common};
use crate::peer::{PeerTransport, Peers, serve_peers};
use crate::server::serve_remoting;
use crate::tasks::Tasks;
use crate::volume::{Opened, Owner, Role, Volume};
use rebalancer::Rebalancer;
use server::Server;

/// The controllers' Raft group, with everything generic filled in.
pub type ControllerGroup = Group<TokioRuntime, FileDisk, PeerTransport, Machine>;

/// The name under which a volume remembers the controllers' Raft group.
const GROUP_NAME: &str = "controllers";
/// Which creation of the group: there is one a cluster.
const GROUP_CREATION: u64 = 1;
/// Commands are small: their log needs no large files.
const LOG_FILE_BYTES: u64 = 16 << 20;
/// Metadata changes are rare: a controller can take its time to be sure that another one is gone.
const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(100),
    election_min: Duration::from_millis(400),
    election_max: Duration::from_millis(800),
};
/// How long a node is waited for before clients are served, and how often one is looked for.
const HEARD_MAX: Duration = Duration::from_secs(2);
const HEARD_POLL: Duration = Duration::from_millis(20);
/// How long a planned stop waits for another leader.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// Bound sockets of a controller. One inside of another process has no ingress of its own.
#[derive(Debug)]
pub struct ControllerListeners {
    /// Controllers and nodes.
    pub controller: TcpListener,
    /// HTTP and the name-server protocol.
    pub ingress: Option<(TcpListener, TcpListener)>,
}

/// What to start.
#[derive(Debug)]
pub struct Options {
    /// Settings.
    pub settings: ControllerSettings,
    /// What the cluster does by itself.
    pub policy: Policy,
}

/// A running controller.
#[derive(Debug)]
pub struct ControllerProcess {
    name: String,
    ports: BoundPorts,
    group: ControllerGroup,
    feed: Arc<Feed>,
    stop_clients: watch::Sender<bool>,
    stop_all: watch::Sender<bool>,
    clients: Tasks,
    tasks: Tasks,
    /// Keeps the folder locked while the controller runs.
    _volume: Volume,
}

impl ControllerListeners {
    /// Binds the ports of `settings`; without `ingress` the controller port alone.
    pub fn bind(settings: &ControllerSettings, ingress: bool) -> anyhow::Result<Self> {
        let address: IpAddr = settings.listen.parse().context("listen")?;
        let ports = settings.ports;
        Ok(Self {
            controller: bind(address, ports.controller)?,
            ingress: match ingress {
                true => Some((bind(address, ports.http)?, bind(address, ports.name_server)?)),
                false => None,
            },
        })
    }

    /// Where the controller port is.
    pub fn controller_port(&self) -> anyhow::Result<u16> {
        Ok(self.controller.local_addr()?.port())
    }

    fn ports(&self) -> anyhow::Result<BoundPorts> {
        let port = |listener: &TcpListener| Ok::<_, std::io::Error>(listener.local_addr()?.port());
        let (http, name_server) = match &self.ingress {
            Some((http, name_server)) => (port(http)?, port(name_server)?),
            None => (0, 0),
        };
        Ok(BoundPorts {
            name_server,
            http,
            remoting: 0,
            vip: 0,
            grpc: None,
            peer: 0,
            controller: Some(port(&self.controller)?),
        })
    }
}

impl ControllerProcess {
    /// Starts a controller on bound sockets; returns once it takes part. Waits until the cluster is founded; dropping
    /// the future gives up and closes everything.
    pub async fn start(options: Options, listeners: ControllerListeners) -> anyhow::Result<Self> {
        let Options { settings, policy } = options;
        let ports = listeners.ports()?;
        let owner = Owner {
            role: Role::Controller,
            name: settings.node.clone(),
        };
        let mut volume = Volume::open(&settings.data, &owner)?;
        let metrics = Arc::new(Metrics::new());
        let members = members(&settings, &listeners)?;
        let addresses: Vec<String> = members.iter().map(|member| member.address.clone()).collect();
        let feed = Arc::new(Feed::new(Metadata::default()));
        // Among each other controllers name no cluster: they may not have one yet.
        let others = Controllers::new(&settings.node, &addresses, [0; 16], metrics.clone());
        let server = Arc::new(Server::new(&settings, &volume, members.clone(), feed.clone()));
        let (stop_clients, stop_all) = (watch::Sender::new(false), watch::Sender::new(false));
        let mut tasks = Tasks::default();
        tasks.spawn(serve_peers(
            listeners.controller,
            metrics.clone(),
            server.clone(),
            stop_all.subscribe(),
        ));
        let stage = Arc::new(OnceLock::new());
        let name_server = match listeners.ingress {
            Some((http, name_server)) => {
                tasks.spawn(http::serve(http, stage.clone(), stop_all.subscribe()));
                Some(name_server)
            }
            None => None,
        };

        let taking_part = founding::take_part(&mut volume, &settings, &members, &others).await?;
        let founding = taking_part.founding;
        server.set_founding(founding.clone());
        let peers = Peers::new(&settings.node, id_bytes(&founding)?, metrics.clone());
        peers.set_members(
            members
                .iter()
                .map(|member| (member.name.clone(), member.address.clone())),
        );
        let group = open(
            &mut volume,
            &settings,
            taking_part.replica,
            &founding,
            &peers,
            feed.clone(),
        )
        .await?;
        server.set_group(taking_part.replica, group.clone());
        if taking_part.founds {
            let founders = founding.members.iter();
            let founders = founders.map(|(name, member)| (member.replica, name.clone())).collect();
            group.initialize(founders).await.context("found the controllers")?;
        }
        let duties = duties::Duties {
            group: group.clone(),
            feed: feed.clone(),
            founding,
            policy,
            members: members.clone(),
            nodes: name_server.is_some().then(|| stage.clone()),
        };
        tasks.spawn(duties::keep_addresses(
            peers,
            feed.clone(),
            members,
            stop_all.subscribe(),
        ));
        tasks.spawn(duties.keep(stop_all.subscribe()));
        let mut process = Self {
            name: settings.node.clone(),
            ports,
            group,
            feed,
            stop_clients,
            stop_all,
            clients: Tasks::default(),
            tasks,
            _volume: volume,
        };
        if let Some(name_server) = name_server {
            process
                .serve_clients(&settings, name_server, stage, metrics, &addresses)
                .await?;
        }
        info!(node_id = process.name, "controller takes part");
        Ok(process)
    }

    /// Serves clients like a node without replicas.
    async fn serve_clients(
        &mut self,
        settings: &ControllerSettings,
        name_server: TcpListener,
        stage: http::Stage,
        metrics: Arc<Metrics>,
        addresses: &[String],
    ) -> anyhow::Result<()> {
        let mut epochs = self.feed.subscribe();
        epochs
            .wait_for(|epoch| *epoch > 0)
            .await
            .context("wait for the founding")?;
        let id = self.feed.read(|metadata| metadata.cluster.id.clone());
        let id = flotilla_controller::protocol::cluster_id_bytes(&id).context("the cluster's id is not one")?;
        let controllers = Controllers::new(&settings.node, addresses, id, metrics.clone());
        let (broker, appeared) = Broker::new(ingress_settings(settings), self.feed.clone(), controllers, metrics)?;
        let broker = Arc::new(broker);
        metadata_copy::set_peers(&broker);
        if stage.set(broker.clone()).is_err() {
            unreachable!("the broker of a process is made once");
        }
        spawn_common(&mut self.tasks, &broker, appeared, &self.stop_all);
        if settings.policy.auto_rebalance {
            let rebalancer = Rebalancer {
                group: self.group.clone(),
                broker: broker.clone(),
            };
            self.tasks.spawn(rebalancer.keep(self.stop_all.subscribe()));
        }
        // Until a node was heard of there is nowhere to send clients to.
        let heard = async {
            while !broker.peers.nodes().iter().any(|node| node.routable().is_some()) {
                tokio::time::sleep(HEARD_POLL).await;
            }
        };
        if self.feed.read(|metadata| !metadata.nodes.is_empty()) {
            // Perhaps none lives.
            let _ = timeout(HEARD_MAX, heard).await;
        }
        self.clients.spawn(serve_remoting(
            name_server,
            broker.clone(),
            self.stop_clients.subscribe(),
        ));
        Ok(())
    }

    /// Where it listens.
    pub fn ports(&self) -> BoundPorts {
        self.ports
    }

    /// What it knows of the cluster.
    pub fn metadata(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Returns when this process must end, with the reason: its replica closed itself, or something else without which
    /// it is of no use stopped working.
    pub async fn must_end(&self) -> String {
        let reason = tokio::select! {
            reason = self.group.closed() => format!("its replica closed itself: {reason}"),
            () = self.clients.broken() => "a client port panicked".to_owned(),
            () = self.tasks.broken() => "a task panicked".to_owned(),
        };
        format!("controller {}: {reason}", self.name)
    }

    /// Stops in order.
    pub async fn stop(mut self) {
        self.stop_clients.send_replace(true);
        self.clients.join("client ports").await;
        if timeout(CLOSE_MAX, self.group.shutdown()).await.is_err() {
            warn!("the controller's replica did not close in time");
        }
        self.stop_all.send_replace(true);
        self.tasks.join("tasks").await;
        info!(node_id = self.name, "controller stopped");
    }
}

fn id_bytes(founding: &Founding) -> anyhow::Result<[u8; 16]> {
    founding.id_bytes().context("the cluster's id is not one")
}

/// All controllers; alone, this one is where it listens.
fn members(settings: &ControllerSettings, listeners: &ControllerListeners) -> anyhow::Result<Vec<Member>> {
    let listed = settings.members();
    if !listed.is_empty() {
        return Ok(listed);
    }
    let host = ingress_settings(settings).advertised_host();
    let address = format!("{host}:{}", listeners.controller_port()?);
    Ok(vec![Member {
        name: settings.node.clone(),
        address,
    }])
}

/// The settings of the ingress: as a node would have them.
fn ingress_settings(settings: &ControllerSettings) -> Settings {
    Settings {
        node: settings.node.clone(),
        data: settings.data.clone(),
        listen: settings.listen.clone(),
        advertise: settings.advertise.clone(),
        ports: Ports {
            http: settings.ports.http,
            name_server: settings.ports.name_server,
            ..Ports::chosen_by_system()
        },
        policy: NodePolicy::default(),
        ..Settings::default()
    }
}

async fn open(
    volume: &mut Volume,
    settings: &ControllerSettings,
    replica: u64,
    founding: &Founding,
    peers: &Arc<Peers>,
    feed: Arc<Feed>,
) -> anyhow::Result<ControllerGroup> {
    let opened = Opened {
        creation: GROUP_CREATION,
        replica,
    };
    let folder = volume.open_group(GROUP_NAME, Path::new("controller"), opened)?;
    let identity = identity(id_bytes(founding)?);
    let state_folder = folder.join("state");
    std::fs::create_dir_all(&state_folder).context("create the state's folder")?;
    let machine = Machine::open(&state_folder, feed).context("open the state")?;
    let config = GroupConfig {
        identity,
        replica,
        node: settings.node.clone(),
        folder,
        timing: TIMING,
        log_file_bytes: LOG_FILE_BYTES,
        flush_sync: true,
    };
    let transport = PeerTransport::new(peers.clone(), identity);
    Group::open(config, FileDisk::default(), transport, machine)
        .await
        .context("open the log")
}

/// The controllers' Raft group of a cluster.
fn identity(cluster: [u8; 16]) -> GroupIdentity {
    GroupIdentity {
        cluster,
        group: 0,
        creation: GROUP_CREATION,
    }
}
