//! Topics and their queues.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Rate;

/// The body of `PUT /v1/topics/{topic}`; what is missing keeps its value, or its default for a new topic.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TopicSettings {
    /// Queues; may only grow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<u32>,
    /// What messages may be.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<TopicType>,
    /// How long messages stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Raft groups the queues are bound to; an empty list binds them to none in particular. Queues that lie elsewhere
    /// stay there until the next rebalance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
}

/// `GET /v1/topics/{topic}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Topic {
    /// Name.
    pub topic: String,
    /// Queues.
    pub queues: u32,
    /// What messages may be.
    #[serde(rename = "type")]
    pub kind: TopicType,
    /// Permission bits of the remoting protocol.
    #[serde(default)]
    pub perm: u8,
    /// How long messages stay.
    #[serde(default)]
    pub retention: Retention,
    /// Raft groups that hold any of its messages or take its writes.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Raft groups the queues are bound to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pinned: Vec<String>,
    /// Further attributes.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// What messages of a topic may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TopicType {
    /// Plain.
    #[default]
    Normal,
    /// Ordered.
    Fifo,
    /// Delayed.
    Delay,
    /// Transactions.
    Transaction,
    /// Anything.
    Unspecified,
}

/// How long messages stay; the cluster's default where nothing is said.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// Age, such as `72h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// `GET /v1/topics/{topic}/queues`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Queues {
    /// Topic.
    pub topic: String,
    /// Version of the metadata.
    pub epoch: u64,
    /// Queues.
    pub queues: Vec<Queue>,
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Queue {
    /// Queue number.
    pub queue: u32,
    /// Raft group that takes writes.
    pub group: String,
    /// Node that leads it.
    pub leader: Option<String>,
    /// First queue offset.
    pub min_offset: i64,
    /// Queue offset after the last one.
    pub max_offset: i64,
    /// What comes in; nothing if the leader could not say.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// Where the messages are.
    #[serde(default)]
    pub segments: Vec<QueueSegment>,
}

/// A stretch of a queue owned by one Raft group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueueSegment {
    /// Counts the owners.
    pub generation: u64,
    /// Raft group.
    pub group: String,
    /// First queue offset.
    pub start_offset: i64,
    /// After the last; nothing while it takes writes.
    pub end_offset: Option<i64>,
}
