//! The replicated state of one Raft group: a pure function of its log, held in memory, with a record on disk for
//! each object.
//!
//! No IO, clock, randomness, task or hash map in this folder: equal logs give equal states. [`State::apply`] and
//! [`State::append`] are the only places where it changes; what has to happen outside goes into [`Effects`], which
//! `machine.rs` carries out once an entry. Reopening is loading all records ([`State::load`]).
//!
//! Reading order: [`command`], [`append`], [`reply`], this file, [`topics`], then the others.

use std::ops::Range;

use flotilla_controller::coordinator_slots;

pub mod append;
pub mod codec;
pub mod command;
pub mod consumer_offsets;
pub mod coordinator;
pub mod effects;
pub mod forwarded;
pub mod limits;
pub mod locks;
pub mod records;
pub mod reply;
pub mod slots;
pub mod topics;

pub use append::{Append, AppendHeader, KIND_APPEND, KeyHashes, key_hash, message_of};
pub use codec::Malformed;
pub use command::{Command, OffsetUpdate};
pub use coordinator::{ConsumerGroup, GroupShape, Join, JoinGroup, Member, Subscription};
pub use effects::Effects;
pub use forwarded::{ForwardMark, StoredAt};
pub use locks::Lock;
pub use reply::{Refusal, Reply, Successor};
pub use topics::handover::{Opening, QueueState, Step};
pub use topics::{Assignment, OpenQueue, Queue, Topic};

use codec::{Decoder, Encoder};
use consumer_offsets::ConsumerOffsets;
use coordinator::Coordinator;
use forwarded::{Forwarded, Seen};
use locks::Locks;
use records::{Key, QueueId};
use topics::{BatchStart, Topics};

const COUNTERS_VERSION: u8 = 1;

/// Everything the group knows apart from where messages lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Topics and queues.
    pub topics: Topics,
    /// How far groups have read.
    pub consumer_offsets: ConsumerOffsets,
    /// Queue locks.
    pub locks: Locks,
    /// Members of consumer groups.
    pub coordinator: Coordinator,
    /// Messages that came through other nodes.
    pub forwarded: Forwarded,
    /// Messages in entries up to and including this one are forgotten; 0 if none.
    pub trimmed: u64,
    next_topic_id: u32,
}

impl State {
    /// Stores one message. `cached_topic` belongs to the entry: start it with `None`.
    pub fn append(
        &mut self,
        append: &Append<'_>,
        log_index: u64,
        slot: u16,
        cached_topic: &mut Option<u32>,
        effects: &mut Effects,
    ) -> Reply {
        let Some(mark) = &append.mark else {
            return self.topics.append(append, log_index, slot, cached_topic, effects);
        };
        match self.forwarded.seen(mark) {
            // The messages of a batch share a number and lie side by side: what is to be here is no repetition.
            Seen::Stored(stored) if (stored.log_index, stored.slot) != (log_index, slot) => {
                return Reply::Repeated(stored);
            }
            Seen::Forgotten => return Reply::Refused(Refusal::Forgotten),
            Seen::New | Seen::Stored(_) => {}
        }
        let reply = self.topics.append(append, log_index, slot, cached_topic, effects);
        if let (
            Reply::Appended {
                queue_offset,
                store_time,
            },
            0,
        ) = (&reply, mark.part)
        {
            let stored = StoredAt {
                log_index,
                slot,
                queue_offset: *queue_offset,
                store_time: *store_time,
            };
            self.forwarded.stored(mark, stored, effects);
        }
        reply
    }

