//! Moving a queue between Raft groups, as each of the two groups logs it.
//!
//! The new group *reserves* a generation. The old group *seals* its segment: it ends where it is, names the generation
//! and the group that follow, and everything else known of the queue is put aside ([`QueueState`]). The new group
//! *opens* the generation at that end, with that state. Once the old one knows of that it forgets what it put aside.
//!
//! Holds: a seal is final; a generation is opened only where it was reserved; what is *barred* in a group is neither
//! opened nor named by a seal there any more, so that a move is given up in either group before it can be given up in
//! the other. Every command may come twice.

use super::*;
use crate::state::coordinator::handover::{Named, decode_groups, encode_groups};
use crate::state::reply::Successor;

const INTENT_RECORD_VERSION: u8 = 1;
/// Consumer offsets or locks in one frame: as many as a Raft group may hold.
const ITEMS_MAX: usize = crate::state::limits::CONSUMER_OFFSETS_MAX;

/// Version of a frame or record with a [`QueueState`] without consumer groups, and with some: only coordinator slots have
/// those.
pub(in crate::state) const PLAIN_VERSION: u8 = 1;
/// See [`PLAIN_VERSION`].
pub(in crate::state) const CONSUMERS_VERSION: u8 = 2;

/// What is known of a queue apart from its messages: it goes with the open segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Store time of the last message, -1 if none was ever stored: the next one's is not before it.
    pub last_store_time: i64,
    /// Consumer group and the next queue offset it will read.
    pub offsets: Vec<(String, i64)>,
    /// Consumer group, holder, and the last renewal of its lock.
    pub locks: Vec<(String, String, i64)>,
    /// Consumer groups of a coordinator slot.
    pub consumers: Vec<Named>,
}

impl QueueState {
    pub(in crate::state) fn version(&self) -> u8 {
        match self.consumers.is_empty() {
            true => PLAIN_VERSION,
            false => CONSUMERS_VERSION,
        }
    }

    fn encode(&self, out: &mut Encoder) {
        out.i64(self.last_store_time);
        out.list(&self.offsets, |out, (group, offset)| {
            out.text(group).i64(*offset);
        });
        out.list(&self.locks, |out, (group, client_id, renewed_ms)| {
            out.text(group).text(client_id).i64(*renewed_ms);
        });
        if self.version() == CONSUMERS_VERSION {
            encode_groups(&self.consumers, out);
        }
    }

    fn decode(from: &mut Decoder<'_>, version: u8) -> Result<Self, Malformed> {
        let state = Self {
            last_store_time: from.i64()?,
            offsets: from.list(ITEMS_MAX, |from| Ok((from.name()?, from.i64()?)))?,
            locks: from.list(ITEMS_MAX, |from| Ok((from.name()?, from.name()?, from.i64()?)))?,
            consumers: match version {
                CONSUMERS_VERSION => decode_groups(from)?,
                _ => Vec::new(),
            },
        };
        if state.version() == version {
            Ok(state)
        } else {
            Err(Malformed)
        }
    }
}

/// A segment that takes no more writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// How far it reaches; it ends for ever at `max_offset`.
    pub queue: Queue,
    /// Generation of the segment that follows.
    pub next: u32,
    /// The Raft group of that one.
    pub to: u16,
    /// When it was sealed, in milliseconds since 1970 by the proposer's clock.
    pub at_ms: i64,
    /// What that group needs to open it, until it has.
    pub aside: Option<QueueState>,
}

impl Sealed {
    /// The segment that follows.
    pub fn successor(&self) -> Successor {
        Successor {
            generation: self.next,
            group: self.to,
            start: self.queue.max_offset,
        }
    }
}

/// How far moves of a queue have come in this group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// The generation that may be opened here.
    pub reserved: Option<u32>,
    /// Up to this generation nothing is opened here, and no seal names it.
    pub barred: u32,
    /// What followed the newest of the segments here that are forgotten.
    pub gone: Option<Successor>,
}

/// One step of the move of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The topic.
    pub topic: String,
    /// Its id at the controller.
    pub uid: u64,
    /// Queue number.
    pub queue: u32,
    /// Generation of the segment that the move opens.
    pub generation: u32,
}

impl Step {
    pub(crate) fn encode(&self, out: &mut Encoder) {
        out.text(&self.topic).u64(self.uid).u32(self.queue).u32(self.generation);
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            topic: from.name()?,
            uid: from.u64()?,
            queue: from.u32()?,
            generation: from.u32()?,
        })
    }
}

