//! The row about catching up: consumers read from the first message on what no node has in memory any more.

use std::time::Duration;

use super::super::consume::{self, ConsumeArgs};
use super::super::send;
use super::cluster::Cluster;
use super::row::{Goal, Row};
use super::traffic;

const TOPIC: &str = "cold";
const BODY_BYTES: usize = 1024;
/// Sends a second beside the catching up.
const SENDS: u64 = 2_000;
/// Between filling the log and measuring.
const SETTLE: Duration = Duration::from_secs(3);
/// One pass may take no longer than this, in seconds.
const PASS_MAX: f64 = 600.0;

/// So many MiB of messages are read again and again from the disk, for as long as sends of a fixed rate are measured.
/// The second row is how much longer those sends take than without.
pub(super) fn catch_up(cluster: &Cluster, mib: u64, seconds: f64) -> anyhow::Result<Vec<Row>> {
    let (_, messages) = traffic::fill(cluster, TOPIC, BODY_BYTES, mib)?;
    cluster.wait_until_caught_up()?;
    let sending = traffic::steady(cluster, SENDS, seconds.max(5.0));
    // What filling left to do in the background would slow these down.
    std::thread::sleep(SETTLE);
    let before = send(&sending)?;
    let sender = std::thread::Builder::new()
        .name("bench-c2".to_owned())
        .spawn(move || send(&sending))?;
    let (mut rates, mut faults) = (Vec::new(), 0);
    while rates.is_empty() || !sender.is_finished() {
        cluster.forget_cached_files()?;
        let read = cluster.bytes_read()?;
        let pass = consume::run(&ConsumeArgs {
            target: cluster.target(TOPIC, 0),
            consumers: 4,
            group: "flotilla_bench_cold".to_owned(),
            from_start: true,
            stop_at_end: true,
            pull_batch: 32,
            run: traffic::unmeasured(PASS_MAX),
        })?;
        let read = cluster.bytes_read()? - read;
        anyhow::ensure!(
            pass.messages >= messages,
            "{} of {messages} messages came",
            pass.messages
        );
        let bodies = pass.messages * BODY_BYTES as u64;
        anyhow::ensure!(
            read >= bodies / 10 * 9,
            "only {read} bytes of {bodies} were read from the disk: they were in memory"
        );
        faults += pass.offset_faults.unwrap_or(0);
        eprintln!(
            "  {:.0} messages/s, {:.0} MB/s, {:.2} bytes read a body byte",
            pass.messages_per_second,
            pass.messages_per_second * BODY_BYTES as f64 / 1e6,
            read as f64 / bodies as f64
        );
        // The last one went on without sends.
        if rates.is_empty() || !sender.is_finished() {
            rates.push(pass.messages_per_second);
        }
    }
    let during = sender
        .join()
        .map_err(|_| anyhow::anyhow!("the sending thread panicked"))??;
    anyhow::ensure!(faults == 0, "{faults} queue offsets were skipped or came twice");
    eprintln!(
        "  sends: p99 {:.2} ms before, {:.2} ms meanwhile",
        before.latency_ms.p99, during.latency_ms.p99
    );
    let slower = during.latency_ms.p99 / before.latency_ms.p99.max(f64::MIN_POSITIVE);
    Ok(vec![
        Row::new("C2", "messages/s", Goal::AtLeast(300_000.0), rates),
        Row {
            p50_ms: Some(during.latency_ms.p50),
            p99_ms: Some(during.latency_ms.p99),
            errors: during.errors.values().sum(),
            ..Row::new("C2s", "of p99 before", Goal::AtMost(2.0), vec![slower])
        },
    ])
}
