//! The queue index: for one queue, in which entry and slot each message lies.
//!
//! Written by apply only, read by whoever answers a pull. One value a (queue, entry):
//!
//!   key:   | prefix: 1 | queue id: 8 | queue offset of the first message: 8 |
//!   value: | log index: 8 | store time: 8 | count: 2 | then per message: slot: 2, tag hash: 4 |
//!
//! Holds: queue offsets are dense from the queue's `min_offset`; log indexes grow and store times never go back along
//! them; every slot points at a whole, applied message.
//! Crash: lost with the unflushed part of the state, written again by applying the log.
//! Not here: which offsets exist (`state/topics.rs`), the messages themselves (the commit log).

use std::io;
use std::ops::Range;

use rocksdb::WriteBatch;

use crate::kv::{Cursor, Kv};
use crate::state::effects::IndexBatch;
use crate::state::records::{Key, QUEUE_INDEX, QueueId, after_prefix};
use crate::state::topics::BatchStart;

const HEAD_BYTES: usize = 18;
const MESSAGE_BYTES: usize = 6;

/// Where one message lies, and what a read needs to know before it fetches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Its place in the queue.
    pub queue_offset: i64,
    /// The entry that holds it.
    pub log_index: u64,
    /// Which frame of the entry.
    pub slot: u16,
    /// When it was stored.
    pub store_time: i64,
    /// Hash of its tag, 0 without one.
    pub tag_hash: i32,
}

/// Adds one batch of a queue to what an entry writes.
pub fn put(out: &mut WriteBatch, log_index: u64, batch: &IndexBatch) {
    let mut key = [0; 17];
    key[0] = QUEUE_INDEX;
    key[1..9].copy_from_slice(&batch.queue.0.to_be_bytes());
    key[9..].copy_from_slice(&batch.first_offset.to_be_bytes());
    out.put(key, encode(log_index, batch));
}

fn encode(log_index: u64, batch: &IndexBatch) -> Vec<u8> {
    let count = u16::try_from(batch.messages.len()).expect("an entry has at most FRAMES_MAX frames");
    let mut value = Vec::with_capacity(HEAD_BYTES + MESSAGE_BYTES * batch.messages.len());
    value.extend_from_slice(&log_index.to_be_bytes());
    value.extend_from_slice(&batch.store_time.to_be_bytes());
    value.extend_from_slice(&count.to_be_bytes());
    for (slot, tag_hash) in &batch.messages {
        value.extend_from_slice(&slot.to_be_bytes());
        value.extend_from_slice(&tag_hash.to_be_bytes());
    }
    value
}

/// The messages of a batch that the index has not recorded yet.
pub fn locate_in_batch(batch: &IndexBatch, log_index: u64, from: i64, max: usize, out: &mut Vec<Located>) {
    for ((slot, tag_hash), queue_offset) in batch.messages.iter().zip(batch.first_offset..) {
        if out.len() >= max {
            break;
        }
        if queue_offset >= from {
            let (slot, tag_hash, store_time) = (*slot, *tag_hash, batch.store_time);
            out.push(Located {
                queue_offset,
                log_index,
                slot,
                store_time,
                tag_hash,
            });
        }
    }
}

/// One batch as recorded.
struct Batch<'a> {
    first_offset: i64,
    log_index: u64,
    store_time: i64,
    messages: &'a [[u8; MESSAGE_BYTES]],
}

impl<'a> Batch<'a> {
    fn decode(key: &[u8], value: &'a [u8]) -> io::Result<Self> {
        let (head, messages) = value.split_first_chunk::<HEAD_BYTES>().ok_or_else(damaged)?;
        let first_offset = key.last_chunk::<8>().ok_or_else(damaged)?;
        let (log_index, rest) = head.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (store_time, count) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (messages, left) = messages.as_chunks::<MESSAGE_BYTES>();
        if !left.is_empty() || count != (messages.len() as u16).to_be_bytes() || messages.is_empty() {
            return Err(damaged());
        }
        Ok(Self {
            first_offset: i64::from_be_bytes(*first_offset),
            log_index: u64::from_be_bytes(*log_index),
            store_time: i64::from_be_bytes(*store_time),
            messages,
        })
    }

