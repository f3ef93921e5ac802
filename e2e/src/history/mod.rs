//! What happened in a run, as clients saw it, and the checks on it.
//!
//! A [`History`] holds every send with its outcome, everything consumers received, whole reads of the topic at several
//! times and from several nodes, and samples of the consumer offsets. [`check::check`] holds them against what is promised:
//!
//! * one value per (queue, offset), the same in every read and for every consumer, before and after any fault;
//! * offsets are dense, and what could be read once can be read later;
//! * every acknowledged send stands at the offset it was told; none that was refused is ever seen; one of unknown
//!   outcome stands in at most as many places as it was tried;
//! * a send acknowledged before another began stands before it in its queue;
//! * a consumer offset that was returned does not go back.

pub mod check;
pub mod load;

use std::collections::BTreeMap;

pub use check::{Report, Violation, check};

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Queue number.
    pub queue: u32,
    /// Queue offset.
    pub offset: i64,
}

/// What a client learnt about a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged, with its place.
    Stored(Place),
    /// Refused: certainly not stored.
    Failed,
    /// No answer, or one that leaves it open.
    Unknown,
}

/// One send as the application called it.
#[derive(Clone, Debug)]
pub struct Send {
    /// What was sent; no two sends have the same.
    pub value: String,
    /// What came of it.
    pub outcome: Outcome,
    /// How often the client may have tried: as many copies may be stored.
    pub tries_max: usize,
    /// When the call began and ended, on the one monotonic clock of the machine that all senders run on.
    pub begin: u64,
    /// See `begin`.
    pub end: u64,
}

/// A message that a consumer received.
#[derive(Clone, Debug)]
pub struct Receive {
    /// Where it was.
    pub place: Place,
    /// Its value.
    pub value: String,
}

/// One queue, read from its first offset to the end it had when the read began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueDump {
    /// The first offset that the server says can be read.
    pub first_offset: i64,
    /// The offset after the last message.
    pub end_offset: i64,
    /// Offsets and values, in the order they came.
    pub messages: Vec<(i64, String)>,
}

impl QueueDump {
    /// Where to read on.
    pub fn next_offset(&self) -> i64 {
        self.messages.last().map_or(self.first_offset, |(offset, _)| offset + 1)
    }
}

/// Every queue of a topic, read in full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump(pub BTreeMap<u32, QueueDump>);

/// A consumer offset that a query returned.
#[derive(Clone, Copy, Debug)]
pub struct OffsetSample {
    /// The queue.
    pub queue: u32,
    /// The offset.
    pub offset: i64,
}

/// Everything that was seen in one run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Sends, in any order.
    pub sends: Vec<Send>,
    /// What consumers received, in any order.
    pub receives: Vec<Receive>,
    /// Whole reads, in the order they were made.
    pub dumps: Vec<Dump>,
    /// Samples of consumer offsets; each query began after the one before it had been answered.
    pub consumer_offsets: Vec<OffsetSample>,
}
