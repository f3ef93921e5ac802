//! What other processes ask controllers, and what they are told: JSON over the calls of the controller port.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::metadata::Update;
use crate::state::{Command, Reply};

/// A question to a controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// What changed after this epoch? Answered by any controller from its own state; waits for a change.
    Watch {
        /// The epoch of the asker's copy; 0 without one.
        epoch: u64,
        /// The id of the cluster the copy is of; empty without one.
        cluster: String,
        /// How long to wait for a change, in milliseconds.
        wait_ms: u64,
        /// Only the leader answers, which is never behind.
        at_leader: bool,
    },
    /// Log a command. Only the leader does.
    Propose(Command),
    /// The newest epoch, confirmed by a majority. Only the leader knows.
    Epoch,
    /// Who are you, and who leads?
    Status,
    /// A controller with an empty disk wants to take part.
    Join {
        /// Its name.
        name: String,
        /// `host:port` of its controller port.
        address: String,
        /// Its volume.
        volume: String,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Watch`]: `None` if nothing changed in time.
    Update(Option<Update>),
    /// To [`Request::Propose`].
    Reply(Reply),
    /// To [`Request::Epoch`].
    Epoch(u64),
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Join`]: take part with this replica id and founding.
    Joined {
        /// The replica id.
        replica: u64,
        /// The cluster.
        founding: Founding,
    },
    /// Ask another one; nothing was done.
    NotLeader {
        /// `host:port` of the leader's controller port, if it is known.
        leader: Option<String>,
    },
    /// Nothing was done.
    Unavailable(String),
    /// It may or may not have been done.
    Unknown(String),
}

/// A controller as it sees itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// The name of the cluster it is configured for.
    pub cluster: String,
    /// Its volume.
    pub volume: String,
    /// What it took part in founding, once it did.
    pub founding: Option<Founding>,
    /// The name of the controller that leads, if it knows.
    pub leader: Option<String>,
    /// Raft term.
    pub term: u64,
    /// The epoch of its state.
    pub epoch: u64,
    /// Its replica takes part in Raft.
    pub takes_part: bool,
    /// The controllers that vote, by Raft id, as far as it knows.
    pub voters: BTreeMap<u64, String>,
}

/// How a cluster began: its id, and the controllers that were there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// The cluster's name.
    pub cluster: String,
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// The first controllers by name.
    pub members: BTreeMap<String, Founder>,
}

/// A controller that was there when the cluster began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    /// Its Raft id.
    pub replica: u64,
    /// Its volume.
    pub volume: String,
    /// `host:port` of its controller port.
    pub address: String,
}

impl Founding {
    /// The id's bytes; `None` if it is not one.
    pub fn id_bytes(&self) -> Option<[u8; 16]> {
        cluster_id_bytes(&self.id)
    }
}

/// The bytes of a cluster id written in hexadecimal.
pub fn cluster_id_bytes(id: &str) -> Option<[u8; 16]> {
    let number = u128::from_str_radix(id, 16).ok().filter(|_| id.len() == 32)?;
    Some(number.to_be_bytes())
}
