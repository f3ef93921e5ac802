//! Who leads, cheap to ask on every request and to wait for.
//!
//! One task a replica follows the engine and publishes what it says. A replica that was closed does not lead any
//! more, nor does one that has not heard of a majority for twice the longest election timeout (the engine itself never
//! steps down; Raft dissertation, section 6.2): what is asked of it is refused soon instead of ending unknown. As always
//! with Raft, a leader may not know yet that it was deposed: whatever must be fresh is confirmed by a majority.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{AsyncRuntime, Instant, Raft};
use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};

use crate::apply::Applier;
use crate::disk::Disk;
use crate::state_machine::StateMachine;
use crate::type_config::Types;

/// How often a leader looks whether it still hears of a majority.
const LOOKS_PER_PATIENCE: u32 = 4;

type Engine<Rt, D, S> = Raft<Types<Rt, <S as StateMachine>::Reply>, Applier<Rt, D, S>>;

/// What is known here about the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Raft term.
    pub term: u64,
    /// Node name of the leader, as far as known here.
    pub leader: Option<Arc<str>>,
    /// True while this replica leads and hears of a majority.
    pub is_leader: bool,
}

/// Node names by replica id, as of the last membership seen.
#[derive(Clone, Default)]
pub struct Names(Arc<RwLock<BTreeMap<u64, Arc<str>>>>);

impl Names {
    /// The node of a replica.
    pub fn of(&self, replica: Option<u64>) -> Option<String> {
        self.shared(replica).map(|name| name.as_ref().to_owned())
    }

    fn shared(&self, replica: Option<u64>) -> Option<Arc<str>> {
        self.0.read().get(&replica?).cloned()
    }
}

/// Follows one replica's engine.
#[derive(Clone)]
pub struct LeadershipWatch {
    names: Names,
    now: watch::Receiver<Leadership>,
    alone: Arc<AtomicBool>,
}

impl LeadershipWatch {
    /// Starts to follow; also tells the state machine when this replica starts or stops leading. A leader that hears of
    /// no majority for `patience` is published as none.
    pub fn start<Rt: AsyncRuntime, D: Disk, S: StateMachine>(
        raft: Engine<Rt, D, S>,
        names: Names,
        patience: Duration,
    ) -> Self {
        let (sender, now) = watch::channel(Leadership::default());
        let alone = Arc::new(AtomicBool::new(false));
        let following = follow::<Rt, D, S>(raft, names.clone(), sender, alone.clone(), patience);
        drop(Rt::spawn(following));
        Self { names, now, alone }
    }

    /// Node names by replica id.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// True while this replica leads.
    pub fn is_leader(&self) -> bool {
        self.now.borrow().is_leader
    }

    /// True while this replica would lead if it heard of a majority.
    pub fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    /// What is known now.
    pub fn now(&self) -> Leadership {
        self.now.borrow().clone()
    }

    /// Returns once something else than `seen` is known, with that; never after the replica was closed.
    pub async fn changed(&self, seen: &Leadership) -> Leadership {
        let mut now = self.now.clone();
        match now.wait_for(|now| now != seen).await.map(|now| now.clone()) {
            Ok(now) => now,
            Err(_) => std::future::pending().await,
        }
    }
}

async fn follow<Rt: AsyncRuntime, D: Disk, S: StateMachine>(
    raft: Engine<Rt, D, S>,
    names: Names,
    now: watch::Sender<Leadership>,
    without_majority: Arc<AtomicBool>,
    patience: Duration,
) {
    let (mut server, mut answers) = (raft.server_metrics(), raft.metrics());
    // The term that this replica leads in, and since when.
    let mut led: Option<(u64, Rt::Instant)> = None;
    // The state machine may be busy for long; who leads must be known meanwhile.
    let (changes, told) = mpsc::unbounded_channel();
    drop(Rt::spawn(tell_state_machine(raft.clone(), told)));
    loop {
        let metrics = server.borrow_watched().clone();
        let members = metrics.membership_config.membership().nodes();
        *names.0.write() = members.map(|(id, member)| (*id, member.node.as_str().into())).collect();
        let term = metrics.vote.leader_id.term;
        let is_leader = metrics.current_leader == Some(metrics.id);
        if is_leader != led.is_some() {
            tracing::info!(term, is_leader, "leadership changed");
            let _ = changes.send((term, is_leader));
        }
        led = is_leader.then(|| {
            led.filter(|(led, _)| *led == term)
                .unwrap_or_else(|| (term, Rt::Instant::now()))
        });
        let voters = metrics.membership_config.membership().voter_ids().count();
        let alone = voters > 1 && led.is_some_and(|(_, since)| heard_of_majority(&raft, since).elapsed() > patience);
        if without_majority.swap(alone, Ordering::Relaxed) != alone {
            tracing::warn!(term, alone, "whether this leader is without a majority changed");
        }
        let found = Leadership {
            term,
            leader: names.shared(metrics.current_leader.filter(|_| !alone)),
            is_leader: is_leader && !alone,
        };
        now.send_if_modified(|known| {
            let changed = *known != found;
            *known = found;
            changed
        });
        // Silence is no event: a leader looks by itself, and one that is alone at every answer it gets, too.
        let look = patience / LOOKS_PER_PATIENCE;
        let changed = if alone {
            Rt::timeout(look, answers.changed()).await.unwrap_or(Ok(()))
        } else if led.is_some() && voters > 1 {
            Rt::timeout(look, server.changed()).await.unwrap_or(Ok(()))
        } else {
            server.changed().await
        };
        if changed.is_err() {
            // Another one that led still may: a hint that costs nothing when it is wrong.
            now.send_modify(|known| {
                if std::mem::take(&mut known.is_leader) {
                    known.leader = None;
                }
            });
            // Whoever waits for a change waits on: nothing will change any more.
            now.closed().await;
            return;
        }
    }
}

/// When this leader, elected at `since`, last sent something that a majority has answered.
fn heard_of_majority<Rt: AsyncRuntime, D: Disk, S: StateMachine>(
    raft: &Engine<Rt, D, S>,
    since: Rt::Instant,
) -> Rt::Instant {
    let acknowledged = raft.metrics().borrow_watched().last_quorum_acked;
    acknowledged.map_or(since, |at| at.into_inner().max(since))
}

/// Tells the state machine every change, in order.
async fn tell_state_machine<Rt: AsyncRuntime, D: Disk, S: StateMachine>(
    raft: Engine<Rt, D, S>,
    mut changes: mpsc::UnboundedReceiver<(u64, bool)>,
) {
    while let Some((term, is_leader)) = changes.recv().await {
        let told = raft.with_state_machine(move |applier: &mut Applier<Rt, D, S>| {
            applier.state().on_leadership(term, is_leader);
            Box::pin(async {})
        });
        if told.await.is_err() {
            return;
        }
    }
}
