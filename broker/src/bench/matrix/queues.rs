//! Rows about many queues: what ten thousand of them cost, and a hundred thousand.

use std::time::Instant;

use super::super::SendArgs;
use super::super::send;
use super::super::target::TargetArgs;
use super::cluster::{Cluster, NODES};
use super::row::{Goal, Row};
use super::traffic;

/// How many queues there are, and what they may cost.
pub(super) struct Scale {
    /// Begins the names of the rows.
    id: &'static str,
    /// Topics of as many queues each as there may be.
    topics: u32,
    queues_per_topic: u32,
    /// The least share of the rate on eight queues.
    share: f64,
    /// Most MiB a node.
    memory: f64,
}

/// Row Q1.
pub(super) const TEN_THOUSAND: Scale = Scale {
    id: "Q1",
    topics: 1,
    queues_per_topic: 10_000,
    share: 0.9,
    memory: 64.0,
};

/// Row Q1k.
pub(super) const HUNDRED_THOUSAND: Scale = Scale {
    id: "Q1k",
    topics: 10,
    queues_per_topic: 10_000,
    share: 0.75,
    memory: 300.0,
};

/// Topics of very many queues beside one of eight: the rate of sends spread over all queues of one of them as a share of
/// the rate on eight, the memory the queues cost a node, how long creating them takes, how long a restart with them, and
/// how many files a node has open then.
pub(super) fn many_queues(cluster: &mut Cluster, scale: &Scale, seconds: f64, runs: usize) -> anyhow::Result<Vec<Row>> {
    let few = traffic::send_to(cluster, "few", 8, seconds);
    send(&few)?;
    let before = cluster.resident();
    let start = Instant::now();
    for number in 0..scale.topics {
        let made = cluster.create_topic(0, &format!("many-{number}"), scale.queues_per_topic)?;
        anyhow::ensure!(made, "topic {number} was not created");
    }
    let created = start.elapsed().as_secs_f64();
    let (mut shares, mut errors) = (Vec::new(), 0);
    for run in 0..runs.max(1) {
        let many = SendArgs {
            target: TargetArgs {
                topic: format!("many-{}", run as u32 % scale.topics),
                create_topic: None,
                ..few.target.clone()
            },
            ..few.clone()
        };
        // One after the other, so that the machine's moods hit both.
        let (on_few, on_many) = (send(&few)?, send(&many)?);
        let share = on_many.messages_per_second / on_few.messages_per_second.max(1.0);
        eprintln!(
            "  {:.0}/s on 8 queues, {:.0}/s on {} of {}: {share:.3}",
            on_few.messages_per_second,
            on_many.messages_per_second,
            scale.queues_per_topic,
            scale.topics * scale.queues_per_topic,
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
    for place in 0..NODES {
        cluster.terminate(place)?;
    }
    let start = Instant::now();
    cluster.start_missing()?;
    cluster.wait_for_ack()?;
    let restarted = start.elapsed().as_secs_f64();
    cluster.wait_until_caught_up()?;
    let files: Vec<f64> = cluster.open_files()?.into_iter().map(|files| files as f64).collect();
    let id = |part: &str| format!("{}{part}", scale.id);
    let share = Row {
        errors,
        ..Row::new(scale.id, "of 8 queues", Goal::AtLeast(scale.share), shares)
    };
    Ok(vec![
        share,
        Row::new(&id("m"), "MiB a node", Goal::AtMost(scale.memory), grown),
        Row::new(&id("c"), "s to create", Goal::AtMost(5.0), vec![created]),
        Row::new(&id("r"), "s to restart", Goal::AtMost(10.0), vec![restarted]),
        Row::new(&id("f"), "files a node", Goal::AtMost(2_000.0), files),
    ])
}
