//! Messages that came through another node, remembered so that one that is sent again is recognised.
//!
//! The node a client asked (the ingress) numbers what it passes on to this Raft group. When it does not learn what
//! became of a message, because the leader died, it sends it again with the same number, and apply answers with what
//! was stored the first time. For each ingress process the last [`SEQUENCES_PER_INGRESS`] numbers are kept.
//!
//! Holds: a number of an ingress is stored at most once among those that are kept; a message sent again whose number
//! is no longer kept is refused, because nobody can tell. The messages of one batch share a number and lie in one
//! entry, so the first one stands for all.

use std::collections::BTreeMap;

use super::codec::{Decoder, Encoder, Malformed};
use super::effects::Effects;
use super::records::{self, Key};

/// Numbers kept of each ingress: more than it may have under way.
pub const SEQUENCES_PER_INGRESS: u64 = 4_096;
/// Ingress processes that are kept; the one silent for longest goes first.
pub const INGRESSES_MAX: usize = 64;
const RECORD_VERSION: u8 = 1;
/// Most items of one record: an entry's frames.
const ITEMS_MAX: usize = 4_096;

/// How an append is numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardMark {
    /// Drawn by the ingress process when it started.
    pub ingress: u64,
    /// Its number; the messages of a batch share one.
    pub sequence: u64,
    /// Place in the batch.
    pub part: u16,
    /// It was sent before.
    pub repeated: bool,
}

impl ForwardMark {
    /// The byte of frames that says whether there is a mark: 0 none, 1 a message sent for the first time, 2 one that was
    /// sent before.
    pub fn byte(mark: Option<&Self>) -> u8 {
        match mark {
            None => 0,
            Some(mark) => 1 + u8::from(mark.repeated),
        }
    }

    /// Reads that byte: with a mark, whether the message was sent before.
    pub fn repeated_in(byte: u8) -> Result<Option<bool>, Malformed> {
        match byte {
            0 => Ok(None),
            1 | 2 => Ok(Some(byte == 2)),
            _ => Err(Malformed),
        }
    }
}

/// Where a message was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredAt {
    /// The entry.
    pub log_index: u64,
    /// The slot in it.
    pub slot: u16,
    /// The place in the queue.
    pub queue_offset: i64,
    /// The store time.
    pub store_time: i64,
}

/// What is known of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Not stored yet.
    New,
    /// Stored before, there.
    Stored(StoredAt),
    /// It may have been stored so long ago that nobody knows.
    Forgotten,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Window {
    ring: Vec<Option<(u64, StoredAt)>>,
    /// The entry of its newest number.
    newest: u64,
    /// Numbers below it may have been stored before the window was made.
    first: u64,
    /// The entry and slot with which the window was made: nothing before it is in it.
    since: (u64, u16),
}

impl Window {
    fn new(first: u64, since: (u64, u16)) -> Self {
        Self {
            ring: vec![None; SEQUENCES_PER_INGRESS as usize],
            newest: 0,
            first,
            since,
        }
    }

    fn place(sequence: u64) -> usize {
        (sequence % SEQUENCES_PER_INGRESS) as usize
    }
}

/// One number and where its message was stored, as an entry's record holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The ingress.
    pub ingress: u64,
    /// Its number.
    pub sequence: u64,
    /// Where the message is.
    pub stored: StoredAt,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    windows: BTreeMap<u64, Window>,
    /// An ingress was dropped at the limit: an unknown one may be it.
    dropped: bool,
    /// Numbers kept of each entry with any.
    kept: BTreeMap<u64, u32>,
}

impl Forwarded {
    /// What is known of a number.
    pub fn seen(&self, mark: &ForwardMark) -> Seen {
        let Some(window) = self.windows.get(&mark.ingress) else {
            return if self.dropped && mark.repeated {
                Seen::Forgotten
            } else {
                Seen::New
            };
        };
        if mark.repeated && mark.sequence < window.first {
            return Seen::Forgotten;
        }
        match window.ring[Window::place(mark.sequence)] {
            Some((sequence, stored)) if sequence == mark.sequence => Seen::Stored(StoredAt {
                slot: stored.slot.saturating_add(mark.part),
                queue_offset: stored.queue_offset + i64::from(mark.part),
                ..stored
            }),
            Some((sequence, _)) if sequence > mark.sequence && mark.repeated => Seen::Forgotten,
            _ => Seen::New,
        }
    }

