//! The processes of a Flotilla cluster, nodes and controllers: sockets outside, one replicated log a Raft group inside.
//!
//! Reading order for what is stored: [`state`], [`queue_index`], [`key_index`], [`machine`].

pub mod answers;
pub mod bench;
pub mod cli;
pub mod config;
pub mod connection;
pub mod connection_table;
pub mod consumer_groups;
pub mod controller_process;
pub mod controllers;
pub mod coordinators;
pub mod error;
pub mod fail_point;
pub mod forward;
pub mod handlers;
pub mod http;
pub mod incoming;
pub mod key_index;
pub mod kv;
pub mod lanes;
pub mod leaders;
pub mod load_meter;
pub mod long_poll;
pub mod machine;
pub mod membership;
pub mod message_body;
pub mod metrics;
mod moved_queues;
pub mod node;
pub mod open_files;
pub mod peer;
pub mod queue_index;
mod queue_moves;
pub mod replica;
pub mod route;
pub mod router;
pub mod sequences;
pub mod server;
pub mod standalone;
pub mod state;
pub mod tasks;
pub mod topic_changes;
pub mod volume;
