//! Has an operation carried out: what the controllers decide through them, what a Raft group knows at its leader, and
//! the rest from this process's copy of the metadata, confirmed to be the newest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;

use super::answer::Answer;
use super::operation::{Operation, Part};
use super::problem::Problem;
use super::{cluster, consumer_groups, load, messages, moves, nodes, topics};
use crate::node::Broker;
use crate::peer::{self, CallKind};
use crate::replica::Replica;
use crate::topic_changes;

/// How long an operation may take, waiting for a leader included.
const OPERATION_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a read waits for a leader before this node's own copy is shown.
const FRESH_READ_WAIT_MAX: Duration = Duration::from_millis(2_500);
/// Between two looks for a leader.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Something read, and whether a newer one may exist.
#[derive(Clone, Debug)]
pub struct Read<T> {
    /// What was read.
    pub value: T,
    /// Not confirmed as the newest.
    pub stale: bool,
}

/// Carries an operation out.
pub async fn execute(broker: &Arc<Broker>, operation: Operation) -> Result<Answer, Problem> {
    match operation {
        Operation::Digest { group } => {
            let number = group_number(broker, &group).map_err(Problem::refused)?;
            at_leader(broker, number, &Part::Digest).await
        }
        Operation::TransferLeader { group, node } => cluster::transfer_leader(broker, &group, node).await,
        Operation::Evacuate { node, evacuating } => nodes::set_evacuating(broker, node, evacuating).await,
        Operation::RemoveNode { node } => nodes::remove(broker, node).await,
        Operation::AddMember { group, node, replaces } => nodes::add_member(broker, &group, node, replaces).await,
        Operation::RemoveMember { group, node } => nodes::remove_member(broker, &group, node).await,
        Operation::Drain { group } => moves::drain(broker, &group).await,
        Operation::Reopen { group } => moves::reopen(broker, &group).await,
        Operation::MoveQueue {
            topic,
            queue,
            group,
            wait,
        } => moves::move_queue(broker, topic, queue, &group, wait).await,
        Operation::Rebalance { dry_run } => moves::rebalance(broker, dry_run).await,
        Operation::PutTopic { topic, settings } => topics::put(broker, &topic, &settings).await,
        Operation::DeleteTopic { topic } => topics::delete(broker, &topic).await,
        read => {
            // The copy answers for the cluster only when it is as new as the controllers say.
            let confirmed = topic_changes::catch_up(broker).await;
            let Read { value, stale } = match read {
                Operation::Cluster => cluster::cluster(broker).await,
                Operation::Groups => cluster::groups(broker).await,
                Operation::Group { group } => cluster::group(broker, &group).await?,
                Operation::Nodes => nodes::list(broker).await,
                Operation::Node { node } => nodes::one(broker, &node).await?,
                Operation::Moves => fresh(moves::list(broker)),
                Operation::Move { id } => fresh(moves::one(broker, id)?),
                Operation::Topics => fresh(topics::list(broker)),
                Operation::Topic { topic } => fresh(topics::one(broker, &topic)?),
                Operation::Queues { topic } => topics::queues(broker, &topic).await?,
                Operation::ConsumerGroups => consumer_groups::list(broker).await?,
                Operation::ConsumerGroup { consumer_group } => consumer_groups::one(broker, &consumer_group).await?,
                Operation::Messages { selection } => messages::find(broker, &selection).await?,
                write => unreachable!("{write:?} is a write"),
            };
            let answer = Answer::ok(value, epoch(broker));
            Ok(if stale || !confirmed { answer.stale() } else { answer })
        }
    }
}

fn fresh(value: Value) -> Read<Value> {
    Read { value, stale: false }
}

/// The epoch of this process's copy of the metadata.
pub fn epoch(broker: &Broker) -> u64 {
    broker.metadata.epoch()
}

/// The number of the Raft group called `name`.
pub fn group_number(broker: &Broker, name: &str) -> Result<u16, Problem> {
    let number = broker.metadata.read(|metadata| metadata.group_number(name));
    number.ok_or_else(|| Problem::not_found(format!("raft group {name} does not exist")))
}

/// What the leader of a Raft group answers, or the replica here when no leader can be reached.
pub async fn read(broker: &Arc<Broker>, group: u16, part: &Part) -> Result<Read<Value>, Problem> {
    let problem = match at_leader(broker, group, part).await {
        Ok(answer) => {
            return Ok(Read {
                value: answer.body,
                stale: false,
            });
        }
        Err(problem) if problem.may_pass() => problem,
        Err(problem) => return Err(problem),
    };
    match broker.replicas.get(group) {
        Some(replica) => Ok(Read {
            value: serve_read(broker, &replica, part).await?,
            stale: true,
        }),
        None => Err(problem),
    }
}

/// [`read`] of several Raft groups at once; `None` of those that cannot be read at all.
pub async fn read_all(broker: &Arc<Broker>, groups: &[u16], part: &Part) -> Vec<(u16, Option<Read<Value>>)> {
    let asked = groups
        .iter()
        .map(|group| async move { (*group, read(broker, *group, part).await.ok()) });
    join_all(asked).await
}

