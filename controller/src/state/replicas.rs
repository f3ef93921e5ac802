//! Which replicas a Raft group has, and which node should lead it.
//!
//! A replica goes in two steps: it is marked as leaving, which has the Raft group give a vote to all that stay and then
//! take the vote of this one, and it is struck off once that is committed. Its node keeps it open until then, so a
//! group never has fewer copies than before the change.
//!
//! Holds: some replica of a Raft group stays; the preferred node has one that stays; a node has at most one of a group.

use super::limits::REPLICAS_MAX;
use super::{Changes, Refusal, State};
use crate::metadata::{Change, RaftGroup, Replica};

impl State {
    pub(super) fn change_members(
        &mut self,
        number: u16,
        add: Option<String>,
        remove: Option<String>,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        let present = self.metadata.groups.get(&number).ok_or(Refusal::GroupNotExist)?;
        if remove.as_ref().is_some_and(|node| present.on(node).is_none()) {
            return Err(Refusal::ReplicaNotExist);
        }
        let mut group = present.clone();
        if let Some(node) = add {
            let known = self.metadata.nodes.get(&node).ok_or(Refusal::NodeNotExist)?;
            if known.evacuating {
                return Err(Refusal::NodeEvacuating);
            }
            if group.on(&node).is_some() {
                return Err(Refusal::ReplicaExists);
            }
            if group.members.len() >= REPLICAS_MAX {
                return Err(Refusal::limit("replicas"));
            }
            group.members.push(Replica {
                id: self.counters.replica + 1,
                node,
                leaving: false,
            });
        }
        if let Some(node) = remove {
            for member in &mut group.members {
                member.leaving |= member.node == node;
            }
            if group.preferred == node {
                group.preferred = self.next_preferred(&group).ok_or(Refusal::LastReplica)?;
            } else if group.staying().next().is_none() {
                return Err(Refusal::LastReplica);
            }
        }
        if group != *present {
            let ids = group.members.iter().map(|member| member.id);
            self.counters.replica = ids.fold(self.counters.replica, u64::max);
            self.change(Change::Group(number, group), changes);
        }
        Ok(())
    }

    /// Of the nodes with a replica that stays the one that is to lead the fewest Raft groups.
    fn next_preferred(&self, group: &RaftGroup) -> Option<String> {
        let leads = |node: &str| {
            let groups = self.metadata.groups.values();
            groups.filter(|group| group.preferred == node).count()
        };
        let next = group.staying().min_by_key(|member| leads(&member.node));
        next.map(|member| member.node.clone())
    }

    pub(super) fn end_replica(&mut self, number: u16, replica: u64, changes: &mut Changes) -> Result<(), Refusal> {
        let group = self.metadata.groups.get(&number).ok_or(Refusal::GroupNotExist)?;
        let Some(place) = group.members.iter().position(|member| member.id == replica) else {
            // Said before.
            return Ok(());
        };
        if !group.members[place].leaving {
            return Err(Refusal::ReplicaStays);
        }
        let mut group = group.clone();
        group.members.remove(place);
        self.change(Change::Group(number, group), changes);
        Ok(())
    }

    pub(super) fn prefer_leader(&mut self, number: u16, node: String, changes: &mut Changes) -> Result<(), Refusal> {
        let group = self.metadata.groups.get(&number).ok_or(Refusal::GroupNotExist)?;
        if group.staying().all(|member| member.node != node) {
            return Err(Refusal::ReplicaNotExist);
        }
        if group.preferred != node {
            let mut group = group.clone();
            group.preferred = node;
            self.change(Change::Group(number, group), changes);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "replicas_test.rs"]
mod tests;
