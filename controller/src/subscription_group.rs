//! Settings of subscription groups (RocketMQ: `SubscriptionGroupConfig`). A group without a record has the defaults;
//! the first of its members makes the record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The settings of one group; defaults are RocketMQ's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionGroupConfig {
    /// Name.
    pub name: String,
    /// False stops consumption.
    pub consume_enable: bool,
    /// Whether a new group may start at the queue's minimum.
    pub consume_from_min_enable: bool,
    /// Whether broadcasting members are allowed.
    pub consume_broadcast_enable: bool,
    /// Ordered POP consumption.
    pub consume_message_orderly: bool,
    /// Queues of the retry topic.
    pub retry_queues: u32,
    /// Attempts before a message goes to the dead-letter topic.
    pub retry_times_max: i32,
    /// Seen by clients, not used here.
    pub broker_id: i64,
    /// Seen by clients, not used here.
    pub which_broker_when_consume_slowly: i64,
    /// Whether members are told to rebalance at once.
    pub notify_membership_changes: bool,
    /// Seen by clients.
    pub consume_timeout_minutes: i32,
    /// Unit bits.
    pub sys_flag: i32,
    /// RocketMQ's `groupRetryPolicy` as JSON text; `None`: the default delays.
    pub retry_policy: Option<String>,
    /// RocketMQ's attributes.
    pub attributes: BTreeMap<String, String>,
}

impl SubscriptionGroupConfig {
    /// The defaults under this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            consume_enable: true,
            consume_from_min_enable: true,
            consume_broadcast_enable: true,
            consume_message_orderly: false,
            retry_queues: 1,
            retry_times_max: 16,
            broker_id: 0,
            which_broker_when_consume_slowly: 1,
            notify_membership_changes: true,
            consume_timeout_minutes: 15,
            sys_flag: 0,
            retry_policy: None,
            attributes: BTreeMap::new(),
        }
    }
}
