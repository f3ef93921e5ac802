//! The admin API as a caller sees it: JSON in, JSON out, by one node's address. And `/metrics` as a scraper reads it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::{HeaderMap, Request, header};

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

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub text: String,
    headers: HeaderMap,
}

impl Answer {
    /// A header; empty when it is missing.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }

    /// The body as a document.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| format!("no JSON: {:?}", self.text))
    }
}

/// What `/metrics` told: the value of every name with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics(BTreeMap<(String, BTreeMap<String, String>), f64>);

impl Http {
    /// A caller of this address.
    pub fn new(address: SocketAddr) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(CALL))
            .http_status_as_error(false)
            .build();
        Self {
            base: format!("http://{address}"),
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

    /// Any request; the body is sent as it is, as JSON.
    pub fn request(&self, method: &str, path: &str, body: Option<&str>) -> Result<Answer> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::CONTENT_TYPE, "application/json");
        let answer = match body {
            Some(text) => self.agent.run(request.body(text.to_owned())?),
            None => self.agent.run(request.body(())?),
        };
        let mut answer = answer.with_context(|| format!("{method} {path}"))?;
        let text = answer.body_mut().read_to_string();
        Ok(Answer {
            status: answer.status().as_u16(),
            text: text.with_context(|| format!("read the answer to {method} {path}"))?,
            headers: answer.headers().clone(),
        })
    }

    /// `GET /metrics`, read as strictly as a scraper does.
    pub fn metrics(&self) -> Result<Metrics> {
        let answer = self.request("GET", "/metrics", None)?;
        ensure!(answer.status == 200, "/metrics: {} {}", answer.status, answer.text);
        let kind = answer.header("content-type");
        ensure!(kind.starts_with("text/plain; version=0.0.4"), "/metrics: {kind:?}");
        Metrics::parse(&answer.text)
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

    /// All Raft groups and the nodes that lead them, as this node knows it.
    pub fn leaders(&self) -> Result<BTreeMap<String, Option<String>>> {
        let body = self.get_ok("/v1/groups")?;
        let groups = body["items"].as_array().with_context(|| format!("items in {body}"))?;
        let leader = |group: &Value| {
            let name = group["name"].as_str().with_context(|| format!("name of {group}"))?;
            Ok((name.to_owned(), group["leader"].as_str().map(str::to_owned)))
        };
        groups.iter().map(leader).collect()
    }

    /// The Raft groups that own the queues of a topic.
    pub fn owners(&self, topic: &str) -> Result<Vec<String>> {
        let path = format!("/v1/topics/{topic}/queues");
        let body = self.get_ok(&path)?;
        let queues = body["queues"].as_array().with_context(|| format!("queues in {body}"))?;
        let owner = |queue: &Value| {
            let group = queue["group"].as_str().with_context(|| format!("group of {queue}"))?;
            Ok(group.to_owned())
        };
        queues.iter().map(owner).collect()
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

impl Metrics {
    /// The value of a name with exactly these labels.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.0.get(&(name.to_owned(), labels.collect())).copied()
    }

    /// The sum of all values of a name, whatever their labels.
    pub fn sum(&self, name: &str) -> f64 {
        let of_name = self.0.iter().filter(|((known, _), _)| known == name);
        of_name.map(|(_, value)| value).sum()
    }

    /// Whether there is any value of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.keys().any(|(known, _)| known == name)
    }

    /// Reads the Prometheus text format: every line, every name of one declared kind, every series once.
    fn parse(text: &str) -> Result<Self> {
        ensure!(text.ends_with('\n'), "the last line does not end");
        let mut kinds = BTreeMap::new();
        let mut values = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(comment) = line.strip_prefix("# ") {
                if let ["TYPE", name, kind] = comment.split(' ').collect::<Vec<_>>()[..] {
                    ensure!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                    ensure!(kinds.insert(name, kind).is_none(), "declared again: {line}");
                }
                continue;
            }
            let (name, labels, value) = sample(line).with_context(|| line.to_owned())?;
            ensure!(is_declared(&kinds, name), "not declared: {line}");
            ensure!(
                values.insert((name.to_owned(), labels), value).is_none(),
                "again: {line}"
            );
        }
        Ok(Self(values))
    }
}

fn is_declared(kinds: &BTreeMap<&str, &str>, name: &str) -> bool {
    let parts = ["_bucket", "_sum", "_count"].iter();
    let histogram = parts.filter_map(|part| name.strip_suffix(part));
    kinds.get(name).is_some_and(|kind| *kind != "histogram")
        || histogram.into_iter().any(|name| kinds.get(name) == Some(&"histogram"))
}

/// `name{label="value",…} value`
fn sample(line: &str) -> Result<(&str, BTreeMap<String, String>, f64)> {
    let (name, mut rest) = name(line)?;
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = self::name(rest)?;
            let (value, after) = quoted(after.strip_prefix("=\"").context("a label without a value")?)?;
            ensure!(labels.insert(label.to_owned(), value).is_none(), "{label} twice");
            ensure!(after.starts_with([',', '}']), "after {label}: {after}");
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').context("no value")?;
    Ok((name, labels, value.parse()?))
}

fn name(text: &str) -> Result<(&str, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    ensure!(
        name.starts_with(|first: char| !first.is_ascii_digit()),
        "no name: {text}"
    );
    Ok((name, rest))
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                other => bail!("after a backslash: {other:?}"),
            },
            other => value.push(other),
        }
    }
    bail!("no closing quote: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_to_the_letter() {
        let text = "# HELP a what it is\n# TYPE a gauge\na 1\na{b=\"c,\\\"}\",d=\"\"} -2.5e3\n\
                    # TYPE h histogram\nh_bucket{le=\"+Inf\"} 3\nh_sum 0.5\nh_count 3\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.get("a", &[]), Some(1.0));
        assert_eq!(metrics.get("a", &[("b", "c,\"}"), ("d", "")]), Some(-2500.0));
        assert_eq!(metrics.get("a", &[("b", "c")]), None);
        assert_eq!(metrics.get("h_bucket", &[("le", "+Inf")]), Some(3.0));
        assert!(metrics.has("h_sum") && !metrics.has("h"));
    }

    #[test]
    fn metrics_no_scraper_would_take_are_refused() {
        let wrong = [
            "a",
            "a one",
            "a{b=\"c\"",
            "a{b=c} 1",
            "a{b=\"c\"}1",
            "a{b=\"c\",b=\"d\"} 1",
            "a{b=\"c\"d=\"e\"} 1",
            "a 1\na 1",
            "1a 1",
            "other 1",
            "a 1 2 3",
        ];
        for line in wrong {
            assert!(Metrics::parse(&format!("# TYPE a gauge\n{line}\n")).is_err(), "{line}");
        }
        assert!(Metrics::parse("# TYPE a gauge\na 1").is_err(), "unended line");
        assert!(Metrics::parse("a 1\n").is_err(), "undeclared");
    }
}
