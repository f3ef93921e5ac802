//! What the leading controller keeps in order: that the cluster is written down as founded, that the policy of its
//! configuration holds, that draining Raft groups become empty, that replicas on nodes that are evacuated or lost are
//! re-created elsewhere, and that the members of the controllers' Raft group are those that the state names.
//!
//! All of it is said again by whoever leads next, and saying it again changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_controller::feed::Feed;
use flotilla_controller::metadata::{Controller, Policy};
use flotilla_controller::protocol::Founding;
use flotilla_controller::replacement;
use flotilla_controller::state::{Command, Reply};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::ControllerGroup;
use super::drains::{self, Drains};
use super::replacements::Absences;
use crate::config::Member;
use crate::fail_point;
use crate::handlers::propose::now_ms;
use crate::http;
use crate::peer::Peers;
use crate::server::stopped;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long a change of the members is waited for before the rest is looked at again; what has begun goes on.
const MEMBER_CHANGE_MAX: Duration = Duration::from_secs(10);
/// The feature level of this version.
const FEATURE_LEVEL: u32 = 1;

/// See the module.
#[derive(Debug)]
pub struct Duties {
    pub(super) group: ControllerGroup,
    pub(super) feed: Arc<Feed>,
    pub(super) founding: Founding,
    pub(super) policy: Policy,
    /// As configured, addresses included.
    pub(super) members: Vec<Member>,
    /// Knows which nodes live, once it is there; `None` in the process that the nodes are in.
    pub(super) nodes: Option<http::Stage>,
}

/// What the one that leads remembers from look to look.
#[derive(Debug, Default)]
struct Memory {
    drains: Drains,
    absences: Absences,
}

impl Duties {
    /// Does them while this controller leads, until `stop`.
    pub async fn keep(self, mut stop: watch::Receiver<bool>) {
        let mut seen = self.group.leadership();
        let mut memory = Memory::default();
        loop {
            if seen.is_leader {
                tokio::select! {
                    () = self.look(&mut memory) => {}
                    () = stopped(&mut stop) => return,
                }
            } else {
                memory = Memory::default();
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => seen = self.group.leadership(),
                now = self.group.leadership_changed(&seen) => seen = now,
                () = stopped(&mut stop) => return,
            }
        }
    }

    async fn look(&self, memory: &mut Memory) {
        // What an earlier leader wrote must be applied here before anything is called missing.
        if self.group.read_index().await.is_err() {
            return;
        }
        let (cluster, controllers) = self
            .feed
            .read(|metadata| (metadata.cluster.clone(), metadata.controllers.clone()));
        if cluster.name.is_empty() {
            self.log(self.found()).await;
            return;
        }
        if cluster.policy != self.policy {
            info!(policy = ?self.policy, "the policy of this controller's configuration holds from now on");
            let policy = self.policy.clone();
            self.log(Command::SetPolicy { policy }).await;
        }
        for member in &self.members {
            if let Some(known) = controllers.get(&member.name)
                && known.address != member.address
            {
                self.log(Command::PutController {
                    name: member.name.clone(),
                    address: member.address.clone(),
                    volume: known.volume.clone(),
                })
                .await;
            }
        }
        for group in memory.drains.due(&self.feed.snapshot(), Instant::now()) {
            self.go_on_draining(group).await;
        }
        self.replace_replicas(&mut memory.absences).await;
        self.change_members(&controllers).await;
    }

    async fn replace_replicas(&self, absences: &mut Absences) {
        let metadata = self.feed.snapshot();
        let lives = |name: &str| match &self.nodes {
            Some(stage) => stage.get().is_some_and(|broker| broker.peers.is_living(name)),
            None => true,
        };
        let nodes = metadata.nodes.keys().map(|name| (name.clone(), lives(name)));
        let after = Some(self.policy.replace_after_ms).filter(|after| *after > 0);
        let sight = absences.look(nodes, Instant::now(), after.map(Duration::from_millis));
        for replacement in replacement::due(&metadata, &sight) {
            let group = metadata.groups.get(&replacement.group).map(|group| &group.name);
            let lost = sight.lost.contains(&replacement.leaving);
            info!(
                group,
                lost,
                from = replacement.leaving,
                to = replacement.node,
                "re-creates a replica"
            );
            self.log(replacement.command()).await;
            fail_point::reached(fail_point::MEMBERS_WANTED);
        }
    }