/// Opens a segment that was reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Which.
    pub step: Step,
    /// Its first queue offset.
    pub start: i64,
    /// What the old group knew.
    pub state: QueueState,
}

impl Opening {
    pub(crate) fn encode(&self, out: &mut Encoder) {
        self.step.encode(out);
        out.i64(self.start);
        self.state.encode(out);
    }

    pub(crate) fn decode(from: &mut Decoder<'_>, version: u8) -> Result<Self, Malformed> {
        Ok(Self {
            step: Step::decode(from)?,
            start: from.i64()?,
            state: QueueState::decode(from, version)?,
        })
    }
}

impl Topic {
    /// A segment of a queue, open or sealed.
    pub fn segment(&self, number: u32, generation: u32) -> Option<&Queue> {
        let open = self.queue(number).filter(|queue| queue.generation == generation);
        open.or_else(|| Some(&self.sealed.get(&(number, generation))?.queue))
    }

    pub(super) fn segment_mut(&mut self, number: u32, generation: u32) -> Option<&mut Queue> {
        let open = self.queues.get_mut(number as usize).and_then(Option::as_mut);
        match open.filter(|queue| queue.generation == generation) {
            Some(queue) => Some(queue),
            None => Some(&mut self.sealed.get_mut(&(number, generation))?.queue),
        }
    }

    /// Sealed segments of a queue, oldest first.
    pub fn sealed_of(&self, number: u32) -> impl DoubleEndedIterator<Item = &Sealed> {
        self.sealed
            .range((number, 0)..=(number, u32::MAX))
            .map(|(_, sealed)| sealed)
    }

    /// The segment here that a read at `offset` is for: the one that holds it, or would if it were longer. Offsets
    /// before all of them belong to the first, unless there were others before it.
    pub fn segment_at(&self, number: u32, offset: i64) -> Option<&Queue> {
        let open = self.queue(number);
        let all = open
            .into_iter()
            .chain(self.sealed_of(number).rev().map(|sealed| &sealed.queue));
        let mut last = None;
        for segment in all {
            if segment.start <= offset {
                return Some(segment);
            }
            last = Some(segment);
        }
        last.filter(|_| self.gone(number).is_none())
    }

    fn gone(&self, number: u32) -> Option<Successor> {
        self.intents.get(&number)?.gone
    }

    /// Where a queue that was here went: last, if it is not open here; else, from the segments that are forgotten.
    /// `None` if it never was here before.
    pub fn moved_to(&self, number: u32) -> Option<Successor> {
        let sealed = self
            .sealed_of(number)
            .next_back()
            .filter(|_| self.queue(number).is_none());
        sealed.map(Sealed::successor).or_else(|| self.gone(number))
    }

    /// The newest generation of a queue that is, was or must not be opened here any more; 0 if there is none.
    pub(super) fn newest_generation(&self, number: u32) -> u32 {
        let open = self.queue(number).map_or(0, |queue| queue.generation);
        let sealed = self.sealed_of(number).next_back().map_or(0, |sealed| sealed.next);
        let barred = self.intents.get(&number).map_or(0, |intent| intent.barred);
        let gone = self.gone(number).map_or(0, |gone| gone.generation);
        open.max(sealed).max(barred).max(gone)
    }

    /// Why a queue without an open segment here takes nothing.
    pub(crate) fn not_open(&self, number: u32) -> Refusal {
        match self.moved_to(number) {
            Some(successor) => Refusal::Moved(successor),
            None => Refusal::QueueOutOfRange,
        }
    }

    pub(super) fn record_segment(&self, number: u32, generation: u32, effects: &mut Effects) {
        let id = QueueId::new(self.id, number).0;
        if let Some(sealed) = self.sealed.get(&(number, generation)) {
            let version = sealed.aside.as_ref().map_or(PLAIN_VERSION, QueueState::version);
            let mut out = Encoder::starting(&[version]);
            sealed.queue.encode_fields(&mut out);
            out.u32(sealed.next).u16(sealed.to).i64(sealed.at_ms);
            out.bool(sealed.aside.is_some());
            if let Some(state) = &sealed.aside {
                state.encode(&mut out);
            }
            effects.put(sealed_key(id, generation), out.finish());
        } else if let Some(queue) = self.queue(number) {
            effects.put(Key::new(records::QUEUE).u64(id).finish(), queue.encode());
        }
    }

