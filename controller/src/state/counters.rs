//! Numbers that are never given out twice, whatever they were given to is removed or not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limits::GROUP_NUMBER_MAX;
use crate::metadata::Topic;

/// The generation of a queue's first segment.
pub const FIRST_GENERATION: u32 = 1;

/// The last number given of each kind; 0 before the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub(super) controller: u64,
    pub(super) replica: u64,
    pub(super) topic: u64,
    pub(super) group: u16,
    #[serde(default)]
    pub(super) queue_move: u64,
    #[serde(default)]
    pub(super) generation: u32,
}

impl Counters {
    /// A Raft id for a controller.
    pub(super) fn next_controller(&mut self) -> u64 {
        self.controller += 1;
        self.controller
    }

    /// A Raft id for a replica of any Raft group.
    pub(crate) fn next_replica(&mut self) -> u64 {
        self.replica += 1;
        self.replica
    }

    /// An id for a topic.
    pub(super) fn next_topic(&mut self) -> u64 {
        self.topic += 1;
        self.topic
    }

    /// A number for a Raft group; `None` once they are used up.
    pub(crate) fn next_group(&mut self) -> Option<u16> {
        if self.group >= GROUP_NUMBER_MAX {
            return None;
        }
        self.group += 1;
        Some(self.group)
    }

    /// An id for a move.
    pub(super) fn next_move(&mut self) -> u64 {
        self.queue_move += 1;
        self.queue_move
    }

    /// A generation for a segment that a move opens: larger than any before, those of first segments included. `None`
    /// once they are used up.
    pub(super) fn next_generation(&mut self) -> Option<u32> {
        self.generation = self.generation.max(FIRST_GENERATION).checked_add(1)?;
        Some(self.generation)
    }
}

/// How many queues there are, and how many are open in each Raft group. Derived from the topics: counted along with
/// each change, and from the start when a state is read back. Coordinator slots are none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    total: u64,
    open: BTreeMap<u16, u64>,
}

impl QueueCounts {
    /// Counts the queues of `topics`.
    pub fn of<'a>(topics: impl IntoIterator<Item = &'a Topic>) -> Self {
        let mut counts = Self::default();
        for topic in topics {
            counts.add(topic);
        }
        counts
    }

    /// Queues of all topics.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Queues whose writes go to this Raft group.
    pub fn open_in(&self, group: u16) -> u64 {
        self.open.get(&group).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, topic: &Topic) {
        if topic.is_coordinator_slots() {
            return;
        }
        self.total += topic.queues.len() as u64;
        for group in open_groups(topic) {
            *self.open.entry(group).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, topic: &Topic) {
        if topic.is_coordinator_slots() {
            return;
        }
        self.total -= topic.queues.len() as u64;
        for group in open_groups(topic) {
            let count = self.open.get_mut(&group).expect("what is removed was added");
            *count -= 1;
            if *count == 0 {
                self.open.remove(&group);
            }
        }
    }
}

fn open_groups(topic: &Topic) -> impl Iterator<Item = u16> + '_ {
    topic.queues.iter().filter_map(|queue| {
        let last = queue.last()?;
        last.end.is_none().then_some(last.group)
    })
}
