//! The row about queues that move to another Raft group while they are written.

use serde_json::Value;

use super::super::send;
use super::cluster::Cluster;
use super::row::{Goal, Row, median_of};
use super::traffic;

const TOPIC: &str = "moving";
const QUEUES: u32 = 8;
const BODY_BYTES: usize = 4096;
/// Sends a second while the queues move.
const SENDS: u64 = 2_000;
/// The two Raft groups of the row.
const GROUPS: [&str; 2] = ["g1", "g2"];

/// Every queue of a topic with so many MiB of messages goes to the other of two Raft groups, one after another, while it
/// is written: how long a move takes, for how long nobody could write, and how many stored bytes were copied.
pub(super) fn every_queue(cluster: &Cluster, mib: u64, seconds: f64) -> anyhow::Result<Vec<Row>> {
    traffic::fill(cluster, TOPIC, BODY_BYTES, mib)?;
    cluster.wait_until_caught_up()?;
    let mut sending = traffic::steady(cluster, SENDS, seconds.max(5.0));
    sending.target.topic = TOPIC.to_owned();
    let sender = std::thread::Builder::new()
        .name("bench-s1".to_owned())
        .spawn(move || send(&sending))?;
    let (mut times, mut pauses, mut copied) = (Vec::new(), Vec::new(), 0.0);
    while !sender.is_finished() || times.is_empty() {
        for queue in 0..QUEUES {
            let from = cluster.owner(TOPIC, queue)?;
            let to = GROUPS.iter().find(|group| **group != from).unwrap_or(&GROUPS[0]);
            let (moved, taken) = cluster.move_queue(TOPIC, queue, to)?;
            times.push(taken.as_secs_f64());
            let number = |name: &str| moved.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
            pauses.push(number("writer_pause_ms"));
            copied += number("bytes_copied");
        }
    }
    let sent = sender
        .join()
        .map_err(|_| anyhow::anyhow!("the sending thread panicked"))??;
    let (longest, median) = (
        pauses.iter().copied().fold(0.0, f64::max),
        median_of(&pauses).map(|at| pauses[at]),
    );
    eprintln!(
        "  {} moves, writer pause median {:.0} ms, longest {longest:.0} ms, sends p99 {:.2} ms",
        times.len(),
        median.unwrap_or(0.0),
        sent.latency_ms.p99
    );
    Ok(vec![
        Row {
            p50_ms: Some(sent.latency_ms.p50),
            p99_ms: Some(sent.latency_ms.p99),
            errors: sent.errors.values().sum(),
            ..Row::new("S1", "s a move", Goal::AtMost(2.0), times)
        },
        Row::new("S1p", "ms of pause", Goal::AtMost(50.0), pauses),
        Row::new("S1b", "bytes copied", Goal::AtMost(0.0), vec![copied]),
    ])
}
