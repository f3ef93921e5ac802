//! The identity of a Raft entry in this crate's own words and bytes, independent of the Raft engine's types.

use std::fmt;

/// Term and index of one entry. Ordered as Raft orders logs: by term, then by index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The term of the leader that proposed the entry.
    pub term: u64,
    /// The place in the log; the first entry of a group has index 0 or 1.
    pub index: u64,
}

impl LogId {
    /// The entry `index` proposed in `term`.
    pub const fn new(term: u64, index: u64) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}
