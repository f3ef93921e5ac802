//! The admin API as a caller sees it: JSON in, JSON out, by one node's address.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use ureq::Agent;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(15);

/// The HTTP address of one node.
#[derive(Clone)]
pub struct Http {
    base: String,
    agent: Agent,
}

/// One replica's digest: at which log index, and its value as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The replica's node.
    pub node: String,
    /// The log index of the digest point.
    pub index: u64,
    /// The digest.
    pub value: String,
}

impl Http {
    /// A caller of `127.0.0.1:port`.
    pub fn new(port: u16) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(CALL))
            .http_status_as_error(false)
            .build();
        Self {
            base: format!("http://127.0.0.1:{port}"),
            agent: config.into(),
        }
    }

    /// `GET`: status and body.
    pub fn get(&self, path: &str) -> Result<(u16, Value)> {
        read(self.agent.get(format!("{}{path}", self.base)).call(), path)
    }

    /// `POST`: status and body.
    pub fn post(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        read(self.agent.post(format!("{}{path}", self.base)).send_json(body), path)
    }

    /// `PUT`: status and body.
    pub fn put(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        read(self.agent.put(format!("{}{path}", self.base)).send_json(body), path)
    }

    /// `GET` that must succeed.
    pub fn get_ok(&self, path: &str) -> Result<Value> {
        let (status, body) = self.get(path)?;
        ensure!(status == 200, "GET {path}: {status} {body}");
        Ok(body)
    }

    /// Whether the node says it is ready for clients.
    pub fn is_ready(&self) -> Result<bool> {
        Ok(self.get("/readyz")?.0 == 200)
    }

    /// Creates a topic.
    pub fn create_topic(&self, topic: &str, queues: u32) -> Result<()> {
        let path = format!("/v1/topics/{topic}");
        let (status, body) = self.put(&path, &json!({ "queues": queues }))?;
        ensure!(status == 200 || status == 201, "PUT {path}: {status} {body}");
        Ok(())
    }

    /// The node that leads a Raft group, as this node knows it.
    pub fn leader(&self, group: &str) -> Result<Option<String>> {
        let body = self.get_ok(&format!("/v1/groups/{group}"))?;
        Ok(body["leader"].as_str().map(str::to_owned))
    }

    /// Logs a digest point and returns the digests that the replicas computed at it.
    pub fn digests(&self, group: &str) -> Result<Vec<Digest>> {
        let path = format!("/v1/groups/{group}/digest");
        let (status, body) = self.post(&path, &json!({}))?;
        ensure!(status == 200, "POST {path}: {status} {body}");
        let Some(members) = body["members"].as_array() else {
            bail!("POST {path}: no members in {body}")
        };
        members
            .iter()
            .filter(|member| !member["digest"].is_null())
            .map(|member| {
                let digest = &member["digest"];
                Ok(Digest {
                    node: member["node"].as_str().context("node of a member")?.to_owned(),
                    index: digest["index"].as_u64().with_context(|| format!("index of {digest}"))?,
                    value: digest["value"].to_string(),
                })
            })
            .collect()
    }
}

fn read(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>, path: &str) -> Result<(u16, Value)> {
    let mut answer = answer.with_context(|| path.to_owned())?;
    let status = answer.status().as_u16();
    let text = answer
        .body_mut()
        .read_to_string()
        .with_context(|| format!("read the answer to {path}"))?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}
