//! The first bytes on a connection between nodes.
//!
//! ```text
//! dialler:  magic "FLTP" | version: u16 | purpose: u8 | group identity: 28 | replica: u64 | from: u8 length, bytes | to: u8 length, bytes
//! listener: status: u8, 0 is welcome | text: u8 length, bytes (the reason of a refusal)
//! ```
//!
//! The replica is the one the dialler means: another one at that address refuses. Calls are for no Raft group in particular: their identity names the cluster alone. A dialler that has not joined a
//! cluster yet names none, which only controllers accept; one that knows an address but no name leaves `to` empty.

use std::fmt;
use std::io;

use flotilla_raft_store::identity::GroupIdentity;
use flotilla_raft_store::transport::Purpose;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MAGIC: [u8; 4] = *b"FLTP";
/// The only version spoken.
const VERSION: u16 = 1;
/// The purpose byte of calls; raft-store's purposes count from 0.
const CALLS: u8 = 16;

/// What a connection between nodes is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// One of the Raft group's.
    Raft(Purpose),
    /// Requests from node to node.
    Calls,
}

impl Channel {
    fn to_byte(self) -> u8 {
        match self {
            Self::Raft(purpose) => purpose.to_byte(),
            Self::Calls => CALLS,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        if byte == CALLS {
            Some(Self::Calls)
        } else {
            Purpose::from_byte(byte).map(Self::Raft)
        }
    }

    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raft(Purpose::Append) => "append",
            Self::Raft(Purpose::Control) => "control",
            Self::Raft(Purpose::Files) => "files",
            Self::Calls => "calls",
        }
    }
}

/// Why a connection was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not a peer at all.
    Magic,
    /// Another version of this protocol, or a purpose it does not have.
    Version,
    /// Another cluster.
    Cluster,
    /// Another Raft group, or another creation of it.
    Group,
    /// The dialler is not a member.
    Stranger,
    /// Meant for another node.
    Address,
    /// Another replica of the Raft group: the one it is for is gone.
    Replica,
    /// This node does not take part yet; try again.
    NotReady,
    /// Too many connections.
    Limit,
}

impl Refusal {
    const ALL: [Self; 9] = [
        Self::Magic,
        Self::Version,
        Self::Cluster,
        Self::Group,
        Self::Stranger,
        Self::Address,
        Self::Replica,
        Self::NotReady,
        Self::Limit,
    ];

    fn to_byte(self) -> u8 {
        Self::ALL
            .iter()
            .position(|refusal| *refusal == self)
            .map_or(u8::MAX, |place| place as u8 + 1)
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Magic => "magic",
            Self::Version => "version",
            Self::Cluster => "cluster",
            Self::Group => "group",
            Self::Stranger => "stranger",
            Self::Address => "address",
            Self::Replica => "replica",
            Self::NotReady => "not_ready",
            Self::Limit => "limit",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Magic => "not a peer connection",
            Self::Version => "another version of the peer protocol",
            Self::Cluster => "another cluster",
            Self::Group => "another raft group",
            Self::Stranger => "not a member of this cluster",
            Self::Address => "this address belongs to another node",
            Self::Replica => "another replica of the raft group",
            Self::NotReady => "not taking part yet",
            Self::Limit => "too many connections",
        })
    }
}

/// What the dialler says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the connection is for.
    pub channel: Channel,
    /// Which cluster and Raft group the dialler belongs to.
    pub identity: GroupIdentity,
    /// The Raft id of the replica it is for; 0 of calls.
    pub replica: u64,
    /// The dialler.
    pub from: String,
    /// The node it wants.
    pub to: String,
}

impl Hello {
    /// Introduces this node and waits to be let in.
    pub async fn send<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.push(self.channel.to_byte());
        bytes.extend_from_slice(&self.identity.to_bytes());
        bytes.extend_from_slice(&self.replica.to_be_bytes());
        put_text(&mut bytes, &self.from);
        put_text(&mut bytes, &self.to);
        stream.write_all(&bytes).await?;
        let status = stream.read_u8().await?;
        let text = read_text(stream).await?;
        match (status, Refusal::from_byte(status)) {
            (0, _) => Ok(()),
            (_, Some(Refusal::NotReady)) => {
                Err(io::Error::new(io::ErrorKind::ConnectionRefused, "not taking part yet"))
            }
            _ => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("refused by {}: {text}", self.to),
            )),
        }
    }

    /// Reads what the dialler says; what is not a peer is an inner `Err`.
    pub async fn receive<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Result<Self, Refusal>> {
        let mut head = [0; 7 + GroupIdentity::BYTES + 8];
        stream.read_exact(&mut head[..4]).await?;
        if head[..4] != MAGIC {
            return Ok(Err(Refusal::Magic));
        }
        stream.read_exact(&mut head[4..]).await?;
        let from = read_text(stream).await?;
        let to = read_text(stream).await?;
        let Some(channel) = Channel::from_byte(head[6]).filter(|_| head[4..6] == VERSION.to_be_bytes()) else {
            return Ok(Err(Refusal::Version));
        };
        let mut identity = [0; GroupIdentity::BYTES];
        identity.copy_from_slice(&head[7..7 + GroupIdentity::BYTES]);
        let mut replica = [0; 8];
        replica.copy_from_slice(&head[7 + GroupIdentity::BYTES..]);
        Ok(Ok(Self {
            channel,
            identity: GroupIdentity::from_bytes(identity),
            replica: u64::from_be_bytes(replica),
            from,
            to,
        }))
    }
}

