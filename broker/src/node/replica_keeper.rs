//! Opens and closes the replicas that the controller puts on this node.
//!
//! A replica is opened under the id that the controller gave it, which the volume remembers: a folder that is gone, or
//! that belongs to another id, is never continued. One that closed itself (a failed disk) is closed in order and tried
//! again after a while; so is one that could not be opened. The other replicas go on meanwhile.
//!
//! A replica that the metadata strikes off is closed, and what it kept is thrown away, once a controller confirmed that
//! this is the newest word: an old copy of the metadata could be from before the replica was put here.
//!
//! The replica named as the founder makes the Raft group out of nothing, once; a restart in between does it again,
//! which changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
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
use crate::fail_point;
use crate::load_meter::LoadMeter;
use crate::machine::{Machine, MachineSettings};
use crate::peer::PeerTransport;
use crate::queue_moves;
use crate::replica::Replica;
use crate::server::stopped;
use crate::tasks::Tasks;
use crate::topic_changes;
use crate::volume::{Opened, Volume, remove_group};

/// Before a replica that could not be opened, or closed itself, is opened again.
const OPEN_AGAIN: Duration = Duration::from_secs(5);
/// How long a replica may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(10);
/// How long the founder waits for others before the first election, and how often it asks.
const FIRST_ELECTION_WAIT_MAX: Duration = Duration::from_secs(3);
const FIRST_ELECTION_POLL: Duration = Duration::from_millis(5);

/// The folder of the volume in which each Raft group has its own.
const GROUPS: &str = "groups";

/// What the metadata puts on this node, by the number of the Raft group.
type Wanted = BTreeMap<u16, (RaftGroup, u64)>;

/// See the module.
#[derive(Debug)]
pub struct ReplicaKeeper {
    broker: Arc<Broker>,
    volume: Volume,
    running: BTreeMap<u16, Running>,
    failed: BTreeMap<u16, Instant>,
    /// The replicas wanted when nothing but theirs was found on the volume.
    tidy_for: Option<BTreeSet<u16>>,
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
            tidy_for: None,
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
        let numbers = wanted.keys().copied().collect();
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
        self.throw_away(numbers).await;
    }

    /// Throws away what replicas kept that the metadata has struck off.
    async fn throw_away(&mut self, wanted: BTreeSet<u16>) {
        if self.tidy_for.as_ref() == Some(&wanted) {
            return;
        }
        let kept = self.volume.kept_groups(Path::new(GROUPS));
        let Some(struck_off) = without_replica_here(&self.broker, self.volume.id(), &kept) else {
            return;
        };
        if !struck_off.is_empty() {
            if !topic_changes::catch_up(&self.broker).await {
                return;
            }
            let Some(struck_off) = without_replica_here(&self.broker, self.volume.id(), &kept) else {
                return;
            };
            for name in struck_off {
                fail_point::reached(fail_point::THROWN_AWAY_NEXT);
                let folder = self.volume.folder().join(GROUPS).join(&name);
                match tokio::task::spawn_blocking(move || remove_group(&folder)).await {
                    Ok(Ok(())) => info!(
                        group = name,
                        "threw away what a replica kept that is no member any more"
                    ),
                    Ok(Err(error)) => warn!(group = name, %error, "throw away what a replica kept"),
                    Err(error) => warn!(group = name, %error, "throw away what a replica kept"),
                }
            }
        }
        self.tidy_for = Some(wanted);
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
        let folder = Path::new(GROUPS).join(&group.name);
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

/// Those of the Raft groups named that have no replica on this node; `None` while the node is not known with this volume.
fn without_replica_here(broker: &Broker, volume: &str, names: &[String]) -> Option<Vec<String>> {
    broker.metadata.read(|metadata| {
        let here = metadata.nodes.get(&broker.node);
        here.filter(|node| node.volume == volume)?;
        let struck_off = names.iter().filter(|name| {
            let group = metadata.groups.values().find(|group| group.name == **name);
            group.is_some_and(|group| group.on(&broker.node).is_none())
        });
        Some(struck_off.cloned().collect())
    })
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
    let load = Arc::new(LoadMeter::default());
    let events = Arc::new(NodeEvents {
        group: (number, group.name.clone()),
        broker: Arc::downgrade(broker),
        parked: broker.parked.clone(),
        connections: broker.connections.clone(),
        load: load.clone(),
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
    let name = (number, group.name.clone());
    Ok(Replica::new(name, identity, id, opened, (state, load)))
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
