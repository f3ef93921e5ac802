//! One hop to the owner: what must be fresh or writes is done by the leader of the Raft group that owns it, whichever
//! node the client asked.
//!
//! The process the client is connected to (the *ingress*) sends the whole request to the node it takes for the
//! leader, with the client's address, its own name and the address it shows to clients. That node serves it or says
//! `NotLeader`; it never sends it on. The ingress looks again until its deadline, also at who owns it, so a client
//! sees a change of leader as a slow answer, not as an error.
//!
//! Holds: a request that is not [`Repeat::Harmless`] is sent again only if surely nothing was done (the other node said
//! so, or the call never left this one), or if it is a numbered send ([`Repeat::Recognised`]), which the Raft group
//! recognises when it comes again. Everything else is an unknown outcome and is told as such.

mod frames;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_raft_store::leadership::Leadership;
use rand::seq::IndexedRandom;
use tokio::time::{Instant, timeout_at};

pub use frames::{
    alive_members_call, announces_call, has_epoch_call, has_topic_call, members_changed_call, relayed_step_call,
    step_call,
};

use frames::{Asked, Forwarded, Wait, decode_reply, encode_forwarded, encode_reply, kind};

use crate::error::Failure;
use crate::membership;
use crate::node::{Broker, Owned};
use crate::peer::{self, CallKind};
use crate::queue_moves;
use crate::router::{self, Origin};
use crate::state::ForwardMark;
use crate::topic_changes;

/// How long a request is held while nobody leads: the clients' 3 s less a margin.
pub const HOLD_MAX: Duration = Duration::from_millis(2_500);

/// How long the answer of a leader may take after another one is known.
const ANSWER_OF_OLD_LEADER_MAX: Duration = Duration::from_millis(100);

/// First and longest pause before a request is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// May a request be carried out twice?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Yes: reads, and writes that say again what is so already.
    Harmless,
    /// No: it undoes what others wrote in between.
    Harmful,
    /// It stores messages, once: passed on to another node it is numbered, and the Raft group knows it again.
    Recognised,
}

/// Has `request` served by the leader of the Raft group that owns what it is about, here or one hop away.
pub async fn at_owner(
    broker: &Arc<Broker>,
    owned: Owned<'_>,
    request: &RemotingCommand,
    origin: &Origin,
    repeat: Repeat,
) -> Result<RemotingCommand, Failure> {
    at_owner_within(broker, owned, request, origin, repeat, HOLD_MAX).await
}

