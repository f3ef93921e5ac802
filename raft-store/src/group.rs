//! The handle of one Raft group on this node: propose, read index, watch the leader, hand over, shut down.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::{AsyncRuntime, ChangeMembers, Config, Instant, Raft};

use crate::accumulator::Accumulator;
use crate::apply::Applier;
use crate::commit_log::{CommitLog, LogOptions, OpenError, RecordKind};
use crate::convert;
use crate::disk::Disk;
use crate::early_election::EarlyElection;
use crate::error::{ProposeError, ReadError};
use crate::frames::Frames;
use crate::identity::GroupIdentity;
use crate::install;
use crate::leadership::{Leadership, LeadershipWatch, Names};
use crate::log_id::LogId;
use crate::log_store::LogStore;
use crate::network::client::Network;
use crate::network::server;
use crate::read_index::ReadIndex;
use crate::state_machine::StateMachine;
use crate::transport::{FrameReceiver, FrameSender, Purpose, Transport};
use crate::type_config::{LEADER_RESTORE, Member, Types, engine_config};

/// Settings of one replica.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Which group this is.
    pub identity: GroupIdentity,
    /// This replica's Raft id: never reused with an empty disk.
    pub replica: u64,
    /// This node's stable name.
    pub node: String,
    /// Holds `commitlog`, `state` and `snapshot`.
    pub folder: PathBuf,
    /// Election and heartbeat times.
    pub timing: Timing,
    /// Bytes of one log file.
    pub log_file_bytes: u64,
    /// Flush before answering (`true`), or answer from the page cache of a majority.
    pub flush_sync: bool,
}

/// Election and heartbeat times of a group.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Heartbeat interval.
    pub heartbeat: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout; also the leader's lease.
    pub election_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(60),
            election_min: Duration::from_millis(250),
            election_max: Duration::from_millis(450),
        }
    }
}

/// What is known here about the group, right now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStatus {
    /// Node name of the leader, as far as known here.
    pub leader: Option<String>,
    /// True while this replica leads and hears of a majority (it may not know yet that it was deposed).
    pub is_leader: bool,
    /// Raft term.
    pub term: u64,
    /// Last entry in the local log.
    pub last: Option<LogId>,
    /// Last entry flushed locally.
    pub flushed: Option<LogId>,
    /// Last entry known committed here.
    pub committed: Option<LogId>,
    /// Last entry applied here.
    pub applied: Option<LogId>,
    /// All members, as the last entry about them in the local log says.
    pub members: Vec<MemberStatus>,
    /// That entry is committed, as far as known here, and no change is half done.
    pub members_settled: bool,
    /// Set when the replica stopped by itself (failed disk, damage), with the reason.
    pub closed: Option<String>,
    /// Log byte offsets present: first and one past the last.
    pub log_offsets: (u64, u64),
    /// Bytes the log files take on disk.
    pub log_bytes: u64,
}

/// One member of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Raft id.
    pub replica: u64,
    /// Node name.
    pub node: String,
    /// Voter or learner.
    pub voter: bool,
    /// Known on the leader only: the last log index known to be on this member.
    pub matched_index: Option<u64>,
}

/// Where the proposed frames landed, and their replies in order.
#[derive(Debug)]
pub struct Proposed<R> {
    /// The entry.
    pub log_id: LogId,
    /// Slot of the first frame.
    pub first_slot: u16,
    /// One reply per frame.
    pub replies: Vec<R>,
}

/// How long a snapshot, purge or hand-over may take before the caller is told that it did not happen yet.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Entries that a learner may be behind when it gets its vote.
const LEVEL_ENTRIES: u64 = 8;
/// How often a step's progress is looked at.
const STEP_POLL: Duration = Duration::from_millis(5);

/// The engine's types for a state machine.
type EngineTypes<Rt, S> = Types<Rt, <S as StateMachine>::Reply>;
/// The engine of one replica.
type Engine<Rt, D, S> = Raft<Types<Rt, <S as StateMachine>::Reply>, Applier<Rt, D, S>>;

/// A replica of one Raft group. Cheap to clone.
pub struct Group<Rt: AsyncRuntime, D: Disk, T: Transport, S: StateMachine> {
    shared: Arc<Shared<Rt, D, T, S>>,
}

