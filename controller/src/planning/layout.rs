//! The open queues as planning sees them: which can move, which are on their way, what each asks of its Raft group.
//!
//! Groups are named by their place among those that stay; a queue of a draining group, or of one that its topic is not
//! pinned to, has no place until it is settled.

use std::collections::{BTreeMap, BTreeSet};

use super::loads::{Loads, QueueKey, Rate};
use super::spread::Counts;
use super::{PlannedGroup, Share};
use crate::metadata::{Metadata, Topic};

/// Which topics a plan is about. Coordinator slots ask little of their groups and nobody counts them among the queues, so
/// they are evened out on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What users have.
    Users,
    /// The coordinator slots.
    Slots,
}

impl Kind {
    /// The kind of a topic.
    pub fn of(topic: &Topic) -> Self {
        match topic.is_coordinator_slots() {
            true => Self::Slots,
            false => Self::Users,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Layout<'a> {
    /// Numbers of the Raft groups that stay, in order.
    pub groups: Vec<u16>,
    /// Topics in the order of their names.
    pub topics: Vec<TopicLayout<'a>>,
    /// What all queues together ask of each group, by place.
    pub loads: Vec<u128>,
    /// By place, whether that was measured.
    pub measured: Vec<bool>,
    /// What all groups have before anything moves, those that do not stay included, by number.
    pub before: BTreeMap<u16, PlannedGroup>,
}

/// The open queues of a topic.
#[derive(Debug)]
pub struct TopicLayout<'a> {
    pub name: &'a str,
    /// Those that can move.
    pub queues: Vec<MovableQueue>,
    /// By place, whether the topic's pins allow queues there.
    pub allowed: Vec<bool>,
    /// How many each place has that cannot move: on their way to it, or at rest after a move.
    pub fixed: BTreeMap<usize, usize>,
}

/// A queue that can move.
#[derive(Clone, Copy, Debug)]
pub struct MovableQueue {
    /// Its number.
    pub number: u32,
    /// The number of the Raft group that has it.
    pub from: u16,
    /// Where it is, then where it shall be.
    pub place: Option<usize>,
    /// What comes in.
    pub rate: Rate,
    /// What it asks of its group.
    pub load: u64,
}

/// A topic's queues with the groups that have them, or will once moves under way are done.
#[derive(Debug)]
pub struct Settled<'a> {
    pub name: &'a str,
    pub topic: &'a Topic,
    /// By queue number.
    pub groups: Vec<u16>,
    /// Numbers of the queues under way.
    pub on_their_way: BTreeSet<u32>,
}

/// All topics in the order of their names.
pub fn settled(metadata: &Metadata) -> Vec<Settled<'_>> {
    settled_if(metadata, |_| true)
}

fn settled_if(metadata: &Metadata, wanted: impl Fn(&Topic) -> bool) -> Vec<Settled<'_>> {
    let mut targets: BTreeMap<u64, BTreeMap<u32, u16>> = BTreeMap::new();
    for queue_move in metadata.moves.values().filter(|queue_move| queue_move.is_under_way()) {
        let queues = targets.entry(queue_move.topic_id).or_default();
        queues.insert(queue_move.queue, queue_move.to);
    }
    let topics = metadata.topics.iter().filter(|(_, topic)| wanted(topic));
    let topics = topics.map(|(name, topic)| {
        let targets = targets.remove(&topic.id).unwrap_or_default();
        let open = topic.queues.iter().zip(0..).filter_map(|(segments, queue)| {
            let open = segments.last()?.group;
            Some(targets.get(&queue).copied().unwrap_or(open))
        });
        Settled {
            name,
            topic,
            groups: open.collect(),
            on_their_way: targets.into_keys().collect(),
        }
    });
    topics.collect()
}

/// The name of a Raft group.
pub fn group_name(metadata: &Metadata, number: u16) -> &str {
    metadata.groups.get(&number).map_or("", |group| &group.name)
}

