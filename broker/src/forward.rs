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
//! recognises when it comes again. Everything else is an unknown outcome and is told as such. When it is sent again says
//! `forward/pursuit.rs`; the sends of a connection to one queue stay in order meanwhile ([`crate::lanes`]).

mod frames;
mod pursuit;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes};
use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_raft_store::leadership::Leadership;
use futures_util::poll;
use rand::seq::IndexedRandom;
use tokio::task::unconstrained;
use tokio::time::{Instant, timeout_at};

pub use frames::{
    alive_members_call, announces_call, has_epoch_call, has_topic_call, members_changed_call, relayed_step_call,
    step_call,
};

pub use pursuit::{Again, Pursuit};

use frames::{Asked, Forwarded, Wait, decode_reply, encode_forwarded, encode_reply, kind};

use crate::error::Failure;
use crate::lanes::{Barred, Ticket, Way};
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
///
/// Not an async function, as those it stands on: each would hold what it is given once more.
pub fn at_owner(
    broker: &Arc<Broker>,
    owned: Owned<'_>,
    request: &RemotingCommand,
    origin: &Origin,
    repeat: Repeat,
) -> impl Future<Output = Result<RemotingCommand, Failure>> + Send {
    at_owner_within(broker, owned, request, origin, repeat, HOLD_MAX)
}

/// [`at_owner`] for clients that do not wait as long as usual.
pub fn at_owner_within(
    broker: &Arc<Broker>,
    owned: Owned<'_>,
    request: &RemotingCommand,
    origin: &Origin,
    repeat: Repeat,
    patience: Duration,
) -> impl Future<Output = Result<RemotingCommand, Failure>> + Send {
    let ticket = match repeat {
        Repeat::Recognised => ticket(owned, origin),
        Repeat::Harmless | Repeat::Harmful => None,
    };
    pursue(broker, owned, request, origin, (repeat, ticket), patience)
}

/// The place of a send to a queue among those of its connection.
pub fn ticket<'a>(owned: Owned<'_>, origin: &'a Origin) -> Option<Ticket<'a>> {
    match (owned, &origin.connection) {
        (Owned::Queue(topic, queue), Some(connection)) => Some(connection.lanes.ticket(topic, queue)),
        _ => None,
    }
}

/// A send that may have its place among those of its connection already.
pub fn send_at_owner(
    broker: &Arc<Broker>,
    owned: Owned<'_>,
    request: &RemotingCommand,
    origin: &Origin,
    ticket: Option<Ticket<'_>>,
) -> impl Future<Output = Result<RemotingCommand, Failure>> + Send {
    pursue(broker, owned, request, origin, (Repeat::Recognised, ticket), HOLD_MAX)
}

async fn pursue(
    broker: &Arc<Broker>,
    owned: Owned<'_>,
    request: &RemotingCommand,
    origin: &Origin,
    (repeat, mut ticket): (Repeat, Option<Ticket<'_>>),
    patience: Duration,
) -> Result<RemotingCommand, Failure> {
    let deadline = Instant::now() + patience;
    let mut pursuit = Pursuit::until(deadline);
    let mut number: Option<(u16, ForwardMark)> = None;
    // From the first try on of which nobody knows the outcome, nothing but success says more.
    let mut uncertain: Option<(u16, Failure)> = None;
    // Why it is not done yet, and when to go on.
    let mut refused: Option<Box<(Failure, Again)>> = None;
    loop {
        // Only the group that may have done it would know it again.
        let before = uncertain.as_ref().map(|(before, _)| *before);
        let (mut group, mut seen) = look(broker, owned, before)?;
        if let Some(ticket) = &mut ticket
            && !ticket.go(way(broker, owned, group, &seen))
        {
            let turn = Box::pin(turn(broker, owned, before, ticket, deadline)).await;
            (group, seen) = turn.map_err(|failure| match refused.take() {
                Some(refused) => refused.0,
                None => failure,
            })?;
        }
        if let Some(refused) = refused.take()
            && ticket.as_ref().is_none_or(Ticket::is_alone)
        {
            Box::pin(pursuit.wait(broker, refused.1)).await;
            (group, seen) = look(broker, owned, before)?;
        }
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
                let attempt = attempt(broker, asked, repeat, &seen, deadline, ticket.as_mut());
                // Put off for others in the middle of it, it would be overtaken.
                Box::pin(unconstrained(attempt)).await
            }
        };
        let failure = match (outcome, &uncertain) {
            (Ok(answer), Some((_, failure))) if answer.code != response::SUCCESS => return Err(failure.clone()),
            (Ok(answer), _) => {
                if repeat == Repeat::Recognised && answer.code == response::SUCCESS {
                    if broker.owner_is_hearsay(owned) {
                        broker.took_a_message(owned, group);
                    }
                    if let Some(ticket) = ticket {
                        ticket.stored();
                    }
                }
                return Ok(answer);
            }
            (Err(failure), _) => failure,
        };
        let numbered = number.is_some();
        match failure {
            // Whatever was sent to the group before, it would know: nothing of it is stored.
            Failure::Moved(_) => uncertain = None,
            Failure::Unknown(_) if repeat == Repeat::Recognised && numbered && uncertain.is_none() => {
                uncertain = Some((group, failure.clone()));
            }
            _ => {}
        }
        let harmless = repeat == Repeat::Harmless || numbered;
        let told = uncertain.as_ref().map_or(&failure, |(_, failure)| failure).clone();
        match pursuit.learn(broker, owned, (group, &seen), &failure, harmless) {
            Some(again) => refused = Some(Box::new((told, again))),
            None => return Err(told),
        }
        if let Some(ticket) = &mut ticket {
            ticket.again(uncertain.is_none());
        }
        broker.metrics.forward_retries.inc();
    }
}

