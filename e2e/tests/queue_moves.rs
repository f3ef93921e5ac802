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
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

const TOPIC: &str = "moving";
const QUEUES: u32 = 12;
/// A group emptied and filled again.
const ROUNDS: usize = 5;
/// Kills in the middle of moves.
const KILLS: usize = 12;
/// Moves of a whole group end, with all nodes alive.
const MOVED: Duration = Duration::from_secs(20);
/// The same with a node killed in the middle, which may take an election and its return.
const MOVED_DESPITE: Duration = Duration::from_secs(60);
const SERVED: Duration = Duration::from_secs(20);
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

/// What dies in the middle of moves.
#[derive(Clone, Copy, Debug)]
enum Victim {
    OldLeader,
    NewLeader,
    LeadingController,
}

/// Starts moves of one group's queues, and kills in their middle.
fn kill_amid_moves(cluster: &mut Cluster, victim: Victim, random: &mut StdRng) -> Result<Vec<Moved>> {
    let owners = owners(cluster)?;
    let used: Vec<&String> = owners.iter().collect::<BTreeSet<_>>().into_iter().collect();
    let from = (*used.choose(random).context("an owner")?).clone();
    let groups = cluster.groups()?;
    let others: Vec<_> = groups.iter().filter(|group| **group != from).collect();
    let to = (*others.choose(random).context("another group")?).clone();
    let leaders = cluster.leaders()?;
    let leading_controller = cluster.leading_controller()?;
    // Through a node that stays.
    let dies = match victim {
        Victim::OldLeader => leaders.get(&from).copied(),
        Victim::NewLeader => leaders.get(&to).copied(),
        Victim::LeadingController => None,
    };
    let asked = (0..cluster.len())
        .find(|node| Some(*node) != dies)
        .context("a node that stays")?;
    let http = cluster.http(asked);
    let mut ids = Vec::new();
    for (queue, owner) in (0..).zip(&owners) {
        if *owner == from {
            ids.push(moves::start(&http, TOPIC, queue, &to)?);
        }
    }
    std::thread::sleep(Duration::from_millis(random.random_range(0..30)));
    match (victim, dies) {
        (Victim::LeadingController, _) => {
            let controllers = cluster.controllers_mut();
            controllers[leading_controller].kill()?;
        }
        (_, Some(node)) => cluster.kill(node)?,
        (_, None) => {}
    }
    let ended = moves::await_ended(&http, &ids, MOVED_DESPITE)?;
    let gone: Vec<usize> = (0..cluster.len()).filter(|node| !cluster.is_running(*node)).collect();
    for node in gone {
        cluster.launch(node)?;
    }
    for controller in cluster.controllers_mut().iter_mut() {
        if !controller.is_running() {
            controller.launch()?;
        }
    }
    cluster.await_ready()?;
    cluster.await_alike(ALIKE)?;
    Ok(ended)
}

#[test]
fn whoever_is_killed_amid_moves_they_end_and_nothing_is_lost() {
    let seed = u64::from(std::process::id());
    progress::line(format!("seed {seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let (mut cluster, traffic) = start(3);
    let mut moved = Vec::new();
    for number in 0..KILLS {
        let victim = [Victim::OldLeader, Victim::NewLeader, Victim::LeadingController][number % 3];
        let begin = Instant::now();
        let ended = kill_amid_moves(&mut cluster, victim, &mut random)
            .with_context(|| format!("round {number}, {victim:?}"))
            .expect("moves end");
        report(&format!("{victim:?} after {:?}", begin.elapsed()), &ended);
        moved.extend(ended);
    }
    assert!(moved.iter().any(|one| one.state == "done"), "{moved:?}");
    let history = traffic.finish(&cluster).expect("everything is read");
    let report = history::check(&history);
    progress::line(format!("{report}"));
    assert!(report.violations.is_empty(), "{report}");
}
