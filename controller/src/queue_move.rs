//! The way of a queue from one Raft group to another, as the controllers know it: that it was asked for, and how it
//! ended.
//!
//! Between the two the groups themselves carry it out: the old one's log says where its segment ends, the new one's
//! where the next begins. A move is cancelled before the old group logs its end, or done; never something between.

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueMove {
    /// The topic's name.
    pub topic: String,
    /// Which topic of that name.
    pub topic_id: u64,
    /// The queue's number.
    pub queue: u32,
    /// The Raft group that has the open segment when the move starts.
    pub from: u16,
    /// The Raft group that opens the next segment.
    pub to: u16,
    /// Of the segment that the move opens; larger than any before, and never used again.
    pub generation: u32,
    /// How far it is.
    pub state: MoveState,
    /// Why it was started; once cancelled, why it was.
    pub reason: String,
    /// When it was started, in milliseconds since 1970 by the proposer's clock.
    pub started_ms: i64,
    /// When it was done or cancelled.
    pub ended_ms: Option<i64>,
    /// One past the last queue offset of the old segment, once done.
    pub end_offset: Option<i64>,
    /// For how long writers waited or were refused, in milliseconds, once done.
    pub writer_pause_ms: Option<u64>,
    /// Stored bytes that went from one group to the other during the move.
    pub bytes_copied: u64,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveState {
    /// Under way: the groups carry it out.
    Preparing,
    /// The new group takes the writes.
    Done,
    /// The queue stays where it was.
    Cancelled,
}

/// A move that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRequest {
    /// The topic's name.
    pub topic: String,
    /// The queue's number.
    pub queue: u32,
    /// The Raft group that shall have the open segment.
    pub to: u16,
}

/// How a move ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveOutcome {
    /// The new group logged that its segment is open.
    Opened {
        /// One past the last queue offset of the old segment, and the first of the new one.
        end_offset: i64,
        /// For how long writers waited or were refused, in milliseconds, if whoever says it knows.
        writer_pause_ms: Option<u64>,
        /// Stored bytes that went from one group to the other.
        bytes_copied: u64,
    },
    /// The old group logged that its segment stays open.
    Cancelled {
        /// Why.
        reason: String,
    },
}

impl QueueMove {
    /// It has not ended yet.
    pub fn is_under_way(&self) -> bool {
        self.state == MoveState::Preparing
    }
}
