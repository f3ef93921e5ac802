//! Who is there: heartbeats, connections, members of groups.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::json_body;
use super::tolerant::{number, one_of, or_default, truth};

/// An enum that clients send by name or by ordinal.
macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident default $default:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            /// All of them, by ordinal.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// The name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The number C++ clients send.
            pub fn ordinal(self) -> u8 {
                self as u8
            }

            /// The one with this number.
            pub fn from_ordinal(ordinal: u8) -> Option<$name> {
                $name::ALL.get(usize::from(ordinal)).copied()
            }
        }

        impl Default for $name {
            fn default() -> $name {
                $name::$default
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<$name, D::Error> {
                Ok(one_of(from, &[$($text),*])?.map_or($name::$default, |at| $name::ALL[at]))
            }
        }
    };
}

wire_enum! {
    /// Who asks for messages: the application, the client library, or a POP client.
    ConsumeType default Passively {
        /// Pull.
        Actively = "CONSUME_ACTIVELY",
        /// Push.
        Passively = "CONSUME_PASSIVELY",
        /// POP.
        Pop = "CONSUME_POP",
    }
}

wire_enum! {
    /// Whether members share the messages or each gets all.
    MessageModel default Clustering {
        /// Each gets all.
        Broadcasting = "BROADCASTING",
        /// They share.
        Clustering = "CLUSTERING",
    }
}

wire_enum! {
    /// Where a new consumer group starts.
    ConsumeFromWhere default LastOffset {
        /// At the end.
        LastOffset = "CONSUME_FROM_LAST_OFFSET",
        /// Deprecated.
        LastOffsetAndMinWhenBootFirst = "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
        /// Deprecated.
        MinOffset = "CONSUME_FROM_MIN_OFFSET",
        /// Deprecated.
        MaxOffset = "CONSUME_FROM_MAX_OFFSET",
        /// At the beginning.
        FirstOffset = "CONSUME_FROM_FIRST_OFFSET",
        /// At a store time.
        Timestamp = "CONSUME_FROM_TIMESTAMP",
    }
}

/// Request 34: everything a client instance takes part in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HeartbeatData {
    /// Client id.
    #[serde(rename = "clientID", deserialize_with = "or_default")]
    pub client_id: String,
    /// Consumer groups.
    #[serde(rename = "consumerDataSet", deserialize_with = "or_default")]
    pub consumers: Vec<ConsumerData>,
    /// Fingerprint of the subscriptions; 0 for the first version of heartbeats.
    #[serde(rename = "heartbeatFingerprint", deserialize_with = "number")]
    pub fingerprint: i64,
    /// Producer groups.
    #[serde(rename = "producerDataSet", deserialize_with = "or_default")]
    pub producers: Vec<ProducerData>,
    /// Whether subscriptions were left out because they did not change.
    #[serde(rename = "withoutSub", deserialize_with = "truth")]
    pub without_subscriptions: bool,
}

/// A producer group in a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProducerData {
    /// Producer group.
    #[serde(rename = "groupName", deserialize_with = "or_default")]
    pub group_name: String,
}

/// A consumer group in a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerData {
    /// Where a new group starts.
    pub consume_from_where: ConsumeFromWhere,
    /// Pull, push or POP.
    pub consume_type: ConsumeType,
    /// Consumer group.
    #[serde(deserialize_with = "or_default")]
    pub group_name: String,
    /// Clustering or broadcasting.
    pub message_model: MessageModel,
    /// What it subscribes to.
    #[serde(rename = "subscriptionDataSet", deserialize_with = "or_default")]
    pub subscriptions: Vec<SubscriptionData>,
    /// Unit mode.
    #[serde(deserialize_with = "truth")]
    pub unit_mode: bool,
}

/// One subscription. The tag hashes clients send are wrong in two of three languages: compute them from the expression.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SubscriptionData {
    /// Class filters are no longer supported.
    #[serde(deserialize_with = "truth")]
    pub class_filter_mode: bool,
    /// Hashes of the tags, written for tools, ignored on reading.
    #[serde(skip_deserializing)]
    pub code_set: Vec<i32>,
    /// `TAG` or `SQL92`; `TAG` where the client leaves it out.
    #[serde(default = "tag_expression", deserialize_with = "expression_type")]
    pub expression_type: String,
    /// The expression.
    #[serde(deserialize_with = "or_default")]
    pub sub_string: String,
    /// Version: milliseconds, nanoseconds from Go.
    #[serde(deserialize_with = "number")]
    pub sub_version: i64,
    /// The tags.
    #[serde(deserialize_with = "or_default")]
    pub tags_set: Vec<String>,
    /// Topic.
    #[serde(deserialize_with = "or_default")]
    pub topic: String,
}

impl SubscriptionData {
    /// Whether the expression is a list of tags.
    pub fn is_tag(&self) -> bool {
        self.expression_type.is_empty() || self.expression_type == "TAG"
    }
}

fn tag_expression() -> String {
    "TAG".to_owned()
}

fn expression_type<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(from)?
        .filter(|text| !text.is_empty())
        .unwrap_or_else(tag_expression))
}

/// The answer to 38.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConsumerList {
    /// Client ids of the members.
    #[serde(rename = "consumerIdList", default, deserialize_with = "or_default")]
    pub client_ids: Vec<String>,
}

/// The answer to 300.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupList {
    /// Consumer groups.
    #[serde(rename = "groupList", default, deserialize_with = "or_default")]
    pub groups: Vec<String>,
}

/// Request 46: can this expression be used?
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CheckClientRequest {
    /// Client id.
    #[serde(deserialize_with = "or_default")]
    pub client_id: String,
    /// Consumer group.
    #[serde(rename = "group", deserialize_with = "or_default")]
    pub consumer_group: String,
    /// The subscription in question.
    #[serde(deserialize_with = "or_default")]
    pub subscription_data: SubscriptionData,
}

/// One connection of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Connection {
    /// Address it comes from.
    pub client_addr: String,
    /// Client id.
    pub client_id: String,
    /// Language name.
    pub language: String,
    /// Protocol version.
    pub version: i32,
}

/// The answer to 203.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerConnection {
    /// Connections of the members.
    #[serde(rename = "connectionSet")]
    pub connections: Vec<Connection>,
    /// Where a new group starts.
    pub consume_from_where: ConsumeFromWhere,
    /// Pull, push or POP.
    pub consume_type: ConsumeType,
    /// Clustering or broadcasting.
    pub message_model: MessageModel,
    /// By topic.
    #[serde(rename = "subscriptionTable")]
    pub subscriptions: BTreeMap<String, SubscriptionData>,
}

/// The answer to 204.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProducerConnection {
    /// Connections of the members.
    #[serde(rename = "connectionSet", default)]
    pub connections: Vec<Connection>,
}

/// One producer in the answer to 328.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProducerInfo {
    /// Client id.
    pub client_id: String,
    /// Language name.
    pub language: String,
    /// Last heard of, milliseconds since 1970.
    pub last_update_timestamp: i64,
    /// Address it comes from.
    #[serde(rename = "remoteIP")]
    pub remote_ip: String,
    /// Protocol version.
    pub version: i32,
}

/// The answer to 328.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProducerTable {
    /// By producer group.
    #[serde(default)]
    pub data: BTreeMap<String, Vec<ProducerInfo>>,
}

json_body!(
    HeartbeatData,
    ConsumerList,
    GroupList,
    CheckClientRequest,
    ConsumerConnection,
    ProducerConnection,
    ProducerTable,
);
