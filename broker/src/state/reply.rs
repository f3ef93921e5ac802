//! What a command is answered with. A refusal is an outcome every replica reaches alike: nothing was changed.

use super::forwarded::StoredAt;

/// The answer to one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The message is stored.
    Appended {
        /// Its place in the queue.
        queue_offset: i64,
        /// Its store time; never goes back within a queue.
        store_time: i64,
    },
    /// The message is stored since it was sent the first time.
    Repeated(StoredAt),
    /// Carried out.
    Done,
    /// The segment is sealed.
    Sealed {
        /// One past its last queue offset.
        end: i64,
    },
    /// The asked queues that the client now holds.
    Locked(Vec<(String, u32)>),
    /// The client is a member.
    Joined {
        /// Members of a group or its topics are others than before: its clients should rebalance.
        changed: bool,
    },
    /// Certainly not carried out.
    Refused(Refusal),
}

/// The segment that follows a sealed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Successor {
    /// Its generation.
    pub generation: u32,
    /// The Raft group it is opened in.
    pub group: u16,
    /// Its first queue offset.
    pub start: i64,
}

/// Why a command changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The frame is not a command of a known version, or over a limit of its encoding.
    #[error("malformed command")]
    Malformed,
    /// The topic does not exist in this Raft group.
    #[error("topic does not exist")]
    TopicNotExist,
    /// The topic has fewer queues.
    #[error("queue does not exist")]
    QueueOutOfRange,
    /// The topic's permission excludes writing.
    #[error("topic is not writable")]
    NotWritable,
    /// The queue's open segment has another generation.
    #[error("stale queue generation")]
    StaleGeneration,
    /// The queue's open segment is another Raft group's, or about to be.
    #[error("the queue moved to raft group {}", .0.group)]
    Moved(Successor),
    /// The segment to open was not reserved here, or is barred.
    #[error("the segment was not reserved")]
    NotReserved,
    /// A move is past the point where it can be given up.
    #[error("the move cannot be given up any more")]
    TooLate,
    /// Another topic of this name is here and has to be removed first.
    #[error("another topic of this name is still here")]
    OtherTopic,
    /// A topic's queue count may grow, not shrink.
    #[error("the number of queues cannot be reduced")]
    FewerQueues,
    /// A message sent again may have been stored so long ago that it is not known any more.
    #[error("it may have been stored before")]
    Forgotten,
    /// A bound of `limits.rs` is reached.
    #[error("limit reached: {0}")]
    LimitReached(&'static str),
    /// A trim must name an entry before its own.
    #[error("trim beyond the log")]
    TrimBeyondLog,
}
