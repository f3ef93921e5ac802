//! Nodes: they come by saying that they exist, and go when an operator says so, once nothing is on them.

use super::limits::NODES_MAX;
use super::{Changes, Refusal, State};
use crate::metadata::{Change, Node};

impl State {
    /// A node is its volume, zone and `host:port` of the peer port.
    pub(super) fn register_node(
        &mut self,
        name: String,
        (volume, zone, peer): (String, String, String),
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        let present = self.metadata.nodes.get(&name);
        if present.is_none() && self.metadata.nodes.len() >= NODES_MAX {
            return Err(Refusal::limit("nodes"));
        }
        let lost_disk = present.is_some_and(|present| present.volume != volume);
        let node = Node {
            volume,
            zone,
            peer,
            evacuating: present.is_some_and(|present| present.evacuating),
        };
        if present != Some(&node) {
            self.change(Change::Node(name.clone(), Some(node)), changes);
        }
        if lost_disk {
            self.renew_replicas(&name, changes);
        }
        self.make_missing_groups(changes);
        Ok(())
    }

    /// An id that voted with the lost disk must not vote again with an empty one.
    fn renew_replicas(&mut self, node: &str, changes: &mut Changes) {
        let mut renewed = Vec::new();
        for (number, group) in &self.metadata.groups {
            if let Some(place) = group.members.iter().position(|member| member.node == node) {
                let mut group = group.clone();
                group.members[place].id = self.counters.next_replica();
                renewed.push((*number, group));
            }
        }
        for (number, group) in renewed {
            self.change(Change::Group(number, group), changes);
        }
    }

    pub(super) fn set_evacuating(
        &mut self,
        name: String,
        evacuating: bool,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        let node = self.metadata.nodes.get(&name).ok_or(Refusal::NodeNotExist)?;
        if node.evacuating == evacuating {
            return Ok(());
        }
        if evacuating {
            self.check_others_can_take_over(&name)?;
        }
        let node = Node {
            evacuating,
            ..node.clone()
        };
        self.change(Change::Node(name, Some(node)), changes);
        if !evacuating {
            self.make_missing_groups(changes);
        }
        Ok(())
    }

    fn check_others_can_take_over(&self, node: &str) -> Result<(), Refusal> {
        let nodes = self.metadata.nodes.iter();
        let others = nodes.filter(|(name, other)| *name != node && !other.evacuating).count();
        for group in self.metadata.groups.values() {
            let is_here = group.staying().any(|member| member.node == node);
            if is_here && others < group.staying().count() {
                return Err(Refusal::TooFewNodes(group.name.clone()));
            }
        }
        Ok(())
    }

    pub(super) fn remove_node(&mut self, name: String, changes: &mut Changes) -> Result<(), Refusal> {
        if !self.metadata.nodes.contains_key(&name) {
            return Err(Refusal::NodeNotExist);
        }
        if self.metadata.groups.values().any(|group| group.on(&name).is_some()) {
            return Err(Refusal::NodeInUse);
        }
        self.change(Change::Node(name, None), changes);
        Ok(())
    }
}
