//! What a connection has received: bytes in, requests out, within the node's budget.
//!
//! Bounded: a frame longer than [`FREE_FRAME_BYTES`] is read on only once the node's [`Budget`] has room for it; its
//! [`Share`] is given back when its request is done with. Until then the connection is not read, so the client feels
//! the TCP window. Shorter frames are bounded by the number of requests a connection may have in flight. A buffer that
//! grew for a long frame goes with that frame.

use std::sync::Arc;

use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};
use flotilla_api::limits::FRAME_BYTES_MAX;
use flotilla_api::remoting::frame::{self, FrameError, RemotingCommand};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Frames up to this length, most requests among them, need no share of the budget.
pub const FREE_FRAME_BYTES: usize = 4 * 1024;
/// Frames up to this length are ordinary and have a budget of their own: clients that announce larger ones and take
/// their time do not hold them up.
pub const ORDINARY_FRAME_BYTES: usize = 256 * 1024;
/// Bytes of ordinary frames that are being received or worked on, over all connections of a node; as many again of
/// larger ones.
pub const REQUEST_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Bytes read at once where no long frame is expected, once a client has filled [`FIRST_READ_BYTES`]: most never do, and
/// keep a buffer of this size.
pub const READ_BYTES: usize = 64 * 1024;
/// Bytes read at once from a client that sends little.
pub const FIRST_READ_BYTES: usize = 2 * 1024;

/// Length field of a frame.
const LENGTH_BYTES: usize = 4;

/// Room for the long requests of one node, counted in KiB.
#[derive(Clone, Debug)]
pub struct Budget {
    ordinary: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// A part of the budget; given back when dropped.
pub type Share = OwnedSemaphorePermit;

impl Budget {
    /// Room for `bytes` of ordinary frames and for as many of larger ones, at least one frame of each.
    pub fn new(bytes: usize) -> Self {
        let room = |frame: usize| Arc::new(Semaphore::new(bytes.max(frame).div_ceil(1024)));
        Self {
            ordinary: room(ORDINARY_FRAME_BYTES),
            large: room(FRAME_BYTES_MAX),
        }
    }

    /// Waits for a share of `bytes`, at most one frame; in the order of asking.
    pub async fn share(self, bytes: usize) -> Share {
        let kib = u32::try_from(bytes.div_ceil(1024)).expect("a frame is shorter than 4 TiB");
        let room = if bytes <= ORDINARY_FRAME_BYTES {
            self.ordinary
        } else {
            self.large
        };
        room.acquire_many_owned(kib).await.expect("the budget is never closed")
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
    bytes: BytesMut,
    share: Option<Share>,
    sends_much: bool,
}

impl Incoming {
    /// Where the next read goes: room for the rest of a long frame that may come, else for [`READ_BYTES`], or less where
    /// that was always enough.
    pub fn room(&mut self) -> Limit<&mut BytesMut> {
        let rest = self
            .announced()
            .map_or(0, |length| length.saturating_sub(self.bytes.len()));
        let usual = if self.sends_much { READ_BYTES } else { FIRST_READ_BYTES };
        let limit = match &self.share {
            Some(_) if rest > 0 => rest,
            _ => usual,
        };
        // A whole buffer at a time, which many short frames share.
        let reserved = if self.bytes.capacity() == 0 { usual } else { usual / 4 };
        self.bytes.reserve(reserved.min(limit));
        (&mut self.bytes).limit(limit)
    }

    /// Something was received.
    pub fn received(&mut self) {
        let filled = self.bytes.len() == self.bytes.capacity();
        self.sends_much |= filled || self.bytes.len() >= FIRST_READ_BYTES;
    }

    /// Nothing was received for a while: an empty buffer is given back.
    pub fn rest(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
            self.sends_much = false;
        }
    }

