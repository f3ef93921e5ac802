//! The replicated state of the controllers: a pure function of their log, held in memory.
//!
//! No IO, clock, randomness, task or hash map in this folder: equal logs give equal states. [`State::apply`] is the
//! only place where it changes, and every change of the metadata is a [`Change`] that it returns: whoever carries out
//! the same changes on a copy has equal metadata.
//!
//! Holds: a refused command, and one that asks for what is so already, changes nothing and returns no change. Names of
//! nodes and controllers are for ever; numbers and ids are never given out twice ([`Counters`]).
//! Not here: where Raft groups and queues go ([`crate::placement`]), the disk (`machine.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::coordinator_slots;
use crate::metadata::{Change, Cluster, Controller, Metadata, Policy, Segment, Topic};
use crate::placement;
use crate::subscription_group::SubscriptionGroupConfig;
use crate::topic::TopicConfig;

pub mod command;
pub mod counters;
pub mod limits;
pub mod reply;

mod move_index;
mod moves;
mod nodes;
mod replicas;

pub use command::{Command, Malformed};
pub use counters::{Counters, FIRST_GENERATION, QueueCounts};
pub use reply::{Refusal, Reply};

use limits::{
    CONTROLLERS_MAX, QUEUES_MAX, QUEUES_PER_TOPIC_MAX, REPLICAS_MAX, SUBSCRIPTION_GROUPS_MAX,
    SUBSCRIPTION_GROUPS_PER_COMMAND_MAX, TOPICS_MAX,
};
use move_index::MoveIndex;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct State {
    metadata: Metadata,
    counters: Counters,
    #[serde(skip)]
    queues: QueueCounts,
    #[serde(skip)]
    moves: MoveIndex,
}

/// What of a [`State`] is written; the rest follows from it.
#[derive(Deserialize)]
struct Stored {
    metadata: Metadata,
    counters: Counters,
}

impl From<Stored> for State {
    fn from(stored: Stored) -> Self {
        let queues = QueueCounts::of(stored.metadata.topics.values().map(Arc::as_ref));
        let moves = MoveIndex::of(&stored.metadata.moves);
        Self {
            metadata: stored.metadata,
            counters: stored.counters,
            queues,
            moves,
        }
    }
}

/// The changes of one command, in order.
struct Changes {
    log_index: u64,
    made: Vec<Change>,
}

impl State {
    /// What every process is told.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// How many queues there are where.
    pub fn queue_counts(&self) -> &QueueCounts {
        &self.queues
    }

    /// Carries out one command of the entry `log_index`.
    pub fn apply(&mut self, command: Command, log_index: u64) -> (Reply, Vec<Change>) {
        let mut changes = Changes {
            log_index,
            made: Vec::new(),
        };
        let reply = self.carry_out(command, &mut changes).unwrap_or_else(Reply::Refused);
        (reply, changes.made)
    }

    fn carry_out(&mut self, command: Command, changes: &mut Changes) -> Result<Reply, Refusal> {
        if self.metadata.cluster.name.is_empty() && !matches!(command, Command::Found { .. }) {
            return Err(Refusal::NotFounded);
        }
        match command {
            Command::Found {
                name,
                id,
                policy,
                controllers,
                feature_level,
            } => {
                let cluster = Cluster {
                    name,
                    id,
                    feature_level,
                    policy,
                };
                self.found(cluster, controllers, changes)?;
            }
            Command::SetPolicy { policy } => self.set_policy(policy, changes)?,
            Command::PutController { name, address, volume } => {
                return self.put_controller(name, address, volume, changes);
            }
            Command::RegisterNode { name, .. } if self.metadata.controllers.contains_key(&name) => {
                return Err(Refusal::NameTaken);
            }
            Command::RegisterNode {
                name,
                volume,
                zone,
                peer,
            } => self.register_node(name, (volume, zone, peer), changes)?,
            Command::PutTopic { config, .. } if config.name == coordinator_slots::TOPIC => {
                return Err(Refusal::NameReserved);
            }
            Command::PutTopic {
                config,
                if_absent,
                expected,
                groups,
                now_ms,
            } => {
                let present = self.metadata.topics.get(&config.name).map_or(0, |topic| topic.epoch);
                if expected.is_some_and(|expected| expected != present) {
                    return Err(Refusal::Changed);
                }
                return self.put_topic(config, if_absent, groups, now_ms, changes);
            }
            Command::DeleteTopic { name } => {
                let topic = self.metadata.topic(&name).ok_or(Refusal::TopicNotExist)?.clone();
                self.queues.remove(&topic);
                self.cancel_moves_of(topic.id, changes);
                self.change(Change::Topic(name, None), changes);
            }
            Command::PutSubscriptionGroups { configs, if_absent } => {
                self.put_subscription_groups(configs, if_absent, changes)?;
            }
            Command::DeleteSubscriptionGroup { name } => {
                if !self.metadata.subscription_groups.contains_key(&name) {
                    return Err(Refusal::GroupNotExist);
                }
                self.change(Change::SubscriptionGroup(name, None), changes);
            }
            Command::PreferLeader { group, node } => self.prefer_leader(group, node, changes)?,
            Command::ChangeMembers { group, add, remove } => self.change_members(group, add, remove, changes)?,
            Command::EndReplica { group, replica } => self.end_replica(group, replica, changes)?,
            Command::SetEvacuating { node, evacuating } => self.set_evacuating(node, evacuating, changes)?,
            Command::RemoveNode { node } => self.remove_node(node, changes)?,
            Command::StartMoves { moves, reason, now_ms } => return self.start_moves(moves, &reason, now_ms, changes),
            Command::EndMove { id, outcome, now_ms } => self.end_move(id, outcome, now_ms, changes)?,
            Command::DropSegment {
                topic,
                topic_id,
                queue,
                generation,
            } => self.drop_segment(&topic, topic_id, queue, generation, changes)?,
            Command::SetDraining { group, draining } => self.set_draining(group, draining, changes)?,
        }
        Ok(self.done())
    }

