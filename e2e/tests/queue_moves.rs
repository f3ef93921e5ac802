//! Queues move between Raft groups while every queue is written through every node and read at every node: nothing is
//! lost, doubled, reordered or skipped, no send fails, and no stored byte is copied. Then the same while nodes and
//! controllers are killed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::history;
use flotilla_e2e::moves::{self, Moved};
use flotilla_e2e::progress;
use flotilla_e2e::traffic::Traffic;
use flotilla_e2e::wait;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::json;

const TOPIC: &str = "moving";
const QUEUES: u32 = 12;
/// A group emptied and filled again.
const ROUNDS: usize = 5;
/// Messages of the topic whose queues move, and the bytes of each.
const MESSAGES: u32 = 600;
const BODY_BYTES: usize = 64 * 1024;
const TRANSFERRED: &str = "flotilla_group_transfer_bytes_total";
/// No queue is without a writer for longer: an election and a second, and what a busy machine adds.
const WITHOUT_WRITER: Duration = Duration::from_secs(3);
/// Moves of a whole group end, with all nodes alive.
const MOVED: Duration = Duration::from_secs(20);
/// The same with a node killed in the middle, which may take an election and its return.
const MOVED_DESPITE: Duration = Duration::from_secs(60);
const SERVED: Duration = Duration::from_secs(20);
const LED_APART: Duration = Duration::from_secs(20);
const ALIKE: Duration = Duration::from_secs(60);

fn owners(cluster: &Cluster) -> Result<Vec<String>> {
    cluster.http(0).owners(TOPIC)
}

fn start(nodes: usize) -> (Cluster, Traffic) {
    let cluster = Cluster::start(nodes).expect("nodes start");
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    let begin = Instant::now();
    let traffic = Traffic::start(&cluster, TOPIC, QUEUES);
    traffic
        .await_all_lanes(nodes, SERVED, begin)
        .expect("every lane is served");
    (cluster, traffic)
}

fn report(what: &str, moved: &[Moved]) {
    let mut pauses: Vec<u64> = moved.iter().map(|one| one.writer_pause_ms).collect();
    pauses.sort_unstable();
    let cancelled = moved.iter().filter(|one| one.state == "cancelled").count();
    progress::line(format!(
        "{what}: {} moves, {cancelled} cancelled, writer pauses {pauses:?} ms, longest move {} ms",
        moved.len(),
        moved.iter().map(|one| one.duration_ms).max().unwrap_or(0)
    ));
}

/// Empties a group, and has its queues come back.
fn round(cluster: &Cluster, group: &str) -> Result<Vec<Moved>> {
    let http = cluster.http(0);
    let begin = Instant::now();
    let ids = moves::start_all(&http, &format!("/v1/groups/{group}/drain"), &json!({}))?;
    ensure!(!ids.is_empty(), "{group} had no queue");
    let mut moved = moves::await_ended(&http, &ids, MOVED)?;
    ensure!(moved.iter().all(|one| one.state == "done"), "{moved:?}");
    ensure!(
        !owners(cluster)?.iter().any(|owner| owner == group),
        "{group} is not empty"
    );
    progress::line(format!("drained {group} in {:?}", begin.elapsed()));
    let (status, answer) = http.post(&format!("/v1/groups/{group}/reopen"), &json!({}))?;
    ensure!(status == 200 || status == 202, "reopen: {status} {answer}");
    let ids = moves::start_all(&http, "/v1/rebalance", &json!({ "dry_run": false }))?;
    let back = moves::await_ended(&http, &ids, MOVED)?;
    ensure!(back.iter().all(|one| one.state == "done"), "{back:?}");
    let there = owners(cluster)?.iter().filter(|owner| *owner == group).count();
    ensure!(there == QUEUES as usize / 3, "{there} queues came back to {group}");
    moved.extend(back);
    Ok(moved)
}

#[test]
fn queues_leave_a_group_and_come_back_and_nobody_notices() {
    let (cluster, traffic) = start(3);
    let begin = Instant::now();
    let groups = cluster.groups().expect("groups");
    let mut moved = Vec::new();
    for number in 0..ROUNDS {
        moved.extend(round(&cluster, &groups[number % groups.len()]).expect("a round"));
    }
    report("all", &moved);
    let refused: Vec<_> = traffic
        .since(begin)
        .into_iter()
        .filter(|attempt| !attempt.is_acked())
        .collect();
    let slowest = traffic.since(begin).iter().map(|attempt| attempt.time()).max();
    cluster.await_alike(ALIKE).expect("replicas are alike");
    let history = traffic.finish(&cluster).expect("everything is read");
    let report = history::check(&history);
    progress::line(format!(
        "{report}slowest send {slowest:?}, {} not acknowledged",
        refused.len()
    ));
    assert!(report.violations.is_empty(), "{report}");
    assert!(refused.is_empty(), "{refused:?}");
    assert!(moved.iter().all(|one| one.bytes_copied == 0), "{moved:?}");
    assert!(report.acked > 1_000, "{report}");
}

/// A Raft group that queues leave, with these, and another one that they go to. Different nodes lead the two: after some
/// deaths one node may lead everything, and is asked to give something away.
fn two_groups(cluster: &Cluster, random: &mut StdRng) -> Result<(Vec<u32>, String, String)> {
    let owners = owners(cluster)?;
    let used: Vec<&String> = owners.iter().collect::<BTreeSet<_>>().into_iter().collect();
    let from = (*used.choose(random).context("an owner")?).clone();
    let groups = cluster.groups()?;
    let others: Vec<&String> = groups.iter().filter(|group| **group != from).collect();
    let to = (*others.choose(random).context("another group")?).clone();
    wait::until("groups led by different nodes", LED_APART, || {
        let leaders = cluster.leaders()?;
        let (Some(old), Some(new)) = (leaders.get(&from), leaders.get(&to)) else {
            return Ok(None);
        };
        if old != new {
            return Ok(Some(()));
        }
        let other = cluster
            .nodes()
            .iter()
            .find(|node| node.name != cluster.nodes()[*old].name);
        let wanted = json!({ "node": other.context("another node")?.name });
        cluster.http(*old).post(&format!("/v1/groups/{to}/leader"), &wanted)?;
        Ok(None)
    })?;
    let queues = (0..).zip(&owners).filter(|(_, owner)| **owner == from);
    Ok((queues.map(|(queue, _)| queue).collect(), from, to))
}

