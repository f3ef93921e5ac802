//! Runs: the keys of a stretch of the log, sorted by hash, in one table of the store.
//!
//!   key:   | prefix: 1 | first log index of the run: 8 | hash of topic and key: 8 |
//!   value: per message, oldest first: | log index within the run, slot: 4 | topic id | queue number | queue offset |,
//!          the last three as varints
//!
//! and one record a run: key `| prefix: 1 | first log index: 8 |`, value `| last log index: 8 | oldest store time: 8 |
//! newest: 8 |`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use rocksdb::WriteBatch;

use super::{FreshEntry, KeyHit, StoreTimes};
use crate::kv::Kv;
use crate::state::effects::IndexedKey;
use crate::state::records::{KEY_INDEX, KEY_RUN, Key, QueueId, after_prefix};

const SLOT_BITS: u32 = 11;
const VARINT_BYTES_MAX: usize = 10;

/// A run, without its first log index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Its last log index.
    pub last: u64,
    /// When its messages were stored.
    pub times: StoreTimes,
}

impl Run {
    fn decode(value: &[u8]) -> Option<Self> {
        let (last, value) = value.split_first_chunk::<8>()?;
        let (oldest, newest) = value.split_first_chunk::<8>()?;
        let times = StoreTimes {
            oldest: i64::from_be_bytes(*oldest),
            newest: i64::from_be_bytes(*newest.as_array()?),
        };
        Some(Self {
            last: u64::from_be_bytes(*last),
            times,
        })
    }
}

fn record_key(first: u64) -> Vec<u8> {
    Key::new(KEY_RUN).u64(first).finish()
}

/// The runs that have records, by first log index.
pub(super) fn load(kv: &Kv) -> io::Result<BTreeMap<u64, Run>> {
    let mut runs = BTreeMap::new();
    let mut cursor = kv.cursor(vec![KEY_RUN], after_prefix(vec![KEY_RUN]));
    let mut here = cursor.seek_to_first()?;
    while here {
        let Some((key, value)) = cursor.item() else { break };
        let decoded = || Some((u64::from_be_bytes(*key.get(1..)?.as_array()?), Run::decode(value)?));
        let (first, run) = decoded().ok_or_else(damaged)?;
        runs.insert(first, run);
        here = cursor.step()?;
    }
    Ok(runs)
}

pub(super) fn put_record(out: &mut WriteBatch, first: u64, run: &Run) {
    let mut value = Vec::with_capacity(24);
    value.extend_from_slice(&run.last.to_be_bytes());
    value.extend_from_slice(&run.times.oldest.to_be_bytes());
    value.extend_from_slice(&run.times.newest.to_be_bytes());
    out.put(record_key(first), value);
}

/// Removes the oldest runs, named by their first log indexes in order.
pub(super) fn remove(out: &mut WriteBatch, firsts: &[u64]) {
    let Some(newest) = firsts.last() else { return };
    for first in firsts {
        out.delete(record_key(*first));
    }
    let to = after_prefix(Key::new(KEY_INDEX).u64(*newest).finish());
    out.delete_range(vec![KEY_INDEX], to);
}

/// Adds the keys of `entries`, of which `first` is the log index of the first, to the store.
pub(super) fn write(kv: &Kv, first: u64, entries: &[Arc<FreshEntry>]) -> io::Result<()> {
    let mut keys: Vec<(u64, u32, &IndexedKey)> = Vec::with_capacity(entries.iter().map(|entry| entry.keys.len()).sum());
    for entry in entries {
        let within = u32::try_from(entry.log_index - first).expect("a run spans at most RUN_SPAN_MAX");
        keys.extend(
            entry
                .keys
                .iter()
                .map(|key| (key.hash, within << SLOT_BITS | u32::from(key.slot), key)),
        );
    }
    keys.sort_unstable_by_key(|(hash, place, _)| (*hash, *place));
    let records = keys.chunk_by(|one, next| one.0 == next.0).map(|group| {
        let mut value = Vec::with_capacity(16 * group.len());
        for (_, place, key) in group {
            value.extend_from_slice(&place.to_be_bytes());
            put_varint(u64::from(key.queue.topic()), &mut value);
            put_varint(u64::from(key.queue.queue()), &mut value);
            put_varint(key.queue_offset as u64, &mut value);
        }
        (Key::new(KEY_INDEX).u64(first).u64(group[0].0).finish(), value)
    });
    kv.add_table(records)
}

/// The messages of the run `first..=last` with keys of this hash, oldest first.
pub(super) fn find(kv: &Kv, first: u64, last: u64, hash: u64) -> io::Result<Vec<KeyHit>> {
    let Some(value) = kv.get(&Key::new(KEY_INDEX).u64(first).u64(hash).finish())? else {
        return Ok(Vec::new());
    };
    let mut hits = Vec::new();
    let mut rest = value.as_slice();
    while !rest.is_empty() {
        let (place, hit) = take_hit(&mut rest).ok_or_else(damaged)?;
        // A table that a crash left without a record may reach further than the run that took its place.
        if first + u64::from(place >> SLOT_BITS) <= last {
            hits.push(hit);
        }
    }
    Ok(hits)
}

fn take_hit(bytes: &mut &[u8]) -> Option<(u32, KeyHit)> {
    let (place, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    let topic = u32::try_from(take_varint(bytes)?).ok()?;
    let queue = u32::try_from(take_varint(bytes)?).ok()?;
    let queue_offset = i64::try_from(take_varint(bytes)?).ok()?;
    let queue = QueueId::new(topic, queue);
    Some((u32::from_be_bytes(*place), KeyHit { queue, queue_offset }))
}

/// Seven bits a byte, low ones first, the high bit set on all but the last.
fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (place, byte) in bytes.iter().enumerate().take(VARINT_BYTES_MAX) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * place as u32)?;
        if byte & 0x80 == 0 {
            *bytes = &bytes[place + 1..];
            return Some(value);
        }
    }
    None
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "key index record is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_survive_their_bytes() {
        for value in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(value, &mut bytes);
            let mut rest = bytes.as_slice();
            assert_eq!(take_varint(&mut rest), Some(value));
            assert!(rest.is_empty());
            assert_eq!(take_varint(&mut &bytes[..bytes.len() - 1]), None);
        }
    }
}
