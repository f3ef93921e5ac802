//! One node: its sockets, its volume, its replicas, and the order in which they start and stop.
//!
//! Start: bind every listener, lock the volume, learn the cluster from the copy on disk or from the controllers, serve
//! clients by passing their requests on, open the replicas, be ready. Stop: leave the routes, hand leaderships over,
//! let clients go, answer what waits, close the replicas, close the sockets.
//!
//! Holds: nothing takes part in Raft under an id that the controller did not give this volume. A crash at any step is
//! a restart. Not here: deciding which groups exist and where, which is the controller's.

mod address;
mod broker;
mod events;
mod introduction;
mod leader_duties;
mod listeners;
mod member_change;
pub mod metadata_copy;
mod peering;
mod replica_keeper;
mod retention;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flotilla_controller::feed::Feed;
use flotilla_controller::protocol::{Request, Response, Status, cluster_id_bytes};
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

pub use broker::{Broker, Owned};
pub use listeners::{BoundPorts, Listeners, bind};
pub use peering::Peering;

use crate::config::Settings;
use crate::consumer_groups::{self, AppearedGroups};
use crate::controllers::Controllers;
use crate::http;
use crate::membership;
use crate::metrics::Metrics;
use crate::peer::{NodeInfo, serve_peers};
use crate::server::serve_remoting;
use crate::tasks::Tasks;
use crate::volume::{ClusterLabel, Owner, Role, Volume};
use introduction::Introduction;
use metadata_copy::Registration;
use replica_keeper::ReplicaKeeper;

/// How long a planned stop waits for other leaders.
const HAND_OVER_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a node with a copy of the metadata waits for controllers to say which cluster they are of.
const OTHER_CLUSTER_WAIT_MAX: Duration = Duration::from_secs(1);
/// How often a planned stop looks whether all clients have left.
const LEAVE_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A running node.
#[derive(Debug)]
pub struct Node {
    broker: Arc<Broker>,
    ports: BoundPorts,
    leaving: watch::Sender<bool>,
    stop_clients: watch::Sender<bool>,
    stop_replicas: watch::Sender<bool>,
    stop_all: watch::Sender<bool>,
    displaced: watch::Sender<bool>,
    clients: Tasks,
    replicas: Tasks,
    tasks: Tasks,
}

