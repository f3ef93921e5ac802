//! Logging one step of a move, in the group led here or in another one. Every step may be said twice, so that nothing
//! is lost by saying it again.

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
            (None, Some(leader)) if leader != broker.node => {
                let call = forward::step_call(group, &step.encode());
                let until = deadline.min(Instant::now() + super::TRY_MAX);
                match broker.peers.call(leader, call, until.into_std()).await {
                    Ok(reply) => decode(&reply),
                    Err(error) => Err(NotDone::Unknown(format!("call {leader}: {error}"))),
                }
            }
            _ => Err(NotDone::Unknown("nobody leads it".to_owned())),
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
