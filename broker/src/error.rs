//! The one table from what went wrong to what a client is told.
//!
//! Three kinds: the request's own fault, final ([`Failure::Answer`]); elsewhere or later, surely nothing done
//! ([`Failure::NotLeader`], [`Failure::Busy`], [`Failure::Unavailable`]); and an outcome nobody can tell
//! ([`Failure::Unknown`]). To clients: code 1 with a remark that starts with `[UNKNOWN]`, or silence, means unknown;
//! every other code means certainly not stored.

use std::io;

use flotilla_api::names;
use flotilla_api::remoting::HeaderError;
use flotilla_api::remoting::bodies::BodyError;
use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_raft_store::error::{ProposeError, ReadError};

use crate::controllers::NoController;
use crate::state::{Refusal, Successor};

/// Why a request was not answered with success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A final answer with this code.
    Answer {
        /// RocketMQ response code.
        code: i32,
        /// Text for people.
        remark: String,
    },
    /// This node does not lead the Raft group; nothing was done.
    NotLeader {
        /// Who does, as far as known here.
        leader: Option<String>,
    },
    /// The queue's segment asked for, or its open one, is another Raft group's; nothing was done.
    Moved(Successor),
    /// Too much is waiting or the disk is too full; nothing was done.
    Busy(String),
    /// A read could not be confirmed as fresh.
    Unavailable(String),
    /// It may or may not have been done.
    Unknown(String),
}

impl Failure {
    /// A final answer.
    pub fn answer(code: i32, remark: impl Into<String>) -> Self {
        Self::Answer {
            code,
            remark: remark.into(),
        }
    }

    /// The request lacks a field or holds one that is not what it should be.
    pub fn malformed(reason: impl std::fmt::Display) -> Self {
        Self::answer(response::SYSTEM_ERROR, format!("malformed request: {reason}"))
    }

    /// An argument out of its range.
    pub fn invalid(reason: impl std::fmt::Display) -> Self {
        Self::answer(response::INVALID_PARAMETER, reason.to_string())
    }

    /// The topic does not exist.
    pub fn no_topic(topic: &str) -> Self {
        Self::answer(
            response::TOPIC_NOT_EXIST,
            format!("topic[{topic}] not exist, apply first please!"),
        )
    }

    /// The queue has no segment in this Raft group, as far as the replica asked knows.
    pub fn not_open(topic: &str, queue: u32) -> Self {
        Self::Unavailable(format!(
            "queue {queue} of topic {topic} is not open in this raft group yet"
        ))
    }

    /// Reading this node's own data failed.
    pub fn storage(error: &io::Error) -> Self {
        Self::answer(response::SYSTEM_ERROR, format!("read stored data: {error}"))
    }

    /// True when the same request may be tried again without doing anything twice.
    pub fn surely_not_done(&self) -> bool {
        matches!(
            self,
            Self::NotLeader { .. } | Self::Moved(_) | Self::Busy(_) | Self::Unavailable(_)
        )
    }

    /// The response code and remark of this failure.
    pub fn code_and_remark(&self) -> (i32, String) {
        match self {
            Self::Answer { code, remark } => (*code, remark.clone()),
            // 14 is the one code every client takes as "try elsewhere" (Java 4.9 does not retry 2).
            Self::NotLeader { .. } => (
                response::SERVICE_NOT_AVAILABLE,
                "no leader for this queue is known at the moment".to_owned(),
            ),
            Self::Moved(_) => (
                response::SERVICE_NOT_AVAILABLE,
                "the queue moves to another raft group at the moment".to_owned(),
            ),
            Self::Busy(reason) => (
                response::SERVICE_NOT_AVAILABLE,
                format!("refused, nothing stored: {reason}"),
            ),
            Self::Unavailable(reason) => (
                response::SERVICE_NOT_AVAILABLE,
                format!("no majority of the replicas confirmed this: {reason}"),
            ),
            Self::Unknown(reason) => (
                response::SYSTEM_ERROR,
                format!("[UNKNOWN] it may or may not be done: {reason}"),
            ),
        }
    }

