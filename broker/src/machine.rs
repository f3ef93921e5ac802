//! The state machine of a broker's Raft group: the pure state in memory, its records and indexes in RocksDB.
//!
//! One entry is one write batch: queue index, key index, changed records, and the applied log id with the running
//! hash of the log. So the store is always the state after some entry, whatever a crash loses. Readers see an entry
//! at once when it is applied ([`StateReader`]); whoever waits for it is told after that ([`Events`]).
//!
//! Holds: exactly one reply a frame; a frame that is not a command is refused and changes nothing.
//! Not here: the order and durability of entries (`flotilla_raft_store`), what commands mean ([`crate::state`]).

mod digest;
mod folders;
mod key_runs;
mod reader;
mod shared;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_raft_store::frames::Frames;
use flotilla_raft_store::log_id::LogId;
use flotilla_raft_store::state_machine::StateMachine;
use rocksdb::WriteBatch;
use tracing::warn;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::key_index::{KeyIndex, RUN_KEYS, StoreTimes};
use crate::kv::{Kv, KvSettings};
use crate::queue_index;
use crate::state::effects::{IndexBatch, RecordChange};
use crate::state::forwarded;
use crate::state::records::{Key, QUEUE, QueueId};
use crate::state::topics::BatchStart;
use crate::state::{Append, Command, Effects, KIND_APPEND, Refusal, Reply};
use digest::DigestRun;
use folders::Folders;
use key_runs::KeyRuns;
use queue_index::QueueIndex;
use shared::{LastEntry, Loaded, Memory, Shared, membership_record};

pub use crate::queue_index::Located;
pub use reader::{FoundByKey, QueueBounds, SegmentBounds, StateReader};
pub use shared::Digest;

/// Told what an entry did, after it is applied and visible to readers. Called on the thread that applies: must
/// return quickly. Digests come from a thread of their own.
pub trait Events: Send + Sync + 'static {
    /// A queue reaches up to `max_offset` now.
    fn appended(&self, topic: &str, queue: u32, max_offset: i64);
    /// All messages that an entry stored, by queue.
    fn stored(&self, _batches: &[IndexBatch]) {}
    /// A queue's open segment is not here any more, or here now.
    fn handed_over(&self, _topic: &str, _queue: u32) {}
    /// Members or topics of a consumer group are others than before.
    fn membership_changed(&self, consumer_group: &str);
    /// An entry was applied in so much time.
    fn applied(&self, _took: Duration) {}
    /// Messages in entries up to and including this one are forgotten.
    fn trimmed(&self, _log_index: u64) {}
    /// The digest of a digest point is known.
    fn digest(&self, nonce: u64, log_id: LogId, value: u64);
    /// This replica became leader, or stopped being it.
    fn leadership(&self, term: u64, leader: bool);
}

/// Bounds of one group's state.
#[derive(Clone, Copy, Debug)]
pub struct MachineSettings {
    /// The store's.
    pub kv: KvSettings,
    /// A checkpoint to fall back to is kept at the first flush this many entries after the last one.
    pub checkpoint_entries: u64,
    /// Keys of messages that are kept in memory before a thread sorts them.
    pub run_keys: usize,
}

impl Default for MachineSettings {
    fn default() -> Self {
        Self {
            kv: KvSettings::default(),
            checkpoint_entries: 100_000,
            run_keys: RUN_KEYS,
        }
    }
}

/// See the module.
pub struct Machine {
    folders: Folders,
    settings: MachineSettings,
    events: Arc<dyn Events>,
    shared: Arc<Shared>,
    membership: Option<(LogId, Bytes)>,
    digest: Option<DigestRun>,
    key_runs: KeyRuns,
}

impl Machine {
    /// Opens the state in `folder`, or begins a new one.
    pub fn open(folder: &Path, settings: MachineSettings, events: Arc<dyn Events>) -> io::Result<(Self, StateReader)> {
        let folders = Folders::open(folder)?;
        let (kv, loaded) = folders.open_state(&settings.kv, Loaded::from)?;
        let Loaded {
            state,
            progress,
            membership,
            keys,
        } = loaded;
        let shared = Arc::new(Shared::new(kv, state, progress, keys));
        let reader = StateReader::new(shared.clone());
        Ok((
            Self {
                folders,
                settings,
                events,
                shared,
                membership,
                digest: None,
                key_runs: KeyRuns::new(settings.run_keys),
            },
            reader,
        ))
    }

    fn tell(&self, entry: &LastEntry, effects: &Effects) {
        for batch in &entry.batches {
            self.events
                .appended(&batch.topic, batch.queue.queue(), batch.end_offset());
        }
        if !entry.batches.is_empty() {
            self.events.stored(&entry.batches);
        }
        for (topic, queue) in &effects.handed_over {
            self.events.handed_over(topic, *queue);
        }
        for group in &effects.memberships {
            self.events.membership_changed(group);
        }
        if let Some(log_index) = effects.trimmed {
            self.events.trimmed(log_index);
        }
    }

