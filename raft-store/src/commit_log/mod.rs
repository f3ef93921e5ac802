//! The CommitLog: the Raft log of one group, whose files are the store.
//!
//! Records are appended to files of a bounded size, written and synced in groups by one writer, readable at once by
//! everyone. Reading order: [`record`] and `file` (bytes), `state` (the log as its users see it), `writer`,
//! `recovery`, `read`; `slots`, `marker`, `index` (the small files beside), `prefill`, `install`.
//!
//! ```text
//! FOLDER/vote                                    two slots: term and vote
//! FOLDER/marker                                  two slots: Raft start, physical start, which folder is the log
//! FOLDER/files-{n}/{log offset}-{index}.log      header, then records
//! FOLDER/files-{n}/{log offset}-{index}.index    derived: where the records of a sealed file lie
//! ```
//!
//! A *log offset* counts record bytes from the group's first record: the same on all replicas, whatever the size of
//! their files. Holds:
//!
//! - indexes have no hole above the Raft start, terms never go down;
//! - an append is complete when it and everything before it is on disk; completions come in order;
//! - vote, truncation, marker and appends take effect on disk in the order of the calls;
//! - after the first failed call nothing is acknowledged any more;
//! - a crash loses only what was not complete; damage to what was complete is reported when the log is opened or
//!   read, and never cut.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::disk::Disk;
use crate::identity::GroupIdentity;
use crate::log_id::LogId;
use crate::vote::StoredVote;

mod file;
mod index;
mod install;
mod marker;
mod prefill;
mod read;
pub mod record;
mod recovery;
mod scan;
mod shared;
mod slots;
mod state;
mod tail;
mod writer;

pub use file::FILE_HEADER_BYTES;
pub use record::{Record, RecordKind};

use shared::{Action, Op, Shared};

/// Called once an append is on disk, or failed.
pub type Completion = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Largest `file_bytes`: places in a file are counted in 32 bits.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

/// Settings of one log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// A log file is left for the next one before it grows beyond this, unless a single record is larger.
    pub file_bytes: u64,
    /// Bytes of recent records kept in memory, beside those not on disk yet.
    pub tail_bytes: usize,
    /// True: complete appends after a sync. False: after the write; syncs follow by time and bytes, and "flushed"
    /// means written.
    pub sync: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            file_bytes: 64 << 20,
            tail_bytes: 64 << 20,
            sync: true,
        }
    }
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error("open the log: {0}")]
    Io(#[from] io::Error),
    /// Something that had been on disk is unreadable or missing. Nothing was changed.
    #[error("{file} is damaged at log offset {log_offset:?}, index {log_index:?}: {reason}")]
    Damaged {
        /// Which file.
        file: String,
        /// The first unreadable byte.
        log_offset: Option<u64>,
        /// The first unreadable entry.
        log_index: Option<u64>,
        /// What is wrong.
        reason: &'static str,
    },
    /// The file belongs to another Raft group, or to another incarnation of this one.
    #[error("{file} belongs to {found}")]
    Foreign {
        /// Which file.
        file: String,
        /// Whose it is.
        found: GroupIdentity,
    },
}

impl OpenError {
    /// The same as an `io::Error`.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// One log file, for retention and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFileInfo {
    /// File name.
    pub name: String,
    /// Index of its first entry.
    pub first_index: u64,
    /// Index of its last entry.
    pub last_index: u64,
    /// Log offset of its first record.
    pub first_offset: u64,
    /// Bytes it takes on disk.
    pub bytes: u64,
}

/// A log file of a snapshot. Its records carry their own checksums: whoever installs it reads them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedFile {
    /// File name, the same on every replica that has the file from another.
    pub name: String,
    /// Bytes of the file that belong to the snapshot, header included.
    pub bytes: u64,
}

/// A handle of one log. Cheap to clone; the writer ends after [`CommitLog::close`], or with the last handle.
pub struct CommitLog<D: Disk> {
    handle: Arc<Handle<D>>,
}

struct Handle<D: Disk> {
    shared: Arc<Shared<D>>,
}

impl<D: Disk> Drop for Handle<D> {
    fn drop(&mut self) {
        let idle = {
            let mut state = self.shared.state.lock();
            state.closing = true;
            state.idle.take()
        };
        drop(idle);
        self.shared.wake.notify_one();
        self.shared.fill.notify_one();
    }
}

