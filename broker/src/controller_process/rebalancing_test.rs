//! A cluster under the policy in virtual time: the controllers' real state, loads that a test says, a look a second.

use flotilla_controller::metadata::Policy;
use flotilla_controller::planning::{GroupLoad, Rate};
use flotilla_controller::queue_move::MoveOutcome;
use flotilla_controller::state::{Command, Reply, State};
use flotilla_controller::topic::TopicConfig;

use super::*;

/// Between two measurements.
const MEASURED_EVERY: u64 = 15;
const MIB: f64 = 1_048_576.0;
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const PAUSE_SECONDS: u64 = PAUSE.as_secs();

/// A move that the policy started.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Moved {
    second: u64,
    queue: (String, u32),
    to: u16,
    reason: String,
}

/// See the module. A node has one Raft group of one replica.
struct Cluster {
    state: State,
    log_index: u64,
    rebalancing: Rebalancing,
    begun: Instant,
    second: u64,
    loads: Loads,
    /// Groups without a leader.
    silent: BTreeSet<u16>,
    /// Groups with a replica that is being filled.
    filling: BTreeSet<u16>,
    /// Those of coordinator slots left out.
    moved: Vec<Moved>,
    most_under_way: usize,
    /// Moves stay under way.
    stuck: bool,
}

impl Cluster {
    fn of(nodes: u16) -> Self {
        let mut cluster = Self {
            state: State::default(),
            log_index: 0,
            rebalancing: Rebalancing::default(),
            begun: Instant::now(),
            second: 0,
            loads: Loads::default(),
            silent: BTreeSet::new(),
            filling: BTreeSet::new(),
            moved: Vec::new(),
            most_under_way: 0,
            stuck: false,
        };
        cluster.apply(Command::Found {
            name: "c".to_owned(),
            id: "1".to_owned(),
            policy: Policy {
                replicas: 1,
                ..Policy::default()
            },
            controllers: BTreeMap::new(),
            feature_level: 1,
        });
        (1..=nodes).for_each(|_| cluster.add_node());
        cluster
    }

    fn apply(&mut self, command: Command) -> Reply {
        self.log_index += 1;
        let (reply, _) = self.state.apply(command, self.log_index);
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
        reply
    }

    fn metadata(&self) -> &Metadata {
        self.state.metadata()
    }

    fn now_ms(&self) -> i64 {
        1_800_000_000_000 + 1_000 * self.second as i64
    }

    fn add_node(&mut self) {
        let number = self.metadata().nodes.len() + 1;
        self.apply(Command::RegisterNode {
            name: format!("n{number}"),
            volume: format!("v{number}"),
            zone: String::new(),
            peer: format!("n{number}:10912"),
        });
    }

    fn put(&mut self, topic: &str, queues: u32) {
        self.apply(Command::PutTopic {
            config: TopicConfig::new(topic, queues),
            if_absent: false,
            expected: None,
            groups: None,
            now_ms: 0,
        });
    }

    fn drain(&mut self, group: u16, draining: bool) {
        self.apply(Command::SetDraining { group, draining });
    }

    fn open_group(&self, topic: &str, queue: u32) -> u16 {
        self.metadata().topics[topic].open_segment(queue).unwrap().group
    }

    /// Open queues by group.
    fn counts(&self) -> BTreeMap<u16, usize> {
        let mut counts: BTreeMap<u16, usize> = self.metadata().groups.keys().map(|group| (*group, 0)).collect();
        for segments in self.metadata().user_topics().flat_map(|topic| &topic.queues) {
            *counts.get_mut(&segments.last().unwrap().group).unwrap() += 1;
        }
        counts
    }

    /// Coordinator slots by group.
    fn slots(&self) -> BTreeMap<u16, usize> {
        let mut slots = BTreeMap::new();
        for segments in &self.metadata().topics[coordinator_slots::TOPIC].queues {
            *slots.entry(segments.last().unwrap().group).or_default() += 1;
        }
        slots
    }

    /// What every group carries in MiB a second when its queues carry so much.
    fn carried(&self, load: impl Fn(&str, u32) -> f64) -> BTreeMap<u16, f64> {
        let mut carried: BTreeMap<u16, f64> = self.metadata().groups.keys().map(|group| (*group, 0.0)).collect();
        for topic in self.metadata().user_topics() {
            let name = &topic.config.name;
            for queue in 0..topic.config.queues {
                *carried.get_mut(&self.open_group(name, queue)).unwrap() += load(name, queue);
            }
        }
        carried
    }

