//! Traffic on a topic: to every queue through every node, each pair a *lane* that sends one message after another, and a
//! reader of every node. All of it is kept for a [`History`], and can be looked at while it goes on.
//!
//! A lane tries every message once and waits as long as official clients do by default. It takes no other node when its own
//! is silent: what is seen on a lane is what that node did.

mod lane;
mod reader;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;

use crate::client::Client;
use crate::cluster::Cluster;
use crate::history::{History, Outcome, Receive, Send};
use crate::wait;
use lane::Lane;
use reader::Reader;

/// How long a call may take: what official clients wait by default.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Between two sends of a lane, and two looks at a node that has nothing new.
const PAUSE: Duration = Duration::from_millis(20);
/// How long whole reads and the readers' catching up may take at the end.
const FINISH: Duration = Duration::from_secs(60);

/// One send.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The place of the node that it was sent to.
    pub node: usize,
    /// The queue.
    pub queue: u32,
    /// What was sent.
    pub value: String,
    /// When the call began.
    pub begin: Instant,
    /// When it ended.
    pub end: Instant,
    /// What came of it.
    pub outcome: Outcome,
    /// The answer's code and remark, or why there was none.
    pub told: String,
}

impl Attempt {
    /// How long it took.
    pub fn time(&self) -> Duration {
        self.end - self.begin
    }

    /// Whether it was acknowledged.
    pub const fn is_acked(&self) -> bool {
        matches!(self.outcome, Outcome::Stored(_))
    }
}

/// The client kept from the last call, or one that is connected now; none while the node cannot be reached.
fn connected(kept: &mut Option<Client>, address: SocketAddr) -> Option<&mut Client> {
    if kept.is_none() {
        *kept = Client::connect_to(address, PATIENCE).ok();
    }
    kept.as_mut()
}

/// See the module.
pub struct Traffic {
    topic: String,
    queues: u32,
    /// Places of the nodes that it goes through.
    nodes: Vec<usize>,
    begun: Instant,
    log: Arc<Mutex<Vec<Attempt>>>,
    stop: Arc<AtomicBool>,
    read_to: Arc<Mutex<BTreeMap<(usize, u32), i64>>>,
    ends: Arc<OnceLock<Vec<i64>>>,
    lanes: Vec<JoinHandle<()>>,
    readers: Vec<JoinHandle<Vec<Receive>>>,
}

impl Traffic {
    /// Begins on a topic that has so many queues, through all nodes.
    pub fn start(cluster: &Cluster, topic: &str, queues: u32) -> Self {
        Self::of(cluster, 0..cluster.len(), (topic, queues), |_| PAUSE)
    }

    /// Begins through these nodes alone.
    pub fn through(cluster: &Cluster, nodes: impl IntoIterator<Item = usize>, topic: &str, queues: u32) -> Self {
        Self::of(cluster, nodes, (topic, queues), |_| PAUSE)
    }

    /// Begins through all nodes, with so much time between two sends of the lanes of a queue.
    pub fn paced(cluster: &Cluster, topic: &str, queues: u32, pause: impl Fn(u32) -> Duration) -> Self {
        Self::of(cluster, 0..cluster.len(), (topic, queues), pause)
    }

    fn of(
        cluster: &Cluster,
        nodes: impl IntoIterator<Item = usize>,
        (topic, queues): (&str, u32),
        pause: impl Fn(u32) -> Duration,
    ) -> Self {
        let mut traffic = Self {
            topic: topic.to_owned(),
            queues,
            nodes: nodes.into_iter().collect(),
            begun: Instant::now(),
            log: Arc::default(),
            stop: Arc::default(),
            read_to: Arc::default(),
            ends: Arc::default(),
            lanes: Vec::new(),
            readers: Vec::new(),
        };
        for node in traffic.nodes.clone() {
            let address = cluster.remoting(node);
            for queue in 0..queues {
                let lane = Lane {
                    node,
                    queue,
                    address,
                    topic: topic.to_owned(),
                    pause: pause(queue),
                };
                let (log, stop) = (traffic.log.clone(), traffic.stop.clone());
                traffic.lanes.push(std::thread::spawn(move || lane.run(&log, &stop)));
            }
            let reader = Reader {
                node,
                address,
                topic: topic.to_owned(),
                read_to: traffic.read_to.clone(),
                ends: traffic.ends.clone(),
            };
            traffic.readers.push(std::thread::spawn(move || reader.run(queues)));
        }
        traffic
    }

