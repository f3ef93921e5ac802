//! What the leader of a Raft group owes it: members as the controller says, and leadership where it belongs.
//!
//! A replica that the metadata names newly, because it was added or because its disk was lost, follows as a learner until
//! it has caught up; those that are to go lose their votes in the same step (`member_change.rs`). Leadership goes back to the preferred node once that has been back and level for
//! [`LEVEL_FOR`], one group at a time, so that leaders spread evenly again without a storm. Whatever a crash
//! interrupts, the next leader goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_controller::metadata::RaftGroup;
use flotilla_controller::state::Command;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::Broker;
use super::member_change::{self, Step};
use crate::fail_point;
use crate::replica::Replica;
use crate::server::stopped;
use crate::topic_changes;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the preferred node must have been level before it leads again.
const LEVEL_FOR: Duration = Duration::from_secs(10);
/// Entries it may be behind and still count as level: an election's worth of load.
const LEVEL_ENTRIES: u64 = 512;
/// Between two hand-overs by one node.
const HAND_OVER_INTERVAL: Duration = Duration::from_secs(3);
/// How long a change of the members is waited for before the rest is looked at again; what has begun goes on.
const MEMBER_CHANGE_MAX: Duration = Duration::from_secs(60);

/// Does them while this replica leads, until `stop`; also compares it with the others, whoever leads.
pub async fn keep(broker: Arc<Broker>, replica: Arc<Replica>, mut stop: watch::Receiver<bool>) {
    let mut level_since = None;
    let mut seen = None;
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = no_longer(&broker, &replica, seen.as_ref()) => {}
            () = stopped(&mut stop) => return,
        }
        seen = wanted(&broker, &replica);
        let others = broker.peers.replicas(replica.number).into_iter();
        replica.compare(others.filter(|(node, _)| *node != broker.node).map(|(_, info)| info));
        if !replica.group.is_leader() {
            level_since = None;
            continue;
        }
        let Some(group) = seen.clone() else {
            continue;
        };
        // A copy that is behind could name a replica whose disk is lost: what is done must be the newest word.
        if step_of(&replica, &group).is_some() && topic_changes::catch_up(&broker).await {
            let Some(group) = wanted(&broker, &replica) else {
                continue;
            };
            let Some(step) = step_of(&replica, &group) else {
                continue;
            };
            tokio::select! {
                done = take(&broker, &replica, &group, step) => if done { ticks.reset_immediately() },
                // What is being waited for may have been lost, too.
                () = no_longer(&broker, &replica, Some(&group)) => {}
                () = stopped(&mut stop) => return,
            }
            continue;
        }
        if !preferred_is_level(&broker, &replica, &group) {
            level_since = None;
            continue;
        }
        let since = *level_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= LEVEL_FOR && may_hand_over(&broker) {
            level_since = None;
            info!(group = replica.name, to = group.preferred, "hands leadership back");
            if let Err(error) = replica.group.transfer_leader(Some(&group.preferred)).await {
                warn!(group = replica.name, %error, "hand leadership back");
            }
        }
    }
}

fn wanted(broker: &Broker, replica: &Replica) -> Option<RaftGroup> {
    broker
        .metadata
        .read(|metadata| metadata.groups.get(&replica.number).cloned())
}

/// Returns when the metadata says something else than `group`.
async fn no_longer(broker: &Broker, replica: &Replica, group: Option<&RaftGroup>) {
    let mut epochs = broker.metadata.subscribe();
    while wanted(broker, replica).as_ref() == group {
        if epochs.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The next step that brings the members in line with the metadata.
fn step_of(replica: &Replica, group: &RaftGroup) -> Option<Step> {
    let status = replica.group.status();
    if group.creation != replica.identity.creation || status.members.is_empty() {
        return None;
    }
    member_change::next(group, replica.id, &status)
}

/// Takes it; true if something was done.
async fn take(broker: &Broker, replica: &Replica, group: &RaftGroup, step: Step) -> bool {
    let name = &replica.name;
    let change = async {
        match step {
            Step::SetMembers(members) => {
                info!(group = name, ?members, "changes the members");
                fail_point::reached(fail_point::MEMBERS_NEXT);
                let changed = replica.group.set_members(&members).await;
                fail_point::reached(fail_point::MEMBERS_SET);
                changed.map_err(|error| error.to_string())
            }
            Step::HandOver => {
                // Else to whoever has most of the log.
                let preferred = preferred_is_level(broker, replica, group).then_some(group.preferred.as_str());
                info!(
                    group = name,
                    to = preferred,
                    "hands leadership over: the replica here goes"
                );
                let handed_over = replica.group.transfer_leader(preferred).await;
                fail_point::reached(fail_point::HANDED_OVER);
                handed_over.map_err(|error| error.to_string())
            }
            Step::EndReplica(id) => {
                info!(group = name, replica = id, "a replica is no member any more");
                let command = Command::EndReplica {
                    group: replica.number,
                    replica: id,
                };
                let ended = broker.controllers.propose(command).await;
                ended.map(|_| ()).map_err(|error| error.to_string())
            }
        }
    };
    match timeout(MEMBER_CHANGE_MAX, change).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => debug!(group = name, error, "change the members"),
        Err(_) => info!(group = name, "a change of the members is under way"),
    }
    false
}

fn preferred_is_level(broker: &Broker, replica: &Replica, group: &RaftGroup) -> bool {
    let node = &group.preferred;
    if *node == broker.node {
        return false;
    }
    let Some(view) = broker.peers.node(node).filter(|view| view.living) else {
        return false;
    };
    let Some(info) = view.info.filter(|info| info.ready && !info.leaving) else {
        return false;
    };
    // One that is cut off from the controllers would lead by old metadata.
    if info.epoch < broker.metadata.epoch() {
        return false;
    }
    let last = replica.group.status().last.map_or(0, |id| id.index);
    info.replicas
        .get(&replica.number)
        .is_some_and(|theirs| theirs.closed.is_none() && theirs.applied_index + LEVEL_ENTRIES >= last)
}

/// Takes this node's turn to hand over, if it is due.
fn may_hand_over(broker: &Broker) -> bool {
    let mut last = broker.handed_over.lock();
    if last.is_some_and(|at| at.elapsed() < HAND_OVER_INTERVAL) {
        return false;
    }
    *last = Some(Instant::now());
    true
}
