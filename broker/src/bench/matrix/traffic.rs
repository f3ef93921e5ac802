//! Rows of throughput and latency: sends in closed and open loops, and consumers at the tail.

use super::super::consume::{self, ConsumeArgs};
use super::super::report::Report;
use super::super::{RunArgs, SendArgs, send};
use super::cluster::Cluster;
use super::row::{Goal, Row, median_of};

/// What a row sends and what it must reach.
struct Shape {
    connections: usize,
    window: u32,
    size: usize,
    batch: usize,
    rate: Option<u64>,
    goal: Goal,
}

const fn closed(connections: usize, window: u32, size: usize, batch: usize, goal: Goal) -> Shape {
    Shape {
        connections,
        window,
        size,
        batch,
        rate: None,
        goal,
    }
}

fn shape(name: &str) -> Option<Shape> {
    Some(match name {
        // In shares of what one log takes.
        "T7" | "S2a" | "S2b" => closed(4, 64, 128, 1, Goal::AtLeast(0.9)),
        "T1" => closed(64, 1, 128, 1, Goal::AtLeast(25_000.0)),
        "T2" => closed(4, 64, 128, 1, Goal::AtLeast(120_000.0)),
        "T3" => closed(4, 512, 128, 1, Goal::AtLeast(250_000.0)),
        "T4" => closed(4, 64, 128, 32, Goal::AtLeast(600_000.0)),
        "T5a" => closed(4, 64, 1024, 1, Goal::AtLeast(90_000.0)),
        "T5b" => closed(4, 64, 4096, 1, Goal::AtLeast(45_000.0)),
        "T6a" => closed(64, 1, 128, 1, Goal::AtLeast(40_000.0)),
        "T6b" => closed(4, 64, 128, 1, Goal::AtLeast(200_000.0)),
        "L1" => closed(1, 1, 128, 1, Goal::AtMost(0.45)),
        "L2" => Shape {
            rate: Some(5_000),
            ..closed(4, 512, 128, 1, Goal::AtMost(2.0))
        },
        "C1" => closed(4, 64, 128, 1, Goal::AtLeast(0.98)),
        _ => return None,
    })
}

/// Runs one row. `one_log` is what row T2 reached, for the rows that are compared with it.
pub(super) fn row(
    name: &str,
    cluster: &Cluster,
    seconds: f64,
    runs: usize,
    one_log: Option<f64>,
) -> anyhow::Result<Row> {
    let shape = shape(name).ok_or_else(|| anyhow::anyhow!("row {name} sends nothing"))?;
    let mut reports = Vec::new();
    let mut values = Vec::new();
    for _ in 0..runs.max(1) {
        let (report, value) = match name {
            "C1" => consume_while_sending(cluster, &shape, seconds)?,
            _ => {
                let report = send(&send_args(cluster, &shape, seconds))?;
                let value = match name {
                    "L1" => report.latency_ms.p50,
                    "L2" => report.latency_ms.p99,
                    "T7" | "S2a" | "S2b" => {
                        let one_log = one_log.ok_or_else(|| anyhow::anyhow!("compared with T2: run that, too"))?;
                        report.messages_per_second / one_log
                    }
                    _ => report.messages_per_second,
                };
                (report, value)
            }
        };
        eprintln!(
            "  {value:.3}  p50 {:.3} ms  p99 {:.3} ms  tool {:.1} us",
            report.latency_ms.p50, report.latency_ms.p99, report.cpu.tool_us_per_message
        );
        reports.push(report);
        values.push(value);
    }
    let unit = match name {
        "L1" | "L2" => "ms",
        "C1" => "of send rate",
        "T7" | "S2a" | "S2b" => "of T2",
        _ => "messages/s",
    };
    let chosen = &reports[median_of(&values).unwrap_or(0)];
    let servers = chosen.cpu.servers_us_per_message.unwrap_or(0.0);
    Ok(Row {
        p50_ms: Some(chosen.latency_ms.p50),
        p99_ms: Some(chosen.latency_ms.p99),
        cpu_us_per_message: Some(chosen.cpu.tool_us_per_message + servers),
        errors: reports.iter().flat_map(|report| report.errors.values()).sum(),
        ..Row::new(name, unit, shape.goal, values)
    })
}

