//! Connections between nodes: one port, four purposes.
//!
//! A connection opens with a handshake that names cluster, Raft group, purpose and both sides; a wrong identity is
//! refused with a reason. After it come frames, `length: u32 | bytes`, in order. Three purposes belong to
//! `raft-store` and are handed to the group; the fourth carries *calls*: requests of one process to another, many at a
//! time, each answered by its number. Nodes and controllers speak the same protocol on their ports.
//!
//! Holds: a connection dialled by name is answered by the node of that name or refused; an address is resolved at
//! every connect; every buffer has a named limit. A killed process resets its connections (linger 0), so its peers
//! know at once. Not here: what calls mean (`forward.rs`, `http/`).

mod calls;
mod handshake;
mod line;
mod listener;
mod stream;
mod table;

use std::io;
use std::time::Duration;

pub use calls::{CallKind, Placed};
pub use handshake::{Channel, Hello, Refusal};
pub use line::Line;
pub use listener::{PeerHandler, serve_peers};
pub use stream::{PeerReceiver, PeerSender, PeerTransport};
pub use table::{DigestInfo, NodeInfo, NodeView, Peers, ReplicaInfo, calls_identity};

/// Largest frame between nodes: the largest batch of log entries with room to spare.
pub const PEER_FRAME_BYTES_MAX: usize = 64 << 20;
/// Most incoming peer connections; a member keeps one, and up to three for each Raft group.
pub const PEER_CONNECTIONS_MAX: usize = 4096;
/// Most calls to one node that wait for an answer: no more than a Raft group remembers of one process.
pub const CALLS_IN_FLIGHT_MAX: usize = 4096;
/// Most calls to one node that wait for a message, on top of those.
pub const CALLS_PARKED_MAX: usize = 2048;
/// Most calls of one connection served at a time; past it the connection is not read.
pub const CALLS_SERVED_MAX: usize = 8192;
/// Dialling and shaking hands, each.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A frame that cannot be handed to the network for this long breaks the connection.
const SEND_STALL_MAX: Duration = Duration::from_secs(10);
/// A node is taken for living while its last answer is younger.
pub const LIVING_FOR: Duration = Duration::from_secs(2);
/// How often the other nodes are asked who they are.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// True when the request of a failed call surely never left this node, so that it may be sent again elsewhere.
pub fn surely_not_sent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotConnected
}
