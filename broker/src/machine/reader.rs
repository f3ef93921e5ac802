//! What request handlers read of a group's state on this replica. As fresh as apply; a handler that needs more asks
//! the Raft group for a read index first.

mod expiry;

use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

use flotilla_controller::coordinator_slots;
use flotilla_raft_store::log_id::LogId;

use super::shared::{Digest, LastEntry, Memory, Shared};
use crate::key_index::{KeyHit, StoreTimes};
use crate::kv::Kv;
use crate::queue_index::{Located, QueueIndex, locate_in_batch};
use crate::state::records::QueueId;
use crate::state::topics::Queue;
use crate::state::topics::handover::Sealed;
use crate::state::{ConsumerGroup, Join, Lock, Refusal, State, Successor, Topic, key_hash};

/// How far a queue reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
    /// First queue offset that can be read.
    pub min_offset: i64,
    /// One past the last.
    pub max_offset: i64,
    /// Store time of the first message, -1 if there is none.
    pub min_store_time: i64,
    /// Store time of the last message ever stored, -1 if there was none.
    pub last_store_time: i64,
    /// Generation of the open segment.
    pub generation: u32,
}

/// How far one segment of a queue reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentBounds {
    /// Its generation.
    pub generation: u32,
    /// Its first queue offset, readable or not.
    pub start: i64,
    /// First queue offset that can be read; the end if none can.
    pub min_offset: i64,
    /// One past the last.
    pub max_offset: i64,
    /// Store time of the first message, -1 if there is none.
    pub min_store_time: i64,
    /// What follows it, if it is sealed.
    pub successor: Option<Successor>,
}

impl SegmentBounds {
    fn of(topic: &Topic, number: u32, queue: &Queue) -> Self {
        let sealed = topic.sealed.get(&(number, queue.generation));
        Self {
            generation: queue.generation,
            start: queue.start,
            min_offset: queue.min_offset,
            max_offset: queue.max_offset,
            min_store_time: queue.min_store_time,
            successor: sealed.map(Sealed::successor),
        }
    }
}

/// A message found by a key, with its queue. Another key may have the same hash: compare the message's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundByKey {
    /// Queue number.
    pub queue: u32,
    /// Where it lies.
    pub located: Located,
}

/// Cheap to clone; see the module.
#[derive(Clone)]
pub struct StateReader {
    shared: Arc<Shared>,
}

impl fmt::Debug for StateReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateReader")
            .field("applied", &self.applied())
            .finish_non_exhaustive()
    }
}

/// The offsets of a queue that the store's index covers, and the batch that may not be in it yet.
struct View {
    queue: QueueId,
    min_offset: i64,
    max_offset: i64,
    last_entry: Option<(Arc<LastEntry>, usize)>,
}

impl View {
    fn of(memory: &Memory, id: QueueId, queue: &Queue) -> Self {
        let last_entry = memory
            .last_batch(id, queue)
            .zip(queue.batch_in(memory.last_entry.log_index));
        Self {
            queue: id,
            min_offset: queue.min_offset,
            max_offset: queue.max_offset,
            last_entry,
        }
    }

    /// One past the last offset to look for in the store.
    fn recorded_to(&self) -> i64 {
        match &self.last_entry {
            Some((entry, number)) => entry.batches[*number].first_offset,
            None => self.max_offset,
        }
    }
}

