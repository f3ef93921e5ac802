//! What every process knows of the cluster: nodes, Raft groups, topics with their queues and the moves of those,
//! subscription groups.
//!
//! The controller's replicated state contains one [`Metadata`]; each node keeps a copy, on disk as well, and brings it
//! up to date with the [`Change`]s that follow. [`Metadata::apply`] is the only way either changes.
//!
//! Holds: the *epoch* is the controllers' log index of the last change, so a copy with a larger epoch is newer and two
//! copies of the same epoch are equal. Group numbers, topic ids, move ids, generations of moved queues and replica ids
//! are never given out twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::coordinator_slots;
use crate::queue_move::QueueMove;
use crate::subscription_group::SubscriptionGroupConfig;
use crate::topic::TopicConfig;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The controllers' log index of the last change.
    pub epoch: u64,
    /// The cluster itself.
    pub cluster: Cluster,
    /// Controllers by name.
    pub controllers: BTreeMap<String, Controller>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Raft groups by number.
    pub groups: BTreeMap<u16, RaftGroup>,
    /// Topics by name, that of the [`coordinator_slots`] among them once there are Raft groups: what users are told
    /// goes by [`Metadata::topic`] and [`Metadata::user_topics`].
    pub topics: BTreeMap<String, Arc<Topic>>,
    /// Subscription groups by name.
    pub subscription_groups: BTreeMap<String, Arc<SubscriptionGroupConfig>>,
    /// Queues on their way from one Raft group to another, and the last that were, by move id.
    #[serde(default)]
    pub moves: BTreeMap<u64, QueueMove>,
}

/// The cluster itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name; empty until it is founded.
    pub name: String,
    /// Drawn when it was founded: 32 hexadecimal digits.
    pub id: String,
    /// Commands above this level are not proposed yet.
    pub feature_level: u32,
    /// What it does by itself.
    pub policy: Policy,
}

/// What the cluster does by itself. Comes from the configuration of the controller that leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Replicas of a Raft group.
    pub replicas: usize,
    /// Raft groups made for each node.
    pub groups_per_node: usize,
    /// Raft groups in all, whatever the number of nodes; 0: as many as `groups_per_node` says.
    pub groups: usize,
    /// How long a node may be silent before its replicas are re-created elsewhere, in milliseconds; 0: for ever.
    pub replace_after_ms: u64,
    /// Make a topic when a client first sends to it.
    pub auto_create_topics: bool,
    /// Queues of a topic made without a number.
    pub default_queues: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            replicas: 3,
            groups_per_node: 1,
            groups: 0,
            replace_after_ms: 0,
            auto_create_topics: false,
            default_queues: 8,
        }
    }
}

/// A controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// `host:port` of its controller port.
    pub address: String,
    /// Its Raft id among the controllers.
    pub replica: u64,
    /// Its volume.
    pub volume: String,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its volume; another one means that the disk was lost.
    pub volume: String,
    /// Failure zone; may be empty.
    pub zone: String,
    /// `host:port` of its peer port.
    pub peer: String,
    /// Its replicas are re-created on other nodes, and it gets no others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub evacuating: bool,
}

/// A Raft group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftGroup {
    /// Its name, such as `g1`.
    pub name: String,
    /// The epoch in which it was made.
    pub creation: u64,
    /// Where its replicas sit, those included that go.
    pub members: Vec<Replica>,
    /// The node that should lead it.
    pub preferred: String,
    /// The replica that founds it: the only one that may make it out of nothing.
    pub founder: u64,
    /// Its queues leave, and it gets no others.
    #[serde(default)]
    pub draining: bool,
}

/// A replica of a Raft group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Its Raft id: never used again with another disk.
    pub id: u64,
    /// Its node.
    pub node: String,
    /// It goes, once all replicas that stay have a vote.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

/// A topic and where its queues lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Never reused: a topic made again under the same name has another.
    pub id: u64,
    /// The epoch of its last change.
    pub epoch: u64,
    /// When it was made, in milliseconds since 1970 by the proposer's clock.
    pub created_ms: i64,
    /// Settings.
    pub config: TopicConfig,
    /// Numbers of the Raft groups that its queues are bound to, in order; empty: to none in particular.
    #[serde(default)]
    pub pinned: Vec<u16>,
    /// By queue number, each with its segments in the order of their generations; the last one takes writes.
    pub queues: Vec<Vec<Segment>>,
}

/// A stretch of a logical queue that one Raft group owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// 1 of the first one; larger with every move of the queue.
    pub generation: u32,
    /// The Raft group's number.
    pub group: u16,
    /// First queue offset.
    pub start: i64,
    /// One past the last queue offset; `None` while it takes writes.
    pub end: Option<i64>,
}