    /// The first message of a number was stored.
    pub(super) fn stored(&mut self, mark: &ForwardMark, stored: StoredAt, effects: &mut Effects) {
        if !self.windows.contains_key(&mark.ingress) {
            self.admit(mark, (stored.log_index, stored.slot), effects);
        }
        let item = Item {
            ingress: mark.ingress,
            sequence: mark.sequence,
            stored,
        };
        if let Some(emptied) = self.keep(&item) {
            if let Some(entry) = emptied {
                effects.delete(entry_key(entry));
            }
            effects.forwarded.push(item);
        }
    }

    /// Makes room for an ingress and writes down which ones are kept.
    fn admit(&mut self, mark: &ForwardMark, since: (u64, u16), effects: &mut Effects) {
        if self.windows.len() >= INGRESSES_MAX {
            let oldest = self.windows.iter().min_by_key(|(id, window)| (window.newest, **id));
            if let Some(id) = oldest.map(|(id, _)| *id)
                && let Some(window) = self.windows.remove(&id)
            {
                self.dropped = true;
                for (_, stored) in window.ring.into_iter().flatten() {
                    if let Some(entry) = self.release(stored.log_index) {
                        effects.delete(entry_key(entry));
                    }
                }
            }
        }
        let first = if self.dropped { mark.sequence } else { 0 };
        self.windows.insert(mark.ingress, Window::new(first, since));
        let mut out = Encoder::starting(&[RECORD_VERSION]);
        out.bool(self.dropped);
        let windows: Vec<_> = self.windows.iter().collect();
        out.list(&windows, |out, (id, window)| {
            out.u64(**id).u64(window.first).u64(window.since.0).u16(window.since.1);
        });
        effects.put(Key::new(records::INGRESSES).finish(), out.finish());
    }

    /// Keeps a number; returns the entry whose last number it pushed out. `None` if it is too old to be kept.
    fn keep(&mut self, item: &Item) -> Option<Option<u64>> {
        let window = self.windows.get_mut(&item.ingress)?;
        if (item.stored.log_index, item.stored.slot) < window.since {
            return None;
        }
        let place = &mut window.ring[Window::place(item.sequence)];
        if place.is_some_and(|(sequence, _)| sequence > item.sequence) {
            return None;
        }
        let pushed_out = place.replace((item.sequence, item.stored));
        window.newest = window.newest.max(item.stored.log_index);
        *self.kept.entry(item.stored.log_index).or_default() += 1;
        Some(pushed_out.and_then(|(_, stored)| self.release(stored.log_index)))
    }

    /// One number less of an entry; the entry if that was its last.
    fn release(&mut self, log_index: u64) -> Option<u64> {
        let kept = self.kept.get_mut(&log_index)?;
        *kept -= 1;
        if *kept > 0 {
            return None;
        }
        self.kept.remove(&log_index);
        Some(log_index)
    }

    pub(super) fn load_ingresses(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let mut from = Decoder::new(value);
        if from.u8()? != RECORD_VERSION {
            return Err(Malformed);
        }
        self.dropped = from.bool()?;
        let windows = from.list(INGRESSES_MAX, |from| {
            let (id, first) = (from.u64()?, from.u64()?);
            Ok((id, Window::new(first, (from.u64()?, from.u16()?))))
        })?;
        from.finish()?;
        self.windows = windows.into_iter().collect();
        Ok(())
    }

    /// Entries come in order, so what a later one pushed out is pushed out again.
    pub(super) fn load_entry(&mut self, mut key: Decoder<'_>, value: &[u8]) -> Result<(), Malformed> {
        let log_index = key.u64()?;
        key.finish()?;
        let mut from = Decoder::new(value);
        if from.u8()? != RECORD_VERSION {
            return Err(Malformed);
        }
        let items = from.list(ITEMS_MAX, |from| {
            Ok(Item {
                ingress: from.u64()?,
                sequence: from.u64()?,
                stored: StoredAt {
                    log_index,
                    slot: from.u16()?,
                    queue_offset: from.i64()?,
                    store_time: from.i64()?,
                },
            })
        })?;
        from.finish()?;
        for item in items {
            // Of an ingress that was dropped nothing is kept, also when it came back later.
            self.keep(&item);
        }
        Ok(())
    }
}

fn entry_key(log_index: u64) -> Vec<u8> {
    Key::new(records::FORWARDED).u64(log_index).finish()
}

