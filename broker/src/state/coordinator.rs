//! Who consumes right now: members of consumer groups and what they subscribe to (RocketMQ: `ConsumerManager`).
//! Producers are not in the log: each node knows those that are connected to it (`connection_table.rs`).
//!
//! A member is one client in one group, with the node it is connected to. Heartbeats that change nothing are not
//! logged ([`Coordinator::would_change`]). A member goes with [`super::command::Command::Leave`], and `membership.rs`
//! decides when. Removals name the node the client was connected to, so that a late one cannot remove a client that
//! reconnected elsewhere.
//!
//! A consumer group is here as long as its coordinator slot is open in this Raft group: `state/slots.rs` says so before
//! anything is changed, and [`handover`] takes it elsewhere.
//!
//! As in RocketMQ the last heartbeat decides the group's shape and topics, and the greatest version a subscription.

use std::collections::BTreeMap;

use super::codec::{Decoder, Encoder, Malformed};
use super::effects::Effects;
use super::limits::{
    ACTIVE_GROUPS_MAX, GROUPS_PER_CLIENT_MAX, MEMBERS_PER_GROUP_MAX, NAME_BYTES_MAX, SUBSCRIPTIONS_PER_GROUP_MAX,
    TEXT_BYTES_MAX,
};
use super::records::{self, Key, after_prefix, name_in_key};
use super::reply::Refusal;

pub mod handover;

const RECORD_VERSION: u8 = 1;
/// The frame of a [`Join`] has a place for a list of producer groups, which is empty.
const PRODUCER_GROUPS: u32 = 0;

/// One client in one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The client's id.
    pub client_id: String,
    /// The node it is connected to.
    pub node: String,
    /// RocketMQ's language code.
    pub language: u8,
    /// RocketMQ's version number.
    pub version: i32,
    /// When it joined or changed last, by the proposer's clock.
    pub since_ms: i64,
}

impl Member {
    fn of(join: &Join) -> Self {
        Self {
            client_id: join.client_id.clone(),
            node: join.node.clone(),
            language: join.language,
            version: join.version,
            since_ms: join.now_ms,
        }
    }

    /// Equal apart from the time.
    fn is_as(&self, join: &Join) -> bool {
        self.node == join.node && self.language == join.language && self.version == join.version
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::starting(&[RECORD_VERSION]);
        self.encode_fields(&mut out);
        out.finish()
    }

    fn encode_fields(&self, out: &mut Encoder) {
        out.text(&self.node)
            .u8(self.language)
            .i32(self.version)
            .i64(self.since_ms);
    }

    fn decode(client_id: String, value: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder::new(value);
        if from.u8()? != RECORD_VERSION {
            return Err(Malformed);
        }
        let member = Self::decode_fields(client_id, &mut from)?;
        from.finish()?;
        Ok(member)
    }

    fn decode_fields(client_id: String, from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            client_id,
            node: from.name()?,
            language: from.u8()?,
            version: from.i32()?,
            since_ms: from.i64()?,
        })
    }
}

/// What a consumer group wants of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The topic.
    pub topic: String,
    /// `TAG` or `SQL92`.
    pub expression_type: String,
    /// The filter; `*` for everything.
    pub expression: String,
    /// Set by the client when it subscribes; the greatest wins.
    pub version: i64,
}

/// How a consumer group consumes: RocketMQ's ordinals, see the remoting protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupShape {
    /// 0 pull, 1 push, 2 POP.
    pub consume_type: u8,
    /// 0 broadcasting, 1 clustering.
    pub message_model: u8,
    /// Where a new group starts.
    pub consume_from_where: u8,
}

/// A consumer group with at least one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerGroup {
    /// As the last heartbeat said.
    pub shape: GroupShape,
    /// By client id.
    pub members: BTreeMap<String, Member>,
    /// By topic.
    pub subscriptions: BTreeMap<String, Subscription>,
}

/// What a heartbeat says about one consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinGroup {
    /// The consumer group.
    pub group: String,
    /// How it consumes.
    pub shape: GroupShape,
    /// What it subscribes to; `None` leaves the table alone (heartbeats without subscriptions).
    pub subscriptions: Option<Vec<Subscription>>,
}

/// A client's heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The client.
    pub client_id: String,
    /// The node it is connected to.
    pub node: String,
    /// RocketMQ's language code.
    pub language: u8,
    /// RocketMQ's version number.
    pub version: i32,
    /// Consumer groups.
    pub groups: Vec<JoinGroup>,
    /// The proposer's clock.
    pub now_ms: i64,
}

