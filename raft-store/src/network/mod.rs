//! The Raft engine's network on framed byte streams: [`codec`] is the wire format, [`client`] what a leader or
//! candidate sends, [`server`] what the others answer, [`files`] how a snapshot's files travel.
//!
//! Append, control and file connections are apart, so that a large frame never delays a heartbeat.

pub mod client;
pub mod codec;
pub mod files;
pub mod server;