    fn measure(&self, load: impl Fn(&str, u32) -> f64) -> Loads {
        let groups = self
            .metadata()
            .groups
            .keys()
            .filter(|group| !self.silent.contains(group));
        let mut groups: BTreeMap<u16, GroupLoad> = groups.map(|group| (*group, GroupLoad::default())).collect();
        for topic in self.metadata().user_topics() {
            let name = &topic.config.name;
            for queue in 0..topic.config.queues {
                let rate = Rate {
                    messages: 0.0,
                    bytes: load(name, queue) * MIB,
                };
                if let Some(group) = groups.get_mut(&self.open_group(name, queue)) {
                    group.queues.insert((topic.id, queue), rate);
                }
            }
        }
        let mut loads = Loads::default();
        groups.into_iter().for_each(|(group, load)| loads.insert(group, load));
        loads
    }

    fn views(&self) -> BTreeMap<u16, GroupView> {
        let groups = self.metadata().groups.iter().map(|(number, group)| {
            let node = group.members[0].node.clone();
            let view = GroupView {
                leader: (!self.silent.contains(number)).then(|| node.clone()),
                living: BTreeSet::from([node.clone()]),
                behind: self.filling.contains(number).then_some(node).into_iter().collect(),
            };
            (*number, view)
        });
        groups.collect()
    }

    /// So many seconds pass; every queue carries what `load` says of it at that second, in MiB a second. A move is done
    /// a second after it was started.
    fn run(&mut self, seconds: u64, load: impl Fn(u64, &str, u32) -> f64) {
        for _ in 0..seconds {
            let second = self.second;
            if second.is_multiple_of(MEASURED_EVERY) {
                self.loads = self.measure(|topic, queue| load(second, topic, queue));
            }
            self.end_moves();
            self.look();
            self.second += 1;
        }
    }

    fn under_way(&self) -> Vec<u64> {
        let moves = self.metadata().moves.iter();
        moves
            .filter(|(_, known)| known.is_under_way())
            .map(|(id, _)| *id)
            .collect()
    }

    fn end_moves(&mut self) {
        if self.stuck {
            return;
        }
        for id in self.under_way() {
            let outcome = MoveOutcome::Opened {
                end_offset: 0,
                writer_pause_ms: None,
                bytes_copied: 0,
            };
            let now_ms = self.now_ms();
            self.apply(Command::EndMove { id, outcome, now_ms });
        }
    }

    fn look(&mut self) {
        let groups = self.views();
        let view = View {
            metadata: self.state.metadata(),
            groups: &groups,
            loads: Some(&self.loads),
            now: self.begun + Duration::from_secs(self.second),
            now_ms: self.now_ms(),
        };
        let Some(Start { moves, reason }) = self.rebalancing.due(&view) else {
            return;
        };
        let of_users = moves.iter().filter(|one| one.topic != coordinator_slots::TOPIC);
        let moved = of_users.map(|one| Moved {
            second: self.second,
            queue: (one.topic.clone(), one.queue),
            to: one.to,
            reason: reason.to_owned(),
        });
        self.moved.extend(moved.collect::<Vec<_>>());
        let now_ms = self.now_ms();
        let reason = reason.to_owned();
        self.apply(Command::StartMoves { moves, reason, now_ms });
        self.most_under_way = self.most_under_way.max(self.under_way().len());
    }
}

fn idle(_: u64, _: &str, _: u32) -> f64 {
    0.0
}

/// Different for every second and queue, the same in every run: between -1 and 1.
fn noise(second: u64, queue: u32) -> f64 {
    let mixed = (second / MEASURED_EVERY + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(queue + 1) << 32;
    let mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 40) as f64 / f64::from(1_u32 << 23) - 1.0
}

#[test]
fn queues_flow_to_groups_that_come_and_nothing_moves_before_they_are_well() {
    let mut cluster = Cluster::of(2);
    cluster.put("t", 12);
    cluster.run(HOUR, idle);
    assert_eq!(cluster.moved, [], "even from the start");
    assert_eq!(
        cluster.slots(),
        BTreeMap::from([(1, 32), (2, 32)]),
        "slots are spread, too"
    );
    let came = cluster.second;
    cluster.add_node();
    cluster.filling.insert(3);
    cluster.run(5 * MINUTE, idle);
    assert_eq!(cluster.moved, [], "a replica is being filled");
    cluster.filling.clear();
    cluster.silent.insert(1);
    cluster.run(5 * MINUTE, idle);
    assert_eq!(cluster.moved, [], "a group has no leader");
    cluster.silent.clear();
    let well = cluster.second;
    cluster.run(MINUTE, idle);
    assert_eq!(cluster.counts(), BTreeMap::from([(1, 4), (2, 4), (3, 4)]));
    assert_eq!(cluster.moved.len(), 4);
    assert!(
        cluster
            .moved
            .iter()
            .all(|moved| moved.to == 3 && moved.reason == BY_COUNT)
    );
    assert!(cluster.moved[0].second >= well + SETTLED_FOR.as_secs() && well > came);
    cluster.run(HOUR, idle);
    assert_eq!(cluster.moved.len(), 4);
}

