//! What the leading controller keeps in order: that the cluster is written down as founded, that the policy of its
//! configuration holds, that draining Raft groups become empty, and that the members of the controllers' Raft group are
//! those that the state names.
//!
//! All of it is said again by whoever leads next, and saying it again changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_controller::feed::Feed;
use flotilla_controller::metadata::{Controller, Policy};
use flotilla_controller::protocol::Founding;
use flotilla_controller::state::{Command, Reply};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::ControllerGroup;
use super::drains::{self, Drains};
use crate::config::Member;
use crate::handlers::propose::now_ms;
use crate::peer::Peers;
use crate::server::stopped;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long one change of the members may take.
const MEMBER_CHANGE_MAX: Duration = Duration::from_secs(600);
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
}

impl Duties {
    /// Does them while this controller leads, until `stop`.
    pub async fn keep(self, mut stop: watch::Receiver<bool>) {
        let mut seen = self.group.leadership();
        let mut drains = Drains::default();
        loop {
            if seen.is_leader {
                tokio::select! {
                    () = self.look(&mut drains) => {}
                    () = stopped(&mut stop) => return,
                }
            } else {
                drains = Drains::default();
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => seen = self.group.leadership(),
                now = self.group.leadership_changed(&seen) => seen = now,
                () = stopped(&mut stop) => return,
            }
        }
    }

    async fn look(&self, drains: &mut Drains) {
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
        for group in drains.due(&self.feed.snapshot(), Instant::now()) {
            self.go_on_draining(group).await;
        }
        self.change_members(&controllers).await;
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

    /// One change at a time: whoever is missing is added first.
    async fn change_members(&self, controllers: &BTreeMap<String, Controller>) {
        let status = self.group.status();
        let is_voter = |id: u64| status.members.iter().any(|member| member.replica == id && member.voter);
        let missing = controllers.iter().find(|(_, wanted)| !is_voter(wanted.replica));
        let surplus = status.members.iter().find(|member| {
            let wanted = controllers.get(&member.node);
            wanted.is_none_or(|wanted| wanted.replica != member.replica)
        });
        let change = async {
            if let Some((name, wanted)) = missing {
                info!(node = name, replica = wanted.replica, "adds a controller");
                self.group.add_member(wanted.replica, name).await
            } else if let Some(surplus) = surplus {
                info!(
                    node = surplus.node,
                    replica = surplus.replica,
                    "removes a controller's lost replica"
                );
                self.group.remove_member(surplus.replica).await
            } else {
                Ok(())
            }
        };
        match timeout(MEMBER_CHANGE_MAX, change).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "change the controllers"),
            Err(_) => warn!("a change of the controllers takes long"),
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