    /// Every send that began after this time and has ended.
    pub fn since(&self, begin: Instant) -> Vec<Attempt> {
        let log = self.log.lock();
        log.iter().filter(|attempt| attempt.begin > begin).cloned().collect()
    }

    /// Waits until some send that began after this time has ended as asked; returns the first such.
    pub fn await_send(
        &self,
        what: &str,
        limit: Duration,
        begin: Instant,
        asked: impl Fn(&Attempt) -> bool,
    ) -> Result<Attempt> {
        wait::until(what, limit, || {
            let log = self.log.lock();
            let found = log.iter().filter(|attempt| attempt.begin > begin && asked(attempt));
            Ok(found.min_by_key(|attempt| attempt.end).cloned())
        })
    }

    /// Waits until every lane got an acknowledgement for a send that began after this time; returns how long after it the
    /// last of the lanes got its first.
    pub fn await_all_lanes(&self, nodes: usize, limit: Duration, begin: Instant) -> Result<Duration> {
        let mut last = Duration::ZERO;
        for node in 0..nodes {
            for queue in 0..self.queues {
                let what = format!("an acknowledged send to queue {queue} through node {node}");
                let mine = |attempt: &Attempt| (attempt.node, attempt.queue) == (node, queue) && attempt.is_acked();
                last = last.max(self.await_send(&what, limit, begin, mine)?.end - begin);
            }
        }
        Ok(last)
    }

    /// Waits until the reader of a node has read what was sent.
    pub fn await_read(&self, node: usize, sent: &Attempt, limit: Duration) -> Result<()> {
        let Outcome::Stored(place) = sent.outcome else {
            bail!("not acknowledged: {sent:?}");
        };
        wait::until(&format!("{place:?} is read at node {node}"), limit, || {
            let read_to = self.read_to.lock().get(&(node, place.queue)).copied();
            Ok((read_to > Some(place.offset)).then_some(()))
        })
    }

    /// The longest time from `begin` to `end` during which a lane got no acknowledgement.
    pub fn pause(&self, node: usize, queue: u32, begin: Instant, end: Instant) -> Duration {
        let log = self.log.lock();
        let acked = log
            .iter()
            .filter(|attempt| (attempt.node, attempt.queue) == (node, queue) && attempt.is_acked())
            .map(|attempt| attempt.end)
            .filter(|at| (begin..end).contains(at));
        // A lane's own sends are in the order of their ends.
        let mut before = begin;
        let mut longest = Duration::ZERO;
        for at in acked.chain([end]) {
            longest = longest.max(at - before);
            before = at;
        }
        longest
    }

    /// Ends the sends, lets the readers read on to the end, reads the whole topic at every one of its nodes.
    pub fn finish(mut self, cluster: &Cluster) -> Result<History> {
        self.stop.store(true, Ordering::Relaxed);
        for lane in self.lanes.drain(..) {
            lane.join().expect("a lane does not panic");
        }
        let mut history = History::default();
        for node in self.nodes.clone() {
            history.dumps.push(wait::until("a whole read", FINISH, || {
                cluster.client(node)?.dump(&self.topic, self.queues).map(Some)
            })?);
        }
        let last = history.dumps.last().context("no node")?;
        let ends = last.0.values().map(|queue| queue.end_offset).collect();
        self.ends.set(ends).expect("a traffic ends once");
        wait::until("readers that read everything", FINISH, || {
            Ok(self.readers.iter().all(JoinHandle::is_finished).then_some(()))
        })?;
        for reader in self.readers.drain(..) {
            history.receives.extend(reader.join().expect("a reader does not panic"));
        }
        let log = std::mem::take(&mut *self.log.lock());
        history.sends.extend(log.into_iter().map(|attempt| Send {
            begin: self.clock(attempt.begin),
            end: self.clock(attempt.end),
            value: attempt.value,
            outcome: attempt.outcome,
            tries_max: 1,
        }));
        Ok(history)
    }

    fn clock(&self, at: Instant) -> u64 {
        u64::try_from((at - self.begun).as_nanos()).expect("a run of less than five hundred years")
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        // A failed test does not wait for them; they end by themselves.
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.ends.set(vec![0; self.queues as usize]);
    }
}
