//! The cluster, its nodes and its Raft groups.

use serde::{Deserialize, Serialize};

use super::Rate;

/// `GET /v1/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cluster {
    /// Cluster name.
    pub cluster: String,
    /// Controllers.
    #[serde(default)]
    pub controllers: Vec<ControllerNode>,
    /// Nodes.
    #[serde(default)]
    pub nodes: Vec<Node>,
    /// Raft groups.
    #[serde(default)]
    pub groups: Vec<RaftGroup>,
    /// Whether the answer may be older than the controller's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

/// A controller.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ControllerNode {
    /// Node name.
    pub node: String,
    /// Address.
    pub address: String,
    /// Whether it leads.
    pub leader: bool,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Node {
    /// Node name.
    pub node: String,
    /// Remoting address.
    pub address: String,
    /// HTTP address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Address for other nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Whether the answering node can reach it.
    #[serde(default)]
    pub alive: bool,
}

/// `GET /v1/groups/{group}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RaftGroup {
    /// Name.
    pub name: String,
    /// Its queues leave, and it gets no others.
    #[serde(default)]
    pub draining: bool,
    /// Queues whose writes go to it.
    #[serde(default)]
    pub open_queues: u64,
    /// Coordinator slots whose consumer groups it has the members of.
    #[serde(default)]
    pub coordinator_slots: u64,
    /// What comes in; nothing if the leader could not say.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// Leading node.
    pub leader: Option<String>,
    /// Term.
    pub term: u64,
    /// Replicas.
    pub members: Vec<GroupMember>,
    /// Highest committed log index.
    pub committed_index: Option<u64>,
    /// Highest applied log index of the answering node.
    pub applied_index: Option<u64>,
    /// What the log holds.
    pub commitlog: CommitLogBounds,
}

/// A replica.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupMember {
    /// Node name.
    pub node: String,
    /// Address.
    pub address: String,
    /// What it does.
    pub role: GroupRole,
    /// Highest log index it is known to have.
    pub matched_index: Option<u64>,
    /// Bytes it lacks.
    pub lag_bytes: Option<u64>,
    /// Its last digest.
    pub digest: Option<Digest>,
}

/// What a replica does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupRole {
    /// Takes writes.
    Leader,
    /// Votes.
    #[default]
    Follower,
    /// Only copies.
    Learner,
}

/// The value of a replica's state at a log index; equal on all replicas.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest {
    /// Log index.
    pub index: u64,
    /// Value, in hex.
    pub value: String,
}

/// `POST /v1/groups/{group}/digest`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DigestAnswer {
    /// Log index of the digest point.
    pub index: u64,
    /// Replicas with their digests there.
    pub members: Vec<GroupMember>,
    /// Whether all of them are equal.
    pub equal: bool,
}

/// `POST /v1/groups/{group}/leader`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeaderChange {
    /// Node that shall lead.
    pub node: String,
}

/// `POST /v1/groups/{group}/members`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    /// Node that gets a replica.
    pub node: String,
    /// Node whose replica goes once the new one has a vote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// What a log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CommitLogBounds {
    /// First byte.
    pub min_offset: u64,
    /// After the last byte.
    pub max_offset: u64,
    /// Bytes on disk.
    pub bytes: u64,
}