impl<D: Disk> Clone for CommitLog<D> {
    fn clone(&self) -> Self {
        Self {
            handle: self.handle.clone(),
        }
    }
}

impl<D: Disk> CommitLog<D> {
    /// Opens the log in `folder`, or founds an empty one. `known_synced` is an entry known from elsewhere (the
    /// persisted state) to have been on disk: without it the log is damaged, not torn.
    pub async fn open(
        disk: D,
        folder: &Path,
        identity: GroupIdentity,
        options: LogOptions,
        known_synced: Option<LogId>,
    ) -> Result<Self, OpenError> {
        let file_bytes = options.file_bytes.clamp(FILE_HEADER_BYTES, FILE_BYTES_MAX);
        let options = LogOptions { file_bytes, ..options };
        let shared = recovery::open(disk, folder, identity, options, known_synced).await?;
        Ok(Self {
            handle: Arc::new(Handle {
                shared: Arc::new(shared),
            }),
        })
    }

    fn shared(&self) -> &Arc<Shared<D>> {
        &self.handle.shared
    }

    /// Adds records at the end. They are readable at once, by every reader; `done` is called, in order, once they
    /// and everything before them are on disk, or with the error that closed the log. Never blocks. After an `Err`
    /// nothing was taken in and `done` is dropped.
    ///
    /// The queue is bounded by the caller: it knows what is in flight.
    pub fn append(&self, records: Vec<Record>, done: Completion) -> io::Result<()> {
        let shared = self.shared();
        shared.submit(|state| {
            let mut ops = state.append(shared, records)?;
            match ops.last_mut() {
                Some(op) => op.done = Some(done),
                None => {
                    let done = Some(done);
                    ops.push(Op {
                        action: Action::Pass,
                        done,
                        flushes: None,
                        is_cut: false,
                    });
                }
            }
            Ok(((), ops))
        })
    }

    /// Takes away everything after `last`, in memory at the call and on disk before it returns.
    pub async fn truncate_after(&self, last: Option<LogId>) -> io::Result<()> {
        self.shared().submit_and_wait(|state| state.truncate(last)).await
    }

    /// Saves the vote, in its turn; on disk when it returns.
    pub async fn save_vote(&self, vote: StoredVote) -> io::Result<()> {
        let action = Action::Vote(vote);
        self.shared()
            .submit_and_wait(|_| {
                Ok(Some(Op {
                    action,
                    done: None,
                    flushes: None,
                    is_cut: false,
                }))
            })
            .await
    }

    /// On return everything appended before is on stable storage. Nothing to do where every append is synced.
    pub async fn sync(&self) -> io::Result<()> {
        if self.shared().options.sync {
            return Ok(());
        }
        self.shared()
            .submit_and_wait(|_| {
                Ok(Some(Op {
                    action: Action::Sync,
                    done: None,
                    flushes: None,
                    is_cut: false,
                }))
            })
            .await
    }

    /// The last vote on disk.
    pub fn vote(&self) -> Option<StoredVote> {
        self.shared().state.lock().vote
    }

    /// Moves the Raft start behind `upto`. No file is touched. May lie beyond the last entry, which it then is.
    pub async fn purge(&self, upto: LogId) -> io::Result<()> {
        self.shared().submit_and_wait(|state| Ok(state.purge(upto))).await
    }

    /// The last entry before the Raft start.
    pub fn purged(&self) -> Option<LogId> {
        self.shared().state.lock().marker.purged
    }

    /// The last entry, or the last purged one.
    pub fn last(&self) -> Option<LogId> {
        self.shared().state.lock().last
    }

    /// The last entry on disk (or written, where appends do not wait for a sync).
    pub fn flushed(&self) -> Option<LogId> {
        self.shared().state.lock().flushed
    }

    /// Waits until the entry `index` is flushed.
    pub async fn wait_flushed(&self, index: u64) -> io::Result<()> {
        let receiver = {
            let mut state = self.shared().state.lock();
            if let Some(failure) = &state.failure {
                return Err(failure.to_error());
            }
            if state.flushed.is_some_and(|flushed| flushed.index >= index) {
                return Ok(());
            }
            let (sender, receiver) = oneshot::channel();
            state.waiters.entry(index).or_default().push(sender);
            receiver
        };
        receiver.await.unwrap_or_else(|_| Err(shared::closed()))
    }

