//! The bytes of calls between nodes and of their replies: requests passed on, and what nodes ask each other.

use std::net::{Ipv4Addr, SocketAddrV4};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_api::remoting::frame::{self, RemotingCommand};

use crate::error::Failure;
use crate::membership::{self, Membership};
use crate::router::Origin;
use crate::state::{ForwardMark, Successor};

/// First byte of a call between nodes: what it asks for.
pub(super) mod kind {
    pub const REQUEST: u8 = 1;
    pub const ALIVE_MEMBERS: u8 = 2;
    pub const ANNOUNCES: u8 = 3;
    pub const MEMBERS_CHANGED: u8 = 4;
    pub const HAS_EPOCH: u8 = 5;
    pub const HAS_TOPIC: u8 = 6;
    pub const STEP: u8 = 7;
    pub const RELAYED_STEP: u8 = 8;
}

/// The call that asks a node which members of consumer groups are alive there.
pub fn alive_members_call() -> Bytes {
    Bytes::from_static(&[kind::ALIVE_MEMBERS])
}

/// The call that asks a node whether a client is alive there and announces a consumer group: 1 or 0.
pub fn announces_call(member: &Membership) -> Bytes {
    let member = membership::encode_members(std::slice::from_ref(member));
    let mut call = BytesMut::with_capacity(1 + member.len());
    call.put_u8(kind::ANNOUNCES);
    call.put_slice(&member);
    call.freeze()
}

/// The call that tells a node that the members of a consumer group changed.
pub fn members_changed_call(consumer_group: &str) -> Bytes {
    let mut call = BytesMut::with_capacity(1 + consumer_group.len());
    call.put_u8(kind::MEMBERS_CHANGED);
    call.put_slice(consumer_group.as_bytes());
    call.freeze()
}

/// The call that is answered once a node's copy of the metadata has reached `epoch`.
pub fn has_epoch_call(epoch: u64) -> Bytes {
    let mut call = BytesMut::with_capacity(9);
    call.put_u8(kind::HAS_EPOCH);
    call.put_u64(epoch);
    call.freeze()
}

/// The call that is answered once the leader of a Raft group has a topic as it was in `version` or later: 1, or 0 if
/// the node does not lead.
pub fn has_topic_call(group: u16, version: u64, topic: &str) -> Bytes {
    let mut call = BytesMut::with_capacity(11 + topic.len());
    call.put_u8(kind::HAS_TOPIC);
    call.put_u16(group);
    call.put_u64(version);
    call.put_slice(topic.as_bytes());
    call.freeze()
}

/// The call that has the leader of a Raft group log one step of a queue's move.
pub fn step_call(group: u16, step: &[u8]) -> Bytes {
    step_frame(kind::STEP, group, step)
}

/// As [`step_call`], for a node that is to ask the leader in turn if it does not lead the group itself.
pub fn relayed_step_call(group: u16, step: &[u8]) -> Bytes {
    step_frame(kind::RELAYED_STEP, group, step)
}

fn step_frame(kind: u8, group: u16, step: &[u8]) -> Bytes {
    let mut call = BytesMut::with_capacity(3 + step.len());
    call.put_u8(kind);
    call.put_u16(group);
    call.put_slice(step);
    call.freeze()
}

/// What is asked of a Raft group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) group: u16,
    pub(super) request: &'a RemotingCommand,
    pub(super) origin: &'a Origin,
    pub(super) mark: Option<ForwardMark>,
}

/// May the other node let the request wait for a message?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// It answers with what is there.
    No,
    /// As long as the request says.
    Yes,
}

/// A request on its one hop:
///
///   | kind: 1 | raft group: 2 | wait: 1 | mark: 1 | if marked: ingress process: 8, sequence: 8 |
///   | client: 6 | store host: 6 | ingress length: 1 | ingress | remoting frame |
#[derive(Debug)]
pub(super) struct Forwarded {
    pub(super) client: SocketAddrV4,
    pub(super) store_host: SocketAddrV4,
    pub(super) ingress: String,
    pub(super) group: u16,
    pub(super) wait: Wait,
    pub(super) mark: Option<ForwardMark>,
    pub(super) request: RemotingCommand,
}

