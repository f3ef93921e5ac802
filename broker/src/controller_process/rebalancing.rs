//! When queues move by themselves, as `policy.auto_rebalance` asks for: because queues are not even by count, as after
//! a Raft group came or was reopened, or because some groups have carried much more than others for a while. Decides which
//! moves to start now; `rebalancer.rs` looks around and starts them.
//!
//! Holds: nothing is started before every Raft group has been well, and led by the same node, for [`SETTLED_FOR`]; nor
//! while a drain has something to do. Of all moves at most [`UNDER_WAY_MAX`] are under way, whoever asked for them. A plan
//! is made when none is; one for the load not within [`PAUSE`] of another plan. A queue rests for [`REST`] after a move.
//! What was planned and rests is read from the moves in the metadata, so whoever leads next goes on as this one would; of
//! those it remembers the last `MOVES_ENDED_KEPT_MAX`, and the clocks of controllers may differ by less than these times.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use flotilla_controller::coordinator_slots;
use flotilla_controller::metadata::Metadata;
use flotilla_controller::planning::{self, GAIN_MIN, Loads, PlannedMove, QueueKey};
use flotilla_controller::queue_move::MoveRequest;
use tokio::time::Instant;

/// How long everything must have been as it is before a plan is made: nodes that come together are taken together.
pub const SETTLED_FOR: Duration = Duration::from_secs(10);
/// Moves under way, those that others started included.
pub const UNDER_WAY_MAX: usize = 16;
/// For how long the load must have been uneven before a plan is made.
pub const UNEVEN_FOR: Duration = Duration::from_secs(3 * 60);
/// Between a plan and the next one for the load.
pub const PAUSE: Duration = Duration::from_secs(10 * 60);
/// How long a queue that moved stays where it is.
pub const REST: Duration = Duration::from_secs(10 * 60);
/// Load is uneven when a Raft group carries this part more than the average,
const UNEVEN_PART: u64 = 4;
/// and worth a plan that takes this part of the average off the one that carries most.
const WORTH_PART: u64 = 10;

/// How moves are called that are started here.
const BY_COUNT: &str = "auto_rebalance: queues are uneven";
const BY_LOAD: &str = "auto_rebalance: load is uneven";

/// A Raft group as the leading controller sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupView {
    /// The node that leads it, if that lives.
    pub leader: Option<String>,
    /// Its replicas on nodes that live, and which are open.
    pub living: BTreeSet<String>,
    /// Those of them that lack more than the last moments brought.
    pub behind: BTreeSet<String>,
}

/// What is to be seen at one moment.
#[derive(Debug)]
pub struct View<'a> {
    /// The newest.
    pub metadata: &'a Metadata,
    /// By number.
    pub groups: &'a BTreeMap<u16, GroupView>,
    /// The last that was measured, lately.
    pub loads: Option<&'a Loads>,
    /// When.
    pub now: Instant,
    /// The same on the clock on the wall.
    pub now_ms: i64,
}

/// Moves to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Which.
    pub moves: Vec<MoveRequest>,
    /// Why.
    pub reason: &'static str,
}

/// What the leading controller remembers between two looks.
#[derive(Debug, Default)]
pub struct Rebalancing {
    /// The groups as they were seen last, and since when they are so.
    settled: Option<(BTreeMap<u16, GroupView>, Instant)>,
    /// Since when the load is uneven.
    uneven: Option<Instant>,
    /// The epoch, and how many queues rested, when the counts were found even.
    even_at: Option<(u64, usize)>,
    /// What of the last plan is not started yet.
    left: VecDeque<PlannedMove>,
    reason: &'static str,
}

impl Rebalancing {
    /// What to start now.
    pub fn due(&mut self, view: &View<'_>) -> Option<Start> {
        if !are_well(view) || is_draining(view.metadata) {
            *self = Self::default();
            return None;
        }
        if self.settled.as_ref().is_none_or(|(seen, _)| seen != view.groups) {
            *self = Self {
                settled: Some((view.groups.clone(), view.now)),
                ..Self::default()
            };
        }
        self.watch_load(view);
        let (_, since) = self.settled.as_ref()?;
        if view.now.duration_since(*since) < SETTLED_FOR {
            return None;
        }
        let moves = view.metadata.moves.values();
        let under_way = moves.filter(|known| known.is_under_way()).count();
        if self.left.is_empty() && under_way == 0 {
            self.plan(view);
        }
        let mut moves = Vec::new();
        while under_way + moves.len() < UNDER_WAY_MAX
            && let Some(planned) = self.left.pop_front()
        {
            if still_holds(view.metadata, &planned) {
                moves.push(planned.request());
            }
        }
        (!moves.is_empty()).then_some(Start {
            moves,
            reason: self.reason,
        })
    }

    /// What was to be started was refused: somebody changed something meanwhile.
    pub fn give_up(&mut self) {
        self.left.clear();
    }

    fn watch_load(&mut self, view: &View<'_>) {
        // Between two measurements it stays as it is.
        let Some(loads) = view.loads else { return };
        self.uneven = match is_uneven(view.metadata, loads) {
            true => Some(self.uneven.unwrap_or(view.now)),
            false => None,
        };
    }