/// The listener's verdict.
pub async fn answer<S: AsyncWrite + Unpin>(stream: &mut S, verdict: Result<(), Refusal>) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(48);
    match verdict {
        Ok(()) => {
            bytes.push(0);
            put_text(&mut bytes, "");
        }
        Err(refusal) => {
            bytes.push(refusal.to_byte());
            put_text(&mut bytes, &refusal.to_string());
        }
    }
    stream.write_all(&bytes).await
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let length = text.len().min(usize::from(u8::MAX));
    bytes.push(length as u8);
    bytes.extend_from_slice(&text.as_bytes()[..length]);
}

async fn read_text<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<String> {
    let length = stream.read_u8().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "name is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn hello(channel: Channel) -> Hello {
        let identity = GroupIdentity {
            cluster: [3; 16],
            group: 1,
            creation: 1,
        };
        Hello {
            channel,
            identity,
            replica: 7,
            from: "n1".into(),
            to: "n2".into(),
        }
    }

    #[tokio::test]
    async fn a_hello_arrives_as_it_was_sent() {
        for channel in [
            Channel::Calls,
            Channel::Raft(Purpose::Append),
            Channel::Raft(Purpose::Files),
        ] {
            let (mut dialler, mut listener) = tokio::io::duplex(256);
            let sent = hello(channel);
            let expected = sent.clone();
            let dialled = tokio::spawn(async move { sent.send(&mut dialler).await });
            assert_eq!(Hello::receive(&mut listener).await.unwrap(), Ok(expected));
            answer(&mut listener, Ok(())).await.unwrap();
            dialled.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_refusal_names_its_reason() {
        let (mut dialler, mut listener) = tokio::io::duplex(256);
        let dialled = tokio::spawn(async move { hello(Channel::Calls).send(&mut dialler).await });
        Hello::receive(&mut listener).await.unwrap().unwrap();
        answer(&mut listener, Err(Refusal::Cluster)).await.unwrap();
        let error = dialled.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("another cluster"), "{error}");
    }

    #[tokio::test]
    async fn what_is_not_a_peer_is_told_so() {
        let (mut dialler, mut listener) = tokio::io::duplex(256);
        dialler.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert_eq!(Hello::receive(&mut listener).await.unwrap(), Err(Refusal::Magic));
    }

    /// What `bytes` say, where nothing more will come.
    fn received(mut bytes: &[u8]) -> Option<Result<Hello, Refusal>> {
        Hello::receive(&mut bytes).now_or_never().expect("all is there").ok()
    }

    /// What a dialler writes.
    fn written(hello: &Hello) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut stream = tokio::io::join(&[0_u8, 0][..], &mut bytes);
        hello.send(&mut stream).now_or_never().expect("all is there").unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_hello_or_refused(
            start in prop::sample::select(vec![&b""[..], b"FLTP", b"FLTP\0\x01", b"FLTP\0\x01\x10"]),
            rest in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let bytes = [start, &rest].concat();
            let magic = bytes.starts_with(b"FLTP");
            match received(&bytes) {
                Some(Ok(hello)) => prop_assert!(bytes.starts_with(&written(&hello))),
                Some(Err(refusal)) => {
                    prop_assert_eq!(refusal, if magic { Refusal::Version } else { Refusal::Magic });
                }
                None => prop_assert!(magic || bytes.len() < 4),
            }
        }

        #[test]
        fn a_damaged_hello_is_read_as_it_stands_or_refused(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut bytes = written(&hello(Channel::Calls));
            for (place, byte) in damage {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let Some(Ok(hello)) = received(&bytes) {
                prop_assert!(bytes.starts_with(&written(&hello)));
            }
        }
    }

    #[test]
    fn a_hello_cut_short_is_none() {
        let sent = hello(Channel::Calls);
        let bytes = written(&sent);
        for end in 0..bytes.len() {
            assert_eq!(received(&bytes[..end]), None, "cut at {end}");
        }
        assert_eq!(received(&bytes), Some(Ok(sent)));
    }

    #[test]
    fn refusals_survive_their_bytes() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_byte(refusal.to_byte()), Some(refusal));
        }
        assert_eq!(Refusal::from_byte(0), None);
    }
}