/// Four consumers at the tail while messages are sent: what share of the send rate arrives. Latency is birth to arrival.
fn consume_while_sending(cluster: &Cluster, shape: &Shape, seconds: f64) -> anyhow::Result<(Report, f64)> {
    let sending = send_args(cluster, shape, seconds + 2.0);
    let consuming = ConsumeArgs {
        target: cluster.target("bench", 0),
        consumers: 4,
        group: "flotilla_bench_consumer".to_owned(),
        from_start: false,
        stop_at_end: false,
        pull_batch: 32,
        run: run_args(cluster, seconds, 2.0),
    };
    let sender = std::thread::Builder::new()
        .name("bench-c1".to_owned())
        .spawn(move || send(&sending))?;
    let consumed = consume::run(&consuming);
    let sent = sender
        .join()
        .map_err(|_| anyhow::anyhow!("the sending thread panicked"))??;
    let consumed = consumed?;
    let faults = consumed.offset_faults.unwrap_or(0);
    anyhow::ensure!(faults == 0, "{faults} queue offsets were skipped or came twice");
    let share = consumed.messages_per_second / sent.messages_per_second.max(1.0);
    Ok((consumed, share))
}

/// Sends of row T2 to a topic of its own.
pub(super) fn send_to(cluster: &Cluster, topic: &str, queues: u32, seconds: f64) -> SendArgs {
    let shape = closed(4, 64, 128, 1, Goal::AtLeast(0.0));
    let mut args = send_args(cluster, &shape, seconds);
    args.target.topic = topic.to_owned();
    args.target.create_topic = Some(queues);
    args
}

/// Writes so many MiB of messages of `size` bytes to a topic; returns what sends more of the same, and how many there are.
pub(super) fn fill(cluster: &Cluster, topic: &str, size: usize, mib: u64) -> anyhow::Result<(SendArgs, u64)> {
    let sending = SendArgs {
        target: cluster.target(topic, 0),
        run: unmeasured(2.0),
        ..send_args(cluster, &closed(4, 64, size, 8, Goal::AtLeast(0.0)), 2.0)
    };
    let mut messages = 0;
    while messages * (size as u64) < mib << 20 {
        let report = send(&sending)?;
        anyhow::ensure!(report.messages > 0, "no message was acknowledged while filling the log");
        messages += report.messages;
    }
    Ok((sending, messages))
}

/// Sends of row T3.
pub(super) fn full_load(cluster: &Cluster, seconds: f64) -> SendArgs {
    send_args(cluster, &closed(4, 512, 128, 1, Goal::AtLeast(0.0)), seconds)
}

/// So many sends a second, whatever else happens.
pub(super) fn steady(cluster: &Cluster, rate: u64, seconds: f64) -> SendArgs {
    let shape = Shape {
        rate: Some(rate),
        ..closed(4, 512, 128, 1, Goal::AtLeast(0.0))
    };
    send_args(cluster, &shape, seconds)
}

/// A run whose processor time nobody asks for.
pub(super) fn unmeasured(seconds: f64) -> RunArgs {
    RunArgs {
        duration: seconds,
        warmup: 0.0,
        timeout: 3000,
        pids: Vec::new(),
        json: None,
        quiet: true,
    }
}

fn send_args(cluster: &Cluster, shape: &Shape, seconds: f64) -> SendArgs {
    SendArgs {
        target: cluster.target("bench", 0),
        connections: shape.connections,
        window: shape.window,
        size: shape.size,
        batch: shape.batch,
        rate: shape.rate,
        keys: false,
        tags: None,
        binary: false,
        run: run_args(cluster, seconds, 1.0),
    }
}

fn run_args(cluster: &Cluster, seconds: f64, warmup: f64) -> RunArgs {
    RunArgs {
        duration: seconds,
        warmup,
        timeout: 3000,
        pids: cluster.pids(),
        json: None,
        quiet: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_traffic_row_has_a_shape() {
        for name in super::super::rows() {
            let other = name.starts_with(['E', 'F', 'I', 'R', 'Q']) || ["C2", "S1"].contains(&name);
            assert_eq!(shape(name).is_none(), other, "{name}");
        }
    }
}
