//! What each request does, one file a family. Requests reach them through `router.rs` only.
//!
//! Handlers that run at the leader take what they answer from the applied state after a ReadIndex, or propose a
//! command and answer with its reply; an error of either is turned into a response by `error.rs`.

pub mod client_config;
pub mod cluster_admin;
pub mod consumer_list;
pub mod consumer_offset;
pub mod consumer_stats;
pub mod group_admin;
pub mod heartbeat;
pub mod lock;
pub mod message;
pub mod offset;
pub mod propose;
pub mod pull;
mod pull_request;
pub mod pull_result;
pub mod send;
pub mod send_properties;
pub mod stored;
pub mod topic_admin;