    fn intend(&mut self, number: u32, effects: &mut Effects, change: impl FnOnce(&mut Intent)) {
        let intent = self.intents.entry(number).or_default();
        change(intent);
        let mut out = Encoder::starting(&[INTENT_RECORD_VERSION]);
        out.u32(intent.reserved.unwrap_or(0)).u32(intent.barred);
        out.bool(intent.gone.is_some());
        if let Some(gone) = intent.gone {
            out.u32(gone.generation).u16(gone.group).i64(gone.start);
        }
        let key = Key::new(records::INTENT).u64(QueueId::new(self.id, number).0);
        effects.put(key.finish(), out.finish());
    }
}

fn sealed_key(id: u64, generation: u32) -> Vec<u8> {
    Key::new(records::SEALED).u64(id).u32(generation).finish()
}

impl Topics {
    /// The segment here that a read at `offset` is for, see [`Topic::segment_at`].
    pub fn segment_at(&self, topic: &str, queue: u32, offset: i64) -> Option<(QueueId, &Queue)> {
        let topic = self.get(topic)?;
        Some((QueueId::new(topic.id, queue), topic.segment_at(queue, offset)?))
    }

    /// Sealed segments whose successors are not known to be open: topic, queue number, segment.
    pub fn undelivered(&self) -> impl Iterator<Item = (&Topic, u32, &Sealed)> {
        self.by_id.values().flat_map(|topic| {
            let waiting = topic.sealed.iter().filter(|(_, sealed)| sealed.aside.is_some());
            waiting.map(move |((number, _), sealed)| (topic, *number, sealed))
        })
    }

    fn of_step(&mut self, step: &Step) -> Result<&mut Topic, Refusal> {
        let topic = self.ids.get(&step.topic).and_then(|id| self.by_id.get_mut(id));
        match topic {
            Some(topic) if topic.uid == step.uid => Ok(topic),
            Some(_) => Err(Refusal::OtherTopic),
            None => Err(Refusal::TopicNotExist),
        }
    }

    /// Lets a generation be opened here later. Makes the topic if none of its queues were here before.
    pub(in crate::state) fn reserve(
        &mut self,
        assignment: Assignment,
        queue: u32,
        generation: u32,
        next_topic_id: &mut u32,
        effects: &mut Effects,
    ) -> Result<Reply, Refusal> {
        let step = Step {
            topic: assignment.config.name.clone(),
            uid: assignment.uid,
            queue,
            generation,
        };
        if queue >= assignment.config.queues || !assignment.open.is_empty() {
            return Err(Refusal::QueueOutOfRange);
        }
        if self.queues >= QUEUES_MAX {
            return Err(Refusal::LimitReached("queues"));
        }
        if self.get(&step.topic).is_none() {
            // The assignment of that version is newer, so that what it opens here is not taken for known. A copy of
            // the metadata that is older must not take the topic for a deleted one.
            let unassigned = Assignment {
                version: assignment.version.saturating_sub(1),
                ..assignment
            };
            if let Reply::Refused(refusal) = self.assign(unassigned, next_topic_id, effects) {
                return Err(refusal);
            }
        }
        let topic = self.of_step(&step)?;
        if queue as usize >= topic.queues.len() {
            return Err(Refusal::QueueOutOfRange);
        }
        let open_here = topic.queue(queue).map(|queue| queue.generation);
        if open_here == Some(generation) {
            return Ok(Reply::Done);
        }
        // A queue that went away names what followed: that may come back here only under a newer generation.
        if open_here.is_some() || topic.newest_generation(queue) >= generation {
            return Err(Refusal::StaleGeneration);
        }
        let reserved = topic.intents.get(&queue).and_then(|intent| intent.reserved);
        if reserved.is_some_and(|reserved| reserved > generation) {
            return Err(Refusal::StaleGeneration);
        }
        topic.intend(queue, effects, |intent| intent.reserved = Some(generation));
        Ok(Reply::Done)
    }

