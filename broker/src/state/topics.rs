//! Topics and their queues: what exists, and how far each queue reaches.
//!
//! Holds: queue offsets are dense because they are given out here and nowhere else; a queue's store time never goes
//! back; `min_offset <= max_offset`; topic ids are never reused. Where messages lie is not here: `queue_index.rs`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::append::Append;
use super::codec::{Decoder, Encoder, Malformed};
use super::effects::{Effects, IndexBatch, IndexedKey};
use super::limits::{QUEUES_MAX, QUEUES_PER_TOPIC_MAX, TOPICS_MAX};
use super::records::{self, Key, QueueId, after_prefix};
use super::reply::{Refusal, Reply};

/// Permission bit: consumers may read.
pub const PERM_READ: u8 = 4;
/// Permission bit: producers may write.
pub const PERM_WRITE: u8 = 2;
const RECORD_VERSION: u8 = 1;

/// What kind of messages a topic is for (RocketMQ's `message.type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopicKind {
    /// Not said.
    Unspecified,
    /// Ordinary messages.
    #[default]
    Normal,
    /// Ordered by message group.
    Fifo,
    /// Delivered later.
    Delay,
    /// Transactions.
    Transaction,
}

impl TopicKind {
    fn to_byte(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::Normal => 1,
            Self::Fifo => 2,
            Self::Delay => 3,
            Self::Transaction => 4,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, Malformed> {
        match byte {
            0 => Ok(Self::Unspecified),
            1 => Ok(Self::Normal),
            2 => Ok(Self::Fifo),
            3 => Ok(Self::Delay),
            4 => Ok(Self::Transaction),
            _ => Err(Malformed),
        }
    }
}

/// The settings of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// Name.
    pub name: String,
    /// Queues, readable and writable alike.
    pub queues: u32,
    /// Bits [`PERM_READ`] and [`PERM_WRITE`].
    pub perm: u8,
    /// Kind of messages.
    pub kind: TopicKind,
    /// Keep messages at least this long; `None`: the node's default.
    pub retention_ms: Option<u64>,
    /// Keep about this many bytes; `None`: no bound.
    pub retention_bytes: Option<u64>,
    /// RocketMQ's order flag.
    pub order: bool,
    /// RocketMQ's attributes without the `+` sign.
    pub attributes: BTreeMap<String, String>,
}

impl TopicConfig {
    /// A readable and writable topic of the normal kind.
    pub fn new(name: impl Into<String>, queues: u32) -> Self {
        Self {
            name: name.into(),
            queues,
            perm: PERM_READ | PERM_WRITE,
            kind: TopicKind::Normal,
            retention_ms: None,
            retention_bytes: None,
            order: false,
            attributes: BTreeMap::new(),
        }
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        out.text(&self.name)
            .u32(self.queues)
            .u8(self.perm)
            .u8(self.kind.to_byte());
        out.optional_u64(self.retention_ms)
            .optional_u64(self.retention_bytes)
            .bool(self.order);
        out.attributes(&self.attributes);
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let config = Self {
            name: from.name()?,
            queues: from.u32()?,
            perm: from.u8()?,
            kind: TopicKind::from_byte(from.u8()?)?,
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
}

/// How far a queue reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Generation of the open segment.
    pub generation: u32,
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
    /// The number of this queue's batch among those of the entry, if the entry was the last to add one.
    pub fn batch_in(&self, log_index: u64) -> Option<usize> {
        self.open_batch
            .filter(|(entry, _)| *entry == log_index)
            .map(|(_, number)| number)
    }

    /// The record's value: version, then the fields in order.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::starting(&[RECORD_VERSION]);
        out.u32(self.generation).i64(self.min_offset).i64(self.max_offset);
        out.i64(self.min_store_time)
            .i64(self.last_store_time)
            .u64(self.first_log_index);
        out.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder::new(bytes);
        if from.u8()? != RECORD_VERSION {
            return Err(Malformed);
        }
        let queue = Self {
            generation: from.u32()?,
            min_offset: from.i64()?,
            max_offset: from.i64()?,
            min_store_time: from.i64()?,
            last_store_time: from.i64()?,
            first_log_index: from.u64()?,
            open_batch: None,
        };
        from.finish()?;
        if 0 <= queue.min_offset && queue.min_offset <= queue.max_offset {
            Ok(queue)
        } else {
            Err(Malformed)
        }
    }
}

