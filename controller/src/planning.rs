//! Which queues should move. Pure: the same metadata and loads give the same moves. Nothing is started here.
//!
//! [`rebalance`] leads to where [`crate::placement`] would have put the queues had all Raft groups been there from the
//! start: the queues of each topic lie evenly on the groups that stay, those that it is pinned to if it is, and so do the
//! queues of all topics, give or take one, as far as pins allow. Among all such layouts it takes one that the fewest moves
//! lead to (`spread.rs`), then exchanges queues between groups as long as that evens out the measured load ([`Loads`])
//! without making the counts less even (`exchange.rs`). Coordinator slots are spread in the same way, on their own, by
//! count. [`drain`] moves the queues and slots of one group and no others.
//!
//! Holds: no move goes to where the queue is, to a draining group, or to one that the topic is not pinned to; a queue
//! that is on its way counts where it goes and is left alone; after the moves of a plan the next one, by the same loads,
//! is empty.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::metadata::{Metadata, Topic};
use crate::queue_move::MoveRequest;

mod exchange;
mod explain;
mod layout;
mod loads;
mod spread;

pub use exchange::GAIN_MIN;
pub use loads::{GroupLoad, Loads, QueueKey, Rate};

use layout::{Kind, Layout};

/// A move that would be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedMove {
    /// The topic's name.
    pub topic: String,
    /// The queue's number.
    pub queue: u32,
    /// The Raft group that has it.
    pub from: u16,
    /// The Raft group that shall have it.
    pub to: u16,
    /// Why, for people.
    pub reason: String,
}

impl PlannedMove {
    /// What has to be asked for to have it carried out.
    pub fn request(&self) -> MoveRequest {
        MoveRequest {
            topic: self.topic.clone(),
            queue: self.queue,
            to: self.to,
        }
    }
}

/// Moves, and what they come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In the order of topics and queues; those of coordinator slots last.
    pub moves: Vec<PlannedMove>,
    /// All Raft groups, by number.
    pub groups: Vec<PlannedGroup>,
}

/// What a plan makes of a Raft group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlannedGroup {
    /// Its number.
    pub group: u16,
    /// What it has.
    pub before: Share,
    /// What it has when the moves are done.
    pub after: Share,
}

/// What a Raft group has, queues on their way to it included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// Open queues.
    pub queues: usize,
    /// What comes into them; `None` if that was not measured.
    pub rate: Option<Rate>,
}

impl PlannedGroup {
    fn unchanged(group: u16, share: Share) -> Self {
        Self {
            group,
            before: share,
            after: share,
        }
    }
}

/// The fewest moves that even out open queues over the Raft groups that stay, and then what comes into them. Queues that
/// are `resting` stay where they are, unless that group drains or pins exclude it.
pub fn rebalance(metadata: &Metadata, loads: &Loads, resting: &BTreeSet<QueueKey>) -> Plan {
    let mut plan = even_out(metadata, Kind::Users, loads, resting);
    // What comes into slots is not measured.
    let slots = even_out(metadata, Kind::Slots, &Loads::default(), resting);
    plan.moves.extend(slots.moves);
    plan
}

fn even_out(metadata: &Metadata, kind: Kind, loads: &Loads, resting: &BTreeSet<QueueKey>) -> Plan {
    let mut layout = Layout::of(metadata, kind, loads, resting);
    if layout.groups.is_empty() {
        return Plan::default();
    }
    let counts: Vec<_> = layout
        .topics
        .iter()
        .map(|topic| topic.counts(layout.groups.len()))
        .collect();
    layout.settle(&spread::spread(&counts, layout.groups.len()));
    exchange::exchange(&mut layout);
    explain::plan(&layout, metadata)
}

/// Moves of all queues that are open in a Raft group, evenly to the other ones that stay and that their topics are
/// pinned to, if they are. None if there are no others.
pub fn drain(metadata: &Metadata, group: u16) -> Vec<PlannedMove> {
    let settled = layout::settled(metadata);
    let mut open: BTreeMap<u16, u64> = BTreeMap::new();
    let counted = settled.iter().filter(|topic| Kind::of(topic.topic) == Kind::Users);
    for group in counted.flat_map(|topic| &topic.groups) {
        *open.entry(*group).or_default() += 1;
    }
    let mut moves = Vec::new();
    for topic in &settled {
        if !topic.groups.contains(&group) {
            continue;
        }
        // The next queue goes where the fewest of this topic are, then the fewest of all.
        let mut order: BinaryHeap<_> = drain_targets(metadata, group, topic.topic)
            .map(|target| {
                let own = topic.groups.iter().filter(|group| **group == target).count();
                Reverse((own, open.get(&target).copied().unwrap_or(0), target))
            })
            .collect();
        for (at, queue) in topic.groups.iter().zip(0..) {
            if *at != group || topic.on_their_way.contains(&queue) {
                continue;
            }
            let Some(Reverse((own, all, to))) = order.pop() else {
                break;
            };
            order.push(Reverse((own + 1, all + 1, to)));
            if Kind::of(topic.topic) == Kind::Users {
                *open.entry(to).or_default() += 1;
            }
            moves.push(PlannedMove {
                topic: topic.name.to_owned(),
                queue,
                from: group,
                to,
                reason: format!("drain of {}", layout::group_name(metadata, group)),
            });
        }
    }
    moves
}

/// How many queues are open in a Raft group, or on their way to it, that a drain leaves there: their topics are pinned,
/// and to no other group that stays.
pub fn held_by_pins(metadata: &Metadata, group: u16) -> usize {
    let settled = layout::settled(metadata);
    let held = settled
        .iter()
        .filter(|topic| !topic.topic.pinned.is_empty() && drain_targets(metadata, group, topic.topic).next().is_none());
    held.flat_map(|topic| &topic.groups).filter(|at| **at == group).count()
}

/// Where queues of a topic can go when `group` is drained.
fn drain_targets(metadata: &Metadata, group: u16, topic: &Topic) -> impl Iterator<Item = u16> {
    let others = metadata.groups.iter().filter(move |(number, _)| **number != group);
    let open = others.filter(|(number, known)| !known.draining && topic.may_be_in(**number));
    open.map(|(number, _)| *number)
}

#[cfg(test)]
#[path = "planning_test.rs"]
mod tests;
