//! Nodes, Raft groups, digests, leadership.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_raft_store::group::MemberStatus;
use flotilla_raft_store::log_id::LogId;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::info;

use super::answer::Answer;
use super::execute::epoch;
use super::json::items;
use super::problem::Problem;
use crate::node::{Broker, last_digest, replica_info};
use crate::peer::{DigestInfo, ReplicaInfo};
use crate::state::Command;

/// Between two questions whether a replica has its digest.
const DIGEST_POLL: Duration = Duration::from_millis(20);
/// How long a replica is given to answer one such question.
const DIGEST_ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a transfer of leadership may take.
const TRANSFER_TIME_MAX: Duration = Duration::from_secs(5);

/// `GET /v1/cluster`.
pub fn cluster(broker: &Broker) -> Value {
    let nodes: Vec<Value> = broker
        .peers
        .nodes()
        .into_iter()
        .map(|node| {
            let info = node.info.as_ref();
            json!({
                "node": node.name,
                "alive": node.living,
                "ready": info.is_some_and(|info| info.ready),
                "leaving": info.is_some_and(|info| info.leaving),
                "address": info.and_then(|info| info.remoting),
                "http": info.and_then(|info| info.http),
                "name_server": info.and_then(|info| info.name_server),
                "peer": node.peer_address,
            })
        })
        .collect();
    json!({
        "cluster": broker.cluster,
        "controllers": [],
        "nodes": nodes,
        "groups": [group_document(broker)],
        "version": env!("CARGO_PKG_VERSION"),
        "epoch": epoch(broker),
    })
}

/// `GET /v1/groups`.
pub fn groups(broker: &Broker) -> Value {
    items(vec![group_document(broker)])
}

/// `GET /v1/groups/{group}`.
pub fn group(broker: &Broker, group: &str) -> Result<Value, Problem> {
    check_group(broker, group)?;
    Ok(group_document(broker))
}

fn check_group(broker: &Broker, group: &str) -> Result<(), Problem> {
    if group == broker.group_name {
        Ok(())
    } else {
        Err(Problem::not_found(format!("raft group {group} does not exist")))
    }
}

fn group_document(broker: &Broker) -> Value {
    let status = broker.group.status();
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
    let members: Vec<Value> = member_documents(broker).into_iter().map(|(_, member)| member).collect();
    json!({
        "name": broker.group_name,
        "number": broker.group_number,
        "leader": status.leader,
        "term": status.term,
        "members": members,
        "committed_index": index(status.committed),
        "applied_index": index(status.applied),
        "commitlog": {
            "min_offset": status.log_offsets.0,
            "max_offset": status.log_offsets.1,
            "bytes": status.log_bytes,
        },
    })
}

fn member_documents(broker: &Broker) -> Vec<(String, Value)> {
    let status = broker.group.status();
    let here = replica_info(broker);
    let document = |member: &MemberStatus| {
        let seen = broker.peers.node(&member.node);
        let alive = seen.as_ref().is_some_and(|node| node.living);
        let replica = match member.node == broker.node {
            true => Some(here.clone()),
            false => seen
                .as_ref()
                .and_then(|node| node.info.as_ref()?.replica_status.clone()),
        };
        let role = match (status.leader.as_deref() == Some(&member.node), member.voter) {
            (true, _) => "leader",
            (false, true) => "follower",
            (false, false) => "learner",
        };
        let own = (member.node == broker.node).then_some(here.last_index);
        let matched = own
            .or(member.matched_index)
            .or(replica.as_ref().map(|replica| replica.flushed_index));
        json!({
            "node": member.node,
            "replica": member.replica,
            "address": seen.map(|node| node.peer_address).unwrap_or_default(),
            "role": role,
            "alive": alive,
            "matched_index": matched,
            "applied_index": replica.as_ref().map(|replica| replica.applied_index),
            "lag_bytes": replica.as_ref().map(|replica| lag_bytes(&here, replica)),
            "closed": replica.as_ref().and_then(|replica| replica.closed.clone()),
            "digest": replica.and_then(|replica| replica.digest).map(digest_document),
        })
    };
    status
        .members
        .iter()
        .map(|member| (member.node.clone(), document(member)))
        .collect()
}

/// Replicas write the same bytes at the same log offsets, so the ends can be compared.
fn lag_bytes(here: &ReplicaInfo, replica: &ReplicaInfo) -> u64 {
    here.log_offset_end.saturating_sub(replica.log_offset_end)
}

/// The value in hexadecimal: JSON numbers lose the last bits of it in most readers.
fn digest_document(digest: DigestInfo) -> Value {
    json!({ "index": digest.index, "value": format!("{:016x}", digest.value) })
}

