//! Keys in the order of the log: one record an entry, and a copy of all of them in memory.
//!
//!   key:   | prefix: 1 | log index: 8 |
//!   value: | oldest store time: 8 | newest: 8 | then per key: | hash of topic and key: 8 | slot: 2 | queue id: 8 | queue offset: 8 |

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use rocksdb::WriteBatch;

use super::StoreTimes;
use crate::kv::Kv;
use crate::state::effects::IndexedKey;
use crate::state::records::{KEY_FRESH, Key, QueueId, after_prefix};

const TIMES_BYTES: usize = 16;
const KEY_BYTES: usize = 26;

/// The keys of one entry's messages.
#[derive(Debug, PartialEq, Eq)]
pub struct FreshEntry {
    pub(super) log_index: u64,
    pub(super) times: StoreTimes,
    pub(super) keys: Vec<IndexedKey>,
}

impl FreshEntry {
    pub(super) fn put(&self, out: &mut WriteBatch) {
        let mut value = Vec::with_capacity(TIMES_BYTES + KEY_BYTES * self.keys.len());
        value.extend_from_slice(&self.times.oldest.to_be_bytes());
        value.extend_from_slice(&self.times.newest.to_be_bytes());
        for key in &self.keys {
            value.extend_from_slice(&key.hash.to_be_bytes());
            value.extend_from_slice(&key.slot.to_be_bytes());
            value.extend_from_slice(&key.queue.0.to_be_bytes());
            value.extend_from_slice(&key.queue_offset.to_be_bytes());
        }
        out.put(record_key(self.log_index), value);
    }

    pub(super) fn remove(&self, out: &mut WriteBatch) {
        out.delete(record_key(self.log_index));
    }

    fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let log_index = u64::from_be_bytes(*key.get(1..)?.as_array()?);
        let (oldest, value) = value.split_first_chunk::<8>()?;
        let (newest, value) = value.split_first_chunk::<8>()?;
        let (keys, rest) = value.as_chunks::<KEY_BYTES>();
        if !rest.is_empty() {
            return None;
        }
        let keys = keys.iter().map(|key| {
            let (hash, rest) = key.split_first_chunk::<8>()?;
            let (slot, rest) = rest.split_first_chunk::<2>()?;
            let (queue, offset) = rest.split_first_chunk::<8>()?;
            Some(IndexedKey {
                hash: u64::from_be_bytes(*hash),
                slot: u16::from_be_bytes(*slot),
                queue: QueueId(u64::from_be_bytes(*queue)),
                queue_offset: i64::from_be_bytes(*offset.as_array()?),
            })
        });
        Some(Self {
            log_index,
            times: StoreTimes {
                oldest: i64::from_be_bytes(*oldest),
                newest: i64::from_be_bytes(*newest),
            },
            keys: keys.collect::<Option<_>>()?,
        })
    }
}

fn record_key(log_index: u64) -> Vec<u8> {
    Key::new(KEY_FRESH).u64(log_index).finish()
}

/// The fresh keys of all entries, oldest first.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    entries: VecDeque<Arc<FreshEntry>>,
    keys: usize,
}

impl Fresh {
    pub fn load(kv: &Kv) -> io::Result<Self> {
        let mut fresh = Self::default();
        let mut cursor = kv.cursor(vec![KEY_FRESH], after_prefix(vec![KEY_FRESH]));
        let mut here = cursor.seek_to_first()?;
        while here {
            let Some((key, value)) = cursor.item() else { break };
            let entry = FreshEntry::decode(key, value)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "fresh key record is damaged"))?;
            fresh.push(entry);
            here = cursor.step()?;
        }
        Ok(fresh)
    }

    pub fn push(&mut self, entry: FreshEntry) {
        self.keys += entry.keys.len();
        self.entries.push_back(Arc::new(entry));
    }

    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Log indexes from the oldest to the newest entry.
    pub fn span(&self) -> u64 {
        match (self.entries.front(), self.entries.back()) {
            (Some(first), Some(last)) => last.log_index - first.log_index + 1,
            _ => 0,
        }
    }

    /// The oldest entries, as far as their log indexes span no more than `span`.
    pub fn oldest(&self, span: u64) -> Vec<Arc<FreshEntry>> {
        let first = self.entries.front().map_or(0, |entry| entry.log_index);
        let within = |entry: &&Arc<FreshEntry>| entry.log_index - first < span;
        self.entries.iter().take_while(within).cloned().collect()
    }

    pub fn newest_first(&self) -> impl Iterator<Item = Arc<FreshEntry>> {
        self.entries.iter().rev().cloned()
    }

    /// Drops entries up to and including `last` from memory.
    pub fn forget(&mut self, last: u64) {
        self.pop_up_to(last, |_| {});
    }

    /// Drops entries up to and including `last`.
    pub fn trim(&mut self, out: &mut WriteBatch, last: u64) {
        self.pop_up_to(last, |entry| entry.remove(out));
    }

    fn pop_up_to(&mut self, last: u64, mut popped: impl FnMut(&FreshEntry)) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.log_index <= last) {
            self.keys -= entry.keys.len();
            popped(&entry);
        }
    }
}
