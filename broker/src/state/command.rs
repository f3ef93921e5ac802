//! The commands of one Raft group, as they stand in its log.
//!
//! A frame is `kind: 1 | version: 1 | fields`. Kinds and versions are never reused with another meaning: old logs are
//! applied again. Times in commands are the proposing leader's clock.

use bytes::Bytes;

use super::codec::{Decoder, Encoder, Malformed};
use super::coordinator::Join;
use super::limits::{GROUPS_PER_CLIENT_MAX, LOCKS_PER_COMMAND_MAX, OFFSETS_PER_COMMAND_MAX};
use super::topics::Assignment;
use super::topics::handover::{CONSUMERS_VERSION, Opening, Step};

/// Of all frames but an opening that brings consumer groups.
const VERSION: u8 = 1;

const KIND_ASSIGN_TOPIC: u8 = 2;
const KIND_DELETE_TOPIC: u8 = 3;
const KIND_FORGET_SUBSCRIPTION_GROUP: u8 = 5;
const KIND_UPDATE_CONSUMER_OFFSETS: u8 = 6;
const KIND_LOCK_QUEUES: u8 = 7;
const KIND_UNLOCK_QUEUES: u8 = 8;
const KIND_JOIN: u8 = 9;
const KIND_LEAVE: u8 = 10;
// 11 and 12 stay unused: they were commands that nothing ever logged.
const KIND_TRIM: u8 = 13;
const KIND_DIGEST_POINT: u8 = 14;
const KIND_RESERVE: u8 = 15;
const KIND_BAR: u8 = 16;
const KIND_SEAL: u8 = 17;
const KIND_OPEN: u8 = 18;
const KIND_DELIVERED: u8 = 19;
const KIND_FORGET_SEGMENTS: u8 = 20;

/// One consumer offset to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetUpdate {
    /// The subscription group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The queue number.
    pub queue: u32,
    /// The next queue offset the group will read.
    pub offset: i64,
}

/// A command other than storing a message, which is [`super::append::Append`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The controller's assignment of a topic's queues to this group.
    AssignTopic(Assignment),
    /// Removes a topic, its queues, consumer offsets and locks.
    DeleteTopic {
        /// Its name.
        topic: String,
        /// Its id at the controller: a topic made again under its name stays.
        uid: u64,
    },
    /// Forgets members and locks of a subscription group.
    ForgetSubscriptionGroup {
        /// Its name.
        group: String,
        /// Its consumer offsets, too.
        clean_offsets: bool,
    },
    /// Stores consumer offsets. Those of unknown topics or queues are left out; refused if none is left.
    UpdateConsumerOffsets(Vec<OffsetUpdate>),
    /// Takes or renews queue locks.
    LockQueues {
        /// The consumer group.
        group: String,
        /// The client that wants them.
        client_id: String,
        /// Topic and queue number each.
        queues: Vec<(String, u32)>,
        /// Proposer's clock.
        now_ms: i64,
    },
    /// Gives queue locks back.
    UnlockQueues {
        /// The consumer group.
        group: String,
        /// The client that holds them.
        client_id: String,
        /// Topic and queue number each.
        queues: Vec<(String, u32)>,
    },
    /// A heartbeat that changes something. Refused as a whole unless the coordinator slots of all its consumer groups are
    /// open here; so is what follows.
    Join(Join),
    /// A client leaves, or its connection closed.
    Leave {
        /// The client.
        client_id: String,
        /// The node it is connected to: one that reconnected elsewhere stays.
        node: String,
        /// Consumer groups; empty for all.
        groups: Vec<String>,
    },
    /// Messages in entries up to and including this one can no longer be read.
    Trim {
        /// The last entry to forget.
        log_index: u64,
    },
    /// Lets a segment of a queue be opened in this group: see `topics/handover.rs`, also for the others.
    Reserve {
        /// The topic as it is elsewhere; opens nothing.
        topic: Assignment,
        /// Queue number.
        queue: u32,
        /// Generation of the segment.
        generation: u32,
    },
    /// Gives a move up in this group.
    Bar(Step),
    /// Ends the queue's open segment.
    Seal {
        /// What follows it.
        step: Step,
        /// The Raft group that opens it.
        to: u16,
        /// Proposer's clock.
        now_ms: i64,
    },
    /// Opens a reserved segment.
    Open(Opening),
    /// The segment that follows a sealed one is open.
    Delivered(Step),
    /// Sealed segments before this generation are forgotten.
    ForgetSegments(Step),
    /// The digest of the state after this entry is wanted.
    DigestPoint {
        /// Handed back with the digest.
        nonce: u64,
    },
}

