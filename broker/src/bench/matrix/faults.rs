//! Rows that do something to the nodes: kill or pause the leader, crash all of them, or leave them alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::cpu::{CpuTimes, resident_bytes};
use super::super::failover::{Acks, FailoverArgs, send_one_by_one};
use super::super::measure::Sample;
use super::super::target::Target;
use super::super::{SendArgs, send};
use super::cluster::Cluster;
use super::row::{Goal, Row};
use super::traffic;

/// Acknowledgements before a fault, so that connections are warm.
const WARM_ACKS: usize = 200;
/// Acknowledgements after a fault that show it is over.
const ACKS_AFTER: usize = 50;
const TRIAL_MAX: Duration = Duration::from_secs(30);
const REQUEST_TIMEOUT_MS: u64 = 500;
const IDLE_TOPICS: usize = 1000;
const IDLE_CLIENTS: usize = 100;

/// What every trial measures with the node that leads then, once all nodes have caught up with the one before.
fn gaps_of(
    cluster: &mut Cluster,
    trials: usize,
    mut trial: impl FnMut(&mut Cluster, usize) -> anyhow::Result<Duration>,
) -> anyhow::Result<Vec<f64>> {
    let mut gaps = Vec::new();
    for _ in 0..trials.max(1) {
        let leader = cluster.leader()?;
        let gap_ms = trial(cluster, leader)?.as_secs_f64() * 1e3;
        eprintln!("  {gap_ms:.0} ms");
        gaps.push(gap_ms);
        cluster.wait_until_caught_up()?;
    }
    Ok(gaps)
}

/// The leader is killed.
pub(super) fn killed_leader(cluster: &mut Cluster, trials: usize) -> anyhow::Result<Row> {
    let gaps = gaps_of(cluster, trials, |cluster, leader| {
        let gap = gap_of(cluster, leader, |cluster| cluster.kill(leader))?;
        cluster.start_missing()?;
        Ok(gap)
    })?;
    Ok(Row::new("F1", "ms", Goal::AtMost(300.0), gaps))
}

/// The leader says nothing more, but its connections stay.
pub(super) fn silent_leader(cluster: &mut Cluster, trials: usize) -> anyhow::Result<Row> {
    let gaps = gaps_of(cluster, trials, |cluster, leader| {
        let gap = gap_of(cluster, leader, |cluster| cluster.pause(leader, true));
        cluster.pause(leader, false)?;
        gap
    })?;
    Ok(Row::new("F2", "ms", Goal::AtMost(1000.0), gaps))
}

/// Leadership is handed to another node while messages are sent.
pub(super) fn planned_transfer(cluster: &mut Cluster, trials: usize) -> anyhow::Result<Row> {
    let gaps = gaps_of(cluster, trials, |cluster, leader| {
        gap_of(cluster, leader, |cluster| cluster.transfer_leader((leader + 1) % 3))
    })?;
    Ok(Row::new("F3", "ms", Goal::AtMost(50.0), gaps))
}

/// The leading controller is killed: how long until a topic can be created again. Sends that failed meanwhile count as
/// errors.
pub(super) fn killed_controller(cluster: &mut Cluster, trials: usize) -> anyhow::Result<Row> {
    let (mut times, mut errors) = (Vec::new(), 0);
    for trial in 0..trials.max(1) {
        let leader = cluster.leading_controller()?;
        let args = failover_args(cluster, 0);
        let target = Target::find(&args.target)?;
        let done = Arc::new(AtomicBool::new(false));
        let sender = {
            let done = Arc::clone(&done);
            std::thread::Builder::new()
                .name("bench-f4".to_owned())
                .spawn(move || send_one_by_one(&args, &target, &|_| done.load(Ordering::Relaxed)))?
        };
        // The sender is connected and sending by then.
        std::thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        cluster.kill_controller(leader)?;
        let mut attempts = 0;
        while !cluster
            .create_topic(0, &format!("f4-{trial}-{attempts}"), 3)
            .unwrap_or(false)
        {
            attempts += 1;
            anyhow::ensure!(start.elapsed() < TRIAL_MAX, "no topic was created within {TRIAL_MAX:?}");
        }
        times.push(start.elapsed().as_secs_f64() * 1e3);
        done.store(true, Ordering::Relaxed);
        let (sample, _) = sender.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        let failed: u64 = sample.errors.values().sum();
        eprintln!("  {:.0} ms, {failed} sends failed", times[times.len() - 1]);
        errors += failed;
        cluster.start_missing()?;
        cluster.leading_controller()?;
    }
    Ok(Row {
        errors,
        ..Row::new("F4", "ms", Goal::AtMost(1500.0), times)
    })
}

/// All nodes are stopped in order with a long log; how long from their start to the first acknowledgement.
pub(super) fn clean_restart(cluster: &mut Cluster, mib: u64) -> anyhow::Result<Row> {
    fill(cluster, mib)?;
    for place in 0..3 {
        cluster.terminate(place)?;
    }
    let start = Instant::now();
    cluster.start_missing()?;
    cluster.wait_for_ack()?;
    let taken = start.elapsed().as_secs_f64();
    cluster.wait_until_caught_up()?;
    Ok(Row::new("R1", "s", Goal::AtMost(1.0), vec![taken]))
}

