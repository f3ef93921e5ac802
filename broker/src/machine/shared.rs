//! What apply and the readers share: the state in memory and the store behind it.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_raft_store::log_id::LogId;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::key_index::KeyIndex;
use crate::kv::{Kv, OpenError};
use crate::state::State;
use crate::state::codec::{Decoder, Encoder, Malformed};
use crate::state::effects::IndexBatch;
use crate::state::records::{self, Key, QueueId, SMALL_TO};
use crate::state::topics::Queue;

const APPLIED_VERSION: u8 = 1;
const MEMBERSHIP_VERSION: u8 = 1;

/// How far a state has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last entry applied.
    pub applied: Option<LogId>,
    /// Running hash of all entries' ids and bytes up to it.
    pub chain: u64,
}

impl Progress {
    /// Its record.
    pub fn record(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let applied = self.applied?;
        let mut out = Encoder::starting(&[APPLIED_VERSION]);
        out.u64(applied.term).u64(applied.index).u64(self.chain);
        Some((Key::new(records::APPLIED).finish(), out.finish()))
    }

    fn decode(value: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder::new(value);
        if from.u8()? != APPLIED_VERSION {
            return Err(Malformed);
        }
        let progress = Self {
            applied: Some(LogId::new(from.u64()?, from.u64()?)),
            chain: from.u64()?,
        };
        from.finish()?;
        Ok(progress)
    }
}

/// The record of the Raft group's membership.
pub fn membership_record(log_id: LogId, membership: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut out = Encoder::starting(&[MEMBERSHIP_VERSION]);
    out.u64(log_id.term).u64(log_id.index);
    let mut value = out.finish();
    value.extend_from_slice(membership);
    (Key::new(records::MEMBERSHIP).finish(), value)
}

fn decode_membership(value: &[u8]) -> Result<(LogId, Bytes), Malformed> {
    let mut from = Decoder::new(value);
    if from.u8()? != MEMBERSHIP_VERSION {
        return Err(Malformed);
    }
    let log_id = LogId::new(from.u64()?, from.u64()?);
    Ok((log_id, Bytes::copy_from_slice(from.rest())))
}

/// Everything a store says apart from its indexes.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The small objects.
    pub state: State,
    /// How far it has come.
    pub progress: Progress,
    /// The last membership and its entry.
    pub membership: Option<(LogId, Bytes)>,
    /// Keys of messages.
    pub keys: KeyIndex,
}

impl Loaded {
    /// Reads all small records.
    pub fn from(kv: &Kv) -> Result<Self, OpenError> {
        let mut loaded = Self {
            keys: KeyIndex::load(kv).map_err(damaged_if_invalid)?,
            ..Self::default()
        };
        let mut cursor = kv.cursor(vec![records::DIGEST_FROM], vec![SMALL_TO]);
        let mut here = cursor.seek_to_first().map_err(damaged_if_invalid)?;
        while here {
            let Some((key, value)) = cursor.item() else { break };
            let taken = match key {
                [records::APPLIED] => Progress::decode(value).map(|progress| loaded.progress = progress),
                [records::MEMBERSHIP] => decode_membership(value).map(|found| loaded.membership = Some(found)),
                _ => loaded.state.load(key, value),
            };
            taken.map_err(|_| OpenError::Damaged(format!("record {key:02x?} cannot be read")))?;
            here = cursor.step().map_err(damaged_if_invalid)?;
        }
        Ok(loaded)
    }
}

fn damaged_if_invalid(error: io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::InvalidData => OpenError::Damaged(error.to_string()),
        _ => OpenError::Io(error),
    }
}

/// The queue batches of the last entry. Readers look here first: a reader may see the state of an entry before its
/// index is written, and a pull woken by the entry finds it without asking the store.
#[derive(Debug, Default)]
pub struct LastEntry {
    /// The entry.
    pub log_index: u64,
    /// Its batches.
    pub batches: Vec<IndexBatch>,
}

/// The part in memory.
#[derive(Debug, Default)]
pub struct Memory {
    /// The replicated state.
    pub state: State,
    /// How far it has come.
    pub progress: Progress,
    /// The newest batches.
    pub last_entry: Arc<LastEntry>,
}

impl Memory {
    /// The batch of `queue` in the last entry, if it has one.
    pub fn last_batch(&self, queue: QueueId, state: &Queue) -> Option<Arc<LastEntry>> {
        let number = state.batch_in(self.last_entry.log_index)?;
        (self.last_entry.batches.get(number)?.queue == queue).then(|| self.last_entry.clone())
    }
}

/// A digest of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// As the digest point said.
    pub nonce: u64,
    /// The entry after which it was taken.
    pub log_id: LogId,
    /// Its value.
    pub value: u64,
}

/// Shared by the machine and all readers.
pub struct Shared {
    /// Held for writing only while an entry changes it, never during IO but for a trim's look-ups.
    pub memory: RwLock<Memory>,
    /// Empty while a restore swaps it, and after one that failed.
    kv: RwLock<Option<Kv>>,
    /// Which messages carry a key; replaced together with the store.
    keys: RwLock<Arc<KeyIndex>>,
    /// The newest digest.
    pub digest: Mutex<Option<Digest>>,
}

impl Shared {
    /// Of an opened store.
    pub fn new(kv: Kv, state: State, progress: Progress, keys: KeyIndex) -> Self {
        Self {
            memory: RwLock::new(Memory {
                state,
                progress,
                last_entry: Arc::default(),
            }),
            kv: RwLock::new(Some(kv)),
            keys: RwLock::new(Arc::new(keys)),
            digest: Mutex::new(None),
        }
    }

    /// The store, for as long as the guard lives.
    pub fn kv(&self) -> io::Result<KvGuard<'_>> {
        let guard = self.kv.read();
        if guard.is_none() {
            return Err(closed());
        }
        Ok(KvGuard(guard))
    }

    /// The key index that belongs to the store of a guard taken before.
    pub fn keys(&self) -> Arc<KeyIndex> {
        self.keys.read().clone()
    }

    /// Closes the store, runs `swap`, and puts in its place what that returns. Waits for readers.
    pub fn replace_kv(&self, swap: impl FnOnce() -> io::Result<(Kv, Loaded)>) -> io::Result<Loaded> {
        let mut kv = self.kv.write();
        *kv = None;
        let (opened, mut loaded) = swap()?;
        let mut memory = self.memory.write();
        *memory = Memory {
            state: std::mem::take(&mut loaded.state),
            progress: loaded.progress,
            last_entry: Arc::default(),
        };
        *self.keys.write() = Arc::new(std::mem::take(&mut loaded.keys));
        *kv = Some(opened);
        Ok(loaded)
    }
}

/// Access to the open store.
pub struct KvGuard<'a>(RwLockReadGuard<'a, Option<Kv>>);

impl std::ops::Deref for KvGuard<'_> {
    type Target = Kv;

    fn deref(&self) -> &Kv {
        self.0.as_ref().expect("checked when the guard was made")
    }
}

fn closed() -> io::Error {
    io::Error::other("the state's store is closed")
}
