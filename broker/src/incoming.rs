//! What a connection has received: bytes in, requests out, within the node's budget.
//!
//! Bounded: a frame longer than [`FREE_FRAME_BYTES`] is read on only once the node's [`Budget`] has room for it; its
//! [`Share`] is given back when its request is done with. Until then the connection is not read, so the client feels
//! the TCP window. Shorter frames are bounded by the number of requests a connection may have in flight.

use std::sync::Arc;

use bytes::BytesMut;
use flotilla_api::limits::FRAME_BYTES_MAX;
use flotilla_api::remoting::frame::{self, FrameError, RemotingCommand};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Frames up to this length, most requests among them, need no share of the budget.
pub const FREE_FRAME_BYTES: usize = 4 * 1024;
/// Bytes of longer frames that are being received or worked on, over all connections of a node.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Length field of a frame.
const LENGTH_BYTES: usize = 4;

/// Room for the long requests of one node, counted in KiB.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

/// A part of the budget; given back when dropped.
pub type Share = OwnedSemaphorePermit;

impl Budget {
    /// Room for `bytes`, at least one frame.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.max(FRAME_BYTES_MAX).div_ceil(1024))))
    }

    /// Waits for a share of `bytes`, at most one frame; in the order of asking.
    pub async fn share(self, bytes: usize) -> Share {
        let kib = u32::try_from(bytes.div_ceil(1024)).expect("a frame is shorter than 4 TiB");
        self.0
            .acquire_many_owned(kib)
            .await
            .expect("the budget is never closed")
    }
}

/// What can be done with the bytes received so far.
#[derive(Debug)]
pub enum Next {
    /// A whole frame, with its share if it needed one.
    Frame(RemotingCommand, Option<Share>),
    /// More has to be received.
    More,
    /// First a share for a frame of so many bytes: see [`Incoming::allow`].
    Share(usize),
}

/// The bytes of one connection that are no requests yet.
#[derive(Debug, Default)]
pub struct Incoming {
    /// Received and not decoded.
    pub bytes: BytesMut,
    share: Option<Share>,
}

impl Incoming {
    /// Takes the next frame off, if it is there and may be.
    pub fn next(&mut self) -> Result<Next, FrameError> {
        if self.share.is_none()
            && let Some(length) = self.bytes.first_chunk::<LENGTH_BYTES>()
        {
            let length = LENGTH_BYTES.saturating_add(u32::from_be_bytes(*length) as usize);
            // One that is too long is refused below, whatever room there is.
            if (FREE_FRAME_BYTES + 1..=FRAME_BYTES_MAX).contains(&length) {
                return Ok(Next::Share(length));
            }
        }
        Ok(match frame::decode(&mut self.bytes)? {
            Some(request) => Next::Frame(request, self.share.take()),
            None => Next::More,
        })
    }

    /// The frame that [`Next::Share`] was about may come.
    pub fn allow(&mut self, share: Share) {
        self.share = Some(share);
    }

    /// True while a frame holds a share without being whole.
    pub fn holds_share(&self) -> bool {
        self.share.is_some()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;

    fn frame(body: usize) -> BytesMut {
        let mut out = BytesMut::new();
        RemotingCommand::request(10)
            .with_body(Bytes::from(vec![7; body]))
            .encode(&mut out);
        out
    }

    #[test]
    fn short_frames_are_free_and_long_ones_wait_for_their_share() {
        let budget = Budget::new(0);
        let mut incoming = Incoming::default();
        incoming.bytes.extend_from_slice(&frame(100));
        let long = frame(FRAME_BYTES_MAX / 2);
        incoming.bytes.extend_from_slice(&long[..10]);
        assert!(matches!(incoming.next().unwrap(), Next::Frame(_, None)));
        assert!(matches!(incoming.next().unwrap(), Next::Share(bytes) if bytes == long.len()));

        let share = |bytes| budget.clone().share(bytes).now_or_never();
        incoming.allow(share(long.len()).expect("room for one"));
        assert!(matches!(incoming.next().unwrap(), Next::More));
        assert!(incoming.holds_share());
        assert!(share(long.len()).is_none(), "no room for two");
        incoming.bytes.extend_from_slice(&long[10..]);
        let Next::Frame(request, Some(held)) = incoming.next().unwrap() else {
            panic!("whole and with its share")
        };
        assert_eq!(request.body.len(), FRAME_BYTES_MAX / 2);
        assert!(!incoming.holds_share());
        assert!(share(long.len()).is_none());
        drop(held);
        assert!(share(long.len()).is_some());
    }

    #[test]
    fn a_frame_that_is_too_long_asks_for_nothing() {
        let mut incoming = Incoming::default();
        incoming.bytes.extend_from_slice(&[0xff; 4]);
        assert!(incoming.next().is_err());
    }
}
