//! A state machine small enough to compare whole, with a store that behaves like the real one: it flushes when it
//! likes, has no log of its own, and a crash takes it back to its last flush.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_raft_store::frames::Frames;
use flotilla_raft_store::log_id::LogId;
use flotilla_raft_store::state_machine::StateMachine;
use parking_lot::Mutex;

use super::random::Random;

/// Everything that was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// The last entry reflected.
    pub applied: Option<LogId>,
    /// The last membership.
    pub membership: Option<(LogId, Bytes)>,
    /// Every frame with the entry it came in; its place is its offset.
    pub frames: Vec<(LogId, Bytes)>,
}

/// What outlives the process: the image at the last flush.
pub type Store = Arc<Mutex<Image>>;

/// The state machine. Replies with the frame's offset.
pub struct Machine {
    now: Store,
    store: Store,
    random: Random,
}

impl Machine {
    /// Opens what `store` kept; `shown` is where the checks look at the live state.
    pub fn open(store: Store, shown: Store, random: Random) -> Self {
        *shown.lock() = store.lock().clone();
        Self {
            now: shown,
            store,
            random,
        }
    }

    fn applied_one(&self) {
        if self.random.one_in(20) {
            self.save();
        }
    }

    /// The history only grows, so what is new is enough.
    fn save(&self) {
        let now = self.now.lock();
        let mut store = self.store.lock();
        let known = store.frames.len();
        store.frames.extend_from_slice(&now.frames[known..]);
        store.applied = now.applied;
        store.membership.clone_from(&now.membership);
    }
}

impl StateMachine for Machine {
    type Reply = u64;

    fn applied(&self) -> Option<LogId> {
        self.now.lock().applied
    }

    fn membership(&self) -> Option<(LogId, Bytes)> {
        self.now.lock().membership.clone()
    }

    fn apply(&mut self, log_id: LogId, frames: &Frames) -> io::Result<Vec<u64>> {
        let mut offsets = Vec::with_capacity(frames.len());
        {
            let mut now = self.now.lock();
            for frame in frames.iter() {
                offsets.push(now.frames.len() as u64);
                now.frames.push((log_id, frame));
            }
            now.applied = Some(log_id);
        }
        self.applied_one();
        Ok(offsets)
    }

    fn apply_membership(&mut self, log_id: LogId, membership: Option<Bytes>) -> io::Result<()> {
        {
            let mut now = self.now.lock();
            if let Some(bytes) = membership {
                now.membership = Some((log_id, bytes));
            }
            now.applied = Some(log_id);
        }
        self.applied_one();
        Ok(())
    }

    fn flush(&mut self) -> io::Result<Option<LogId>> {
        self.save();
        Ok(self.now.lock().applied)
    }

    fn checkpoint(&mut self, _into: &Path) -> io::Result<Option<LogId>> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this machine's whole log is kept, nobody needs a snapshot",
        ))
    }

    fn verify(&mut self, from: &Path) -> io::Result<()> {
        self.restore(from)
    }

    fn restore(&mut self, _from: &Path) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this machine's whole log is kept, nobody sends a snapshot",
        ))
    }
}