    /// Gives a move up in this group; refused once it cannot be undone here any more.
    pub(in crate::state) fn bar(&mut self, step: &Step, effects: &mut Effects) -> Result<Reply, Refusal> {
        let topic = self.of_step(step)?;
        let opened = topic
            .queue(step.queue)
            .is_some_and(|queue| queue.generation >= step.generation);
        let sealed = topic
            .sealed_of(step.queue)
            .any(|sealed| sealed.next >= step.generation || sealed.queue.generation >= step.generation);
        let gone = topic.gone(step.queue);
        if opened || sealed || gone.is_some_and(|gone| gone.generation >= step.generation) {
            return Err(Refusal::TooLate);
        }
        topic.intend(step.queue, effects, |intent| {
            intent.barred = intent.barred.max(step.generation);
            if intent.reserved.is_some_and(|reserved| reserved <= step.generation) {
                intent.reserved = None;
            }
        });
        Ok(Reply::Done)
    }

    /// Ends the open segment; the next one is opened in the group named, with the proposer's clock. `state` takes what is to be put aside out of the other tables.
    pub(in crate::state) fn seal(
        &mut self,
        step: &Step,
        (to, at_ms): (u16, i64),
        effects: &mut Effects,
        state: impl FnOnce(&mut Effects) -> QueueState,
    ) -> Result<Reply, Refusal> {
        let topic = self.of_step(step)?;
        let sealed = topic.sealed_of(step.queue).next_back();
        if let Some(sealed) = sealed.filter(|sealed| (sealed.next, sealed.to) == (step.generation, to)) {
            return Ok(Reply::Sealed {
                end: sealed.queue.max_offset,
            });
        }
        let barred = topic.intents.get(&step.queue).map_or(0, |intent| intent.barred);
        let Some(open) = topic.queue(step.queue) else {
            return Err(topic.not_open(step.queue));
        };
        if step.generation <= open.generation.max(barred) {
            return Err(Refusal::StaleGeneration);
        }
        let Some(queue) = topic.queues.get_mut(step.queue as usize).and_then(Option::take) else {
            return Err(Refusal::QueueOutOfRange);
        };
        let (generation, end) = (queue.generation, queue.max_offset);
        let last_store_time = queue.last_store_time;
        let aside = QueueState {
            last_store_time,
            ..state(effects)
        };
        let sealed = Sealed {
            queue,
            next: step.generation,
            to,
            at_ms,
            aside: Some(aside),
        };
        topic.sealed.insert((step.queue, generation), sealed);
        let id = QueueId::new(topic.id, step.queue).0;
        effects.delete(Key::new(records::QUEUE).u64(id).finish());
        topic.record_segment(step.queue, generation, effects);
        effects.handed_over.push((topic.name.clone(), step.queue));
        Ok(Reply::Sealed { end })
    }

    /// Opens a reserved segment. True if that was not done before: then the rest of the state is the caller's to take in.
    pub(in crate::state) fn open(&mut self, opening: &Opening, effects: &mut Effects) -> Result<bool, Refusal> {
        let Opening { step, start, state } = opening;
        let topic = self.of_step(step)?;
        let was_opened = topic
            .queue(step.queue)
            .is_some_and(|queue| queue.generation >= step.generation)
            || topic
                .sealed_of(step.queue)
                .any(|sealed| sealed.queue.generation >= step.generation)
            || topic
                .gone(step.queue)
                .is_some_and(|gone| gone.generation > step.generation);
        if was_opened {
            return Ok(false);
        }
        let reserved = topic.intents.get(&step.queue).and_then(|intent| intent.reserved);
        if reserved != Some(step.generation) {
            return Err(Refusal::NotReserved);
        }
        if !(0..=START_MAX).contains(start) || step.queue as usize >= topic.queues.len() {
            return Err(Refusal::QueueOutOfRange);
        }
        topic.intend(step.queue, effects, |intent| intent.reserved = None);
        let open = OpenQueue {
            queue: step.queue,
            generation: step.generation,
            start: *start,
        };
        topic.queues[step.queue as usize] = Some(Queue {
            last_store_time: state.last_store_time,
            ..Queue::opened(&open)
        });
        topic.record_segment(step.queue, step.generation, effects);
        effects.handed_over.push((topic.name.clone(), step.queue));
        self.queues += 1;
        Ok(true)
    }

    /// The segment that follows is open: what was put aside for it is not needed any more.
    pub(in crate::state) fn delivered(&mut self, step: &Step, effects: &mut Effects) -> Result<Reply, Refusal> {
        let topic = self.of_step(step)?;
        let generation = topic
            .sealed_of(step.queue)
            .find(|sealed| sealed.next == step.generation && sealed.aside.is_some())
            .map(|sealed| sealed.queue.generation);
        if let Some(generation) = generation
            && let Some(sealed) = topic.sealed.get_mut(&(step.queue, generation))
        {
            sealed.aside = None;
            topic.record_segment(step.queue, generation, effects);
        }
        Ok(Reply::Done)
    }

