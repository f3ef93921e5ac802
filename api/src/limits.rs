//! Every bound of the system that a client can run into, in one place.
//!
//! The values that clients know from RocketMQ are RocketMQ's own; the others say why.

/// Largest remoting frame, length field included. The official server's `frameMaxLength`.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest message body; clients refuse larger ones themselves.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest encoded property string: its length is a signed 16-bit number in the stored layout.
pub const PROPERTIES_BYTES_MAX: usize = 32_767;
/// Most messages one pull is answered with; the client's own default for `maxMsgNums`.
pub const PULL_MESSAGES_MAX: usize = 32;
/// Most bytes of messages in one pull answer; the first message is always sent, whatever its size.
pub const PULL_BYTES_MAX: usize = 256 * 1024;
/// Most messages in one batch send: a position has 11 bits for the slot of a message in its Raft entry.
pub const BATCH_MESSAGES_MAX: usize = 2048;
/// Longest topic name a client may choose.
pub const TOPIC_BYTES_MAX: usize = 127;
/// Longest topic name with a retry or dead-letter prefix.
pub const PREFIXED_TOPIC_BYTES_MAX: usize = 255;
/// Longest consumer or producer group name.
pub const GROUP_BYTES_MAX: usize = 120;
/// Most fields of one header; real clients send fewer than 30.
pub const EXT_FIELDS_MAX: usize = 1024;
/// Deepest nesting that is skipped in an unknown header value.
pub const HEADER_DEPTH_MAX: usize = 32;
/// How much buffer a half-received frame reserves ahead, so that an announced length alone costs little memory.
pub const FRAME_RESERVE_BYTES_MAX: usize = 1024 * 1024;
/// Most queues of one topic.
pub const TOPIC_QUEUES_MAX: u32 = 65_536;
/// Most write-only broker names shown beside the queue name: clients try at most three.
pub const ROUTE_DOORS_MAX: usize = 3;
/// Longest a pull is held when no message is there; clients give the call 30 s.
pub const SUSPEND_MILLIS_MAX: i64 = 20_000;
/// Most messages a key query is answered with.
pub const QUERY_MESSAGES_MAX: usize = 64;