    /// What was received first, as long as nothing was taken off.
    pub fn start(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the next frame off, if it is there and may be.
    pub fn take(&mut self) -> Result<Next, FrameError> {
        if self.share.is_none()
            && let Some(length) = self.announced()
            // One that is too long is refused below, whatever room there is.
            && (FREE_FRAME_BYTES + 1..=FRAME_BYTES_MAX).contains(&length)
        {
            return Ok(Next::Share(length));
        }
        let Some(request) = frame::decode(&mut self.bytes)? else {
            return Ok(Next::More);
        };
        let share = self.share.take();
        if share.is_some() {
            // The rest lies behind the frame in its buffer and would keep all of it.
            self.bytes = BytesMut::from(self.bytes.as_ref());
        }
        Ok(Next::Frame(request, share))
    }

    /// The frame that [`Next::Share`] was about may come.
    pub fn allow(&mut self, share: Share) {
        self.share = Some(share);
    }

    /// True while a frame holds a share without being whole.
    pub fn holds_share(&self) -> bool {
        self.share.is_some()
    }

    /// Length of the frame that begins here, its length field included.
    fn announced(&self) -> Option<usize> {
        let length = self.bytes.first_chunk::<LENGTH_BYTES>()?;
        Some(LENGTH_BYTES.saturating_add(u32::from_be_bytes(*length) as usize))
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
        let long = frame(FRAME_BYTES_MAX * 3 / 4);
        incoming.bytes.extend_from_slice(&long[..10]);
        assert!(matches!(incoming.take().unwrap(), Next::Frame(_, None)));
        assert!(matches!(incoming.take().unwrap(), Next::Share(bytes) if bytes == long.len()));

        let share = |bytes| budget.clone().share(bytes).now_or_never();
        let _ordinary = share(ORDINARY_FRAME_BYTES).expect("room of its own");
        incoming.allow(share(long.len()).expect("room for one"));
        assert!(matches!(incoming.take().unwrap(), Next::More));
        assert!(incoming.holds_share());
        assert!(share(long.len()).is_none(), "no room for two");
        incoming.bytes.extend_from_slice(&long[10..long.len() - 5]);
        assert!(matches!(incoming.take().unwrap(), Next::More));
        assert_eq!(incoming.room().remaining_mut(), 5, "no more than the frame");
        incoming.bytes.extend_from_slice(&long[long.len() - 5..]);
        incoming.bytes.extend_from_slice(&[0, 0]);
        let Next::Frame(request, Some(held)) = incoming.take().unwrap() else {
            panic!("whole and with its share")
        };
        assert_eq!(request.body.len(), FRAME_BYTES_MAX * 3 / 4);
        assert!(!incoming.holds_share());
        assert_eq!(incoming.start(), [0, 0]);
        assert!(incoming.bytes.capacity() < READ_BYTES, "the buffer went with the frame");
        assert!(share(long.len()).is_none());
        drop(held);
        assert!(share(long.len()).is_some());
    }

    #[test]
    fn only_who_sends_much_gets_a_large_buffer_and_only_while_it_does() {
        let mut incoming = Incoming::default();
        assert_eq!(incoming.room().remaining_mut(), FIRST_READ_BYTES);
        incoming.bytes.extend_from_slice(&frame(100));
        incoming.received();
        assert!(matches!(incoming.take().unwrap(), Next::Frame(..)));
        assert_eq!(incoming.room().remaining_mut(), FIRST_READ_BYTES);
        for _ in 0..20 {
            incoming.bytes.extend_from_slice(&frame(100));
        }
        incoming.received();
        incoming.rest();
        assert_eq!(
            incoming.room().remaining_mut(),
            READ_BYTES,
            "not while something is there"
        );
        while matches!(incoming.take().unwrap(), Next::Frame(..)) {}
        incoming.rest();
        assert_eq!(incoming.bytes.capacity(), 0);
        assert_eq!(incoming.room().remaining_mut(), FIRST_READ_BYTES);
    }

    #[test]
    fn a_frame_that_is_too_long_asks_for_nothing() {
        let mut incoming = Incoming::default();
        incoming.bytes.extend_from_slice(&[0xff; 4]);
        assert!(incoming.take().is_err());
    }
}