/// The record of an entry's numbers: key and value.
pub fn entry_record(log_index: u64, items: &[Item]) -> (Vec<u8>, Vec<u8>) {
    let mut out = Encoder::starting(&[RECORD_VERSION]);
    out.list(items, |out, item| {
        out.u64(item.ingress).u64(item.sequence).u16(item.stored.slot);
        out.i64(item.stored.queue_offset).i64(item.stored.store_time);
    });
    (entry_key(log_index), out.finish())
}

#[cfg(test)]
mod tests {
    use super::super::effects::RecordChange;
    use super::*;

    #[derive(Default)]
    struct Bench {
        state: Forwarded,
        records: BTreeMap<Vec<u8>, Vec<u8>>,
    }

    fn mark(ingress: u64, sequence: u64) -> ForwardMark {
        ForwardMark {
            ingress,
            sequence,
            part: 0,
            repeated: false,
        }
    }

    fn at(log_index: u64, slot: u16) -> StoredAt {
        StoredAt {
            log_index,
            slot,
            queue_offset: log_index as i64 * 10 + i64::from(slot),
            store_time: 5,
        }
    }

    impl Bench {
        fn entry(&mut self, log_index: u64, marks: &[ForwardMark]) {
            let mut effects = Effects::default();
            for (mark, slot) in marks.iter().zip(0..) {
                self.state.stored(mark, at(log_index, slot), &mut effects);
            }
            for change in effects.records {
                match change {
                    RecordChange::Put { key, value } => drop(self.records.insert(key, value)),
                    RecordChange::Delete { key } => drop(self.records.remove(&key)),
                    RecordChange::DeleteRange { .. } => unreachable!("no ranges here"),
                }
            }
            if !effects.forwarded.is_empty() {
                let (key, value) = entry_record(log_index, &effects.forwarded);
                self.records.insert(key, value);
            }
        }

        fn check_records(&self) {
            let mut loaded = Forwarded::default();
            for (key, value) in &self.records {
                let mut rest = Decoder::new(key);
                match rest.u8().unwrap() {
                    records::INGRESSES => loaded.load_ingresses(value).unwrap(),
                    _ => loaded.load_entry(rest, value).unwrap(),
                }
            }
            assert_eq!(loaded, self.state);
        }
    }

    #[test]
    fn a_number_seen_before_is_answered_with_what_was_stored() {
        let mut bench = Bench::default();
        bench.entry(7, &[mark(1, 10), mark(1, 11), mark(2, 10)]);
        assert_eq!(bench.state.seen(&mark(1, 11)), Seen::Stored(at(7, 1)));
        assert_eq!(bench.state.seen(&mark(2, 10)), Seen::Stored(at(7, 2)));
        assert_eq!(bench.state.seen(&mark(1, 12)), Seen::New);
        assert_eq!(bench.state.seen(&mark(3, 10)), Seen::New);
        let third_of_batch = ForwardMark { part: 2, ..mark(1, 10) };
        assert_eq!(
            bench.state.seen(&third_of_batch),
            Seen::Stored(StoredAt {
                slot: 2,
                queue_offset: 72,
                ..at(7, 0)
            })
        );
        bench.check_records();
    }

    #[test]
    fn a_number_too_old_is_forgotten_only_when_it_was_sent_before() {
        let mut bench = Bench::default();
        bench.entry(1, &[mark(1, 5)]);
        bench.entry(2, &[mark(1, 5 + SEQUENCES_PER_INGRESS)]);
        let again = ForwardMark {
            repeated: true,
            ..mark(1, 5)
        };
        assert_eq!(bench.state.seen(&again), Seen::Forgotten);
        assert_eq!(bench.state.seen(&mark(1, 5)), Seen::New);
        assert!(
            !bench.records.contains_key(&entry_key(1)),
            "nothing of the entry is kept"
        );
        bench.entry(3, &[mark(1, 5)]);
        assert_eq!(bench.state.seen(&again), Seen::Forgotten, "too old to be kept");
        bench.check_records();
    }

    #[test]
    fn the_ingress_silent_for_longest_makes_room() {
        let mut bench = Bench::default();
        for ingress in 0..INGRESSES_MAX as u64 {
            bench.entry(ingress + 1, &[mark(ingress, 1), mark((ingress + 1) % 3, 100 + ingress)]);
        }
        bench.entry(1_000, &[mark(999, 1)]);
        bench.check_records();
        let again = ForwardMark {
            repeated: true,
            ..mark(3, 1)
        };
        assert_eq!(bench.state.seen(&again), Seen::Forgotten, "it may have been stored");
        assert_eq!(bench.state.seen(&mark(999, 1)), Seen::Stored(at(1_000, 0)));
    }
}
