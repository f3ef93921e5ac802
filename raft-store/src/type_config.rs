//! The Raft engine's type parameters and settings, pinned once. With [`crate::convert`] the only place that says
//! what an entry, a node or a vote is to the engine.
//!
//! Standard Raft leader ids: one leader a term, so the term alone names a leadership.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use openraft::impls::leader_id_std::LeaderId;
use openraft::impls::{BoxedErrorSource, Entry, InlineBatch, OneshotResponder, Vote};
use openraft::{AsyncRuntime, Config, EntryPayload, OptionalSend, RaftTypeConfig, SnapshotPolicy};

use crate::group::Timing;

/// The engine's parameters for a group whose answers are `R`, on the runtime `Rt`.
pub struct Types<Rt, R>(PhantomData<fn() -> (Rt, R)>);

impl<Rt, R> fmt::Debug for Types<Rt, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}
impl<Rt, R> Clone for Types<Rt, R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<Rt, R> Copy for Types<Rt, R> {}
impl<Rt, R> Default for Types<Rt, R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<Rt, R> PartialEq for Types<Rt, R> {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}
impl<Rt, R> Eq for Types<Rt, R> {}
impl<Rt, R> PartialOrd for Types<Rt, R> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<Rt, R> Ord for Types<Rt, R> {
    fn cmp(&self, _other: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<Rt: AsyncRuntime, R: Send + Sync + 'static> RaftTypeConfig for Types<Rt, R> {
    type D = Payload;
    type R = Replies<R>;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = LeaderId<u64, u64>;
    type Vote = Vote<Self::LeaderId>;
    type Payload = EntryPayload<Payload, u64, Member>;
    type Entry = Entry<u64Committed, Self::Payload>;
    type AsyncRuntime = Rt;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// The committed leader id of standard Raft: the term.
#[expect(non_camel_case_types, reason = "reads as the number it is")]
pub type u64Committed = <LeaderId<u64, u64> as openraft::vote::RaftLeaderId>::Committed;

/// A log id as the engine writes it.
pub type EngineLogId = openraft::LogId<u64Committed>;

/// A vote as the engine writes it.
pub type EngineVote = Vote<LeaderId<u64, u64>>;

/// What a normal entry carries: frames packed by [`crate::frames::pack`], and their checksum.
#[derive(Clone)]
pub struct Payload {
    /// The packed frames.
    pub bytes: Bytes,
    /// CRC32C of `bytes`, computed once by the proposer and checked by every replica.
    pub crc: u32,
}

impl Payload {
    /// Computes the checksum.
    pub fn new(bytes: Bytes) -> Self {
        let crc = crc32c::crc32c(&bytes);
        Self { bytes, crc }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.bytes.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The state machine's answers to the frames of one entry.
#[derive(Debug)]
pub struct Replies<R>(pub Vec<R>);

/// A member as stored in membership entries: its stable node name, never an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The node's name; the transport finds where it is now.
    pub node: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.node)
    }
}

/// Whether a restarted leader resumes its old term without an election. Must stay off: a leader that lost an
/// unflushed tail which the others hold, and resumes, gives out the same log ids a second time.
pub const LEADER_RESTORE: Option<bool> = Some(false);

/// The engine's settings; `leader_restore` is [`LEADER_RESTORE`] but in the simulation that shows why.
pub fn engine_config(name: String, timing: Timing, flush_sync: bool, leader_restore: Option<bool>) -> Arc<Config> {
    let millis =
        |duration: std::time::Duration| u64::try_from(duration.as_millis()).expect("a timeout in milliseconds");
    let heartbeat = millis(timing.heartbeat);
    let config = Config {
        cluster_name: name,
        heartbeat_interval: heartbeat,
        heartbeat_min_interval: Some(heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        enable_pre_vote: Some(true),
        enable_leader_restore: leader_restore,
        quorum_loss_probe_interval: Some((2 * millis(timing.election_max)).max(1000)),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: 1,
        replication_lag_threshold: 8,
        max_payload_entries: 64,
        max_append_entries: Some(64),
        api_batch_capacity: 256,
        api_batch_linger_ms: 0,
        install_snapshot_timeout: 60_000,
        backoff: "50ms 100ms 200ms 400ms ...1s".to_owned(),
        // Without a sync before each acknowledgement a follower may come back from a power loss with less.
        allow_log_reversion: (!flush_sync).then_some(true),
        ..Config::default()
    };
    Arc::new(
        config
            .validate()
            .expect("the settings are constants but for the times, which are checked where read"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_leader_never_resumes_without_an_election() {
        let config = engine_config("test".to_owned(), Timing::default(), true, LEADER_RESTORE);
        assert_eq!(config.enable_leader_restore, Some(false));
    }
}