    fn found(
        &mut self,
        cluster: Cluster,
        controllers: BTreeMap<String, Controller>,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        let present = &self.metadata.cluster;
        if !present.name.is_empty() {
            let same = present.name == cluster.name && present.id == cluster.id;
            return if same { Ok(()) } else { Err(Refusal::AlreadyFounded) };
        }
        if cluster.name.is_empty() {
            return Err(Refusal::Malformed);
        }
        check_policy(&cluster.policy)?;
        if controllers.len() > CONTROLLERS_MAX {
            return Err(Refusal::limit("controllers"));
        }
        self.change(Change::Cluster(cluster), changes);
        for (name, controller) in controllers {
            self.counters.controller = self.counters.controller.max(controller.replica);
            self.change(Change::Controller(name, Some(controller)), changes);
        }
        Ok(())
    }

    fn set_policy(&mut self, policy: Policy, changes: &mut Changes) -> Result<(), Refusal> {
        check_policy(&policy)?;
        if self.metadata.cluster.policy != policy {
            let cluster = Cluster {
                policy,
                ..self.metadata.cluster.clone()
            };
            self.change(Change::Cluster(cluster), changes);
        }
        self.make_missing_groups(changes);
        Ok(())
    }

    fn put_controller(
        &mut self,
        name: String,
        address: String,
        volume: String,
        changes: &mut Changes,
    ) -> Result<Reply, Refusal> {
        let present = self.metadata.controllers.get(&name);
        if present.is_none() && self.metadata.controllers.len() >= CONTROLLERS_MAX {
            return Err(Refusal::limit("controllers"));
        }
        let replica = match present {
            Some(present) if present.volume == volume => present.replica,
            _ => self.counters.next_controller(),
        };
        let controller = Controller {
            address,
            replica,
            volume,
        };
        if self.metadata.controllers.get(&name) != Some(&controller) {
            self.change(Change::Controller(name, Some(controller)), changes);
        }
        let epoch = self.metadata.epoch;
        Ok(Reply::Controller { replica, epoch })
    }

    fn make_missing_groups(&mut self, changes: &mut Changes) {
        for (number, group) in placement::missing_groups(&self.metadata, &mut self.counters, changes.log_index) {
            self.change(Change::Group(number, group), changes);
        }
        let slots_placed = self.metadata.topics.contains_key(coordinator_slots::TOPIC);
        if !self.metadata.groups.is_empty() && !slots_placed {
            self.place_coordinator_slots(changes);
        }
    }

    fn place_coordinator_slots(&mut self, changes: &mut Changes) {
        let config = coordinator_slots::config();
        let placed = placement::place_queues(&self.metadata, &self.queues, &[], config.queues as usize, &[]);
        let topic = Topic {
            id: coordinator_slots::TOPIC_ID,
            epoch: changes.log_index,
            // Nobody says what time it is.
            created_ms: 0,
            pinned: Vec::new(),
            queues: placed.into_iter().map(first_segment).collect(),
            config,
        };
        self.change(Change::Topic(topic.config.name.clone(), Some(Arc::new(topic))), changes);
    }

