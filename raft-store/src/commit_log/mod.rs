//! The CommitLog.