impl Join {
    pub(super) fn encode(&self, out: &mut Encoder) {
        out.text(&self.client_id)
            .text(&self.node)
            .u8(self.language)
            .i32(self.version);
        out.list(&self.groups, |out, group| {
            out.text(&group.group);
            encode_shape(group.shape, out);
            out.bool(group.subscriptions.is_some());
            if let Some(subscriptions) = &group.subscriptions {
                out.list(subscriptions, |out, subscription| {
                    out.text(&subscription.topic);
                    encode_subscription(subscription, out);
                });
            }
        });
        out.u32(PRODUCER_GROUPS).i64(self.now_ms);
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let mut join = Self {
            client_id: from.name()?,
            node: from.name()?,
            language: from.u8()?,
            version: from.i32()?,
            groups: from.list(GROUPS_PER_CLIENT_MAX, |from| {
                Ok(JoinGroup {
                    group: from.name()?,
                    shape: decode_shape(from)?,
                    subscriptions: match from.bool()? {
                        false => None,
                        true => Some(from.list(SUBSCRIPTIONS_PER_GROUP_MAX, |from| {
                            let topic = from.name()?;
                            decode_subscription(topic, from)
                        })?),
                    },
                })
            })?,
            now_ms: 0,
        };
        if from.u32()? != PRODUCER_GROUPS {
            return Err(Malformed);
        }
        join.now_ms = from.i64()?;
        Ok(join)
    }
}

/// Members and subscriptions of one Raft group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coordinator {
    consumers: BTreeMap<String, ConsumerGroup>,
}

impl Coordinator {
    /// A consumer group with members.
    pub fn consumer_group(&self, group: &str) -> Option<&ConsumerGroup> {
        self.consumers.get(group)
    }

    /// All consumer groups with members.
    pub fn consumer_groups(&self) -> impl Iterator<Item = (&str, &ConsumerGroup)> {
        self.consumers.iter().map(|(name, group)| (name.as_str(), group))
    }

    /// True if applying this heartbeat would change anything: only then it has to be logged.
    pub fn would_change(&self, join: &Join) -> bool {
        join.groups.iter().any(|group| match self.consumers.get(&group.group) {
            None => true,
            Some(existing) => {
                existing.shape != group.shape
                    || !existing
                        .members
                        .get(&join.client_id)
                        .is_some_and(|member| member.is_as(join))
                    || group
                        .subscriptions
                        .as_ref()
                        .is_some_and(|wanted| subscriptions_differ(existing, wanted))
            }
        })
    }

    /// Takes the client into its groups. True if clients of a group should rebalance.
    pub(super) fn join(&mut self, join: &Join, effects: &mut Effects) -> Result<bool, Refusal> {
        self.check_limits(join)?;
        let mut changed = false;
        for wanted in &join.groups {
            let group = self.consumers.entry(wanted.group.clone()).or_default();
            if group.members.is_empty() || group.shape != wanted.shape {
                group.shape = wanted.shape;
                record_shape(&wanted.group, group.shape, effects);
            }
            let member = group.members.get(&join.client_id);
            let mut rebalance = member.is_none_or(|member| member.node != join.node);
            if member.is_none_or(|member| !member.is_as(join)) {
                let member = Member::of(join);
                effects.put(member_key(&wanted.group, &join.client_id), member.encode());
                group.members.insert(join.client_id.clone(), member);
            }
            if let Some(subscriptions) = &wanted.subscriptions {
                rebalance |= update_subscriptions(&wanted.group, group, subscriptions, effects);
            }
            if rebalance {
                effects.memberships.insert(wanted.group.clone());
            }
            changed |= rebalance;
        }
        Ok(changed)
    }

    fn check_limits(&self, join: &Join) -> Result<(), Refusal> {
        let full = |group: &ConsumerGroup| {
            group.members.len() >= MEMBERS_PER_GROUP_MAX && !group.members.contains_key(&join.client_id)
        };
        let mut known = join.groups.iter().filter_map(|group| self.consumers.get(&group.group));
        if known.any(full) {
            return Err(Refusal::LimitReached("members of a group"));
        }
        let new_groups = join
            .groups
            .iter()
            .filter(|group| !self.consumers.contains_key(&group.group))
            .count();
        if self.consumers.len() + new_groups > ACTIVE_GROUPS_MAX {
            return Err(Refusal::LimitReached("active groups"));
        }
        Ok(())
    }

    /// Removes a client connected to `node` from these groups, or from all if none is named.
    pub(super) fn leave(&mut self, client_id: &str, node: &str, groups: &[String], effects: &mut Effects) {
        self.remove_members(effects, |group, member| {
            member.client_id == client_id
                && member.node == node
                && (groups.is_empty() || groups.iter().any(|name| name == group))
        });
    }

    /// Forgets a deleted group.
    pub(super) fn remove_group(&mut self, group: &str, effects: &mut Effects) {
        if self.consumers.contains_key(group) {
            self.remove_members(effects, |name, _| name == group);
        }
    }

    fn remove_members(&mut self, effects: &mut Effects, gone: impl Fn(&str, &Member) -> bool) {
        for (name, group) in &mut self.consumers {
            let before = group.members.len();
            group.members.retain(|client_id, member| {
                let remove = gone(name, member);
                if remove {
                    effects.delete(member_key(name, client_id));
                }
                !remove
            });
            if group.members.len() < before {
                effects.memberships.insert(name.clone());
            }
            if group.members.is_empty() {
                effects.delete(Key::new(records::CONSUMER_GROUP).name(name).finish());
                let from = Key::new(records::SUBSCRIPTION).name(name).finish();
                effects.delete_range(from.clone(), after_prefix(from));
            }
        }
        self.consumers.retain(|_, group| !group.members.is_empty());
    }

