//! Which queues are on their way, and in which order moves ended. Derived from the moves: kept along with each change,
//! and from the start when a state is read back.

use std::collections::{BTreeMap, BTreeSet};

use crate::queue_move::QueueMove;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoveIndex {
    /// Moves under way, by topic id and queue.
    under_way: BTreeMap<(u64, u32), u64>,
    /// Moves that ended, by when they did.
    ended: BTreeSet<(i64, u64)>,
}

impl MoveIndex {
    /// The index of `moves`.
    pub fn of<'a>(moves: impl IntoIterator<Item = (&'a u64, &'a QueueMove)>) -> Self {
        let mut index = Self::default();
        for (id, queue_move) in moves {
            index.add(*id, queue_move);
        }
        index
    }

    /// Moves under way.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// The move that takes a queue elsewhere.
    pub fn of_queue(&self, topic_id: u64, queue: u32) -> Option<u64> {
        self.under_way.get(&(topic_id, queue)).copied()
    }

    /// The moves under way of a topic's queues.
    pub fn of_topic(&self, topic_id: u64) -> Vec<u64> {
        let queues = self.under_way.range((topic_id, 0)..=(topic_id, u32::MAX));
        queues.map(|(_, id)| *id).collect()
    }

    /// The move that ended first, if more than `kept` others ended after it. `but` is never named: clocks of proposers
    /// differ, and what just ended shall be seen.
    pub fn first_ended_beyond(&self, kept: usize, but: u64) -> Option<u64> {
        if self.ended.len() <= kept {
            return None;
        }
        self.ended.iter().map(|(_, id)| *id).find(|id| *id != but)
    }

    pub(super) fn add(&mut self, id: u64, queue_move: &QueueMove) {
        match queue_move.ended_ms {
            Some(ended_ms) => drop(self.ended.insert((ended_ms, id))),
            None => drop(self.under_way.insert((queue_move.topic_id, queue_move.queue), id)),
        }
    }

    pub(super) fn remove(&mut self, id: u64, queue_move: &QueueMove) {
        match queue_move.ended_ms {
            Some(ended_ms) => drop(self.ended.remove(&(ended_ms, id))),
            None => drop(self.under_way.remove(&(queue_move.topic_id, queue_move.queue))),
        }
    }
}
