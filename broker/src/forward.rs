//! One hop to the leader: what must be fresh or writes is done there, whichever node the client asked.
//!
//! The node the client is connected to (the *ingress*) sends the whole request to the node it takes for the leader,
//! with the client's address, its own name and the address it shows to clients. That node serves it or says
//! `NotLeader`; it never sends it on. The ingress looks again until its deadline, so a client sees a change of leader
//! as a slow answer, not as an error.
//!
//! Holds: a request that is not [`Repeat::Harmless`] is sent again only if surely nothing was done: the other node
//! said so, or the call never left this one. Everything else is an unknown outcome and is told as such.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_api::remoting::frame::{self, RemotingCommand};
use flotilla_raft_store::leadership::Leadership;
use tokio::time::{Instant, timeout_at};

use crate::error::Failure;
use crate::membership;
use crate::node::Broker;
use crate::peer;
use crate::router::{self, Origin};

/// How long a request is held while nobody leads: the clients' 3 s less a margin.
pub const HOLD_MAX: Duration = Duration::from_millis(2_500);

/// How long the answer of a leader may take after another one is known.
const ANSWER_OF_OLD_LEADER_MAX: Duration = Duration::from_millis(100);

/// First and longest pause before a request is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// First byte of a call between nodes: what it asks for.
mod kind {
    pub const REQUEST: u8 = 1;
    pub const ALIVE_MEMBERS: u8 = 2;
    pub const IS_ALIVE: u8 = 3;
}

/// May a request be carried out twice?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Yes: reads, and writes that say again what is so already.
    Harmless,
    /// No: it stores a message each time, or undoes what others wrote in between.
    Harmful,
}

