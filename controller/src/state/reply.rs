//! What a command is answered with. A refusal is an outcome every replica reaches alike: nothing was changed.

use serde::{Deserialize, Serialize};

use super::limits::QUEUES_PER_TOPIC_MAX;

/// The answer to one command. An epoch is the metadata's after the command; a command that changed nothing does not
/// raise it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Carried out.
    Done {
        /// The metadata's epoch.
        epoch: u64,
    },
    /// The topic is as asked for.
    Topic {
        /// It did not exist before.
        created: bool,
        /// The metadata's epoch.
        epoch: u64,
    },
    /// The controller is known.
    Controller {
        /// Its Raft id among the controllers.
        replica: u64,
        /// The metadata's epoch.
        epoch: u64,
    },
    /// The moves are under way.
    Moves {
        /// Their ids, in the order in which they were asked for.
        ids: Vec<u64>,
        /// The metadata's epoch.
        epoch: u64,
    },
    /// Certainly not carried out.
    Refused(Refusal),
}

impl Reply {
    /// The metadata's epoch; 0 of a refusal.
    pub fn epoch(&self) -> u64 {
        match self {
            Self::Done { epoch }
            | Self::Topic { epoch, .. }
            | Self::Controller { epoch, .. }
            | Self::Moves { epoch, .. } => *epoch,
            Self::Refused(_) => 0,
        }
    }
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The frame is not a command of a known version, or over a limit of its encoding.
    #[error("malformed command")]
    Malformed,
    /// Only founding is possible yet.
    #[error("the cluster is not founded yet")]
    NotFounded,
    /// The cluster has another name or id.
    #[error("the cluster is founded already")]
    AlreadyFounded,
    /// The topic does not exist.
    #[error("topic does not exist")]
    TopicNotExist,
    /// The topic is not any more what the change was made from.
    #[error("the topic was changed by somebody else meanwhile")]
    Changed,
    /// The node's name is a controller's.
    #[error("a controller has this name")]
    NameTaken,
    /// The topic's name is that of the coordinator slots.
    #[error("the name is reserved for the server")]
    NameReserved,
    /// The Raft group or subscription group does not exist.
    #[error("group does not exist")]
    GroupNotExist,
    /// No replica of the Raft group is on that node, or none that stays.
    #[error("the node has no replica of the group")]
    ReplicaNotExist,
    /// The Raft group has a replica on that node.
    #[error("the node has a replica of the group already")]
    ReplicaExists,
    /// The replica was not told to go.
    #[error("the replica is to stay")]
    ReplicaStays,
    /// A Raft group keeps at least one replica.
    #[error("it is the last replica of the group that stays")]
    LastReplica,
    /// The node does not exist.
    #[error("node does not exist")]
    NodeNotExist,
    /// An evacuating node gets no replicas.
    #[error("the node is being evacuated")]
    NodeEvacuating,
    /// Replicas of the node have no other place.
    #[error("no other node can take a replica of {0}")]
    TooFewNodes(String),
    /// The node has replicas.
    #[error("the node has replicas: evacuate it first")]
    NodeInUse,
    /// There are too few nodes so far for any Raft group.
    #[error("there is no Raft group yet")]
    NoGroups,
    /// A topic has at least one queue, and not too many.
    #[error("a topic has 1 to {QUEUES_PER_TOPIC_MAX} queues")]
    QueueOutOfRange,
    /// A topic's queue count may grow, not shrink.
    #[error("the number of queues cannot be reduced")]
    FewerQueues,
    /// The topic has no queue of this number.
    #[error("queue does not exist")]
    QueueNotExist,
    /// The queue is on its way already.
    #[error("a move of the queue is under way")]
    MoveUnderWay,
    /// The queue's open segment is in that Raft group.
    #[error("the queue is in this group already")]
    SameGroup,
    /// The move does not exist, or ended long ago.
    #[error("move does not exist")]
    MoveNotExist,
    /// The move ended, and otherwise.
    #[error("the move has ended otherwise")]
    MoveEnded,
    /// A draining Raft group gets no queues.
    #[error("the group is draining")]
    GroupDraining,
    /// The topic's queues are bound to other Raft groups.
    #[error("the topic is pinned to other groups: its queues do not leave them")]
    PinnedElsewhere,
    /// The queues of the Raft group would have nowhere to go.
    #[error("it is the last group that is not draining")]
    LastGroup,
    /// Only the first segment of a queue can be dropped, and only once it has an end.
    #[error("only the first segment of a queue can be dropped, once it has an end")]
    SegmentNotDropped,
    /// A bound of `limits.rs` is reached.
    #[error("limit reached: {0}")]
    LimitReached(String),
}

impl Refusal {
    pub(super) fn limit(what: &str) -> Self {
        Self::LimitReached(what.to_owned())
    }
}
