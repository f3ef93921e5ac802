//! What a topic or a group may be called, and the names that mean something.

use crate::limits::{GROUP_BYTES_MAX, PREFIXED_TOPIC_BYTES_MAX, TOPIC_BYTES_MAX};

/// Prefix of the topic that holds a consumer group's messages to be consumed again.
pub const RETRY_PREFIX: &str = "%RETRY%";
/// Prefix of the topic that holds a consumer group's dead letters.
pub const DLQ_PREFIX: &str = "%DLQ%";
/// Prefix of topics that belong to the server.
pub const SYSTEM_PREFIX: &str = "rmq_sys_";
/// Prefix of consumer groups that belong to the server.
pub const SYSTEM_GROUP_PREFIX: &str = "CID_RMQ_SYS_";
/// The template topic clients ask for when a topic does not exist yet.
pub const AUTO_CREATE_TOPIC: &str = "TBW102";
/// Delayed messages wait here in the official server.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Half messages of transactions.
pub const TRANS_HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
/// The group under which clients send messages back.
pub const CLIENT_INNER_PRODUCER: &str = "CLIENT_INNER_PRODUCER";
/// The group of administration tools.
pub const TOOLS_CONSUMER: &str = "TOOLS_CONSUMER";

/// Topics of the official server that a client may neither create nor delete.
const SYSTEM_TOPICS: &[&str] = &[
    AUTO_CREATE_TOPIC,
    SCHEDULE_TOPIC,
    TRANS_HALF_TOPIC,
    "BenchmarkTest",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "RMQ_SYS_TRACE_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
];

/// System topics a client may not send to either.
const UNSENDABLE_TOPICS: &[&str] = &[
    SCHEDULE_TOPIC,
    TRANS_HALF_TOPIC,
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
];

const SYSTEM_GROUPS: &[&str] = &[
    TOOLS_CONSUMER,
    "DEFAULT_CONSUMER",
    "DEFAULT_PRODUCER",
    CLIENT_INNER_PRODUCER,
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "SELF_TEST_P_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    "CID_RMQ_SYS_TRANS",
];

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or only blanks.
    #[error("the name is blank")]
    Blank,
    /// A character outside `%|a-zA-Z0-9_-`.
    #[error("the name contains {0:?}; allowed are letters, digits and %|_-")]
    Character(char),
    /// Over the limit for its kind.
    #[error("the name has {length} bytes, at most {max} are allowed")]
    TooLong {
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        max: usize,
    },
}

/// Whether a topic may have this name.
pub fn validate_topic(name: &str) -> Result<(), NameError> {
    let prefixed = name.starts_with(RETRY_PREFIX) || name.starts_with(DLQ_PREFIX);
    validate(
        name,
        if prefixed {
            PREFIXED_TOPIC_BYTES_MAX
        } else {
            TOPIC_BYTES_MAX
        },
    )
}

/// Whether a consumer or producer group may have this name.
pub fn validate_group(name: &str) -> Result<(), NameError> {
    validate(name, GROUP_BYTES_MAX)
}

fn validate(name: &str, max: usize) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Blank);
    }
    if let Some(c) = name
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || "%|_-".contains(*c)))
    {
        return Err(NameError::Character(c));
    }
    if name.len() > max {
        return Err(NameError::TooLong {
            length: name.len(),
            max,
        });
    }
    Ok(())
}

/// Topics that belong to the server: not to be created or deleted by a client.
pub fn is_system_topic(name: &str) -> bool {
    name.starts_with(SYSTEM_PREFIX) || SYSTEM_TOPICS.contains(&name)
}

/// System topics that take no message from a client (code 16).
pub fn is_send_forbidden(name: &str) -> bool {
    UNSENDABLE_TOPICS.contains(&name)
}

/// Consumer groups that belong to the server or to tools.
pub fn is_system_group(name: &str) -> bool {
    name.starts_with(SYSTEM_GROUP_PREFIX) || SYSTEM_GROUPS.contains(&name)
}

/// The retry topic of a consumer group.
pub fn retry_topic(consumer_group: &str) -> String {
    format!("{RETRY_PREFIX}{consumer_group}")
}

/// The dead-letter topic of a consumer group.
pub fn dlq_topic(consumer_group: &str) -> String {
    format!("{DLQ_PREFIX}{consumer_group}")
}

/// The consumer group a retry topic belongs to.
pub fn group_of_retry_topic(topic: &str) -> Option<&str> {
    topic.strip_prefix(RETRY_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_and_prefixed_names() {
        assert_eq!(validate_topic("Orders-2_a|%"), Ok(()));
        assert_eq!(validate_topic("  "), Err(NameError::Blank));
        assert_eq!(validate_topic(""), Err(NameError::Blank));
        assert_eq!(validate_topic("a.b"), Err(NameError::Character('.')));
        assert_eq!(validate_topic("käse"), Err(NameError::Character('ä')));
        assert_eq!(validate_topic(&"a".repeat(127)), Ok(()));
        assert_eq!(
            validate_topic(&"a".repeat(128)),
            Err(NameError::TooLong { length: 128, max: 127 })
        );
        assert_eq!(validate_topic(&retry_topic(&"g".repeat(120))), Ok(()));
        assert_eq!(
            validate_group(&"g".repeat(121)),
            Err(NameError::TooLong { length: 121, max: 120 })
        );
    }

    #[test]
    fn system_names() {
        assert!(is_system_topic("TBW102") && is_system_topic("rmq_sys_wheel_timer") && !is_system_topic("Orders"));
        assert!(is_send_forbidden("SCHEDULE_TOPIC_XXXX") && !is_send_forbidden("TBW102"));
        assert!(is_system_group("CID_RMQ_SYS_X") && !is_system_group("CG"));
        assert_eq!(group_of_retry_topic("%RETRY%CG"), Some("CG"));
        assert_eq!(dlq_topic("CG"), "%DLQ%CG");
    }
}