    /// Carries out any other command. Only a trim asks the queue index, with `batch_after(queue, offsets, log_index)`:
    /// the first batch within these recorded offsets that lies behind the entry.
    pub fn apply<E>(
        &mut self,
        command: Command,
        log_index: u64,
        batch_after: impl FnMut(QueueId, Range<i64>, u64) -> Result<Option<BatchStart>, E>,
        effects: &mut Effects,
    ) -> Result<Reply, E> {
        Ok(match command {
            Command::AssignTopic(assignment) => {
                self.with_topic_ids(effects, |topics, ids, effects| topics.assign(assignment, ids, effects))
            }
            Command::DeleteTopic { topic, uid } => {
                let reply = self.topics.delete(&topic, uid, effects);
                if reply == Reply::Done {
                    self.consumer_offsets.remove_topic(&topic, effects);
                    self.locks.remove_topic(&topic, effects);
                }
                reply
            }
            Command::ForgetSubscriptionGroup { group, clean_offsets } => {
                if clean_offsets {
                    self.consumer_offsets.remove_group(&group, effects);
                }
                self.topics.forget_aside(&group, clean_offsets, effects);
                self.coordinator.remove_group(&group, effects);
                self.locks.remove_group(&group, effects);
                Reply::Done
            }
            Command::UpdateConsumerOffsets(updates) => self.update_consumer_offsets(&updates, effects),
            Command::LockQueues {
                group,
                client_id,
                mut queues,
                now_ms,
            } => {
                // A queue's locks go with it, and come with it.
                queues.retain(|(topic, queue)| self.topics.queue(topic, *queue).is_some());
                self.locks.lock(&group, &client_id, queues, now_ms, log_index, effects)
            }
            Command::UnlockQueues {
                group,
                client_id,
                queues,
            } => {
                self.locks.unlock(&group, &client_id, &queues, effects);
                Reply::Done
            }
            Command::Join(join) => {
                let mut groups = join.groups.iter();
                let here = groups.try_for_each(|wanted| self.check_coordinates(&wanted.group));
                match here.and_then(|()| self.coordinator.join(&join, effects)) {
                    Ok(changed) => Reply::Joined { changed },
                    Err(refusal) => Reply::Refused(refusal),
                }
            }
            Command::Leave {
                client_id,
                node,
                groups,
            } => match groups.iter().try_for_each(|group| self.check_coordinates(group)) {
                Ok(()) => {
                    self.coordinator.leave(&client_id, &node, &groups, effects);
                    Reply::Done
                }
                Err(refusal) => Reply::Refused(refusal),
            },
            Command::Trim { log_index: upto } => return self.trim(upto, log_index, batch_after, effects),
            Command::DigestPoint { nonce } => {
                effects.digest_points.push(nonce);
                Reply::Done
            }
            Command::Reserve {
                topic,
                queue,
                generation,
            } => self.with_topic_ids(effects, |topics, ids, effects| {
                topics
                    .reserve(topic, queue, generation, ids, effects)
                    .unwrap_or_else(Reply::Refused)
            }),
            Command::Bar(step) => self.topics.bar(&step, effects).unwrap_or_else(Reply::Refused),
            Command::Seal { step, to, now_ms } => {
                let (offsets, locks, coordinator) =
                    (&mut self.consumer_offsets, &mut self.locks, &mut self.coordinator);
                let sealed = self.topics.seal(&step, (to, now_ms), effects, |effects| QueueState {
                    last_store_time: -1,
                    offsets: offsets.take_out(&step.topic, step.queue, effects),
                    locks: locks.take_out(&step.topic, step.queue, effects),
                    consumers: match step.topic == coordinator_slots::TOPIC {
                        true => coordinator.take_out(step.queue, effects),
                        false => Vec::new(),
                    },
                });
                sealed.unwrap_or_else(Reply::Refused)
            }
            Command::Open(opening) => {
                let opened = self.topics.open(&opening, effects);
                if opened == Ok(true) {
                    let Opening { step, state, .. } = &opening;
                    // Left over from the last time the queue was here, if anything is.
                    self.consumer_offsets.take_out(&step.topic, step.queue, effects);
                    self.locks.take_out(&step.topic, step.queue, effects);
                    self.consumer_offsets
                        .take_in(&step.topic, step.queue, &state.offsets, effects);
                    self.locks
                        .take_in(&step.topic, step.queue, &state.locks, log_index, effects);
                    if step.topic == coordinator_slots::TOPIC {
                        self.coordinator.take_out(step.queue, effects);
                        self.coordinator.take_in(&state.consumers, effects);
                    }
                }
                opened.map_or_else(Reply::Refused, |_| Reply::Done)
            }
            Command::Delivered(step) => self.topics.delivered(&step, effects).unwrap_or_else(Reply::Refused),
            Command::ForgetSegments(step) => self.topics.forget_before(&step, effects).unwrap_or_else(Reply::Refused),
        })
    }