/// One change of the metadata; `None` removes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The cluster itself.
    Cluster(Cluster),
    /// A controller.
    Controller(String, Option<Controller>),
    /// A node.
    Node(String, Option<Node>),
    /// A Raft group, by number.
    Group(u16, RaftGroup),
    /// A topic.
    Topic(String, Option<Arc<Topic>>),
    /// A subscription group.
    SubscriptionGroup(String, Option<Arc<SubscriptionGroupConfig>>),
    /// A queue's way to another Raft group, by move id.
    Move(u64, Option<QueueMove>),
}

/// What a copy is brought up to date with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Update {
    /// Takes the copy's place.
    Full(Arc<Metadata>),
    /// Follows the epoch asked for.
    Changes {
        /// The epoch after them.
        epoch: u64,
        /// In order.
        changes: Vec<Change>,
    },
}

impl Metadata {
    /// Carries out changes that lead to `epoch`.
    pub fn apply(&mut self, epoch: u64, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            match change {
                Change::Cluster(cluster) => self.cluster = cluster,
                Change::Controller(name, controller) => set(&mut self.controllers, name, controller),
                Change::Node(name, node) => set(&mut self.nodes, name, node),
                Change::Group(number, group) => {
                    self.groups.insert(number, group);
                }
                Change::Topic(name, topic) => set(&mut self.topics, name, topic),
                Change::SubscriptionGroup(name, group) => set(&mut self.subscription_groups, name, group),
                Change::Move(id, queue_move) => set(&mut self.moves, id, queue_move),
            }
        }
        self.epoch = epoch;
    }

    /// The number of the Raft group called `name`.
    pub fn group_number(&self, name: &str) -> Option<u16> {
        self.groups
            .iter()
            .find_map(|(number, group)| (group.name == name).then_some(*number))
    }

    /// A topic that users know of.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name).filter(|topic| !topic.is_coordinator_slots())
    }

    /// The topics that users know of, in the order of their names.
    pub fn user_topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values().filter(|topic| !topic.is_coordinator_slots())
    }

    /// How many topics users know of.
    pub fn user_topic_count(&self) -> usize {
        self.topics.len() - usize::from(self.topics.contains_key(coordinator_slots::TOPIC))
    }

    /// How many coordinator slots are open in a Raft group.
    pub fn slots_in(&self, group: u16) -> usize {
        let slots = self.topics.get(coordinator_slots::TOPIC);
        let open = slots.into_iter().flat_map(|topic| &topic.queues);
        open.filter(|segments| segments.last().is_some_and(|open| open.group == group))
            .count()
    }
}

impl RaftGroup {
    /// The replica on a node.
    pub fn on(&self, node: &str) -> Option<&Replica> {
        self.members.iter().find(|member| member.node == node)
    }

    /// The replicas that are to stay.
    pub fn staying(&self) -> impl Iterator<Item = &Replica> {
        self.members.iter().filter(|member| !member.leaving)
    }
}

impl Topic {
    /// It is the one whose queues are the coordinator slots.
    pub fn is_coordinator_slots(&self) -> bool {
        self.id == coordinator_slots::TOPIC_ID
    }

    /// Whether its pins allow a queue in this Raft group.
    pub fn may_be_in(&self, group: u16) -> bool {
        self.pinned.is_empty() || self.pinned.binary_search(&group).is_ok()
    }

    /// The segment of a queue that takes writes.
    pub fn open_segment(&self, queue: u32) -> Option<&Segment> {
        self.queues.get(queue as usize)?.last()
    }

    /// The segment of a queue that an offset belongs to: the first one for offsets before all of them.
    pub fn segment_at(&self, queue: u32, offset: i64) -> Option<&Segment> {
        let segments = self.queues.get(queue as usize)?;
        let holds = segments.iter().rev().find(|segment| segment.start <= offset);
        holds.or_else(|| segments.first())
    }

    /// Numbers of the Raft groups that take writes of its queues, each once, in order.
    pub fn open_groups(&self) -> Vec<u16> {
        let last = self.queues.iter().filter_map(|segments| segments.last());
        let mut groups: Vec<u16> = last.map(|segment| segment.group).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Numbers of the Raft groups that hold any of its segments, each once, in order.
    pub fn groups(&self) -> Vec<u16> {
        let mut groups: Vec<u16> = self.queues.iter().flatten().map(|segment| segment.group).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

fn set<K: Ord, V>(table: &mut BTreeMap<K, V>, name: K, value: Option<V>) {
    match value {
        Some(value) => {
            table.insert(name, value);
        }
        None => {
            table.remove(&name);
        }
    }
}
