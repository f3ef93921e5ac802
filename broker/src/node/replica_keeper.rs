//! Opens and closes the replicas that the controller puts on this node.
//!
//! A replica is opened under the id that the controller gave it, which the volume remembers: a folder that is gone, or
//! that belongs to another id, is never continued. One that closed itself (a failed disk) is closed in order and tried
//! again after a while; so is one that could not be opened. The other replicas go on meanwhile.
//!
//! The replica named as the founder makes the Raft group out of nothing, once; a restart in between does it again,
//! which changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use flotilla_controller::metadata::RaftGroup;
use flotilla_raft_store::disk::files::FileDisk;
use flotilla_raft_store::group::{Group, GroupConfig};
use flotilla_raft_store::identity::GroupIdentity;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::events::NodeEvents;
use super::{Broker, leader_duties, retention};
use crate::config::Flush;
use crate::machine::{Machine, MachineSettings};
use crate::peer::PeerTransport;
use crate::queue_moves;
use crate::replica::Replica;
use crate::server::stopped;
use crate::tasks::Tasks;
use crate::topic_changes;
use crate::volume::{Opened, Volume};

/// Before a replica that could not be opened, or closed itself, is opened again.
const OPEN_AGAIN: Duration = Duration::from_secs(5);
/// How long a replica may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(10);
/// How long the founder waits for others before the first election, and how often it asks.
const FIRST_ELECTION_WAIT_MAX: Duration = Duration::from_secs(3);
const FIRST_ELECTION_POLL: Duration = Duration::from_millis(5);

/// What the metadata puts on this node, by the number of the Raft group.
type Wanted = BTreeMap<u16, (RaftGroup, u64)>;

/// See the module.
#[derive(Debug)]
pub struct ReplicaKeeper {
    broker: Arc<Broker>,
    volume: Volume,
    running: BTreeMap<u16, Running>,
    failed: BTreeMap<u16, Instant>,
}

#[derive(Debug)]
struct Running {
    replica: Arc<Replica>,
    stop: watch::Sender<bool>,
    tasks: Tasks,
}

impl Running {
    /// Why it cannot go on, if it cannot.
    fn closed(&self) -> Option<String> {
        let broken = self.tasks.is_broken().then(|| "a task of it panicked".to_owned());
        self.replica.group.status().closed.or(broken)
    }

    async fn close(mut self, broker: &Broker) {
        broker.replicas.remove(self.replica.number);
        self.stop.send_replace(true);
        if timeout(CLOSE_MAX, self.replica.group.shutdown()).await.is_err() {
            warn!(group = self.replica.name, "the replica did not close in time");
        }
        self.tasks.end().await;
    }
}

impl ReplicaKeeper {
    /// A keeper of the replicas in `volume`.
    pub fn new(broker: Arc<Broker>, volume: Volume) -> Self {
        Self {
            broker,
            volume,
            running: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Opens what is wanted now, as far as it can be opened.
    pub async fn look(&mut self) {
        let wanted = wanted(&self.broker, self.volume.id());
        let obsolete = self.running.iter().filter(|(number, running)| {
            let (identity, id) = (running.replica.identity, running.replica.id);
            wanted
                .get(number)
                .is_none_or(|(group, wanted)| *wanted != id || group.creation != identity.creation)
        });
        let obsolete: Vec<u16> = obsolete.map(|(number, _)| *number).collect();
        let closed = self
            .running
            .iter()
            .filter_map(|(number, running)| Some((*number, running.closed()?)));
        let closed: Vec<(u16, String)> = closed.collect();
        for (number, reason) in closed {
            error!(
                group = self.broker.group_name(number),
                reason, "a replica closed itself"
            );
            self.failed.insert(number, Instant::now());
            self.close(number).await;
        }
        for number in obsolete {
            info!(
                group = self.broker.group_name(number),
                "a replica is no longer wanted here"
            );
            self.close(number).await;
        }
        self.failed.retain(|_, at| at.elapsed() < OPEN_AGAIN);
        for (number, (group, id)) in wanted {
            if self.running.contains_key(&number) || self.failed.contains_key(&number) {
                continue;
            }
            match self.open(number, &group, id).await {
                Ok(running) => {
                    self.running.insert(number, running);
                }
                Err(error) => {
                    error!(group = group.name, error = format!("{error:#}"), "open a replica");
                    self.failed.insert(number, Instant::now());
                }
            }
        }
    }

    /// Keeps looking until `stop`, then closes everything.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut epochs = self.broker.metadata.subscribe();
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = epochs.changed() => if changed.is_err() { break },
                _ = ticks.tick() => {}
                () = stopped(&mut stop) => break,
            }
            self.look().await;
        }
        let running = std::mem::take(&mut self.running);
        join_all(running.into_values().map(|running| running.close(&self.broker))).await;
    }

    async fn close(&mut self, number: u16) {
        if let Some(running) = self.running.remove(&number) {
            running.close(&self.broker).await;
        }
    }

    async fn open(&mut self, number: u16, group: &RaftGroup, id: u64) -> anyhow::Result<Running> {
        let opened = Opened {
            creation: group.creation,
            replica: id,
        };
        let folder = PathBuf::from("groups").join(&group.name);
        let folder = self.volume.open_group(&group.name, &folder, opened)?;
        let replica = Arc::new(open(&self.broker, number, group, id, &folder).await?);
        self.broker.replicas.insert(replica.clone());
        info!(group = group.name, replica = id, "opened a replica");
        let (broker, stop) = (&self.broker, watch::Sender::new(false));
        let mut tasks = Tasks::default();
        if group.founder == id && !replica.group.is_initialized() {
            tasks.spawn(found(broker.clone(), replica.clone()));
        }
        tasks.spawn(topic_changes::keep_assigned(
            broker.clone(),
            replica.clone(),
            stop.subscribe(),
        ));
        tasks.spawn(queue_moves::keep(broker.clone(), replica.clone(), stop.subscribe()));
        tasks.spawn(retention::keep(broker.clone(), replica.clone(), stop.subscribe()));
        tasks.spawn(leader_duties::keep(broker.clone(), replica.clone(), stop.subscribe()));
        Ok(Running { replica, stop, tasks })
    }
}