    /// Runs what may give out ids of topics, and records how far they are given out.
    fn with_topic_ids(
        &mut self,
        effects: &mut Effects,
        change: impl FnOnce(&mut Topics, &mut u32, &mut Effects) -> Reply,
    ) -> Reply {
        let before = self.next_topic_id;
        let reply = change(&mut self.topics, &mut self.next_topic_id, effects);
        if self.next_topic_id != before {
            self.record_counters(effects);
        }
        reply
    }

    /// About how many bytes go along when a queue leaves this group.
    pub fn bytes_of_queue(&self, topic: &str, queue: u32) -> usize {
        let consumers = match topic == coordinator_slots::TOPIC {
            true => self.coordinator.bytes_of_slot(queue),
            false => 0,
        };
        self.consumer_offsets.bytes_of_queue(topic, queue) + self.locks.bytes_of_queue(topic, queue) + consumers
    }

    fn trim<E>(
        &mut self,
        upto: u64,
        current: u64,
        mut batch_after: impl FnMut(QueueId, Range<i64>, u64) -> Result<Option<BatchStart>, E>,
        effects: &mut Effects,
    ) -> Result<Reply, E> {
        if upto >= current {
            return Ok(Reply::Refused(Refusal::TrimBeyondLog));
        }
        if upto <= self.trimmed {
            return Ok(Reply::Done);
        }
        for segment in self.topics.segments_up_to(upto) {
            self.topics.trim(segment, upto, current, &mut batch_after, effects)?;
        }
        self.trimmed = upto;
        effects.trimmed = Some(upto);
        self.record_counters(effects);
        Ok(Reply::Done)
    }

    fn update_consumer_offsets(&mut self, updates: &[OffsetUpdate], effects: &mut Effects) -> Reply {
        let mut stored = updates.is_empty();
        let mut refusal = Refusal::TopicNotExist;
        for update in updates {
            refusal = match self.topics.get(&update.topic) {
                None => Refusal::TopicNotExist,
                Some(topic) if self.topics.queue(&update.topic, update.queue).is_none() => topic.not_open(update.queue),
                Some(_) => {
                    let OffsetUpdate {
                        group,
                        topic,
                        queue,
                        offset,
                    } = update;
                    if self.consumer_offsets.set(group, topic, *queue, *offset, effects) {
                        stored = true;
                    }
                    Refusal::LimitReached("consumer offsets")
                }
            };
        }
        if stored { Reply::Done } else { Reply::Refused(refusal) }
    }

    fn record_counters(&self, effects: &mut Effects) {
        let mut out = Encoder::starting(&[COUNTERS_VERSION]);
        out.u32(self.next_topic_id).u64(self.trimmed);
        effects.put(Key::new(records::COUNTERS).finish(), out.finish());
    }

    /// Takes one record into a new state. Records come in the order of their keys; keys that are not the state's are
    /// the caller's.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let mut rest = Decoder::new(key);
        match rest.u8()? {
            records::COUNTERS => {
                rest.finish()?;
                let mut from = Decoder::new(value);
                if from.u8()? != COUNTERS_VERSION {
                    return Err(Malformed);
                }
                self.next_topic_id = from.u32()?;
                self.trimmed = from.u64()?;
                from.finish()
            }
            records::TOPIC => self.topics.load_topic(rest, value),
            records::QUEUE => self.topics.load_queue(rest, value),
            records::SEALED => self.topics.load_sealed(rest, value),
            records::INTENT => self.topics.load_intent(rest, value),
            records::CONSUMER_OFFSET => self.consumer_offsets.load(rest, value),
            records::LOCK => self.locks.load(rest, value),
            records::CONSUMER_GROUP => self.coordinator.load_group(rest, value),
            records::CONSUMER => self.coordinator.load_consumer(rest, value),
            records::SUBSCRIPTION => self.coordinator.load_subscription(rest, value),
            records::INGRESSES => rest.finish().and_then(|()| self.forwarded.load_ingresses(value)),
            records::FORWARDED => self.forwarded.load_entry(rest, value),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
#[path = "mod_test.rs"]
mod tests;