impl Node {
    /// Starts a node on bound sockets; returns once it takes clients and has opened its replicas. A node without a
    /// copy of the metadata waits for the controllers; dropping the future gives up and closes everything.
    pub async fn start(settings: Settings, listeners: Listeners) -> anyhow::Result<Self> {
        let ports = listeners.ports().context("read the bound ports")?;
        let owner = Owner {
            role: Role::Node,
            name: settings.node.clone(),
        };
        let mut volume = Volume::open(&settings.data, &owner)?;
        let metrics = Arc::new(Metrics::new());
        let stage = Arc::new(OnceLock::new());
        let switch = || watch::Sender::new(false);
        let (leaving, stop_clients, stop_replicas, stop_all) = (switch(), switch(), switch(), switch());
        let mut tasks = Tasks::default();
        let peering = Arc::new(Peering {
            node: settings.node.clone(),
            broker: stage.clone(),
        });
        tasks.spawn(serve_peers(
            listeners.peer,
            metrics.clone(),
            peering,
            stop_all.subscribe(),
        ));
        tasks.spawn(http::serve(listeners.http, stage.clone(), stop_all.subscribe()));

        let registration = Registration {
            name: settings.node.clone(),
            volume: volume.id().to_owned(),
            zone: settings.zone.clone(),
            peer: format!("{}:{}", settings.advertised_host(), ports.peer),
        };
        let (feed, controllers) = learn_cluster(&settings, &mut volume, &registration, metrics.clone()).await?;
        let (broker, appeared) = Broker::new(settings, feed, controllers, metrics)?;
        let broker = Arc::new(broker);
        metadata_copy::set_peers(&broker);
        let mut introduction = Introduction {
            peers: broker.peers.clone(),
            host: broker.settings.advertised_host(),
            ports,
            info: NodeInfo {
                node: broker.node.clone(),
                ..NodeInfo::default()
            },
        };
        introduction.renew().await;
        if stage.set(broker.clone()).is_err() {
            unreachable!("the broker of a process is made once");
        }
        let folder = volume.folder().to_owned();
        let stop = || stop_all.subscribe();
        tasks.spawn(metadata_copy::keep_on_disk(broker.metadata.clone(), folder, stop()));
        let displaced = watch::Sender::new(false);
        tasks.spawn(metadata_copy::keep_registered(
            broker.clone(),
            registration,
            displaced.clone(),
            stop(),
        ));
        spawn_common(&mut tasks, &broker, appeared, &stop_all);
        tasks.spawn(metadata_copy::follow(broker.clone(), stop()));
        tasks.spawn(retention::watch_disk(broker.clone(), stop()));
        tasks.spawn(membership::expire(broker.clone(), stop()));

        // Forwarding comes first: a node that was killed is of use to its clients before its replicas are open.
        let mut clients = Tasks::default();
        for listener in [listeners.remoting, listeners.vip, listeners.name_server] {
            clients.spawn(serve_remoting(listener, broker.clone(), stop_clients.subscribe()));
        }
        introduction.info.ready = true;
        introduction.renew().await;
        tasks.spawn(introduction.keep(leaving.subscribe(), stop()));
        let mut keeper = ReplicaKeeper::new(broker.clone(), volume);
        keeper.look().await;
        let mut replicas = Tasks::default();
        replicas.spawn(keeper.run(stop_replicas.subscribe()));
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
            stop_replicas,
            stop_all,
            displaced,
            clients,
            replicas,
            tasks,
        })
    }

    /// Returns when this process must end, with the reason: another volume was registered under the node's name, or
    /// something without which it is of no use stopped working.
    pub async fn must_end(&self) -> String {
        let mut displaced = self.displaced.subscribe();
        let reason = tokio::select! {
            // The sender lives as long as the node.
            _ = displaced.wait_for(|displaced| *displaced) => {
                "another process registered under its name with another disk"
            }
            () = self.clients.broken() => "a client port panicked",
            () = self.replicas.broken() => "what opens its replicas panicked",
            () = self.tasks.broken() => "a task panicked",
        };
        format!("node {}: {reason}", self.broker.node)
    }

    /// What its handlers stand on.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Where it listens.
    pub fn ports(&self) -> BoundPorts {
        self.ports
    }

    /// Stops in order. `hurry` cuts the wait for clients to leave short.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        info!(node_id = self.broker.node, "leaves the routes");
        self.leaving.send_replace(true);
        let others = self.broker.peers.nodes().iter().any(|node| !node.here && node.living);
        if others {
            let patience = Duration::from_secs(self.broker.settings.policy.leave_seconds);
            tokio::select! {
                () = self.clients_gone() => {}
                () = tokio::time::sleep(patience) => {}
                () = hurry => {}
            }
            self.hand_over().await;
        }
        self.stop_clients.send_replace(true);
        self.clients.join("client ports").await;
        self.stop_replicas.send_replace(true);
        self.replicas.join("replicas").await;
        self.stop_all.send_replace(true);
        self.tasks.join("tasks").await;
        info!(node_id = self.broker.node, "stopped");
    }

    async fn hand_over(&self) {
        let led = self.broker.replicas.led();
        let handed_over = led.iter().map(|replica| async move {
            match timeout(HAND_OVER_WAIT_MAX, replica.group.transfer_leader(None)).await {
                Ok(Ok(())) => info!(group = replica.name, "handed leadership over"),
                Ok(Err(error)) => warn!(group = replica.name, %error, "hand leadership over"),
                Err(_) => warn!(group = replica.name, "nobody took leadership over in time"),
            }
        });
        join_all(handed_over).await;
    }

    async fn clients_gone(&self) {
        let mut checks = tokio::time::interval(LEAVE_CHECK_INTERVAL);
        while !self.broker.connections.is_empty() {
            checks.tick().await;
        }
    }
}

