//! What the leader of a Raft group owes it: members as the controller says, and leadership where it belongs.
//!
//! A replica whose disk was lost has a new id in the metadata: the leader adds it, as a learner until it has caught
//! up, and removes the old one. Leadership goes back to the preferred node once that has been back and level for
//! [`LEVEL_FOR`], one group at a time, so that leaders spread evenly again without a storm. Whatever a crash
//! interrupts, the next leader goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_controller::metadata::RaftGroup;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::Broker;
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
/// How long one change of the members may take.
const MEMBER_CHANGE_MAX: Duration = Duration::from_secs(600);

/// Does them while this replica leads, until `stop`; also compares it with the others, whoever leads.
pub async fn keep(broker: Arc<Broker>, replica: Arc<Replica>, mut stop: watch::Receiver<bool>) {
    let mut level_since = None;
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopped(&mut stop) => return,
        }
        let others = broker.peers.replicas(replica.number).into_iter();
        replica.compare(others.filter(|(node, _)| *node != broker.node).map(|(_, info)| info));
        if !replica.group.is_leader() {
            level_since = None;
            continue;
        }
        let Some(group) = wanted(&broker, &replica) else {
            continue;
        };
        // A copy that is behind could name a replica whose disk is lost: what is done must be the newest word.
        if change_of(&replica, &group).is_some() && topic_changes::catch_up(&broker).await {
            let Some(group) = wanted(&broker, &replica) else {
                continue;
            };
            tokio::select! {
                () = change_members(&replica, &group) => {}
                // What is being waited for may have been lost, too.
                () = no_longer(&broker, &replica, &group) => {}
                () = stopped(&mut stop) => return,
            }
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
async fn no_longer(broker: &Broker, replica: &Replica, group: &RaftGroup) {
    let mut epochs = broker.metadata.subscribe();
    while wanted(broker, replica).as_ref() == Some(group) {
        if epochs.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Add(u64, String),
    Remove(u64, String),
}

/// The next change that brings the members in line with the metadata: who is missing is added before anybody goes.
fn change_of(replica: &Replica, group: &RaftGroup) -> Option<Change> {
    let status = replica.group.status();
    if group.creation != replica.identity.creation || status.members.is_empty() {
        return None;
    }
    let is_voter = |id: u64| status.members.iter().any(|member| member.replica == id && member.voter);
    let missing = group.members.iter().find(|wanted| !is_voter(wanted.id));
    let surplus = || {
        status.members.iter().find(|member| {
            let wanted = group.members.iter().any(|wanted| wanted.id == member.replica);
            !wanted && member.replica != replica.id
        })
    };
    match missing {
        Some(wanted) => Some(Change::Add(wanted.id, wanted.node.clone())),
        None => surplus().map(|member| Change::Remove(member.replica, member.node.clone())),
    }
}

/// Makes the next change.
async fn change_members(replica: &Replica, group: &RaftGroup) {
    let change = async {
        match change_of(replica, group) {
            Some(Change::Add(id, node)) => {
                info!(group = replica.name, node, replica = id, "adds a replica");
                replica.group.add_member(id, &node).await
            }
            Some(Change::Remove(id, node)) => {
                info!(group = replica.name, node, replica = id, "removes a replica");
                replica.group.remove_member(id).await
            }
            None => Ok(()),
        }
    };
    match timeout(MEMBER_CHANGE_MAX, change).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(group = replica.name, %error, "change the members"),
        Err(_) => warn!(group = replica.name, "a change of the members takes long"),
    }
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
