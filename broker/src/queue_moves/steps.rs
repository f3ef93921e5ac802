//! Logging one step of a move, in the group led here or in another one. Every step may be said twice, so that nothing
//! is lost by saying it again.
//!
//! A leader that cannot be reached from here may well be reached by others: a queue that is sealed must not wait for the
//! network between two nodes to heal. So a step goes through another node as well when its leader is silent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{Broker, Command, Replica, Reply};
use crate::error::Failure;
use crate::fail_point;
use crate::forward;
use crate::state::Refusal;

/// Before the other group is asked again.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// After so long a leader is asked through another node, too.
const ANSWERS_AT_ONCE: Duration = Duration::from_millis(200);

/// Why a step is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// The group's log says no; it will not say anything else later.
    #[error("refused: {0}")]
    Refused(String),
    /// The group could not be asked, or did not answer: it may be done.
    #[error("{0}")]
    Unknown(String),
}

/// Logs a step in the group led here.
pub async fn here(replica: &Replica, step: &Command) -> Result<(), NotDone> {
    let unknown = |error: String| NotDone::Unknown(error);
    let proposed = replica.group.propose(vec![step.encode()]).await;
    let proposed = proposed.map_err(|error| unknown(Failure::from(error).code_and_remark().1))?;
    match proposed.replies.into_iter().next() {
        // These pass.
        Some(Reply::Refused(refusal @ (Refusal::OtherTopic | Refusal::QueueOutOfRange))) => {
            Err(unknown(refusal.to_string()))
        }
        Some(Reply::Refused(refusal)) => Err(NotDone::Refused(refusal.to_string())),
        Some(_) => Ok(()),
        None => Err(unknown("no reply".to_owned())),
    }
}

/// Has the leader of another group log a step, whoever that is, for as long as `patience`.
pub async fn at_group(broker: &Arc<Broker>, group: u16, step: &Command, patience: Duration) -> Result<(), NotDone> {
    let deadline = Instant::now() + patience;
    let mut pause = PAUSE_MIN;
    loop {
        let seen = broker.leadership(group);
        let last = match (broker.led(group), seen.leader.as_deref()) {
            (Some(replica), _) => here(&replica, step).await,
            (None, leader) => {
                let leader = leader.filter(|leader| *leader != broker.node);
                let until = deadline.min(Instant::now() + super::TRY_MAX);
                elsewhere(broker, group, leader, &step.encode(), until).await
            }
        };
        match last {
            Err(NotDone::Unknown(_)) if Instant::now() + pause < deadline => {}
            last => return last,
        }
        let _ = tokio::time::timeout(pause, broker.leadership_changed(group, &seen)).await;
        sleep(PAUSE_MIN).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Has a leader log a step, through another node too if it does not answer at once, or is not known here.
async fn elsewhere(
    broker: &Arc<Broker>,
    group: u16,
    leader: Option<&str>,
    step: &[u8],
    until: Instant,
) -> Result<(), NotDone> {
    let lives = leader.is_some_and(|leader| broker.peers.is_living(leader));
    let patience = if lives { ANSWERS_AT_ONCE } else { Duration::ZERO };
    let direct = async {
        let leader = leader.ok_or_else(|| NotDone::Unknown("nobody leads it".to_owned()))?;
        ask(broker, leader, forward::step_call(group, step), until).await
    };
    let relayed = async {
        sleep(patience).await;
        let relay = relay_for(broker, group, leader);
        let relay = relay.ok_or_else(|| NotDone::Unknown("nobody passes it on".to_owned()))?;
        ask(broker, &relay, forward::relayed_step_call(group, step), until).await
    };
    tokio::pin!(direct, relayed);
    tokio::select! {
        told = &mut direct => match told {
            // One that lives says so itself.
            Err(NotDone::Unknown(_)) if !lives => relayed.await,
            told => told,
        },
        told = &mut relayed => match told {
            Err(NotDone::Unknown(_)) => direct.await,
            told => told,
        },
    }
}

/// A living node that may reach the leader of a group, rather one with a replica of it.
fn relay_for(broker: &Broker, group: u16, leader: Option<&str>) -> Option<String> {
    let members: Vec<String> = broker.metadata.read(|metadata| {
        let group = metadata.groups.get(&group);
        let members = group.into_iter().flat_map(|group| &group.members);
        members.map(|member| member.node.clone()).collect()
    });
    let others = broker.peers.nodes().into_iter();
    let others = others.filter(|node| node.living && !node.here && Some(node.name.as_str()) != leader);
    let best = others.max_by_key(|node| members.contains(&node.name));
    best.map(|node| node.name)
}

async fn ask(broker: &Broker, node: &str, call: Bytes, until: Instant) -> Result<(), NotDone> {
    match broker.peers.call(node, call, until.into_std()).await {
        Ok(reply) => decode(&reply),
        Err(error) => Err(NotDone::Unknown(format!("call {node}: {error}"))),
    }
}

/// Logs a step that another group's leader asks for with [`forward::relayed_step_call`], here or at the leader.
pub async fn relay(broker: &Arc<Broker>, group: u16, step: Bytes) -> Bytes {
    if broker.led(group).is_some() {
        return serve(broker, group, step).await;
    }
    let outcome = match broker.leadership(group).leader.as_deref() {
        Some(leader) if leader != broker.node => {
            let until = Instant::now() + super::TRY_MAX;
            ask(broker, leader, forward::step_call(group, &step), until).await
        }
        _ => Err(NotDone::Unknown("nobody leads it".to_owned())),
    };
    encode(&outcome)
}

/// Logs a step that another group's leader asks for with [`forward::step_call`].
pub async fn serve(broker: &Arc<Broker>, group: u16, step: Bytes) -> Bytes {
    let outcome = match (broker.led(group), Command::decode(&step)) {
        (Some(replica), Ok(step)) => {
            let is_opening = matches!(step, Command::Open(_));
            fail_point::reached(if is_opening {
                fail_point::OPEN_ASKED
            } else {
                fail_point::RESERVE_ASKED
            });
            let outcome = here(&replica, &step).await;
            fail_point::reached(if is_opening {
                fail_point::OPENED
            } else {
                fail_point::RESERVED
            });
            outcome
        }
        (None, _) => Err(NotDone::Unknown("does not lead it".to_owned())),
        (_, Err(_)) => Err(NotDone::Refused("malformed step".to_owned())),
    };
    encode(&outcome)
}

/// `kind: 1 | text`: 0 done, 1 refused, 2 unknown.
fn encode(outcome: &Result<(), NotDone>) -> Bytes {
    let (kind, text) = match outcome {
        Ok(()) => (0, ""),
        Err(NotDone::Refused(reason)) => (1, reason.as_str()),
        Err(NotDone::Unknown(reason)) => (2, reason.as_str()),
    };
    let mut out = vec![kind];
    out.extend_from_slice(text.as_bytes());
    out.into()
}

fn decode(reply: &[u8]) -> Result<(), NotDone> {
    let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    match reply.split_first() {
        Some((0, _)) => Ok(()),
        Some((1, reason)) => Err(NotDone::Refused(text(reason))),
        Some((_, reason)) => Err(NotDone::Unknown(text(reason))),
        None => Err(NotDone::Unknown("empty reply".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_survive_their_way() {
        for outcome in [
            Ok(()),
            Err(NotDone::Refused("no".to_owned())),
            Err(NotDone::Unknown("who knows".to_owned())),
        ] {
            assert_eq!(decode(&encode(&outcome)), outcome);
        }
        assert!(matches!(decode(&[]), Err(NotDone::Unknown(_))));
    }
}
