//! Three nodes under load from an official producer with default retries and an official push consumer: `kill -9` of a
//! random node again and again, now and then of a random controller with it, then of all three nodes at once, and of the
//! controllers with them. The whole history holds at the end (see `flotilla_e2e::history`), and the digests of all replicas
//! of every Raft group are equal after every round.
//!
//! `KILL_ONE_ROUNDS` (20), `KILL_ALL_ROUNDS` (10) and `KILL_SEED` (printed) change the run, `KILL_CLIENT` (5.3.3) the client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use flotilla_e2e::client::Client;
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::history::{self, History, OffsetSample};
use flotilla_e2e::java::{Java, Load};
use flotilla_e2e::load_run::{ALIKE_WITHIN, LoadRun};
use flotilla_e2e::progress;
use flotilla_e2e::settings::setting;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Also the consumer group.
const TOPIC: &str = "kill-under-load";
const QUEUES: u32 = 8;
/// Acknowledgements seen between two faults.
const ACKS_BETWEEN: u64 = 100;
/// Plain sends go on with one node dead; ordered ones to the dead node's clients wait for it.
const ACKS_WITHIN: Duration = Duration::from_secs(45);
/// A whole read of the topic every so many rounds.
const ROUNDS_PER_DUMP: usize = 5;
/// Pause between two looks at the consumer offsets.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// Looks at the consumer offsets through changing nodes until told to stop. A node that is down is no news.
fn sample_consumer_offsets(ports: Vec<u16>, stop: Arc<AtomicBool>) -> Vec<OffsetSample> {
    let mut samples = Vec::new();
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        if let Ok(mut client) = Client::connect(ports[round % ports.len()]) {
            for queue in 0..QUEUES {
                match client.consumer_offset(TOPIC, TOPIC, queue) {
                    Ok(Some(offset)) => samples.push(OffsetSample { queue, offset }),
                    Ok(None) => {}
                    Err(_) => break,
                }
            }
        }
        std::thread::sleep(SAMPLE_EVERY);
    }
    samples
}

/// What is killed in one round.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Node(usize),
    NodeAndController(usize, usize),
    AllNodes,
    Everything,
}

impl Fault {
    /// Single nodes first, then all; every third time a controller dies, too.
    fn of_round(number: usize, one_rounds: usize, random: &mut StdRng, cluster: &Cluster) -> Self {
        let with_controllers = number % 3 == 2;
        if number >= one_rounds {
            return if with_controllers {
                Self::Everything
            } else {
                Self::AllNodes
            };
        }
        let node = random.random_range(0..cluster.len());
        if with_controllers {
            return Self::NodeAndController(node, random.random_range(0..cluster.controllers().len()));
        }
        Self::Node(node)
    }
}

/// One fault and what follows it.
fn round(cluster: &mut Cluster, load: &Load, fault: Fault) -> Result<()> {
    match fault {
        Fault::Node(node) => cluster.kill(node)?,
        Fault::NodeAndController(node, controller) => {
            cluster.kill(node)?;
            cluster.controllers_mut()[controller].kill()?;
        }
        Fault::AllNodes => cluster.kill_all()?,
        Fault::Everything => cluster.kill_everything()?,
    }
    if let Fault::Node(_) | Fault::NodeAndController(..) = fault {
        load.await_more_acks(ACKS_BETWEEN, ACKS_WITHIN)
            .context("with one node dead")?;
    }
    for node in (0..cluster.len())
        .filter(|node| !cluster.is_running(*node))
        .collect::<Vec<_>>()
    {
        cluster.launch(node)?;
    }
    for controller in cluster
        .controllers_mut()
        .iter_mut()
        .filter(|controller| !controller.is_running())
    {
        controller.launch()?;
    }
    cluster.await_ready()?;
    load.await_more_acks(ACKS_BETWEEN, ACKS_WITHIN)
        .context("with all nodes back")?;
    cluster.await_alike(ALIKE_WITHIN)
}

fn run(cluster: &mut Cluster) -> Result<history::Report> {
    let seed = setting("KILL_SEED", std::process::id().into());
    let one_rounds = setting("KILL_ONE_ROUNDS", 20_usize);
    let all_rounds = setting("KILL_ALL_ROUNDS", 10_usize);
    let mut random = StdRng::seed_from_u64(seed);
    progress::line(format!("KILL_SEED={seed}"));

    let java = Java::build(&setting("KILL_CLIENT", "5.3.3".to_owned()))?;
    cluster.http(0).create_topic(TOPIC, QUEUES)?;
    let mut run = LoadRun::start(cluster, &java, TOPIC, QUEUES, &[])?;
    run.load
        .await_more_acks(ACKS_BETWEEN, ACKS_WITHIN)
        .context("before any fault")?;

    let stop = Arc::new(AtomicBool::new(false));
    let ports = cluster.nodes().iter().map(|node| node.ports.remoting).collect();
    let sampler = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || sample_consumer_offsets(ports, stop)
    });

    for number in 0..one_rounds + all_rounds {
        let begin = Instant::now();
        let fault = Fault::of_round(number, one_rounds, &mut random, cluster);
        round(cluster, &run.load, fault).with_context(|| format!("round {number}, killed {fault:?}"))?;
        progress::line(format!(
            "round {number}: killed {fault:?}, whole again after {:?}, {:?}",
            begin.elapsed(),
            run.load.state()
        ));
        if number % ROUNDS_PER_DUMP == 0 {
            run.dump(cluster, number % 3)?;
        }
    }

    let finished = run.finish(cluster);
    stop.store(true, Ordering::Relaxed);
    let consumer_offsets = sampler.join().expect("the sampler does not panic");
    let history = History {
        consumer_offsets,
        ..finished?
    };
    let report = history::check(&history);
    progress::line(format!(
        "{report}{} samples of consumer offsets",
        history.consumer_offsets.len()
    ));
    assert!(report.violations.is_empty(), "{report}");
    Ok(report)
}

#[test]
fn nothing_acknowledged_is_lost_moved_or_changed_by_kills_under_load() {
    // Here, so that it is alive when an assertion fails: then its logs stay.
    let mut cluster = Cluster::start(3).expect("three nodes start");
    let report = run(&mut cluster).expect("the run completes");
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.acked > 1000 && report.received >= report.acked, "{report}");
}