impl<'a> Layout<'a> {
    /// The layout of the topics of a kind that the metadata tells of. Queues that are `resting` stay where they are, if they
    /// may.
    pub fn of(metadata: &'a Metadata, kind: Kind, known: &Loads, resting: &BTreeSet<QueueKey>) -> Self {
        let groups = metadata.groups.iter();
        let groups: Vec<u16> = groups
            .filter_map(|(number, group)| (!group.draining).then_some(*number))
            .collect();
        let place = |group: u16| groups.binary_search(&group).ok();
        let settled = settled_if(metadata, |topic| Kind::of(topic) == kind);
        let measured = settled.iter().flat_map(|topic| &topic.groups);
        let measured = measured.filter(|group| known.of_group(**group).is_some());
        let average = known.average(measured.count());
        let mut before: BTreeMap<u16, Share> = metadata.groups.keys().map(|group| (*group, Share::default())).collect();
        let mut loads = vec![0; groups.len()];
        for (group, share) in &mut before {
            let others = known.others_of(*group);
            share.rate = known.of_group(*group).map(|_| others);
            if let Some(place) = place(*group) {
                loads[place] += u128::from(others.load());
            }
        }
        let topics = settled.into_iter().map(|topic| {
            let allowed: Vec<bool> = groups.iter().map(|group| topic.topic.may_be_in(*group)).collect();
            // Without a group that its pins allow and that stays, a topic stays as it is.
            let stays = !allowed.contains(&true);
            let mut layout = TopicLayout {
                name: topic.name,
                queues: Vec::new(),
                allowed,
                fixed: BTreeMap::new(),
            };
            for (group, number) in topic.groups.iter().zip(0..) {
                let key = (topic.topic.id, number);
                let is_allowed = |place: &usize| layout.allowed[*place];
                let rests = resting.contains(&key) && place(*group).as_ref().is_some_and(is_allowed);
                let fixed = stays || rests || topic.on_their_way.contains(&number);
                let place = place(*group).filter(|place| fixed || is_allowed(place));
                let rate = known.of_queue(key, *group, average);
                let load = rate.load();
                if let Some(place) = place {
                    loads[place] += u128::from(load);
                }
                if let Some(share) = before.get_mut(group) {
                    share.queues += 1;
                    if let Some(all) = &mut share.rate {
                        *all += rate;
                    }
                }
                if !fixed {
                    layout.queues.push(MovableQueue {
                        number,
                        from: *group,
                        place,
                        rate,
                        load,
                    });
                } else if let Some(place) = place {
                    *layout.fixed.entry(place).or_default() += 1;
                }
            }
            layout
        });
        let topics = topics.collect();
        let before = before.into_iter();
        Self {
            measured: groups.iter().map(|group| known.of_group(*group).is_some()).collect(),
            before: before
                .map(|(group, share)| (group, PlannedGroup::unchanged(group, share)))
                .collect(),
            groups,
            topics,
            loads,
        }
    }

    /// Gives each topic as many queues in each place as `wanted` says, those that arrive included. Of the queues that
    /// have to leave anyway those are taken that even out the load.
    pub fn settle(&mut self, wanted: &[Vec<usize>]) {
        for (topic, wanted) in self.topics.iter_mut().zip(wanted) {
            let mut room = topic.room(wanted);
            loop {
                let to = (0..room.len())
                    .filter(|place| room[*place] > 0)
                    .min_by_key(|place| self.loads[*place]);
                let Some(to) = to else { break };
                let from = (0..room.len()).filter(|place| room[*place] < 0);
                let from = from.max_by_key(|place| (self.loads[*place], std::cmp::Reverse(*place)));
                // Those without a place first: they lie where they cannot stay.
                let homeless = topic.queues.iter().any(|queue| queue.place.is_none());
                let leaving = if homeless { None } else { from };
                if !homeless && from.is_none() {
                    break;
                }
                let half = leaving.map_or(0, |from| self.loads[from].saturating_sub(self.loads[to]) / 2);
                let queue = topic.queues.iter_mut().filter(|queue| queue.place == leaving);
                let Some(queue) = queue.min_by_key(|queue| u128::from(queue.load).abs_diff(half)) else {
                    break;
                };
                queue.place = Some(to);
                let load = u128::from(queue.load);
                room[to] -= 1;
                self.loads[to] += load;
                if let Some(from) = leaving {
                    room[from] += 1;
                    self.loads[from] -= load;
                }
            }
        }
    }
}

impl TopicLayout<'_> {
    /// How many of its queues are where.
    pub fn counts(&self, places: usize) -> Counts {
        let mut counts = Counts {
            movable: vec![0; places],
            fixed: vec![0; places],
            homeless: 0,
            allowed: self.allowed.clone(),
        };
        for queue in &self.queues {
            match queue.place {
                Some(place) => counts.movable[place] += 1,
                None => counts.homeless += 1,
            }
        }
        for (place, count) in &self.fixed {
            counts.fixed[*place] += count;
        }
        counts
    }

    /// How many more queues each place should have; negative: fewer.
    fn room(&self, wanted: &[usize]) -> Vec<isize> {
        let counts = self.counts(wanted.len());
        let have = counts.movable.iter().zip(&counts.fixed);
        let room = wanted
            .iter()
            .zip(have)
            .map(|(wanted, (movable, fixed))| *wanted as isize - (movable + fixed) as isize);
        room.collect()
    }
}