    /// Forgets the members of a deleted consumer group that were put aside, and its offsets if asked, so that no move
    /// brings them back.
    pub(in crate::state) fn forget_aside(&mut self, group: &str, offsets: bool, effects: &mut Effects) {
        for topic in self.by_id.values_mut() {
            let mut changed = Vec::new();
            for (place, sealed) in &mut topic.sealed {
                if let Some(aside) = &mut sealed.aside {
                    let before = (aside.offsets.len(), aside.consumers.len());
                    aside.offsets.retain(|(name, _)| !offsets || name != group);
                    aside.consumers.retain(|(name, _)| name != group);
                    if (aside.offsets.len(), aside.consumers.len()) != before {
                        changed.push(*place);
                    }
                    if aside.consumers.len() < before.1 {
                        effects.memberships.insert(group.to_owned());
                    }
                }
            }
            for (number, generation) in changed {
                topic.record_segment(number, generation, effects);
            }
        }
    }

    /// Forgets sealed segments older than the step's generation: the controller does not list them any more.
    pub(in crate::state) fn forget_before(&mut self, step: &Step, effects: &mut Effects) -> Result<Reply, Refusal> {
        let topic = self.of_step(step)?;
        let id = QueueId::new(topic.id, step.queue).0;
        let old: Vec<u32> = topic
            .sealed_of(step.queue)
            .filter(|sealed| sealed.queue.generation < step.generation && sealed.aside.is_none())
            .map(|sealed| sealed.queue.generation)
            .collect();
        let index = |offset: i64| Key::new(records::QUEUE_INDEX).u64(id).u64(offset as u64).finish();
        for generation in &old {
            if let Some(sealed) = topic.sealed.remove(&(step.queue, *generation)) {
                effects.delete(sealed_key(id, *generation));
                effects.delete_range(index(sealed.queue.start), index(sealed.queue.max_offset));
                topic.intend(step.queue, effects, |intent| intent.gone = Some(sealed.successor()));
            }
        }
        self.queues -= old.len() as u64;
        Ok(Reply::Done)
    }

    pub(in crate::state) fn load_sealed(&mut self, mut key: Decoder<'_>, value: &[u8]) -> Result<(), Malformed> {
        let (id, generation) = (QueueId(key.u64()?), key.u32()?);
        key.finish()?;
        let mut from = Decoder::new(value);
        let version = from.u8()?;
        let queue = Queue::decode_fields(&mut from, true)?;
        let (next, to, at_ms) = (from.u32()?, from.u16()?, from.i64()?);
        let aside = match from.bool()? {
            true => Some(QueueState::decode(&mut from, version)?),
            false if version == PLAIN_VERSION => None,
            false => return Err(Malformed),
        };
        from.finish()?;
        if queue.generation != generation {
            return Err(Malformed);
        }
        let topic = self.by_id.get_mut(&id.topic()).ok_or(Malformed)?;
        let sealed = Sealed {
            queue,
            next,
            to,
            at_ms,
            aside,
        };
        topic.sealed.insert((id.queue(), generation), sealed);
        self.queues += 1;
        Ok(())
    }

    pub(in crate::state) fn load_intent(&mut self, mut key: Decoder<'_>, value: &[u8]) -> Result<(), Malformed> {
        let id = QueueId(key.u64()?);
        key.finish()?;
        let mut from = Decoder::new(value);
        if from.u8()? != INTENT_RECORD_VERSION {
            return Err(Malformed);
        }
        let intent = Intent {
            reserved: Some(from.u32()?).filter(|reserved| *reserved > 0),
            barred: from.u32()?,
            gone: match from.bool()? {
                false => None,
                true => Some(Successor {
                    generation: from.u32()?,
                    group: from.u16()?,
                    start: from.i64()?,
                }),
            },
        };
        from.finish()?;
        let topic = self.by_id.get_mut(&id.topic()).ok_or(Malformed)?;
        topic.intents.insert(id.queue(), intent);
        Ok(())
    }
}

#[cfg(test)]
#[path = "handover_test.rs"]
mod tests;
