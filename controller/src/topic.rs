//! Settings of a topic, as the controller keeps them and the Raft groups of its queues apply them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Permission bit: consumers may read.
pub const PERM_READ: u8 = 4;
/// Permission bit: producers may write.
pub const PERM_WRITE: u8 = 2;

/// What kind of messages a topic is for (RocketMQ's `message.type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopicKind {
    /// Not said.
    Unspecified,
    /// Ordinary messages.
    #[default]
    Normal,
    /// Ordered by message group.
    Fifo,
    /// Delivered later.
    Delay,
    /// Transactions.
    Transaction,
}

impl TopicKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Unspecified,
        Self::Normal,
        Self::Fifo,
        Self::Delay,
        Self::Transaction,
    ];
}

/// The settings of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicConfig {
    /// Name.
    pub name: String,
    /// Queues, readable and writable alike.
    pub queues: u32,
    /// Bits [`PERM_READ`] and [`PERM_WRITE`].
    pub perm: u8,
    /// Kind of messages.
    pub kind: TopicKind,
    /// Keep messages at least this long; `None`: the node's default.
    pub retention_ms: Option<u64>,
    /// Keep about this many bytes; `None`: no bound.
    pub retention_bytes: Option<u64>,
    /// RocketMQ's order flag.
    pub order: bool,
    /// RocketMQ's attributes without the `+` sign.
    pub attributes: BTreeMap<String, String>,
}

impl TopicConfig {
    /// A readable and writable topic of the normal kind.
    pub fn new(name: impl Into<String>, queues: u32) -> Self {
        Self {
            name: name.into(),
            queues,
            perm: PERM_READ | PERM_WRITE,
            kind: TopicKind::Normal,
            retention_ms: None,
            retention_bytes: None,
            order: false,
            attributes: BTreeMap::new(),
        }
    }
}
