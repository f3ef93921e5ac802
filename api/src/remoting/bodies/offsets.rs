//! Queues with what is known about them: locks, offsets, statistics.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::fastjson::{push_json, table_by_queue};
use super::json_body;
use super::tolerant::{number, or_default, truth};

/// A queue as clients name it. Answer with the very object that was asked about: clients compare all three parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MessageQueue {
    /// Broker name.
    #[serde(deserialize_with = "or_default")]
    pub broker_name: String,
    /// Queue number.
    #[serde(rename = "queueId", deserialize_with = "queue_number")]
    pub queue: i32,
    /// Topic.
    #[serde(deserialize_with = "or_default")]
    pub topic: String,
}

fn queue_number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
    Ok(i32::try_from(number(from)?).unwrap_or(-1))
}

/// Requests 41 and 42.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LockBatchRequest {
    /// Client id.
    #[serde(deserialize_with = "or_default")]
    pub client_id: String,
    /// Consumer group.
    #[serde(deserialize_with = "or_default")]
    pub consumer_group: String,
    /// Queues to lock or unlock.
    #[serde(rename = "mqSet", deserialize_with = "or_default")]
    pub queues: Vec<MessageQueue>,
    /// Set between brokers only.
    #[serde(deserialize_with = "truth")]
    pub only_this_broker: bool,
}

/// The answer to 41.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LockBatchResponse {
    /// Queues the client holds now.
    #[serde(rename = "lockOKMQSet", default, deserialize_with = "or_default")]
    pub queues: Vec<MessageQueue>,
}

/// One queue in the answer to 202.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicOffset {
    /// Store time of the last message.
    pub last_update_timestamp: i64,
    /// Queue offset after the last message.
    pub max_offset: i64,
    /// First queue offset.
    pub min_offset: i64,
}

/// The answer to 202.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TopicStatsTable {
    /// By queue.
    pub offsets: Vec<(MessageQueue, TopicOffset)>,
    /// Messages a second.
    pub topic_put_tps: f64,
}

impl TopicStatsTable {
    /// Writes a body.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = String::from("{\"offsetTable\":");
        table_by_queue(&mut out, self.offsets.iter().map(|(queue, offset)| (queue, offset)));
        out.push_str(",\"topicPutTps\":");
        push_json(&mut out, &self.topic_put_tps);
        out.push('}');
        out.into()
    }
}

/// One queue in the answer to 208.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OffsetWrapper {
    /// Queue offset after the last message.
    pub broker_offset: i64,
    /// Consumer offset; 0 when there is none.
    pub consumer_offset: i64,
    /// Store time of the last message consumed.
    pub last_timestamp: i64,
    /// Where the last pull ended.
    pub pull_offset: i64,
}

/// The answer to 208.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConsumeStats {
    /// Messages a second.
    pub consume_tps: f64,
    /// By queue.
    pub offsets: Vec<(MessageQueue, OffsetWrapper)>,
}

impl ConsumeStats {
    /// Writes a body.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = String::from("{\"consumeTps\":");
        push_json(&mut out, &self.consume_tps);
        out.push_str(",\"offsetTable\":");
        table_by_queue(&mut out, self.offsets.iter().map(|(queue, offset)| (queue, offset)));
        out.push('}');
        out.into()
    }
}

/// The body of 220 and the answer to 222.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResetOffsets {
    /// New offset by queue.
    pub offsets: Vec<(MessageQueue, i64)>,
}

impl ResetOffsets {
    /// Writes the form for Java and Go.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = String::from("{\"offsetTable\":");
        table_by_queue(&mut out, self.offsets.iter().map(|(queue, offset)| (queue, offset)));
        out.push('}');
        out.into()
    }

    /// Writes the form for C++.
    pub fn to_cpp_bytes(&self) -> Bytes {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Entry<'a> {
            broker_name: &'a str,
            offset: i64,
            queue_id: i32,
            topic: &'a str,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            offset_table: Vec<Entry<'a>>,
        }
        let entry = |(queue, offset): &'_ (MessageQueue, i64)| (queue.clone(), *offset);
        let table: Vec<_> = self.offsets.iter().map(entry).collect();
        let offset_table = table
            .iter()
            .map(|(queue, offset)| Entry {
                broker_name: &queue.broker_name,
                offset: *offset,
                queue_id: queue.queue,
                topic: &queue.topic,
            })
            .collect();
        super::to_bytes(&Body { offset_table })
    }
}

/// The answer to 43: offsets by `topic@group`, then by queue number.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerOffsets {
    /// By `topic@group` and queue number.
    #[serde(rename = "offsetTable", deserialize_with = "or_default")]
    pub offsets: BTreeMap<String, BTreeMap<u32, i64>>,
}

json_body!(LockBatchRequest, LockBatchResponse, ConsumerOffsets);