/// Which Raft group is to be asked, and what is known of its leader.
fn look(broker: &Broker, owned: Owned<'_>, before: Option<u16>) -> Result<(u16, Leadership), Failure> {
    let group = before.or_else(|| broker.owner(owned));
    let group = group.ok_or(Failure::NotLeader { leader: None })?;
    Ok((group, broker.leadership(group)))
}

/// The way a send takes with others; none if whoever is asked may refuse it and take the next.
fn way<'a>(broker: &Broker, owned: Owned<'_>, group: u16, seen: &'a Leadership) -> Option<Way<'a>> {
    (seen.leader.is_some() && !broker.owner_is_hearsay(owned)).then_some((group, seen))
}

/// Waits until a send may go, and says where it goes then.
async fn turn(
    broker: &Broker,
    owned: Owned<'_>,
    before: Option<u16>,
    ticket: &mut Ticket<'_>,
    deadline: Instant,
) -> Result<(u16, Leadership), Failure> {
    let turn = poll_fn(|context| {
        let (group, seen) = match look(broker, owned, before) {
            Ok(looked) => looked,
            Err(failure) => return Poll::Ready(Err(failure)),
        };
        ticket
            .poll_go(context, way(broker, owned, group, &seen))
            .map(|turn| match turn {
                Ok(()) => Ok((group, seen)),
                Err(Barred::Full) => Err(Failure::Busy("too many sends to this queue wait already".to_owned())),
                Err(Barred::Overtaken) => Err(Failure::Busy("later sends to this queue are stored".to_owned())),
            })
    });
    let late = || Failure::Busy("what was sent to this queue before is not stored yet".to_owned());
    timeout_at(deadline, turn).await.unwrap_or_else(|_| Err(late()))
}

/// One try at the leader that is known now, given up when it cannot be the one to answer any more.
async fn attempt(
    broker: &Arc<Broker>,
    asked: Asked<'_>,
    repeat: Repeat,
    seen: &Leadership,
    deadline: Instant,
    ticket: Option<&mut Ticket<'_>>,
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
            (_, Some(leader)) if leader != broker.node => call(broker, leader, asked, Wait::No, deadline, ticket).await,
            // Also where there is a replica here: it may not have heard of the others yet.
            _ => match any_member(broker, group) {
                Some(member) => call(broker, &member, asked, Wait::No, deadline, ticket).await,
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
    let mut pursuit = Pursuit::until(deadline);
    let mut request = request.clone();
    loop {
        let (group, seen) = look(broker, owned, None)?;
        let target = seen.leader.as_deref().map(str::to_owned);
        let asked = Asked {
            group,
            request: &request,
            origin,
            mark: None,
        };
        let answered = match target.or_else(|| any_member(broker, group)) {
            Some(node) => {
                tokio::select! {
                    answered = call(broker, &node, asked, Wait::Yes, deadline, None) => answered,
                    // Whoever leads now wakes the pull; the one before may be silent.
                    _ = broker.leadership_changed(group, &seen) => Err(Failure::NotLeader { leader: None }),
                }
            }
            None => Err(Failure::NotLeader { leader: None }),
        };
        let failure = match answered {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let Some(again) = pursuit.learn(broker, owned, (group, &seen), &failure, true) else {
            return Err(failure);
        };
        pursuit.wait(broker, again).await;
        // The next one waits no longer than what is left of the client's patience.
        let left = patience.saturating_sub(begun.elapsed()).max(pursuit::PAUSE_MIN);
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
    ticket: Option<&mut Ticket<'_>>,
) -> Result<RemotingCommand, Failure> {
    let group = asked.group;
    broker.metrics.forwarded.inc();
    let call = encode_forwarded(asked, &broker.node, wait);
    let started = Instant::now();
    let kind = match wait {
        Wait::No => CallKind::Forward,
        Wait::Yes => CallKind::Park,
    };
    let mut placing = pin!(broker.peers.place(node, kind, call, deadline.into_std()));
    let placed = match poll!(&mut placing) {
        Poll::Ready(placed) => placed,
        Poll::Pending => match ticket {
            Some(ticket) => {
                ticket.hold();
                let placed = placing.await;
                ticket.handed_on();
                placed
            }
            None => placing.await,
        },
    };
    let answer = match placed {
        Ok(placed) => placed.answer().await,
        Err(error) => Err(error),
    };
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
