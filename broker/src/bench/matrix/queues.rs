//! Rows about many queues: what ten thousand of them cost.

use std::time::Instant;

use super::super::SendArgs;
use super::super::send;
use super::cluster::Cluster;
use super::row::{Goal, Row};
use super::traffic;

/// Queues of the row.
const QUEUES: u32 = 10_000;

/// A topic of ten thousand queues beside one of eight: the rate of sends spread over all of them as a share of the rate
/// on eight, the memory the queues cost a node, and how long creating them takes.
pub(super) fn many_queues(cluster: &mut Cluster, seconds: f64, runs: usize) -> anyhow::Result<Vec<Row>> {
    let few = traffic::send_to(cluster, "few", 8, seconds);
    send(&few)?;
    let before = cluster.resident();
    let start = Instant::now();
    anyhow::ensure!(cluster.create_topic(0, "many", QUEUES)?, "the topic was not created");
    let created = start.elapsed().as_secs_f64();
    let many = SendArgs {
        target: super::super::target::TargetArgs {
            topic: "many".to_owned(),
            create_topic: None,
            ..few.target.clone()
        },
        ..few.clone()
    };
    let (mut shares, mut errors) = (Vec::new(), 0);
    for _ in 0..runs.max(1) {
        // One after the other, so that the machine's moods hit both.
        let (on_few, on_many) = (send(&few)?, send(&many)?);
        let share = on_many.messages_per_second / on_few.messages_per_second.max(1.0);
        eprintln!(
            "  {:.0}/s on 8 queues, {:.0}/s on {QUEUES}: {share:.3}",
            on_few.messages_per_second, on_many.messages_per_second
        );
        errors += on_many.errors.values().sum::<u64>();
        shares.push(share);
    }
    let grown: Vec<f64> = cluster
        .resident()
        .iter()
        .zip(&before)
        .map(|(after, before)| after.saturating_sub(*before) as f64 / f64::from(1 << 20))
        .collect();
    let share = Row {
        errors,
        ..Row::new("Q1", "of 8 queues", Goal::AtLeast(0.9), shares)
    };
    Ok(vec![
        share,
        Row::new("Q1m", "MiB a node", Goal::AtMost(64.0), grown),
        Row::new("Q1c", "s", Goal::AtMost(5.0), vec![created]),
    ])
}
