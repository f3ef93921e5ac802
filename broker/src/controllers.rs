//! The way to the controllers: tries all addresses, remembers the one that answered, follows hints to the leader.
//!
//! Holds: a command whose outcome is unknown is not sent again; one that surely was not carried out is, until the
//! deadline. With no controller in reach callers get [`NoController::Unreachable`] and go on with what they know.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_controller::protocol::{Request, Response};
use flotilla_controller::state::{Command, Refusal, Reply};
use parking_lot::Mutex;
use tokio::time::sleep;
use tracing::debug;

use crate::metrics::Metrics;
use crate::peer::{CallKind, Channel, Hello, Line, calls_identity, surely_not_sent};

/// How long a command may take at one controller.
const ASK_MAX: Duration = Duration::from_secs(2);
/// With less time left a command is not tried again: nobody could say any more what became of it.
const COMMAND_MIN: Duration = Duration::from_millis(1_500);
/// How long a question to one controller may take before the next one is asked.
const LOOK_MAX: Duration = Duration::from_millis(500);
/// Before all controllers are asked once more.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// How long a command may take, finding the leader included.
pub const PROPOSE_MAX: Duration = Duration::from_secs(5);
/// How long a look at the newest epoch may take.
pub const EPOCH_MAX: Duration = Duration::from_millis(1_500);

/// Why the controllers did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoController {
    /// No controller that could have done it was reached; nothing was done.
    #[error("no controller could be reached: {0}")]
    Unreachable(String),
    /// It may or may not have been done.
    #[error("a controller's answer was lost: {0}")]
    Unknown(String),
    /// Certainly not done, and never will be.
    #[error("{0}")]
    Refused(Refusal),
}

/// See the module.
#[derive(Debug)]
pub struct Controllers {
    local: String,
    metrics: Arc<Metrics>,
    /// All that are known; the first one is asked first.
    lines: Mutex<Vec<Arc<ControllerLine>>>,
    cluster: Mutex<[u8; 16]>,
}

#[derive(Debug)]
struct ControllerLine {
    address: String,
    line: Line,
}

impl Controllers {
    /// The controllers at these addresses, as `local` reaches them. `cluster` is zero until a cluster was joined.
    pub fn new(local: &str, addresses: &[String], cluster: [u8; 16], metrics: Arc<Metrics>) -> Arc<Self> {
        let line = |address: &String| {
            Arc::new(ControllerLine {
                address: address.clone(),
                line: Line::default(),
            })
        };
        Arc::new(Self {
            local: local.to_owned(),
            metrics,
            lines: Mutex::new(addresses.iter().map(line).collect()),
            cluster: Mutex::new(cluster),
        })
    }

    /// From now on connections name this cluster.
    pub fn joined(&self, cluster: [u8; 16]) {
        *self.cluster.lock() = cluster;
    }

    /// Addresses of all controllers this process knows.
    pub fn addresses(&self) -> Vec<String> {
        self.lines.lock().iter().map(|line| line.address.clone()).collect()
    }

    /// Asks the controller at `address`.
    pub async fn ask(&self, address: &str, request: &Request, deadline: Instant) -> io::Result<Response> {
        let known = self.lines.lock().iter().find(|line| line.address == address).cloned();
        let line = known.unwrap_or_else(|| {
            Arc::new(ControllerLine {
                address: address.to_owned(),
                line: Line::default(),
            })
        });
        let hello = || Hello {
            channel: Channel::Calls,
            identity: calls_identity(*self.cluster.lock()),
            replica: 0,
            from: self.local.clone(),
            to: String::new(),
        };
        let payload = serde_json::to_vec(request)?.into();
        let call = (CallKind::Controller, payload);
        let answer = line
            .line
            .call(&line.address, hello, &self.metrics, call, deadline)
            .await?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Has the leader do something.
    pub async fn at_leader(&self, request: &Request, deadline: Instant) -> Result<Response, NoController> {
        let is_command = matches!(request, Request::Propose(_) | Request::Join { .. });
        let mut hint: Option<String> = None;
        let mut silent = BTreeSet::new();
        let mut last = "none is configured".to_owned();
        loop {
            let mut addresses = self.addresses();
            if let Some(hint) = hint.take() {
                addresses.retain(|address| *address != hint);
                addresses.insert(0, hint);
            }
            let mut reached = false;
            for address in addresses {
                let now = Instant::now();
                if is_command && now + COMMAND_MIN > deadline {
                    return Err(NoController::Unreachable(last));
                }
                let patience = if is_command { ASK_MAX } else { LOOK_MAX };
                let until = deadline.min(now + patience);
                let answer = self.ask(&address, request, until).await;
                reached |= !answer.as_ref().is_err_and(surely_not_sent);
                match answer {
                    Ok(Response::NotLeader { leader }) => {
                        last = format!("{address} does not lead");
                        // Until another one is elected the others may still name one that is silent.
                        if let Some(leader) = leader.filter(|leader| *leader != address && !silent.contains(leader)) {
                            hint = Some(leader);
                            break;
                        }
                    }
                    Ok(Response::Unavailable(reason)) => {
                        self.ask_last(&address);
                        last = format!("{address}: {reason}");
                    }
                    Ok(Response::Unknown(reason)) => return Err(NoController::Unknown(format!("{address}: {reason}"))),
                    Ok(response) => {
                        self.prefer(&address);
                        return Ok(response);
                    }
                    Err(error) => {
                        debug!(address, %error, "ask a controller");
                        self.ask_last(&address);
                        silent.insert(address.clone());
                        if matches!(request, Request::Propose(_)) && !surely_not_sent(&error) {
                            return Err(NoController::Unknown(format!("{address}: {error}")));
                        }
                        last = format!("{address}: {error}");
                    }
                }
            }
            // Who only wants to know more goes on with what is known when there is nobody to ask.
            let hopeless = !reached && *request == Request::Epoch;
            if hopeless || Instant::now() + ROUND_PAUSE >= deadline {
                return Err(NoController::Unreachable(last));
            }
            if hint.is_none() {
                sleep(ROUND_PAUSE).await;
            }
        }
    }

    /// One that is silent or does not get anything done must not hold up what another one can do.
    fn ask_last(&self, address: &str) {
        let mut lines = self.lines.lock();
        if let Some(place) = lines.iter().position(|line| line.address == address) {
            lines[place..].rotate_left(1);
        }
    }

    fn prefer(&self, address: &str) {
        let mut lines = self.lines.lock();
        if let Some(place) = lines.iter().position(|line| line.address == address) {
            lines[..=place].rotate_right(1);
        }
    }

    /// Logs a command; returns the reply, which is no refusal.
    pub async fn propose(&self, command: Command) -> Result<Reply, NoController> {
        let request = Request::Propose(command);
        match self.at_leader(&request, Instant::now() + PROPOSE_MAX).await? {
            Response::Reply(Reply::Refused(refusal)) => Err(NoController::Refused(refusal)),
            Response::Reply(reply) => Ok(reply),
            other => Err(NoController::Unknown(format!("unexpected answer {other:?}"))),
        }
    }

    /// The newest epoch, confirmed by a majority of the controllers.
    pub async fn epoch(&self) -> Result<u64, NoController> {
        match self.at_leader(&Request::Epoch, Instant::now() + EPOCH_MAX).await? {
            Response::Epoch(epoch) => Ok(epoch),
            other => Err(NoController::Unreachable(format!("unexpected answer {other:?}"))),
        }
    }
}
