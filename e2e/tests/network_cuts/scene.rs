//! A cluster in a network of its own, with traffic on one topic: a queue in every Raft group.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flotilla_e2e::cluster::{Cluster, Shape};
use flotilla_e2e::history;
use flotilla_e2e::network::{Direction, Network};
use flotilla_e2e::progress;
use flotilla_e2e::traffic::{Attempt, Traffic};
use flotilla_e2e::wait;
use parking_lot::{Mutex, MutexGuard};
use serde_json::json;

pub const NODES: usize = 3;
pub const TOPIC: &str = "network-cuts";
/// One in each Raft group.
pub const QUEUES: u32 = 3;
/// Every lane is served again, and every replica level, after a cut is healed.
pub const HEALED: Duration = Duration::from_secs(20);
const ALIKE: Duration = Duration::from_secs(60);
/// What a client that waits 3 s takes at most, with what a busy machine adds.
pub const ANSWERED: Duration = Duration::from_millis(3_300);
/// A queue whose leader keeps its majority is served all the time, but for what a busy machine takes.
const UNTOUCHED: Duration = Duration::from_millis(2_500);
/// A queue is served again. The goal is a second, two at most; a machine busy with other things gets more.
const SERVED: Duration = Duration::from_secs(5);
/// A lane has seen this many answers: enough to say how it is served.
const SOME: usize = 20;
/// An answer that took longer was held back.
const AT_ONCE: Duration = Duration::from_secs(1);

/// One scene at a time.
static STAGE: Mutex<()> = Mutex::new(());

/// A Raft group, by its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    /// The queue of the topic that it owns.
    pub queue: u32,
    /// The place of the node that leads it.
    pub leader: usize,
    /// The term in which it does.
    pub term: u64,
}

/// See the module. The cluster comes after the traffic: threads leave its network before it goes.
pub struct Scene {
    traffic: Option<Traffic>,
    pub cluster: Cluster,
    /// The queue in each Raft group.
    queues: BTreeMap<String, u32>,
    /// Where each Raft group is to be led.
    preferred: BTreeMap<String, usize>,
    _stage: MutexGuard<'static, ()>,
}

impl Scene {
    /// Three nodes, three controllers, traffic that is served on every lane.
    pub fn set() -> Self {
        let stage = STAGE.lock();
        let cluster = Shape::of(NODES).networked().start().expect("three nodes start");
        cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
        let owners = cluster.http(0).owners(TOPIC).expect("owners");
        let queues: BTreeMap<String, u32> = owners.into_iter().zip(0..).collect();
        assert_eq!(queues.len(), QUEUES as usize, "{queues:?}");
        let preferred: BTreeMap<String, usize> = queues
            .keys()
            .map(|group| (group.clone(), preferred_leader(&cluster, group)))
            .collect();
        let places: BTreeSet<usize> = preferred.values().copied().collect();
        assert_eq!(places.len(), NODES, "each node is to lead one: {preferred:?}");
        let begin = Instant::now();
        let traffic = Traffic::start(&cluster, TOPIC, QUEUES);
        let served = traffic.await_all_lanes(NODES, HEALED, begin);
        served.expect("every lane is served before any cut");
        let scene = Self {
            traffic: Some(traffic),
            cluster,
            queues,
            preferred,
            _stage: stage,
        };
        scene.restore_leaders();
        scene
    }

    pub fn network(&self) -> &Network {
        self.cluster.network().expect("a network")
    }

    pub fn traffic(&self) -> &Traffic {
        self.traffic.as_ref().expect("traffic goes on until the end")
    }

    /// Names of all machines but one.
    pub fn others(&self, machine: &str) -> Vec<&str> {
        let nodes = self.cluster.nodes().iter().map(|node| node.name.as_str());
        let controllers = self
            .cluster
            .controllers()
            .iter()
            .map(|controller| controller.name.as_str());
        nodes.chain(controllers).filter(|name| *name != machine).collect()
    }

    /// Cuts a machine off from others; returns when that was done.
    pub fn cut(&self, machine: &str, others: &[&str], direction: Direction) -> Instant {
        self.network().cut(machine, others, direction).expect("cut");
        Instant::now()
    }

    /// Who leads each Raft group, once all nodes agree; in the order of their names.
    pub fn leaders(&self) -> Vec<Led> {
        self.cluster.leaders().expect("leaders that all nodes name");
        self.leaders_seen_at(0)
    }

    /// Who leads each Raft group, by a node that reaches all leaders; in the order of their names.
    pub fn leaders_seen_at(&self, node: usize) -> Vec<Led> {
        let http = self.cluster.http(node);
        let leaders = self.queues.iter().map(|(group, queue)| {
            wait::until(&format!("a leader of {group}"), HEALED, || {
                let body = http.get_ok(&format!("/v1/groups/{group}"))?;
                let leader = body["leader"].as_str().and_then(|name| self.cluster.place(name));
                Ok(leader.zip(body["term"].as_u64()).map(|(leader, term)| Led {
                    queue: *queue,
                    leader,
                    term,
                }))
            })
        });
        leaders.collect::<Result<_>>().expect("every Raft group has a leader")
    }