/// Writes a [`Forwarded`] from its parts.
pub(super) fn encode_forwarded(asked: Asked<'_>, ingress: &str, wait: Wait) -> Bytes {
    let Asked {
        group,
        request,
        origin,
        mark,
    } = asked;
    let mut out = BytesMut::with_capacity(512 + request.body.len());
    out.put_u8(kind::REQUEST);
    out.put_u16(group);
    out.put_u8(u8::from(wait == Wait::Yes));
    out.put_u8(ForwardMark::byte(mark.as_ref()));
    if let Some(mark) = mark {
        out.put_u64(mark.ingress);
        out.put_u64(mark.sequence);
    }
    put_address(&mut out, origin.client);
    put_address(&mut out, origin.store_host);
    out.put_u8(u8::try_from(ingress.len()).expect("node names are checked to be short when settings are read"));
    out.put_slice(ingress.as_bytes());
    request.encode(&mut out);
    out.freeze()
}

impl Forwarded {
    pub(super) fn decode(mut call: Bytes) -> Option<Self> {
        if call.try_get_u8().ok()? != kind::REQUEST {
            return None;
        }
        let group = call.try_get_u16().ok()?;
        let wait = match call.try_get_u8().ok()? {
            0 => Wait::No,
            _ => Wait::Yes,
        };
        let mark = match ForwardMark::repeated_in(call.try_get_u8().ok()?).ok()? {
            None => None,
            Some(repeated) => Some(ForwardMark {
                ingress: call.try_get_u64().ok()?,
                sequence: call.try_get_u64().ok()?,
                part: 0,
                repeated,
            }),
        };
        let client = get_address(&mut call)?;
        let store_host = get_address(&mut call)?;
        let length = usize::from(call.try_get_u8().ok()?);
        if call.remaining() < length {
            return None;
        }
        let ingress = String::from_utf8(call.split_to(length).to_vec()).ok()?;
        let request = decode_frame(call)?;
        Some(Self {
            client,
            store_host,
            ingress,
            group,
            wait,
            mark,
            request,
        })
    }
}

fn put_address(out: &mut BytesMut, address: SocketAddrV4) {
    out.put_slice(&address.ip().octets());
    out.put_u16(address.port());
}

fn get_address(call: &mut Bytes) -> Option<SocketAddrV4> {
    let ip = Ipv4Addr::from(call.try_get_u32().ok()?);
    Some(SocketAddrV4::new(ip, call.try_get_u16().ok()?))
}

fn decode_frame(bytes: Bytes) -> Option<RemotingCommand> {
    // The buffer is not shared, so this takes it over without a copy.
    let mut buffer = BytesMut::from(bytes);
    frame::decode(&mut buffer).ok()?
}

/// First byte of a reply to a forwarded request.
mod reply {
    pub const ANSWER: u8 = 0;
    pub const NOT_LEADER: u8 = 1;
    pub const BUSY: u8 = 2;
    pub const UNAVAILABLE: u8 = 3;
    pub const UNKNOWN: u8 = 4;
    pub const MOVED: u8 = 5;
}

pub(super) fn encode_reply(outcome: &Result<RemotingCommand, Failure>, request: Option<&RemotingCommand>) -> Bytes {
    let mut out = BytesMut::with_capacity(256);
    let text = |out: &mut BytesMut, kind: u8, text: &str| {
        out.put_u8(kind);
        out.put_slice(text.as_bytes());
    };
    match outcome {
        Ok(answer) => {
            out.put_u8(reply::ANSWER);
            answer.encode(&mut out);
        }
        Err(failure @ Failure::Answer { code, .. }) => match request {
            Some(request) => {
                out.put_u8(reply::ANSWER);
                failure.fill(RemotingCommand::response(request, *code)).encode(&mut out);
            }
            None => text(&mut out, reply::UNKNOWN, &failure.code_and_remark().1),
        },
        Err(Failure::NotLeader { leader }) => {
            text(&mut out, reply::NOT_LEADER, leader.as_deref().unwrap_or_default());
        }
        Err(Failure::Moved(successor)) => {
            out.put_u8(reply::MOVED);
            out.put_u32(successor.generation);
            out.put_u16(successor.group);
            out.put_i64(successor.start);
        }
        Err(Failure::Busy(reason)) => text(&mut out, reply::BUSY, reason),
        Err(Failure::Unavailable(reason)) => text(&mut out, reply::UNAVAILABLE, reason),
        Err(Failure::Unknown(reason)) => text(&mut out, reply::UNKNOWN, reason),
    }
    out.freeze()
}

