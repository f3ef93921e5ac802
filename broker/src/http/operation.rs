//! What can be asked of the admin API: as a whole ([`Operation`]), and the part of it that only the leader of a Raft
//! group can answer ([`Part`]), as it travels to that leader.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_api::http::TopicSettings;
use serde::{Deserialize, Serialize};

use super::json::parse_duration;
use super::problem::Problem;

/// One request of the admin API, without its HTTP form.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// The cluster at a glance.
    Cluster,
    /// All Raft groups.
    Groups,
    /// One Raft group.
    Group {
        /// Its name.
        group: String,
    },
    /// Digests of all live replicas at one log index.
    Digest {
        /// The Raft group.
        group: String,
    },
    /// Leadership goes to a node.
    TransferLeader {
        /// The Raft group.
        group: String,
        /// The node.
        node: String,
    },
    /// All nodes.
    Nodes,
    /// One node.
    Node {
        /// Its name.
        node: String,
    },
    /// A node's replicas are re-created elsewhere, or not any more.
    Evacuate {
        /// The node.
        node: String,
        /// They are.
        evacuating: bool,
    },
    /// The cluster forgets a node.
    RemoveNode {
        /// The node.
        node: String,
    },
    /// A Raft group gets a replica on a node.
    AddMember {
        /// The Raft group.
        group: String,
        /// The node.
        node: String,
        /// The node whose replica goes then.
        replaces: Option<String>,
    },
    /// A Raft group's replica on a node goes.
    RemoveMember {
        /// The Raft group.
        group: String,
        /// The node.
        node: String,
    },
    /// A Raft group gets no more queues, and those it has leave.
    Drain {
        /// The Raft group.
        group: String,
    },
    /// A Raft group may get queues again.
    Reopen {
        /// The Raft group.
        group: String,
    },
    /// Queues under way to another Raft group, and the last that were.
    Moves,
    /// One of them.
    Move {
        /// Its number.
        id: u64,
    },
    /// A queue goes to another Raft group.
    MoveQueue {
        /// The topic.
        topic: String,
        /// The queue.
        queue: u32,
        /// The Raft group.
        group: String,
        /// How long to wait until it is done.
        wait: Duration,
    },
    /// Queues are spread evenly over the Raft groups.
    Rebalance {
        /// Only say what would move.
        dry_run: bool,
    },
    /// All topics.
    Topics,
    /// One topic.
    Topic {
        /// Its name.
        topic: String,
    },
    /// Create or change a topic.
    PutTopic {
        /// Its name.
        topic: String,
        /// What to set.
        settings: TopicSettings,
    },
    /// Remove a topic.
    DeleteTopic {
        /// Its name.
        topic: String,
    },
    /// A topic's queues and where they are.
    Queues {
        /// The topic.
        topic: String,
    },
    /// All consumer groups.
    ConsumerGroups,
    /// One consumer group.
    ConsumerGroup {
        /// Its name.
        consumer_group: String,
    },
    /// Stored messages.
    Messages {
        /// Which.
        selection: Selection,
    },
}

impl Operation {
    /// It changes something.
    pub fn is_write(&self) -> bool {
        match self {
            Self::Digest { .. }
            | Self::TransferLeader { .. }
            | Self::Evacuate { .. }
            | Self::RemoveNode { .. }
            | Self::AddMember { .. }
            | Self::RemoveMember { .. }
            | Self::Drain { .. }
            | Self::Reopen { .. }
            | Self::MoveQueue { .. }
            | Self::PutTopic { .. }
            | Self::DeleteTopic { .. } => true,
            Self::Rebalance { dry_run } => !dry_run,
            Self::Cluster
            | Self::Groups
            | Self::Group { .. }
            | Self::Nodes
            | Self::Node { .. }
            | Self::Moves
            | Self::Move { .. }
            | Self::Topics
            | Self::Topic { .. }
            | Self::Queues { .. }
            | Self::ConsumerGroups
            | Self::ConsumerGroup { .. }
            | Self::Messages { .. } => false,
        }
    }
}

/// What the leader of one Raft group is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "snake_case")]
pub enum Part {
    /// The Raft group itself.
    Group,
    /// Digests of all live replicas at one log index.
    Digest,
    /// Leadership goes to a node.
    TransferLeader {
        /// The node.
        node: String,
    },
    /// How far its queues of a topic reach.
    Queues {
        /// The topic.
        topic: String,
    },
    /// What comes in.
    Load,
    /// The coordinator slots it has, with members and subscriptions of their consumer groups.
    Members {
        /// Of this one alone.
        consumer_group: Option<String>,
    },
    /// How far consumer groups are in its queues.
    Progress {
        /// By consumer group, the topics it subscribes to: queues of those count from their beginning.
        topics: BTreeMap<String, Vec<String>>,
    },
    /// Messages from a queue offset on.
    Place {
        /// The topic.
        topic: String,
        /// The queue.
        queue: u32,
        /// The first queue offset.
        offset: i64,
        /// At most so many; `None`: exactly the one at the offset.
        max: Option<usize>,
    },
    /// Messages with a key.
    Key {
        /// The topic.
        topic: String,
        /// The key.
        key: String,
        /// At most so many.
        max: usize,
    },
    /// The message at a position.
    Position {
        /// As clients see it.
        position: i64,
    },
}

impl Part {
    /// It changes something.
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Digest | Self::TransferLeader { .. })
    }
}

/// Which messages are asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// In this topic.
    pub topic: Option<String>,
    /// In this queue.
    pub queue: Option<u32>,
    /// From this queue offset on.
    pub offset: Option<i64>,
    /// At most so many.
    pub max: Option<usize>,
    /// With this key.
    pub key: Option<String>,
    /// With this id.
    pub id: Option<String>,
}

/// How a move is asked for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveWish {
    /// How long to wait until it is done, such as `10s`; without it the answer comes once it is started.
    wait: Option<String>,
}

impl MoveWish {
    /// The time to wait.
    pub fn wait(&self) -> Result<Duration, Problem> {
        let Some(text) = &self.wait else {
            return Ok(Duration::ZERO);
        };
        let wrong = || Problem::malformed(format!("wait: `{text}` is not a duration such as 10s")).refused();
        parse_duration(text).map(Duration::from_millis).ok_or_else(wrong)
    }
}
