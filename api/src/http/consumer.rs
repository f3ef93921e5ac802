//! Consumer groups.

use serde::{Deserialize, Serialize};

/// `GET /v1/consumer-groups/{group}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConsumerGroup {
    /// Name.
    pub name: String,
    /// Clients.
    #[serde(default)]
    pub members: Vec<ConsumerMember>,
    /// How far it is.
    #[serde(default)]
    pub queues: Vec<ConsumerQueue>,
}

/// A client of a consumer group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConsumerMember {
    /// Client id.
    pub client_id: String,
    /// Node it is connected to.
    pub node: String,
    /// Language name.
    pub language: String,
    /// Protocol version.
    pub version: i32,
}

/// How far a consumer group is in one queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConsumerQueue {
    /// Topic.
    pub topic: String,
    /// Queue number.
    pub queue: u32,
    /// Next queue offset it will read; nothing before the first update.
    pub consumer_offset: Option<i64>,
    /// Queue offset after the last message.
    pub max_offset: i64,
    /// Messages to go.
    pub lag: i64,
}

/// `POST /v1/consumer-groups/{group}/reset`: to an offset of one queue, to a time, or to the beginning or end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OffsetReset {
    /// Topic.
    pub topic: String,
    /// One queue, or all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// Queue offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// Store time, milliseconds since 1970; -1 for the end, 0 for the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
}