/// Sends one message at a time through a node that survives; the longest time without an acknowledgement around the fault.
fn gap_of(
    cluster: &mut Cluster,
    leader: usize,
    fault: impl FnOnce(&mut Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    // Looked up at a survivor, whose own address comes first in the answer.
    let args = failover_args(cluster, (leader + 1) % 3);
    let target = Target::find(&args.target)?;
    let warm = Arc::new(AtomicBool::new(false));
    let faulted: Arc<Mutex<Option<Instant>>> = Arc::default();
    let client = {
        let (warm, faulted) = (Arc::clone(&warm), Arc::clone(&faulted));
        let start = Instant::now();
        let stop = move |acks: &Acks| {
            if acks.count() >= WARM_ACKS {
                warm.store(true, Ordering::Relaxed);
            }
            let fault = *faulted.lock().expect("no holder of this lock panics");
            start.elapsed() > TRIAL_MAX || fault.is_some_and(|fault| acks.since(fault) >= ACKS_AFTER)
        };
        let name = "bench-failover".to_owned();
        std::thread::Builder::new()
            .name(name)
            .spawn(move || send_one_by_one(&args, &target, &stop))?
    };
    while !warm.load(Ordering::Relaxed) && !client.is_finished() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let begun = Instant::now();
    let made = fault(cluster);
    let done = Instant::now();
    *faulted.lock().expect("no holder of this lock panics") = Some(done);
    let (_, acks): (Sample, Acks) = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    made?;
    acks.gap_around(begun, done)
        .ok_or_else(|| anyhow::anyhow!("no acknowledgement within {TRIAL_MAX:?}"))
}

/// All nodes are killed at full rate; how long from their start to the first acknowledgement.
pub(super) fn crash_restart(cluster: &mut Cluster, mib: u64) -> anyhow::Result<Row> {
    let mut sending = fill(cluster, mib)?;
    sending.run.timeout = 1000;
    let sender = std::thread::Builder::new()
        .name("bench-crash".to_owned())
        .spawn(move || send(&sending))?;
    // In the middle of the two seconds of sending.
    std::thread::sleep(Duration::from_secs(1));
    cluster.kill_all()?;
    let sent = sender
        .join()
        .map_err(|_| anyhow::anyhow!("the sending thread panicked"))??;
    anyhow::ensure!(sent.messages > 0, "no message was acknowledged before the crash");
    let start = Instant::now();
    cluster.start_missing()?;
    cluster.wait_for_ack()?;
    let taken = start.elapsed().as_secs_f64();
    cluster.wait_until_caught_up()?;
    Ok(Row::new("R2", "s", Goal::AtMost(3.0), vec![taken]))
}

/// Writes so many MiB of log; returns what sends more of the same.
fn fill(cluster: &Cluster, mib: u64) -> anyhow::Result<SendArgs> {
    let (sending, _) = traffic::fill(cluster, "restart", 4096, mib)?;
    Ok(sending)
}

/// A thousand topics, a hundred connections, and nothing to do: memory of the largest node, processor time of all.
pub(super) fn idle(cluster: &mut Cluster, seconds: f64) -> anyhow::Result<Vec<Row>> {
    for number in 0..IDLE_TOPICS {
        Target::find(&cluster.target(&format!("idle-{number}"), 0))?;
    }
    let target = Target::find(&cluster.target("idle-0", 0))?;
    let mut clients = Vec::new();
    for number in 0..IDLE_CLIENTS {
        clients.push(std::net::TcpStream::connect(
            target.addresses[number % target.addresses.len()],
        )?);
    }
    let pids = cluster.pids();
    let before = CpuTimes::read(&pids);
    let start = Instant::now();
    std::thread::sleep(Duration::from_secs_f64(seconds.max(1.0)));
    let used = CpuTimes::read(&pids).since(&before).servers_total() / start.elapsed().as_secs_f64();
    let resident: Vec<f64> = pids
        .iter()
        .filter_map(|pid| resident_bytes(*pid))
        .map(|bytes| bytes as f64 / f64::from(1 << 20))
        .collect();
    drop(clients);
    anyhow::ensure!(resident.len() == pids.len(), "a node died while idle");
    let largest = resident.iter().copied().fold(0.0, f64::max);
    let mut memory = Row::new("I1", "MiB a node", Goal::AtMost(20.0), vec![largest]);
    memory.runs = resident;
    Ok(vec![
        memory,
        Row::new("I1c", "% of a core", Goal::AtMost(0.5), vec![used * 100.0]),
    ])
}

fn failover_args(cluster: &Cluster, place: usize) -> FailoverArgs {
    FailoverArgs {
        target: cluster.target("bench", place),
        size: 128,
        request_timeout: REQUEST_TIMEOUT_MS,
        run: traffic::unmeasured(0.0),
    }
}