    /// After a snapshot took the state's place: whoever waits for anything may find it there.
    fn tell_all(&self) {
        let (queues, groups) = {
            let memory = self.shared.memory.read();
            let topics = &memory.state.topics;
            let queues: Vec<_> = topics
                .segments_up_to(u64::MAX)
                .into_iter()
                .filter_map(|id| {
                    let name = topics.by_id(id.queue.topic())?.config.name.clone();
                    Some((name, id.queue.queue(), topics.segment(id)?.max_offset))
                })
                .collect();
            let groups = memory.state.coordinator.consumer_groups();
            (queues, groups.map(|(name, _)| name.to_owned()).collect::<Vec<_>>())
        };
        for (topic, queue, max_offset) in queues {
            self.events.appended(&topic, queue, max_offset);
            self.events.handed_over(&topic, queue);
        }
        for group in groups {
            self.events.membership_changed(&group);
        }
    }

    fn start_digest(&mut self, log_id: LogId, nonces: Vec<u64>) -> io::Result<()> {
        if let Some(running) = self.digest.take() {
            running.wait();
        }
        self.digest = Some(DigestRun::start(
            self.shared.clone(),
            self.events.clone(),
            log_id,
            nonces,
        )?);
        Ok(())
    }

    /// Keeps a copy to fall back to. The state itself is safe, so a failure here is only worth a warning.
    fn keep_checkpoint(&self, kv: &Kv, applied: Option<LogId>) {
        let Some(applied) = applied else { return };
        if let Err(error) = self.folders.keep_checkpoint(kv, applied.index) {
            warn!(%error, log_index = applied.index, "keep checkpoint");
        }
    }
}

impl StateMachine for Machine {
    type Reply = Reply;

    fn applied(&self) -> Option<LogId> {
        self.shared.memory.read().progress.applied
    }

    fn membership(&self) -> Option<(LogId, Bytes)> {
        self.membership.clone()
    }

    fn apply(&mut self, log_id: LogId, frames: &Frames) -> io::Result<Vec<Reply>> {
        let started = Instant::now();
        let mut effects = Effects::default();
        let mut replies = Vec::with_capacity(frames.len());
        let mut out = WriteBatch::default();
        let entry = {
            let mut memory = self.shared.memory.write();
            let mut chain = chain_log_id(memory.progress.chain, log_id);
            let mut cached_topic = None;
            for (frame, slot) in frames.iter().zip(0..) {
                chain = xxh3_64_with_seed(&frame, chain);
                let reply =
                    self.apply_frame(&mut memory, &frame, log_id.index, slot, &mut cached_topic, &mut effects)?;
                replies.push(reply);
            }
            memory.progress.applied = Some(log_id);
            memory.progress.chain = chain;
            let entry = Arc::new(LastEntry {
                log_index: log_id.index,
                batches: std::mem::take(&mut effects.batches),
            });
            memory.last_entry = entry.clone();
            put_progress(&mut out, &memory);
            put_records(&mut out, &effects);
            put_queues(&mut out, &memory, &entry);
            if !effects.forwarded.is_empty() {
                let (key, value) = forwarded::entry_record(log_id.index, &effects.forwarded);
                out.put(key, value);
            }
            entry
        };
        let keys = self.shared.keys();
        if let Some(trimmed) = effects.trimmed {
            keys.trim(&mut out, trimmed);
        }
        let times = entry.batches.iter().map(|batch| batch.store_time);
        let times = times.fold(StoreTimes::NONE, |times, at| {
            times.and(StoreTimes { oldest: at, newest: at })
        });
        let fresh = KeyIndex::put(&mut out, log_id.index, times, std::mem::take(&mut effects.keys));
        self.shared.kv()?.write(out)?;
        if let Some(fresh) = fresh {
            keys.applied(fresh);
            self.key_runs.keep_up(&self.shared, &keys)?;
        }
        self.tell(&entry, &effects);
        self.events.applied(started.elapsed());
        if !effects.digest_points.is_empty() {
            self.start_digest(log_id, effects.digest_points)?;
        }
        Ok(replies)
    }

    fn apply_membership(&mut self, log_id: LogId, membership: Option<Bytes>) -> io::Result<()> {
        let mut out = WriteBatch::default();
        {
            let mut memory = self.shared.memory.write();
            let chain = chain_log_id(memory.progress.chain, log_id);
            memory.progress.applied = Some(log_id);
            memory.progress.chain = xxh3_64_with_seed(membership.as_deref().unwrap_or_default(), chain);
            put_progress(&mut out, &memory);
        }
        if let Some(membership) = membership {
            let (key, value) = membership_record(log_id, &membership);
            out.put(key, value);
            self.membership = Some((log_id, membership));
        }
        self.shared.kv()?.write(out)
    }

