//! A topic scales out and in under official clients of both lines: producers with default retries, ordered by key and
//! plain, and consumers of both versions in one consumer group. Two nodes become four and the queues follow; then two
//! groups are drained, reopened and filled again, round by round. No send fails, nothing is lost, doubled, reordered or
//! skipped, writers hardly wait, and no stored byte goes from one group to another. The coordinators of consumer groups
//! follow as well, and lose no member.
//!
//! `MOVES_ROUNDS` (3) changes the run; from ten rounds on, which want a quiet machine, the usual pause is held against
//! its goal as well.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flotilla_e2e::cluster::{Cluster, Shape};
use flotilla_e2e::history::{self, Report};
use flotilla_e2e::java::{Java, VERSIONS};
use flotilla_e2e::load_run::LoadRun;
use flotilla_e2e::moves::{self, Moved};
use flotilla_e2e::progress;
use flotilla_e2e::settings::setting;
use flotilla_e2e::wait;

/// Also the consumer group.
const TOPIC: &str = "scales";
/// From two groups to four, 64 of them move.
const QUEUES: u32 = 128;
/// What each program sends with.
const SENDERS: [(&str, &str); 2] = [("ordered", "4"), ("plain", "2")];
/// Acknowledgements seen by each program between two changes of the layout.
const ACKS: u64 = 200;
const ACKS_WITHIN: Duration = Duration::from_secs(45);
const SHARED_WITHIN: Duration = Duration::from_secs(40);
/// One rebalance or drain.
const MOVED_WITHIN: Duration = Duration::from_secs(60);
const FULL_ROUNDS: usize = 10;
const PAUSE_MEDIAN_MS_MAX: u64 = 50;
const PAUSE_MS_MAX: u64 = 2_000;

/// What came of all moves of a run.
#[derive(Default)]
struct Totals {
    /// In milliseconds, one a move.
    pauses: Vec<u64>,
}

impl Totals {
    /// Has queues moved, prints how it went and counts it.
    fn carry_out(&mut self, cluster: &Cluster, what: &str, path: &str) -> Result<()> {
        let begin = Instant::now();
        let moved = moves::carry_out(&cluster.http(0), path, MOVED_WITHIN).with_context(|| what.to_owned())?;
        let took = begin.elapsed();
        ensure!(moved.iter().all(|one| one.bytes_copied == 0), "{what}: {moved:?}");
        let (queues, others): (Vec<Moved>, Vec<Moved>) = moved.into_iter().partition(|one| one.topic == TOPIC);
        let pauses: Vec<u64> = queues.iter().map(|one| one.writer_pause_ms).collect();
        let (median, most) = median_and_most(&pauses);
        let slots = others.iter().filter(|one| one.topic == moves::SLOTS).count();
        progress::line(format!(
            "{what}: {} queues and {slots} slots in {took:?}, writers paused {median} ms (median), {most} ms (most)",
            queues.len()
        ));
        self.pauses.extend(pauses);
        Ok(())
    }
}

fn median_and_most(values: &[u64]) -> (u64, u64) {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    (median, sorted.last().copied().unwrap_or(0))
}

/// How many queues each Raft group has.
fn spread(cluster: &Cluster) -> Result<BTreeMap<String, usize>> {
    let mut spread = BTreeMap::new();
    for group in cluster.http(0).owners(TOPIC)? {
        *spread.entry(group).or_default() += 1;
    }
    Ok(spread)
}

/// The queues lie evenly on exactly these groups.
fn check_spread(cluster: &Cluster, groups: &BTreeSet<String>) -> Result<()> {
    let spread = spread(cluster)?;
    let even = QUEUES as usize / groups.len();
    ensure!(
        spread.keys().eq(groups) && spread.values().all(|queues| *queues == even),
        "{spread:?}"
    );
    Ok(())
}

/// The coordinators of consumer groups lie on exactly these groups, too, and both consumers are members.
fn check_members(cluster: &Cluster, groups: &BTreeSet<String>) -> Result<()> {
    for group in cluster.groups()? {
        let shown = cluster.http(0).get_ok(&format!("/v1/groups/{group}"))?;
        let slots = shown["coordinator_slots"].as_u64().context("coordinator_slots")?;
        ensure!((slots > 0) == groups.contains(&group), "{group} has {slots} slots");
    }
    for node in cluster.nodes() {
        let group = node.http().get_ok(&format!("/v1/consumer-groups/{TOPIC}"))?;
        let members = group["members"].as_array().context("members")?;
        ensure!(members.len() == VERSIONS.len(), "{}: {group}", node.name);
    }
    Ok(())
}

/// Everybody still sends, and nobody saw an error.
fn check_load(run: &LoadRun) -> Result<()> {
    for load in run.loads() {
        load.await_more_acks(ACKS, ACKS_WITHIN)?;
        let state = load.state();
        ensure!((state.unknown, state.failed) == (0, 0), "a send failed: {state:?}");
    }
    Ok(())
}

