//! The replicas of Raft groups on this node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flotilla_raft_store::disk::files::FileDisk;
use flotilla_raft_store::group::Group;
use flotilla_raft_store::identity::GroupIdentity;
use flotilla_raft_store::runtime::TokioRuntime;
use parking_lot::RwLock;

use crate::load_meter::LoadMeter;
use crate::machine::{Machine, StateReader};
use crate::peer::{DigestInfo, PeerTransport, ReplicaInfo};

/// The Raft group of a replica, with everything generic filled in.
pub type BrokerGroup = Group<TokioRuntime, FileDisk, PeerTransport, Machine>;

/// One replica.
#[derive(Debug)]
pub struct Replica {
    /// The Raft group's number, shown in positions.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// Which cluster, group and creation of it.
    pub identity: GroupIdentity,
    /// This replica's Raft id.
    pub id: u64,
    /// The log.
    pub group: BrokerGroup,
    /// The applied state.
    pub state: StateReader,
    /// What comes in while it leads.
    pub load: Arc<LoadMeter>,
    /// It has, but for the last moments, what the others have.
    level: AtomicBool,
}

/// Entries a replica may lack and still count as level with the others: what a moment of load brings.
pub const LEVEL_ENTRIES: u64 = 4_096;

impl Replica {
    /// A replica that was opened; one that took part before is taken for level until more is known.
    pub fn new(
        (number, name): (u16, String),
        identity: GroupIdentity,
        id: u64,
        group: BrokerGroup,
        (state, load): (StateReader, Arc<LoadMeter>),
    ) -> Self {
        let level = AtomicBool::new(group.is_initialized());
        Self {
            number,
            name,
            identity,
            id,
            group,
            state,
            load,
            level,
        }
    }

    /// Whether readers may be served from here. A leader has what there is; a new one need not compare first.
    pub fn is_level(&self) -> bool {
        self.level.load(Ordering::Relaxed) || self.group.is_leader()
    }

    /// Compares it with the furthest of the others.
    pub fn compare(&self, others: impl IntoIterator<Item = ReplicaInfo>) {
        let status = self.group.status();
        let votes = status
            .members
            .iter()
            .any(|member| member.replica == self.id && member.voter);
        let furthest = others.into_iter().map(|other| other.committed_index).max().unwrap_or(0);
        let applied = status.applied.map_or(0, |id| id.index);
        let level = votes && applied + LEVEL_ENTRIES >= furthest;
        self.level.store(level, Ordering::Relaxed);
    }

    /// As other processes are told.
    pub fn info(&self) -> ReplicaInfo {
        let status = self.group.status();
        ReplicaInfo {
            leader: status.leader,
            term: status.term,
            last_index: status.last.map_or(0, |id| id.index),
            flushed_index: status.flushed.map_or(0, |id| id.index),
            committed_index: status.committed.map_or(0, |id| id.index),
            applied_index: status.applied.map_or(0, |id| id.index),
            log_offset_end: status.log_offsets.1,
            closed: status.closed,
            digest: self.last_digest(),
        }
    }

    /// The last digest it computed.
    pub fn last_digest(&self) -> Option<DigestInfo> {
        let digest = self.state.last_digest()?;
        Some(DigestInfo {
            nonce: digest.nonce,
            index: digest.log_id.index,
            value: digest.value,
        })
    }
}

/// All replicas of a node, by the number of their Raft group.
#[derive(Debug, Default)]
pub struct Replicas {
    open: RwLock<BTreeMap<u16, Arc<Replica>>>,
}

impl Replicas {
    /// The replica of a Raft group, if it is here and open.
    pub fn get(&self, group: u16) -> Option<Arc<Replica>> {
        self.open.read().get(&group).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Replica>> {
        self.open.read().values().cloned().collect()
    }

    /// Those that lead.
    pub fn led(&self) -> Vec<Arc<Replica>> {
        let mut replicas = self.all();
        replicas.retain(|replica| replica.group.is_leader());
        replicas
    }

    /// Adds one that was opened.
    pub fn insert(&self, replica: Arc<Replica>) {
        self.open.write().insert(replica.number, replica);
    }

    /// Takes one out that is to be closed.
    pub fn remove(&self, group: u16) -> Option<Arc<Replica>> {
        self.open.write().remove(&group)
    }
}
