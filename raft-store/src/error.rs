//! What can go wrong with a proposal or a fresh read, sorted by what the caller may do next.

/// Why a proposal was not answered with a reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Surely not proposed: this replica does not lead. `leader` is who does, as far as known here.
    #[error("not the leader, {leader:?} is")]
    NotLeader {
        /// The leader's node name.
        leader: Option<String>,
    },
    /// Surely not proposed: too much is waiting, or the disk is too full to take more.
    #[error("refused before proposing: {0}")]
    Busy(&'static str),
    /// Surely not proposed: more frames or bytes than one entry may hold.
    #[error("too large for one entry")]
    TooLarge,
    /// It may or may not be, or become, part of the log.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// Why a fresh read could not be confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This replica does not lead.
    #[error("not the leader, {leader:?} is")]
    NotLeader {
        /// The leader's node name.
        leader: Option<String>,
    },
    /// No majority answered in time, or this replica is closed.
    #[error("read could not be confirmed: {0}")]
    Unavailable(String),
}
