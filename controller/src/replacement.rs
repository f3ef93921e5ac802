//! Which replicas are to be re-created on other nodes now: those on nodes that are being evacuated, and on nodes that
//! are taken for lost. Pure: what the leading controller sees comes in, the changes to ask for come out.
//!
//! Holds: only so many Raft groups change at a time ([`UNDER_WAY_MAX`], [`PER_NODE_MAX`] for each node that gets
//! replicas), those that cannot get on for want of a majority not counted. A group whose majority does not live is left
//! alone: nothing could come of it. Nodes are taken for lost only while they are fewer than half: else it is rather the
//! one who looks that is cut off.

use std::collections::{BTreeMap, BTreeSet};

use crate::metadata::{Metadata, RaftGroup};
use crate::placement::Loads;
use crate::state::Command;

/// Raft groups that change at a time.
pub const UNDER_WAY_MAX: usize = 4;
/// Replicas that one node gets at a time.
pub const PER_NODE_MAX: usize = 2;

/// What is seen of the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// They answer.
    pub living: BTreeSet<String>,
    /// They have not answered for so long that they are taken for lost.
    pub lost: BTreeSet<String>,
}

/// A replica that is to be re-created elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The Raft group's number.
    pub group: u16,
    /// The node whose replica goes.
    pub leaving: String,
    /// The node that gets one.
    pub node: String,
}

impl Replacement {
    /// What the controllers are asked for.
    pub fn command(&self) -> Command {
        Command::ChangeMembers {
            group: self.group,
            add: Some(self.node.clone()),
            remove: Some(self.leaving.clone()),
        }
    }
}

/// What is to be begun now.
pub fn due(metadata: &Metadata, sight: &Sight) -> Vec<Replacement> {
    let nobody = BTreeSet::new();
    let believed = 2 * sight.lost.len() < metadata.nodes.len();
    let lost = if believed { &sight.lost } else { &nobody };
    let mut under_way = UnderWay::of(metadata, sight);
    let mut loads = Loads::of(metadata, |node| sight.living.contains(node));
    let mut due = Vec::new();
    for (number, group) in &metadata.groups {
        if !can_change(group, sight) {
            continue;
        }
        let changes = group.members.iter().any(|member| member.leaving);
        let is_lost = |node: &str| lost.contains(node);
        // What goes on already is not waited for where it cannot end.
        let leaving = group.staying().find(|member| is_lost(&member.node));
        let is_evacuated = |node: &str| metadata.nodes.get(node).is_some_and(|node| node.evacuating);
        let evacuated = || group.staying().find(|member| is_evacuated(&member.node));
        let Some(leaving) = leaving.or_else(|| if changes { None } else { evacuated() }) else {
            continue;
        };
        if !changes && under_way.groups >= UNDER_WAY_MAX {
            continue;
        }
        let Some(node) = loads.place_instead(metadata, group, &leaving.node) else {
            continue;
        };
        if !under_way.begin(node, changes) {
            continue;
        }
        due.push(Replacement {
            group: *number,
            leaving: leaving.node.clone(),
            node: node.to_owned(),
        });
    }
    due
}

/// A majority lives, so that its members can be changed.
fn can_change(group: &RaftGroup, sight: &Sight) -> bool {
    let living = group
        .members
        .iter()
        .filter(|member| sight.living.contains(&member.node));
    2 * living.count() > group.members.len()
}

/// What is being changed.
struct UnderWay {
    groups: usize,
    /// By node, how many replicas it may be getting.
    arriving: BTreeMap<String, usize>,
}

impl UnderWay {
    fn of(metadata: &Metadata, sight: &Sight) -> Self {
        let changing = metadata.groups.values().filter(|group| {
            let leaves = group.members.iter().any(|member| member.leaving);
            leaves && can_change(group, sight)
        });
        let mut under_way = Self {
            groups: 0,
            arriving: BTreeMap::new(),
        };
        for group in changing {
            under_way.groups += 1;
            // The one with the newest id is the one that came last.
            if let Some(newest) = group.staying().max_by_key(|member| member.id) {
                *under_way.arriving.entry(newest.node.clone()).or_default() += 1;
            }
        }
        under_way
    }

    /// Takes note of one more, unless the node gets as many as it may.
    fn begin(&mut self, node: &str, counted: bool) -> bool {
        let arriving = self.arriving.entry(node.to_owned()).or_default();
        if *arriving >= PER_NODE_MAX {
            return false;
        }
        *arriving += 1;
        self.groups += usize::from(!counted);
        true
    }
}

#[cfg(test)]
#[path = "replacement_test.rs"]
mod tests;
