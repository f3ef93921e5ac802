//! Queues that move from one Raft group to another.

use serde::{Deserialize, Serialize};

use super::Rate;

/// The body of `POST /v1/topics/{topic}/queues/{n}/move`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MoveTarget {
    /// The Raft group that shall take the queue's writes.
    pub group: String,
}

/// The body of `POST /v1/rebalance`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RebalanceRequest {
    /// Only say what would move.
    pub dry_run: bool,
}

/// `GET /v1/moves/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueMove {
    /// Its number; none of one that is only planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Topic.
    pub topic: String,
    /// Queue number.
    pub queue: u32,
    /// Raft group the queue leaves.
    pub from: String,
    /// Raft group the queue goes to.
    pub to: String,
    /// How far it is; none of one that is only planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<MoveState>,
    /// How long writers waited, in milliseconds; once done.
    #[serde(default)]
    pub writer_pause_ms: Option<u64>,
    /// From its start to its end, in milliseconds; once it has ended.
    #[serde(default)]
    pub duration_ms: Option<u64>,
    /// Queue offset after the last message that the old Raft group keeps; once done.
    #[serde(default)]
    pub end_offset: Option<i64>,
    /// Stored bytes that went from one Raft group to the other.
    #[serde(default)]
    pub bytes_copied: u64,
    /// Why it was started; once cancelled, why it was.
    pub reason: String,
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MoveState {
    /// The target gets ready; writes go to the old group.
    Preparing,
    /// The old group ends its segment.
    Sealing,
    /// The target opens the next one.
    Opening,
    /// Writes go to the target.
    Done,
    /// The queue stays where it was.
    Cancelled,
}

/// `GET /v1/moves`, and what starts moves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Moves {
    /// In the order of their numbers, or as planned.
    pub moves: Vec<QueueMove>,
    /// There are more than are shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Of a plan: how many of its moves are not started yet.
    #[serde(default)]
    pub remaining: u64,
    /// Of a rebalance that is only planned: what each Raft group has before and after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<PlannedGroup>,
    /// Of a drain: how many queues stay, because their topics are pinned to no other Raft group that is open.
    #[serde(default, skip_serializing_if = "is_none_at_all")]
    pub pinned: u64,
}

/// What a plan makes of a Raft group. Rates are missing if its leader could not say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PlannedGroup {
    /// Raft group.
    pub group: String,
    /// Open queues.
    pub queues_before: u64,
    /// Open queues when the moves are done.
    pub queues_after: u64,
    /// What comes in.
    pub rate_before: Option<Rate>,
    /// What would come in if the moves were done.
    pub rate_after: Option<Rate>,
}

/// So that serde leaves a count out.
fn is_none_at_all(count: &u64) -> bool {
    *count == 0
}
