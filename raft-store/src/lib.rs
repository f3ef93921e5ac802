//! One replicated log whose files are the store, generic over the state machine above it.
//!
//! A [`Group`](group) is one Raft group. Its Raft log is the CommitLog ([`commit_log`]): written once, flushed
//! once, replicated once. Whatever the state machine knows is derived from it and may be lost and derived again.
//!
//! The pointers, and what always holds between them on one replica:
//!
//! ```text
//! physical start <= raft start (purged + 1) <= persisted applied <= applied <= flushed <= last
//!                                                                  applied <= committed
//! ```
//!
//! Reading order: [`log_id`], [`frames`], [`state_machine`], [`disk`], [`commit_log`], then the Raft side.
//! No word of the messages stored here is known to this crate, and it opens no socket: see [`transport`].

pub mod commit_log;
pub mod disk;
pub mod error;
pub mod frames;
pub mod group;
pub mod identity;
pub mod leadership;
pub mod log_id;
pub mod runtime;
pub mod state_machine;
pub mod transport;
pub mod vote;

mod accumulator;
mod apply;
mod bytes_reader;
mod convert;
mod early_election;
mod install;
mod log_store;
mod network;
mod read_index;
mod snapshot;
mod type_config;

#[cfg(test)]
mod engine_suite;
