//! Small bodies: lists of topics, tables of texts, counters.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::json_body;
use super::tolerant::or_default;

/// The answer to 206, 224, 304, 305 and 343.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicList {
    /// A broker that knows more.
    #[serde(rename = "brokerAddr", skip_serializing_if = "Option::is_none")]
    pub broker_address: Option<String>,
    /// Topics.
    #[serde(rename = "topicList", deserialize_with = "or_default")]
    pub topics: Vec<String>,
}

/// The answer to 28 and 219.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KvTable {
    /// Texts by key.
    #[serde(default, deserialize_with = "or_default")]
    pub table: BTreeMap<String, String>,
}

/// The version of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DataVersion {
    /// Changes since the start.
    pub counter: i64,
    /// Term of the server.
    pub state_version: i64,
    /// Last change, milliseconds since 1970.
    pub timestamp: i64,
}

/// One span in the answer to 315.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BrokerStatsItem {
    /// Mean per call.
    pub avgpt: f64,
    /// Count.
    pub sum: i64,
    /// Per second.
    pub tps: f64,
}

/// The answer to 315.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BrokerStats {
    /// The last day.
    #[serde(rename = "statsDay")]
    pub day: BrokerStatsItem,
    /// The last hour.
    #[serde(rename = "statsHour")]
    pub hour: BrokerStatsItem,
    /// The last minute.
    #[serde(rename = "statsMinute")]
    pub minute: BrokerStatsItem,
}

json_body!(TopicList, KvTable, DataVersion, BrokerStats);