/// Has `request` served by the leader, here or one hop away.
pub async fn at_leader(
    broker: &Arc<Broker>,
    request: &RemotingCommand,
    origin: &Origin,
    repeat: Repeat,
) -> Result<RemotingCommand, Failure> {
    if origin.is_forwarded() {
        return router::serve_as_leader(broker, request, origin).await;
    }
    let deadline = Instant::now() + HOLD_MAX;
    let mut pause = PAUSE_MIN;
    loop {
        let seen = broker.group.leadership();
        let outcome = if seen.is_leader && repeat == Repeat::Harmful {
            let served = timeout_at(deadline, router::serve_as_leader(broker, request, origin)).await;
            served.unwrap_or_else(|_| Err(too_late(repeat)))
        } else {
            Box::pin(attempt(broker, request, origin, repeat, &seen, deadline)).await
        };
        let failure = match outcome {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let repeatable =
            failure.surely_not_done() || (repeat == Repeat::Harmless && matches!(failure, Failure::Unknown(_)));
        if !repeatable || Instant::now() + pause >= deadline {
            return Err(failure);
        }
        let _ = tokio::time::timeout(pause, broker.group.leadership_changed(&seen)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One try at the leader that is known now, given up when it cannot be the one to answer any more.
async fn attempt(
    broker: &Arc<Broker>,
    request: &RemotingCommand,
    origin: &Origin,
    repeat: Repeat,
    seen: &Leadership,
    deadline: Instant,
) -> Result<RemotingCommand, Failure> {
    let served = async {
        match seen.leader.as_deref() {
            _ if seen.is_leader => router::serve_as_leader(broker, request, origin).await,
            Some(leader) if leader != broker.node => call(broker, leader, request, origin, deadline).await,
            _ => Err(Failure::NotLeader { leader: None }),
        }
    };
    // A silent leader must not hold up what another one could answer.
    tokio::select! {
        biased;
        served = timeout_at(deadline, served) => served.unwrap_or_else(|_| Err(too_late(repeat))),
        _ = broker.group.leadership_changed(seen), if repeat == Repeat::Harmless => {
            Err(Failure::NotLeader { leader: None })
        }
        () = superseded(broker, seen), if repeat != Repeat::Harmless && !seen.is_leader => {
            Err(Failure::Unknown("another leader was elected before the answer came".to_owned()))
        }
    }
}

/// Returns once another node leads than `seen` says, and the one before has had the time to answer: one that handed
/// over does, a silent one never will.
async fn superseded(broker: &Broker, seen: &Leadership) {
    let mut last = seen.clone();
    while last.leader.is_none() || last.leader == seen.leader {
        last = broker.group.leadership_changed(&last).await;
    }
    tokio::time::sleep(ANSWER_OF_OLD_LEADER_MAX).await;
}

fn too_late(repeat: Repeat) -> Failure {
    let reason = format!("no answer within {} ms", HOLD_MAX.as_millis());
    match repeat {
        Repeat::Harmless => Failure::Unavailable(reason),
        Repeat::Harmful => Failure::Unknown(reason),
    }
}

async fn call(
    broker: &Arc<Broker>,
    leader: &str,
    request: &RemotingCommand,
    origin: &Origin,
    deadline: Instant,
) -> Result<RemotingCommand, Failure> {
    broker.metrics.forwarded.inc();
    let call = encode_forwarded(request, origin, &broker.node);
    match broker.peers.call(leader, call, deadline.into_std()).await {
        Ok(reply) => decode_reply(reply),
        Err(error) if peer::surely_not_sent(&error) => Err(Failure::NotLeader { leader: None }),
        Err(error) => Err(Failure::Unknown(format!("call {leader}: {error}"))),
    }
}

/// The call that asks a node which members of consumer groups are alive there.
pub fn alive_members_call() -> Bytes {
    Bytes::from_static(&[kind::ALIVE_MEMBERS])
}

/// The call that asks a node whether a client is connected and alive there: 1 or 0.
pub fn is_alive_call(client_id: &str) -> Bytes {
    let mut call = BytesMut::with_capacity(1 + client_id.len());
    call.put_u8(kind::IS_ALIVE);
    call.put_slice(client_id.as_bytes());
    call.freeze()
}

/// Serves what another node passed on or asks; registered with the peer listener.
pub async fn serve(broker: &Arc<Broker>, call: Bytes) -> Bytes {
    match call.split_first() {
        Some((&kind::ALIVE_MEMBERS, _)) => return membership::encode_members(&broker.connections.alive_members()),
        Some((&kind::IS_ALIVE, client_id)) => {
            let alive = std::str::from_utf8(client_id).is_ok_and(|id| broker.connections.is_alive(id));
            return Bytes::from_static(if alive { &[1] } else { &[0] });
        }
        _ => {}
    }
    broker.metrics.forwarded_in.inc();
    let Some(forwarded) = Forwarded::decode(call) else {
        return encode_reply(&Err(Failure::malformed("not a forwarded request")), None);
    };
    let Forwarded {
        client,
        store_host,
        ingress,
        request,
    } = forwarded;
    let origin = Origin {
        client,
        store_host,
        ingress: Some(ingress),
        connection: None,
    };
    let outcome = router::serve_as_leader_guarded(broker, &request, &origin).await;
    encode_reply(&outcome, Some(&request))
}

/// A request on its one hop:
///
///   | kind: 1 | client: 6 | store host: 6 | ingress length: 1 | ingress | remoting frame |
#[derive(Debug)]
struct Forwarded {
    client: SocketAddrV4,
    store_host: SocketAddrV4,
    ingress: String,
    request: RemotingCommand,
}

/// Writes a [`Forwarded`] from its parts.
fn encode_forwarded(request: &RemotingCommand, origin: &Origin, ingress: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(512 + request.body.len());
    out.put_u8(kind::REQUEST);
    put_address(&mut out, origin.client);
    put_address(&mut out, origin.store_host);
    out.put_u8(u8::try_from(ingress.len()).expect("node names are checked to be short when settings are read"));
    out.put_slice(ingress.as_bytes());
    request.encode(&mut out);
    out.freeze()
}

impl Forwarded {
    fn decode(mut call: Bytes) -> Option<Self> {
        if call.try_get_u8().ok()? != kind::REQUEST {
            return None;
        }
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
}

fn encode_reply(outcome: &Result<RemotingCommand, Failure>, request: Option<&RemotingCommand>) -> Bytes {
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
        Err(Failure::Busy(reason)) => text(&mut out, reply::BUSY, reason),
        Err(Failure::Unavailable(reason)) => text(&mut out, reply::UNAVAILABLE, reason),
        Err(Failure::Unknown(reason)) => text(&mut out, reply::UNKNOWN, reason),
    }
    out.freeze()
}

fn decode_reply(mut bytes: Bytes) -> Result<RemotingCommand, Failure> {
    let garbled = || Failure::Unknown("garbled reply of the leader".to_owned());
    let kind = bytes.try_get_u8().map_err(|_| garbled())?;
    if kind == reply::ANSWER {
        return decode_frame(bytes).ok_or_else(garbled);
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
        };
        let bytes = encode_forwarded(&request(), &origin, "n2");
        let there = Forwarded::decode(bytes.clone()).unwrap();
        assert_eq!((there.client, there.store_host), (origin.client, origin.store_host));
        assert_eq!(there.ingress, "n2");
        assert_eq!((there.request.code, there.request.opaque), (310, 77));
        assert_eq!(there.request.fields.get("b"), Some("T"));
        assert_eq!(there.request.body, "body");
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