    fn put_topic(
        &mut self,
        config: TopicConfig,
        if_absent: bool,
        pinned: Option<Vec<u16>>,
        now_ms: i64,
        changes: &mut Changes,
    ) -> Result<Reply, Refusal> {
        let present = self.metadata.topics.get(&config.name).cloned();
        let unchanged = Reply::Topic {
            created: false,
            epoch: self.metadata.epoch,
        };
        if if_absent && present.is_some() {
            return Ok(unchanged);
        }
        let kept = || present.as_deref().map(|present| present.pinned.clone());
        let mut pinned = pinned.or_else(kept).unwrap_or_default();
        pinned.sort_unstable();
        pinned.dedup();
        self.check_topic(&config, present.as_deref(), &pinned)?;
        let is_so = |present: &Topic| present.config == config && present.pinned == pinned;
        if present.as_deref().is_some_and(is_so) {
            return Ok(unchanged);
        }
        let created = present.is_none();
        let mut topic = match &present {
            Some(present) => Topic {
                epoch: changes.log_index,
                config,
                pinned,
                ..Topic::clone(present)
            },
            None => Topic {
                id: self.counters.next_topic(),
                epoch: changes.log_index,
                created_ms: now_ms,
                config,
                pinned,
                queues: Vec::new(),
            },
        };
        let count = topic.config.queues as usize - topic.queues.len();
        let placed = placement::place_queues(&self.metadata, &self.queues, &topic.queues, count, &topic.pinned);
        topic.queues.extend(placed.into_iter().map(first_segment));
        if let Some(present) = present {
            self.queues.remove(&present);
        }
        self.queues.add(&topic);
        self.change(Change::Topic(topic.config.name.clone(), Some(Arc::new(topic))), changes);
        let epoch = self.metadata.epoch;
        Ok(Reply::Topic { created, epoch })
    }

    fn check_topic(&self, config: &TopicConfig, present: Option<&Topic>, pinned: &[u16]) -> Result<(), Refusal> {
        if config.queues == 0 || config.queues > QUEUES_PER_TOPIC_MAX {
            return Err(Refusal::QueueOutOfRange);
        }
        let queues = present.map_or(0, |present| present.queues.len());
        let Some(more) = (config.queues as usize).checked_sub(queues) else {
            return Err(Refusal::FewerQueues);
        };
        if self.metadata.groups.is_empty() {
            return Err(Refusal::NoGroups);
        }
        if pinned.iter().any(|group| !self.metadata.groups.contains_key(group)) {
            return Err(Refusal::GroupNotExist);
        }
        if present.is_none() && self.metadata.user_topic_count() >= TOPICS_MAX {
            return Err(Refusal::limit("topics"));
        }
        if self.queues.total() + more as u64 > QUEUES_MAX {
            return Err(Refusal::limit("queues"));
        }
        Ok(())
    }

    fn put_subscription_groups(
        &mut self,
        configs: Vec<SubscriptionGroupConfig>,
        if_absent: bool,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        if configs.len() > SUBSCRIPTION_GROUPS_PER_COMMAND_MAX {
            return Err(Refusal::limit("subscription groups of one command"));
        }
        let present = &self.metadata.subscription_groups;
        let names = configs.iter().map(|config| config.name.as_str());
        let absent: BTreeSet<&str> = names.filter(|name| !present.contains_key(*name)).collect();
        if !absent.is_empty() && present.len() + absent.len() > SUBSCRIPTION_GROUPS_MAX {
            return Err(Refusal::limit("subscription groups"));
        }
        for config in configs {
            let present = self.metadata.subscription_groups.get(&config.name);
            if present.is_none_or(|present| !if_absent && **present != config) {
                let name = config.name.clone();
                self.change(Change::SubscriptionGroup(name, Some(Arc::new(config))), changes);
            }
        }
        Ok(())
    }

    fn change(&mut self, change: Change, changes: &mut Changes) {
        self.metadata.apply(changes.log_index, [change.clone()]);
        changes.made.push(change);
    }

    fn done(&self) -> Reply {
        Reply::Done {
            epoch: self.metadata.epoch,
        }
    }
}

/// The segments of a new queue.
fn first_segment(group: u16) -> Vec<Segment> {
    vec![Segment {
        generation: FIRST_GENERATION,
        group,
        start: 0,
        end: None,
    }]
}

fn check_policy(policy: &Policy) -> Result<(), Refusal> {
    if (1..=REPLICAS_MAX).contains(&policy.replicas) {
        Ok(())
    } else {
        Err(Refusal::limit("replicas"))
    }
}

#[cfg(test)]
#[path = "mod_test.rs"]
mod tests;

#[cfg(test)]
mod moves_test;