    /// Records of `from..to`: at least one if there is one at `from`, at most about `max_bytes` after it, and maybe
    /// fewer. Entries below the Raft start are found too, as long as their file exists.
    pub async fn read(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Record>> {
        read::read(self.shared(), from, to, max_bytes).await
    }

    /// The record with this index, purged or not, or `None` if it is in no file. Recent ones come from memory.
    pub async fn read_one(&self, index: u64) -> io::Result<Option<Record>> {
        if let Some(record) = self.shared().state.lock().tail.get(index) {
            return Ok(Some(record.clone()));
        }
        Ok(read::read(self.shared(), index, index.saturating_add(1), 0)
            .await?
            .pop())
    }

    /// The first entry of every term, from the first entry in the files to the last.
    pub fn term_starts(&self) -> Vec<LogId> {
        self.shared().state.lock().terms.clone()
    }

    /// Term and index of an entry in the files.
    pub fn log_id(&self, index: u64) -> Option<LogId> {
        self.shared()
            .state
            .lock()
            .term_of(index)
            .map(|term| LogId::new(term, index))
    }

    /// The first entry in the files: the physical start.
    pub fn first_index(&self) -> Option<u64> {
        self.shared().state.lock().files.front().map(state::Entry::first_index)
    }

    /// Log offsets: of the first record in the files, and of the next one to be appended.
    pub fn offsets(&self) -> (u64, u64) {
        let state = self.shared().state.lock();
        (state.marker.start_offset, state.end_offset)
    }

    /// Bytes the log files take on disk.
    pub fn bytes(&self) -> u64 {
        self.shared()
            .state
            .lock()
            .files
            .iter()
            .map(|entry| entry.file.space.allocated())
            .sum()
    }

    /// The log files, oldest first.
    pub fn files(&self) -> Vec<LogFileInfo> {
        let info = |entry: &state::Entry<D>| LogFileInfo {
            name: entry.file.name.clone(),
            first_index: entry.first_index(),
            last_index: entry.next_index() - 1,
            first_offset: entry.file.header.first_offset,
            bytes: entry.file.space.allocated(),
        };
        self.shared().state.lock().files.iter().map(info).collect()
    }

    /// Removes files whose entries all lie before `index` and before the Raft start, never the last one. Returns
    /// the bytes they took. A crash in between leaves whole files that the next start removes.
    pub async fn remove_before(&self, index: u64) -> io::Result<u64> {
        let mut removed = Vec::new();
        self.shared()
            .submit_and_wait(|state| {
                let (files, op) = state.remove_before(index);
                removed = files;
                Ok(op)
            })
            .await?;
        let mut bytes = 0;
        for file in removed {
            bytes += file.space.allocated();
            self.shared().disk.unlink(&file.path()).await?;
            if file.indexed.load(std::sync::atomic::Ordering::Relaxed) {
                self.shared().disk.unlink(&file.index_path()).await?;
            }
        }
        Ok(bytes)
    }

    /// Links the log files up to `upto` into the folder `into`. `upto` was applied, so it is flushed.
    pub async fn link_files(&self, into: &Path, upto: LogId) -> io::Result<Vec<LinkedFile>> {
        install::link_files(self.shared(), into, upto).await
    }

    /// Makes the staged files of a snapshot the log: purged up to `purged`, their last entry. They are linked, not
    /// moved, so the staging folder may be removed afterwards. If the log already holds `purged`, it is only purged
    /// and entries after it stay. A crash leaves the old log or the new one.
    pub async fn install(&self, staged: &Path, files: &[LinkedFile], purged: LogId) -> io::Result<()> {
        install::install(self.shared(), staged, files, purged).await
    }

    /// Why the log takes nothing more, if so.
    pub fn failure(&self) -> Option<String> {
        self.shared()
            .state
            .lock()
            .failure
            .as_ref()
            .map(shared::Failure::message)
    }

    /// Finishes everything queued and ends the writer. Later calls that change the log fail; reads go on.
    pub async fn close(&self) {
        let shared = self.shared();
        let idle = {
            let mut state = shared.state.lock();
            let idle = state.idle.take();
            state.closing |= idle.is_some();
            idle
        };
        if idle.is_some() {
            // Nothing was changed since it was opened.
            return;
        }
        let outcome = shared
            .submit_and_wait(|state| {
                state.closing = true;
                let action = Action::Close(state.marker);
                Ok(Some(Op {
                    action,
                    done: None,
                    flushes: None,
                    is_cut: false,
                }))
            })
            .await;
        if let Err(error) = outcome {
            tracing::debug!(%error, "close the log");
        }
    }
}
