//! What a pull is answered with, as a pure function of the queue's bounds and what the scan found.

use flotilla_api::remoting::codes::response;

/// RocketMQ's `GetMessageStatus`: the remark of a pull answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullStatus {
    /// Messages follow.
    Found,
    /// Messages were looked at, none passed the filter.
    NoMatchedMessage,
    /// Retention removed the messages while they were read.
    MessageWasRemoving,
    /// Nothing was ever written to the queue.
    NoMessageInQueue,
    /// The next message is not there yet.
    OffsetOverflowOne,
    /// Past the end.
    OffsetOverflowBadly,
    /// Before the beginning.
    OffsetTooSmall,
}

impl PullStatus {
    /// The remark.
    pub fn remark(self) -> &'static str {
        match self {
            Self::Found => "FOUND",
            Self::NoMatchedMessage => "NO_MATCHED_MESSAGE",
            Self::MessageWasRemoving => "MESSAGE_WAS_REMOVING",
            Self::NoMessageInQueue => "NO_MESSAGE_IN_QUEUE",
            Self::OffsetOverflowOne => "OFFSET_OVERFLOW_ONE",
            Self::OffsetOverflowBadly => "OFFSET_OVERFLOW_BADLY",
            Self::OffsetTooSmall => "OFFSET_TOO_SMALL",
        }
    }

    /// The response code, for a pull at `queue_offset`.
    pub fn code(self, queue_offset: i64) -> i32 {
        match self {
            Self::Found => response::SUCCESS,
            Self::NoMatchedMessage | Self::MessageWasRemoving => response::PULL_RETRY_IMMEDIATELY,
            Self::NoMessageInQueue if queue_offset == 0 => response::PULL_NOT_FOUND,
            Self::OffsetOverflowOne => response::PULL_NOT_FOUND,
            Self::NoMessageInQueue | Self::OffsetOverflowBadly | Self::OffsetTooSmall => response::PULL_OFFSET_MOVED,
        }
    }
}

/// What the bounds of a queue alone say about a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// There are messages to look at.
    Readable,
    /// There are none; the answer, and the next queue offset to pull.
    Nothing(PullStatus, i64),
}

/// Where `queue_offset` lies in a queue of these bounds; `max_offset` is one past the last message.
pub fn place(min_offset: i64, max_offset: i64, queue_offset: i64) -> Place {
    if max_offset == 0 {
        Place::Nothing(PullStatus::NoMessageInQueue, 0)
    } else if queue_offset < min_offset {
        Place::Nothing(PullStatus::OffsetTooSmall, min_offset)
    } else if queue_offset == max_offset {
        Place::Nothing(PullStatus::OffsetOverflowOne, queue_offset)
    } else if queue_offset > max_offset {
        Place::Nothing(PullStatus::OffsetOverflowBadly, max_offset)
    } else {
        Place::Readable
    }
}

/// The outcome of one look at a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullResult {
    /// What was found.
    pub status: PullStatus,
    /// The queue offset to pull next.
    pub next_offset: i64,
    /// First offset of the queue.
    pub min_offset: i64,
    /// One past its last offset.
    pub max_offset: i64,
}

impl PullResult {
    /// True when a message that comes next would change the answer: the pull may wait for it.
    pub fn may_wait(&self, queue_offset: i64) -> bool {
        self.status.code(queue_offset) == response::PULL_NOT_FOUND
    }

    /// True when this node's copy may just be behind the leader's, so that only the leader can say it.
    pub fn needs_leader(&self, queue_offset: i64) -> bool {
        match self.status {
            PullStatus::OffsetOverflowBadly => true,
            PullStatus::NoMessageInQueue => queue_offset != 0,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_decide_as_in_the_official_broker() {
        // (min, max, offset) -> status, next, code
        let table = [
            ((0, 0, 0), PullStatus::NoMessageInQueue, 0, 19),
            ((0, 0, 7), PullStatus::NoMessageInQueue, 0, 21),
            ((0, 5, 5), PullStatus::OffsetOverflowOne, 5, 19),
            ((0, 5, 6), PullStatus::OffsetOverflowBadly, 5, 21),
            ((3, 5, 2), PullStatus::OffsetTooSmall, 3, 21),
            ((3, 5, -1), PullStatus::OffsetTooSmall, 3, 21),
            ((5, 5, 5), PullStatus::OffsetOverflowOne, 5, 19),
            ((5, 5, 0), PullStatus::OffsetTooSmall, 5, 21),
        ];
        for ((min, max, offset), status, next, code) in table {
            assert_eq!(
                place(min, max, offset),
                Place::Nothing(status, next),
                "({min}, {max}) at {offset}"
            );
            assert_eq!(status.code(offset), code, "({min}, {max}) at {offset}");
        }
        assert_eq!(place(0, 5, 0), Place::Readable);
        assert_eq!(place(3, 5, 4), Place::Readable);
    }

    #[test]
    fn found_and_filtered_answers() {
        assert_eq!(PullStatus::Found.code(3), 0);
        assert_eq!(PullStatus::NoMatchedMessage.code(3), 20);
        assert_eq!(PullStatus::MessageWasRemoving.code(0), 20);
    }

    #[test]
    fn only_the_end_of_the_queue_waits_and_only_past_it_needs_the_leader() {
        let result = |min_offset, max_offset, offset| match place(min_offset, max_offset, offset) {
            Place::Nothing(status, next_offset) => PullResult {
                status,
                next_offset,
                min_offset,
                max_offset,
            },
            Place::Readable => unreachable!("nothing to read in this table"),
        };
        for (bounds, offset, waits, leader) in [
            ((0, 0), 0, true, false),
            ((0, 5), 5, true, false),
            ((0, 5), 6, false, true),
            ((0, 0), 6, false, true),
            ((3, 5), 1, false, false),
        ] {
            let result = result(bounds.0, bounds.1, offset);
            assert_eq!(result.may_wait(offset), waits, "{bounds:?} at {offset}");
            assert_eq!(result.needs_leader(offset), leader, "{bounds:?} at {offset}");
        }
    }
}
