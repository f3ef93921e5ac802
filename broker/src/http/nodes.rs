//! Nodes and the replicas on them: what is where, and what has to go elsewhere before a node can be switched off.

use std::sync::Arc;

use axum::http::StatusCode;
use flotilla_controller::metadata::{Metadata, RaftGroup};
use flotilla_controller::state::Command;
use serde_json::{Value, json};

use super::answer::Answer;
use super::execute::{Read, epoch, group_number};
use super::json::items;
use super::problem::Problem;
use super::{cluster, moves};
use crate::node::Broker;
use crate::peer::NodeView;
use crate::topic_changes;

/// All nodes; `groups` are the documents of all Raft groups.
pub fn documents(broker: &Broker, groups: &[Value]) -> Vec<Value> {
    let metadata = broker.metadata.snapshot();
    let seen = broker.peers.nodes().into_iter();
    let known = seen.filter(|node| metadata.nodes.contains_key(&node.name));
    known.map(|node| document(&metadata, &node, groups)).collect()
}

fn document(metadata: &Metadata, seen: &NodeView, groups: &[Value]) -> Value {
    let info = seen.info.as_ref();
    let record = metadata.nodes.get(&seen.name);
    let evacuating = record.is_some_and(|node| node.evacuating);
    let here = metadata.groups.values().filter(|group| group.on(&seen.name).is_some());
    let replicas = here.map(|group| replica_document(group, &seen.name, evacuating, groups));
    let replicas: Vec<Value> = replicas.collect();
    let remaining = replicas
        .iter()
        .filter_map(|replica| replica["remaining_bytes"].as_u64());
    let remaining_bytes: u64 = remaining.sum();
    json!({
        "node": seen.name,
        "alive": seen.living,
        "ready": info.is_some_and(|info| info.ready),
        "leaving": info.is_some_and(|info| info.leaving),
        "evacuating": evacuating,
        "evacuated": evacuating && replicas.is_empty(),
        "remaining_bytes": remaining_bytes,
        "zone": record.map(|node| node.zone.clone()).unwrap_or_default(),
        "address": info.and_then(|info| info.remoting),
        "http": info.and_then(|info| info.http),
        "name_server": info.and_then(|info| info.name_server),
        "peer": seen.peer_address,
        "replicas": replicas,
    })
}

fn replica_document(group: &RaftGroup, node: &str, evacuating: bool, groups: &[Value]) -> Value {
    let leaving = group.on(node).is_some_and(|member| member.leaving);
    let shown = groups.iter().find(|shown| shown["name"] == group.name.as_str());
    let members = || {
        shown
            .and_then(|shown| shown["members"].as_array())
            .into_iter()
            .flatten()
    };
    let here = members().find(|member| member["node"] == node);
    let lacking = || members().filter_map(|member| member["lag_bytes"].as_u64()).max();
    let whole = || shown.and_then(|shown| shown["commitlog"]["bytes"].as_u64());
    let remaining = match (leaving, evacuating) {
        (true, _) => lacking(),
        // Its successor is not chosen yet.
        (false, true) => whole(),
        (false, false) => None,
    };
    json!({
        "group": group.name,
        "role": here.map_or(Value::Null, |member| member["role"].clone()),
        "leaving": leaving,
        "remaining_bytes": remaining,
    })
}

/// `GET /v1/nodes`.
pub async fn list(broker: &Arc<Broker>) -> Read<Value> {
    let groups = cluster::group_documents(broker).await;
    Read {
        value: items(documents(broker, &groups.value)),
        stale: groups.stale,
    }
}

/// `GET /v1/nodes/{node}`.
pub async fn one(broker: &Arc<Broker>, node: &str) -> Result<Read<Value>, Problem> {
    let groups = cluster::group_documents(broker).await;
    let found = documents(broker, &groups.value).into_iter();
    let found = found.into_iter().find(|document| document["node"] == node);
    Ok(Read {
        value: found.ok_or_else(|| unknown(node))?,
        stale: groups.stale,
    })
}

fn unknown(node: &str) -> Problem {
    Problem::not_found(format!("node {node} does not exist"))
}

/// `POST /v1/nodes/{node}/evacuate` and `…/reopen`: 202 while replicas are left on it.
pub async fn set_evacuating(broker: &Arc<Broker>, node: String, evacuating: bool) -> Result<Answer, Problem> {
    let command = Command::SetEvacuating {
        node: node.clone(),
        evacuating,
    };
    let reply = broker.controllers.propose(command).await?;
    moves::arrived(broker, reply.epoch()).await?;
    let Read { value, .. } = one(broker, &node).await.map_err(Problem::unknown)?;
    let done = !evacuating || value["evacuated"] == true;
    let status = if done { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(Answer {
        status: status.as_u16(),
        body: value,
        epoch: epoch(broker),
    })
}

/// `DELETE /v1/nodes/{node}`: the cluster forgets a node that has no replicas and does not run.
pub async fn remove(broker: &Arc<Broker>, node: String) -> Result<Answer, Problem> {
    topic_changes::catch_up(broker).await;
    let runs = broker.peers.node(&node).is_some_and(|seen| seen.living);
    let is_known = broker.metadata.read(|metadata| metadata.nodes.contains_key(&node));
    if !is_known {
        return Err(unknown(&node).refused());
    }
    if runs {
        let detail = format!("{node} runs, and would register again: stop it first");
        return Err(Problem::new(StatusCode::CONFLICT, detail).refused());
    }
    let reply = broker.controllers.propose(Command::RemoveNode { node }).await?;
    moves::arrived(broker, reply.epoch()).await?;
    Ok(Answer::ok(json!({}), epoch(broker)))
}

/// `POST /v1/groups/{group}/members`: a replica on another node, in place of one if that is named. 202: it is copied.
pub async fn add_member(
    broker: &Arc<Broker>,
    group: &str,
    node: String,
    replaces: Option<String>,
) -> Result<Answer, Problem> {
    change_members(broker, group, Some(node), replaces).await
}

/// `DELETE /v1/groups/{group}/members/{node}`.
pub async fn remove_member(broker: &Arc<Broker>, group: &str, node: String) -> Result<Answer, Problem> {
    topic_changes::catch_up(broker).await;
    let number = group_number(broker, group).map_err(Problem::refused)?;
    let is_member = broker.metadata.read(|metadata| {
        let group = metadata.groups.get(&number);
        group.is_some_and(|group| group.on(&node).is_some())
    });
    if !is_member {
        return Err(Problem::not_found(format!("{group} has no replica on {node}")).refused());
    }
    change_members(broker, group, None, Some(node)).await
}

async fn change_members(
    broker: &Arc<Broker>,
    group: &str,
    add: Option<String>,
    remove: Option<String>,
) -> Result<Answer, Problem> {
    topic_changes::catch_up(broker).await;
    let number = group_number(broker, group).map_err(Problem::refused)?;
    let command = Command::ChangeMembers {
        group: number,
        add,
        remove,
    };
    let reply = broker.controllers.propose(command).await?;
    moves::arrived(broker, reply.epoch()).await?;
    let Read { value, .. } = cluster::group(broker, group).await.map_err(Problem::unknown)?;
    Ok(Answer {
        status: StatusCode::ACCEPTED.as_u16(),
        body: value,
        epoch: epoch(broker),
    })
}
