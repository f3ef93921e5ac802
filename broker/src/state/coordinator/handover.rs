//! Consumer groups on their way to another Raft group: they go with the queue of their coordinator slot.
//!
//! A group arrives as it left, times included, and nobody is told: who is in it has not changed.

use flotilla_controller::coordinator_slots::slot;

use super::*;

/// A consumer group with its name.
pub type Named = (String, ConsumerGroup);

/// Bytes of a member or a subscription in a frame, without its texts.
const FIXED_BYTES: usize = 24;

impl ConsumerGroup {
    fn encode(&self, out: &mut Encoder) {
        encode_shape(self.shape, out);
        out.count(self.members.len());
        for member in self.members.values() {
            out.text(&member.client_id);
            member.encode_fields(out);
        }
        out.count(self.subscriptions.len());
        for subscription in self.subscriptions.values() {
            out.text(&subscription.topic);
            encode_subscription(subscription, out);
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let shape = decode_shape(from)?;
        let members = from.list(MEMBERS_PER_GROUP_MAX, |from| {
            let client_id = from.name()?;
            Ok((client_id.clone(), Member::decode_fields(client_id, from)?))
        })?;
        let subscriptions = from.list(SUBSCRIPTIONS_PER_GROUP_MAX, |from| {
            let topic = from.name()?;
            Ok((topic.clone(), decode_subscription(topic, from)?))
        })?;
        Ok(Self {
            shape,
            members: by_name(members)?,
            subscriptions: by_name(subscriptions)?,
        })
    }

    /// About how many bytes it has in a frame.
    fn bytes(&self) -> usize {
        let members = self.members.values();
        let members = members.map(|member| member.client_id.len() + member.node.len() + FIXED_BYTES);
        let wanted = self
            .subscriptions
            .values()
            .map(|wanted| wanted.topic.len() + wanted.expression_type.len() + wanted.expression.len() + FIXED_BYTES);
        members.sum::<usize>() + wanted.sum::<usize>() + FIXED_BYTES
    }
}

/// Names must ascend, so that equal groups have equal bytes.
fn by_name<T>(items: Vec<(String, T)>) -> Result<BTreeMap<String, T>, Malformed> {
    match items.is_sorted_by(|(name, _), (next, _)| name < next) {
        true => Ok(items.into_iter().collect()),
        false => Err(Malformed),
    }
}

/// Writes consumer groups into a frame.
pub fn encode_groups(groups: &[Named], out: &mut Encoder) {
    out.list(groups, |out, (name, group)| {
        out.text(name);
        group.encode(out);
    });
}

/// The inverse of [`encode_groups`].
pub fn decode_groups(from: &mut Decoder<'_>) -> Result<Vec<Named>, Malformed> {
    from.list(ACTIVE_GROUPS_MAX, |from| {
        Ok((from.name()?, ConsumerGroup::decode(from)?))
    })
}

impl Coordinator {
    /// About how many bytes the consumer groups of a slot have in a command.
    pub(in crate::state) fn bytes_of_slot(&self, number: u32) -> usize {
        let of_slot = self.consumers.iter().filter(|(name, _)| slot(name) == number);
        of_slot.map(|(name, group)| name.len() + group.bytes()).sum()
    }

    /// Takes out the consumer groups of a slot that leaves.
    pub(in crate::state) fn take_out(&mut self, number: u32, effects: &mut Effects) -> Vec<Named> {
        let of_slot = self.consumers.extract_if(.., |name, _| slot(name) == number);
        let taken: Vec<Named> = of_slot.collect();
        for (name, _) in &taken {
            effects.delete(Key::new(records::CONSUMER_GROUP).name(name).finish());
            for prefix in [records::CONSUMER, records::SUBSCRIPTION] {
                let from = Key::new(prefix).name(name).finish();
                effects.delete_range(from.clone(), after_prefix(from));
            }
        }
        taken
    }

    /// Takes in the consumer groups of a slot that comes here. There is no way back for them, so no limit holds.
    pub(in crate::state) fn take_in(&mut self, groups: &[Named], effects: &mut Effects) {
        for (name, group) in groups {
            record_shape(name, group.shape, effects);
            for member in group.members.values() {
                effects.put(member_key(name, &member.client_id), member.encode());
            }
            for subscription in group.subscriptions.values() {
                record_subscription(name, subscription, effects);
            }
            self.consumers.insert(name.clone(), group.clone());
        }
    }
}

#[cfg(test)]
#[path = "handover_test.rs"]
mod tests;