    fn flush(&mut self) -> io::Result<Option<LogId>> {
        let applied = self.applied();
        let kv = self.shared.kv()?;
        kv.flush()?;
        let due = match (applied, self.folders.newest_checkpoint()?) {
            (Some(applied), Some(newest)) => applied.index >= newest.saturating_add(self.settings.checkpoint_entries),
            (Some(applied), None) => applied.index >= self.settings.checkpoint_entries,
            (None, _) => false,
        };
        if due {
            self.keep_checkpoint(&kv, applied);
        }
        Ok(applied)
    }

    fn checkpoint(&mut self, into: &Path) -> io::Result<Option<LogId>> {
        let applied = self.applied();
        let kv = self.shared.kv()?;
        kv.flush()?;
        if into.exists() {
            std::fs::remove_dir_all(into)?;
        }
        kv.checkpoint(into)?;
        self.keep_checkpoint(&kv, applied);
        Ok(applied)
    }

    fn verify(&mut self, from: &Path) -> io::Result<()> {
        self.folders
            .stage(from, &self.settings.kv, |kv| Loaded::from(kv).map(drop))
    }

    fn restore(&mut self, from: &Path) -> io::Result<()> {
        let settings = self.settings.kv;
        self.verify(from)?;
        if let Some(running) = self.digest.take() {
            running.cancel();
        }
        // A run of the state that goes now: its failure no longer matters.
        let _ = self.key_runs.wait();
        let loaded = self.shared.replace_kv(|| {
            self.folders.swap_in_staged()?;
            self.folders.open_state(&settings, Loaded::from)
        })?;
        self.membership = loaded.membership;
        self.keep_checkpoint(&*self.shared.kv()?, loaded.progress.applied);
        self.tell_all();
        Ok(())
    }

    fn on_leadership(&mut self, term: u64, leader: bool) {
        self.events.leadership(term, leader);
    }
}

impl Machine {
    fn apply_frame(
        &self,
        memory: &mut Memory,
        frame: &[u8],
        log_index: u64,
        slot: u16,
        cached_topic: &mut Option<u32>,
        effects: &mut Effects,
    ) -> io::Result<Reply> {
        if frame.first() == Some(&KIND_APPEND) {
            return Ok(match Append::parse(frame) {
                Ok(append) => memory.state.append(&append, log_index, slot, cached_topic, effects),
                Err(_) => Reply::Refused(Refusal::Malformed),
            });
        }
        match Command::decode(frame) {
            Ok(command) => {
                let batch_after = |queue, offsets, upto| self.recorded_batch_after(queue, offsets, upto);
                memory.state.apply(command, log_index, batch_after, effects)
            }
            Err(_) => Ok(Reply::Refused(Refusal::Malformed)),
        }
    }

    fn recorded_batch_after(
        &self,
        queue: QueueId,
        offsets: Range<i64>,
        log_index: u64,
    ) -> io::Result<Option<BatchStart>> {
        let kv = self.shared.kv()?;
        QueueIndex::new(&kv, queue).first_behind(offsets, log_index)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(running) = self.digest.take() {
            running.cancel();
        }
        // What it did not finish is still fresh when the state is opened again.
        let _ = self.key_runs.wait();
    }
}

fn chain_log_id(chain: u64, log_id: LogId) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&log_id.term.to_be_bytes());
    bytes[8..].copy_from_slice(&log_id.index.to_be_bytes());
    xxh3_64_with_seed(&bytes, chain)
}

fn put_progress(out: &mut WriteBatch, memory: &Memory) {
    if let Some((key, value)) = memory.progress.record() {
        out.put(key, value);
    }
}

fn put_records(out: &mut WriteBatch, effects: &Effects) {
    for change in &effects.records {
        match change {
            RecordChange::Put { key, value } => out.put(key, value),
            RecordChange::Delete { key } => out.delete(key),
            RecordChange::DeleteRange { from, to } => out.delete_range(from.as_slice(), to.as_slice()),
        }
    }
}

/// Index batches and records of the queues that got messages; not of those deleted later in the same entry. Comes
/// after the changed records: a trim in the entry may have recorded a queue before its last message was added.
fn put_queues(out: &mut WriteBatch, memory: &Memory, entry: &LastEntry) {
    for batch in &entry.batches {
        let topics = &memory.state.topics;
        if topics.by_id(batch.queue.topic()).is_none() {
            continue;
        }
        queue_index::put(out, entry.log_index, batch);
        // One that was sealed later in the entry is recorded as it ended.
        if let Some(queue) = topics.queue_by_id(batch.queue) {
            out.put(Key::new(QUEUE).u64(batch.queue.0).finish(), queue.encode());
        }
    }
}

#[cfg(test)]
mod tests;
