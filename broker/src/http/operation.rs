//! What can be asked of the admin API, as it travels from the node that was asked to the leader.

use flotilla_api::http::TopicSettings;
use serde::{Deserialize, Serialize};

/// One request of the admin API, without its HTTP form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
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
    /// A node whose disk was lost comes back under a new replica id.
    Rejoin {
        /// The node.
        node: String,
        /// Its new replica id.
        replica: u64,
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
            | Self::Rejoin { .. }
            | Self::PutTopic { .. }
            | Self::DeleteTopic { .. } => true,
            Self::Cluster
            | Self::Groups
            | Self::Group { .. }
            | Self::Topics
            | Self::Topic { .. }
            | Self::Queues { .. }
            | Self::ConsumerGroups
            | Self::ConsumerGroup { .. }
            | Self::Messages { .. } => false,
        }
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
