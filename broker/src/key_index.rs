//! The key index: which messages carry a key (unique key, or a token of KEYS).
//!
//! Derived like the queue index but outside of the digest: it holds hashes, so a hit may be another key's and whoever
//! asks compares the message. One record a (message, key), with a value that leads to the queue index:
//!
//!   key:   | prefix: 1 | bucket: 4 | hash of topic and key: 8 | log index within the bucket and slot: 4 |
//!   value: | topic id | queue number | queue offset |, each as a varint
//!
//! A bucket is 2^18 log indexes. Newer records lie in higher buckets, so older ones are not rewritten when tables are
//! compacted, a trim drops whole buckets, and a query looks at one range a bucket, newest first.

use std::io;

use rocksdb::WriteBatch;

use crate::kv::Kv;
use crate::state::effects::IndexedKey;
use crate::state::records::{KEY_INDEX, Key, QueueId, after_prefix};

const SLOT_BITS: u32 = 11;
const BUCKET_BITS: u32 = 18;
const VALUE_BYTES_MAX: usize = 20;

/// A message that carries a key of this hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHit {
    /// Its queue.
    pub queue: QueueId,
    /// Its place there.
    pub queue_offset: i64,
}

/// Adds one key to what an entry writes.
pub fn put(out: &mut WriteBatch, log_index: u64, key: &IndexedKey) {
    let mut name = [0; 17];
    name[0] = KEY_INDEX;
    name[1..5].copy_from_slice(&bucket(log_index).to_be_bytes());
    name[5..13].copy_from_slice(&key.hash.to_be_bytes());
    let within = (log_index & ((1 << BUCKET_BITS) - 1)) as u32;
    name[13..].copy_from_slice(&(within << SLOT_BITS | u32::from(key.slot)).to_be_bytes());
    let mut value = [0; VALUE_BYTES_MAX];
    let mut length = 0;
    for number in [
        u64::from(key.queue.topic()),
        u64::from(key.queue.queue()),
        key.queue_offset as u64,
    ] {
        length += put_varint(number, &mut value[length..]);
    }
    out.put(name, &value[..length]);
}

/// Removes what only messages in entries up to and including `log_index` can have written.
pub fn trim(out: &mut WriteBatch, log_index: u64) {
    let from = vec![KEY_INDEX];
    out.delete_range(
        from,
        Key::new(KEY_INDEX).u32(bucket(log_index.saturating_add(1))).finish(),
    );
}

/// Calls `found` for the messages with keys of this hash in entries `oldest..=newest` (rounded to buckets), newest
/// entry first, until it returns false.
pub fn find(
    kv: &Kv,
    hash: u64,
    oldest: u64,
    newest: u64,
    mut found: impl FnMut(KeyHit) -> io::Result<bool>,
) -> io::Result<()> {
    let mut cursor = kv.cursor(vec![KEY_INDEX], after_prefix(vec![KEY_INDEX]));
    for bucket in (bucket(oldest)..=bucket(newest)).rev() {
        let prefix = Key::new(KEY_INDEX).u32(bucket).u64(hash).finish();
        let mut here = cursor.seek_back(&after_prefix(prefix.clone()))?;
        while here {
            let Some((key, value)) = cursor.item() else { break };
            if key.starts_with(&prefix) {
                if !found(decode(value)?)? {
                    return Ok(());
                }
            } else if key < prefix.as_slice() {
                break;
            }
            here = cursor.step_back()?;
        }
    }
    Ok(())
}

fn bucket(log_index: u64) -> u32 {
    // 2^50 entries: at a million a second, 35 years.
    u32::try_from(log_index >> BUCKET_BITS).unwrap_or(u32::MAX)
}

fn decode(mut value: &[u8]) -> io::Result<KeyHit> {
    let mut next = || {
        let (number, rest) = take_varint(value)?;
        value = rest;
        Some(number)
    };
    let hit = (|| {
        let topic = u32::try_from(next()?).ok()?;
        let queue = u32::try_from(next()?).ok()?;
        Some(KeyHit {
            queue: QueueId::new(topic, queue),
            queue_offset: i64::try_from(next()?).ok()?,
        })
    })();
    hit.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "key index record is damaged"))
}

/// Seven bits a byte, low ones first, the high bit set on all but the last. Returns the number of bytes.
fn put_varint(mut value: u64, out: &mut [u8]) -> usize {
    let mut length = 0;
    while value >= 0x80 {
        out[length] = value as u8 | 0x80;
        value >>= 7;
        length += 1;
    }
    out[length] = value as u8;
    length + 1
}

fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (place, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * place as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, &bytes[place + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::KvSettings;

    fn all(kv: &Kv, hash: u64, oldest: u64, newest: u64) -> Vec<(u64, i64)> {
        let mut hits = Vec::new();
        find(kv, hash, oldest, newest, |hit| {
            hits.push((hit.queue.0, hit.queue_offset));
            Ok(true)
        })
        .unwrap();
        hits
    }

    fn key(hash: u64, slot: u16, queue: QueueId, queue_offset: i64) -> IndexedKey {
        IndexedKey {
            hash,
            slot,
            queue,
            queue_offset,
        }
    }

    #[test]
    fn keys_are_found_newest_first_and_trimmed_by_bucket() {
        let folder = tempfile::tempdir().unwrap();
        let kv = Kv::open(folder.path(), &KvSettings::default()).unwrap();
        let queue = QueueId::new(1, 2);
        let mut batch = WriteBatch::default();
        put(&mut batch, 5, &key(7, 0, queue, 10));
        put(&mut batch, 5, &key(7, 2047, queue, 11));
        put(&mut batch, 5, &key(8, 1, queue, 12));
        put(&mut batch, 6, &key(7, 0, queue, 13));
        put(&mut batch, 1 << BUCKET_BITS, &key(7, 0, queue, 14));
        put(&mut batch, 3 << BUCKET_BITS, &key(u64::MAX, 0, queue, i64::MAX));
        kv.write(batch).unwrap();

        let newest = 3 << BUCKET_BITS;
        let of = |offsets: &[i64]| offsets.iter().map(|offset| (queue.0, *offset)).collect::<Vec<_>>();
        assert_eq!(all(&kv, 7, 0, newest), of(&[14, 13, 11, 10]));
        assert_eq!(all(&kv, 8, 0, newest), of(&[12]));
        assert_eq!(all(&kv, u64::MAX, 0, newest), of(&[i64::MAX]));
        assert_eq!(all(&kv, 9, 0, newest), []);

        let mut batch = WriteBatch::default();
        trim(&mut batch, (1 << BUCKET_BITS) - 1);
        kv.write(batch).unwrap();
        assert_eq!(all(&kv, 7, 0, newest), of(&[14]));
    }

    #[test]
    fn varints_survive_their_bytes() {
        for value in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = [0; 10];
            let length = put_varint(value, &mut bytes);
            assert_eq!(take_varint(&bytes[..length]), Some((value, &[][..])));
            assert_eq!(take_varint(&bytes[..length - 1]), None);
        }
    }
}