impl StateReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Runs `read` on the state in memory, which is locked meanwhile: for what the other methods do not offer.
    pub fn with<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.shared.memory.read().state)
    }

    /// The last entry applied here.
    pub fn applied(&self) -> Option<LogId> {
        self.shared.memory.read().progress.applied
    }

    /// Messages in entries up to and including this one are forgotten; 0 if none.
    pub fn trimmed(&self) -> u64 {
        self.with(|state| state.trimmed)
    }

    /// The newest digest computed here.
    pub fn last_digest(&self) -> Option<Digest> {
        *self.shared.digest.lock()
    }

    /// The controller's id of a topic and the version of its assignment, if queues of it are here.
    pub fn topic_identity(&self, name: &str) -> Option<(u64, u64)> {
        self.with(|state| state.topics.get(name).map(|topic| (topic.uid, topic.version)))
    }

    /// The version of a topic's assignment.
    pub fn topic_version(&self, name: &str) -> Option<u64> {
        self.topic_identity(name).map(|(_, version)| version)
    }

    /// Topics with queues here, the coordinator slots' among them.
    pub fn topic_names(&self) -> Vec<String> {
        self.with(|state| state.topics.iter().map(|topic| topic.config.name.clone()).collect())
    }

    /// Numbers of a topic's queues that are here; a coordinator slot is none to whoever asks.
    pub fn queues_of(&self, topic: &str) -> Vec<u32> {
        self.with(|state| {
            let topic = Some(topic).filter(|topic| *topic != coordinator_slots::TOPIC);
            let topic = topic.and_then(|topic| state.topics.get(topic));
            topic.map_or_else(Vec::new, |topic| topic.queues().map(|(number, _)| number).collect())
        })
    }

    /// The generation of a queue's open segment, if it is here.
    pub fn generation(&self, topic: &str, queue: u32) -> Option<u32> {
        self.with(|state| state.topics.queue(topic, queue).map(|(_, queue)| queue.generation))
    }

    /// How far a queue reaches; `None` if topic or queue do not exist.
    pub fn queue_bounds(&self, topic: &str, queue: u32) -> Option<QueueBounds> {
        self.with(|state| {
            state.topics.queue(topic, queue).map(|(_, queue)| QueueBounds {
                min_offset: queue.min_offset,
                max_offset: queue.max_offset,
                min_store_time: queue.min_store_time,
                last_store_time: queue.last_store_time,
                generation: queue.generation,
            })
        })
    }

    /// The segment here that a read at `offset` is for: the one that holds it, or would if it were longer; the first
    /// one for offsets before all of them.
    pub fn segment_at(&self, topic: &str, queue: u32, offset: i64) -> Option<SegmentBounds> {
        self.with(|state| {
            let topic = state.topics.get(topic)?;
            Some(SegmentBounds::of(topic, queue, topic.segment_at(queue, offset)?))
        })
    }

    /// A segment by its generation.
    pub fn segment(&self, topic: &str, queue: u32, generation: u32) -> Option<SegmentBounds> {
        self.with(|state| {
            let topic = state.topics.get(topic)?;
            Some(SegmentBounds::of(topic, queue, topic.segment(queue, generation)?))
        })
    }

    /// All segments of a topic that are here: queue number and bounds, by number, oldest first.
    pub fn segments_of(&self, topic: &str) -> Vec<(u32, SegmentBounds)> {
        self.with(|state| {
            let Some(topic) = state.topics.get(topic) else {
                return Vec::new();
            };
            let sealed = topic
                .sealed
                .iter()
                .map(|((number, _), sealed)| (*number, &sealed.queue));
            let mut all: Vec<_> = sealed
                .chain(topic.queues())
                .map(|(number, queue)| (number, SegmentBounds::of(topic, number, queue)))
                .collect();
            all.sort_by_key(|(number, bounds)| (*number, bounds.generation));
            all
        })
    }

    /// Where a queue that is not open here went last.
    pub fn moved_to(&self, topic: &str, queue: u32) -> Option<Successor> {
        self.with(|state| state.topics.get(topic)?.moved_to(queue))
    }

    /// Where up to `max` messages from the queue offset `from` on lie, in order, all in the segment of `from`. Empty
    /// past its end and for an unknown queue; starts at the first message there is if `from` is before it.
    pub fn locate(&self, topic: &str, queue: u32, from: i64, max: usize) -> io::Result<Vec<Located>> {
        match self.view_at(topic, queue, from) {
            Some(view) => self.locate_in(&view, from, max),
            None => Ok(Vec::new()),
        }
    }

    /// The queue offset for a store time within a segment. Lower: the first message stored at `timestamp` or later, or
    /// the maximum offset. Upper: the last one stored at `timestamp` or earlier, or 0. An unknown segment has 0.
    pub fn offset_by_time(
        &self,
        topic: &str,
        queue: u32,
        generation: u32,
        timestamp: i64,
        upper: bool,
    ) -> io::Result<i64> {
        let view = {
            let memory = self.shared.memory.read();
            let topic = memory.state.topics.get(topic);
            topic.and_then(|topic| {
                let segment = topic.segment(queue, generation)?;
                Some(View::of(&memory, QueueId::new(topic.id, queue), segment))
            })
        };
        let Some(view) = view else {
            return Ok(0);
        };
        if upper {
            let next = self.first_since(&view, timestamp.saturating_add(1))?;
            return Ok(if next > view.min_offset { next - 1 } else { 0 });
        }
        self.first_since(&view, timestamp)
    }

    /// The next queue offset a subscription group will read, if it was ever set.
    pub fn consumer_offset(&self, group: &str, topic: &str, queue: u32) -> Option<i64> {
        self.with(|state| state.consumer_offsets.get(group, topic, queue))
    }

    /// All offsets of a subscription group: topic, queue, offset.
    pub fn consumer_offsets_of(&self, group: &str) -> Vec<(String, u32, i64)> {
        self.with(|state| {
            let offsets = state.consumer_offsets.of_group(group);
            offsets
                .map(|(topic, queue, offset)| (topic.to_owned(), queue, offset))
                .collect()
        })
    }

    /// Subscription groups that have read of a topic.
    pub fn groups_of_topic(&self, topic: &str) -> Vec<String> {
        self.with(|state| state.consumer_offsets.groups_of_topic(topic))
    }

    /// True if a heartbeat would change anything: only then it is worth a command. Refused unless the coordinator slots
    /// of its consumer groups are open here.
    pub fn would_change(&self, join: &Join) -> Result<bool, Refusal> {
        self.with(|state| {
            let mut groups = join.groups.iter();
            groups.try_for_each(|wanted| state.check_coordinates(&wanted.group))?;
            Ok(state.coordinator.would_change(join))
        })
    }

    /// Looks at a consumer group, `None` without members; refused unless its coordinator slot is open here.
    pub fn consumer_group<T>(&self, name: &str, look: impl FnOnce(Option<&ConsumerGroup>) -> T) -> Result<T, Refusal> {
        self.with(|state| state.coordinated(name).map(look))
    }

    /// [`StateReader::consumer_group`]; or as it was when its slot was put aside here, until that is open elsewhere.
    pub fn last_consumer_group<T>(
        &self,
        name: &str,
        look: impl FnOnce(Option<&ConsumerGroup>) -> T,
    ) -> Result<T, Refusal> {
        self.with(|state| state.last_coordinated(name).map(look))
    }

    /// Client id and consumer group of all members.
    pub fn members(&self) -> Vec<(String, String)> {
        self.with(|state| {
            let groups = state.coordinator.consumer_groups();
            let members = groups.flat_map(|(name, group)| group.members.keys().map(move |client| (client, name)));
            members
                .map(|(client_id, name)| (client_id.clone(), name.to_owned()))
                .collect()
        })
    }

    /// Names of the consumer groups here that subscribe to a topic.
    pub fn subscribers_of(&self, topic: &str) -> Vec<String> {
        self.with(|state| {
            let groups = state.consumer_groups_here();
            let subscribed = groups.filter(|(_, group)| group.subscriptions.contains_key(topic));
            subscribed.map(|(name, _)| name.to_owned()).collect()
        })
    }

    /// The lock of a queue, unless it has expired by `now_ms`.
    pub fn lock_owner(&self, group: &str, topic: &str, queue: u32, now_ms: i64) -> Option<Lock> {
        self.with(|state| {
            state
                .locks
                .get(group, topic, queue)
                .filter(|lock| !lock.is_expired(now_ms))
                .cloned()
        })
    }

    /// Up to `max` messages of a topic whose keys hash like `key`, stored within `begin..=end`, newest entry first.
    /// Reads files, many for a long time: not to be called on a thread that others wait for.
    pub fn find_by_key(&self, topic: &str, key: &str, begin: i64, end: i64, max: usize) -> io::Result<Vec<FoundByKey>> {
        let mut found = Vec::new();
        let Some(topic_id) = self.with(|state| state.topics.id(topic)) else {
            return Ok(found);
        };
        let kv = self.shared.kv()?;
        let times = StoreTimes {
            oldest: begin,
            newest: end,
        };
        let mut looked_at = 0;
        self.shared.keys().find(&kv, key_hash(topic, key), times, |hit| {
            if found.len() >= max || looked_at == KEY_HITS_MAX {
                return Ok(false);
            }
            if hit.queue.topic() == topic_id {
                looked_at += 1;
                found.extend(
                    self.locate_hit(&kv, hit)?
                        .filter(|found| (begin..=end).contains(&found.located.store_time)),
                );
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// The message of a hit; `None` once it was removed.
    fn locate_hit(&self, kv: &Kv, hit: KeyHit) -> io::Result<Option<FoundByKey>> {
        let Some(view) = self.view_by_id(hit.queue, hit.queue_offset) else {
            return Ok(None);
        };
        let located = locate_with(|| Ok(kv), &view, hit.queue_offset, 1)?;
        let located = located
            .into_iter()
            .find(|located| located.queue_offset == hit.queue_offset);
        Ok(located.map(|located| FoundByKey {
            queue: hit.queue.queue(),
            located,
        }))
    }

    fn view_at(&self, topic: &str, queue: u32, offset: i64) -> Option<View> {
        let memory = self.shared.memory.read();
        let (id, segment) = memory.state.topics.segment_at(topic, queue, offset)?;
        Some(View::of(&memory, id, segment))
    }

    fn view_by_id(&self, id: QueueId, offset: i64) -> Option<View> {
        let memory = self.shared.memory.read();
        let topic = memory.state.topics.by_id(id.topic())?;
        Some(View::of(&memory, id, topic.segment_at(id.queue(), offset)?))
    }

    fn locate_in(&self, view: &View, from: i64, max: usize) -> io::Result<Vec<Located>> {
        locate_with(|| self.shared.kv(), view, from, max)
    }

    fn first_since(&self, view: &View, time: i64) -> io::Result<i64> {
        let recorded_to = view.recorded_to();
        if view.min_offset < recorded_to {
            let kv = self.shared.kv()?;
            let batch = QueueIndex::new(&kv, view.queue).first_since(view.min_offset..recorded_to, time)?;
            if let Some(batch) = batch {
                return Ok(batch.first_offset);
            }
        }
        match &view.last_entry {
            Some((entry, number)) if entry.batches[*number].store_time >= time => {
                Ok(entry.batches[*number].first_offset)
            }
            _ => Ok(view.max_offset),
        }
    }
}

/// `kv` is asked for only when it is needed. Whoever holds the store already gives that: asking for it twice would wait
/// for ever if somebody waits to replace it.
fn locate_with<K: Deref<Target = Kv>>(
    kv: impl FnOnce() -> io::Result<K>,
    view: &View,
    from: i64,
    max: usize,
) -> io::Result<Vec<Located>> {
    let from = from.max(view.min_offset);
    let available = usize::try_from(view.max_offset - from).unwrap_or(0);
    let max = max.min(available);
    let mut found = Vec::with_capacity(max);
    if from < view.recorded_to() && max > 0 {
        let in_store = usize::try_from(view.recorded_to() - from).unwrap_or(0).min(max);
        let kv = kv()?;
        QueueIndex::new(&kv, view.queue).locate(from, in_store, &mut found)?;
        // Where a trim took the rest meanwhile, what comes next is of a later segment.
        found.retain(|located| located.queue_offset < view.max_offset);
    }
    if let Some((entry, number)) = &view.last_entry {
        locate_in_batch(&entry.batches[*number], entry.log_index, from, max, &mut found);
    }
    Ok(found)
}

/// Messages with the same key looked at for one query.
const KEY_HITS_MAX: usize = 4_096;
