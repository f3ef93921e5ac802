//! Replicas of one group as processes that are started, killed and restarted on what their disks kept.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flotilla_raft_store::disk::simulated::{Call, SimulatedDisk};
use flotilla_raft_store::group::{Group, GroupConfig, Timing};
use flotilla_raft_store::identity::GroupIdentity;
use flotilla_raft_store::runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use parking_lot::Mutex;

use super::machine::{Image, Machine, Store};
use super::network::{Network, SimTransport};
use super::random::Random;

/// The real replica on simulated doors.
pub type SimGroup = Group<SimRuntime, SimulatedDisk, SimTransport, Machine>;

/// Small files, so that every trial rolls some.
const LOG_FILE_BYTES: u64 = 16 * 1024;

/// One node: its disk outlives its process.
pub struct Node {
    /// Stable name.
    pub name: String,
    /// Raft id.
    pub replica: u64,
    disk: SimulatedDisk,
    store: Store,
    shown: Store,
    process: Option<Process>,
    /// Microseconds added to a sync now and then, set anew by the trial.
    pub sync_delay: Arc<Mutex<u64>>,
    random: Random,
}

struct Process {
    group: SimGroup,
    transport: SimTransport,
}

impl Node {
    /// A node with an empty disk.
    pub fn new(replica: u64, random: Random) -> Self {
        let sync_delay = Arc::new(Mutex::new(0));
        let disk = disk(&sync_delay, &random);
        Self {
            name: format!("n{replica}"),
            replica,
            disk,
            store: Store::default(),
            shown: Store::default(),
            process: None,
            sync_delay,
            random,
        }
    }

    /// The running replica.
    pub fn group(&self) -> Option<&SimGroup> {
        self.process.as_ref().map(|process| &process.group)
    }

    /// The live state, for checks.
    pub fn image(&self) -> Image {
        self.shown.lock().clone()
    }

    /// Starts the process on what the disk kept.
    pub async fn start(&mut self, network: &Network, resume_leadership: bool) -> std::io::Result<()> {
        let (transport, mut incoming) = network.start(&self.name);
        self.shown = Store::default();
        let machine = Machine::open(self.store.clone(), self.shown.clone(), self.random.fork());
        let config = GroupConfig {
            identity: GroupIdentity {
                cluster: [9; 16],
                group: 1,
                creation: 1,
            },
            replica: self.replica,
            node: self.name.clone(),
            folder: PathBuf::from("/group"),
            timing: Timing::default(),
            log_file_bytes: LOG_FILE_BYTES,
            flush_sync: true,
        };
        let (disk, doors) = (self.disk.clone(), transport.clone());
        let group = if resume_leadership {
            SimGroup::open_resuming_leadership(config, disk, doors, machine).await?
        } else {
            SimGroup::open(config, disk, doors, machine).await?
        };
        let serving = group.clone();
        drop(SimRuntime::spawn(async move {
            while let Some(connection) = incoming.recv().await {
                let group = serving.clone();
                drop(SimRuntime::spawn(async move {
                    // A connection ends in an error when it is cut; the other side connects again.
                    let _ = group
                        .serve(connection.purpose, connection.sender, connection.receiver)
                        .await;
                }));
            }
        }));
        self.process = Some(Process { group, transport });
        Ok(())
    }

    /// The power is cut: what was not synced is kept or lost at random.
    pub fn kill(&mut self, network: &Network) {
        let Some(Process { group, transport }) = self.process.take() else {
            return;
        };
        network.kill(&transport);
        self.disk = self.disk.crash(self.random.next());
        // What is left of the old process keeps the old store: nothing it does reaches the new one.
        let kept = self.store.lock().clone();
        self.store = Arc::new(Mutex::new(kept));
        // Its tasks can reach neither disk nor network; they end here, so that they cost no time.
        drop(SimRuntime::spawn(async move { group.stop_engine().await }));
    }
}

fn disk(sync_delay: &Arc<Mutex<u64>>, random: &Random) -> SimulatedDisk {
    let (sync_delay, random) = (sync_delay.clone(), random.fork());
    SimulatedDisk::with_hooks(
        Arc::new(|task| drop(SimRuntime::spawn(task))),
        Arc::new(|duration| Box::pin(SimRuntime::sleep(duration))),
        Arc::new(move |call, _| match call {
            Call::Sync | Call::SyncFolder => {
                Duration::from_micros(100 + random.below(900) + random.below((*sync_delay.lock()).max(1)))
            }
            // Through the page cache.
            _ => Duration::ZERO,
        }),
    )
}
