//! What every request handler of a process stands on.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use flotilla_controller::coordinator_slots;
use flotilla_controller::feed::Feed;
use flotilla_controller::metadata::{Policy, Segment, Topic};
use flotilla_controller::protocol::cluster_id_bytes;
use flotilla_controller::subscription_group::SubscriptionGroupConfig;
use flotilla_controller::topic::TopicConfig;
use flotilla_raft_store::leadership::Leadership;
use parking_lot::Mutex;

use crate::answers::AnswerBytes;
use crate::config::Settings;
use crate::connection_table::ConnectionTable;
use crate::consumer_groups::{AppearedGroups, ConsumerGroups};
use crate::controllers::Controllers;
use crate::incoming::{Budget, REQUEST_BYTES_MAX};
use crate::leaders::Leaders;
use crate::long_poll::ParkedPulls;
use crate::metrics::Metrics;
use crate::moved_queues::MovedQueues;
use crate::open_files;
use crate::peer::Peers;
use crate::replica::{Replica, Replicas};
use crate::sequences::Sequences;
use crate::state::Successor;
use crate::topic_changes::CaughtUp;

/// See the module. A controller has one without replicas: it answers clients by passing their requests on.
#[derive(Debug)]
pub struct Broker {
    /// This process's stable name.
    pub node: String,
    /// The cluster's name.
    pub cluster: String,
    /// Settings of this process.
    pub settings: Settings,
    /// What is known of the cluster.
    pub metadata: Arc<Feed>,
    /// Queues that moved, as far as the metadata does not say so yet.
    pub moved: MovedQueues,
    /// Whom to ask for changes of it.
    pub controllers: Arc<Controllers>,
    /// The replicas on this node.
    pub replicas: Replicas,
    /// Numbers of the requests this process passes on.
    pub sequences: Sequences,
    /// Who leads the other Raft groups.
    pub leaders: Leaders,
    /// All nodes.
    pub peers: Arc<Peers>,
    /// Client connections of this process.
    pub connections: Arc<ConnectionTable>,
    /// Makes records of consumer groups that appear.
    pub consumer_groups: ConsumerGroups,
    /// Pulls waiting for a message.
    pub parked: Arc<ParkedPulls>,
    /// Room for long requests.
    pub request_budget: Budget,
    /// Answers being made and sent.
    pub answers: Arc<AnswerBytes>,
    /// What this process counts.
    pub metrics: Arc<Metrics>,
    /// Set while this node's disk is too full for more messages.
    pub disk_full: AtomicBool,
    /// When this process last confirmed that its copy of the metadata is the newest.
    pub caught_up: CaughtUp,
    /// When this node last handed a leadership back.
    pub handed_over: Mutex<Option<Instant>>,
}