    /// Has every Raft group led where it belongs, so that each node leads one, and none moves by itself for a while.
    pub fn restore_leaders(&self) {
        for (group, node) in &self.preferred {
            let name = &self.cluster.nodes()[*node].name;
            let path = format!("/v1/groups/{group}/leader");
            wait::until(&format!("{name} leads {group}"), HEALED, || {
                if self.cluster.leaders()?[group] == *node {
                    return Ok(Some(()));
                }
                let (status, body) = self.cluster.http(*node).post(&path, &json!({ "node": name }))?;
                ensure!((200..300).contains(&status), "{status} {body}");
                Ok(None)
            })
            .expect("a node is given a Raft group to lead");
        }
    }

    /// Waits until a send through a node to a queue that began after this time was acknowledged, and until that node's
    /// reader has it; returns how long the acknowledgement took.
    pub fn await_served(&self, node: usize, queue: u32, begin: Instant) -> Result<Duration> {
        let what = format!("queue {queue} served at node {node}");
        let asked = |attempt: &Attempt| (attempt.node, attempt.queue) == (node, queue) && attempt.is_acked();
        let sent = self.traffic().await_send(&what, SERVED, begin, asked)?;
        self.traffic().await_read(node, &sent, SERVED)?;
        Ok(sent.end - begin)
    }

    /// Fails if a lane was left without acknowledgements for long between two times; returns for how long it was.
    pub fn untouched(&self, node: usize, queue: u32, begin: Instant, end: Instant) -> Result<Duration> {
        let pause = self.traffic().pause(node, queue, begin, end);
        ensure!(
            pause < UNTOUCHED,
            "queue {queue} through node {node}: {pause:?} without an acknowledgement"
        );
        Ok(pause)
    }

    /// Waits until a send through a node to a queue that began after this time was refused or left open, or some were
    /// answered at once.
    pub fn await_some(&self, node: usize, queue: u32, begin: Instant) -> Result<()> {
        let what = format!("some answers of node {node} for queue {queue}");
        wait::until(&what, HEALED, || {
            let ended = self.lane(node, queue, begin);
            let waited = ended
                .iter()
                .any(|attempt| !attempt.is_acked() && attempt.time() > AT_ONCE);
            Ok((ended.len() >= SOME || waited).then_some(()))
        })
    }

    /// The sends of a lane that began after this time and have ended.
    pub fn lane(&self, node: usize, queue: u32, begin: Instant) -> Vec<Attempt> {
        let mut ended = self.traffic().since(begin);
        ended.retain(|attempt| (attempt.node, attempt.queue) == (node, queue));
        ended
    }

    /// Heals every cut; returns how long it took until every lane was served, and until all replicas were alike and the
    /// nodes had reached a leading controller.
    pub fn heal(&self) -> [Duration; 2] {
        self.network().heal().expect("heal");
        let healed = Instant::now();
        let lanes = self.traffic().await_all_lanes(NODES, HEALED, healed);
        let lanes = lanes.expect("every lane is served after the cut is healed");
        self.cluster.leaders().expect("leaders that all name");
        self.cluster
            .await_controllers()
            .expect("the nodes reach a leading controller");
        self.cluster.await_alike(ALIKE).expect("all replicas are alike");
        [lanes, healed.elapsed()]
    }

    /// Ends the traffic and holds its history against every promise.
    pub fn check(mut self) {
        let traffic = self.traffic.take().expect("traffic goes on until here");
        let history = traffic.finish(&self.cluster).expect("the traffic ends");
        self.cluster.await_alike(ALIKE).expect("all replicas are alike");
        let report = history::check(&history);
        progress::line(report.to_string());
        assert!(report.violations.is_empty(), "{report}");
        assert!(report.acked > 1_000 && report.stored >= report.acked, "{report}");
    }
}

fn preferred_leader(cluster: &Cluster, group: &str) -> usize {
    let body = cluster.http(0).get_ok(&format!("/v1/groups/{group}")).expect("group");
    let name = body["preferred_leader"].as_str().expect("a preferred leader");
    cluster.place(name).expect("a node")
}

/// What nodes told of sends that were not acknowledged, each once, with the longest time that one took.
pub fn refusals(attempts: &[Attempt]) -> BTreeMap<&str, Duration> {
    let mut told = BTreeMap::new();
    for attempt in attempts.iter().filter(|attempt| !attempt.is_acked()) {
        let longest = told.entry(attempt.told.as_str()).or_insert(Duration::ZERO);
        *longest = attempt.time().max(*longest);
    }
    told
}
