//! Moves of queues over the HTTP API, and what they came to.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::http::Http;
use crate::wait;

/// The topic under which the coordinators of consumer groups move.
pub const SLOTS: &str = "rmq_sys_coordinator_slots";

/// The steps of a move, as the product names them in `fail_point.rs`: old leader, new leader, leading controller.
pub const STEPS: [&str; 11] = [
    "move-taken-up",
    "reserve-asked",
    "reserved",
    "seal-next",
    "sealed",
    "open-asked",
    "opened",
    "open-heard",
    "end-asked",
    "end-logged",
    "start-logged",
];

/// One finished move.
#[derive(Clone, Debug)]
pub struct Moved {
    /// Its number.
    pub id: u64,
    /// Whose queue it was.
    pub topic: String,
    /// `done` or `cancelled`.
    pub state: String,
    /// How long nobody could write, in milliseconds.
    pub writer_pause_ms: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Stored bytes that were copied.
    pub bytes_copied: u64,
}

fn read(document: &Value) -> Result<Moved> {
    let number = |name: &str| document[name].as_u64();
    Ok(Moved {
        id: number("id").with_context(|| format!("id in {document}"))?,
        topic: document["topic"].as_str().unwrap_or_default().to_owned(),
        state: document["state"].as_str().unwrap_or_default().to_owned(),
        writer_pause_ms: number("writer_pause_ms").unwrap_or(0),
        duration_ms: number("duration_ms").unwrap_or(0),
        bytes_copied: number("bytes_copied").unwrap_or(u64::MAX),
    })
}

/// Makes a topic whose queues all lie in one Raft group, to which it is not bound.
pub fn topic_in(http: &Http, topic: &str, queues: u32, group: &str) -> Result<()> {
    let path = format!("/v1/topics/{topic}");
    for (expected, groups) in [(201, json!([group])), (200, json!([]))] {
        let settings = json!({ "queues": queues, "groups": groups });
        let (status, document) = http.put(&path, &settings)?;
        ensure!(status == expected, "PUT {path} {settings}: {status} {document}");
    }
    Ok(())
}

/// Asks for a move of one queue and returns its number.
pub fn start(http: &Http, topic: &str, queue: u32, group: &str) -> Result<u64> {
    let path = format!("/v1/topics/{topic}/queues/{queue}/move");
    let (status, document) = http.post(&path, &json!({ "group": group }))?;
    ensure!(status == 202 || status == 200, "POST {path}: {status} {document}");
    Ok(read(&document)?.id)
}

/// Asks for something that starts several moves (`rebalance`, `drain`) and returns their numbers.
pub fn start_all(http: &Http, path: &str, body: &Value) -> Result<Vec<u64>> {
    let (status, document) = http.post(path, body)?;
    ensure!(status == 202 || status == 200, "POST {path}: {status} {document}");
    let moves = document["moves"]
        .as_array()
        .with_context(|| format!("moves in {document}"))?;
    moves.iter().map(|one| Ok(read(one)?.id)).collect()
}

/// Waits until these moves ended, and tells how.
pub fn await_ended(http: &Http, ids: &[u64], limit: Duration) -> Result<Vec<Moved>> {
    let mut ended = Vec::new();
    for id in ids {
        let path = format!("/v1/moves/{id}");
        ended.push(wait::until(&format!("move {id} ended"), limit, || {
            let moved = read(&http.get_ok(&path)?)?;
            Ok((moved.state == "done" || moved.state == "cancelled").then_some(moved))
        })?);
    }
    Ok(ended)
}

/// Asks for something that starts several moves, and waits until all of it is done: what is left over is asked for
/// again.
pub fn carry_out(http: &Http, path: &str, limit: Duration) -> Result<Vec<Moved>> {
    let mut all = Vec::new();
    loop {
        let ids = start_all(http, path, &json!({}))?;
        if ids.is_empty() {
            return Ok(all);
        }
        let ended = await_ended(http, &ids, limit)?;
        ensure!(ended.iter().all(|one| one.state == "done"), "{path}: {ended:?}");
        all.extend(ended);
    }
}
