//! The HTTP side of `flotilla admin`: one request, one document.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use ureq::Agent;

/// How long a node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer read.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Talks to the admin API of one node.
#[derive(Debug)]
pub struct AdminClient {
    agent: Agent,
    base: String,
}

impl AdminClient {
    /// `address` is `host:port`, with or without `http://`.
    pub fn new(address: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_TIMEOUT))
            .build();
        let base = if address.contains("://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        Self {
            agent: config.into(),
            base: base.trim_end_matches('/').to_owned(),
        }
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.read(path, self.agent.get(self.url(path)).call())
    }

    /// `PUT` with a document.
    pub fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.read(path, self.agent.put(self.url(path)).send_json(body))
    }

    /// `POST` with a document.
    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.read(path, self.agent.post(self.url(path)).send_json(body))
    }

    /// `POST` with a document to a node that answers once something has happened, or `wait` is over.
    pub fn post_and_wait(&self, path: &str, body: &Value, wait: Duration) -> anyhow::Result<Value> {
        let request = self.agent.post(self.url(path)).config();
        let request = request.timeout_global(Some(ANSWER_TIMEOUT + wait)).build();
        self.read(path, request.send_json(body))
    }

    /// `DELETE`.
    pub fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.read(path, self.agent.delete(self.url(path)).call())
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn read(&self, path: &str, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> anyhow::Result<Value> {
        let mut answer = answer.with_context(|| format!("ask {}{path}", self.base))?;
        let status = answer.status();
        let body = answer
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()
            .context("read the answer")?;
        let document = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).with_context(|| format!("{status}: the answer is not JSON"))?
        };
        if status.is_success() {
            return Ok(document);
        }
        let outcome = document["outcome"]
            .as_str()
            .map(|outcome| format!(" (outcome: {outcome})"))
            .unwrap_or_default();
        bail!("{status}: {}{outcome}", document["detail"].as_str().unwrap_or_default())
    }
}

/// A name as a part of a path.
pub fn path_part(name: &str) -> String {
    encode(name, |byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')
    })
}

fn encode(text: &str, plain: impl Fn(u8) -> bool) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut out, byte| {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_paths() {
        assert_eq!(path_part("%RETRY%g/1"), "%25RETRY%25g%2F1");
        assert_eq!(path_part("a-b_c.d"), "a-b_c.d");
    }
}
