//! Topics and their queues: what exists, and how far each queue reaches.
//!
//! Holds: queue offsets are dense because they are given out here and nowhere else; a queue's store time never goes
//! back; `min_offset <= max_offset`; topic ids are never reused. Where messages lie is not here: `queue_index.rs`.
//! Of one queue there is at most one segment that takes writes, and any number of sealed ones ([`handover`]), which
//! never overlap.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use flotilla_controller::topic::{PERM_WRITE, TopicConfig, TopicKind};

use super::append::Append;
use super::codec::{Decoder, Encoder, Malformed};
use super::effects::{Effects, IndexBatch, IndexedKey};
use super::limits::{QUEUES_MAX, QUEUES_PER_TOPIC_MAX, TOPICS_MAX};
use super::records::{self, Key, QueueId, after_prefix};
use super::reply::{Refusal, Reply};

pub mod handover;

use handover::{Intent, Sealed};

const RECORD_VERSION: u8 = 1;
/// The first one lacked the beginning of the segment, which was 0.
const QUEUE_RECORD_VERSION: u8 = 2;
/// Largest queue offset a segment may start at: far from where offsets would end.
const START_MAX: i64 = i64::MAX / 2;

fn kind_to_byte(kind: TopicKind) -> u8 {
    match kind {
        TopicKind::Unspecified => 0,
        TopicKind::Normal => 1,
        TopicKind::Fifo => 2,
        TopicKind::Delay => 3,
        TopicKind::Transaction => 4,
    }
}

fn kind_from_byte(byte: u8) -> Result<TopicKind, Malformed> {
    match byte {
        0 => Ok(TopicKind::Unspecified),
        1 => Ok(TopicKind::Normal),
        2 => Ok(TopicKind::Fifo),
        3 => Ok(TopicKind::Delay),
        4 => Ok(TopicKind::Transaction),
        _ => Err(Malformed),
    }
}

fn encode_config(config: &TopicConfig, out: &mut Encoder) {
    out.text(&config.name)
        .u32(config.queues)
        .u8(config.perm)
        .u8(kind_to_byte(config.kind));
    out.optional_u64(config.retention_ms)
        .optional_u64(config.retention_bytes)
        .bool(config.order);
    out.attributes(&config.attributes);
}

fn decode_config(from: &mut Decoder<'_>) -> Result<TopicConfig, Malformed> {
    let config = TopicConfig {
        name: from.name()?,
        queues: from.u32()?,
        perm: from.u8()?,
        kind: kind_from_byte(from.u8()?)?,
        retention_ms: from.optional_u64()?,
        retention_bytes: from.optional_u64()?,
        order: from.bool()?,
        attributes: from.attributes()?,
    };
    if config.queues > QUEUES_PER_TOPIC_MAX {
        Err(Malformed)
    } else {
        Ok(config)
    }
}

/// A topic as the controller assigns it to this Raft group: the settings, and which of its queues are open here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Settings of the whole topic.
    pub config: TopicConfig,
    /// The topic's id at the controller; a topic made again under the same name has another.
    pub uid: u64,
    /// The controller's epoch of the topic's last change. An assignment that is not newer changes nothing.
    pub version: u64,
    /// When the topic was made, in milliseconds since 1970.
    pub created_ms: i64,
    /// Queues whose open segment is this group's.
    pub open: Vec<OpenQueue>,
}

/// The open segment of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenQueue {
    /// Queue number.
    pub queue: u32,
    /// The segment's generation.
    pub generation: u32,
    /// Its first queue offset.
    pub start: i64,
}

impl Assignment {
    pub(super) fn encode(&self, out: &mut Encoder) {
        out.u64(self.uid).u64(self.version).i64(self.created_ms);
        encode_config(&self.config, out);
        out.list(&self.open, |out, open| {
            out.u32(open.queue).u32(open.generation).i64(open.start);
        });
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            uid: from.u64()?,
            version: from.u64()?,
            created_ms: from.i64()?,
            config: decode_config(from)?,
            open: from.list(QUEUES_PER_TOPIC_MAX as usize, |from| {
                Ok(OpenQueue {
                    queue: from.u32()?,
                    generation: from.u32()?,
                    start: from.i64()?,
                })
            })?,
        })
    }
}

