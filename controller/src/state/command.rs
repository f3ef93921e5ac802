//! The commands of the controllers' Raft group, as they stand in its log.
//!
//! A frame is `version: 1 | the command as JSON`. They are few and change rarely, so they are made to be read, not to
//! be short. Old logs are applied again: a field or variant is never reused with another meaning, and a new field has
//! a default. Times in commands are the proposing leader's clock.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::limits::{ATTRIBUTES_MAX, NAME_BYTES_MAX, TEXT_BYTES_MAX};
use crate::metadata::{Controller, Policy};
use crate::queue_move::{MoveOutcome, MoveRequest};
use crate::subscription_group::SubscriptionGroupConfig;
use crate::topic::TopicConfig;

const VERSION: u8 = 1;

/// A change that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Makes the cluster. The first command of a log, and done once.
    Found {
        /// The cluster's name.
        name: String,
        /// Drawn by the proposer: 32 hexadecimal digits.
        id: String,
        /// What the cluster does by itself.
        policy: Policy,
        /// The controllers it is founded with, by name.
        controllers: BTreeMap<String, Controller>,
        /// See [`crate::metadata::Cluster::feature_level`].
        feature_level: u32,
    },
    /// Changes what the cluster does by itself; may lead to more Raft groups.
    SetPolicy {
        /// The whole policy.
        policy: Policy,
    },
    /// A controller is at this address. A new one, or one with another volume, gets a Raft id never given before.
    PutController {
        /// Its name.
        name: String,
        /// `host:port` of its controller port.
        address: String,
        /// Its volume.
        volume: String,
    },
    /// A node says that it exists; may lead to more Raft groups. With another volume than before it has lost its
    /// disk, and each of its replicas gets a Raft id never given before.
    RegisterNode {
        /// Its name.
        name: String,
        /// Its volume.
        volume: String,
        /// Failure zone; may be empty.
        zone: String,
        /// `host:port` of its peer port.
        peer: String,
    },
    /// Creates a topic or changes it; its queue count may only grow.
    PutTopic {
        /// The whole configuration.
        config: TopicConfig,
        /// Leave an existing topic as it is.
        if_absent: bool,
        /// The epoch of the topic that `config` was made from, 0 for none: refused if it has changed since.
        #[serde(default)]
        expected: Option<u64>,
        /// Bind its queues to these Raft groups, to none in particular if it is empty; `None`: as it is.
        #[serde(default)]
        groups: Option<Vec<u16>>,
        /// Proposer's clock.
        now_ms: i64,
    },
    /// Removes a topic.
    DeleteTopic {
        /// Its name.
        name: String,
    },
    /// Creates subscription groups or changes them: all, or none if refused.
    PutSubscriptionGroups {
        /// The whole configurations.
        configs: Vec<SubscriptionGroupConfig>,
        /// Leave existing groups as they are.
        if_absent: bool,
    },
    /// Removes a subscription group.
    DeleteSubscriptionGroup {
        /// Its name.
        name: String,
    },
    /// Says which node should lead a Raft group.
    PreferLeader {
        /// The Raft group's number.
        group: u16,
        /// A node that has a replica of it.
        node: String,
    },
    /// Gives a Raft group a replica on another node, or has one go, or both: then the one goes when the other has a vote.
    ChangeMembers {
        /// The Raft group's number.
        group: u16,
        /// A node that gets a replica.
        add: Option<String>,
        /// A node whose replica goes.
        remove: Option<String>,
    },
    /// A replica that was to go is no member of its Raft group any more.
    EndReplica {
        /// The Raft group's number.
        group: u16,
        /// The replica's id.
        replica: u64,
    },
    /// A node's replicas are to be re-created on others, or not any more.
    SetEvacuating {
        /// The node.
        node: String,
        /// They are.
        evacuating: bool,
    },
    /// Forgets a node that has no replicas.
    RemoveNode {
        /// The node.
        node: String,
    },
    /// Has queues move to other Raft groups: all, or none if refused.
    StartMoves {
        /// Which queue goes where; no queue twice.
        moves: Vec<MoveRequest>,
        /// Why.
        reason: String,
        /// Proposer's clock.
        now_ms: i64,
    },
    /// A move was carried out by its Raft groups, or cancelled.
    EndMove {
        /// The move.
        id: u64,
        /// How it ended.
        outcome: MoveOutcome,
        /// Proposer's clock.
        now_ms: i64,
    },
    /// Retention removed all messages of a queue's first segment, which has an end.
    DropSegment {
        /// The topic's name.
        topic: String,
        /// Which topic of that name.
        topic_id: u64,
        /// The queue's number.
        queue: u32,
        /// The segment's generation.
        generation: u32,
    },
    /// A Raft group gets no more queues, or may get some again.
    SetDraining {
        /// The Raft group's number.
        group: u16,
        /// It gets none.
        draining: bool,
    },
}