/// Moves queues while some process dies at `point`, and has it come back when they have moved.
fn die_at(cluster: &mut Cluster, traffic: &Traffic, point: &str, random: &mut StdRng) -> Result<Vec<Moved>> {
    let (queues, from, to) = two_groups(cluster, random)?;
    let begin = Instant::now();
    cluster.arm(point)?;
    let mut ids = Vec::new();
    for queue in &queues {
        // Who is asked may be the one that dies: then its answer is not to be had, but the move goes on.
        let asked = (0..cluster.len()).find_map(|node| moves::start(&cluster.http(node), TOPIC, *queue, &to).ok());
        ids.extend(asked);
    }
    let dead = cluster.await_death(point, SERVED)?;
    let living = (0..cluster.len())
        .find(|node| cluster.is_running(*node))
        .context("a living node")?;
    let moved = moves::await_ended(&cluster.http(living), &ids, MOVED_DESPITE)?;
    let end = Instant::now();
    let living = (0..cluster.len()).filter(|node| cluster.is_running(*node));
    let lanes = living.flat_map(|node| (0..QUEUES).map(move |queue| (node, queue)));
    let pause = lanes.map(|(node, queue)| traffic.pause(node, queue, begin, end)).max();
    let pause = pause.context("a lane")?;
    report(
        &format!(
            "{point}: {dead:?} died, {from} to {to} in {:?}, longest pause of a lane {pause:?}",
            end - begin
        ),
        &moved,
    );
    ensure!(pause < WITHOUT_WRITER, "{pause:?} without a writer");
    cluster.launch_all()?;
    cluster.await_alike(ALIKE)?;
    Ok(moved)
}

#[test]
fn whoever_dies_at_whatever_step_of_a_move_it_ends_and_nothing_is_lost() {
    let seed = u64::from(std::process::id());
    progress::line(format!("seed {seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let (mut cluster, traffic) = start(3);
    let mut moved = Vec::new();
    for point in moves::STEPS {
        let ended = die_at(&mut cluster, &traffic, point, &mut random);
        moved.extend(ended.with_context(|| point.to_owned()).expect("moves end"));
    }
    assert!(moved.iter().any(|one| one.state == "done"), "{moved:?}");
    let history = traffic.finish(&cluster).expect("everything is read");
    let report = history::check(&history);
    progress::line(format!("{report}"));
    assert!(report.violations.is_empty(), "{report}");
}

/// All bytes that went over the sockets between nodes, whatever they were for.
fn bytes_between_nodes(cluster: &Cluster) -> Result<f64> {
    let mut sum = 0.0;
    for node in 0..cluster.len() {
        let metrics = cluster.http(node).metrics()?;
        sum += metrics.sum(TRANSFERRED);
        let segments = metrics.get(TRANSFERRED, &[("purpose", "segment")]);
        ensure!(segments == Some(0.0), "segments were copied: {segments:?}");
    }
    Ok(sum)
}

#[test]
fn a_move_takes_no_stored_byte_along() {
    let cluster = Cluster::start(3).expect("three nodes start");
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    let mut client = cluster.client(0).expect("connect");
    let body = "x".repeat(BODY_BYTES);
    for number in 0..MESSAGES {
        client.send(TOPIC, number % QUEUES, &body).expect("send");
    }
    cluster.await_alike(ALIKE).expect("replicas are alike");
    let group = owners(&cluster).expect("owners").remove(0);
    let before = bytes_between_nodes(&cluster).expect("metrics");
    let path = format!("/v1/groups/{group}/drain");
    let mut moved = moves::carry_out(&cluster.http(0), &path, MOVED).expect("moves");
    moved.retain(|one| one.topic == TOPIC);
    let sent = bytes_between_nodes(&cluster).expect("metrics") - before;
    report("moved in silence", &moved);
    let stored = moved.len() * (MESSAGES / QUEUES) as usize * BODY_BYTES;
    progress::line(format!(
        "{stored} bytes stored in the queues that moved, {sent} bytes between nodes meanwhile"
    ));
    assert!(moved.len() == (QUEUES / 3) as usize, "{moved:?}");
    assert!(before > 2.0 * stored as f64, "replication counts: {before}");
    assert!(sent < stored as f64 / 20.0, "{sent} of {stored} bytes");
    // The group says what it keeps, and until when.
    let shown = cluster
        .http(2)
        .get_ok(&format!("/v1/groups/{group}"))
        .expect("the group");
    assert_eq!(shown["kept_segments"], json!(moved.len()), "{shown}");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock");
    let until = shown["kept_until"]
        .as_u64()
        .map(|until| u128::from(until).saturating_sub(now.as_millis()));
    let hours = until.map(|left| left / 3_600_000);
    assert_eq!(hours, Some(71), "72 hours from the last message on: {shown}");
    // And they are all there, through a node that has the queue elsewhere now.
    let dump = cluster
        .client(1)
        .and_then(|mut client| client.dump(TOPIC, QUEUES))
        .expect("read");
    let messages: usize = dump.0.values().map(|queue| queue.messages.len()).sum();
    assert_eq!(messages, MESSAGES as usize);
}
