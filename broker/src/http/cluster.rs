//! The cluster at a glance, Raft groups, digests, leadership.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_controller::metadata::Metadata;
use flotilla_controller::protocol::{Request, Response};
use flotilla_controller::state::{Command as ControllerCommand, QueueCounts};
use flotilla_raft_store::group::MemberStatus;
use flotilla_raft_store::log_id::LogId;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::info;

use super::answer::Answer;
use super::execute::{Read, at_leader, epoch, group_number, read, read_all};
use super::json::items;
use super::load;
use super::nodes;
use super::operation::Part;
use super::problem::Problem;
use crate::node::Broker;
use crate::peer::{DigestInfo, ReplicaInfo};
use crate::replica::Replica;
use crate::state::Command;

/// How long a controller is given to say how it is.
const CONTROLLER_ASK_TIMEOUT: Duration = Duration::from_millis(800);

/// Between two questions whether a replica has its digest.
const DIGEST_POLL: Duration = Duration::from_millis(20);
/// How long a replica is given to answer one such question.
const DIGEST_ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a transfer of leadership may take.
const TRANSFER_TIME_MAX: Duration = Duration::from_secs(5);

/// `GET /v1/cluster`.
pub async fn cluster(broker: &Arc<Broker>) -> Read<Value> {
    let (groups, controllers) = tokio::join!(group_documents(broker), controllers(broker));
    let id = broker.metadata.read(|metadata| metadata.cluster.id.clone());
    let value = json!({
        "cluster": broker.cluster,
        "id": id,
        "controllers": controllers,
        "nodes": nodes::documents(broker, &groups.value),
        "groups": groups.value,
        "version": env!("CARGO_PKG_VERSION"),
        "epoch": epoch(broker),
    });
    Read {
        value,
        stale: groups.stale,
    }
}

/// Controllers as the state names them, asked whether they live and who leads.
async fn controllers(broker: &Broker) -> Vec<Value> {
    let known = broker.metadata.read(|metadata| metadata.controllers.clone());
    let deadline = Instant::now() + CONTROLLER_ASK_TIMEOUT;
    let asked = known.into_iter().map(|(name, controller)| async move {
        let answer = broker
            .controllers
            .ask(&controller.address, &Request::Status, deadline)
            .await;
        let status = match answer {
            Ok(Response::Status(status)) => Some(status),
            _ => None,
        };
        (name, controller, status)
    });
    let answers = join_all(asked).await;
    // The newest term tells: one that was cut off may still think that it leads.
    let newest = answers.iter().filter_map(|(_, _, status)| status.as_ref());
    let newest = newest.max_by_key(|status| (status.term, status.leader.is_some()));
    let leader = newest.and_then(|status| status.leader.clone());
    let voters = newest.map(|status| status.voters.clone()).unwrap_or_default();
    let documents = answers.into_iter().map(|(name, controller, status)| {
        let lost = voters
            .iter()
            .any(|(id, voter)| *voter == name && *id != controller.replica);
        json!({
            "leader": leader.as_ref() == Some(&name),
            "node": name,
            "address": controller.address,
            "replica": controller.replica,
            // With the replica of a lost disk still counted a majority is harder to reach.
            "voter": voters.contains_key(&controller.replica) && !lost,
            "alive": status.is_some(),
            "epoch": status.map(|status| status.epoch),
        })
    });
    documents.collect()
}

/// `GET /v1/groups`.
pub async fn groups(broker: &Arc<Broker>) -> Read<Value> {
    let Read { value, stale } = group_documents(broker).await;
    Read {
        value: items(value),
        stale,
    }
}

/// `GET /v1/groups/{group}`.
pub async fn group(broker: &Arc<Broker>, group: &str) -> Result<Read<Value>, Problem> {
    let number = group_number(broker, group)?;
    let mut found = match read(broker, number, &Part::Group).await {
        Ok(found) => found,
        Err(problem) if problem.may_pass() => unknown_group(broker, number),
        Err(problem) => return Err(problem),
    };
    let metadata = broker.metadata.snapshot();
    add_placement(&mut found.value, &metadata, number, &open_queues(&metadata));
    Ok(found)
}