/// A segment of a queue and how far it reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The segment's generation.
    pub generation: u32,
    /// Its first queue offset, readable still or not.
    pub start: i64,
    /// First queue offset that can be read.
    pub min_offset: i64,
    /// One past the last.
    pub max_offset: i64,
    /// Store time of the message at `min_offset`, -1 if the queue is empty.
    pub min_store_time: i64,
    /// Store time of the last message ever stored, -1 if none was.
    pub last_store_time: i64,
    /// The entry that holds the message at `min_offset`, 0 if the queue is empty.
    pub first_log_index: u64,
    /// While an entry is applied: its log index and the queue's number in [`Effects::batches`]. Not recorded.
    open_batch: Option<(u64, usize)>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            generation: 0,
            start: 0,
            min_offset: 0,
            max_offset: 0,
            min_store_time: -1,
            last_store_time: -1,
            first_log_index: 0,
            open_batch: None,
        }
    }
}

impl Queue {
    fn opened(open: &OpenQueue) -> Self {
        Self {
            generation: open.generation,
            start: open.start,
            min_offset: open.start,
            max_offset: open.start,
            ..Self::default()
        }
    }

    /// The number of this queue's batch among those of the entry, if the entry was the last to add one.
    pub fn batch_in(&self, log_index: u64) -> Option<usize> {
        self.open_batch
            .filter(|(entry, _)| *entry == log_index)
            .map(|(_, number)| number)
    }

    /// The record's value: version, then the fields in order.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::starting(&[QUEUE_RECORD_VERSION]);
        self.encode_fields(&mut out);
        out.finish()
    }

    fn encode_fields(&self, out: &mut Encoder) {
        out.u32(self.generation).i64(self.start);
        out.i64(self.min_offset).i64(self.max_offset);
        out.i64(self.min_store_time)
            .i64(self.last_store_time)
            .u64(self.first_log_index);
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder::new(bytes);
        let has_start = match from.u8()? {
            RECORD_VERSION => false,
            QUEUE_RECORD_VERSION => true,
            _ => return Err(Malformed),
        };
        let queue = Self::decode_fields(&mut from, has_start)?;
        from.finish()?;
        Ok(queue)
    }

    fn decode_fields(from: &mut Decoder<'_>, has_start: bool) -> Result<Self, Malformed> {
        let queue = Self {
            generation: from.u32()?,
            start: if has_start { from.i64()? } else { 0 },
            min_offset: from.i64()?,
            max_offset: from.i64()?,
            min_store_time: from.i64()?,
            last_store_time: from.i64()?,
            first_log_index: from.u64()?,
            open_batch: None,
        };
        if 0 <= queue.start && queue.start <= queue.min_offset && queue.min_offset <= queue.max_offset {
            Ok(queue)
        } else {
            Err(Malformed)
        }
    }
}

/// A topic with its queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Never reused within this Raft group.
    pub id: u32,
    /// The topic's id at the controller.
    pub uid: u64,
    /// The controller's epoch of the last change.
    pub version: u64,
    /// Settings of the whole topic.
    pub config: TopicConfig,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: i64,
    /// The name again, shared.
    pub name: Arc<str>,
    /// By number; `None` for the queues of other Raft groups.
    pub queues: Vec<Option<Queue>>,
    /// Segments that take no more writes, by queue number and generation.
    pub sealed: BTreeMap<(u32, u32), Sealed>,
    /// What moves of its queues have come to here, by queue number.
    pub intents: BTreeMap<u32, Intent>,
}

impl Topic {
    fn record(&self, effects: &mut Effects) {
        let mut out = Encoder::starting(&[RECORD_VERSION]);
        out.u64(self.uid).u64(self.version).i64(self.created_ms);
        encode_config(&self.config, &mut out);
        effects.put(Key::new(records::TOPIC).u32(self.id).finish(), out.finish());
    }