/// What every process that serves clients does all the time, a node or a controller.
pub fn spawn_common(tasks: &mut Tasks, broker: &Arc<Broker>, appeared: AppearedGroups, stop_all: &watch::Sender<bool>) {
    let stop = || stop_all.subscribe();
    tasks.spawn(metadata_copy::keep_peers(broker.clone(), stop()));
    tasks.spawn(consumer_groups::keep(broker.clone(), appeared, stop()));
    let heard = {
        let broker = Arc::downgrade(broker);
        move |info: &NodeInfo| {
            let Some(broker) = broker.upgrade() else { return };
            for (group, replica) in &info.replicas {
                broker.leaders.learn(*group, replica.term, replica.leader.as_deref());
            }
        }
    };
    tasks.spawn(broker.peers.clone().probe(heard, stop()));
}

/// The cluster that the controllers are of, if it is known to be another one; without an answer the volume's copy counts.
async fn other_cluster(settings: &Settings, ours: &ClusterLabel, metrics: Arc<Metrics>) -> Option<ClusterLabel> {
    // Asked without naming a cluster: controllers of another one would not let us in.
    let controllers = Controllers::new(&settings.node, &settings.controllers, [0; 16], metrics);
    let deadline = Instant::now() + OTHER_CLUSTER_WAIT_MAX;
    let asked = settings.controllers.iter();
    let asked = asked.map(|address| controllers.ask(address, &Request::Status, deadline));
    let mut answers: FuturesUnordered<_> = asked.collect();
    let mut other = None;
    while let Some(answer) = answers.next().await {
        let Ok(Response::Status(Status {
            founding: Some(founding),
            ..
        })) = answer
        else {
            continue;
        };
        let label = ClusterLabel {
            name: founding.cluster,
            id: founding.id,
        };
        if label == *ours {
            return None;
        }
        other = Some(label);
    }
    other
}

/// The metadata from the volume's copy, or from the controllers for a volume without one.
async fn learn_cluster(
    settings: &Settings,
    volume: &mut Volume,
    registration: &Registration,
    metrics: Arc<Metrics>,
) -> anyhow::Result<(Arc<Feed>, Arc<Controllers>)> {
    let label = volume.cluster().cloned();
    let known_id = label.as_ref().and_then(|label| cluster_id_bytes(&label.id));
    if let Some(label) = &label
        && let Some(other) = other_cluster(settings, label, metrics.clone()).await
    {
        // Says that it is another one's.
        volume.join(other)?;
    }
    let controllers = Controllers::new(
        &settings.node,
        &settings.controllers,
        known_id.unwrap_or_default(),
        metrics,
    );
    let copy = metadata_copy::load(volume.folder()).context("read the copy of the metadata")?;
    let copy = copy.filter(|copy| label.as_ref().is_some_and(|label| label.id == copy.cluster.id));
    let metadata = match copy {
        Some(copy) => {
            let known = copy.nodes.get(&registration.name);
            if let Some(other) = known.filter(|node| node.volume != registration.volume) {
                bail!(
                    "node {} is registered with volume {}, this is volume {}: another disk took its place. Only an \
                     empty folder may take the name over, as a new replica",
                    registration.name,
                    other.volume,
                    registration.volume
                );
            }
            Arc::new(copy)
        }
        None => {
            let first = metadata_copy::fetch_first(&controllers, registration)
                .await
                .context("register this node")?;
            volume.join(ClusterLabel {
                name: first.cluster.name.clone(),
                id: first.cluster.id.clone(),
            })?;
            metadata_copy::save(volume.folder(), &first).context("keep the copy of the metadata")?;
            first
        }
    };
    let id = cluster_id_bytes(&metadata.cluster.id).context("the cluster's id is not one")?;
    controllers.joined(id);
    Ok((Arc::new(Feed::new(metadata)), controllers))
}