pub(super) fn decode_reply(mut bytes: Bytes) -> Result<RemotingCommand, Failure> {
    let garbled = || Failure::Unknown("garbled reply of the leader".to_owned());
    let kind = bytes.try_get_u8().map_err(|_| garbled())?;
    if kind == reply::ANSWER {
        return decode_frame(bytes).ok_or_else(garbled);
    }
    if kind == reply::MOVED {
        return Err(get_successor(&mut bytes).map_or_else(garbled, Failure::Moved));
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Err(match kind {
        reply::NOT_LEADER => Failure::NotLeader {
            leader: Some(text).filter(|leader| !leader.is_empty()),
        },
        reply::BUSY => Failure::Busy(text),
        reply::UNAVAILABLE => Failure::Unavailable(text),
        reply::UNKNOWN => Failure::Unknown(text),
        _ => garbled(),
    })
}

fn get_successor(bytes: &mut Bytes) -> Option<Successor> {
    Some(Successor {
        generation: bytes.try_get_u32().ok()?,
        group: bytes.try_get_u16().ok()?,
        start: bytes.try_get_i64().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> RemotingCommand {
        let mut request = RemotingCommand::request(310).with_body(Bytes::from_static(b"body"));
        request.opaque = 77;
        request.fields.push("b", "T");
        request
    }

    #[test]
    fn a_request_survives_its_hop() {
        let origin = Origin {
            client: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 9), 40_000),
            store_host: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 10_911),
            ingress: None,
            connection: None,
            mark: None,
        };
        let mark = Some(ForwardMark {
            ingress: 5,
            sequence: 6,
            part: 0,
            repeated: true,
        });
        let asked = Asked {
            group: 7,
            request: &request(),
            origin: &origin,
            mark,
        };
        let bytes = encode_forwarded(asked, "n2", Wait::Yes);
        let there = Forwarded::decode(bytes.clone()).unwrap();
        assert_eq!((there.client, there.store_host), (origin.client, origin.store_host));
        assert_eq!((there.ingress.as_str(), there.group, there.wait), ("n2", 7, Wait::Yes));
        assert_eq!(there.mark, mark);
        assert_eq!((there.request.code, there.request.opaque), (310, 77));
        assert_eq!(there.request.fields.get("b"), Some("T"));
        assert_eq!(there.request.body, "body");
        assert_eq!(bytes[4], 2, "the byte of the mark");
        let mut unknown = bytes.to_vec();
        unknown[4] = 3;
        assert!(Forwarded::decode(unknown.into()).is_none());
        for end in 0..bytes.len() {
            assert!(Forwarded::decode(bytes.slice(..end)).is_none(), "cut at {end}");
        }
    }

    #[test]
    fn every_outcome_survives_its_way_back() {
        let outcomes = [
            Failure::NotLeader { leader: None },
            Failure::NotLeader {
                leader: Some("n3".to_owned()),
            },
            Failure::Busy("full".to_owned()),
            Failure::Unavailable("cut off".to_owned()),
            Failure::Unknown("lost".to_owned()),
            Failure::Moved(Successor {
                generation: 7,
                group: 3,
                start: 1 << 40,
            }),
        ];
        for failure in outcomes {
            let back = decode_reply(encode_reply(&Err(failure.clone()), Some(&request())));
            assert_eq!(back.err(), Some(failure));
        }
        let refused = encode_reply(&Err(Failure::no_topic("T")), Some(&request()));
        let answer = decode_reply(refused).unwrap();
        assert_eq!((answer.code, answer.opaque), (17, 77));
        assert!(decode_reply(Bytes::new()).is_err());
        assert!(matches!(
            decode_reply(Bytes::from_static(&[9])),
            Err(Failure::Unknown(_))
        ));
    }
}