/// Something that one Raft group owns at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owned<'a> {
    /// A queue: the group of its open segment.
    Queue(&'a str, u32),
    /// What lies at an offset of a queue: the group of the segment that holds it.
    Segment(&'a str, u32, i64),
    /// The members of a consumer group: the group of its coordinator slot.
    Members(&'a str),
    /// What lies in this Raft group.
    Group(u16),
}

impl Broker {
    /// A process of the cluster that `metadata` is of, without replicas so far; and what it has to keep going.
    pub fn new(
        settings: Settings,
        metadata: Arc<Feed>,
        controllers: Arc<Controllers>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<(Self, AppearedGroups)> {
        let cluster = metadata.read(|metadata| metadata.cluster.clone());
        let id = cluster_id_bytes(&cluster.id).context("the cluster's id is not one")?;
        let (consumer_groups, appeared) = ConsumerGroups::new();
        let broker = Self {
            node: settings.node.clone(),
            cluster: cluster.name,
            metadata,
            moved: MovedQueues::default(),
            controllers,
            replicas: Replicas::default(),
            sequences: Sequences::new(),
            leaders: Leaders::default(),
            peers: Peers::new(&settings.node, id, metrics.clone()),
            connections: Arc::new(ConnectionTable::new(open_files::connections_max(
                settings.policy.connections_max,
            ))),
            consumer_groups,
            parked: Arc::new(ParkedPulls::new(settings.policy.parked_pulls_max)),
            request_budget: Budget::new(REQUEST_BYTES_MAX),
            answers: Arc::default(),
            metrics,
            disk_full: AtomicBool::new(false),
            caught_up: CaughtUp::default(),
            handed_over: Mutex::default(),
            settings,
        };
        Ok((broker, appeared))
    }

    /// The Raft group that owns something; `None` if it does not exist as far as this process knows.
    pub fn owner(&self, owned: Owned<'_>) -> Option<u16> {
        let open = |topic: &Topic, queue: u32| {
            let open = topic.open_segment(queue)?;
            Some(self.moved.open(topic, queue).unwrap_or(open.group))
        };
        match owned {
            Owned::Queue(topic, queue) => self.metadata.read(|metadata| open(metadata.topic(topic)?, queue)),
            Owned::Segment(topic, queue, offset) => self.metadata.read(|metadata| {
                let topic = metadata.topic(topic)?;
                let segment = topic.segment_at(queue, offset)?;
                Some(self.moved.at(topic, queue, offset).unwrap_or(segment.group))
            }),
            Owned::Members(consumer_group) => self.metadata.read(|metadata| {
                let slots = metadata.topics.get(coordinator_slots::TOPIC)?;
                open(slots, coordinator_slots::slot(consumer_group))
            }),
            Owned::Group(number) => Some(number),
        }
    }

    /// The segments of a queue, oldest first, also those that the metadata does not show yet; empty for a queue that does
    /// not exist.
    pub fn segments(&self, topic: &str, queue: u32) -> Vec<Segment> {
        self.metadata.read(|metadata| {
            let topic = metadata.topic(topic);
            topic.map_or_else(Vec::new, |topic| self.moved.segments(topic, queue))
        })
    }

    /// One past the last message of a queue, as far as this node knows: no less than where its open segment begins.
    pub fn known_end(&self, topic: &str, queue: u32) -> i64 {
        let start = self.segments(topic, queue).last().map_or(0, |open| open.start);
        let replica = self.replica_of(Owned::Queue(topic, queue));
        let bounds = replica.and_then(|replica| replica.state.queue_bounds(topic, queue));
        bounds.map_or(start, |bounds| bounds.max_offset.max(start))
    }

    /// The Raft groups that hold any segment of a topic's queues, also those that the metadata does not show yet.
    pub fn groups_of(&self, topic: &Topic) -> Vec<u16> {
        let mut groups = topic.groups();
        groups.extend(self.moved.groups(topic));
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Notes that a queue or a coordinator slot moved; false if that is known already, or there is no such queue.
    pub fn learn_moved(&self, owned: Owned<'_>, segment: Successor) -> bool {
        let (topic, queue) = match owned {
            Owned::Queue(topic, queue) | Owned::Segment(topic, queue, _) => (topic, queue),
            Owned::Members(consumer_group) => (coordinator_slots::TOPIC, coordinator_slots::slot(consumer_group)),
            Owned::Group(_) => return false,
        };
        let topic = self.any_topic(topic);
        topic.is_some_and(|topic| self.moved.learn(&topic, queue, segment))
    }

    /// Whether the owner of a queue was only heard of: it may not have opened the queue yet.
    pub fn owner_is_hearsay(&self, owned: Owned<'_>) -> bool {
        let Owned::Queue(topic, queue) = owned else {
            return false;
        };
        if self.moved.is_empty() {
            return false;
        }
        self.metadata.read(|metadata| {
            let topic = metadata.topics.get(topic);
            topic.is_some_and(|topic| self.moved.is_hearsay(topic, queue))
        })
    }

    /// Notes that a Raft group took a message of a queue.
    pub fn took_a_message(&self, owned: Owned<'_>, group: u16) {
        if let Owned::Queue(topic, queue) = owned
            && let Some(topic) = self.topic(topic)
        {
            self.moved.took_a_message(&topic, queue, group);
        }
    }

    /// The replica here that can serve something from its own state: not one that is being filled.
    pub fn replica_of(&self, owned: Owned<'_>) -> Option<Arc<Replica>> {
        self.replicas
            .get(self.owner(owned)?)
            .filter(|replica| replica.is_level())
    }

    /// A topic with its queues. The coordinator slots are none to users: see [`Broker::any_topic`].
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.metadata.read(|metadata| metadata.topic(name).cloned())
    }

    /// A topic with its queues, or the coordinator slots: for what carries out assignments and moves.
    pub fn any_topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.metadata.read(|metadata| metadata.topics.get(name).cloned())
    }

    /// Number of queues and permissions of a topic, which every send and pull asks for.
    pub fn queues_and_perm(&self, topic: &str) -> Option<(u32, u8)> {
        self.metadata.read(|metadata| {
            let config = &metadata.topic(topic)?.config;
            Some((config.queues, config.perm))
        })
    }

    /// Settings of all topics by name.
    pub fn topics(&self) -> Vec<TopicConfig> {
        self.metadata
            .read(|metadata| metadata.user_topics().map(|topic| topic.config.clone()).collect())
    }

    /// Settings of a subscription group, if it has a record.
    pub fn subscription_group(&self, name: &str) -> Option<Arc<SubscriptionGroupConfig>> {
        self.metadata
            .read(|metadata| metadata.subscription_groups.get(name).cloned())
    }

    /// What the cluster does by itself.
    pub fn policy(&self) -> Policy {
        self.metadata.read(|metadata| metadata.cluster.policy.clone())
    }

    /// Who leads a Raft group, as far as this process knows.
    pub fn leadership(&self, group: u16) -> Leadership {
        let Some(replica) = self.replicas.get(group) else {
            return self.leaders.of(group);
        };
        let here = replica.group.leadership();
        if here.leader.is_some() {
            return here;
        }
        // A replica that is being filled has not heard of the others yet.
        let told = self.leaders.of(group);
        if told.term >= here.term && told.leader.as_deref() != Some(&self.node) {
            told
        } else {
            here
        }
    }

    /// Returns when something else than `seen` is known.
    pub async fn leadership_changed(&self, group: u16, seen: &Leadership) -> Leadership {
        let Some(replica) = self.replicas.get(group) else {
            return self.leaders.changed(group, seen).await;
        };
        loop {
            let (here, told) = (replica.group.leadership(), self.leaders.of(group));
            let now = self.leadership(group);
            if now != *seen {
                return now;
            }
            tokio::select! {
                _ = replica.group.leadership_changed(&here) => {}
                _ = self.leaders.changed(group, &told) => {}
            }
        }
    }

    /// The replica that leads the group, if it is here.
    pub fn led(&self, group: u16) -> Option<Arc<Replica>> {
        self.replicas.get(group).filter(|replica| replica.group.is_leader())
    }

    /// All Raft groups: number and name.
    pub fn groups(&self) -> Vec<(u16, String)> {
        self.metadata.read(|metadata| {
            let groups = metadata.groups.iter();
            groups.map(|(number, group)| (*number, group.name.clone())).collect()
        })
    }

    /// The name of a Raft group.
    pub fn group_name(&self, number: u16) -> String {
        let name = self
            .metadata
            .read(|metadata| metadata.groups.get(&number).map(|group| group.name.clone()));
        name.unwrap_or_else(|| format!("g{number}"))
    }
}