/// All Raft groups.
pub async fn group_documents(broker: &Arc<Broker>) -> Read<Vec<Value>> {
    let numbers: Vec<u16> = broker.groups().into_iter().map(|(number, _)| number).collect();
    let mut stale = false;
    let mut documents = Vec::new();
    let found = read_all(broker, &numbers, &Part::Group).await;
    let metadata = broker.metadata.snapshot();
    let open = open_queues(&metadata);
    for (number, found) in found {
        let mut found = found.unwrap_or_else(|| unknown_group(broker, number));
        add_placement(&mut found.value, &metadata, number, &open);
        stale |= found.stale;
        documents.push(found.value);
    }
    Read {
        value: documents,
        stale,
    }
}

fn open_queues(metadata: &Metadata) -> QueueCounts {
    QueueCounts::of(metadata.user_topics().map(Arc::as_ref))
}

/// What the controllers know of a Raft group, and its replicas do not.
fn add_placement(document: &mut Value, metadata: &Metadata, number: u16, open: &QueueCounts) {
    let group = metadata.groups.get(&number);
    document["draining"] = group.is_some_and(|group| group.draining).into();
    for member in document["members"].as_array_mut().into_iter().flatten() {
        let known = group.and_then(|group| group.members.iter().find(|known| member["replica"] == known.id));
        // One that the controllers have struck off is about to go.
        member["leaving"] = known.is_none_or(|known| known.leaving).into();
    }
    document["open_queues"] = open.open_in(number).into();
    document["coordinator_slots"] = metadata.slots_in(number).into();
}

/// A Raft group of which nobody says anything.
fn unknown_group(broker: &Broker, number: u16) -> Read<Value> {
    let group = broker.metadata.read(|metadata| metadata.groups.get(&number).cloned());
    let members = group.into_iter().flat_map(|group| group.members).map(|member| {
        json!({
            "node": member.node,
            "replica": member.id,
            "address": broker.peers.address(&member.node).unwrap_or_default(),
            "role": "follower",
            "alive": broker.peers.is_living(&member.node),
            "matched_index": null,
            "applied_index": null,
            "lag_bytes": null,
            "closed": null,
            "digest": null,
        })
    });
    let value = json!({
        "name": broker.group_name(number),
        "number": number,
        "leader": null,
        "term": 0,
        "members": members.collect::<Vec<_>>(),
        "committed_index": null,
        "applied_index": null,
        "rate": null,
        "commitlog": { "min_offset": 0, "max_offset": 0, "bytes": 0 },
    });
    Read { value, stale: true }
}

/// A Raft group as one of its replicas sees it.
pub fn group_document(broker: &Broker, replica: &Replica) -> Value {
    let status = replica.group.status();
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
    let members: Vec<Value> = member_documents(broker, replica)
        .into_iter()
        .map(|(_, member)| member)
        .collect();
    let preferred = broker.metadata.read(|metadata| {
        metadata
            .groups
            .get(&replica.number)
            .map(|group| group.preferred.clone())
    });
    let kept = replica.state.kept(broker.settings.policy.retention_ms());
    json!({
        "name": replica.name,
        "number": replica.number,
        "kept_segments": kept.segments,
        "kept_until": kept.until_ms,
        "leader": status.leader,
        "preferred_leader": preferred,
        "term": status.term,
        "members": members,
        "committed_index": index(status.committed),
        "applied_index": index(status.applied),
        "rate": load::of_group(replica).map(load::shown),
        "commitlog": {
            "min_offset": status.log_offsets.0,
            "max_offset": status.log_offsets.1,
            "bytes": status.log_bytes,
        },
    })
}

