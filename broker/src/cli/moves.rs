//! The part of `flotilla admin` that moves queues between Raft groups, and waits until that is done.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Subcommand;
use serde_json::{Value, json};

use super::admin_client::{AdminClient, path_part};
use super::table::Column;
use crate::http::{MOVE_WAIT_MAX, parse_duration};

/// Between two looks at what remains.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How often a drain is asked for again: there may be moves that could not be started, or that were cancelled.
const DRAIN_AGAIN: Duration = Duration::from_secs(5);

pub(super) const MOVES: &[Column] = &[
    ("move", "id"),
    ("topic", "topic"),
    ("queue", "queue"),
    ("from", "from"),
    ("to", "to"),
    ("state", "state"),
    ("pause ms", "writer_pause_ms"),
    ("duration ms", "duration_ms"),
    ("end", "end_offset"),
    ("bytes copied", "bytes_copied"),
    ("reason", "reason"),
];

const PLANNED_GROUPS: &[Column] = &[
    ("group", "group"),
    ("queues", "queues_before"),
    ("then", "queues_after"),
    ("messages/s", "rate_before.messages"),
    ("then", "rate_after.messages"),
    ("bytes/s", "rate_before.bytes"),
    ("then", "rate_after.bytes"),
];
const PLANNED_MOVES: &[Column] = &[
    ("topic", "topic"),
    ("queue", "queue"),
    ("from", "from"),
    ("to", "to"),
    ("reason", "reason"),
];
/// What a dry run shows.
pub(super) const PLAN: &[(&str, &[Column])] = &[("groups", PLANNED_GROUPS), ("moves", PLANNED_MOVES)];

#[derive(Debug, Subcommand)]
pub(super) enum QueueChange {
    /// Move a queue to a Raft group. No message is copied.
    Move {
        /// Topic.
        topic: String,
        /// Queue.
        queue: u32,
        /// Raft group.
        group: String,
        /// Wait so long until it is done, such as 10s; a minute at most.
        #[arg(long, value_name = "TIME")]
        wait: Option<String>,
    },
}

impl QueueChange {
    pub(super) fn ask(self, client: &AdminClient) -> anyhow::Result<Value> {
        let Self::Move {
            topic,
            queue,
            group,
            wait,
        } = self;
        let mut path = format!("/v1/topics/{}/queues/{queue}/move", path_part(&topic));
        let mut patience = Duration::ZERO;
        if let Some(wait) = wait {
            let wait_ms = parse_duration(&wait);
            let wait_ms = wait_ms.with_context(|| format!("--wait: `{wait}` is not a duration such as 10s"))?;
            patience = Duration::from_millis(wait_ms).min(MOVE_WAIT_MAX);
            path.push_str(&format!("?wait={wait}"));
        }
        client.post_and_wait(&path, &json!({ "group": group }), patience)
    }
}

/// The moves, or one of them.
pub(super) fn moves(client: &AdminClient, id: Option<u64>) -> anyhow::Result<Value> {
    match id {
        Some(id) => client.get(&format!("/v1/moves/{id}")),
        None => client.get("/v1/moves"),
    }
}

/// Starts what evens out the queues, and waits until those moves have ended if that is asked for.
pub(super) fn rebalance(client: &AdminClient, dry_run: bool, wait: bool) -> anyhow::Result<Value> {
    let started = client.post("/v1/rebalance", &json!({ "dry_run": dry_run }))?;
    if wait {
        let mut progress = Progress::default();
        while progress.remains(under_way(client, &started)?, "moves under way") {
            sleep(LOOK_INTERVAL);
        }
    }
    Ok(started)
}

/// How many of the moves that were started have not ended.
fn under_way(client: &AdminClient, started: &Value) -> anyhow::Result<u64> {
    let all = client.get("/v1/moves")?;
    let ids = |document: &Value, which: fn(&Value) -> bool| -> Vec<u64> {
        let moves = document["moves"].as_array().into_iter().flatten();
        moves
            .filter(|known| which(known))
            .filter_map(|known| known["id"].as_u64())
            .collect()
    };
    let begun = ids(started, |_| true);
    let going = ids(&all, |known| known["state"] != "done" && known["state"] != "cancelled");
    Ok(going.iter().filter(|id| begun.contains(id)).count() as u64)
}

/// Has all queues leave a Raft group, and waits until none is open there if that is asked for.
pub(super) fn drain(client: &AdminClient, group: &str, wait: bool) -> anyhow::Result<Value> {
    let group = format!("/v1/groups/{}", path_part(group));
    let started = ask_drain(client, &group)?;
    if wait {
        await_drained(client, &group)?;
    }
    Ok(started)
}

fn ask_drain(client: &AdminClient, group: &str) -> anyhow::Result<Value> {
    client.post(&format!("{group}/drain"), &json!({}))
}

fn await_drained(client: &AdminClient, group: &str) -> anyhow::Result<()> {
    let mut asked = Instant::now();
    let mut progress = Progress::default();
    loop {
        let shown = client.get(group)?;
        ensure!(shown["draining"] == true, "the group was reopened");
        let open = |what: &str| {
            let open = shown[what].as_u64();
            open.with_context(|| format!("the answer does not say {what}"))
        };
        let left = open("open_queues")? + open("coordinator_slots")?;
        if !progress.remains(left, "open queues and slots") {
            return Ok(());
        }
        if asked.elapsed() >= DRAIN_AGAIN {
            ask_drain(client, group)?;
            asked = Instant::now();
        }
        sleep(LOOK_INTERVAL);
    }
}

/// Lets a Raft group get queues again.
pub(super) fn reopen(client: &AdminClient, group: &str) -> anyhow::Result<Value> {
    client.post(&format!("/v1/groups/{}/reopen", path_part(group)), &json!({}))?;
    client.get(&format!("/v1/groups/{}", path_part(group)))
}

/// Says on the error output how many remain, whenever that has changed; nothing if none remain from the start.
#[derive(Default)]
pub(super) struct Progress(Option<u64>);

impl Progress {
    /// Whether any remain.
    pub(super) fn remains(&mut self, count: u64, what: &str) -> bool {
        if self.0.replace(count).unwrap_or(0) != count {
            eprintln!("{count} {what}");
        }
        count > 0
    }
}
