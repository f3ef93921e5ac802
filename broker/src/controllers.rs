//! The way to the controllers: tries all addresses, remembers the one that answered, follows hints to the leader.
//!
//! Holds: a command whose outcome is unknown is not sent again; one that surely was not carried out is, until the
//! deadline. With no controller in reach callers get [`NoController::Unreachable`] and go on with what they know.

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

/// How long a question to one controller may take before the next one is asked.
const ASK_MAX: Duration = Duration::from_secs(2);
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
        let mut hint: Option<String> = None;
        let mut last = "none is configured".to_owned();
        loop {
            let mut addresses = self.addresses();
            if let Some(hint) = hint.take() {
                addresses.retain(|address| *address != hint);
                addresses.insert(0, hint);
            }
            for address in addresses {
                let until = deadline.min(Instant::now() + ASK_MAX);
                match self.ask(&address, request, until).await {
                    Ok(Response::NotLeader { leader }) => {
                        last = format!("{address} does not lead");
                        if let Some(leader) = leader.filter(|leader| *leader != address) {
                            hint = Some(leader);
                            break;
                        }
                    }
                    Ok(Response::Unavailable(reason)) => last = format!("{address}: {reason}"),
                    Ok(Response::Unknown(reason)) => return Err(NoController::Unknown(format!("{address}: {reason}"))),
                    Ok(response) => {
                        self.prefer(&address);
                        return Ok(response);
                    }
                    Err(error) => {
                        debug!(address, %error, "ask a controller");
                        if matches!(request, Request::Propose(_)) && !surely_not_sent(&error) {
                            return Err(NoController::Unknown(format!("{address}: {error}")));
                        }
                        last = format!("{address}: {error}");
                    }
                }
            }
            if Instant::now() + ROUND_PAUSE >= deadline {
                return Err(NoController::Unreachable(last));
            }
            if hint.is_none() {
                sleep(ROUND_PAUSE).await;
            }
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