impl Command {
    /// The frame of this command.
    pub fn encode(&self) -> Bytes {
        let mut out;
        match self {
            Self::AssignTopic(assignment) => {
                out = frame(KIND_ASSIGN_TOPIC);
                assignment.encode(&mut out);
            }
            Self::DeleteTopic { topic, uid } => {
                out = frame(KIND_DELETE_TOPIC);
                out.text(topic).u64(*uid);
            }
            Self::ForgetSubscriptionGroup { group, clean_offsets } => {
                out = frame(KIND_FORGET_SUBSCRIPTION_GROUP);
                out.text(group).bool(*clean_offsets);
            }
            Self::UpdateConsumerOffsets(updates) => {
                out = frame(KIND_UPDATE_CONSUMER_OFFSETS);
                out.list(updates, |out, update| {
                    out.text(&update.group)
                        .text(&update.topic)
                        .u32(update.queue)
                        .i64(update.offset);
                });
            }
            Self::LockQueues {
                group,
                client_id,
                queues,
                now_ms,
            } => {
                out = frame(KIND_LOCK_QUEUES);
                out.text(group).text(client_id).i64(*now_ms);
                encode_queues(queues, &mut out);
            }
            Self::UnlockQueues {
                group,
                client_id,
                queues,
            } => {
                out = frame(KIND_UNLOCK_QUEUES);
                out.text(group).text(client_id);
                encode_queues(queues, &mut out);
            }
            Self::Join(join) => {
                out = frame(KIND_JOIN);
                join.encode(&mut out);
            }
            Self::Leave {
                client_id,
                node,
                groups,
            } => {
                out = frame(KIND_LEAVE);
                out.text(client_id).text(node);
                out.list(groups, |out, group| {
                    out.text(group);
                });
            }
            Self::Trim { log_index } => {
                out = frame(KIND_TRIM);
                out.u64(*log_index);
            }
            Self::DigestPoint { nonce } => {
                out = frame(KIND_DIGEST_POINT);
                out.u64(*nonce);
            }
            Self::Reserve {
                topic,
                queue,
                generation,
            } => {
                out = frame(KIND_RESERVE);
                topic.encode(&mut out);
                out.u32(*queue).u32(*generation);
            }
            Self::Bar(step) => out = step_frame(KIND_BAR, step),
            Self::Seal { step, to, now_ms } => {
                out = step_frame(KIND_SEAL, step);
                out.u16(*to).i64(*now_ms);
            }
            Self::Open(opening) => {
                out = Encoder::starting(&[KIND_OPEN, opening.state.version()]);
                opening.encode(&mut out);
            }
            Self::Delivered(step) => out = step_frame(KIND_DELIVERED, step),
            Self::ForgetSegments(step) => out = step_frame(KIND_FORGET_SEGMENTS, step),
        }
        out.finish().into()
    }

    /// Reads any frame but that of a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder::new(bytes);
        let (kind, version) = (from.u8()?, from.u8()?);
        if version != VERSION && (kind, version) != (KIND_OPEN, CONSUMERS_VERSION) {
            return Err(Malformed);
        }
        let command = match kind {
            KIND_ASSIGN_TOPIC => Self::AssignTopic(Assignment::decode(&mut from)?),
            KIND_DELETE_TOPIC => Self::DeleteTopic {
                topic: from.name()?,
                uid: from.u64()?,
            },
            KIND_FORGET_SUBSCRIPTION_GROUP => Self::ForgetSubscriptionGroup {
                group: from.name()?,
                clean_offsets: from.bool()?,
            },
            KIND_UPDATE_CONSUMER_OFFSETS => {
                Self::UpdateConsumerOffsets(from.list(OFFSETS_PER_COMMAND_MAX, |from| {
                    Ok(OffsetUpdate {
                        group: from.name()?,
                        topic: from.name()?,
                        queue: from.u32()?,
                        offset: from.i64()?,
                    })
                })?)
            }
            KIND_LOCK_QUEUES => Self::LockQueues {
                group: from.name()?,
                client_id: from.name()?,
                now_ms: from.i64()?,
                queues: decode_queues(&mut from)?,
            },
            KIND_UNLOCK_QUEUES => Self::UnlockQueues {
                group: from.name()?,
                client_id: from.name()?,
                queues: decode_queues(&mut from)?,
            },
            KIND_JOIN => Self::Join(Join::decode(&mut from)?),
            KIND_LEAVE => Self::Leave {
                client_id: from.name()?,
                node: from.name()?,
                groups: from.list(GROUPS_PER_CLIENT_MAX, Decoder::name)?,
            },
            KIND_TRIM => Self::Trim { log_index: from.u64()? },
            KIND_DIGEST_POINT => Self::DigestPoint { nonce: from.u64()? },
            KIND_RESERVE => Self::Reserve {
                topic: Assignment::decode(&mut from)?,
                queue: from.u32()?,
                generation: from.u32()?,
            },
            KIND_BAR => Self::Bar(Step::decode(&mut from)?),
            KIND_SEAL => Self::Seal {
                step: Step::decode(&mut from)?,
                to: from.u16()?,
                now_ms: from.i64()?,
            },
            KIND_OPEN => Self::Open(Opening::decode(&mut from, version)?),
            KIND_DELIVERED => Self::Delivered(Step::decode(&mut from)?),
            KIND_FORGET_SEGMENTS => Self::ForgetSegments(Step::decode(&mut from)?),
            _ => return Err(Malformed),
        };
        from.finish()?;
        Ok(command)
    }
}

fn frame(kind: u8) -> Encoder {
    Encoder::starting(&[kind, VERSION])
}

fn step_frame(kind: u8, step: &Step) -> Encoder {
    let mut out = frame(kind);
    step.encode(&mut out);
    out
}

fn encode_queues(queues: &[(String, u32)], out: &mut Encoder) {
    out.list(queues, |out, (topic, queue)| {
        out.text(topic).u32(*queue);
    });
}

fn decode_queues(from: &mut Decoder<'_>) -> Result<Vec<(String, u32)>, Malformed> {
    from.list(LOCKS_PER_COMMAND_MAX, |from| Ok((from.name()?, from.u32()?)))
}

#[cfg(test)]
#[path = "command_test.rs"]
mod tests;