/// Replicas are for a volume: under a name that another volume has now nothing is opened here.
fn wanted(broker: &Broker, volume: &str) -> Wanted {
    broker.metadata.read(|metadata| {
        if metadata
            .nodes
            .get(&broker.node)
            .is_none_or(|node| node.volume != volume)
        {
            return Wanted::new();
        }
        let here = metadata.groups.iter().filter_map(|(number, group)| {
            let replica = group.members.iter().find(|replica| replica.node == broker.node)?;
            Some((*number, (group.clone(), replica.id)))
        });
        here.collect()
    })
}

async fn open(broker: &Arc<Broker>, number: u16, group: &RaftGroup, id: u64, folder: &Path) -> anyhow::Result<Replica> {
    let identity = GroupIdentity {
        cluster: broker.peers.cluster(),
        group: u32::from(number),
        creation: group.creation,
    };
    let events = Arc::new(NodeEvents {
        group: (number, group.name.clone()),
        broker: Arc::downgrade(broker),
        parked: broker.parked.clone(),
        connections: broker.connections.clone(),
        apply_seconds: broker.metrics.apply_seconds.clone(),
    });
    let state_folder = folder.join("state");
    let (machine, state) =
        tokio::task::spawn_blocking(move || Machine::open(&state_folder, MachineSettings::default(), events))
            .await
            .context("open the state")?
            .context("open the state")?;
    let settings = &broker.settings;
    let config = GroupConfig {
        identity,
        replica: id,
        node: settings.node.clone(),
        folder: folder.to_owned(),
        timing: settings.timing(),
        log_file_bytes: settings.log.file_bytes,
        flush_sync: settings.log.flush == Flush::Sync,
    };
    let transport = PeerTransport::new(broker.peers.clone(), identity);
    let flushes = broker.metrics.flush_seconds.clone();
    let disk = FileDisk::observed(move |took| flushes.observe(took.as_secs_f64()));
    let opened = Group::open(config, disk, transport, machine).await;
    let opened = opened.context("open the log")?;
    Ok(Replica::new((number, group.name.clone()), identity, id, opened, state))
}

/// Makes the Raft group, with the members that the controller names.
async fn found(broker: Arc<Broker>, replica: Arc<Replica>) {
    let members: Vec<(u64, String)> = broker.metadata.read(|metadata| {
        let group = metadata.groups.get(&replica.number);
        let members = group.into_iter().flat_map(|group| &group.members);
        members.map(|member| (member.id, member.node.clone())).collect()
    });
    majority_takes_part(&broker, replica.number, &members).await;
    match replica.group.initialize(members).await {
        Ok(()) => info!(group = replica.name, "founded the raft group"),
        Err(error) => error!(group = replica.name, %error, "found the raft group"),
    }
}

/// Waits a moment until so many others take part that the first election can succeed: one that comes too early costs
/// an election timeout.
async fn majority_takes_part(broker: &Broker, group: u16, members: &[(u64, String)]) {
    let deadline = Instant::now() + FIRST_ELECTION_WAIT_MAX;
    let others: Vec<&String> = members
        .iter()
        .map(|(_, node)| node)
        .filter(|node| **node != broker.node)
        .collect();
    while Instant::now() < deadline {
        let asked = others.iter().map(|node| broker.peers.ask_info(node, deadline));
        let answers = futures_util::future::join_all(asked).await;
        let taking_part = answers
            .iter()
            .flatten()
            .filter(|info| info.replicas.contains_key(&group));
        if taking_part.count() >= others.len().div_ceil(2) {
            return;
        }
        tokio::time::sleep(FIRST_ELECTION_POLL).await;
    }
}
