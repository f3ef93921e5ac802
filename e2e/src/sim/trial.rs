//! One seed: clients write while replicas are killed, disks are slow and connections are cut; then everything heals
//! and what was acknowledged must be there, on every replica, where it was acknowledged.
//!
//! All sleeps here pass in virtual time: they place the faults, they wait for nothing real.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_raft_store::log_id::LogId;
use flotilla_raft_store::runtime::AsyncRuntime;
use openraft_rt::Instant;
use openraft_rt_sim::{SimInstant, SimRuntime};
use parking_lot::Mutex;

use super::cluster::{Node, SimGroup};
use super::network::Network;
use super::random::Random;

/// What a trial does.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Decides everything that happens.
    pub seed: u64,
    /// Simulated time with faults.
    pub duration: Duration,
    /// Whether a restarted leader resumes its term without an election; the product never does.
    pub resume_leadership: bool,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Frames acknowledged to clients.
    pub acked: usize,
    /// Frames whose outcome a client does not know.
    pub unknown: usize,
    /// Processes killed with their unsynced data.
    pub kills: usize,
    /// Times all processes were killed at once.
    pub power_losses: usize,
    /// Times connections of a living leader were cut.
    pub cuts: usize,
    /// Highest term reached.
    pub term: u64,
    /// What must never happen and did.
    pub violations: Vec<String>,
    /// Digest of the history: equal for equal seeds and builds.
    pub digest: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            acked,
            unknown,
            kills,
            power_losses,
            cuts,
            term,
            violations,
            digest,
        } = self;
        for violation in violations {
            writeln!(f, "violation: {violation}")?;
        }
        writeln!(
            f,
            "acked {acked}, unknown {unknown}, kills {kills}, power losses {power_losses}, cuts {cuts}, term {term}"
        )?;
        write!(f, "digest {digest:016x}")
    }
}

/// An acknowledged frame.
struct Acked {
    log_id: LogId,
    offset: u64,
    value: Bytes,
}

#[derive(Default)]
struct History {
    acked: Vec<Acked>,
    unknown: usize,
    stop: bool,
}

/// The running replicas, for the clients.
type Running = Arc<Mutex<Vec<Option<SimGroup>>>>;

/// Clients writing at the same time.
const CLIENTS: u64 = 3;
/// The longest a healed cluster may take to serve and converge.
const CONVERGENCE_LIMIT: Duration = Duration::from_secs(20);

/// How long a client waits for the outcome of a write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs one trial. A panic inside is a violation like any other.
pub fn run(settings: Settings) -> Summary {
    let trial = || SimRuntime::with_seed(settings.seed).block_on(trial(settings));
    std::panic::catch_unwind(AssertUnwindSafe(trial)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Summary {
            violations: vec![format!("panic: {}", text.unwrap_or_default())],
            ..Summary::default()
        }
    })
}

async fn trial(settings: Settings) -> Summary {
    let random = Random::new(settings.seed);
    let network = Network::new(random.fork());
    let mut nodes: Vec<Node> = (1..=3).map(|replica| Node::new(replica, random.fork())).collect();
    let mut summary = Summary::default();
    let running: Running = Arc::new(Mutex::new(vec![None; nodes.len()]));
    for at in 0..nodes.len() {
        start(&mut nodes, at, &network, &running, settings, &mut summary).await;
    }
    let members = nodes.iter().map(|node| (node.replica, node.name.clone())).collect();
    if let Some(group) = nodes[0].group()
        && let Err(error) = group.initialize(members).await
    {
        summary.violations.push(format!("the group was not founded: {error}"));
    }
    let history = Arc::new(Mutex::new(History::default()));
    for client in 0..CLIENTS {
        drop(SimRuntime::spawn(write(
            client,
            running.clone(),
            history.clone(),
            random.fork(),
        )));
    }
    faults(&mut nodes, &network, &running, settings, &random, &mut summary).await;
    heal(&mut nodes, &network, &running, settings, &mut summary).await;
    // Clients write on for a while, then stop; the last write comes after all of theirs.
    SimRuntime::sleep(WRITE_TIMEOUT).await;
    history.lock().stop = true;
    SimRuntime::sleep(WRITE_TIMEOUT * 2).await;
    converge(&nodes, &mut summary).await;
    check(&nodes, &history.lock(), &mut summary);
    summary
}

async fn start(
    nodes: &mut [Node],
    at: usize,
    network: &Network,
    running: &Running,
    settings: Settings,
    summary: &mut Summary,
) {
    match nodes[at].start(network, settings.resume_leadership).await {
        Ok(()) => running.lock()[at] = nodes[at].group().cloned(),
        Err(error) => summary
            .violations
            .push(format!("{} did not restart: {error}", nodes[at].name)),
    }
}

fn kill(nodes: &mut [Node], at: usize, network: &Network, running: &Running, summary: &mut Summary) {
    running.lock()[at] = None;
    nodes[at].kill(network);
    summary.kills += 1;
}