/// The bytes are not a command of a known version, or a name or text in it is empty or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed command")]
pub struct Malformed;

impl Command {
    /// The frame of this command.
    pub fn encode(&self) -> Bytes {
        let mut frame = vec![VERSION];
        serde_json::to_writer(&mut frame, self).expect("a command has only text keys and a vector takes all bytes");
        frame.into()
    }

    /// The inverse of [`Command::encode`]. Any bytes may come in.
    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        let (&VERSION, json) = frame.split_first().ok_or(Malformed)? else {
            return Err(Malformed);
        };
        let command: Self = serde_json::from_slice(json).map_err(|_| Malformed)?;
        if command.is_well_formed() {
            Ok(command)
        } else {
            Err(Malformed)
        }
    }

    fn is_well_formed(&self) -> bool {
        match self {
            Self::Found {
                name, id, controllers, ..
            } => {
                is_name(name)
                    && is_name(id)
                    && controllers.iter().all(|(name, controller)| {
                        is_name(name) && is_text(&controller.address) && is_text(&controller.volume)
                    })
            }
            Self::SetPolicy { .. } | Self::SetDraining { .. } | Self::EndReplica { .. } => true,
            Self::PutController { name, address, volume } => is_name(name) && is_text(address) && is_text(volume),
            Self::RegisterNode {
                name,
                volume,
                zone,
                peer,
            } => is_name(name) && is_text(volume) && is_text(zone) && is_text(peer),
            Self::PutTopic { config, .. } => is_name(&config.name) && are_attributes(&config.attributes),
            Self::PutSubscriptionGroups { configs, .. } => configs.iter().all(|config| {
                is_name(&config.name)
                    && are_attributes(&config.attributes)
                    && config.retry_policy.as_deref().is_none_or(is_text)
            }),
            Self::DeleteTopic { name } | Self::DeleteSubscriptionGroup { name } => is_name(name),
            Self::PreferLeader { node, .. } | Self::SetEvacuating { node, .. } | Self::RemoveNode { node } => {
                is_name(node)
            }
            Self::ChangeMembers { add, remove, .. } => add.iter().chain(remove).all(|node| is_name(node)),
            Self::StartMoves { moves, reason, .. } => {
                is_text(reason) && moves.iter().all(|requested| is_name(&requested.topic))
            }
            Self::EndMove { outcome, .. } => match outcome {
                MoveOutcome::Opened { end_offset, .. } => *end_offset >= 0,
                MoveOutcome::Cancelled { reason } => is_text(reason),
            },
            Self::DropSegment { topic, .. } => is_name(topic),
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX
}

fn is_text(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX
}

fn are_attributes(attributes: &BTreeMap<String, String>) -> bool {
    attributes.len() <= ATTRIBUTES_MAX && attributes.iter().all(|(name, value)| is_name(name) && is_text(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some_commands() -> Vec<Command> {
        vec![
            Command::Found {
                name: "c".to_owned(),
                id: "00ff".to_owned(),
                policy: Policy::default(),
                controllers: BTreeMap::from([(
                    "c1".to_owned(),
                    Controller {
                        address: "localhost:9878".to_owned(),
                        replica: 1,
                        volume: "v".to_owned(),
                    },
                )]),
                feature_level: 1,
            },
            Command::PutTopic {
                config: TopicConfig::new("t", 8),
                if_absent: true,
                expected: None,
                groups: Some(vec![1, 2]),
                now_ms: -1,
            },
            Command::PutSubscriptionGroups {
                configs: vec![SubscriptionGroupConfig::new("g")],
                if_absent: false,
            },
            Command::DeleteTopic { name: "t".to_owned() },
            Command::SetPolicy {
                policy: Policy::default(),
            },
            Command::PutController {
                name: "c1".to_owned(),
                address: "h:9878".to_owned(),
                volume: "v".to_owned(),
            },
            Command::RegisterNode {
                name: "n1".to_owned(),
                volume: "v".to_owned(),
                zone: "z".to_owned(),
                peer: "h:10912".to_owned(),
            },
            Command::DeleteSubscriptionGroup { name: "g".to_owned() },
            Command::PreferLeader {
                group: 1,
                node: "n1".to_owned(),
            },
            Command::ChangeMembers {
                group: 1,
                add: Some("n4".to_owned()),
                remove: None,
            },
            Command::EndReplica { group: 1, replica: 3 },
            Command::SetEvacuating {
                node: "n1".to_owned(),
                evacuating: true,
            },
            Command::RemoveNode { node: "n1".to_owned() },
            Command::StartMoves {
                moves: vec![MoveRequest {
                    topic: "t".to_owned(),
                    queue: 3,
                    to: 2,
                }],
                reason: "rebalance".to_owned(),
                now_ms: 5,
            },
            Command::EndMove {
                id: 7,
                outcome: MoveOutcome::Opened {
                    end_offset: 9,
                    writer_pause_ms: Some(1),
                    bytes_copied: 0,
                },
                now_ms: 6,
            },
            Command::EndMove {
                id: 8,
                outcome: MoveOutcome::Cancelled {
                    reason: "no majority".to_owned(),
                },
                now_ms: 6,
            },
            Command::DropSegment {
                topic: "t".to_owned(),
                topic_id: 1,
                queue: 0,
                generation: 1,
            },
            Command::SetDraining {
                group: 1,
                draining: true,
            },
        ]
    }

    #[test]
    fn commands_survive_their_frames() {
        for command in some_commands() {
            let frame = command.encode();
            assert_eq!(frame[0], VERSION);
            assert_eq!(Command::decode(&frame), Ok(command));
        }
    }

    #[test]
    fn the_form_of_a_frame_does_not_change() {
        let frame = b"\x01{\"register_node\":{\"name\":\"n1\",\"volume\":\"v\",\"zone\":\"\",\"peer\":\"h:10912\"}}";
        let command = Command::RegisterNode {
            name: "n1".to_owned(),
            volume: "v".to_owned(),
            zone: String::new(),
            peer: "h:10912".to_owned(),
        };
        assert_eq!(command.encode(), &frame[..]);
        assert_eq!(Command::decode(frame), Ok(command));
    }

    #[test]
    fn other_bytes_are_refused() {
        let frame = Command::DeleteTopic { name: "t".to_owned() }.encode();
        for end in 0..frame.len() {
            assert_eq!(Command::decode(&frame[..end]), Err(Malformed), "cut at {end}");
        }
        let mut later = frame.to_vec();
        later[0] = 2;
        assert_eq!(Command::decode(&later), Err(Malformed));
        assert_eq!(Command::decode(b"\x01{\"unknown\":{}}"), Err(Malformed));
        assert_eq!(Command::decode(b"\x01\xff\xfe"), Err(Malformed));
    }

    proptest! {
        #[test]
        fn a_damaged_command_is_refused_or_read_as_what_would_be_written(
            number in 0..some_commands().len(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut frame = some_commands()[number].encode().to_vec();
            for (place, byte) in damage {
                let place = place.index(frame.len());
                frame[place] = byte;
            }
            if let Ok(command) = Command::decode(&frame) {
                prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
            }
        }
    }

    #[test]
    fn names_and_texts_are_bounded() {
        let delete = |name: String| Command::decode(&Command::DeleteTopic { name }.encode()).is_ok();
        assert!(!delete(String::new()));
        assert!(delete("n".repeat(NAME_BYTES_MAX)));
        assert!(!delete("n".repeat(NAME_BYTES_MAX + 1)));
        let mut config = TopicConfig::new("t", 1);
        for number in 0..=ATTRIBUTES_MAX {
            config.attributes.insert(format!("a{number}"), String::new());
        }
        let put = Command::PutTopic {
            config,
            if_absent: false,
            expected: None,
            groups: None,
            now_ms: 0,
        };
        assert_eq!(Command::decode(&put.encode()), Err(Malformed));
    }
}
