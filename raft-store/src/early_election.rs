//! An election at once when the leader's process is gone, instead of after its lease.
//!
//! A killed process closes its connections, and a new connection to it is refused. A follower that sees both starts
//! an election with the transfer flag, which waives the lease. Safe, because nothing trusts a lease: the flag costs
//! at most a needless election when a network lies about a living leader. Followers are spread by rank so that they
//! do not split the vote, and one follower does this at most once in [`AT_MOST_EVERY`].

use std::io;
use std::time::Duration;

use openraft::raft::TransferLeaderRequest;
use openraft::{AsyncRuntime, Instant, Raft};
use parking_lot::Mutex;

use crate::apply::Applier;
use crate::commit_log::CommitLog;
use crate::convert;
use crate::disk::Disk;
use crate::state_machine::StateMachine;
use crate::transport::{Purpose, Transport};
use crate::type_config::Types;

/// A group's follower calls an early election at most this often.
pub const AT_MOST_EVERY: Duration = Duration::from_secs(5);
/// Head start of one follower before the next.
const RANK_DELAY: Duration = Duration::from_millis(60);
/// A leader that neither accepts nor refuses a connection within this time is left to the timers.
const PROBE_TIMEOUT: Duration = Duration::from_millis(100);
/// Pause before a connection that was reset is tried again.
const PROBE_AGAIN: Duration = Duration::from_millis(2);

/// Remembers when this follower last called an early election.
pub struct EarlyElection<Rt: AsyncRuntime> {
    last: Mutex<Option<Rt::Instant>>,
}

impl<Rt: AsyncRuntime> EarlyElection<Rt> {
    /// None called yet.
    pub fn new() -> Self {
        Self { last: Mutex::new(None) }
    }

    /// Called when a connection from `leader` closed on `replica`.
    pub async fn connection_lost<D: Disk, T: Transport, S: StateMachine>(
        &self,
        raft: &Raft<Types<Rt, S::Reply>, Applier<Rt, D, S>>,
        log: &CommitLog<D>,
        transport: &T,
        replica: u64,
        leader: u64,
    ) {
        let Some(suspicion) = Suspicion::of(raft, replica, leader) else {
            return;
        };
        if !self.claim() {
            return;
        }
        let refused = Rt::timeout(
            PROBE_TIMEOUT,
            is_refused::<Rt, T>(transport, leader, &suspicion.leader_node),
        )
        .await;
        if !refused.is_ok_and(|refused| refused) {
            self.release();
            return;
        }
        Rt::sleep(RANK_DELAY * suspicion.rank).await;
        // Somebody of a lower rank may have been elected meanwhile.
        if Suspicion::of(raft, replica, leader).is_none_or(|now| now.vote != suspicion.vote) {
            self.release();
            return;
        }
        let last = log.last().map(convert::engine_log_id);
        tracing::info!(leader = %suspicion.leader_node, "leader's process is gone, electing at once");
        let request = TransferLeaderRequest::new(suspicion.vote, replica, last);
        if let Err(error) = raft.handle_transfer_leader(request).await {
            tracing::debug!(%error, "early election not started");
        }
    }

    fn claim(&self) -> bool {
        let mut last = self.last.lock();
        if last.as_ref().is_some_and(|last| last.elapsed() < AT_MOST_EVERY) {
            return false;
        }
        *last = Some(Rt::Instant::now());
        true
    }

    fn release(&self) {
        *self.last.lock() = None;
    }
}

impl<Rt: AsyncRuntime> Default for EarlyElection<Rt> {
    fn default() -> Self {
        Self::new()
    }
}

/// True if nobody listens at `node` any more, false if somebody does. A process that is being killed closes its
/// connections before its listener, and what arrives in between is reset with it: that is worth another try.
async fn is_refused<Rt: AsyncRuntime, T: Transport>(transport: &T, replica: u64, node: &str) -> bool {
    loop {
        match transport.connect(replica, node, Purpose::Control).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return true,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Rt::sleep(PROBE_AGAIN).await,
            Ok(_) | Err(_) => return false,
        }
    }
}

/// What a follower believes about the leader it lost.
struct Suspicion {
    vote: crate::type_config::EngineVote,
    leader_node: String,
    rank: u32,
}

impl Suspicion {
    /// `None` unless `replica` is a voter that follows `leader`.
    fn of<Rt: AsyncRuntime, D: Disk, S: StateMachine>(
        raft: &Raft<Types<Rt, S::Reply>, Applier<Rt, D, S>>,
        replica: u64,
        leader: u64,
    ) -> Option<Self> {
        use openraft::async_runtime::watch::WatchReceiver;
        let metrics = raft.server_metrics().borrow_watched().clone();
        if metrics.current_leader != Some(leader) || leader == replica {
            return None;
        }
        let membership = metrics.membership_config.membership();
        let mut others: Vec<u64> = membership.voter_ids().filter(|id| *id != leader).collect();
        others.sort_unstable();
        let rank = others.iter().position(|id| *id == replica)?;
        let leader_node = membership.get_node(&leader)?.node.clone();
        Some(Self {
            vote: metrics.vote,
            leader_node,
            rank: u32::try_from(rank).ok()?,
        })
    }
}