fn member_documents(broker: &Broker, leader: &Replica) -> Vec<(String, Value)> {
    let status = leader.group.status();
    let here = leader.info();
    let document = |member: &MemberStatus| {
        let seen = broker.peers.node(&member.node);
        let alive = seen.as_ref().is_some_and(|node| node.living);
        let replica = match member.node == broker.node {
            true => Some(here.clone()),
            false => seen
                .as_ref()
                .and_then(|node| node.info.as_ref()?.replicas.get(&leader.number).cloned()),
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

/// `POST /v1/groups/{group}/digest`, at the leader.
pub async fn digest(broker: &Arc<Broker>, replica: &Replica, deadline: Instant) -> Result<Answer, Problem> {
    let nonce = rand::random();
    let proposed = replica
        .group
        .propose(vec![Command::DigestPoint { nonce }.encode()])
        .await?;
    let members = replica.group.status().members;
    let asked = members.iter().map(|member| async move {
        let digest = match member.node == broker.node {
            true => own_digest(replica, nonce, deadline).await,
            false if !lives(broker, &member.node).await => return None,
            false => digest_of(broker, &member.node, replica.number, nonce, deadline).await,
        };
        Some((member.node.clone(), digest))
    });
    let mut computed = Vec::new();
    let mut late = Vec::new();
    for (node, digest) in join_all(asked).await.into_iter().flatten() {
        match digest {
            Some(digest) => computed.push((node, digest)),
            None => late.push(node),
        }
    }
    if !late.is_empty() {
        let detail = format!("no digest of {} in time", late.join(", "));
        return Err(Problem::unavailable(detail).unknown());
    }
    let equal = computed.windows(2).all(|pair| pair[0].1 == pair[1].1);
    let value = computed.first().map(|(_, digest)| format!("{:016x}", digest.value));
    let document = |node: &String| {
        computed
            .iter()
            .find(|(name, _)| name == node)
            .map(|(_, digest)| *digest)
    };
    let mut shown = member_documents(broker, replica);
    for (node, member) in &mut shown {
        member["digest"] = document(node).map_or(Value::Null, digest_document);
    }
    let shown: Vec<Value> = shown.into_iter().map(|(_, member)| member).collect();
    let body = json!({ "index": proposed.log_id.index, "value": value, "equal": equal, "members": shown });
    Ok(Answer::ok(body, epoch(broker)))
}

/// One that was not heard of lately is asked: it may just have come.
async fn lives(broker: &Broker, node: &str) -> bool {
    let until = Instant::now() + DIGEST_ASK_TIMEOUT;
    broker.peers.is_living(node) || broker.peers.ask_info(node, until).await.is_ok()
}

async fn own_digest(replica: &Replica, nonce: u64, deadline: Instant) -> Option<DigestInfo> {
    while Instant::now() < deadline {
        if let Some(digest) = replica.last_digest().filter(|digest| digest.nonce == nonce) {
            return Some(digest);
        }
        tokio::time::sleep(DIGEST_POLL).await;
    }
    None
}

/// Asks until the replica has passed the digest point. One that stopped answering is no live replica any more, yet
/// nobody can tell what it would have said: the operation is not complete.
async fn digest_of(broker: &Broker, node: &str, group: u16, nonce: u64, deadline: Instant) -> Option<DigestInfo> {
    while Instant::now() < deadline {
        let until = deadline.min(Instant::now() + DIGEST_ASK_TIMEOUT);
        let info = broker.peers.ask_info(node, until).await.ok();
        let digest = info.and_then(|info| info.replicas.get(&group)?.digest);
        if digest.is_some_and(|digest| digest.nonce == nonce) {
            return digest;
        }
        tokio::time::sleep(DIGEST_POLL).await;
    }
    None
}

/// `POST /v1/groups/{group}/leader`: the node leads from now on, and should lead again when it comes back.
pub async fn transfer_leader(broker: &Arc<Broker>, group: &str, node: String) -> Result<Answer, Problem> {
    let number = group_number(broker, group).map_err(Problem::refused)?;
    let prefer = ControllerCommand::PreferLeader {
        group: number,
        node: node.clone(),
    };
    let part = Part::TransferLeader { node };
    let answer = at_leader(broker, number, &part).await?;
    // Without a controller leadership moves all the same, only not for good.
    if let Err(error) = broker.controllers.propose(prefer).await {
        info!(group, %error, "the new leader was not written down as the preferred one");
    }
    Ok(answer)
}

/// The part of [`transfer_leader`] of the node that leads.
pub async fn transfer(broker: &Broker, replica: &Replica, node: &str) -> Result<Answer, Problem> {
    let group = &replica.name;
    if !replica
        .group
        .status()
        .members
        .iter()
        .any(|member| member.node == node && member.voter)
    {
        return Err(Problem::not_found(format!("{node} is no voter of {group}")).refused());
    }
    if node != broker.node {
        match timeout(TRANSFER_TIME_MAX, replica.group.transfer_leader(Some(node))).await {
            Ok(outcome) => outcome.map_err(|error| Problem::from(error).unknown())?,
            Err(_) => {
                let problem = Problem::unavailable(format!("{node} did not take over in time"));
                return Err(problem.unknown());
            }
        }
    }
    let status = replica.group.status();
    Ok(Answer::ok(
        json!({ "name": group, "leader": status.leader, "term": status.term }),
        epoch(broker),
    ))
}
