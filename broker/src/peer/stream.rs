//! Framed halves of a connection between nodes, and the dialling side of raft-store's transport.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use flotilla_raft_store::identity::GroupIdentity;
use flotilla_raft_store::transport::{FrameReceiver, FrameSender, Purpose, Transport};
use prometheus::IntCounter;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::handshake::Hello;
use super::{CONNECT_TIMEOUT, PEER_FRAME_BYTES_MAX, Peers, SEND_STALL_MAX};
use crate::metrics::Metrics;

/// A host that acknowledges nothing for this long is gone.
const UNACKNOWLEDGED_MAX_MS: u32 = 5_000;
/// Small frames are read several at a time; larger ones go past this buffer straight into their own.
const READ_BUFFER_BYTES: usize = 16 << 10;

/// Sends frames to another node.
#[derive(Debug)]
pub struct PeerSender {
    stream: OwnedWriteHalf,
    sent_bytes: IntCounter,
}

/// Receives frames from another node.
#[derive(Debug)]
pub struct PeerReceiver {
    stream: BufReader<OwnedReadHalf>,
}

/// Socket options of both sides: no delay, dead hosts found by keep-alive or by what they do not acknowledge, and a reset instead of an orderly close
/// when the process is killed.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(std::time::Duration::from_secs(5))
        .with_interval(std::time::Duration::from_secs(1))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    // Keep-alive is silent while something sent is not acknowledged.
    rustix::net::sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MAX_MS)?;
    socket.set_linger(Some(std::time::Duration::ZERO))
}

/// Splits a connection whose handshake is done.
pub(super) fn split(stream: TcpStream, sent_bytes: IntCounter) -> (PeerSender, PeerReceiver) {
    let (read, write) = stream.into_split();
    let receiver = PeerReceiver {
        stream: BufReader::with_capacity(READ_BUFFER_BYTES, read),
    };
    (
        PeerSender {
            stream: write,
            sent_bytes,
        },
        receiver,
    )
}

/// Dials `address` and shakes hands.
pub(super) async fn dial(address: &str, hello: &Hello, metrics: &Metrics) -> io::Result<(PeerSender, PeerReceiver)> {
    let mut stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    tune(&stream)?;
    timeout(CONNECT_TIMEOUT, hello.send(&mut stream)).await??;
    let sent = metrics.transfer_bytes.with_label_values(&[hello.channel.name()]);
    Ok(split(stream, sent))
}

impl PeerSender {
    /// Sends frames made of parts, all in as few system calls as the sizes allow.
    pub(super) async fn send_all(&mut self, frames: &[Vec<Bytes>]) -> io::Result<()> {
        let mut lengths = Vec::with_capacity(frames.len());
        for frame in frames {
            lengths.push(frame_length(frame)?.to_be_bytes());
        }
        let mut slices = Vec::with_capacity(frames.iter().map(|frame| frame.len() + 1).sum());
        for (length, frame) in lengths.iter().zip(frames) {
            slices.push(IoSlice::new(length));
            slices.extend(frame.iter().map(|part| IoSlice::new(part)));
        }
        self.write_slices(slices).await
    }

    async fn write_slices(&mut self, mut slices: Vec<IoSlice<'_>>) -> io::Result<()> {
        let mut rest = slices.as_mut_slice();
        // Empty slices in front would make a finished write look like a closed connection.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let written = match timeout(SEND_STALL_MAX, self.stream.write_vectored(rest)).await {
                Ok(written) => written?,
                Err(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "peer does not take what is sent",
                    ));
                }
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.sent_bytes.inc_by(written as u64);
            IoSlice::advance_slices(&mut rest, written);
        }
        Ok(())
    }
}

fn frame_length(parts: &[Bytes]) -> io::Result<u32> {
    let length: usize = parts.iter().map(Bytes::len).sum();
    if length > PEER_FRAME_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("frame of {length} bytes is too large"),
        ));
    }
    Ok(length as u32)
}

impl FrameSender for PeerSender {
    async fn send(&mut self, parts: &[Bytes]) -> io::Result<()> {
        let length = frame_length(parts)?.to_be_bytes();
        let mut slices = Vec::with_capacity(parts.len() + 1);
        slices.push(IoSlice::new(&length));
        slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        self.write_slices(slices).await
    }
}

