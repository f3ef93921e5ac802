//! Has an operation carried out where the leader is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::answer::Answer;
use super::operation::Operation;
use super::problem::Problem;
use super::{cluster, consumer_groups, messages, topics};
use crate::node::Broker;
use crate::peer::{self, CallKind};

/// How long an operation may take, waiting for a leader included.
const OPERATION_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a read waits for a leader before this node's own copy is shown.
const FRESH_READ_WAIT_MAX: Duration = Duration::from_millis(2_500);
/// Between two looks for a leader.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Carries an operation out, here or at the leader.
pub async fn execute(broker: &Arc<Broker>, operation: Operation) -> Result<Answer, Problem> {
    let patience = if operation.is_write() {
        OPERATION_TIME_MAX
    } else {
        FRESH_READ_WAIT_MAX
    };
    let deadline = Instant::now() + patience;
    loop {
        let seen = broker.group.leadership();
        let problem = match attempt(broker, &operation, seen.leader.as_deref(), deadline).await {
            Err(problem) if problem.may_pass() => problem,
            outcome => return outcome,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return match operation.is_write() {
                true => Err(problem.refused()),
                false => read(broker, &operation).await.map(Answer::stale),
            };
        }
        // Whether something changed or not: look again.
        let _ = timeout(left.min(LOOK_AGAIN), broker.group.leadership_changed(&seen)).await;
    }
}

async fn attempt(
    broker: &Arc<Broker>,
    operation: &Operation,
    leader: Option<&str>,
    deadline: Instant,
) -> Result<Answer, Problem> {
    match leader {
        Some(leader) if leader != broker.node => call_leader(broker, leader, operation, deadline).await,
        Some(_) => at_leader(broker, operation, deadline).await,
        None => Err(Problem::not_leader()),
    }
}

/// Carries an operation out on this node, which leads.
async fn at_leader(broker: &Arc<Broker>, operation: &Operation, deadline: Instant) -> Result<Answer, Problem> {
    if operation.is_write() {
        return write(broker, operation, deadline).await;
    }
    let left = deadline.saturating_duration_since(Instant::now());
    match timeout(left, broker.group.read_index()).await {
        Ok(confirmed) => confirmed?,
        Err(_) => return Err(Problem::unavailable("no majority confirmed the read in time")),
    }
    read(broker, operation).await
}

async fn write(broker: &Arc<Broker>, operation: &Operation, deadline: Instant) -> Result<Answer, Problem> {
    match operation {
        Operation::Digest { group } => cluster::digest(broker, group, deadline).await,
        Operation::TransferLeader { group, node } => cluster::transfer_leader(broker, group, node).await,
        Operation::Rejoin { node, replica } => cluster::rejoin(broker, node, *replica).await,
        Operation::PutTopic { topic, settings } => topics::put(broker, topic, settings).await,
        Operation::DeleteTopic { topic } => topics::delete(broker, topic).await,
        read => unreachable!("{read:?} is a read"),
    }
}

/// Answers a read from this node's state.
async fn read(broker: &Arc<Broker>, operation: &Operation) -> Result<Answer, Problem> {
    let body = match operation {
        Operation::Cluster => cluster::cluster(broker),
        Operation::Groups => cluster::groups(broker),
        Operation::Group { group } => cluster::group(broker, group)?,
        Operation::Topics => topics::list(broker),
        Operation::Topic { topic } => topics::one(broker, topic)?,
        Operation::Queues { topic } => topics::queues(broker, topic)?,
        Operation::ConsumerGroups => consumer_groups::list(broker),
        Operation::ConsumerGroup { consumer_group } => consumer_groups::one(broker, consumer_group)?,
        Operation::Messages { selection } => messages::find(broker, selection).await?,
        write => unreachable!("{write:?} is a write"),
    };
    Ok(Answer::ok(body, epoch(broker)))
}

/// The last log index this node's state reflects.
pub fn epoch(broker: &Broker) -> u64 {
    broker.state.applied().map_or(0, |id| id.index)
}

/// An operation's way back from the leader.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Answer(Answer),
    Problem(Problem),
}

async fn call_leader(
    broker: &Broker,
    leader: &str,
    operation: &Operation,
    deadline: Instant,
) -> Result<Answer, Problem> {
    let request = serde_json::to_vec(operation).map_err(|error| Problem::malformed(error.to_string()))?;
    let reply = match broker
        .peers
        .call_kind(leader, CallKind::Admin, request.into(), deadline)
        .await
    {
        Ok(reply) => reply,
        Err(error) if peer::surely_not_sent(&error) => return Err(Problem::not_leader()),
        Err(error) => {
            let problem = Problem::unavailable(format!("ask the leader {leader}: {error}"));
            return Err(if operation.is_write() {
                problem.unknown()
            } else {
                problem
            });
        }
    };
    match serde_json::from_slice(&reply) {
        Ok(Reply::Answer(answer)) => Ok(answer),
        Ok(Reply::Problem(problem)) => Err(problem),
        Err(error) => Err(Problem::unavailable(format!("garbled reply of {leader}: {error}")).unknown()),
    }
}

/// Serves an operation another node passed on; registered with the peer listener.
pub async fn serve_forwarded(broker: &Arc<Broker>, request: Bytes, deadline: Instant) -> Result<Bytes, String> {
    let operation: Operation = serde_json::from_slice(&request).map_err(|error| error.to_string())?;
    let outcome = match broker.group.is_leader() {
        true => at_leader(broker, &operation, deadline).await,
        false => Err(Problem::not_leader()),
    };
    let reply = match outcome {
        Ok(answer) => Reply::Answer(answer),
        Err(problem) => Reply::Problem(problem),
    };
    serde_json::to_vec(&reply)
        .map(Bytes::from)
        .map_err(|error| error.to_string())
}
