//! What applying one entry leads to outside of the state in memory: records to write, batches for the queue index,
//! keys for the key index, and whom to tell. Collected for the whole entry and carried out once, in order.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::forwarded::Item;
use super::records::QueueId;

/// One change of the records on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordChange {
    /// Write.
    Put {
        /// Its key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// Remove.
    Delete {
        /// Its key.
        key: Vec<u8>,
    },
    /// Remove all keys from the first up to, not including, the second.
    DeleteRange {
        /// First key.
        from: Vec<u8>,
        /// One past the last.
        to: Vec<u8>,
    },
}

/// The messages one entry added to one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexBatch {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The queue.
    pub queue: QueueId,
    /// Queue offset of the first message; the others follow densely.
    pub first_offset: i64,
    /// Store time of all of them.
    pub store_time: i64,
    /// Slot in the entry and tag hash, a message each.
    pub messages: Vec<(u16, i32)>,
    /// Stored bytes of all of them.
    pub bytes: u64,
}

impl IndexBatch {
    /// One past the last queue offset.
    pub fn end_offset(&self) -> i64 {
        self.first_offset + self.messages.len() as i64
    }
}

/// A key of a message that was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexedKey {
    /// Hash of topic and key.
    pub hash: u64,
    /// Slot of the message.
    pub slot: u16,
    /// Its queue.
    pub queue: QueueId,
    /// Its place there.
    pub queue_offset: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Effects {
    /// Changes of records in the order they have to be made.
    pub records: Vec<RecordChange>,
    /// One a queue that got messages.
    pub batches: Vec<IndexBatch>,
    /// All keys of the stored messages.
    pub keys: Vec<IndexedKey>,
    /// Messages of the entry that came through another node.
    pub forwarded: Vec<Item>,
    /// Consumer groups whose members should rebalance.
    pub memberships: BTreeSet<String>,
    /// Queues that were sealed or opened: topic and number.
    pub handed_over: Vec<(Arc<str>, u32)>,
    /// Nonces of the digest points in the entry.
    pub digest_points: Vec<u64>,
    /// The log up to and including this index is no longer referred to.
    pub trimmed: Option<u64>,
}

impl Effects {
    /// Notes a record to write.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.records.push(RecordChange::Put { key, value });
    }

    /// Notes a record to remove.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.records.push(RecordChange::Delete { key });
    }

    /// Notes a range of records to remove.
    pub fn delete_range(&mut self, from: Vec<u8>, to: Vec<u8>) {
        self.records.push(RecordChange::DeleteRange { from, to });
    }
}
