//! Where new Raft groups and queues go. Pure: the same metadata gives the same places everywhere.
//!
//! Called by apply, so a change of these rules is a change of what old logs mean: what was placed stays as it is on
//! replicas that already applied it, and would come out otherwise on those that apply it again.
//!
//! Holds: a node has at most one replica of a Raft group; nodes lead, and Raft groups own, about equally many.
//! Not here: moving what has been placed (`planning.rs`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::metadata::{Metadata, RaftGroup, Replica, Segment};
use crate::state::{Counters, QueueCounts};

/// The Raft groups that the policy asks for and that do not exist yet. None while there are fewer nodes than one group
/// has replicas; nodes that are being evacuated do not count.
pub fn missing_groups(metadata: &Metadata, counters: &mut Counters, log_index: u64) -> Vec<(u16, RaftGroup)> {
    let policy = &metadata.cluster.policy;
    let mut loads = Loads::of(metadata, |_| true);
    let nodes = loads.0.len();
    if nodes == 0 || nodes < policy.replicas {
        return Vec::new();
    }
    let wanted = match policy.groups {
        0 => nodes.saturating_mul(policy.groups_per_node),
        groups => groups,
    };
    let mut led = Vec::new();
    for _ in metadata.groups.len()..wanted {
        let Some(number) = counters.next_group() else { break };
        led.push((number, loads.place_first()));
    }
    // Only once it is known what each node leads can the other replicas make up for it.
    let made = led.into_iter().map(|(number, first)| {
        let members: Vec<Replica> = loads
            .place_others(first, policy.replicas)
            .into_iter()
            .map(|node| Replica {
                id: counters.next_replica(),
                node: node.to_owned(),
                leaving: false,
            })
            .collect();
        let group = RaftGroup {
            name: format!("g{number}"),
            creation: log_index,
            preferred: members[0].node.clone(),
            founder: members[0].id,
            members,
            draining: false,
        };
        (number, group)
    });
    made.collect()
}

/// Raft groups for `count` more queues of a topic that has the queues `existing`: round robin, so that the topic is
/// spread evenly, beginning with the group that has the fewest open queues of all topics, so that topics of one queue
/// spread as well. Only over [`staying_groups`]; without any group the answer is empty.
pub fn place_queues(
    metadata: &Metadata,
    counts: &QueueCounts,
    existing: &[Vec<Segment>],
    count: usize,
    pinned: &[u16],
) -> Vec<u16> {
    let candidates = staying_groups(metadata, pinned);
    let mut own: BTreeMap<u16, u64> = BTreeMap::new();
    for segment in existing.iter().filter_map(|queue| queue.last()) {
        *own.entry(segment.group).or_default() += 1;
    }
    // The next queue goes where the fewest of this topic are, then the fewest of all.
    let mut order: BinaryHeap<_> = candidates
        .into_iter()
        .map(|group| {
            let own = own.get(&group).copied().unwrap_or(0);
            Reverse((own, counts.open_in(group), group))
        })
        .collect();
    let mut placed = Vec::with_capacity(count);
    while placed.len() < count
        && let Some(Reverse((own, open, group))) = order.pop()
    {
        placed.push(group);
        order.push(Reverse((own + 1, open + 1, group)));
    }
    placed
}

/// The Raft groups that may get queues of a topic: of the `pinned` ones, or of all if none are, those that are not
/// draining, or all if there are no others.
pub fn staying_groups(metadata: &Metadata, pinned: &[u16]) -> BTreeSet<u16> {
    let candidates: BTreeSet<u16> = match pinned {
        [] => metadata.groups.keys().copied().collect(),
        pinned => pinned.iter().copied().collect(),
    };
    let stays = |group: &u16| metadata.groups.get(group).is_some_and(|group| !group.draining);
    let staying: BTreeSet<u16> = candidates.iter().copied().filter(stays).collect();
    match staying.is_empty() {
        true => candidates,
        false => staying,
    }
}

/// What each node that may get replicas carries, in the order of their names.
pub struct Loads<'a>(Vec<Load<'a>>);

struct Load<'a> {
    node: &'a str,
    zone: &'a str,
    replicas: usize,
    preferred: usize,
}

impl<'a> Loads<'a> {
    /// Of the nodes that `may` get replicas and are not being evacuated.
    pub fn of(metadata: &'a Metadata, may: impl Fn(&str) -> bool) -> Self {
        let mut preferred: BTreeMap<&str, usize> = BTreeMap::new();
        let mut replicas: BTreeMap<&str, usize> = BTreeMap::new();
        for group in metadata.groups.values() {
            *preferred.entry(&group.preferred).or_default() += 1;
            for member in group.staying() {
                *replicas.entry(&member.node).or_default() += 1;
            }
        }
        let nodes = metadata.nodes.iter();
        let nodes = nodes.filter(|(name, node)| !node.evacuating && may(name.as_str()));
        let loads = nodes.map(|(name, node)| Load {
            node: name,
            zone: &node.zone,
            replicas: replicas.get(name.as_str()).copied().unwrap_or(0),
            preferred: preferred.get(name.as_str()).copied().unwrap_or(0),
        });
        Self(loads.collect())
    }

    /// The node that gets a replica of a Raft group in place of another one: in a zone where none that stays is, if there
    /// is such a node, then the one with the fewest replicas. None if all have one.
    pub fn place_instead(&mut self, metadata: &Metadata, group: &RaftGroup, leaving: &str) -> Option<&'a str> {
        let staying = group.staying().filter(|member| member.node != leaving);
        let zones = staying.filter_map(|member| Some(metadata.nodes.get(&member.node)?.zone.as_str()));
        let zones: BTreeSet<&str> = zones.collect();
        let others = self.0.iter_mut().filter(|load| group.on(load.node).is_none());
        let load = others.min_by_key(|load| (zones.contains(load.zone), load.replicas))?;
        load.replicas += 1;
        Some(load.node)
    }

    /// The node that leads one more Raft group: the one that leads the fewest.
    fn place_first(&mut self) -> usize {
        let first = (0..self.0.len())
            .min_by_key(|&place| self.0[place].preferred)
            .expect("groups are placed only where there are nodes");
        self.0[first].preferred += 1;
        self.0[first].replicas += 1;
        first
    }

    /// All nodes of a Raft group that the node `first` leads: it, then the others in the ring of names. They are in
    /// different zones if possible, and carry the fewest replicas. All nodes if they are fewer than `count`.
    fn place_others(&mut self, first: usize, count: usize) -> Vec<&'a str> {
        let nodes = self.0.len();
        let behind_first = |place: usize| (place + nodes - first) % nodes;
        let mut members = vec![first];
        while members.len() < count.min(nodes) {
            let next = (0..nodes)
                .filter(|place| !members.contains(place))
                .min_by_key(|&place| {
                    let load = &self.0[place];
                    let zone_taken = members.iter().any(|&member| self.0[member].zone == load.zone);
                    (zone_taken, load.replicas, behind_first(place))
                })
                .expect("fewer members than nodes");
            self.0[next].replicas += 1;
            members.push(next);
        }
        members.sort_unstable_by_key(|&member| behind_first(member));
        members.into_iter().map(|member| self.0[member].node).collect()
    }
}

#[cfg(test)]
#[path = "placement_test.rs"]
mod tests;
