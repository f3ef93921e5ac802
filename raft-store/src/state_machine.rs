//! What a replicated state machine is to this crate: a deterministic function of the log with derived state on disk.

use std::io;
use std::path::Path;

use bytes::Bytes;

use crate::frames::Frames;
use crate::log_id::LogId;

/// The state derived from one group's log. One task owns it and calls it in log order.
///
/// `apply` sees no clock, no randomness, no map with random order and no node configuration: equal logs give equal
/// states on every replica. The state's storage has no write-ahead log of its own: after a crash it reopens at some
/// [`StateMachine::applied`] that it had reached before, and the entries after it are applied again. Callers apply
/// an entry only after the local log flushed it, so what is persisted never runs ahead of the log on disk.
///
/// An `Err` from any method is a storage failure of this replica and closes it. An outcome every replica reaches
/// alike, a refusal included, is a reply.
pub trait StateMachine: Send + Sync + 'static {
    /// The answer to one frame.
    type Reply: Send + Sync + 'static;

    /// The last entry this state reflects, of any kind; `None` for a new state.
    fn applied(&self) -> Option<LogId>;

    /// What the last [`StateMachine::apply_membership`] was given, with its log id: opaque bytes kept in the state.
    fn membership(&self) -> Option<(LogId, Bytes)>;

    /// Applies one normal entry; returns exactly one reply per frame, in slot order.
    fn apply(&mut self, log_id: LogId, frames: &Frames) -> io::Result<Vec<Self::Reply>>;

    /// Applies an entry without frames: a membership change (`Some`) or a leader's blank entry (`None`). Stores the
    /// log id and, when given, the membership.
    fn apply_membership(&mut self, log_id: LogId, membership: Option<Bytes>) -> io::Result<()>;

    /// On return everything applied so far is on disk; returns the log id that is.
    fn flush(&mut self) -> io::Result<Option<LogId>>;

    /// Flushes, then makes a copy of the state in the new folder `into`, by hard links where possible.
    fn checkpoint(&mut self, into: &Path) -> io::Result<Option<LogId>>;

    /// Whether [`StateMachine::restore`] will accept the checkpoint in `from`; an error of kind `InvalidData` says that
    /// it is damaged. Asked before the log that led to the present state is given up. Changes nothing.
    fn verify(&mut self, from: &Path) -> io::Result<()>;

    /// Replaces the whole state by the checkpoint in `from` (a snapshot of a peer). A crash during the call leaves
    /// either the old state or the new one.
    fn restore(&mut self, from: &Path) -> io::Result<()>;

    /// Told when this replica has just become leader (`true`) or stopped being it. Not part of the state.
    fn on_leadership(&mut self, _term: u64, _leader: bool) {}
}
