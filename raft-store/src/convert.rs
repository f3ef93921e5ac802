//! Between the Raft engine's types and our own: log ids, votes, records, and the bytes of a membership.
//!
//! Membership, big-endian: `configs: u8 | per config: voters: u16, id: u64 × voters | nodes: u16 |
//! per node: id: u64, name length: u16, name`. Two configs are a joint membership.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::impls::Entry;
use openraft::{EntryPayload, Membership};

use crate::bytes_reader::{BytesReader, Malformed};
use crate::commit_log::{Record, RecordKind};
use crate::log_id::LogId;
use crate::type_config::{EngineLogId, EngineVote, Member, Payload, u64Committed};
use crate::vote::StoredVote;

/// An entry as the engine writes it.
pub type EngineEntry = Entry<u64Committed, EntryPayload<Payload, u64, Member>>;

/// A membership as the engine writes it.
pub type EngineMembership = Membership<u64, Member>;

/// Ours from the engine's.
pub fn log_id(id: &EngineLogId) -> LogId {
    LogId::new(*id.leader_id, id.index)
}

/// The engine's from ours.
pub fn engine_log_id(id: LogId) -> EngineLogId {
    EngineLogId {
        leader_id: id.term.into(),
        index: id.index,
    }
}

/// The engine's vote as it is stored.
pub fn stored_vote(vote: &EngineVote) -> StoredVote {
    StoredVote {
        term: vote.leader_id.term,
        node: Some(vote.leader_id.voted_for),
        committed: vote.committed,
    }
}

/// A stored vote as the engine's; one without a node was never written by us.
pub fn engine_vote(vote: StoredVote) -> Option<EngineVote> {
    let node = vote.node?;
    Some(if vote.committed {
        EngineVote::new_committed(vote.term, node)
    } else {
        EngineVote::new(vote.term, node)
    })
}

/// The record of an entry. No payload byte is copied.
pub fn record(entry: EngineEntry) -> Record {
    let id = log_id(&entry.log_id);
    match entry.payload {
        EntryPayload::Blank => Record::new(id, RecordKind::Blank, Bytes::new()),
        EntryPayload::Normal(payload) => Record {
            log_id: id,
            kind: RecordKind::Normal,
            payload: payload.bytes,
            payload_crc: payload.crc,
        },
        EntryPayload::Membership(membership) => Record::new(id, RecordKind::Membership, encode_membership(&membership)),
    }
}

/// The entry of a record.
pub fn entry(record: Record) -> Result<EngineEntry, Malformed> {
    let payload = match record.kind {
        RecordKind::Blank => EntryPayload::Blank,
        RecordKind::Normal => EntryPayload::Normal(Payload {
            bytes: record.payload,
            crc: record.payload_crc,
        }),
        RecordKind::Membership => EntryPayload::Membership(decode_membership(record.payload)?),
    };
    Ok(EngineEntry {
        log_id: engine_log_id(record.log_id),
        payload,
    })
}

/// As [`entry`], for a record that was read from our own log.
pub fn own_entry(record: Record) -> io::Result<EngineEntry> {
    let index = record.log_id.index;
    entry(record).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("malformed membership at index {index}"),
        )
    })
}

/// The bytes of a membership, as in the module's layout.
pub fn encode_membership(membership: &EngineMembership) -> Bytes {
    let count = |length: usize| u16::try_from(length).expect("a group has a handful of members");
    let mut bytes = BytesMut::new();
    let configs = membership.get_joint_config();
    bytes.put_u8(u8::try_from(configs.len()).expect("at most two configs"));
    for config in configs {
        bytes.put_u16(count(config.len()));
        for id in config {
            bytes.put_u64(*id);
        }
    }
    let nodes: Vec<_> = membership.nodes().collect();
    bytes.put_u16(count(nodes.len()));
    for (id, member) in nodes {
        bytes.put_u64(*id);
        bytes.put_u16(count(member.node.len()));
        bytes.put_slice(member.node.as_bytes());
    }
    bytes.freeze()
}

/// The inverse of [`encode_membership`].
pub fn decode_membership(bytes: Bytes) -> Result<EngineMembership, Malformed> {
    let mut reader = BytesReader::new(bytes);
    let mut configs = Vec::new();
    for _ in 0..reader.u8()? {
        let mut voters = BTreeSet::new();
        for _ in 0..reader.u16()? {
            voters.insert(reader.u64()?);
        }
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..reader.u16()? {
        let id = reader.u64()?;
        nodes.insert(id, Member { node: reader.string()? });
    }
    EngineMembership::new(configs, nodes).map_err(|_| Malformed)
}

/// A membership with its log id as the engine keeps it.
pub type EngineStoredMembership = openraft::StoredMembership<u64Committed, u64, Member>;

/// The engine's stored membership from what a state machine keeps.
pub fn stored_membership(stored: Option<(LogId, Bytes)>) -> Result<EngineStoredMembership, Malformed> {
    Ok(match stored {
        None => EngineStoredMembership::default(),
        Some((id, bytes)) => EngineStoredMembership::new(Some(engine_log_id(id)), decode_membership(bytes)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> EngineMembership {
        let nodes = [(1, "n1"), (2, "n2"), (7, "n3")].map(|(id, name)| (id, Member { node: name.to_owned() }));
        EngineMembership::new(
            vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 7])],
            BTreeMap::from(nodes),
        )
        .unwrap()
    }

    #[test]
    fn membership_survives_its_bytes() {
        assert_eq!(
            decode_membership(encode_membership(&membership())).unwrap(),
            membership()
        );
    }

    #[test]
    fn any_cut_of_a_membership_is_refused() {
        let bytes = encode_membership(&membership());
        for end in 0..bytes.len() {
            assert!(decode_membership(bytes.slice(..end)).is_err(), "cut at {end}");
        }
    }
}
