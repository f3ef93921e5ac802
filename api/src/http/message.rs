//! Messages over HTTP.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /v1/messages`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Message {
    /// Topic.
    pub topic: String,
    /// Queue number.
    pub queue: u32,
    /// Queue offset.
    pub offset: i64,
    /// Offset message id.
    pub message_id: String,
    /// Body.
    pub body_base64: String,
    /// Tag.
    pub tag: Option<String>,
    /// Keys.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Properties.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    /// When it was made, milliseconds since 1970.
    pub born_at: i64,
    /// When it was stored, milliseconds since 1970.
    pub stored_at: i64,
    /// Raft group that holds it.
    pub group: String,
}

/// `POST /v1/topics/{topic}/messages`: a body, as text or in base64.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SendRequest {
    /// Body as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Body in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// Tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Keys.
    pub keys: Vec<String>,
    /// Properties.
    pub properties: BTreeMap<String, String>,
    /// Messages of one key stay in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<String>,
    /// Queue number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
}

/// Where a message went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SendReceipt {
    /// Offset message id.
    pub message_id: String,
    /// Queue number.
    pub queue: u32,
    /// Queue offset.
    pub offset: i64,
}
