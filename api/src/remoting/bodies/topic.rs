//! Configuration of topics and consumer groups.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::json_body;
use super::table::DataVersion;
use super::tolerant::or_default;

/// A topic as tools see it; the answer to 351.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicConfig {
    /// Attributes such as `message.type`; never null for tools.
    #[serde(deserialize_with = "or_default")]
    pub attributes: BTreeMap<String, String>,
    /// Order topic.
    pub order: bool,
    /// Permission bits, see [`crate::route`].
    pub perm: i32,
    /// Queues to read from.
    #[serde(rename = "readQueueNums")]
    pub read_queues: u32,
    /// `SINGLE_TAG` or `MULTI_TAG`.
    #[serde(deserialize_with = "or_default")]
    pub topic_filter_type: String,
    /// Topic.
    #[serde(deserialize_with = "or_default")]
    pub topic_name: String,
    /// Unit bits.
    pub topic_sys_flag: i32,
    /// Queues to write to.
    #[serde(rename = "writeQueueNums")]
    pub write_queues: u32,
}

impl Default for TopicConfig {
    fn default() -> TopicConfig {
        TopicConfig {
            attributes: BTreeMap::new(),
            order: false,
            perm: 6,
            read_queues: 8,
            topic_filter_type: "SINGLE_TAG".to_owned(),
            topic_name: String::new(),
            topic_sys_flag: 0,
            write_queues: 8,
        }
    }
}

/// Request 18.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TopicConfigList {
    /// Topics to create or change.
    #[serde(rename = "topicConfigList", default, deserialize_with = "or_default")]
    pub topics: Vec<TopicConfig>,
}

/// The answer to 21.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicConfigTable {
    /// Version of the topics.
    pub data_version: DataVersion,
    /// Version of static topics; there are none.
    pub mapping_data_version: DataVersion,
    /// By topic.
    #[serde(rename = "topicConfigTable", deserialize_with = "or_default")]
    pub topics: BTreeMap<String, TopicConfig>,
    /// Static topics: none.
    #[serde(deserialize_with = "or_default")]
    pub topic_queue_mapping_detail_map: BTreeMap<String, serde_json::Value>,
    /// Static topics: none.
    #[serde(deserialize_with = "or_default")]
    pub topic_queue_mapping_info_map: BTreeMap<String, serde_json::Value>,
}

/// How long a message waits before it is consumed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRetryPolicy {
    /// `CUSTOMIZED` or `EXPONENTIAL`.
    #[serde(rename = "type", default = "customized")]
    pub kind: String,
    /// The rest, as the tool wrote it.
    #[serde(flatten)]
    pub settings: BTreeMap<String, serde_json::Value>,
}

fn customized() -> String {
    "CUSTOMIZED".to_owned()
}

impl Default for GroupRetryPolicy {
    fn default() -> GroupRetryPolicy {
        GroupRetryPolicy {
            kind: customized(),
            settings: BTreeMap::new(),
        }
    }
}

/// A consumer group as tools see it; request 200, the answer to 352.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SubscriptionGroupConfig {
    /// Attributes; none is defined.
    #[serde(deserialize_with = "or_default")]
    pub attributes: BTreeMap<String, String>,
    /// Broker to consume from.
    pub broker_id: i64,
    /// Whether broadcasting is allowed.
    pub consume_broadcast_enable: bool,
    /// Whether consuming is allowed.
    pub consume_enable: bool,
    /// Whether a new group may start at the beginning.
    pub consume_from_min_enable: bool,
    /// Whether messages are delivered one after the other.
    pub consume_message_orderly: bool,
    /// Minutes a message may take.
    pub consume_timeout_minute: i32,
    /// Consumer group.
    #[serde(deserialize_with = "or_default")]
    pub group_name: String,
    /// How long a message waits before it is consumed again.
    #[serde(deserialize_with = "or_default")]
    pub group_retry_policy: GroupRetryPolicy,
    /// Unit bits.
    pub group_sys_flag: i32,
    /// Whether members are told of changes.
    pub notify_consumer_ids_changed_enable: bool,
    /// Times a message is consumed again before it is a dead letter.
    pub retry_max_times: i32,
    /// Queues of the retry topic.
    pub retry_queue_nums: i32,
    /// Broker to consume from when this one is slow.
    pub which_broker_when_consume_slowly: i64,
}

impl Default for SubscriptionGroupConfig {
    fn default() -> SubscriptionGroupConfig {
        SubscriptionGroupConfig {
            attributes: BTreeMap::new(),
            broker_id: 0,
            consume_broadcast_enable: true,
            consume_enable: true,
            consume_from_min_enable: true,
            consume_message_orderly: false,
            consume_timeout_minute: 15,
            group_name: String::new(),
            group_retry_policy: GroupRetryPolicy::default(),
            group_sys_flag: 0,
            notify_consumer_ids_changed_enable: true,
            retry_max_times: 16,
            retry_queue_nums: 1,
            which_broker_when_consume_slowly: 1,
        }
    }
}

/// Request 225.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SubscriptionGroupList {
    /// Groups to create or change.
    #[serde(rename = "groupConfigList", default, deserialize_with = "or_default")]
    pub groups: Vec<SubscriptionGroupConfig>,
}

/// The answer to 201.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SubscriptionGroupTable {
    /// Version of the groups.
    pub data_version: DataVersion,
    /// Forbidden bits by group and topic.
    #[serde(deserialize_with = "or_default")]
    pub forbidden_table: BTreeMap<String, BTreeMap<String, i32>>,
    /// By group.
    #[serde(rename = "subscriptionGroupTable", deserialize_with = "or_default")]
    pub groups: BTreeMap<String, SubscriptionGroupConfig>,
}

json_body!(
    TopicConfig,
    TopicConfigList,
    TopicConfigTable,
    SubscriptionGroupConfig,
    SubscriptionGroupList,
    SubscriptionGroupTable,
);