    /// The queues that are open here, by number.
    pub fn queues(&self) -> impl Iterator<Item = (u32, &Queue)> {
        self.queues
            .iter()
            .zip(0..)
            .filter_map(|(queue, number)| Some((number, queue.as_ref()?)))
    }

    fn queue(&self, number: u32) -> Option<&Queue> {
        self.queues.get(number as usize)?.as_ref()
    }
}

/// One segment within a Raft group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentId {
    /// The queue.
    pub queue: QueueId,
    /// The segment's generation.
    pub generation: u32,
}

/// Where a queue continues after a trim: its first batch behind the trim point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchStart {
    /// Queue offset of the batch's first message.
    pub first_offset: i64,
    /// The entry.
    pub log_index: u64,
    /// Store time of the batch.
    pub store_time: i64,
}

/// All topics of one Raft group (RocketMQ: `TopicConfigManager`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    ids: BTreeMap<String, u32>,
    by_id: BTreeMap<u32, Topic>,
    queues: u64,
}

impl Topics {
    /// The topic called `name`.
    pub fn get(&self, name: &str) -> Option<&Topic> {
        self.by_id.get(self.ids.get(name)?)
    }

    /// A topic's id.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.ids.get(name).copied()
    }

    /// The topic with this id.
    pub fn by_id(&self, id: u32) -> Option<&Topic> {
        self.by_id.get(&id)
    }

    /// The queue and its id.
    pub fn queue(&self, topic: &str, queue: u32) -> Option<(QueueId, &Queue)> {
        let topic = self.get(topic)?;
        Some((QueueId::new(topic.id, queue), topic.queue(queue)?))
    }

    /// The queue with this id.
    pub fn queue_by_id(&self, id: QueueId) -> Option<&Queue> {
        self.by_id.get(&id.topic())?.queue(id.queue())
    }

    /// A segment, open or sealed.
    pub fn segment(&self, id: SegmentId) -> Option<&Queue> {
        self.by_id
            .get(&id.queue.topic())?
            .segment(id.queue.queue(), id.generation)
    }

    /// All topics by name.
    pub fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.ids.values().filter_map(|id| self.by_id.get(id))
    }

    /// Stores a message in the queue it names. `cached` is the topic of the message before it in the entry.
    pub(super) fn append(
        &mut self,
        append: &Append<'_>,
        log_index: u64,
        slot: u16,
        cached: &mut Option<u32>,
        effects: &mut Effects,
    ) -> Reply {
        let id = match cached
            .and_then(|id| self.by_id.get(&id))
            .filter(|topic| &*topic.name == append.topic)
        {
            Some(topic) => topic.id,
            None => match self.ids.get(append.topic) {
                Some(id) => *id,
                None => return Reply::Refused(Refusal::TopicNotExist),
            },
        };
        *cached = Some(id);
        let Some(topic) = self.by_id.get_mut(&id) else {
            return Reply::Refused(Refusal::TopicNotExist);
        };
        if topic.config.perm & PERM_WRITE == 0 {
            return Reply::Refused(Refusal::NotWritable);
        }
        let Some(Some(queue)) = topic.queues.get_mut(append.queue as usize) else {
            return Reply::Refused(topic.not_open(append.queue));
        };
        if append.generation != queue.generation {
            return Reply::Refused(Refusal::StaleGeneration);
        }
        let queue_id = QueueId::new(id, append.queue);
        let queue_offset = queue.max_offset;
        let number = match queue.batch_in(log_index) {
            Some(number) => number,
            None => {
                // All messages of a batch carry the first one's time: the index keeps one a batch.
                queue.last_store_time = queue.last_store_time.max(append.store_time);
                if queue.min_offset == queue.max_offset {
                    queue.min_store_time = queue.last_store_time;
                    queue.first_log_index = log_index;
                }
                effects.batches.push(IndexBatch {
                    topic: topic.name.clone(),
                    queue: queue_id,
                    first_offset: queue_offset,
                    store_time: queue.last_store_time,
                    messages: Vec::new(),
                    bytes: 0,
                });
                queue.open_batch = Some((log_index, effects.batches.len() - 1));
                effects.batches.len() - 1
            }
        };
        let batch = &mut effects.batches[number];
        batch.messages.push((slot, append.tag_hash));
        batch.bytes += append.message.len() as u64;
        queue.max_offset += 1;
        effects.keys.extend(append.keys().map(|hash| IndexedKey {
            hash,
            slot,
            queue: queue_id,
            queue_offset,
        }));
        Reply::Appended {
            queue_offset,
            store_time: queue.last_store_time,
        }
    }

    /// Creates or changes a topic, and opens the queues assigned to this group that are not open yet.
    pub(super) fn assign(&mut self, assignment: Assignment, next_topic_id: &mut u32, effects: &mut Effects) -> Reply {
        let Assignment {
            config,
            uid,
            version,
            created_ms,
            open,
        } = assignment;
        if config.queues == 0
            || config.queues > QUEUES_PER_TOPIC_MAX
            || open
                .iter()
                .any(|open| open.queue >= config.queues || !(0..=START_MAX).contains(&open.start))
        {
            return Reply::Refused(Refusal::QueueOutOfRange);
        }
        let existing = self.ids.get(&config.name).and_then(|id| self.by_id.get(id));
        let opened = match existing {
            Some(topic) if topic.uid != uid => return Reply::Refused(Refusal::OtherTopic),
            Some(topic) if topic.version >= version => return Reply::Done,
            Some(topic) if topic.config.queues > config.queues => return Reply::Refused(Refusal::FewerQueues),
            Some(topic) => open.iter().filter(|open| topic.queue(open.queue).is_none()).count(),
            None if self.ids.len() >= TOPICS_MAX => return Reply::Refused(Refusal::LimitReached("topics")),
            None => open.len(),
        };
        if self.queues + opened as u64 > QUEUES_MAX {
            return Reply::Refused(Refusal::LimitReached("queues"));
        }
        let id = *self.ids.entry(config.name.clone()).or_insert_with(|| {
            let id = *next_topic_id;
            *next_topic_id += 1;
            id
        });
        let topic = self.by_id.entry(id).or_insert_with(|| Topic {
            id,
            uid,
            version,
            created_ms,
            name: config.name.as_str().into(),
            queues: Vec::new(),
            sealed: BTreeMap::new(),
            intents: BTreeMap::new(),
            config: config.clone(),
        });
        topic.version = version;
        topic.queues.resize_with(config.queues as usize, || None);
        topic.config = config;
        for open in &open {
            // What a move brought or took is newer than the assignment, whatever it says.
            let moved = topic.newest_generation(open.queue) >= open.generation;
            let queue = &mut topic.queues[open.queue as usize];
            if queue.is_none() && !moved {
                let queue = queue.insert(Queue::opened(open));
                self.queues += 1;
                effects.put(
                    Key::new(records::QUEUE).u64(QueueId::new(id, open.queue).0).finish(),
                    queue.encode(),
                );
            }
        }
        topic.record(effects);
        Reply::Done
    }

    /// Removes a topic with its queues and their index; the messages' bytes go with the log.
    pub(super) fn delete(&mut self, name: &str, uid: u64, effects: &mut Effects) -> Reply {
        if self.get(name).is_none_or(|topic| topic.uid != uid) {
            return Reply::Refused(Refusal::TopicNotExist);
        }
        let Some(topic) = self.ids.remove(name).and_then(|id| self.by_id.remove(&id)) else {
            return Reply::Refused(Refusal::TopicNotExist);
        };
        self.queues -= (topic.queues().count() + topic.sealed.len()) as u64;
        effects.delete(Key::new(records::TOPIC).u32(topic.id).finish());
        for prefix in [records::QUEUE, records::SEALED, records::INTENT, records::QUEUE_INDEX] {
            let from = Key::new(prefix).u32(topic.id).finish();
            effects.delete_range(from.clone(), after_prefix(from));
        }
        Reply::Done
    }

    /// Segments with messages in entries up to and including `log_index`.
    pub fn segments_up_to(&self, log_index: u64) -> Vec<SegmentId> {
        let segments = self.by_id.values().flat_map(|topic| {
            let open = topic.queues();
            let sealed = topic
                .sealed
                .iter()
                .map(|((number, _), sealed)| (*number, &sealed.queue));
            sealed.chain(open).map(|(number, queue)| (topic.id, number, queue))
        });
        segments
            .filter(|(_, _, queue)| queue.min_offset < queue.max_offset && queue.first_log_index <= log_index)
            .map(|(topic, number, queue)| SegmentId {
                queue: QueueId::new(topic, number),
                generation: queue.generation,
            })
            .collect()
    }

    /// Moves a segment's readable start behind the entry `upto`: to the first batch recorded there, else to what the entry being
    /// applied added, else to its end.
    pub(super) fn trim<E>(
        &mut self,
        segment: SegmentId,
        upto: u64,
        current: u64,
        batch_after: &mut impl FnMut(QueueId, Range<i64>, u64) -> Result<Option<BatchStart>, E>,
        effects: &mut Effects,
    ) -> Result<(), E> {
        let SegmentId { queue: id, generation } = segment;
        let Some(topic) = self.by_id.get_mut(&id.topic()) else {
            return Ok(());
        };
        let Some(queue) = topic.segment_mut(id.queue(), generation) else {
            return Ok(());
        };
        let from = queue.min_offset;
        let open = queue.batch_in(current).map(|number| {
            let batch = &effects.batches[number];
            BatchStart {
                first_offset: batch.first_offset,
                log_index: current,
                store_time: batch.store_time,
            }
        });
        let recorded_to = open.map_or(queue.max_offset, |open| open.first_offset);
        let start = batch_after(id, queue.min_offset..recorded_to, upto)?;
        match start.or(open) {
            Some(start) => {
                queue.min_offset = start.first_offset;
                queue.min_store_time = start.store_time;
                queue.first_log_index = start.log_index;
            }
            None => {
                queue.min_offset = queue.max_offset;
                queue.min_store_time = -1;
                queue.first_log_index = 0;
            }
        }
        let key = |offset: i64| Key::new(records::QUEUE_INDEX).u64(id.0).u64(offset as u64).finish();
        effects.delete_range(key(from), key(queue.min_offset));
        topic.record_segment(id.queue(), generation, effects);
        Ok(())
    }

    pub(super) fn load_topic(&mut self, mut key: Decoder<'_>, value: &[u8]) -> Result<(), Malformed> {
        let id = key.u32()?;
        key.finish()?;
        let mut from = Decoder::new(value);
        if from.u8()? != RECORD_VERSION {
            return Err(Malformed);
        }
        let (uid, version, created_ms) = (from.u64()?, from.u64()?, from.i64()?);
        let config = decode_config(&mut from)?;
        from.finish()?;
        let mut queues = Vec::new();
        queues.resize_with(config.queues as usize, || None);
        let name = config.name.as_str().into();
        if self.ids.insert(config.name.clone(), id).is_some() {
            return Err(Malformed);
        }
        let topic = Topic {
            id,
            uid,
            version,
            config,
            created_ms,
            name,
            queues,
            sealed: BTreeMap::new(),
            intents: BTreeMap::new(),
        };
        self.by_id.insert(id, topic);
        Ok(())
    }

    pub(super) fn load_queue(&mut self, mut key: Decoder<'_>, value: &[u8]) -> Result<(), Malformed> {
        let id = QueueId(key.u64()?);
        key.finish()?;
        let topic = self.by_id.get_mut(&id.topic()).ok_or(Malformed)?;
        let queue = topic.queues.get_mut(id.queue() as usize).ok_or(Malformed)?;
        if queue.replace(Queue::decode(value)?).is_none() {
            self.queues += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "topics_test.rs"]
mod tests;
