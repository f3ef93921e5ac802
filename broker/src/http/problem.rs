//! Errors of the admin API: `application/problem+json`.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use flotilla_api::http::{Outcome, Problem as Document};
use flotilla_raft_store::error::{ProposeError, ReadError};
use serde::{Deserialize, Serialize};

use crate::controllers::NoController;
use crate::error::Failure;
use crate::state::Refusal;

/// A problem document, and what only nodes tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What the caller is shown.
    pub document: Document,
    /// This node did nothing because it does not lead.
    pub not_leader: bool,
}

impl Problem {
    /// A problem with this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            document: Document::new(status.as_u16(), detail),
            not_leader: false,
        }
    }

    /// The request itself is wrong.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// What was asked for does not exist.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// Not now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// This node does not lead; nothing was done.
    pub fn not_leader() -> Self {
        Self {
            not_leader: true,
            ..Self::unavailable("no leader could be reached")
        }
    }

    /// Says that the write certainly did not happen.
    pub fn refused(self) -> Self {
        Self {
            document: self.document.with_outcome(Outcome::Refused),
            ..self
        }
    }

    /// Says that the write may have happened.
    pub fn unknown(self) -> Self {
        Self {
            document: self.document.with_outcome(Outcome::Unknown),
            ..self
        }
    }

    /// Nothing was done, or it was a read: trying again is safe and may help.
    pub fn may_pass(&self) -> bool {
        self.not_leader
            || (self.document.status == StatusCode::SERVICE_UNAVAILABLE.as_u16()
                && self.document.outcome != Some(Outcome::Unknown))
    }
}

impl From<ProposeError> for Problem {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { .. } => Self::not_leader(),
            ProposeError::Busy(_) => Self::new(StatusCode::TOO_MANY_REQUESTS, error.to_string()).refused(),
            ProposeError::TooLarge => Self::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()).refused(),
            ProposeError::Unknown(_) => Self::unavailable(error.to_string()).unknown(),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotLeader { .. } => Self::not_leader(),
            ReadError::Unavailable(_) => Self::unavailable(error.to_string()),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::TopicNotExist => StatusCode::NOT_FOUND,
            Refusal::FewerQueues | Refusal::NotWritable | Refusal::StaleGeneration | Refusal::OtherTopic => {
                StatusCode::CONFLICT
            }
            Refusal::Moved(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::LimitReached(_) => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, refusal.to_string()).refused()
    }
}

impl From<NoController> for Problem {
    fn from(error: NoController) -> Self {
        use flotilla_controller::state::Refusal;
        let refusal = match error {
            NoController::Unreachable(_) => return Self::unavailable(error.to_string()).refused(),
            NoController::Unknown(_) => return Self::unavailable(error.to_string()).unknown(),
            NoController::Refused(refusal) => refusal,
        };
        let status = match refusal {
            Refusal::TopicNotExist
            | Refusal::QueueNotExist
            | Refusal::GroupNotExist
            | Refusal::MoveNotExist
            | Refusal::NodeNotExist => StatusCode::NOT_FOUND,
            Refusal::FewerQueues
            | Refusal::ReplicaNotExist
            | Refusal::ReplicaExists
            | Refusal::ReplicaStays
            | Refusal::LastReplica
            | Refusal::NodeEvacuating
            | Refusal::NodeInUse
            | Refusal::TooFewNodes(_)
            | Refusal::Changed
            | Refusal::NameTaken
            | Refusal::NameReserved
            | Refusal::MoveUnderWay
            | Refusal::SameGroup
            | Refusal::MoveEnded
            | Refusal::GroupDraining
            | Refusal::LastGroup
            | Refusal::PinnedElsewhere
            | Refusal::SegmentNotDropped => StatusCode::CONFLICT,
            Refusal::NoGroups | Refusal::NotFounded => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::LimitReached(_) => StatusCode::TOO_MANY_REQUESTS,
            Refusal::Malformed | Refusal::AlreadyFounded | Refusal::QueueOutOfRange => StatusCode::BAD_REQUEST,
        };
        Self::new(status, refusal.to_string()).refused()
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let (_, remark) = failure.code_and_remark();
        match failure {
            Failure::NotLeader { .. } | Failure::Moved(_) => Self::not_leader(),
            Failure::Busy(_) => Self::new(StatusCode::TOO_MANY_REQUESTS, remark).refused(),
            Failure::Unavailable(_) => Self::unavailable(remark),
            Failure::Unknown(_) => Self::unavailable(remark).unknown(),
            Failure::Answer { .. } => Self::new(StatusCode::INTERNAL_SERVER_ERROR, remark),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.document.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.document).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, Document::CONTENT_TYPE)], body).into_response()
    }
}