/// One fault after another, with pauses, until the time is over.
async fn faults(
    nodes: &mut [Node],
    network: &Network,
    running: &Running,
    settings: Settings,
    random: &Random,
    summary: &mut Summary,
) {
    let end = SimInstant::now() + settings.duration;
    while SimInstant::now() < end {
        SimRuntime::sleep(Duration::from_millis(100 + random.below(900))).await;
        let leader = nodes
            .iter()
            .position(|node| node.group().is_some_and(SimGroup::is_leader));
        let slow = random.below(nodes.len() as u64) as usize;
        for (at, node) in nodes.iter().enumerate() {
            *node.sync_delay.lock() = if at == slow && random.one_in(2) {
                1 + random.below(200_000)
            } else {
                0
            };
        }
        match random.below(10) {
            // Half of the kills hit the leader: its unsynced tail is what the others may have committed.
            0..=3 => {
                if let Some(leader) = leader {
                    kill(nodes, leader, network, running, summary);
                }
            }
            4..=5 => {
                let at = random.below(nodes.len() as u64) as usize;
                kill(nodes, at, network, running, summary);
            }
            6 => {
                for at in 0..nodes.len() {
                    kill(nodes, at, network, running, summary);
                }
                summary.power_losses += 1;
            }
            _ => {
                if let Some(leader) = leader {
                    // The network lies: the leader lives, and connections to it are refused.
                    network.cut(&nodes[leader].name, random.one_in(2));
                    summary.cuts += 1;
                    SimRuntime::sleep(Duration::from_millis(random.below(700))).await;
                    network.heal();
                }
            }
        }
        // Faster than any election, or slower.
        let pause = if random.one_in(2) {
            random.below(30)
        } else {
            random.below(1_500)
        };
        SimRuntime::sleep(Duration::from_millis(pause)).await;
        for at in 0..nodes.len() {
            if nodes[at].group().is_none() {
                start(nodes, at, network, running, settings, summary).await;
            }
        }
    }
}

async fn heal(nodes: &mut [Node], network: &Network, running: &Running, settings: Settings, summary: &mut Summary) {
    network.heal();
    for at in 0..nodes.len() {
        *nodes[at].sync_delay.lock() = 0;
        if nodes[at].group().is_none() {
            start(nodes, at, network, running, settings, summary).await;
        }
    }
}

/// Waits until a write succeeds and every replica has applied it.
async fn converge(nodes: &[Node], summary: &mut Summary) {
    let converged = async {
        loop {
            for node in nodes {
                let Some(group) = node.group() else { continue };
                let written = group.propose(vec![Bytes::from_static(b"last")]);
                let Ok(Ok(written)) = SimRuntime::timeout(Duration::from_secs(2), written).await else {
                    continue;
                };
                let everywhere = || nodes.iter().all(|node| node.image().applied >= Some(written.log_id));
                while !everywhere() {
                    SimRuntime::sleep(Duration::from_millis(20)).await;
                }
                return;
            }
            SimRuntime::sleep(Duration::from_millis(50)).await;
        }
    };
    if SimRuntime::timeout(CONVERGENCE_LIMIT, converged).await.is_err() {
        let states: Vec<String> = nodes
            .iter()
            .map(|node| format!("{}: {:?}", node.name, node.group().map(|g| g.status())))
            .collect();
        summary
            .violations
            .push(format!("a healed cluster did not converge: {states:?}"));
    }
}

/// One client: a value at a time, to whoever leads.
async fn write(client: u64, running: Running, history: Arc<Mutex<History>>, random: Random) {
    for number in 0_u64.. {
        if history.lock().stop {
            return;
        }
        SimRuntime::sleep(Duration::from_micros(500 + random.below(3_000))).await;
        let groups: Vec<SimGroup> = running.lock().iter().flatten().cloned().collect();
        let Some(group) = groups.into_iter().find(SimGroup::is_leader) else {
            continue;
        };
        let mut value = format!("{client}-{number}").into_bytes();
        value.resize(20 + random.below(400) as usize, b'.');
        let value = Bytes::from(value);
        match SimRuntime::timeout(WRITE_TIMEOUT, group.propose(vec![value.clone()])).await {
            Ok(Ok(written)) => {
                let acked = Acked {
                    log_id: written.log_id,
                    offset: written.replies[0],
                    value,
                };
                history.lock().acked.push(acked);
            }
            Ok(Err(flotilla_raft_store::error::ProposeError::Unknown(_))) | Err(_) => history.lock().unknown += 1,
            Ok(Err(_)) => {}
        }
    }
}

/// Every replica has the same history, and every acknowledged value is in it where it was acknowledged.
fn check(nodes: &[Node], history: &History, summary: &mut Summary) {
    let images: Vec<_> = nodes.iter().map(Node::image).collect();
    for (node, image) in nodes.iter().zip(&images) {
        for acked in &history.acked {
            let found = usize::try_from(acked.offset)
                .ok()
                .and_then(|offset| image.frames.get(offset));
            if found != Some(&(acked.log_id, acked.value.clone())) {
                let value = String::from_utf8_lossy(&acked.value[..12]).into_owned();
                let text = format!(
                    "{} lost {value} acked at {} offset {}",
                    node.name, acked.log_id, acked.offset
                );
                summary.violations.push(text);
            }
        }
        let common = image.frames.len().min(images[0].frames.len());
        if image.frames[..common] != images[0].frames[..common] {
            summary
                .violations
                .push(format!("{} and {} hold different histories", node.name, nodes[0].name));
        }
    }
    summary.violations.truncate(5);
    summary.acked = history.acked.len();
    summary.unknown = history.unknown;
    summary.term = nodes
        .iter()
        .filter_map(Node::group)
        .map(|group| group.status().term)
        .max()
        .unwrap_or(0);
    summary.digest = images[0]
        .frames
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |digest, (id, frame)| {
            let mixed = [id.term, id.index]
                .into_iter()
                .chain(frame.iter().map(|byte| u64::from(*byte)));
            mixed.fold(digest, |digest, word| {
                (digest ^ word).wrapping_mul(0x0000_0100_0000_01b3)
            })
        });
}
