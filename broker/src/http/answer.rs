//! A successful answer: status, JSON, and how new it is.

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The header that carries how new an answer is: the last log index it reflects.
pub const EPOCH_HEADER: HeaderName = HeaderName::from_static("flotilla-epoch");

/// What an operation gives back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The document; `Null` for none.
    pub body: Value,
    /// The last log index it reflects.
    pub epoch: u64,
}

impl Answer {
    /// 200 with a document.
    pub fn ok(body: Value, epoch: u64) -> Self {
        Self {
            status: StatusCode::OK.as_u16(),
            body,
            epoch,
        }
    }

    /// Marks the answer as this node's copy, which may be behind.
    pub fn stale(mut self) -> Self {
        if let Value::Object(fields) = &mut self.body {
            fields.insert("stale".to_owned(), Value::Bool(true));
        }
        self
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let epoch = [(EPOCH_HEADER, self.epoch.to_string())];
        if self.body.is_null() {
            return (status, epoch).into_response();
        }
        let body = serde_json::to_vec(&self.body).unwrap_or_default();
        (status, epoch, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}