#[test]
fn a_queue_that_moved_rests_and_others_go_in_its_place() {
    let mut cluster = Cluster::of(2);
    cluster.put("t", 12);
    cluster.add_node();
    cluster.run(MINUTE, idle);
    cluster.add_node();
    cluster.run(MINUTE, idle);
    // The four that just came to g3 stay there for now.
    assert_eq!(cluster.counts(), BTreeMap::from([(1, 3), (2, 3), (3, 4), (4, 2)]));
    cluster.run(REST.as_secs(), idle);
    assert_eq!(cluster.counts(), BTreeMap::from([(1, 3), (2, 3), (3, 3), (4, 3)]));
    let mut last: BTreeMap<(String, u32), u64> = BTreeMap::new();
    for moved in &cluster.moved {
        let before = last.insert(moved.queue.clone(), moved.second);
        assert!(
            before.is_none_or(|before| moved.second - before >= REST.as_secs()),
            "{moved:?}"
        );
    }
}

#[test]
fn few_moves_are_under_way_at_once_whoever_started_them() {
    let mut cluster = Cluster::of(1);
    cluster.put("t", 1_000);
    cluster.add_node();
    cluster.run(2 * MINUTE, idle);
    assert_eq!(cluster.counts(), BTreeMap::from([(1, 500), (2, 500)]));
    assert_eq!((cluster.moved.len(), cluster.most_under_way), (500, UNDER_WAY_MAX));
    // None is started beside moves that hang; the next plan waits for them to end.
    cluster.put("u", 40);
    cluster.stuck = true;
    let moves = (0..UNDER_WAY_MAX as u32 - 2).map(|queue| MoveRequest {
        topic: "u".to_owned(),
        queue,
        to: 3 - cluster.open_group("u", queue),
    });
    let moves = moves.collect();
    cluster.apply(Command::StartMoves {
        moves,
        reason: "asked for".to_owned(),
        now_ms: 0,
    });
    cluster.add_node();
    cluster.run(10 * MINUTE, idle);
    assert_eq!(cluster.moved.len(), 500);
    cluster.stuck = false;
    cluster.run(10 * MINUTE, idle);
    assert!(cluster.counts()[&3] > 300, "{:?}", cluster.counts());
    assert_eq!(cluster.most_under_way, UNDER_WAY_MAX);
}

#[test]
fn load_is_evened_out_once_it_was_uneven_for_minutes_and_then_nothing_moves() {
    let mut cluster = Cluster::of(2);
    cluster.put("t", 16);
    // All that carry much lie in one group.
    let first = cluster.open_group("t", 0);
    let heavy: BTreeSet<u32> = (0..16)
        .filter(|queue| cluster.open_group("t", *queue) == first)
        .collect();
    let load = |second: u64, _: &str, queue: u32| {
        let steady = if heavy.contains(&queue) { 20.0 } else { 1.0 };
        steady * (1.0 + noise(second, queue) / 5.0)
    };
    cluster.run(UNEVEN_FOR.as_secs() - 1, load);
    assert_eq!(cluster.moved, []);
    cluster.run(HOUR, load);
    let carried = cluster.carried(|_, queue| if heavy.contains(&queue) { 20.0 } else { 1.0 });
    assert!(
        carried.values().all(|carried| (*carried / 84.0 - 1.0).abs() < 0.15),
        "{carried:?}"
    );
    assert_eq!(cluster.counts(), BTreeMap::from([(1, 8), (2, 8)]));
    assert!(cluster.moved.iter().all(|moved| moved.reason == BY_LOAD));
    let after_an_hour = cluster.moved.len();
    assert!(after_an_hour <= 8, "{:?}", cluster.moved);
    cluster.run(24 * HOUR, load);
    assert_eq!(
        cluster.moved.len(),
        after_an_hour,
        "{:?}",
        &cluster.moved[after_an_hour..]
    );
}

#[test]
fn a_burst_moves_nothing() {
    let mut cluster = Cluster::of(2);
    cluster.put("t", 8);
    let first = cluster.open_group("t", 0);
    let heavy: BTreeSet<u32> = (0..8)
        .filter(|queue| cluster.open_group("t", *queue) == first)
        .collect();
    // Two minutes of every five.
    cluster.run(5 * HOUR, |second, _, queue| {
        let burst = second % (5 * MINUTE) < 2 * MINUTE && heavy.contains(&queue);
        if burst { 50.0 } else { 1.0 }
    });
    assert_eq!(cluster.moved, []);
}

