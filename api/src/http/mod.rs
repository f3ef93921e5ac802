//! The types of the HTTP API. Readers ignore fields they do not know; more fields may be added, these stay.

mod cluster;
mod consumer;
mod message;
mod problem;
mod queue_move;
mod rate;
mod topic;

pub use cluster::{
    Cluster, CommitLogBounds, ControllerNode, Digest, DigestAnswer, GroupMember, GroupRole, LeaderChange, NewMember,
    Node, RaftGroup,
};
pub use consumer::{ConsumerGroup, ConsumerMember, ConsumerQueue, OffsetReset};
pub use message::{Message, SendReceipt, SendRequest};
pub use problem::{Outcome, Problem};
pub use queue_move::{MoveState, MoveTarget, Moves, PlannedGroup, QueueMove, RebalanceRequest};
pub use rate::Rate;
pub use topic::{Queue, QueueSegment, Queues, Retention, Topic, TopicSettings, TopicType};

use serde::{Deserialize, Serialize};

/// A list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Items<T> {
    /// What it holds.
    pub items: Vec<T>,
}

#[cfg(test)]
mod tests;
