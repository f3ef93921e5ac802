//! Bounds of the replicated state. They are part of the log's meaning: apply refuses what is over them, so a change
//! of a value here is a change of the command version.

/// Longest topic, group, client or node name in bytes. Retry topics of RocketMQ go up to 255.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest free text: a filter expression, an attribute value, a retry policy.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Attributes of one topic or subscription group.
pub const ATTRIBUTES_MAX: usize = 64;
/// Topics in one Raft group.
pub const TOPICS_MAX: usize = 100_000;
/// Queues of one topic.
pub const QUEUES_PER_TOPIC_MAX: u32 = 16_384;
/// Queues in one Raft group.
pub const QUEUES_MAX: u64 = 1_000_000;
/// Consumer offsets in one Raft group.
pub const CONSUMER_OFFSETS_MAX: usize = 4_000_000;
/// Offsets updated by one command.
pub const OFFSETS_PER_COMMAND_MAX: usize = 4_096;
/// Queue locks in one Raft group.
pub const LOCKS_MAX: usize = 1_000_000;
/// Queues named in one lock or unlock command.
pub const LOCKS_PER_COMMAND_MAX: usize = 16_384;
/// Groups named in one join or leave command.
pub const GROUPS_PER_CLIENT_MAX: usize = 1_024;
/// Members of one consumer group.
pub const MEMBERS_PER_GROUP_MAX: usize = 10_000;
/// Consumer groups with members in one Raft group.
pub const ACTIVE_GROUPS_MAX: usize = 100_000;
/// Topics one consumer group subscribes to.
pub const SUBSCRIPTIONS_PER_GROUP_MAX: usize = 1_024;
/// Keys of one message that the key index stores; further keys are not found by a query.
pub const KEYS_PER_MESSAGE_MAX: usize = 32;
/// Longest stored message in wire form: body, properties, topic and fixed part.
pub const STORED_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024 + 64 * 1024;
/// Shortest stored message in wire form: the fixed part with IPv4 hosts.
pub const STORED_MESSAGE_BYTES_MIN: usize = 91;
/// A queue lock not renewed for this long may be given to another client (RocketMQ's 60 s).
pub const LOCK_LEASE_MS: i64 = 60_000;