/// Has the leader of a Raft group do its part, here or one hop away.
pub async fn at_leader(broker: &Arc<Broker>, group: u16, part: &Part) -> Result<Answer, Problem> {
    let patience = if part.is_write() {
        OPERATION_TIME_MAX
    } else {
        FRESH_READ_WAIT_MAX
    };
    let deadline = Instant::now() + patience;
    loop {
        let seen = broker.leadership(group);
        let problem = match attempt(broker, group, part, seen.leader.as_deref(), deadline).await {
            Err(problem) if problem.may_pass() => problem,
            outcome => return outcome,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(if part.is_write() { problem.refused() } else { problem });
        }
        // Whether something changed or not: look again.
        let _ = timeout(left.min(LOOK_AGAIN), broker.leadership_changed(group, &seen)).await;
    }
}

async fn attempt(
    broker: &Arc<Broker>,
    group: u16,
    part: &Part,
    leader: Option<&str>,
    deadline: Instant,
) -> Result<Answer, Problem> {
    match leader {
        Some(leader) if leader != broker.node => call_leader(broker, leader, group, part, deadline).await,
        Some(_) => match broker.replicas.get(group) {
            Some(replica) => serve(broker, &replica, part, deadline).await,
            None => Err(Problem::not_leader()),
        },
        None => Err(Problem::not_leader()),
    }
}

/// Does a part on this node, which leads the Raft group.
async fn serve(
    broker: &Arc<Broker>,
    replica: &Arc<Replica>,
    part: &Part,
    deadline: Instant,
) -> Result<Answer, Problem> {
    match part {
        Part::Digest => return cluster::digest(broker, replica, deadline).await,
        Part::TransferLeader { node } => return cluster::transfer(broker, replica, node).await,
        _ => {}
    }
    let left = deadline.saturating_duration_since(Instant::now());
    match timeout(left, replica.group.read_index()).await {
        Ok(confirmed) => confirmed?,
        Err(_) => return Err(Problem::unavailable("no majority confirmed the read in time")),
    }
    let value = serve_read(broker, replica, part).await?;
    Ok(Answer::ok(value, epoch(broker)))
}

/// Reads from a replica's own copy.
async fn serve_read(broker: &Broker, replica: &Replica, part: &Part) -> Result<Value, Problem> {
    Ok(match part {
        Part::Group => cluster::group_document(broker, replica),
        Part::Queues { topic } => topics::bounds(replica, topic),
        Part::Load => load::report(replica),
        Part::Members { consumer_group } => consumer_groups::members(replica, consumer_group.as_deref()),
        Part::Progress { topics } => consumer_groups::progress_document(replica, topics),
        Part::Place {
            topic,
            queue,
            offset,
            max,
        } => messages::by_place(replica, topic, *queue, *offset, *max).await?,
        Part::Key { topic, key, max } => messages::with_key(replica, topic, key, *max).await?,
        Part::Position { position } => messages::at_position(replica, *position).await?,
        Part::Digest | Part::TransferLeader { .. } => unreachable!("{part:?} is a write"),
    })
}

/// A part's way back from the leader.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Answer(Answer),
    Problem(Problem),
}

async fn call_leader(
    broker: &Broker,
    leader: &str,
    group: u16,
    part: &Part,
    deadline: Instant,
) -> Result<Answer, Problem> {
    let mut request = BytesMut::new();
    request.put_u16(group);
    request.extend(serde_json::to_vec(part).map_err(|error| Problem::malformed(error.to_string()))?);
    let asked = broker
        .peers
        .call_kind(leader, CallKind::Admin, request.freeze(), deadline);
    let reply = match asked.await {
        Ok(reply) => reply,
        Err(error) if peer::surely_not_sent(&error) => {
            broker.leaders.forget(group, leader);
            return Err(Problem::not_leader());
        }
        Err(error) => {
            let problem = Problem::unavailable(format!("ask the leader {leader}: {error}"));
            return Err(if part.is_write() { problem.unknown() } else { problem });
        }
    };
    match serde_json::from_slice(&reply) {
        Ok(Reply::Answer(answer)) => Ok(answer),
        Ok(Reply::Problem(problem)) => {
            if problem.not_leader {
                broker.leaders.forget(group, leader);
            }
            Err(problem)
        }
        Err(error) => Err(Problem::unavailable(format!("garbled reply of {leader}: {error}")).unknown()),
    }
}

/// Serves a part another process asks for; registered with the peer listener.
pub async fn serve_forwarded(broker: &Arc<Broker>, mut request: Bytes, deadline: Instant) -> Result<Bytes, String> {
    let group = request.try_get_u16().map_err(|error| error.to_string())?;
    let part: Part = serde_json::from_slice(&request).map_err(|error| error.to_string())?;
    let outcome = match broker.led(group) {
        Some(replica) => serve(broker, &replica, &part, deadline).await,
        None => Err(Problem::not_leader()),
    };
    let reply = match outcome {
        Ok(answer) => Reply::Answer(answer),
        Err(problem) => Reply::Problem(problem),
    };
    serde_json::to_vec(&reply)
        .map(Bytes::from)
        .map_err(|error| error.to_string())
}
