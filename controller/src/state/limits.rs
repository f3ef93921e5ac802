//! Bounds of the controllers' state. They are part of the log's meaning: apply refuses what is over them, so a change
//! of a value here is a change of the command version.

/// Longest name of a cluster, controller, node, topic or subscription group in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest free text: an address, a zone, an attribute value, a retry policy.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Attributes of one topic or subscription group.
pub const ATTRIBUTES_MAX: usize = 64;
/// Controllers, those that are gone included.
pub const CONTROLLERS_MAX: usize = 64;
/// Nodes.
pub const NODES_MAX: usize = 1_024;
/// Replicas of one Raft group.
pub const REPLICAS_MAX: usize = 9;
/// The highest number of a Raft group: positions shown to clients have 12 bits for it, and 0 is no group.
pub const GROUP_NUMBER_MAX: u16 = 4_095;
/// Topics.
pub const TOPICS_MAX: usize = 100_000;
/// Queues of one topic.
pub const QUEUES_PER_TOPIC_MAX: u32 = 16_384;
/// Queues of all topics.
pub const QUEUES_MAX: u64 = 1_000_000;
/// Moves under way. Bounds what every copy of the metadata holds, not how many are carried out at once.
pub const MOVES_UNDER_WAY_MAX: usize = 16_384;
/// Moves started by one command.
pub const MOVES_PER_COMMAND_MAX: usize = 256;
/// Moves that ended and can still be looked at.
pub const MOVES_ENDED_KEPT_MAX: usize = 512;
/// Subscription groups.
pub const SUBSCRIPTION_GROUPS_MAX: usize = 100_000;
/// Subscription groups put by one command.
pub const SUBSCRIPTION_GROUPS_PER_COMMAND_MAX: usize = 1_024;