#[test]
fn one_hot_queue_does_not_go_to_and_fro() {
    let mut cluster = Cluster::of(3);
    cluster.put("t", 12);
    let load = |second: u64, _: &str, queue: u32| {
        let steady = if queue == 5 { 100.0 } else { 2.0 };
        steady * (1.0 + noise(second, queue) / 4.0)
    };
    cluster.run(48 * HOUR, load);
    // What lies beside it may leave; for two days the load stays uneven all the same.
    assert!(cluster.moved.len() <= 8, "{:?}", cluster.moved);
    assert!(
        cluster.moved.iter().all(|moved| moved.second < 2 * HOUR),
        "{:?}",
        cluster.moved
    );
    assert!(cluster.moved.iter().filter(|moved| moved.queue.1 == 5).count() <= 1);
}

#[test]
fn plans_for_the_load_keep_their_distance_whatever_happens() {
    let mut cluster = Cluster::of(2);
    cluster.put("t", 24);
    // Every seven minutes some other queues carry everything.
    cluster.run(12 * HOUR, |second, _, queue| {
        let stretch = second / (7 * MINUTE) * 7 * MINUTE;
        if noise(stretch, queue) > 0.7 { 40.0 } else { 0.1 }
    });
    let mut plans: Vec<u64> = cluster.moved.iter().map(|moved| moved.second).collect();
    plans.dedup();
    let begun: Vec<u64> = plans
        .iter()
        .copied()
        .filter(|second| !plans.contains(&(second - 1)))
        .collect();
    assert!(begun.len() > 3, "{begun:?}");
    assert!(
        begun.windows(2).all(|pair| pair[1] - pair[0] >= PAUSE_SECONDS),
        "{begun:?}"
    );
}

#[test]
fn the_policy_waits_for_a_drain_and_fills_the_group_again_when_it_is_reopened() {
    let mut cluster = Cluster::of(3);
    cluster.put("t", 9);
    cluster.drain(3, true);
    cluster.add_node();
    cluster.run(10 * MINUTE, idle);
    assert_eq!(cluster.moved, [], "queues are to leave g3 first");
    let out = planning::drain(cluster.metadata(), 3);
    let moves = out.iter().map(PlannedMove::request).collect();
    let now_ms = cluster.now_ms();
    let reason = "drain".to_owned();
    cluster.apply(Command::StartMoves { moves, reason, now_ms });
    cluster.run(15 * MINUTE, idle);
    assert_eq!(cluster.counts(), BTreeMap::from([(1, 3), (2, 3), (3, 0), (4, 3)]));
    cluster.drain(3, false);
    cluster.run(15 * MINUTE, idle);
    assert!(
        cluster.counts().values().all(|count| (2..=3).contains(count)),
        "{:?}",
        cluster.counts()
    );
}

#[test]
fn who_leads_next_keeps_to_the_pauses_of_who_led_before() {
    let mut cluster = Cluster::of(2);
    cluster.put("t", 16);
    let first = cluster.open_group("t", 0);
    let heavy: BTreeSet<u32> = (0..16)
        .filter(|queue| cluster.open_group("t", *queue) == first)
        .collect();
    cluster.run(5 * MINUTE, |_, _, queue| {
        f64::from(u8::from(heavy.contains(&queue))) * 20.0
    });
    let planned = cluster.moved.last().unwrap().second;
    let there: BTreeSet<u32> = (0..16).filter(|queue| cluster.open_group("t", *queue) == 2).collect();
    cluster.rebalancing = Rebalancing::default();
    let begun = cluster.moved.len();
    cluster.run(HOUR, |_, _, queue| f64::from(u8::from(there.contains(&queue))) * 20.0);
    let next = cluster.moved[begun].second;
    assert!(next - planned >= PAUSE_SECONDS - 1, "{planned} then {next}");
}

#[test]
fn what_is_not_measured_is_not_taken_for_idle() {
    let mut cluster = Cluster::of(3);
    cluster.put("t", 12);
    let load = |_: u64, _: &str, queue: u32| f64::from(queue % 3 + 1) * 10.0;
    cluster.run(1, load);
    let mut part = Loads::default();
    let all = cluster.measure(|topic, queue| load(0, topic, queue));
    part.insert(
        1,
        GroupLoad {
            others: all.of_group(1).unwrap(),
            ..GroupLoad::default()
        },
    );
    assert!(is_uneven(cluster.metadata(), &all));
    assert!(!is_uneven(cluster.metadata(), &part));
}