struct Shared<Rt: AsyncRuntime, D: Disk, T: Transport, S: StateMachine> {
    config: GroupConfig,
    raft: Engine<Rt, D, S>,
    log: CommitLog<D>,
    disk: D,
    transport: T,
    accumulator: Accumulator<S::Reply>,
    read_index: ReadIndex,
    leadership: LeadershipWatch,
    early_election: EarlyElection<Rt>,
    /// Held while a snapshot is received.
    receiving: tokio::sync::Mutex<()>,
    opened: Rt::Instant,
    /// This replica took part in the group before it was opened now.
    had_vote: bool,
}

impl<Rt: AsyncRuntime, D: Disk, T: Transport, S: StateMachine> Clone for Group<Rt, D, T, S> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<Rt: AsyncRuntime, D: Disk, T: Transport, S: StateMachine> std::fmt::Debug for Group<Rt, D, T, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}

fn damaged(error: OpenError) -> io::Error {
    match error {
        OpenError::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}

impl<Rt: AsyncRuntime, D: Disk, T: Transport, S: StateMachine> Group<Rt, D, T, S> {
    /// Opens the replica's log and state, and takes part in the group. An interrupted snapshot installation is
    /// finished first. A log that lost what it had flushed, or whose damage is not at its torn end, is an error of
    /// kind `InvalidData`: such a replica must not vote.
    pub async fn open(config: GroupConfig, disk: D, transport: T, state: S) -> io::Result<Self> {
        let engine = engine_config(
            config.identity.to_string(),
            config.timing,
            config.flush_sync,
            LEADER_RESTORE,
        );
        Self::open_with(config, engine, disk, transport, state).await
    }

    /// As [`Group::open`], but a restarted leader resumes its term without an election, which is the engine's default
    /// and loses data: for the simulation that shows it.
    #[cfg(feature = "simulation")]
    pub async fn open_resuming_leadership(config: GroupConfig, disk: D, transport: T, state: S) -> io::Result<Self> {
        let engine = engine_config(config.identity.to_string(), config.timing, config.flush_sync, None);
        Self::open_with(config, engine, disk, transport, state).await
    }

    async fn open_with(
        config: GroupConfig,
        engine: Arc<Config>,
        disk: D,
        transport: T,
        mut state: S,
    ) -> io::Result<Self> {
        let folder = config.folder.join("commitlog");
        disk.create_folder(&folder).await?;
        let options = LogOptions {
            file_bytes: config.log_file_bytes,
            sync: config.flush_sync,
            ..LogOptions::default()
        };
        let log = CommitLog::open(disk.clone(), &folder, config.identity, options, state.applied())
            .await
            .map_err(damaged)?;
        let snapshots = config.folder.join("snapshot");
        install::recover(&disk, &snapshots, &log, &mut state).await?;
        if state.applied() > log.last() {
            let (applied, last) = (state.applied(), log.last());
            let text = format!("the state reflects {applied:?}, the log ends at {last:?}: flushed entries are missing");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if let Some(purged) = log.purged()
            && state.applied() < Some(purged)
        {
            let applied = state.applied();
            let text = format!(
                "the state reflects {applied:?}, the log before {purged} is gone: without its folder this replica \
                 starts anew, from a snapshot of the others"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let had_vote = log.vote().is_some();
        let applier = Applier::new(state, log.clone(), disk.clone(), snapshots, config.identity);
        let network = Network::new(transport.clone(), disk.clone());
        let stopped = |fatal: openraft::errors::Fatal<_>| io::Error::other(fatal.to_string());
        let raft: Engine<Rt, D, S> = Raft::build(config.replica, engine, network, LogStore::new(log.clone()), applier)
            .await
            .map_err(stopped)?;
        raft.run();
        raft.with_state_machine(|applier: &mut Applier<Rt, D, S>| {
            applier.set_running();
            Box::pin(async {})
        })
        .await
        .map_err(stopped)?;
        let names = Names::default();
        let leadership =
            LeadershipWatch::start::<Rt, D, S>(raft.clone(), names.clone(), 2 * config.timing.election_max);
        let accumulator = Accumulator::start(raft.clone(), names.clone());
        let read_index = ReadIndex::start(raft.clone(), names);
        let shared = Shared {
            config,
            raft,
            log,
            disk,
            transport,
            accumulator,
            read_index,
            leadership,
            early_election: EarlyElection::new(),
            receiving: tokio::sync::Mutex::new(()),
            opened: Rt::Instant::now(),
            had_vote,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Founds the group with these voters `(replica, node)`. Call on one member, once, on empty stores; on a group
    /// that exists already nothing happens.
    pub async fn initialize(&self, members: Vec<(u64, String)>) -> Result<(), ProposeError> {
        let members: BTreeMap<u64, Member> = members.into_iter().map(|(id, node)| (id, Member { node })).collect();
        match self.shared.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(ProposeError::Unknown(error.to_string())),
        }
    }

    /// True once the group was founded, as far as this replica's log tells.
    pub fn is_initialized(&self) -> bool {
        self.shared.log.last().is_some()
    }

    /// Puts `frames` into one entry, in order, and waits until it is applied here. Frames of several callers share
    /// an entry. Dropping the future does not undo the proposal.
    pub async fn propose(&self, frames: Vec<Bytes>) -> Result<Proposed<S::Reply>, ProposeError> {
        if self.shared.leadership.is_alone() {
            return Err(ProposeError::NotLeader { leader: None });
        }
        self.shared.accumulator.propose(frames).await
    }

    /// ReadIndex, shared by all callers waiting: on return the local state reflects every write that was answered
    /// before the call.
    pub async fn read_index(&self) -> Result<(), ReadError> {
        self.shared.read_index.confirm().await
    }

    /// The frames of one applied entry, from memory or from the log files; `None` once retention removed them, or
    /// for an entry without frames.
    pub async fn read_frames(&self, log_index: u64) -> io::Result<Option<Frames>> {
        let Some(record) = self.shared.log.read_one(log_index).await? else {
            return Ok(None);
        };
        if record.kind != RecordKind::Normal {
            return Ok(None);
        }
        Ok(Frames::parse(record.payload).ok())
    }

    /// True while this replica believes that it leads, and hears of a majority.
    pub fn is_leader(&self) -> bool {
        self.shared.leadership.is_leader()
    }

    /// Who leads, as far as known here.
    pub fn leadership(&self) -> Leadership {
        self.shared.leadership.now()
    }

    /// Returns when something else than `seen` is known about the leader.
    pub async fn leadership_changed(&self, seen: &Leadership) -> Leadership {
        self.shared.leadership.changed(seen).await
    }

    /// What is known, now.
    pub fn status(&self) -> GroupStatus {
        let metrics = self.shared.raft.metrics().borrow_watched().clone();
        // The engine tells these first, and who waits for them looks here.
        let server = self.shared.raft.server_metrics().borrow_watched().clone();
        let membership = server.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let matched = |id: &u64| {
            let replication = metrics.replication.as_ref()?;
            replication.get(id)?.as_ref().map(|id| id.index)
        };
        let own = self.shared.config.replica;
        let log = &self.shared.log;
        let members = membership.nodes().map(|(id, member)| MemberStatus {
            replica: *id,
            node: member.node.clone(),
            voter: voters.contains(id),
            matched_index: if *id == own {
                log.flushed().map(|id| id.index)
            } else {
                matched(id)
            },
        });
        let committed = metrics.local_committed.as_ref().map(convert::log_id);
        let changed = server.membership_config.log_id().as_ref().map(convert::log_id);
        let settled = changed <= committed && membership.get_joint_config().len() == 1;
        let closed = metrics.running_state.as_ref().err().map(ToString::to_string);
        let closed = closed.or_else(|| log.failure());
        // What a closed replica last knew of itself as leader is over, and without a majority it can do nothing.
        let powerless = closed.is_some() || self.shared.leadership.is_alone();
        let current_leader = server.current_leader.filter(|leader| !powerless || *leader != own);
        GroupStatus {
            leader: current_leader
                .and_then(|id| membership.get_node(&id))
                .map(|member| member.node.clone()),
            is_leader: current_leader == Some(own),
            term: server.vote.leader_id.term,
            last: log.last(),
            flushed: log.flushed(),
            committed,
            applied: metrics.last_applied.as_ref().map(convert::log_id),
            members: members.collect(),
            members_settled: settled,
            closed,
            log_offsets: log.offsets(),
            log_bytes: log.bytes(),
        }
    }

    /// Returns when the replica closed itself, with the reason.
    pub async fn closed(&self) -> String {
        let mut server = self.shared.raft.server_metrics();
        loop {
            if let Some(reason) = self.status().closed {
                return reason;
            }
            if server.changed().await.is_err() && self.status().closed.is_none() {
                // Nothing will change any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Serves one incoming connection of a peer until it closes. The transport has already checked the handshake.
    pub async fn serve(
        &self,
        purpose: Purpose,
        sender: impl FrameSender,
        receiver: impl FrameReceiver,
    ) -> io::Result<()> {
        let shared = &self.shared;
        let mut leader = None;
        let result = match purpose {
            Purpose::Append => {
                server::serve_append::<Rt, D, S>(&shared.raft, sender, receiver, |id| leader = Some(id)).await
            }
            Purpose::Control => {
                let may_vote = || !shared.had_vote || shared.opened.elapsed() >= shared.config.timing.election_max;
                server::serve_control::<Rt, D, S>(&shared.raft, sender, receiver, |id| leader = Some(id), may_vote)
                    .await
            }
            Purpose::Files => {
                // Two at a time would write the same files.
                let _alone = shared
                    .receiving
                    .try_lock()
                    .map_err(|_| io::Error::new(io::ErrorKind::ResourceBusy, "another snapshot is being received"))?;
                let folder = shared.config.folder.join("snapshot");
                let identity = shared.config.identity;
                server::serve_files::<Rt, D, S>(&shared.raft, &shared.disk, &folder, identity, sender, receiver).await
            }
        };
        if let Some(leader) = leader {
            let replica = shared.config.replica;
            let (raft, log) = (&shared.raft, &shared.log);
            shared
                .early_election
                .connection_lost::<D, T, S>(raft, log, &shared.transport, replica, leader)
                .await;
        }
        result
    }

    /// Hands leadership to the voter on node `to`, or to the most caught-up one. Returns once another leads.
    pub async fn transfer_leader(&self, to: Option<&str>) -> Result<(), ReadError> {
        let status = self.status();
        if !status.is_leader {
            return Err(ReadError::NotLeader { leader: status.leader });
        }
        let own = self.shared.config.replica;
        let others = status
            .members
            .iter()
            .filter(|member| member.voter && member.replica != own);
        let target = match to {
            Some(name) => others.into_iter().find(|member| member.node == name),
            None => others.max_by_key(|member| member.matched_index),
        };
        let Some(target) = target else {
            return Err(ReadError::Unavailable(
                "no other voter to hand leadership to".to_owned(),
            ));
        };
        let unavailable = |error: &dyn std::fmt::Display| ReadError::Unavailable(error.to_string());
        self.shared
            .raft
            .trigger()
            .transfer_leader(target.replica)
            .await
            .map_err(|fatal| unavailable(&fatal))?;
        let limit = 2 * self.shared.config.timing.election_max;
        let handed_over = async {
            let mut server = self.shared.raft.server_metrics();
            while server
                .borrow_watched()
                .current_leader
                .is_none_or(|leader| leader == own)
            {
                if server.changed().await.is_err() {
                    break;
                }
            }
        };
        Rt::timeout(limit, handed_over)
            .await
            .map_err(|_| unavailable(&"the other replica did not take over in time"))
    }

    /// Makes these `(replica, node)` the members, all with a vote. Those that are missing follow as learners until they
    /// have nearly the whole log; then the votes change in one step of both majorities (joint consensus), and who is not
    /// named is no member any more. Removed replicas must be stopped by whoever runs them. On return the change is
    /// committed. Dropped or failed midway, it can be asked for again, also by another leader.
    pub async fn set_members(&self, wanted: &[(u64, String)]) -> Result<(), ProposeError> {
        let is_wanted = |id: u64| wanted.iter().any(|(wanted, _)| *wanted == id);
        let members = self.status().members;
        let forgotten = members
            .iter()
            .filter(|member| !member.voter && !is_wanted(member.replica));
        let forgotten: BTreeSet<u64> = forgotten.map(|member| member.replica).collect();
        if !forgotten.is_empty() {
            self.change(ChangeMembers::RemoveNodes(forgotten)).await?;
        }
        let new = wanted
            .iter()
            .filter(|(id, _)| members.iter().all(|member| member.replica != *id));
        for (replica, node) in new {
            let member = Member { node: node.clone() };
            let added = self.shared.raft.add_learner(*replica, member, false).await;
            added.map_err(|error| self.membership_error(error))?;
        }
        for (replica, _) in wanted {
            self.await_level(*replica).await?;
        }
        let voters: BTreeSet<u64> = wanted.iter().map(|(replica, _)| *replica).collect();
        self.change(ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// Waits until a member has nearly the whole log.
    async fn await_level(&self, replica: u64) -> Result<(), ProposeError> {
        loop {
            let status = self.status();
            if !status.is_leader {
                return Err(ProposeError::NotLeader { leader: status.leader });
            }
            let member = status.members.iter().find(|member| member.replica == replica);
            let matched = member.and_then(|member| member.matched_index);
            let last = status.last.map_or(0, |id| id.index);
            if member.is_some_and(|member| member.voter)
                || matched.is_some_and(|matched| matched + LEVEL_ENTRIES >= last)
            {
                return Ok(());
            }
            Rt::sleep(STEP_POLL).await;
        }
    }

    async fn change(&self, change: ChangeMembers<u64, Member>) -> Result<(), ProposeError> {
        let changed = self.shared.raft.change_membership(change, false).await;
        changed.map_err(|error| self.membership_error(error))?;
        Ok(())
    }

    fn membership_error(
        &self,
        error: RaftError<EngineTypes<Rt, S>, ClientWriteError<EngineTypes<Rt, S>>>,
    ) -> ProposeError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => ProposeError::NotLeader {
                leader: self.shared.leadership.names().of(forward.leader_id),
            },
            other => ProposeError::Unknown(other.to_string()),
        }
    }

    /// Says that the log up to and including `index` is no longer needed by the state: takes a snapshot, moves the
    /// Raft start and removes log files that lie wholly below it. Returns the bytes freed.
    pub async fn trim(&self, index: u64) -> io::Result<u64> {
        let raft = &self.shared.raft;
        let stopped = |fatal: openraft::errors::Fatal<Types<Rt, S::Reply>>| io::Error::other(fatal.to_string());
        let applied = self.status().applied.map_or(0, |id| id.index);
        let index = index.min(applied);
        if self.shared.log.purged().is_none_or(|purged| purged.index < index) {
            raft.trigger().snapshot().await.map_err(stopped)?;
            self.reached(|status| status.0.is_some_and(|snapshot| snapshot >= index))
                .await?;
            raft.trigger().purge_log(index).await.map_err(stopped)?;
            self.reached(|status| status.1.is_some_and(|purged| purged >= index))
                .await?;
        }
        self.shared.log.remove_before(index + 1).await
    }

    /// Waits until (snapshot index, purged index) satisfy `done`.
    async fn reached(&self, done: impl Fn((Option<u64>, Option<u64>)) -> bool + Send + Sync) -> io::Result<()> {
        let waiting = async {
            loop {
                let pointers = {
                    let metrics = self.shared.raft.metrics();
                    let metrics = metrics.borrow_watched();
                    (
                        metrics.snapshot.as_ref().map(|id| id.index),
                        metrics.purged.as_ref().map(|id| id.index),
                    )
                };
                if done(pointers) {
                    return;
                }
                Rt::sleep(STEP_POLL).await;
            }
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the log was not trimmed in time");
        Rt::timeout(STEP_TIMEOUT, waiting).await.map_err(late)
    }

    /// Makes the state durable up to what is applied now, so that a restart applies little again.
    pub async fn flush_state(&self) -> io::Result<()> {
        let flushed = self.shared.raft.with_state_machine(|applier: &mut Applier<Rt, D, S>| {
            let result = applier.state().flush();
            Box::pin(async move { result })
        });
        flushed
            .await
            .map_err(|fatal| io::Error::other(fatal.to_string()))?
            .map(|_| ())
    }

    /// Graceful stop: hands leadership over if held, flushes and closes. The caller has stopped proposing.
    pub async fn shutdown(&self) {
        let status = self.status();
        if status.is_leader
            && status.members.iter().filter(|member| member.voter).count() > 1
            && let Err(error) = self.transfer_leader(None).await
        {
            tracing::warn!(%error, "stopping without handing leadership over");
        }
        if let Err(error) = self.flush_state().await {
            tracing::warn!(%error, "stopping without flushing the state");
        }
        if let Err(error) = self.shared.raft.shutdown().await {
            tracing::warn!(%error, "the engine did not stop in order");
        }
        self.shared.log.close().await;
    }
}

#[cfg(feature = "simulation")]
impl<Rt: AsyncRuntime, D: Disk, T: Transport, S: StateMachine> Group<Rt, D, T, S> {
    /// Ends the engine's tasks at once, as the end of the process would.
    pub async fn stop_engine(&self) {
        // It may have stopped already, of the disk's failure.
        let _ = self.shared.raft.shutdown().await;
    }
}
