//! Coordinator slots as this Raft group has them: whether the members of a consumer group are its to know.
//!
//! A slot is a queue without messages, and its consumer groups are what goes along when it moves. Holds: members change
//! only while the slot is open here, so there is one writer; between the seal of a slot and its opening elsewhere they
//! are put aside and change nowhere.

use std::collections::BTreeMap;

use flotilla_controller::coordinator_slots::{SLOTS, TOPIC, slot};

use super::coordinator::ConsumerGroup;
use super::reply::Refusal;
use super::{QueueState, State, Topic};

/// A coordinator slot that a Raft group tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotHere {
    /// The generation of its segment here.
    pub generation: u32,
    /// It is open here; else it is put aside, and the members may be others where it is open.
    pub is_open: bool,
}

impl State {
    /// Refuses, and says where the slot went, unless it is open here.
    pub fn check_coordinates(&self, consumer_group: &str) -> Result<(), Refusal> {
        let number = slot(consumer_group);
        match self.slots() {
            None => Err(Refusal::TopicNotExist),
            Some(_) if self.topics.queue(TOPIC, number).is_some() => Ok(()),
            Some(slots) => Err(slots.not_open(number)),
        }
    }

    /// A consumer group with members; refused unless its slot is open here.
    pub fn coordinated(&self, consumer_group: &str) -> Result<Option<&ConsumerGroup>, Refusal> {
        self.check_coordinates(consumer_group)?;
        Ok(self.coordinator.consumer_group(consumer_group))
    }

    /// [`State::coordinated`]; or as the group was when its slot was put aside here, while it is not known to be open
    /// elsewhere.
    pub fn last_coordinated(&self, consumer_group: &str) -> Result<Option<&ConsumerGroup>, Refusal> {
        self.coordinated(consumer_group).or_else(|refusal| {
            let aside = self.slot_aside(slot(consumer_group)).ok_or(refusal)?;
            let found = aside.consumers.iter().find(|(name, _)| name == consumer_group);
            Ok(found.map(|(_, group)| group))
        })
    }

    /// The slots that are open here, and those put aside here that are not known to be open elsewhere.
    pub fn slots_here(&self) -> BTreeMap<u32, SlotHere> {
        let Some(slots) = self.slots() else {
            return BTreeMap::new();
        };
        let here = |number: u32, generation: u32, is_open: bool| (number, SlotHere { generation, is_open });
        let aside = slots.sealed.iter().filter(|(_, sealed)| sealed.aside.is_some());
        let aside = aside.map(|((number, generation), _)| here(*number, *generation, false));
        let open = slots
            .queues()
            .map(|(number, queue)| here(number, queue.generation, true));
        // The later ones count: newer generations, then what is open.
        aside.chain(open).collect()
    }

    /// The consumer groups of [`State::slots_here`].
    pub fn consumer_groups_here(&self) -> impl Iterator<Item = (&str, &ConsumerGroup)> {
        let slots = self.slots_here();
        let is_open = move |name: &str| slots.get(&slot(name)).is_some_and(|here| here.is_open);
        let open = self
            .coordinator
            .consumer_groups()
            .filter(move |(name, _)| is_open(name));
        let closed = (0..SLOTS).filter_map(|number| self.slot_aside(number));
        let aside = closed.flat_map(|aside| &aside.consumers);
        open.chain(aside.map(|(name, group)| (name.as_str(), group)))
    }

    fn slots(&self) -> Option<&Topic> {
        self.topics.get(TOPIC)
    }

    /// What was put aside last for a slot that is not open here, as long as it is kept.
    fn slot_aside(&self, number: u32) -> Option<&QueueState> {
        if self.topics.queue(TOPIC, number).is_some() {
            return None;
        }
        let mut sealed = self.slots()?.sealed_of(number).rev();
        sealed.find_map(|sealed| sealed.aside.as_ref())
    }
}

#[cfg(test)]
#[path = "slots_test.rs"]
mod tests;
