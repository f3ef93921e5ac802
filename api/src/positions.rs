//! What clients call commitLogOffset: where a message lies, in a form that is unique in the cluster and the same on every node.
//!
//! | 0: 1 bit | Raft group number: 12 | log index: 40 | slot in the entry: 11 |
//!
//! Holds: never negative, grows with the log within a Raft group, and never names another message. It is not a byte offset.

use std::fmt;

const GROUP_BITS: u32 = 12;
const INDEX_BITS: u32 = 40;
const SLOT_BITS: u32 = 11;

/// Highest Raft group number; numbers are never used again.
pub const GROUP_NUMBER_MAX: u16 = (1 << GROUP_BITS) - 1;
/// Highest log index a position can name: a million entries a second for twelve days, ten thousand for three years.
pub const LOG_INDEX_MAX: u64 = (1 << INDEX_BITS) - 1;
/// Highest slot; one Raft entry holds at most this many messages plus one.
pub const SLOT_MAX: u16 = (1 << SLOT_BITS) - 1;

/// Where a message lies: Raft group, log index, slot within the entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(i64);

impl Position {
    /// The position of a message, or `None` when a part is out of range.
    pub fn new(group: u16, log_index: u64, slot: u16) -> Option<Position> {
        if group > GROUP_NUMBER_MAX || log_index > LOG_INDEX_MAX || slot > SLOT_MAX {
            return None;
        }
        let bits = (u64::from(group) << (INDEX_BITS + SLOT_BITS)) | (log_index << SLOT_BITS) | u64::from(slot);
        Some(Position(bits as i64))
    }

    /// Reads a number a client sent; negative ones are no positions.
    pub fn from_i64(value: i64) -> Option<Position> {
        (value >= 0).then_some(Position(value))
    }

    /// The Raft group's number.
    pub fn group(self) -> u16 {
        (self.0 >> (INDEX_BITS + SLOT_BITS)) as u16
    }

    /// The index of the Raft entry.
    pub fn log_index(self) -> u64 {
        (self.0 as u64 >> SLOT_BITS) & LOG_INDEX_MAX
    }

    /// The message's place within the entry.
    pub fn slot(self) -> u16 {
        (self.0 as u64 & u64::from(SLOT_MAX)) as u16
    }

    /// As clients see it.
    pub fn as_i64(self) -> i64 {
        self.0
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.group(), self.log_index(), self.slot())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn corners() {
        let last = Position::new(GROUP_NUMBER_MAX, LOG_INDEX_MAX, SLOT_MAX).expect("in range");
        assert_eq!(last.as_i64(), i64::MAX);
        assert_eq!(Position::new(1, 0, 0).expect("in range").as_i64(), 1 << 51);
        assert_eq!(Position::new(GROUP_NUMBER_MAX + 1, 0, 0), None);
        assert_eq!(Position::new(0, LOG_INDEX_MAX + 1, 0), None);
        assert_eq!(Position::new(0, 0, SLOT_MAX + 1), None);
        assert_eq!(Position::from_i64(-1), None);
        assert_eq!(format!("{last}"), format!("4095:{LOG_INDEX_MAX}:2047"));
    }

    proptest! {
        #[test]
        fn parts_survive_and_order_follows_the_log(
            group in 0..=GROUP_NUMBER_MAX, index in 0..LOG_INDEX_MAX, slot in 0..SLOT_MAX,
        ) {
            let at = Position::new(group, index, slot).expect("in range");
            prop_assert_eq!((at.group(), at.log_index(), at.slot()), (group, index, slot));
            prop_assert_eq!(Position::from_i64(at.as_i64()), Some(at));
            prop_assert!(at.as_i64() >= 0);
            prop_assert!(at < Position::new(group, index, slot + 1).expect("in range"));
            prop_assert!(at < Position::new(group, index + 1, 0).expect("in range"));
        }
    }
}