impl Drop for PeerSender {
    /// A close while the process lives is orderly: what was sent still arrives. A killed process never gets here,
    /// and its linger of 0 resets the connection. A failure means the connection is gone already.
    fn drop(&mut self) {
        let _ = SockRef::from(self.stream.as_ref()).set_linger(None);
    }
}

impl FrameReceiver for PeerReceiver {
    async fn receive(&mut self) -> io::Result<Option<Bytes>> {
        let mut length = [0; 4];
        if self.stream.read(&mut length[..1]).await? == 0 {
            return Ok(None);
        }
        self.stream.read_exact(&mut length[1..]).await?;
        let length = u32::from_be_bytes(length) as usize;
        if length > PEER_FRAME_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("frame of {length} bytes is too large"),
            ));
        }
        let mut frame = BytesMut::with_capacity(length);
        while frame.len() < length {
            let missing = length - frame.len();
            if self.stream.read_buf(&mut (&mut frame).limit(missing)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Some(frame.freeze()))
    }
}

/// Dials members of one Raft group by name.
#[derive(Clone, Debug)]
pub struct PeerTransport {
    peers: Arc<Peers>,
    identity: GroupIdentity,
}

impl PeerTransport {
    /// A transport of the group `identity` over the members `peers` knows.
    pub fn new(peers: Arc<Peers>, identity: GroupIdentity) -> Self {
        Self { peers, identity }
    }
}

impl Transport for PeerTransport {
    type Sender = PeerSender;
    type Receiver = PeerReceiver;

    async fn connect(&self, replica: u64, name: &str, purpose: Purpose) -> io::Result<(PeerSender, PeerReceiver)> {
        self.peers.dial(name, purpose, self.identity, replica).await
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (PeerSender, PeerReceiver, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let dialled = dialled.unwrap();
        tune(&dialled).unwrap();
        let (sender, receiver) = split(dialled, IntCounter::new("a", "b").unwrap());
        (sender, receiver, accepted.unwrap().0)
    }

    #[tokio::test]
    async fn frames_of_many_parts_arrive_whole_and_in_order() {
        let (mut sender, _receiver, accepted) = pair().await;
        let (_back, mut receiver) = split(accepted, IntCounter::new("a", "b").unwrap());
        let large = Bytes::from(vec![7; 3 << 20]);
        let sending = tokio::spawn({
            let large = large.clone();
            async move {
                sender
                    .send(&[Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"two")])
                    .await
                    .unwrap();
                sender.send(&[]).await.unwrap();
                // More parts than one system call takes.
                sender.send(&vec![Bytes::from_static(b"x"); 3000]).await.unwrap();
                sender
                    .send_all(&[vec![large.clone(), large], vec![Bytes::from_static(b"end")]])
                    .await
                    .unwrap();
            }
        });
        assert_eq!(receiver.receive().await.unwrap().unwrap(), "onetwo");
        assert_eq!(receiver.receive().await.unwrap().unwrap(), "");
        assert_eq!(receiver.receive().await.unwrap().unwrap(), "x".repeat(3000));
        let frame = receiver.receive().await.unwrap().unwrap();
        assert_eq!((frame.len(), &frame[..3 << 20]), (6 << 20, &large[..]));
        assert_eq!(receiver.receive().await.unwrap().unwrap(), "end");
        assert_eq!(receiver.receive().await.unwrap(), None);
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn a_frame_cut_short_or_too_large_is_an_error() {
        let (_sender, mut receiver, mut accepted) = pair().await;
        accepted.write_all(&[0, 0, 0, 9, 1, 2]).await.unwrap();
        drop(accepted);
        assert_eq!(
            receiver.receive().await.unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );

        let (_sender, mut receiver, mut accepted) = pair().await;
        accepted.write_all(&[0xff; 8]).await.unwrap();
        assert_eq!(receiver.receive().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_not_sent() {
        let (mut sender, _receiver, _accepted) = pair().await;
        let half = Bytes::from(vec![0; PEER_FRAME_BYTES_MAX / 2 + 1]);
        let error = sender.send(&[half.clone(), half]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
