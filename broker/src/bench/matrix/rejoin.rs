//! The row about a lost disk: a follower comes back empty and has everything again.

use std::time::{Duration, Instant};

use super::super::SendArgs;
use super::super::report::Report;
use super::super::send;
use super::cluster::{Cluster, NODES};
use super::row::{Goal, Row};
use super::traffic;

const TOPIC: &str = "rejoin";
const BODY_BYTES: usize = 4096;
/// Sends a second beside the copying.
const SENDS: u64 = 2_000;
/// Between filling the log and measuring.
const SETTLE: Duration = Duration::from_secs(3);

/// With so many MiB of log a follower loses its disk: how long until it has a vote and all of it, at what rate that
/// comes to, and how much longer sends take meanwhile than before.
pub(super) fn empty_follower(cluster: &mut Cluster, mib: u64, seconds: f64) -> anyhow::Result<Vec<Row>> {
    traffic::fill(cluster, TOPIC, BODY_BYTES, mib)?;
    cluster.wait_until_caught_up()?;
    let leader = cluster.leader()?;
    let follower = (leader + 1) % NODES;
    let survivors: Vec<usize> = (0..NODES).filter(|place| *place != follower).collect();
    let mut sending = traffic::steady(cluster, SENDS, seconds.max(5.0));
    // Through those that stay, so that only the copying is seen.
    sending.target.address = survivors.iter().map(|place| cluster.remoting(*place)).collect();
    std::thread::sleep(SETTLE);
    let before = send(&sending)?;
    let bytes = cluster.log_bytes(leader)?;
    cluster.kill(follower)?;
    cluster.wipe(follower)?;
    let lost = cluster.replica_of(leader, follower)?;
    let sender = std::thread::Builder::new().name("bench-r3".to_owned()).spawn({
        let sending = sending.clone();
        move || send(&sending)
    })?;
    // It is missed for a moment before it comes back.
    std::thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    cluster.start_missing()?;
    cluster.wait_for_new_voter(leader, follower, lost)?;
    let taken = start.elapsed().as_secs_f64();
    let during: Report = sender
        .join()
        .map_err(|_| anyhow::anyhow!("the sending thread panicked"))??;
    report(&sending, &before, &during);
    let slower = during.latency_ms.p99 / before.latency_ms.p99.max(f64::MIN_POSITIVE);
    Ok(vec![
        Row::new("R3", "s", Goal::AtMost(60.0), vec![taken]),
        Row::new("R3r", "MB/s", Goal::AtLeast(200.0), vec![bytes as f64 / 1e6 / taken]),
        Row {
            p50_ms: Some(during.latency_ms.p50),
            p99_ms: Some(during.latency_ms.p99),
            errors: during.errors.values().sum(),
            ..Row::new("R3s", "of p99 before", Goal::AtMost(2.0), vec![slower])
        },
    ])
}

fn report(sending: &SendArgs, before: &Report, during: &Report) {
    eprintln!(
        "  sends over {:.0} s: p99 {:.2} ms before, {:.2} ms meanwhile",
        sending.run.duration, before.latency_ms.p99, during.latency_ms.p99
    );
}