    fn plan(&mut self, view: &View<'_>) {
        let resting = resting(view);
        let loads = view.loads.cloned().unwrap_or_default();
        let rebalanced = |loads: &Loads| planning::rebalance(view.metadata, loads, &resting);
        let known = (view.metadata.epoch, resting.len());
        if self.even_at != Some(known) {
            let by_count = rebalanced(&Loads::default()).moves;
            if !by_count.is_empty() {
                // Queues that move anyway go by their load; slots alone are no reason for others to move.
                let only_slots = by_count.iter().all(|planned| planned.topic == coordinator_slots::TOPIC);
                let moves = if only_slots { by_count } else { rebalanced(&loads).moves };
                self.begin(moves, BY_COUNT);
                return;
            }
            self.even_at = Some(known);
        }
        let long_uneven = |since: Instant| view.now.duration_since(since) >= UNEVEN_FOR;
        if !self.uneven.is_some_and(long_uneven) || planned_lately(view) {
            return;
        }
        // Whatever comes of it is tried again only after as long.
        self.uneven = Some(view.now);
        let plan = rebalanced(&loads);
        if is_worth_it(view.metadata, &plan) {
            self.begin(plan.moves, BY_LOAD);
        }
    }

    fn begin(&mut self, moves: Vec<PlannedMove>, reason: &'static str) {
        self.left = moves.into();
        self.reason = reason;
    }
}

/// All groups have a leader and a majority, and no replica that is being filled.
fn are_well(view: &View<'_>) -> bool {
    let mut groups = view.metadata.groups.iter();
    let is_well = |(number, group): (&u16, &flotilla_controller::metadata::RaftGroup)| {
        let seen = view.groups.get(number);
        seen.is_some_and(|seen| {
            seen.leader.is_some() && seen.behind.is_empty() && 2 * seen.living.len() > group.members.len()
        })
    };
    groups.all(is_well)
}

/// Some queue is to leave a group that drains.
fn is_draining(metadata: &Metadata) -> bool {
    let draining = metadata.groups.iter().filter(|(_, group)| group.draining);
    let mut draining = draining.map(|(number, _)| *number);
    draining.any(|number| {
        let mut moves = metadata.moves.values();
        moves.any(|known| known.is_under_way() && known.from == number) || !planning::drain(metadata, number).is_empty()
    })
}

/// What each group carries that takes queues; `None` unless all were measured.
fn carried(metadata: &Metadata, loads: &Loads) -> Option<Vec<u64>> {
    let open = metadata.groups.iter().filter(|(_, group)| !group.draining);
    open.map(|(number, _)| Some(loads.of_group(*number)?.load())).collect()
}

/// The most of these, and their average.
fn most_and_average(carried: &[u64]) -> (u64, u64) {
    let most = carried.iter().max().copied().unwrap_or(0);
    (most, carried.iter().sum::<u64>() / carried.len().max(1) as u64)
}

fn is_uneven(metadata: &Metadata, loads: &Loads) -> bool {
    carried(metadata, loads).is_some_and(|carried| {
        let (most, average) = most_and_average(&carried);
        most - average >= (average / UNEVEN_PART).max(GAIN_MIN)
    })
}

fn is_worth_it(metadata: &Metadata, plan: &planning::Plan) -> bool {
    let groups = plan.groups.iter();
    let groups = groups.filter(|planned| metadata.groups.get(&planned.group).is_some_and(|group| !group.draining));
    let (before, after): (Vec<u64>, Vec<u64>) = groups
        .map(|planned| {
            let load = |share: planning::Share| share.rate.unwrap_or_default().load();
            (load(planned.before), load(planned.after))
        })
        .unzip();
    let ((before, average), (after, _)) = (most_and_average(&before), most_and_average(&after));
    before.saturating_sub(after) >= (average / WORTH_PART).max(GAIN_MIN)
}

/// Queues that moved lately.
fn resting(view: &View<'_>) -> BTreeSet<QueueKey> {
    let moves = view.metadata.moves.values();
    let lately = moves.filter(|known| known.ended_ms.is_none_or(|ended| is_within(view, ended, REST)));
    lately.map(|known| (known.topic_id, known.queue)).collect()
}

/// A plan was begun here, or by who led before, within the last [`PAUSE`].
fn planned_lately(view: &View<'_>) -> bool {
    let mut moves = view.metadata.moves.values();
    moves.any(|known| {
        let is_ours = [BY_COUNT, BY_LOAD].contains(&known.reason.as_str());
        // Slots carry nothing that a plan for the load would have to wait for.
        is_ours && known.topic != coordinator_slots::TOPIC && is_within(view, known.started_ms, PAUSE)
    })
}

fn is_within(view: &View<'_>, then_ms: i64, time: Duration) -> bool {
    u128::try_from(view.now_ms.saturating_sub(then_ms)).unwrap_or(0) < time.as_millis()
}

/// What was planned can still be asked for.
fn still_holds(metadata: &Metadata, planned: &PlannedMove) -> bool {
    let open = metadata.topics.get(&planned.topic);
    let open = open.filter(|topic| topic.may_be_in(planned.to));
    let open = open.and_then(|topic| topic.open_segment(planned.queue));
    let mut moves = metadata.moves.values();
    open.is_some_and(|open| open.group == planned.from)
        && metadata.groups.get(&planned.to).is_some_and(|group| !group.draining)
        && !moves.any(|known| known.is_under_way() && (&known.topic, known.queue) == (&planned.topic, planned.queue))
}

#[cfg(test)]
#[path = "rebalancing_test.rs"]
mod tests;
