//! Connections between simulated nodes: ordered frames with delay, refused by dead nodes, cut at will.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flotilla_raft_store::runtime::AsyncRuntime;
use flotilla_raft_store::transport::{FrameReceiver, FrameSender, Purpose, Transport};
use openraft_rt::Instant;
use openraft_rt_sim::{SimInstant, SimRuntime};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::random::Random;

/// A connection as its accepting side receives it.
pub struct Incoming {
    /// What it is for.
    pub purpose: Purpose,
    /// Writing half.
    pub sender: SimSender,
    /// Reading half.
    pub receiver: SimReceiver,
}

/// All nodes and connections.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Mutex<Inner>>,
    random: Random,
}

struct Inner {
    accepting: BTreeMap<String, mpsc::UnboundedSender<Incoming>>,
    /// Pairs whose connections are refused although both nodes live.
    refused: BTreeSet<(String, String)>,
    links: Vec<Arc<Link>>,
}

struct Link {
    ends: (String, String),
    open: AtomicBool,
    closed: Notify,
}

impl Link {
    fn close(&self) {
        self.open.store(false, Ordering::Relaxed);
        self.closed.notify_waiters();
    }
}

fn pair(a: &str, b: &str) -> (String, String) {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    (low.to_owned(), high.to_owned())
}

impl Network {
    /// Without nodes.
    pub fn new(random: Random) -> Self {
        let inner = Inner {
            accepting: BTreeMap::new(),
            refused: BTreeSet::new(),
            links: Vec::new(),
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            random,
        }
    }

    /// The node `name` lives and accepts connections from now on.
    pub fn start(&self, name: &str) -> (SimTransport, mpsc::UnboundedReceiver<Incoming>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.inner.lock().accepting.insert(name.to_owned(), sender);
        let alive = Arc::new(AtomicBool::new(true));
        (
            SimTransport {
                network: self.clone(),
                node: name.to_owned(),
                alive,
            },
            receiver,
        )
    }

    /// The process of node `name` is gone: its connections close, new ones are refused, and what is left of it can
    /// no longer reach anybody.
    pub fn kill(&self, transport: &SimTransport) {
        transport.alive.store(false, Ordering::Relaxed);
        self.inner.lock().accepting.remove(&transport.node);
        self.close(|link| link.ends.0 == transport.node || link.ends.1 == transport.node);
    }

    /// Closes every connection of the living node `name`. With `refuse`, new ones are refused until [`Network::heal`].
    pub fn cut(&self, name: &str, refuse: bool) {
        {
            let mut inner = self.inner.lock();
            let others: Vec<String> = inner.accepting.keys().filter(|other| *other != name).cloned().collect();
            if refuse {
                inner.refused.extend(others.iter().map(|other| pair(name, other)));
            }
        }
        self.close(|link| link.ends.0 == name || link.ends.1 == name);
    }

    /// Nothing is refused any more.
    pub fn heal(&self) {
        self.inner.lock().refused.clear();
    }

    fn close(&self, which: impl Fn(&Link) -> bool) {
        let mut closing = Vec::new();
        self.inner.lock().links.retain(|link| {
            let close = which(link);
            if close {
                closing.push(link.clone());
            }
            !close && link.open.load(Ordering::Relaxed)
        });
        for link in closing {
            link.close();
        }
    }

    /// One way across: usually a quarter of a millisecond, now and then some.
    fn delay(&self) -> Duration {
        let base = 150 + self.random.below(200);
        let extra = if self.random.one_in(50) {
            self.random.below(4_000)
        } else {
            0
        };
        Duration::from_micros(base + extra)
    }
}

/// The doors of one node's process.
#[derive(Clone)]
pub struct SimTransport {
    network: Network,
    node: String,
    alive: Arc<AtomicBool>,
}

impl Transport for SimTransport {
    type Sender = SimSender;
    type Receiver = SimReceiver;

    async fn connect(&self, _replica: u64, name: &str, purpose: Purpose) -> io::Result<(SimSender, SimReceiver)> {
        SimRuntime::sleep(self.network.delay() * 2).await;
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        if !self.alive.load(Ordering::Relaxed) {
            return Err(refused());
        }
        let mut inner = self.network.inner.lock();
        if inner.refused.contains(&pair(&self.node, name)) {
            return Err(refused());
        }
        let accepting = inner.accepting.get(name).ok_or_else(refused)?.clone();
        let link = Arc::new(Link {
            ends: (self.node.clone(), name.to_owned()),
            open: AtomicBool::new(true),
            closed: Notify::new(),
        });
        let (there, here_receiver) = half(&link, &self.network);
        let (here, there_receiver) = half(&link, &self.network);
        accepting
            .send(Incoming {
                purpose,
                sender: there,
                receiver: there_receiver,
            })
            .map_err(|_| refused())?;
        inner.links.push(link);
        Ok((here, here_receiver))
    }
}

fn half(link: &Arc<Link>, network: &Network) -> (SimSender, SimReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let last = SimInstant::now();
    (
        SimSender {
            link: link.clone(),
            frames: sender,
            network: network.clone(),
            last,
        },
        SimReceiver {
            link: link.clone(),
            frames: receiver,
        },
    )
}

/// The writing half of a connection.
pub struct SimSender {
    link: Arc<Link>,
    frames: mpsc::UnboundedSender<(SimInstant, Bytes)>,
    network: Network,
    last: SimInstant,
}

impl FrameSender for SimSender {
    async fn send(&mut self, parts: &[Bytes]) -> io::Result<()> {
        if !self.link.open.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let mut frame = BytesMut::new();
        for part in parts {
            frame.extend_from_slice(part);
        }
        // Frames of one connection never overtake each other.
        let arrival = (SimInstant::now() + self.network.delay()).max(self.last);
        self.last = arrival;
        self.frames
            .send((arrival, frame.freeze()))
            .map_err(|_| io::ErrorKind::ConnectionReset.into())
    }
}

/// The reading half of a connection.
pub struct SimReceiver {
    link: Arc<Link>,
    frames: mpsc::UnboundedReceiver<(SimInstant, Bytes)>,
}

impl FrameReceiver for SimReceiver {
    async fn receive(&mut self) -> io::Result<Option<Bytes>> {
        let link = self.link.clone();
        let closed = link.closed.notified();
        if !link.open.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let next = async {
            let Some((arrival, frame)) = self.frames.recv().await else {
                return Ok(None);
            };
            SimRuntime::sleep_until(arrival).await;
            Ok(Some(frame))
        };
        match SimRuntime::select2(closed, next).await {
            openraft_rt::Select2::First(()) => Err(io::ErrorKind::ConnectionReset.into()),
            openraft_rt::Select2::Second(frame) => frame,
        }
    }
}
