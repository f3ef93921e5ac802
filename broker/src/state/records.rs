//! Where each object of the state lies on disk: one key a record, grouped by a first byte.
//!
//! Texts in keys carry their length in one byte, so that the records of one group or topic are a range. Everything
//! from [`DIGEST_FROM`] up to [`DIGEST_TO`] is the replicated state, in the order its digest runs over it; the key
//! index behind it is derived and not part of the digest.

use super::codec::{Decoder, Malformed};

/// Last applied log id and the running hash of the log.
pub const APPLIED: u8 = 0x01;
/// Membership of the Raft group, opaque bytes.
pub const MEMBERSHIP: u8 = 0x02;
/// Numbers given out and the trim point.
pub const COUNTERS: u8 = 0x03;
/// One a topic.
pub const TOPIC: u8 = 0x04;
/// One a queue of this group.
pub const QUEUE: u8 = 0x05;
/// One a sealed segment of a queue: see `topics/handover.rs`.
pub const SEALED: u8 = 0x06;
/// One a (group, topic, queue).
pub const CONSUMER_OFFSET: u8 = 0x07;
/// One a (group, topic, queue).
pub const LOCK: u8 = 0x08;
/// One a consumer group with members.
pub const CONSUMER_GROUP: u8 = 0x09;
/// One a (consumer group, client).
pub const CONSUMER: u8 = 0x0a;
/// One a (consumer group, topic).
pub const SUBSCRIPTION: u8 = 0x0b;
// 0x0c stays unused: it was for producer groups.
/// Ingress processes whose messages are recognised when they come again.
pub const INGRESSES: u8 = 0x0d;
/// One an entry with messages that came through another node: see `forwarded.rs`.
pub const FORWARDED: u8 = 0x0e;
/// One a queue that was moved or is to be: see `topics/handover.rs`.
pub const INTENT: u8 = 0x0f;
/// One a (queue, batch): see `queue_index.rs`.
pub const QUEUE_INDEX: u8 = 0x20;
/// One an entry with keys: see `key_index/fresh.rs`.
pub const KEY_FRESH: u8 = 0x40;
/// One a run of keys: see `key_index/run.rs`.
pub const KEY_RUN: u8 = 0x41;
/// One a (run, key of messages): see `key_index/run.rs`. Last, so that no table flushed from memory spans the runs.
pub const KEY_INDEX: u8 = 0x42;

/// First prefix of the replicated state.
pub const DIGEST_FROM: u8 = APPLIED;
/// One past the last prefix of the small objects, which are held in memory.
pub const SMALL_TO: u8 = QUEUE_INDEX;
/// One past the last prefix of the replicated state.
pub const DIGEST_TO: u8 = KEY_FRESH;

/// A queue within a Raft group: topic id and queue number. Ids are never reused, so a topic made again under an old
/// name has other queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u64);

impl QueueId {
    /// Queue `queue` of the topic with id `topic`.
    pub const fn new(topic: u32, queue: u32) -> Self {
        Self((topic as u64) << 32 | queue as u64)
    }

    /// The topic's id.
    pub const fn topic(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The queue number.
    pub const fn queue(self) -> u32 {
        self.0 as u32
    }
}

/// Builds the key of a record.
#[derive(Debug)]
pub struct Key(Vec<u8>);

impl Key {
    /// A key of the kind `prefix`.
    pub fn new(prefix: u8) -> Self {
        let mut key = Vec::with_capacity(48);
        key.push(prefix);
        Self(key)
    }

    /// Adds a name.
    ///
    /// # Panics
    /// With a name longer than 255 bytes: decoding a command refuses those.
    pub fn name(mut self, name: &str) -> Self {
        self.0
            .push(u8::try_from(name.len()).expect("names are bounded when a command is decoded"));
        self.0.extend_from_slice(name.as_bytes());
        self
    }

    /// Adds a number.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Adds a number.
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads a name out of a key.
pub fn name_in_key(decoder: &mut Decoder<'_>) -> Result<String, Malformed> {
    let length = usize::from(decoder.u8()?);
    std::str::from_utf8(decoder.take(length)?)
        .map(str::to_owned)
        .map_err(|_| Malformed)
}

/// The smallest key after all keys that start with `prefix`.
pub fn after_prefix(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            break;
        }
        prefix.pop();
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_these_bytes() {
        let key = Key::new(CONSUMER_OFFSET).name("CG").name("T").u32(3).finish();
        assert_eq!(key, [7, 2, b'C', b'G', 1, b'T', 0, 0, 0, 3]);
        assert_eq!(
            Key::new(QUEUE).u64(QueueId::new(1, 2).0).finish(),
            [5, 0, 0, 0, 1, 0, 0, 0, 2]
        );
    }

    #[test]
    fn a_queue_id_is_topic_and_number() {
        let id = QueueId::new(u32::MAX, 7);
        assert_eq!((id.topic(), id.queue()), (u32::MAX, 7));
    }

    #[test]
    fn the_end_of_a_prefix_carries() {
        assert_eq!(after_prefix(vec![1, 0xff]), [2]);
        assert_eq!(after_prefix(vec![1, 2]), [1, 3]);
    }
}