/// `POST /v1/groups/{group}/digest`.
pub async fn digest(broker: &Arc<Broker>, group: &str, deadline: Instant) -> Result<Answer, Problem> {
    check_group(broker, group).map_err(Problem::refused)?;
    let nonce = rand::random();
    let proposed = broker
        .group
        .propose(vec![Command::DigestPoint { nonce }.encode()])
        .await?;
    let asked = broker
        .peers
        .nodes()
        .into_iter()
        .filter(|node| node.living)
        .map(|node| async move {
            let digest = match node.here {
                true => own_digest(broker, nonce, deadline).await,
                false => digest_of(broker, &node.name, nonce, deadline).await,
            };
            (node.name, digest)
        });
    let mut members = Vec::new();
    let mut late = Vec::new();
    for (node, digest) in join_all(asked).await {
        match digest {
            Some(digest) => members.push((node, digest)),
            None => late.push(node),
        }
    }
    if !late.is_empty() {
        let detail = format!("no digest of {} in time", late.join(", "));
        return Err(Problem::unavailable(detail).unknown());
    }
    let equal = members.windows(2).all(|pair| pair[0].1 == pair[1].1);
    let value = members.first().map(|(_, digest)| format!("{:016x}", digest.value));
    let document = |node: &String| members.iter().find(|(name, _)| name == node).map(|(_, digest)| *digest);
    let mut shown = member_documents(broker);
    for (node, member) in &mut shown {
        member["digest"] = document(node).map_or(Value::Null, digest_document);
    }
    let shown: Vec<Value> = shown.into_iter().map(|(_, member)| member).collect();
    let body = json!({ "index": proposed.log_id.index, "value": value, "equal": equal, "members": shown });
    Ok(Answer::ok(body, proposed.log_id.index))
}

async fn own_digest(broker: &Broker, nonce: u64, deadline: Instant) -> Option<DigestInfo> {
    while Instant::now() < deadline {
        if let Some(digest) = last_digest(broker).filter(|digest| digest.nonce == nonce) {
            return Some(digest);
        }
        tokio::time::sleep(DIGEST_POLL).await;
    }
    None
}

/// Asks until the replica has passed the digest point. One that stopped answering is no live replica any more, yet
/// nobody can tell what it would have said: the operation is not complete.
async fn digest_of(broker: &Broker, node: &str, nonce: u64, deadline: Instant) -> Option<DigestInfo> {
    while Instant::now() < deadline {
        let until = deadline.min(Instant::now() + DIGEST_ASK_TIMEOUT);
        let info = broker.peers.ask_info(node, until).await.ok();
        let digest = info.and_then(|info| info.replica_status?.digest);
        if digest.is_some_and(|digest| digest.nonce == nonce) {
            return digest;
        }
        tokio::time::sleep(DIGEST_POLL).await;
    }
    None
}

/// `POST /v1/groups/{group}/leader`.
pub async fn transfer_leader(broker: &Broker, group: &str, node: &str) -> Result<Answer, Problem> {
    check_group(broker, group).map_err(Problem::refused)?;
    if !broker
        .group
        .status()
        .members
        .iter()
        .any(|member| member.node == node && member.voter)
    {
        return Err(Problem::not_found(format!("{node} is no voter of {group}")).refused());
    }
    if node != broker.node {
        match timeout(TRANSFER_TIME_MAX, broker.group.transfer_leader(Some(node))).await {
            Ok(outcome) => outcome.map_err(|error| Problem::from(error).unknown())?,
            Err(_) => {
                let problem = Problem::unavailable(format!("{node} did not take over in time"));
                return Err(problem.unknown());
            }
        }
    }
    let status = broker.group.status();
    Ok(Answer::ok(
        json!({ "name": group, "leader": status.leader, "term": status.term }),
        epoch(broker),
    ))
}

/// A node whose disk was lost comes back under a replica id that was never used.
pub async fn rejoin(broker: &Broker, node: &str, replica: u64) -> Result<Answer, Problem> {
    let members = broker.group.status().members;
    let known = members.iter().map(|member| member.replica).max().unwrap_or(0);
    let present = members
        .iter()
        .any(|member| member.replica == replica && member.node == node);
    if !present && replica <= known {
        let detail = format!("replica id {replica} may have been used: a new one is above {known}");
        return Err(Problem::malformed(detail).refused());
    }
    let voter = members.iter().any(|member| member.replica == replica && member.voter);
    if !voter {
        broker.group.add_member(replica, node).await?;
        info!(node, replica, "a replica joined");
    }
    for old in members
        .iter()
        .filter(|member| member.node == node && member.replica != replica)
    {
        broker.group.remove_member(old.replica).await?;
        info!(node, replica = old.replica, "the lost replica was removed");
    }
    Ok(Answer::ok(json!({ "node": node, "replica": replica }), epoch(broker)))
}
