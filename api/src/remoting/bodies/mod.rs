//! The JSON bodies of requests and responses.
//!
//! Written compactly, keys in alphabetical order, nothing for what is missing. Read with the tolerance that clients of all
//! languages need: unknown keys, `null` for a list, numbers in quotes, enum names or their ordinals.

mod client;
mod fastjson;
mod offsets;
mod route;
mod table;
mod tolerant;
mod topic;

pub use client::{
    CheckClientRequest, Connection, ConsumeFromWhere, ConsumeType, ConsumerConnection, ConsumerData, ConsumerList,
    GroupList, HeartbeatData, MessageModel, ProducerConnection, ProducerData, ProducerInfo, ProducerTable,
    SubscriptionData,
};
pub use offsets::{
    ConsumeStats, ConsumerOffsets, LockBatchRequest, LockBatchResponse, MessageQueue, OffsetWrapper, ResetOffsets,
    TopicOffset, TopicStatsTable,
};
pub use route::{BrokerData, ClusterInfo, QueueData, TopicRouteData};
pub use table::{BrokerStats, BrokerStatsItem, DataVersion, KvTable, TopicList};
pub use topic::{
    GroupRetryPolicy, SubscriptionGroupConfig, SubscriptionGroupList, SubscriptionGroupTable, TopicConfig,
    TopicConfigList, TopicConfigTable,
};

use bytes::Bytes;

/// A body that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the body is not what the request needs: {0}")]
pub struct BodyError(#[from] serde_json::Error);

/// Reads a body.
pub fn from_bytes<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, BodyError> {
    Ok(serde_json::from_slice(body)?)
}

/// Writes a body of plain JSON.
pub fn to_bytes(body: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(body)
        .expect("these types always have a JSON form")
        .into()
}

/// `from_bytes` and `to_bytes` as methods.
macro_rules! json_body {
    ($($name:ty),* $(,)?) => {$(
        impl $name {
            /// Reads a body.
            pub fn from_bytes(body: &[u8]) -> Result<Self, crate::remoting::bodies::BodyError> {
                crate::remoting::bodies::from_bytes(body)
            }

            /// Writes a body.
            pub fn to_bytes(&self) -> bytes::Bytes {
                crate::remoting::bodies::to_bytes(self)
            }
        }
    )*};
}
use json_body;

#[cfg(test)]
mod tests;