/// One program of each version, sharing the queues.
fn start(cluster: &Cluster) -> Result<LoadRun> {
    cluster.http(0).create_topic(TOPIC, QUEUES)?;
    let [first, others @ ..] = VERSIONS;
    let mut run = LoadRun::start(cluster, &Java::build(first)?, TOPIC, QUEUES, &SENDERS)?;
    for version in others {
        run.join(cluster, &Java::build(version)?, &SENDERS)?;
    }
    let path = format!("/v1/consumer-groups/{TOPIC}");
    wait::until("all are members", SHARED_WITHIN, || {
        let group = cluster.http(0).get_ok(&path)?;
        let members = group["members"].as_array().context("members")?;
        Ok((members.len() == VERSIONS.len()).then_some(()))
    })?;
    check_load(&run)?;
    Ok(run)
}

fn grow(cluster: &mut Cluster, run: &LoadRun, totals: &mut Totals) -> Result<()> {
    for _ in 0..2 {
        cluster.add_node()?;
    }
    let groups: BTreeSet<String> = cluster.leaders()?.into_keys().collect();
    ensure!(groups.len() == 4, "{groups:?}");
    totals.carry_out(cluster, "two groups to four", "/v1/rebalance")?;
    check_spread(cluster, &groups)?;
    check_members(cluster, &groups)?;
    check_load(run)
}

/// Two groups are drained and filled again.
fn round(cluster: &Cluster, run: &LoadRun, number: usize, totals: &mut Totals) -> Result<()> {
    let groups: BTreeSet<String> = cluster.groups()?.into_iter().collect();
    let mut staying = groups.clone();
    let leaving: Vec<&String> = groups.iter().skip(number % 2 * 2).take(2).collect();
    for group in &leaving {
        let path = format!("/v1/groups/{group}/drain");
        totals.carry_out(cluster, &format!("round {number}, drain of {group}"), &path)?;
        staying.remove(*group);
    }
    check_spread(cluster, &staying)?;
    check_members(cluster, &staying)?;
    check_load(run)?;
    for group in leaving {
        let path = format!("/v1/groups/{group}/reopen");
        let (status, answer) = cluster.http(0).post(&path, &serde_json::json!({}))?;
        ensure!(status == 200, "{path}: {status} {answer}");
    }
    totals.carry_out(cluster, &format!("round {number}, back to four"), "/v1/rebalance")?;
    check_spread(cluster, &groups)?;
    check_members(cluster, &groups)?;
    check_load(run)
}

fn check_no_segment_was_copied(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let copied = node
            .http()
            .metrics()?
            .get("flotilla_group_transfer_bytes_total", &[("purpose", "segment")]);
        ensure!(copied.unwrap_or(0.0) == 0.0, "{} copied {copied:?} bytes", node.name);
    }
    Ok(())
}

fn rounds() -> usize {
    setting("MOVES_ROUNDS", 3)
}

fn run(cluster: &mut Cluster, totals: &mut Totals) -> Result<Report> {
    let run = start(cluster)?;
    let begin = Instant::now();
    grow(cluster, &run, totals)?;
    for number in 0..rounds() {
        round(cluster, &run, number, totals).with_context(|| format!("round {number}"))?;
    }
    progress::line(format!("all rounds took {:?}", begin.elapsed()));
    check_no_segment_was_copied(cluster)?;
    let history = run.finish(cluster)?;
    // What a client saw, beside what the groups say of themselves.
    let slowest = history.sends.iter().map(|send| send.end - send.begin).max();
    progress::line(format!(
        "slowest send {:?}",
        Duration::from_nanos(slowest.unwrap_or_default())
    ));
    Ok(history::check(&history))
}

#[test]
fn a_topic_scales_out_and_in_and_clients_of_both_lines_notice_nothing() {
    // Here, so that it is alive when an assertion fails: then its logs stay.
    let mut cluster = Shape::of(2).start().expect("two nodes start");
    let mut totals = Totals::default();
    let report = run(&mut cluster, &mut totals).expect("the run completes");
    let (median, most) = median_and_most(&totals.pauses);
    let unmeasured = totals.pauses.iter().filter(|pause| **pause == 0).count();
    progress::line(format!(
        "{report}{} moves, writers paused {median} ms (median), {most} ms (most), {unmeasured} told of no pause",
        totals.pauses.len()
    ));
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!((report.unknown, report.failed), (0, 0), "no send fails: {report}");
    if rounds() >= FULL_ROUNDS {
        assert!(median <= PAUSE_MEDIAN_MS_MAX, "median pause {median} ms");
    }
    assert!(most <= PAUSE_MS_MAX, "longest pause {most} ms");
}
