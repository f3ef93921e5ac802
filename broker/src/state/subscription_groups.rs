//! Settings of subscription groups (RocketMQ: `SubscriptionGroupConfig`). A group exists once its record does; a
//! joining client creates it with the defaults.

use std::collections::BTreeMap;

use super::codec::{Decoder, Encoder, Malformed};
use super::effects::Effects;
use super::limits::{SUBSCRIPTION_GROUPS_MAX, TEXT_BYTES_MAX};
use super::records::{self, Key, name_in_key};
use super::reply::{Refusal, Reply};

const RECORD_VERSION: u8 = 1;

/// The settings of one group; defaults are RocketMQ's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionGroupConfig {
    /// Name.
    pub name: String,
    /// False stops consumption.
    pub consume_enable: bool,
    /// Whether a new group may start at the queue's minimum.
    pub consume_from_min_enable: bool,
    /// Whether broadcasting members are allowed.
    pub consume_broadcast_enable: bool,
    /// Ordered POP consumption.
    pub consume_message_orderly: bool,
    /// Queues of the retry topic.
    pub retry_queues: u32,
    /// Attempts before a message goes to the dead-letter topic.
    pub retry_times_max: i32,
    /// Seen by clients, not used here.
    pub broker_id: i64,
    /// Seen by clients, not used here.
    pub which_broker_when_consume_slowly: i64,
    /// Whether members are told to rebalance at once.
    pub notify_membership_changes: bool,
    /// Seen by clients.
    pub consume_timeout_minutes: i32,
    /// Unit bits.
    pub sys_flag: i32,
    /// RocketMQ's `groupRetryPolicy` as JSON text; `None`: the default delays.
    pub retry_policy: Option<String>,
    /// RocketMQ's attributes.
    pub attributes: BTreeMap<String, String>,
}

impl SubscriptionGroupConfig {
    /// The defaults under this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            consume_enable: true,
            consume_from_min_enable: true,
            consume_broadcast_enable: true,
            consume_message_orderly: false,
            retry_queues: 1,
            retry_times_max: 16,
            broker_id: 0,
            which_broker_when_consume_slowly: 1,
            notify_membership_changes: true,
            consume_timeout_minutes: 15,
            sys_flag: 0,
            retry_policy: None,
            attributes: BTreeMap::new(),
        }
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        out.text(&self.name)
            .bool(self.consume_enable)
            .bool(self.consume_from_min_enable);
        out.bool(self.consume_broadcast_enable)
            .bool(self.consume_message_orderly);
        out.u32(self.retry_queues).i32(self.retry_times_max);
        out.i64(self.broker_id).i64(self.which_broker_when_consume_slowly);
        out.bool(self.notify_membership_changes)
            .i32(self.consume_timeout_minutes)
            .i32(self.sys_flag);
        out.optional_text(self.retry_policy.as_deref())
            .attributes(&self.attributes);
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            name: from.name()?,
            consume_enable: from.bool()?,
            consume_from_min_enable: from.bool()?,
            consume_broadcast_enable: from.bool()?,
            consume_message_orderly: from.bool()?,
            retry_queues: from.u32()?,
            retry_times_max: from.i32()?,
            broker_id: from.i64()?,
            which_broker_when_consume_slowly: from.i64()?,
            notify_membership_changes: from.bool()?,
            consume_timeout_minutes: from.i32()?,
            sys_flag: from.i32()?,
            retry_policy: from.optional_text(TEXT_BYTES_MAX)?,
            attributes: from.attributes()?,
        })
    }
}

/// All subscription groups of one Raft group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionGroups {
    by_name: BTreeMap<String, SubscriptionGroupConfig>,
}

impl SubscriptionGroups {
    /// A group's settings.
    pub fn get(&self, name: &str) -> Option<&SubscriptionGroupConfig> {
        self.by_name.get(name)
    }

    /// All groups by name.
    pub fn iter(&self) -> impl Iterator<Item = &SubscriptionGroupConfig> {
        self.by_name.values()
    }

    /// True if `additional` more groups would be over the limit.
    pub(super) fn is_full(&self, additional: usize) -> bool {
        self.by_name.len() + additional > SUBSCRIPTION_GROUPS_MAX
    }

    /// Creates or changes a group. With `if_absent` an existing one stays as it is.
    pub(super) fn put(&mut self, config: SubscriptionGroupConfig, if_absent: bool, effects: &mut Effects) -> Reply {
        match self.by_name.get(&config.name) {
            Some(existing) if if_absent || *existing == config => return Reply::Done,
            None if self.is_full(1) => return Reply::Refused(Refusal::LimitReached("subscription groups")),
            Some(_) | None => {}
        }
        let mut out = Encoder::starting(&[RECORD_VERSION]);
        config.encode(&mut out);
        effects.put(
            Key::new(records::SUBSCRIPTION_GROUP).name(&config.name).finish(),
            out.finish(),
        );
        self.by_name.insert(config.name.clone(), config);
        Reply::Done
    }

    /// Removes a group.
    pub(super) fn delete(&mut self, name: &str, effects: &mut Effects) -> Reply {
        if self.by_name.remove(name).is_none() {
            return Reply::Refused(Refusal::GroupNotExist);
        }
        effects.delete(Key::new(records::SUBSCRIPTION_GROUP).name(name).finish());
        Reply::Done
    }

    pub(super) fn load(&mut self, mut key: Decoder<'_>, value: &[u8]) -> Result<(), Malformed> {
        let name = name_in_key(&mut key)?;
        key.finish()?;
        let mut from = Decoder::new(value);
        if from.u8()? != RECORD_VERSION {
            return Err(Malformed);
        }
        let config = SubscriptionGroupConfig::decode(&mut from)?;
        from.finish()?;
        if config.name != name {
            return Err(Malformed);
        }
        self.by_name.insert(name, config);
        Ok(())
    }
}
