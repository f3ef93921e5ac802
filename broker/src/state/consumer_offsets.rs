//! How far each subscription group has read each queue (RocketMQ: `ConsumerOffsetManager`).
//!
//! An update is stored as it is given, also when it goes back: that is how RocketMQ's clients and tools set offsets.

use std::collections::BTreeMap;

use super::codec::{Decoder, Malformed};
use super::effects::Effects;
use super::limits::CONSUMER_OFFSETS_MAX;
use super::records::{self, Key, after_prefix, name_in_key};

type ByQueue = BTreeMap<u32, i64>;

/// All consumer offsets of one Raft group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerOffsets {
    groups: BTreeMap<String, BTreeMap<String, ByQueue>>,
    count: usize,
}

impl ConsumerOffsets {
    /// The next queue offset `group` will read, if it was ever set.
    pub fn get(&self, group: &str, topic: &str, queue: u32) -> Option<i64> {
        self.groups.get(group)?.get(topic)?.get(&queue).copied()
    }

    /// All offsets of a group: topic, queue, offset.
    pub fn of_group(&self, group: &str) -> impl Iterator<Item = (&str, u32, i64)> {
        let topics = self.groups.get(group).into_iter().flatten();
        topics.flat_map(|(topic, queues)| queues.iter().map(|(queue, offset)| (topic.as_str(), *queue, *offset)))
    }

    /// Groups with an offset in `topic`.
    pub fn groups_of_topic(&self, topic: &str) -> Vec<String> {
        self.groups
            .iter()
            .filter(|(_, topics)| topics.contains_key(topic))
            .map(|(group, _)| group.clone())
            .collect()
    }

    /// Stores one offset; false if that would be one more than the limit.
    pub(super) fn set(&mut self, group: &str, topic: &str, queue: u32, offset: i64, effects: &mut Effects) -> bool {
        self.set_within(CONSUMER_OFFSETS_MAX, group, topic, queue, offset, effects)
    }

    /// Takes in the offsets of a queue that comes here. There is no way back for them, so no limit holds.
    pub(super) fn take_in(&mut self, topic: &str, queue: u32, offsets: &[(String, i64)], effects: &mut Effects) {
        for (group, offset) in offsets {
            self.set_within(usize::MAX, group, topic, queue, *offset, effects);
        }
    }

    /// About how many bytes the offsets of a queue have in a command.
    pub(super) fn bytes_of_queue(&self, topic: &str, queue: u32) -> usize {
        let here = self.groups.iter().filter(|(_, topics)| {
            let queues = topics.get(topic);
            queues.is_some_and(|queues| queues.contains_key(&queue))
        });
        here.map(|(group, _)| group.len() + 16).sum()
    }

    /// Takes out the offsets of a queue that leaves: consumer group and offset.
    pub(super) fn take_out(&mut self, topic: &str, queue: u32, effects: &mut Effects) -> Vec<(String, i64)> {
        let mut taken = Vec::new();
        for (group, topics) in &mut self.groups {
            let Some(queues) = topics.get_mut(topic) else { continue };
            let Some(offset) = queues.remove(&queue) else { continue };
            if queues.is_empty() {
                topics.remove(topic);
            }
            taken.push((group.clone(), offset));
            effects.delete(key(group, topic, queue));
        }
        self.count -= taken.len();
        self.groups.retain(|_, topics| !topics.is_empty());
        taken
    }

    fn set_within(
        &mut self,
        count_max: usize,
        group: &str,
        topic: &str,
        queue: u32,
        offset: i64,
        effects: &mut Effects,
    ) -> bool {
        match self.groups.get_mut(group).and_then(|topics| topics.get_mut(topic)) {
            Some(queues) => match queues.get_mut(&queue) {
                Some(stored) if *stored == offset => return true,
                Some(stored) => *stored = offset,
                None if self.count >= count_max => return false,
                None => {
                    self.count += 1;
                    queues.insert(queue, offset);
                }
            },
            None if self.count >= count_max => return false,
            None => {
                self.count += 1;
                let topics = self.groups.entry(group.to_owned()).or_default();
                topics.entry(topic.to_owned()).or_default().insert(queue, offset);
            }
        }
        effects.put(key(group, topic, queue), offset.to_be_bytes().to_vec());
        true
    }

    /// Forgets a deleted topic.
    pub(super) fn remove_topic(&mut self, topic: &str, effects: &mut Effects) {
        for (group, topics) in &mut self.groups {
            if let Some(queues) = topics.remove(topic) {
                self.count -= queues.len();
                let from = Key::new(records::CONSUMER_OFFSET).name(group).name(topic).finish();
                effects.delete_range(from.clone(), after_prefix(from));
            }
        }
        self.groups.retain(|_, topics| !topics.is_empty());
    }

    /// Forgets a group's offsets.
    pub(super) fn remove_group(&mut self, group: &str, effects: &mut Effects) {
        if let Some(topics) = self.groups.remove(group) {
            self.count -= topics.values().map(BTreeMap::len).sum::<usize>();
            let from = Key::new(records::CONSUMER_OFFSET).name(group).finish();
            effects.delete_range(from.clone(), after_prefix(from));
        }
    }

    pub(super) fn load(&mut self, mut key: Decoder<'_>, value: &[u8]) -> Result<(), Malformed> {
        let (group, topic, queue) = (name_in_key(&mut key)?, name_in_key(&mut key)?, key.u32()?);
        key.finish()?;
        let mut from = Decoder::new(value);
        let offset = from.i64()?;
        from.finish()?;
        self.count += 1;
        self.groups
            .entry(group)
            .or_default()
            .entry(topic)
            .or_default()
            .insert(queue, offset);
        Ok(())
    }
}

fn key(group: &str, topic: &str, queue: u32) -> Vec<u8> {
    Key::new(records::CONSUMER_OFFSET)
        .name(group)
        .name(topic)
        .u32(queue)
        .finish()
}
