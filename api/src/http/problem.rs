//! What went wrong, as `application/problem+json`.

use serde::{Deserialize, Serialize};

/// A problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind of problem: `about:blank` when the status says it.
    #[serde(rename = "type", default = "about_blank")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether a write happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// What became of a write that was not answered with success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It certainly did not happen.
    Refused,
    /// It may have happened.
    Unknown,
}

fn about_blank() -> String {
    "about:blank".to_owned()
}

impl Problem {
    /// The content type of problem documents.
    pub const CONTENT_TYPE: &'static str = "application/problem+json";

    /// A problem with a status, its name and what happened.
    pub fn new(status: u16, detail: impl Into<String>) -> Problem {
        let title = match status {
            400 => "malformed request",
            404 => "not found",
            409 => "conflict",
            413 => "too large",
            429 => "too many requests",
            503 => "not available",
            _ => "error",
        };
        Problem {
            kind: about_blank(),
            title: title.to_owned(),
            status,
            detail: Some(detail.into()),
            outcome: None,
        }
    }

    /// With what became of the write.
    pub fn with_outcome(mut self, outcome: Outcome) -> Problem {
        self.outcome = Some(outcome);
        self
    }
}
