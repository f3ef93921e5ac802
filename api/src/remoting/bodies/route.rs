//! Routes: which broker names a topic has and where they are reached.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::json_body;
use super::tolerant::or_default;

/// The answer to 105. Written without blanks and with quoted numbers as keys, which every client reads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicRouteData {
    /// Addresses by broker name.
    #[serde(rename = "brokerDatas", deserialize_with = "or_default")]
    pub brokers: Vec<BrokerData>,
    /// Always empty.
    #[serde(deserialize_with = "or_default")]
    pub filter_server_table: BTreeMap<String, Vec<String>>,
    /// Order configuration; would switch producers to another list of queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_topic_conf: Option<String>,
    /// Queues by broker name.
    #[serde(rename = "queueDatas", deserialize_with = "or_default")]
    pub queues: Vec<QueueData>,
}

/// Where a broker name is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BrokerData {
    /// Address by broker id; 0 is the one to write to.
    #[serde(rename = "brokerAddrs", deserialize_with = "or_default")]
    pub addresses: BTreeMap<i64, String>,
    /// Broker name.
    pub broker_name: String,
    /// Cluster name.
    pub cluster: String,
    /// Whether another id stands in for a missing 0.
    pub enable_acting_master: bool,
    /// Zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_name: Option<String>,
}

/// The queues a topic has under one broker name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueueData {
    /// Broker name.
    pub broker_name: String,
    /// Permission bits, see [`crate::route`].
    pub perm: i32,
    /// Queues to read from.
    #[serde(rename = "readQueueNums")]
    pub read_queues: u32,
    /// Unit bits.
    pub topic_sys_flag: i32,
    /// Queues to write to.
    #[serde(rename = "writeQueueNums")]
    pub write_queues: u32,
}

/// The answer to 106.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterInfo {
    /// By broker name.
    #[serde(rename = "brokerAddrTable", deserialize_with = "or_default")]
    pub brokers: BTreeMap<String, BrokerData>,
    /// Broker names by cluster name.
    #[serde(rename = "clusterAddrTable", deserialize_with = "or_default")]
    pub clusters: BTreeMap<String, Vec<String>>,
}

json_body!(TopicRouteData, ClusterInfo);
