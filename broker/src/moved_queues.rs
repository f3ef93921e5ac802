//! Segments this process heard of from their predecessors' Raft groups, before the controllers told it.
//!
//! A Raft group that sealed a segment says what follows. The controllers publish that a moment later, or much later
//! when none of them can be reached; until then requests find their way by what is noted here. Lost with the process,
//! and learned again by asking the old group.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use flotilla_controller::metadata::{Metadata, Segment, Topic};
use parking_lot::RwLock;

use crate::state::Successor;

/// Queues noted; with more, all are forgotten and learned again.
const QUEUES_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub struct MovedQueues {
    /// How many queues there are, to be looked at without the lock.
    count: AtomicUsize,
    queues: RwLock<HashMap<(u64, u32), Known>>,
}

/// What is known of one queue.
#[derive(Debug, Default)]
struct Known {
    /// Oldest first.
    segments: Vec<Successor>,
    /// The newest generation that took a message, as far as this process knows: it is open.
    opened: u32,
}

impl MovedQueues {
    /// Whether the metadata says everything; no lock is taken to know.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Notes a segment of a topic's queue. False if it is known already, here or in the metadata.
    pub fn learn(&self, topic: &Topic, queue: u32, segment: Successor) -> bool {
        if published(topic, queue) >= segment.generation {
            return false;
        }
        let mut queues = self.queues.write();
        if queues.len() >= QUEUES_MAX {
            queues.clear();
        }
        let known = &mut queues.entry((topic.id, queue)).or_default().segments;
        known.retain(|known| known.generation > published(topic, queue));
        let place = known.partition_point(|known| known.generation < segment.generation);
        let is_new = known
            .get(place)
            .is_none_or(|known| known.generation != segment.generation);
        if is_new {
            known.insert(place, segment);
        }
        self.count.store(queues.len(), Ordering::Release);
        is_new
    }

    /// The Raft group of a queue's open segment, if it is newer than the metadata's.
    pub fn open(&self, topic: &Topic, queue: u32) -> Option<u16> {
        self.newest(topic, queue, |_| true)
    }

    /// The Raft group of the segment of `offset`, if it is newer than the metadata's.
    pub fn at(&self, topic: &Topic, queue: u32, offset: i64) -> Option<u16> {
        self.newest(topic, queue, |segment| segment.start <= offset)
    }

    /// Whether the newest segment of a queue was only heard of: its Raft group may not have opened it yet.
    pub fn is_hearsay(&self, topic: &Topic, queue: u32) -> bool {
        if self.is_empty() {
            return false;
        }
        let queues = self.queues.read();
        let known = queues.get(&(topic.id, queue));
        let newest = known.and_then(|known| Some((known.segments.last()?.generation, known.opened)));
        newest.is_some_and(|(newest, opened)| newest > opened.max(published(topic, queue)))
    }

    /// A Raft group took a message of a queue: its segment is open.
    pub fn took_a_message(&self, topic: &Topic, queue: u32, group: u16) {
        let mut queues = self.queues.write();
        if let Some(known) = queues.get_mut(&(topic.id, queue))
            && let Some(segment) = known.segments.iter().rev().find(|segment| segment.group == group)
        {
            known.opened = known.opened.max(segment.generation);
        }
    }

    /// All segments of a queue, oldest first: those of the metadata, and those that follow.
    pub fn segments(&self, topic: &Topic, queue: u32) -> Vec<Segment> {
        let mut segments = topic.queues.get(queue as usize).cloned().unwrap_or_default();
        let last = published(topic, queue);
        let queues = self.queues.read();
        let known = queues.get(&(topic.id, queue));
        let known = known.into_iter().flat_map(|known| &known.segments);
        for follows in known.filter(|known| known.generation > last) {
            if let Some(before) = segments.last_mut() {
                before.end = Some(follows.start);
            }
            segments.push(Segment {
                generation: follows.generation,
                group: follows.group,
                start: follows.start,
                end: None,
            });
        }
        segments
    }

    /// Raft groups of segments of a topic's queues that are newer than the metadata.
    pub fn groups(&self, topic: &Topic) -> Vec<u16> {
        if self.is_empty() {
            return Vec::new();
        }
        let queues = self.queues.read();
        let of_topic = queues.iter().filter(|((id, _), _)| *id == topic.id);
        of_topic
            .flat_map(|(_, known)| known.segments.iter().map(|segment| segment.group))
            .collect()
    }