/// A topic with its queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Never reused.
    pub id: u32,
    /// Settings.
    pub config: TopicConfig,
    /// When it was created, by the proposer's clock.
    pub created_ms: i64,
    /// The name again, shared.
    pub name: Arc<str>,
    /// By number.
    pub queues: Vec<Queue>,
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
        Some((QueueId::new(topic.id, queue), topic.queues.get(queue as usize)?))
    }

    /// The queue with this id.
    pub fn queue_by_id(&self, id: QueueId) -> Option<&Queue> {
        self.by_id.get(&id.topic())?.queues.get(id.queue() as usize)
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
        let Some(queue) = topic.queues.get_mut(append.queue as usize) else {
            return Reply::Refused(Refusal::QueueOutOfRange);
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
                });
                queue.open_batch = Some((log_index, effects.batches.len() - 1));
                effects.batches.len() - 1
            }
        };
        effects.batches[number].messages.push((slot, append.tag_hash));
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

    /// Creates or changes a topic. With `if_absent` an existing one stays as it is.
    pub(super) fn put(
        &mut self,
        config: TopicConfig,
        if_absent: bool,
        now_ms: i64,
        next_topic_id: &mut u32,
        effects: &mut Effects,
    ) -> Reply {
        if config.queues == 0 || config.queues > QUEUES_PER_TOPIC_MAX {
            return Reply::Refused(Refusal::QueueOutOfRange);
        }
        let existing = self.ids.get(&config.name).and_then(|id| self.by_id.get_mut(id));
        let before = match &existing {
            Some(topic) if if_absent || topic.config == config => return Reply::Done,
            Some(topic) if topic.config.queues > config.queues => return Reply::Refused(Refusal::FewerQueues),
            Some(topic) => u64::from(topic.config.queues),
            None if self.ids.len() >= TOPICS_MAX => return Reply::Refused(Refusal::LimitReached("topics")),
            None => 0,
        };
        let queues = self.queues - before + u64::from(config.queues);
        if queues > QUEUES_MAX {
            return Reply::Refused(Refusal::LimitReached("queues"));
        }
        self.queues = queues;
        let topic = match existing {
            Some(topic) => {
                topic.queues.resize_with(config.queues as usize, Queue::default);
                topic.config = config;
                topic
            }
            None => {
                let id = *next_topic_id;
                *next_topic_id += 1;
                self.ids.insert(config.name.clone(), id);
                self.by_id.entry(id).or_insert(Topic {
                    id,
                    created_ms: now_ms,
                    name: config.name.as_str().into(),
                    queues: vec![Queue::default(); config.queues as usize],
                    config,
                })
            }
        };
        let mut out = Encoder::starting(&[RECORD_VERSION]);
        out.i64(topic.created_ms);
        topic.config.encode(&mut out);
        effects.put(Key::new(records::TOPIC).u32(topic.id).finish(), out.finish());
        Reply::Done
    }

    /// Removes a topic with its queues and their index; the messages' bytes go with the log.
    pub(super) fn delete(&mut self, name: &str, effects: &mut Effects) -> Reply {
        let Some(topic) = self.ids.remove(name).and_then(|id| self.by_id.remove(&id)) else {
            return Reply::Refused(Refusal::TopicNotExist);
        };
        self.queues -= topic.queues.len() as u64;
        effects.delete(Key::new(records::TOPIC).u32(topic.id).finish());
        for prefix in [records::QUEUE, records::QUEUE_INDEX] {
            let from = Key::new(prefix).u32(topic.id).finish();
            effects.delete_range(from.clone(), after_prefix(from));
        }
        Reply::Done
    }

    /// Queues with messages in entries up to and including `log_index`.
    pub fn queues_up_to(&self, log_index: u64) -> Vec<QueueId> {
        let queues = self
            .by_id
            .values()
            .flat_map(|topic| topic.queues.iter().zip(0..).map(|(q, n)| (topic.id, n, q)));
        queues
            .filter(|(_, _, queue)| queue.min_offset < queue.max_offset && queue.first_log_index <= log_index)
            .map(|(topic, number, _)| QueueId::new(topic, number))
            .collect()
    }

    /// Moves a queue's start behind the entry `upto`: to the first batch recorded there, else to what the entry being
    /// applied added, else to its end.
    pub(super) fn trim<E>(
        &mut self,
        id: QueueId,
        upto: u64,
        current: u64,
        batch_after: &mut impl FnMut(QueueId, Range<i64>, u64) -> Result<Option<BatchStart>, E>,
        effects: &mut Effects,
    ) -> Result<(), E> {
        let queues = self.by_id.get_mut(&id.topic()).map(|topic| &mut topic.queues);
        let Some(queue) = queues.and_then(|queues| queues.get_mut(id.queue() as usize)) else {
            return Ok(());
        };
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
        effects.delete_range(key(0), key(queue.min_offset));
        effects.put(Key::new(records::QUEUE).u64(id.0).finish(), queue.encode());
        Ok(())
    }

    pub(super) fn load_topic(&mut self, mut key: Decoder<'_>, value: &[u8]) -> Result<(), Malformed> {
        let id = key.u32()?;
        key.finish()?;
        let mut from = Decoder::new(value);
        if from.u8()? != RECORD_VERSION {
            return Err(Malformed);
        }
        let created_ms = from.i64()?;
        let config = TopicConfig::decode(&mut from)?;
        from.finish()?;
        self.queues += u64::from(config.queues);
        let queues = vec![Queue::default(); config.queues as usize];
        let name = config.name.as_str().into();
        if self.ids.insert(config.name.clone(), id).is_some() {
            return Err(Malformed);
        }
        self.by_id.insert(
            id,
            Topic {
                id,
                config,
                created_ms,
                name,
                queues,
            },
        );
        Ok(())
    }

    pub(super) fn load_queue(&mut self, mut key: Decoder<'_>, value: &[u8]) -> Result<(), Malformed> {
        let id = QueueId(key.u64()?);
        key.finish()?;
        let topic = self.by_id.get_mut(&id.topic()).ok_or(Malformed)?;
        *topic.queues.get_mut(id.queue() as usize).ok_or(Malformed)? = Queue::decode(value)?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "topics_test.rs"]
mod tests;