    pub(super) fn load_group(&mut self, mut key: Decoder<'_>, value: &[u8]) -> Result<(), Malformed> {
        let group = name_in_key(&mut key)?;
        key.finish()?;
        let mut from = Decoder::new(value);
        if from.u8()? != RECORD_VERSION {
            return Err(Malformed);
        }
        self.consumers.entry(group).or_default().shape = decode_shape(&mut from)?;
        from.finish()
    }

    pub(super) fn load_consumer(&mut self, mut key: Decoder<'_>, value: &[u8]) -> Result<(), Malformed> {
        let (group, client_id) = (name_in_key(&mut key)?, name_in_key(&mut key)?);
        key.finish()?;
        let member = Member::decode(client_id.clone(), value)?;
        self.consumers
            .get_mut(&group)
            .ok_or(Malformed)?
            .members
            .insert(client_id, member);
        Ok(())
    }

    pub(super) fn load_subscription(&mut self, mut key: Decoder<'_>, value: &[u8]) -> Result<(), Malformed> {
        let (group, topic) = (name_in_key(&mut key)?, name_in_key(&mut key)?);
        key.finish()?;
        let mut from = Decoder::new(value);
        if from.u8()? != RECORD_VERSION {
            return Err(Malformed);
        }
        let subscription = decode_subscription(topic.clone(), &mut from)?;
        from.finish()?;
        self.consumers
            .get_mut(&group)
            .ok_or(Malformed)?
            .subscriptions
            .insert(topic, subscription);
        Ok(())
    }
}

fn subscriptions_differ(group: &ConsumerGroup, wanted: &[Subscription]) -> bool {
    let newer = |wanted: &Subscription| match group.subscriptions.get(&wanted.topic) {
        None => true,
        Some(existing) => wanted.version > existing.version,
    };
    wanted.iter().any(newer)
        || group
            .subscriptions
            .keys()
            .any(|topic| !wanted.iter().any(|w| w.topic == *topic))
}

/// True if a topic was added or removed.
fn update_subscriptions(name: &str, group: &mut ConsumerGroup, wanted: &[Subscription], effects: &mut Effects) -> bool {
    let mut topics_changed = false;
    group.subscriptions.retain(|topic, _| {
        let keep = wanted.iter().any(|wanted| wanted.topic == *topic);
        if !keep {
            topics_changed = true;
            effects.delete(subscription_key(name, topic));
        }
        keep
    });
    for wanted in wanted {
        let existing = group.subscriptions.get(&wanted.topic);
        if existing.is_some_and(|existing| existing.version >= wanted.version) {
            continue;
        }
        topics_changed |= existing.is_none();
        record_subscription(name, wanted, effects);
        group.subscriptions.insert(wanted.topic.clone(), wanted.clone());
    }
    topics_changed
}

fn member_key(group: &str, client_id: &str) -> Vec<u8> {
    Key::new(records::CONSUMER).name(group).name(client_id).finish()
}

fn subscription_key(group: &str, topic: &str) -> Vec<u8> {
    Key::new(records::SUBSCRIPTION).name(group).name(topic).finish()
}

fn record_shape(group: &str, shape: GroupShape, effects: &mut Effects) {
    let mut out = Encoder::starting(&[RECORD_VERSION]);
    encode_shape(shape, &mut out);
    effects.put(Key::new(records::CONSUMER_GROUP).name(group).finish(), out.finish());
}

fn record_subscription(group: &str, subscription: &Subscription, effects: &mut Effects) {
    let mut out = Encoder::starting(&[RECORD_VERSION]);
    encode_subscription(subscription, &mut out);
    effects.put(subscription_key(group, &subscription.topic), out.finish());
}

fn encode_shape(shape: GroupShape, out: &mut Encoder) {
    out.u8(shape.consume_type)
        .u8(shape.message_model)
        .u8(shape.consume_from_where);
}

fn decode_shape(from: &mut Decoder<'_>) -> Result<GroupShape, Malformed> {
    Ok(GroupShape {
        consume_type: from.u8()?,
        message_model: from.u8()?,
        consume_from_where: from.u8()?,
    })
}

fn encode_subscription(subscription: &Subscription, out: &mut Encoder) {
    out.text(&subscription.expression_type)
        .text(&subscription.expression)
        .i64(subscription.version);
}

fn decode_subscription(topic: String, from: &mut Decoder<'_>) -> Result<Subscription, Malformed> {
    Ok(Subscription {
        topic,
        expression_type: from.text(NAME_BYTES_MAX)?,
        expression: from.text(TEXT_BYTES_MAX)?,
        version: from.i64()?,
    })
}

#[cfg(test)]
#[path = "coordinator_test.rs"]
mod tests;