    /// Turns the prepared answer to a request into this failure, keeping fields it has already.
    pub fn fill(&self, mut answer: RemotingCommand) -> RemotingCommand {
        let (code, remark) = self.code_and_remark();
        answer.code = code;
        answer.with_remark(remark)
    }
}

impl From<HeaderError> for Failure {
    fn from(error: HeaderError) -> Self {
        Self::malformed(error)
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        Self::malformed(error)
    }
}

/// Refuses a name no consumer group can have.
pub fn check_group(group: &str) -> Result<(), Failure> {
    names::validate_group(group).map_err(|error| Failure::invalid(format!("consumer group {group:?}: {error}")))
}

/// Refuses a name no topic can have.
pub fn check_topic(topic: &str) -> Result<(), Failure> {
    names::validate_topic(topic).map_err(|error| Failure::invalid(format!("topic {topic:?}: {error}")))
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => Self::NotLeader { leader },
            ProposeError::Busy(reason) => Self::Busy(reason.to_owned()),
            ProposeError::TooLarge => Self::answer(
                response::MESSAGE_ILLEGAL,
                "more messages or bytes than one request may store",
            ),
            ProposeError::Unknown(reason) => Self::Unknown(reason),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotLeader { leader } => Self::NotLeader { leader },
            ReadError::Unavailable(reason) => Self::Unavailable(reason),
        }
    }
}

impl From<NoController> for Failure {
    fn from(error: NoController) -> Self {
        use flotilla_controller::state::Refusal;
        let refusal = match error {
            NoController::Unreachable(_) => {
                return Self::answer(
                    response::SERVICE_NOT_AVAILABLE,
                    format!("refused, nothing changed: {error}"),
                );
            }
            NoController::Unknown(reason) => return Self::Unknown(reason),
            NoController::Refused(refusal) => refusal,
        };
        let code = match refusal {
            Refusal::TopicNotExist => response::TOPIC_NOT_EXIST,
            Refusal::GroupNotExist => response::SUBSCRIPTION_GROUP_NOT_EXIST,
            Refusal::QueueOutOfRange | Refusal::FewerQueues => response::INVALID_PARAMETER,
            Refusal::NoGroups | Refusal::NotFounded => response::SERVICE_NOT_AVAILABLE,
            _ => response::SYSTEM_ERROR,
        };
        Self::answer(code, refusal.to_string())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::Moved(successor) => return Self::Moved(successor),
            Refusal::TopicNotExist => response::TOPIC_NOT_EXIST,
            Refusal::QueueOutOfRange | Refusal::FewerQueues => response::INVALID_PARAMETER,
            Refusal::NotWritable => response::NO_PERMISSION,
            Refusal::StaleGeneration => response::SERVICE_NOT_AVAILABLE,
            Refusal::OtherTopic => response::SERVICE_NOT_AVAILABLE,
            Refusal::Malformed
            | Refusal::Forgotten
            | Refusal::LimitReached(_)
            | Refusal::TrimBeyondLog
            | Refusal::NotReserved
            | Refusal::TooLate => response::SYSTEM_ERROR,
        };
        Self::answer(code, refusal.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unknown_outcome_says_so() {
        let failures = [
            Failure::NotLeader { leader: None },
            Failure::Busy("full".to_owned()),
            Failure::Unavailable("cut off".to_owned()),
            Failure::no_topic("T"),
        ];
        for failure in failures {
            let (code, remark) = failure.code_and_remark();
            assert!(!remark.starts_with("[UNKNOWN]"), "{remark}");
            assert_ne!(code, response::SUCCESS);
        }
        let (code, remark) = Failure::Unknown("timeout".to_owned()).code_and_remark();
        assert_eq!(code, response::SYSTEM_ERROR);
        assert!(remark.starts_with("[UNKNOWN]"));
    }

    #[test]
    fn elsewhere_or_later_is_code_14() {
        assert_eq!(
            Failure::from(ProposeError::NotLeader { leader: None })
                .code_and_remark()
                .0,
            14
        );
        assert_eq!(Failure::from(ProposeError::Busy("queue full")).code_and_remark().0, 14);
        assert!(!Failure::from(ProposeError::Unknown("lost".to_owned())).surely_not_done());
    }
}
