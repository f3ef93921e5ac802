//! What the leading controller does for `policy.auto_rebalance`: looks at the Raft groups, has their leaders tell what comes
//! in, and starts the moves that `rebalancing.rs` decides on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_controller::metadata::Metadata;
use flotilla_controller::planning::Loads;
use flotilla_controller::state::{Command, Reply};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::ControllerGroup;
use super::rebalancing::{GroupView, Rebalancing, Start, View};
use crate::handlers::propose::now_ms;
use crate::http::gather_loads;
use crate::node::Broker;
use crate::replica::LEVEL_ENTRIES;
use crate::server::stopped;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two questions for the load.
const LOADS_INTERVAL: Duration = Duration::from_secs(15);

/// See the module.
#[derive(Debug)]
pub struct Rebalancer {
    pub(super) group: ControllerGroup,
    /// The process's way to the nodes.
    pub(super) broker: Arc<Broker>,
}

/// What is remembered while this controller leads.
#[derive(Default)]
struct Term {
    rebalancing: Rebalancing,
    loads: Option<(Arc<Loads>, Instant)>,
}

impl Rebalancer {
    /// Does it while this controller leads, until `stop`.
    pub async fn keep(self, mut stop: watch::Receiver<bool>) {
        let mut term = Term::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = stopped(&mut stop) => return,
            }
            if !self.group.is_leader() {
                term = Term::default();
                continue;
            }
            tokio::select! {
                () = self.look(&mut term) => {}
                () = stopped(&mut stop) => return,
            }
        }
    }

    async fn look(&self, term: &mut Term) {
        // What an earlier leader wrote must be applied here before anything is planned.
        if self.group.read_index().await.is_err() {
            return;
        }
        let stale = |(_, at): &(Arc<Loads>, Instant)| at.elapsed() >= LOADS_INTERVAL;
        if term.loads.as_ref().is_none_or(stale) {
            let loads = gather_loads(&self.broker).await;
            term.loads = Some((Arc::new(loads), Instant::now()));
        }
        let loads = term.loads.as_ref().map(|(loads, _)| loads.clone());
        let metadata = self.broker.metadata.snapshot();
        let groups = self.groups(&metadata);
        let mut rebalancing = std::mem::take(&mut term.rebalancing);
        // Plans for many queues take a while.
        let decided = tokio::task::spawn_blocking(move || {
            let view = View {
                metadata: &metadata,
                groups: &groups,
                loads: loads.as_deref(),
                now: Instant::now(),
                now_ms: now_ms(),
            };
            let start = rebalancing.due(&view);
            (rebalancing, start)
        });
        match decided.await {
            Ok((rebalancing, start)) => {
                term.rebalancing = rebalancing;
                if let Some(start) = start
                    && !self.start(start).await
                {
                    term.rebalancing.give_up();
                }
            }
            Err(error) => warn!(%error, "plan by policy"),
        }
    }

    fn groups(&self, metadata: &Metadata) -> BTreeMap<u16, GroupView> {
        let groups = metadata.groups.iter().map(|(number, group)| {
            let replicas = self.broker.peers.replicas(*number).into_iter();
            let replicas: BTreeMap<_, _> = replicas.collect();
            let leader = self.broker.leadership(*number).leader;
            let leader = leader.filter(|leader| replicas.contains_key(&**leader));
            let last = leader.as_deref().map_or(0, |leader| replicas[leader].last_index);
            let mut view = GroupView {
                leader: leader.as_deref().map(str::to_owned),
                ..GroupView::default()
            };
            for member in group
                .members
                .iter()
                .filter(|member| self.broker.peers.is_living(&member.node))
            {
                let replica = replicas.get(&member.node).filter(|replica| replica.closed.is_none());
                if replica.is_some() {
                    view.living.insert(member.node.clone());
                }
                if replica.is_none_or(|replica| replica.applied_index + LEVEL_ENTRIES < last) {
                    view.behind.insert(member.node.clone());
                }
            }
            (*number, view)
        });
        groups.collect()
    }

    /// True if the moves are under way now.
    async fn start(&self, start: Start) -> bool {
        let Start { moves, reason } = start;
        let queues = moves.len();
        let command = Command::StartMoves {
            moves,
            reason: reason.to_owned(),
            now_ms: now_ms(),
        };
        match self.group.propose(vec![command.encode()]).await {
            Ok(proposed) => match proposed.replies.first() {
                // What changed meanwhile is seen the next time.
                Some(Reply::Refused(refusal)) => debug!(%refusal, reason, "start moves by policy"),
                _ => {
                    info!(queues, reason, "moves queues");
                    return true;
                }
            },
            Err(error) => debug!(%error, reason, "start moves by policy"),
        }
        false
    }
}