    fn end_offset(&self) -> i64 {
        self.first_offset + self.messages.len() as i64
    }

    fn start(&self) -> BatchStart {
        BatchStart {
            first_offset: self.first_offset,
            log_index: self.log_index,
            store_time: self.store_time,
        }
    }
}

/// The recorded batches of one queue, as they were when it was opened.
pub struct QueueIndex<'a> {
    cursor: Cursor<'a>,
    queue: QueueId,
}

impl<'a> QueueIndex<'a> {
    /// Reads `queue`.
    pub fn new(kv: &'a Kv, queue: QueueId) -> Self {
        let from = Key::new(QUEUE_INDEX).u64(queue.0).finish();
        Self {
            cursor: kv.cursor(from.clone(), after_prefix(from)),
            queue,
        }
    }

    /// Up to `max` messages in all in `out`, from the queue offset `from` on, in order; fewer if the index ends.
    pub fn locate(&mut self, from: i64, max: usize, out: &mut Vec<Located>) -> io::Result<()> {
        let mut here = out.len() < max && self.seek_batch(from)?;
        while here && out.len() < max {
            let Some(batch) = self.batch()? else { break };
            let skip = usize::try_from(from - batch.first_offset).unwrap_or(0);
            let offsets = batch.first_offset + skip as i64..;
            for (message, queue_offset) in batch.messages.iter().skip(skip).zip(offsets).take(max - out.len()) {
                out.push(Located {
                    queue_offset,
                    log_index: batch.log_index,
                    slot: u16::from_be_bytes([message[0], message[1]]),
                    store_time: batch.store_time,
                    tag_hash: i32::from_be_bytes([message[2], message[3], message[4], message[5]]),
                });
            }
            here = self.cursor.step()?;
        }
        Ok(())
    }

    /// The first batch within the recorded `offsets` that lies behind the entry `log_index`.
    pub fn first_behind(&mut self, offsets: Range<i64>, log_index: u64) -> io::Result<Option<BatchStart>> {
        self.first_where_not(offsets, |batch| batch.log_index <= log_index)
    }

    /// The first batch within the recorded `offsets` that was stored at `time` or later.
    pub fn first_since(&mut self, offsets: Range<i64>, time: i64) -> io::Result<Option<BatchStart>> {
        self.first_where_not(offsets, |batch| batch.store_time < time)
    }

    /// Binary search: `before` is true for the batches up to some place and false from there on.
    fn first_where_not(
        &mut self,
        offsets: Range<i64>,
        before: impl Fn(&BatchStart) -> bool,
    ) -> io::Result<Option<BatchStart>> {
        let Range {
            start: mut from,
            end: mut to,
        } = offsets;
        let mut found = None;
        while from < to {
            let middle = from + (to - from) / 2;
            let batch = match self.seek_batch(middle)? {
                true => self.batch()?.filter(|batch| batch.first_offset <= middle),
                false => None,
            };
            match batch {
                // Trimmed meanwhile.
                None => from = middle + 1,
                Some(batch) if before(&batch.start()) => from = batch.end_offset(),
                Some(batch) => {
                    found = Some(batch.start());
                    to = batch.first_offset;
                }
            }
        }
        Ok(found)
    }

    /// Goes to the batch that holds `offset`, or else to the one after it.
    fn seek_batch(&mut self, offset: i64) -> io::Result<bool> {
        let key = Key::new(QUEUE_INDEX)
            .u64(self.queue.0)
            .u64(offset.max(0) as u64)
            .finish();
        if !self.cursor.seek_back(&key)? {
            return self.cursor.seek_to_first();
        }
        match self.batch()? {
            Some(batch) if batch.end_offset() <= offset => self.cursor.step(),
            _ => Ok(true),
        }
    }

    fn batch(&self) -> io::Result<Option<Batch<'_>>> {
        self.cursor
            .item()
            .map(|(key, value)| Batch::decode(key, value))
            .transpose()
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "queue index record is damaged")
}

#[cfg(test)]
#[path = "queue_index_test.rs"]
mod tests;