    async fn go_on_draining(&self, group: u16) {
        let metadata = self.feed.snapshot();
        // Plans for many queues take a while.
        let planned = tokio::task::spawn_blocking(move || drains::moves_out(&metadata, group));
        let moves = planned.await.unwrap_or_default();
        if moves.is_empty() {
            return;
        }
        let queues = moves.len();
        let command = Command::StartMoves {
            moves,
            reason: "drain, again".to_owned(),
            now_ms: now_ms(),
        };
        match self.group.propose(vec![command.encode()]).await {
            Ok(proposed) => match proposed.replies.first() {
                // What changed meanwhile is seen the next time.
                Some(Reply::Refused(refusal)) => debug!(%refusal, group, "go on with a drain"),
                _ => info!(group, queues, "goes on with a drain"),
            },
            Err(error) => debug!(%error, group, "go on with a drain"),
        }
    }

    fn found(&self) -> Command {
        let controllers = self.founding.members.iter().map(|(name, member)| {
            let controller = Controller {
                address: member.address.clone(),
                replica: member.replica,
                volume: member.volume.clone(),
            };
            (name.clone(), controller)
        });
        Command::Found {
            name: self.founding.cluster.clone(),
            id: self.founding.id.clone(),
            policy: self.policy.clone(),
            controllers: controllers.collect(),
            feature_level: FEATURE_LEVEL,
        }
    }

    async fn log(&self, command: Command) {
        match self.group.propose(vec![command.encode()]).await {
            Ok(proposed) => {
                for reply in proposed.replies {
                    if let Reply::Refused(refusal) = reply {
                        warn!(%refusal, ?command, "a controller's own command was refused");
                    }
                }
            }
            Err(error) => debug!(%error, "log a controller's own command"),
        }
    }

    async fn change_members(&self, controllers: &BTreeMap<String, Controller>) {
        let status = self.group.status();
        let is_wanted = |id: u64| controllers.values().any(|wanted| wanted.replica == id);
        let in_line = status.members_settled
            && status.members.len() == controllers.len()
            && status
                .members
                .iter()
                .all(|member| member.voter && is_wanted(member.replica));
        if in_line {
            return;
        }
        let wanted = controllers.iter().map(|(name, wanted)| (wanted.replica, name.clone()));
        let wanted: Vec<(u64, String)> = wanted.collect();
        info!(members = ?wanted, "changes the controllers");
        let change = self.group.set_members(&wanted);
        match timeout(MEMBER_CHANGE_MAX, change).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "change the controllers"),
            Err(_) => info!("a change of the controllers is under way"),
        }
    }
}

/// Tells the table of peers where the controllers are, until `stop`. The configuration wins: it says where they are
/// now, the state where they were.
pub async fn keep_addresses(
    peers: Arc<Peers>,
    feed: Arc<Feed>,
    configured: Vec<Member>,
    mut stop: watch::Receiver<bool>,
) {
    let mut epochs = feed.subscribe();
    loop {
        let mut addresses: BTreeMap<String, String> = feed.read(|metadata| {
            let controllers = metadata.controllers.iter();
            controllers
                .map(|(name, controller)| (name.clone(), controller.address.clone()))
                .collect()
        });
        let configured = configured.iter();
        addresses.extend(configured.map(|member| (member.name.clone(), member.address.clone())));
        peers.set_members(addresses);
        tokio::select! {
            changed = epochs.changed() => if changed.is_err() { return },
            () = stopped(&mut stop) => return,
        }
    }
}
