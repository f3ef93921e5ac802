//! `/openapi.json`: written by hand, and compared with the paths that are served by a test.

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// The document.
pub const OPENAPI: &str = include_str!("openapi.json");

/// `GET /openapi.json`.
pub async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}
