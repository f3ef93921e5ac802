//! The key index: which messages carry a key (unique key, or a token of KEYS).
//!
//! Derived like the queue index but outside of the digest: it holds hashes, so a hit may be another key's and whoever
//! asks compares the message. Nearly every message has a key of its own, so that a sorted insert for each would cost
//! more than all the rest of its way into the store. Therefore two stages:
//!
//! - *fresh* (module `fresh`): one record an entry, in the order of the log, with a copy in memory that is searched from
//!   end to end;
//! - *runs* (module `run`): once there are [`RUN_KEYS`] fresh keys, a thread sorts them into one table that is added to
//!   the store as it is. Runs never overlap, so that the store has nothing to merge; a query asks the filter of
//!   each whose messages are of its time.
//!
//! Holds: a message's keys are found from the moment its entry is applied until it is trimmed, each once. The keys of
//! an entry are fresh or in exactly one run that counts: a run counts for the log indexes that its record names, and
//! the record is written in the same batch that removes them from the fresh ones.
//! Crash: keys not yet on disk belong to entries that are applied again. A table without a record is without meaning
//! and is overwritten by the run that begins at the same entry.

mod fresh;
mod run;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rocksdb::WriteBatch;

use crate::kv::Kv;
use crate::state::effects::IndexedKey;
use crate::state::records::QueueId;
use fresh::Fresh;
use run::Run;

pub use fresh::FreshEntry;

/// Fresh keys that make a run unless told otherwise: 4 MiB of memory, two seconds of a busy group.
pub const RUN_KEYS: usize = 128 * 1024;
/// Log indexes one run may span: what a place in a run has bits for.
const RUN_SPAN_MAX: u64 = 1 << 20;

/// A message that carries a key of this hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHit {
    /// Its queue.
    pub queue: QueueId,
    /// Its place there.
    pub queue_offset: i64,
}

/// From when to when messages were stored, in milliseconds since 1970; both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreTimes {
    /// The first.
    pub oldest: i64,
    /// The last.
    pub newest: i64,
}

impl StoreTimes {
    /// Of nothing yet.
    pub const NONE: Self = Self {
        oldest: i64::MAX,
        newest: i64::MIN,
    };

    /// With `other` in it, too.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            oldest: self.oldest.min(other.oldest),
            newest: self.newest.max(other.newest),
        }
    }

    fn meets(&self, other: &Self) -> bool {
        self.oldest <= other.newest && other.oldest <= self.newest
    }
}

/// What is in memory of the index. One writer at a time for each of `put` and `make_run`; readers at any time.
#[derive(Debug, Default)]
pub struct KeyIndex {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    fresh: Fresh,
    /// The runs that count, by first log index.
    runs: BTreeMap<u64, Run>,
}

impl KeyIndex {
    /// Reads what a store holds.
    pub fn load(kv: &Kv) -> io::Result<Self> {
        Ok(Self {
            inner: Mutex::new(Inner {
                fresh: Fresh::load(kv)?,
                runs: run::load(kv)?,
            }),
        })
    }

    /// Adds an entry's keys to what it writes; [`KeyIndex::applied`] once that is written.
    pub fn put(out: &mut WriteBatch, log_index: u64, times: StoreTimes, keys: Vec<IndexedKey>) -> Option<FreshEntry> {
        let entry = FreshEntry { log_index, times, keys };
        if entry.keys.is_empty() {
            return None;
        }
        entry.put(out);
        Some(entry)
    }

    /// Shows an entry's keys to readers.
    pub fn applied(&self, entry: FreshEntry) {
        self.inner.lock().fresh.push(entry);
    }

    /// Removes what belongs to entries up to and including `log_index`.
    pub fn trim(&self, out: &mut WriteBatch, log_index: u64) {
        let mut inner = self.inner.lock();
        inner.fresh.trim(out, log_index);
        let gone: Vec<u64> = inner
            .runs
            .iter()
            .filter(|(_, run)| run.last <= log_index)
            .map(|(first, _)| *first)
            .collect();
        for first in &gone {
            inner.runs.remove(first);
        }
        run::remove(out, &gone);
    }

    /// Fresh keys, in memory.
    pub fn fresh_keys(&self) -> usize {
        self.inner.lock().fresh.keys()
    }

    /// True when it is time for [`KeyIndex::make_run`]: `run_keys` keys are fresh, or too long a stretch of the log.
    pub fn run_is_due(&self, run_keys: usize) -> bool {
        let inner = self.inner.lock();
        inner.fresh.keys() >= run_keys || inner.fresh.span() >= RUN_SPAN_MAX
    }

    /// Makes a run of what is fresh now. Takes tens of milliseconds; entries may be applied meanwhile.
    pub fn make_run(&self, kv: &Kv) -> io::Result<()> {
        let entries = self.inner.lock().fresh.oldest(RUN_SPAN_MAX);
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        let first = first.log_index;
        let run = Run {
            last: last.log_index,
            times: entries
                .iter()
                .fold(StoreTimes::NONE, |times, entry| times.and(entry.times)),
        };
        run::write(kv, first, &entries)?;
        let mut out = WriteBatch::default();
        run::put_record(&mut out, first, &run);
        for entry in &entries {
            entry.remove(&mut out);
        }
        kv.write(out)?;
        let mut inner = self.inner.lock();
        inner.fresh.forget(run.last);
        inner.runs.insert(first, run);
        Ok(())
    }

    /// Calls `found` for the messages with keys of this hash, newest entry first, until it returns false. Of messages
    /// stored outside of `times` some are left out. Asks the filter of every run within `times`, so it may take long.
    pub fn find(
        &self,
        kv: &Kv,
        hash: u64,
        times: StoreTimes,
        mut found: impl FnMut(KeyHit) -> io::Result<bool>,
    ) -> io::Result<()> {
        let (fresh, runs): (Vec<Arc<FreshEntry>>, Vec<(u64, Run)>) = {
            let inner = self.inner.lock();
            let runs = inner.runs.iter().rev().map(|(first, run)| (*first, *run));
            let runs = runs.filter(|(_, run)| run.times.meets(&times));
            (inner.fresh.newest_first().collect(), runs.collect())
        };
        for key in fresh.iter().flat_map(|entry| entry.keys.iter().rev()) {
            if key.hash == hash {
                let hit = KeyHit {
                    queue: key.queue,
                    queue_offset: key.queue_offset,
                };
                if !found(hit)? {
                    return Ok(());
                }
            }
        }
        for (first, run) in runs {
            for hit in run::find(kv, first, run.last, hash)?.into_iter().rev() {
                if !found(hit)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