    fn newest(&self, topic: &Topic, queue: u32, wanted: impl Fn(&Successor) -> bool) -> Option<u16> {
        if self.is_empty() {
            return None;
        }
        let queues = self.queues.read();
        let known = queues.get(&(topic.id, queue))?;
        let newest = known.segments.iter().rev().find(|segment| wanted(segment))?;
        (newest.generation > published(topic, queue)).then_some(newest.group)
    }

    /// Forgets what the metadata says by now, and deleted topics.
    pub fn prune(&self, metadata: &Metadata) {
        if self.is_empty() {
            return;
        }
        let topics: HashMap<u64, &Topic> = metadata.topics.values().map(|topic| (topic.id, &**topic)).collect();
        let mut queues = self.queues.write();
        queues.retain(|(topic, queue), known| {
            let published = topics.get(topic).map(|topic| published(topic, *queue));
            let newest = known.segments.last().map(|segment| segment.generation);
            newest > published && published.is_some()
        });
        self.count.store(queues.len(), Ordering::Release);
    }
}

/// The newest generation the metadata knows of.
fn published(topic: &Topic, queue: u32) -> u32 {
    topic.open_segment(queue).map_or(0, |segment| segment.generation)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flotilla_controller::topic::TopicConfig;

    use super::*;

    fn topic(generations: &[(u32, u16)]) -> Topic {
        let segment = |(generation, group): &(u32, u16)| Segment {
            generation: *generation,
            group: *group,
            start: 0,
            end: None,
        };
        Topic {
            id: 5,
            epoch: 1,
            created_ms: 0,
            config: TopicConfig::new("T", 1),
            pinned: Vec::new(),
            queues: vec![generations.iter().map(segment).collect()],
        }
    }

    fn successor(generation: u32, group: u16, start: i64) -> Successor {
        Successor {
            generation,
            group,
            start,
        }
    }

    #[test]
    fn the_newest_of_what_is_known_counts() {
        let moved = MovedQueues::default();
        let topic_now = topic(&[(1, 1)]);
        assert_eq!(moved.open(&topic_now, 0), None);
        assert!(moved.learn(&topic_now, 0, successor(9, 3, 20)));
        assert!(moved.learn(&topic_now, 0, successor(4, 2, 10)));
        assert!(!moved.learn(&topic_now, 0, successor(9, 3, 20)));
        assert!(!moved.learn(&topic_now, 0, successor(1, 1, 0)));
        assert_eq!(moved.open(&topic_now, 0), Some(3));
        assert_eq!(moved.at(&topic_now, 0, 25), Some(3));
        assert_eq!(moved.at(&topic_now, 0, 19), Some(2));
        assert_eq!(moved.at(&topic_now, 0, 9), None, "the metadata knows");
        let segments = moved.segments(&topic_now, 0);
        let shown: Vec<_> = segments.iter().map(|one| (one.group, one.start, one.end)).collect();
        assert_eq!(shown, [(1, 0, Some(10)), (2, 10, Some(20)), (3, 20, None)]);
        assert_eq!(moved.groups(&topic_now), [2, 3]);
    }

    #[test]
    fn a_segment_is_hearsay_until_it_took_a_message_or_is_published() {
        let moved = MovedQueues::default();
        let topic_now = topic(&[(1, 1)]);
        assert!(!moved.is_hearsay(&topic_now, 0));
        moved.learn(&topic_now, 0, successor(4, 2, 10));
        assert!(moved.is_hearsay(&topic_now, 0));
        assert!(!moved.is_hearsay(&topic(&[(1, 1), (4, 2)]), 0));
        moved.took_a_message(&topic_now, 0, 1);
        assert!(moved.is_hearsay(&topic_now, 0), "that was the one before");
        moved.took_a_message(&topic_now, 0, 2);
        assert!(!moved.is_hearsay(&topic_now, 0));
        moved.learn(&topic_now, 0, successor(9, 3, 20));
        assert!(moved.is_hearsay(&topic_now, 0));
    }

    #[test]
    fn the_metadata_takes_over_once_it_is_as_new() {
        let moved = MovedQueues::default();
        moved.learn(&topic(&[(1, 1)]), 0, successor(4, 2, 10));
        let published = topic(&[(1, 1), (4, 2)]);
        assert_eq!(moved.open(&published, 0), None);
        let mut metadata = Metadata::default();
        metadata.topics.insert("T".to_owned(), Arc::new(topic(&[(1, 1)])));
        moved.prune(&metadata);
        assert_eq!(moved.count.load(Ordering::Relaxed), 1);
        metadata.topics.insert("T".to_owned(), Arc::new(published));
        moved.prune(&metadata);
        assert_eq!(moved.count.load(Ordering::Relaxed), 0);
    }
}