/// [`at_owner`] for clients that do not wait as long as usual.
pub async fn at_owner_within(
    broker: &Arc<Broker>,
    owned: Owned<'_>,
    request: &RemotingCommand,
    origin: &Origin,
    repeat: Repeat,
    patience: Duration,
) -> Result<RemotingCommand, Failure> {
    let deadline = Instant::now() + patience;
    let mut pause = PAUSE_MIN;
    let mut number: Option<(u16, ForwardMark)> = None;
    // From the first try on of which nobody knows the outcome, nothing but success says more.
    let mut uncertain: Option<(u16, Failure)> = None;
    loop {
        // Only the group that may have done it would know it again.
        let before = uncertain.as_ref().map(|(before, _)| *before);
        let Some(group) = before.or_else(|| broker.owner(owned)) else {
            return Err(Failure::NotLeader { leader: None });
        };
        let seen = broker.leadership(group);
        let outcome = match broker.replicas.get(group) {
            Some(replica) if seen.is_leader && repeat != Repeat::Harmless && number.is_none() => {
                let served = router::serve_as_leader(broker, &replica, request, origin);
                timeout_at(deadline, served)
                    .await
                    .unwrap_or_else(|_| Err(too_late(repeat, patience)))
            }
            _ => {
                let mark = (repeat == Repeat::Recognised).then(|| match number {
                    Some((before, mark)) if before == group => mark,
                    _ => number.insert((group, broker.sequences.next(group))).1,
                });
                let asked = Asked {
                    group,
                    request,
                    origin,
                    mark: mark.map(|mark| ForwardMark {
                        repeated: uncertain.is_some(),
                        ..mark
                    }),
                };
                Box::pin(attempt(broker, asked, repeat, &seen, deadline)).await
            }
        };
        let failure = match (outcome, &uncertain) {
            (Ok(answer), Some((_, failure))) if answer.code != response::SUCCESS => return Err(failure.clone()),
            (Ok(answer), _) => return Ok(answer),
            (Err(failure), _) => failure,
        };
        if let Failure::Moved(segment) = failure {
            // Whatever was sent to the group before, it would know: nothing of it is stored.
            uncertain = None;
            if broker.learn_moved(owned, segment) {
                broker.metrics.forward_retries.inc();
                continue;
            }
        }
        let numbered = number.is_some();
        if matches!(failure, Failure::Unknown(_)) && repeat == Repeat::Recognised && numbered && uncertain.is_none() {
            uncertain = Some((group, failure.clone()));
        }
        let repeatable = match failure {
            Failure::Unknown(_) => repeat == Repeat::Harmless || numbered,
            _ => failure.surely_not_done(),
        };
        if !repeatable || Instant::now() + pause >= deadline {
            return Err(uncertain.map_or(failure, |(_, failure)| failure));
        }
        broker.metrics.forward_retries.inc();
        let _ = tokio::time::timeout(pause, broker.leadership_changed(group, &seen)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One try at the leader that is known now, given up when it cannot be the one to answer any more.
async fn attempt(
    broker: &Arc<Broker>,
    asked: Asked<'_>,
    repeat: Repeat,
    seen: &Leadership,
    deadline: Instant,
) -> Result<RemotingCommand, Failure> {
    let group = asked.group;
    let served = async {
        match (broker.replicas.get(group), seen.leader.as_deref()) {
            (Some(replica), _) if seen.is_leader => {
                let numbered = Origin {
                    mark: asked.mark,
                    ..asked.origin.clone()
                };
                router::serve_as_leader(broker, &replica, asked.request, &numbered).await
            }
            (_, Some(leader)) if leader != broker.node => call(broker, leader, asked, Wait::No, deadline).await,
            // Also where there is a replica here: it may not have heard of the others yet.
            _ => match any_member(broker, group) {
                Some(member) => call(broker, &member, asked, Wait::No, deadline).await,
                None => Err(Failure::NotLeader { leader: None }),
            },
        }
    };
    // A silent leader must not hold up what another one could answer.
    tokio::select! {
        biased;
        served = timeout_at(deadline, served) => served.unwrap_or_else(|_| Err(too_late(repeat, HOLD_MAX))),
        _ = broker.leadership_changed(group, seen), if repeat == Repeat::Harmless => {
            Err(Failure::NotLeader { leader: None })
        }
        () = superseded(broker, group, seen), if repeat != Repeat::Harmless && !seen.is_leader => {
            Err(Failure::Unknown("another leader was elected before the answer came".to_owned()))
        }
    }
}

/// Some node with a replica of the group, a living one if there is one: it knows who leads.
fn any_member(broker: &Broker, group: u16) -> Option<String> {
    let mut members: Vec<String> = broker.metadata.read(|metadata| {
        let group = metadata.groups.get(&group)?;
        Some(group.members.iter().map(|replica| replica.node.clone()).collect())
    })?;
    members.retain(|node| *node != broker.node);
    let living: Vec<&String> = members.iter().filter(|node| broker.peers.is_living(node)).collect();
    match living.len() {
        0 => members.choose(&mut rand::rng()).cloned(),
        _ => living.choose(&mut rand::rng()).map(|node| (*node).clone()),
    }
}

/// Returns once another node leads than `seen` says, and the one before has had the time to answer: one that handed
/// over does, a silent one never will.
async fn superseded(broker: &Broker, group: u16, seen: &Leadership) {
    let mut last = seen.clone();
    while last.leader.is_none() || last.leader == seen.leader {
        last = broker.leadership_changed(group, &last).await;
    }
    tokio::time::sleep(ANSWER_OF_OLD_LEADER_MAX).await;
}

fn too_late(repeat: Repeat, patience: Duration) -> Failure {
    let reason = format!("no answer within {} ms", patience.as_millis());
    match repeat {
        Repeat::Harmless => Failure::Unavailable(reason),
        Repeat::Harmful | Repeat::Recognised => Failure::Unknown(reason),
    }
}

/// A request that may wait for a message, where the ingress has no replica: it waits at the owner.
pub async fn wait_at_owner(
    broker: &Arc<Broker>,
    owned: Owned<'_>,
    request: &RemotingCommand,
    origin: &Origin,
    patience: Duration,
) -> Result<RemotingCommand, Failure> {
    let begun = Instant::now();
    let deadline = begun + patience + HOLD_MAX;
    let mut pause = PAUSE_MIN;
    let mut request = request.clone();
    loop {
        let Some(group) = broker.owner(owned) else {
            return Err(Failure::NotLeader { leader: None });
        };
        let seen = broker.leadership(group);
        let target = seen.leader.as_deref().map(str::to_owned);
        let asked = Asked {
            group,
            request: &request,
            origin,
            mark: None,
        };
        let failure = match target.or_else(|| any_member(broker, group)) {
            Some(node) => {
                let answered = tokio::select! {
                    answered = call(broker, &node, asked, Wait::Yes, deadline) => answered,
                    // Whoever leads now wakes the pull; the one before may be silent.
                    _ = broker.leadership_changed(group, &seen) => Err(Failure::NotLeader { leader: None }),
                };
                match answered {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                }
            }
            None => Failure::NotLeader { leader: None },
        };
        if let Failure::Moved(segment) = failure
            && broker.learn_moved(owned, segment)
        {
            continue;
        }
        if Instant::now() + pause >= deadline {
            return Err(failure);
        }
        let _ = tokio::time::timeout(pause, broker.leadership_changed(group, &seen)).await;
        pause = (pause * 2).min(PAUSE_MAX);
        // The next one waits no longer than what is left of the client's patience.
        let left = patience.saturating_sub(begun.elapsed()).max(PAUSE_MIN);
        let left_ms = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
        request.fields.set("suspendTimeoutMillis", left_ms);
    }
}

async fn call(
    broker: &Arc<Broker>,
    node: &str,
    asked: Asked<'_>,
    wait: Wait,
    deadline: Instant,
) -> Result<RemotingCommand, Failure> {
    let group = asked.group;
    broker.metrics.forwarded.inc();
    let call = encode_forwarded(asked, &broker.node, wait);
    let started = Instant::now();
    let kind = match wait {
        Wait::No => CallKind::Forward,
        Wait::Yes => CallKind::Park,
    };
    let answer = broker.peers.call_kind(node, kind, call, deadline.into_std()).await;
    if wait == Wait::No {
        broker.metrics.forward_seconds.observe(started.elapsed().as_secs_f64());
    }
    let outcome = match answer {
        Ok(reply) => decode_reply(reply),
        Err(error) if peer::surely_not_sent(&error) => Err(Failure::NotLeader { leader: None }),
        Err(error) => Err(Failure::Unknown(format!("call {node}: {error}"))),
    };
    match &outcome {
        Err(Failure::NotLeader { leader: Some(leader) }) if leader != node => broker.leaders.hint(group, leader),
        // These come from the leader.
        Err(Failure::Moved(_) | Failure::Busy(_)) => {}
        Err(_) => broker.leaders.forget(group, node),
        Ok(_) => broker.leaders.hint(group, node),
    }
    outcome
}

/// Serves what another node passed on or asks; registered with the peer listener.
pub async fn serve(broker: &Arc<Broker>, call: Bytes) -> Bytes {
    match call.split_first() {
        Some((&kind::ALIVE_MEMBERS, _)) => return membership::encode_members(&broker.connections.alive_members()),
        Some((&kind::MEMBERS_CHANGED, group)) => {
            if let Ok(group) = std::str::from_utf8(group) {
                membership::notify_consumers(&broker.connections, group);
            }
            return Bytes::new();
        }
        Some((&kind::HAS_EPOCH, epoch)) => {
            let epoch = epoch.try_into().map(u64::from_be_bytes).unwrap_or_default();
            topic_changes::epoch_reached(broker, epoch).await;
            return Bytes::new();
        }
        Some((&kind::HAS_TOPIC, _)) => {
            let mut rest = call.slice(1..);
            let (Ok(group), Ok(version)) = (rest.try_get_u16(), rest.try_get_u64()) else {
                return Bytes::from_static(&[0]);
            };
            let topic = String::from_utf8_lossy(&rest).into_owned();
            let has = topic_changes::leader_has(broker, group, &topic, version).await;
            return Bytes::from_static(if has { &[1] } else { &[0] });
        }
        Some((kind @ (&kind::STEP | &kind::RELAYED_STEP), _)) => {
            let mut rest = call.slice(1..);
            let Ok(group) = rest.try_get_u16() else {
                return Bytes::new();
            };
            return match *kind {
                kind::STEP => queue_moves::serve(broker, group, rest).await,
                _ => queue_moves::relay(broker, group, rest).await,
            };
        }
        Some((&kind::ANNOUNCES, _)) => {
            let announced = membership::announced_here(broker, call.slice(1..));
            return Bytes::from_static(if announced { &[1] } else { &[0] });
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
        group,
        wait,
        mark,
        request,
    } = forwarded;
    let origin = Origin {
        client,
        store_host,
        ingress: Some(ingress),
        connection: None,
        mark,
    };
    let outcome = match broker.replicas.get(group) {
        Some(replica) if replica.group.is_leader() => {
            let waits = wait == Wait::Yes;
            router::serve_as_leader_guarded(broker, &replica, &request, &origin, waits).await
        }
        _ => Err(Failure::NotLeader {
            leader: broker.leadership(group).leader.as_deref().map(str::to_owned),
        }),
    };
    encode_reply(&outcome, Some(&request))
}
