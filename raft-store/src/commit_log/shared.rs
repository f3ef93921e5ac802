//! What the handles, the writer and the filler of one log share.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::file::LogFile;
use super::marker::Marker;
use super::record::Record;
use super::state::State;
use super::writer::Writer;
use super::{Completion, LogOptions, prefill, writer};
use crate::disk::Disk;
use crate::identity::GroupIdentity;
use crate::log_id::LogId;
use crate::vote::StoredVote;

/// One turn in the writer's queue.
pub(super) struct Op<D: Disk> {
    pub action: Action<D>,
    /// Called once the action is on disk, or failed.
    pub done: Option<Completion>,
    /// What is flushed once the action is.
    pub flushes: Option<LogId>,
    /// True if the action has an entry in the state's list of cuts.
    pub is_cut: bool,
}

/// What the writer does in one turn.
pub(super) enum Action<D: Disk> {
    /// Records for one file, in order, the first at this log offset.
    Write {
        file: Arc<LogFile<D>>,
        log_offset: u64,
        records: Vec<Record>,
    },
    /// Nothing but its turn.
    Pass,
    /// Put what is written on disk, when appends do not wait for it.
    Sync,
    /// Save the vote.
    Vote(StoredVote),
    /// Save the marker.
    Marker(Marker),
    /// Remove these files, last one first, then cut one to its header and this many bytes; `keep` is then the last.
    Truncate {
        keep: Option<LogId>,
        removed: Vec<Arc<LogFile<D>>>,
        cut: Option<(Arc<LogFile<D>>, u32)>,
    },
    /// The last turn: save this marker, with the last synced entry filled in, and end.
    Close(Marker),
}

/// Why the log takes nothing more.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    kind: io::ErrorKind,
    message: String,
}

impl Failure {
    pub fn of(error: &io::Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.to_string(),
        }
    }

    pub fn to_error(&self) -> io::Error {
        io::Error::new(
            self.kind,
            format!("the log is closed after a failure: {}", self.message),
        )
    }

    pub fn message(&self) -> String {
        self.message.clone()
    }
}

pub(super) struct Shared<D: Disk> {
    pub disk: D,
    /// Holds the vote, the marker and the folders of log files.
    pub folder: PathBuf,
    pub identity: GroupIdentity,
    pub seed: u32,
    pub options: LogOptions,
    pub state: Mutex<State<D>>,
    /// Wakes the writer.
    pub wake: Notify,
    /// Wakes the filler.
    pub fill: Notify,
    temporaries: AtomicU64,
}

impl<D: Disk> Shared<D> {
    pub fn new(disk: D, folder: PathBuf, identity: GroupIdentity, options: LogOptions, state: State<D>) -> Self {
        Self {
            disk,
            folder,
            identity,
            seed: super::record::checksum_seed(identity),
            options,
            state: Mutex::new(state),
            wake: Notify::new(),
            fill: Notify::new(),
            temporaries: AtomicU64::new(0),
        }
    }

    /// A number for a temporary file's name, unused since the log was opened.
    pub fn next_temporary(&self) -> u64 {
        self.temporaries.fetch_add(1, Ordering::Relaxed)
    }

    /// Changes the state and queues what follows from it, in one step. Starts the workers at the first call.
    pub fn submit<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut State<D>) -> io::Result<(T, Vec<Op<D>>)>,
    ) -> io::Result<T> {
        let mut state = self.state.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.to_error());
        }
        if state.closing {
            return Err(closed());
        }
        let (result, ops) = change(&mut state)?;
        state.queue.extend(ops);
        let idle = state.idle.take();
        drop(state);
        if let Some(idle) = idle {
            self.start(idle);
        }
        self.wake.notify_one();
        Ok(result)
    }

    /// [`Shared::submit`] of one action, and waits until it is on disk.
    pub async fn submit_and_wait(
        self: &Arc<Self>,
        change: impl FnOnce(&mut State<D>) -> io::Result<Option<Op<D>>>,
    ) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        let waits = self.submit(|state| {
            let Some(mut op) = change(state)? else {
                return Ok((false, Vec::new()));
            };
            op.done = Some(Box::new(move |outcome| {
                // Nobody waits any more: the turn was done all the same.
                let _ = sender.send(outcome);
            }));
            Ok((true, vec![op]))
        })?;
        if waits {
            receiver.await.unwrap_or_else(|_| Err(closed()))
        } else {
            Ok(())
        }
    }

    fn start(self: &Arc<Self>, idle: Idle<D>) {
        let writer = Writer::new(self.clone(), idle);
        self.disk.spawn_writer("log-writer", writer::run(writer));
        if self.disk.zero_ahead() > 0 {
            self.disk.spawn_writer("log-filler", prefill::run(self.clone()));
        }
        if !self.options.sync {
            self.disk
                .spawn_writer("log-flusher", writer::flush_now_and_then(self.clone()));
        }
    }

    /// Closes the log for good: everything queued and everyone waiting gets the error.
    pub fn fail(&self, error: &io::Error) {
        let failure = Failure::of(error);
        let (queue, waiters) = {
            let mut state = self.state.lock();
            if state.failure.is_none() {
                tracing::error!(identity = %self.identity, %error, "log failed");
                state.failure = Some(failure.clone());
            }
            (std::mem::take(&mut state.queue), std::mem::take(&mut state.waiters))
        };
        complete_all(queue.into_iter().filter_map(|op| op.done), &failure);
        for waiter in waiters.into_values().flatten() {
            let _ = waiter.send(Err(failure.to_error()));
        }
        self.wake.notify_one();
        self.fill.notify_one();
    }
}

/// What the writer needs and nobody else: kept here until the first call that needs the writer.
pub(super) struct Idle<D: Disk> {
    pub vote: super::slots::Slots<D::File>,
    pub marker: super::slots::Slots<D::File>,
    pub marker_value: Marker,
    /// The last entry in the files.
    pub last_record: Option<LogId>,
}

pub(super) fn complete_all(completions: impl Iterator<Item = Completion>, failure: &Failure) {
    for done in completions {
        done(Err(failure.to_error()));
    }
}

pub(super) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed")
}

/// The queue of the writer.
pub(super) type Queue<D> = VecDeque<Op<D>>;
