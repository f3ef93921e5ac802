//! The controller of a Flotilla cluster: who its nodes are, which Raft groups exist on them, and which group owns
//! each queue.
//!
//! The controllers are one Raft group of `flotilla_raft_store`. Its log holds [`state::Command`]s; [`state::State`] is
//! the pure function of that log, [`placement`] the part of it that decides where things go, [`machine::Machine`] the
//! shell that keeps the state on disk. What comes out is the [`metadata`], which every process has a copy of in a
//! [`feed::Feed`]: the feed remembers recent changes, so that a copy is brought up to date without sending it whole.
//!
//! Where queues had better be is the matter of [`planning`], which replicas had better be elsewhere that of [`replacement`].
//!
//! Reading order: [`metadata`], [`topic`], [`coordinator_slots`], [`queue_move`], [`subscription_group`], [`state`],
//! [`placement`], [`planning`], [`replacement`], [`feed`], [`machine`].

pub mod coordinator_slots;
pub mod feed;
pub mod machine;
pub mod metadata;
pub mod placement;
pub mod planning;
pub mod protocol;
pub mod queue_move;
pub mod replacement;
pub mod state;
pub mod subscription_group;
pub mod topic;

mod state_file;
