//! The door to the network: framed, ordered byte streams between replicas. This crate opens no socket itself.

use std::future::Future;
use std::io;

use bytes::Bytes;

/// What a connection is for. Each has its own, so that a large frame never delays a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Log entries.
    Append,
    /// Heartbeats, votes, leadership hand-over: small and urgent.
    Control,
    /// Snapshot files.
    Files,
}

impl Purpose {
    /// The byte that stands for it in a handshake.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Append => 0,
            Self::Control => 1,
            Self::Files => 2,
        }
    }

    /// The inverse of [`Purpose::to_byte`].
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Append),
            1 => Some(Self::Control),
            2 => Some(Self::Files),
            _ => None,
        }
    }
}

/// Opens connections to other nodes by their stable name; the address is resolved at every call, so that a node that
/// came back elsewhere is found without a membership change.
pub trait Transport: Clone + Send + Sync + 'static {
    /// The writing half.
    type Sender: FrameSender;
    /// The reading half.
    type Receiver: FrameReceiver;

    /// Connects to the replica `replica` on the node `name`; another replica of the group there must refuse: it would
    /// vote and acknowledge in the name of one whose disk is lost. Gives up by itself after a second or two.
    fn connect(
        &self,
        replica: u64,
        name: &str,
        purpose: Purpose,
    ) -> impl Future<Output = io::Result<(Self::Sender, Self::Receiver)>> + Send;
}

/// Sends frames in order.
pub trait FrameSender: Send + 'static {
    /// Sends one frame made of `parts`, in order, without copying them into one buffer.
    fn send(&mut self, parts: &[Bytes]) -> impl Future<Output = io::Result<()>> + Send;
}

/// Receives frames in order.
pub trait FrameReceiver: Send + 'static {
    /// The next frame; `None` when the peer closed the connection in order; an error when it broke.
    fn receive(&mut self) -> impl Future<Output = io::Result<Option<Bytes>>> + Send;
}
