//! The state as the log sees it: command in, reply and changes out. Every command goes through [`Check::apply`], which
//! also keeps a copy by the changes alone and compares it.

use super::limits::NODES_MAX;
use super::*;
use crate::coordinator_slots::{SLOTS, TOPIC};
use crate::queue_move::{MoveOutcome, MoveRequest};

#[derive(Default)]
pub(super) struct Check {
    pub(super) state: State,
    copy: Metadata,
    log_index: u64,
}

impl Check {
    fn founded(policy: Policy) -> Self {
        let mut check = Self::default();
        let reply = check.apply(found("c", "1", policy));
        assert_eq!(reply, Reply::Done { epoch: 1 });
        check
    }

    /// With three nodes and three Raft groups; the next command has log index 5.
    pub(super) fn with_groups() -> Self {
        let mut check = Self::founded(Policy::default());
        for name in ["n1", "n2", "n3"] {
            check.done(register(name, "v"));
        }
        check
    }

    pub(super) fn apply(&mut self, command: Command) -> Reply {
        self.log_index += 1;
        let before = self.state.clone();
        let command = Command::decode(&command.encode()).expect("commands survive their frames");
        let (reply, changes) = self.state.apply(command, self.log_index);
        if changes.is_empty() {
            assert_eq!(self.state, before, "{reply:?}");
        } else {
            assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}: {changes:?}");
            assert_eq!(self.state.metadata.epoch, self.log_index);
            self.copy.apply(self.log_index, changes);
        }
        assert_eq!(self.copy, self.state.metadata);
        if !matches!(reply, Reply::Refused(_)) {
            assert_eq!(reply.epoch(), self.state.metadata.epoch);
        }
        reply
    }

    pub(super) fn done(&mut self, command: Command) {
        let reply = self.apply(command);
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
    }

    pub(super) fn refused(&mut self, command: Command, why: Refusal) {
        assert_eq!(self.apply(command), Reply::Refused(why));
    }

    pub(super) fn unchanged(&mut self, command: Command) {
        let before = self.state.metadata.epoch;
        self.done(command);
        assert_eq!(self.state.metadata.epoch, before);
    }

    fn replicas(&self, node: &str) -> Vec<u64> {
        let groups = self.state.metadata.groups.values();
        let members = groups.flat_map(|group| &group.members);
        members
            .filter(|member| member.node == node)
            .map(|member| member.id)
            .collect()
    }

    fn founders(&self) -> Vec<u64> {
        let groups = self.state.metadata.groups.values();
        groups.map(|group| group.founder).collect()
    }

    pub(super) fn queues(&self, topic: &str) -> Vec<u16> {
        let queues = &self.state.metadata.topics[topic].queues;
        queues
            .iter()
            .map(|segments| segments.last().expect("an open one").group)
            .collect()
    }
}

fn found(name: &str, id: &str, policy: Policy) -> Command {
    let controller = |replica| Controller {
        address: "h:9878".to_owned(),
        replica,
        volume: format!("v{replica}"),
    };
    Command::Found {
        name: name.to_owned(),
        id: id.to_owned(),
        policy,
        controllers: BTreeMap::from([("c1".to_owned(), controller(1)), ("c2".to_owned(), controller(2))]),
        feature_level: 1,
    }
}

pub(super) fn register(name: &str, volume: &str) -> Command {
    Command::RegisterNode {
        name: name.to_owned(),
        volume: volume.to_owned(),
        zone: String::new(),
        peer: format!("{name}:10912"),
    }
}

fn put_controller(name: &str, address: &str, volume: &str) -> Command {
    Command::PutController {
        name: name.to_owned(),
        address: address.to_owned(),
        volume: volume.to_owned(),
    }
}

pub(super) fn put_topic(name: &str, queues: u32, groups: &[u16]) -> Command {
    Command::PutTopic {
        config: TopicConfig::new(name, queues),
        if_absent: false,
        expected: None,
        groups: (!groups.is_empty()).then(|| groups.to_vec()),
        now_ms: 77,
    }
}

pub(super) fn delete_topic(name: &str) -> Command {
    Command::DeleteTopic { name: name.to_owned() }
}

fn put_groups(names: impl IntoIterator<Item = String>, if_absent: bool) -> Command {
    Command::PutSubscriptionGroups {
        configs: names.into_iter().map(SubscriptionGroupConfig::new).collect(),
        if_absent,
    }
}

fn prefer(group: u16, node: &str) -> Command {
    Command::PreferLeader {
        group,
        node: node.to_owned(),
    }
}

#[test]
fn a_cluster_is_founded_once() {
    let mut check = Check::default();
    check.refused(register("n1", "v"), Refusal::NotFounded);
    check.refused(put_topic("t", 1, &[]), Refusal::NotFounded);
    let policy = Policy {
        replicas: 0,
        ..Policy::default()
    };
    check.refused(found("c", "1", policy), Refusal::limit("replicas"));
    check.done(found("c", "1", Policy::default()));
    assert_eq!(check.state.metadata.controllers.len(), 2);
    check.unchanged(found("c", "1", Policy::default()));
    check.refused(found("c", "2", Policy::default()), Refusal::AlreadyFounded);
    check.refused(found("d", "1", Policy::default()), Refusal::AlreadyFounded);
}

#[test]
fn a_controller_with_another_disk_gets_another_id() {
    let mut check = Check::founded(Policy::default());
    let replica = |reply| match reply {
        Reply::Controller { replica, .. } => replica,
        reply => panic!("{reply:?}"),
    };
    assert_eq!(replica(check.apply(put_controller("c1", "h:1", "v1"))), 1);
    assert_eq!(check.state.metadata.controllers["c1"].address, "h:1");
    check.unchanged(put_controller("c1", "h:1", "v1"));
    assert_eq!(replica(check.apply(put_controller("c3", "h:1", "v"))), 3);
    assert_eq!(replica(check.apply(put_controller("c3", "h:1", "w"))), 4);
    assert_eq!(replica(check.apply(put_controller("c3", "h:1", "v"))), 5);
    for number in 4..=CONTROLLERS_MAX {
        check.done(put_controller(&format!("c{number}"), "h:1", "v"));
    }
    check.refused(put_controller("d", "h:1", "v"), Refusal::limit("controllers"));
    check.done(put_controller("c3", "h:2", "v"));
}

#[test]
fn nodes_lead_to_groups() {
    let mut check = Check::founded(Policy::default());
    check.done(register("n1", "v"));
    check.done(register("n2", "v"));
    assert!(check.state.metadata.groups.is_empty());
    check.refused(put_topic("t", 1, &[]), Refusal::NoGroups);
    check.done(register("n3", "v"));
    let metadata = &check.state.metadata;
    let names: Vec<&str> = metadata.groups.values().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["g1", "g2", "g3"]);
    assert!(metadata.groups.values().all(|group| group.creation == check.log_index));
    let slots = check.queues(TOPIC);
    assert_eq!((slots.len(), &slots[..4]), (SLOTS as usize, &[1, 2, 3, 1][..]));
    check.unchanged(register("n3", "v"));
    check.done(register("n4", "v"));
    assert_eq!(check.state.metadata.groups.len(), 4);
    assert_eq!(check.queues(TOPIC), slots, "later groups take no slots");
    let slots_in = [1, 2, 3, 4].map(|group| check.state.metadata.slots_in(group));
    assert_eq!(slots_in, [22, 21, 21, 0]);
}

#[test]
fn the_coordinator_slots_are_no_topic_of_users() {
    let mut check = Check::with_groups();
    let before = check.state.metadata.topics[TOPIC].clone();
    for if_absent in [true, false] {
        let mut put = put_topic(TOPIC, SLOTS + 1, &[1]);
        if let Command::PutTopic { if_absent: asked, .. } = &mut put {
            *asked = if_absent;
        }
        check.refused(put, Refusal::NameReserved);
    }
    check.refused(delete_topic(TOPIC), Refusal::TopicNotExist);
    let metadata = &check.state.metadata;
    assert_eq!(metadata.topics[TOPIC], before);
    assert!(metadata.topic(TOPIC).is_none());
    assert_eq!((metadata.user_topics().count(), metadata.user_topic_count()), (0, 0));
    assert_eq!(check.state.queue_counts(), &QueueCounts::default());
    check.done(put_topic("t", 4, &[]));
    assert_eq!(check.queues("t"), [1, 2, 3, 1], "placed as if there were no slots");
    let metadata = &check.state.metadata;
    assert_eq!(metadata.topic("t").map(|topic| topic.id), Some(1));
    assert_eq!((metadata.user_topics().count(), metadata.user_topic_count()), (1, 1));
}

#[test]
fn a_policy_leads_to_groups() {
    let mut check = Check::founded(Policy {
        replicas: 9,
        ..Policy::default()
    });
    for number in 1..=6 {
        check.done(register(&format!("n{number}"), "v"));
    }
    assert!(check.state.metadata.groups.is_empty());
    let set = |policy| Command::SetPolicy { policy };
    check.done(set(Policy::default()));
    assert_eq!(check.state.metadata.groups.len(), 6);
    for number in 1..=6 {
        assert_eq!(check.replicas(&format!("n{number}")).len(), 3);
    }
    check.unchanged(set(Policy::default()));
    check.done(set(Policy {
        groups: 7,
        ..Policy::default()
    }));
    assert_eq!(check.state.metadata.groups.len(), 7);
    check.done(set(Policy::default()));
    assert_eq!(check.state.metadata.groups.len(), 7, "groups are not removed");
    check.refused(
        set(Policy {
            replicas: REPLICAS_MAX + 1,
            ..Policy::default()
        }),
        Refusal::limit("replicas"),
    );
}

#[test]
fn a_lost_disk_renews_the_replicas_of_its_node() {
    let mut check = Check::with_groups();
    assert_eq!(check.replicas("n2"), [2, 4, 9]);
    let founders = check.founders();
    check.done(register("n2", "w"));
    assert_eq!(check.replicas("n2"), [10, 11, 12]);
    assert_eq!(check.state.metadata.groups[&1].members[1].id, 10, "in place");
    assert_eq!(
        check.founders(),
        founders,
        "nobody may found a group in a lost founder's place"
    );
    check.unchanged(register("n2", "w"));
    check.done(register("n2", "v"));
    assert_eq!(check.replicas("n2"), [13, 14, 15]);
    // Another address or zone is no other disk.
    check.done(Command::RegisterNode {
        name: "n2".to_owned(),
        volume: "v".to_owned(),
        zone: "z".to_owned(),
        peer: "elsewhere:1".to_owned(),
    });
    assert_eq!(check.state.metadata.nodes["n2"].zone, "z");
    assert_eq!(check.replicas("n2"), [13, 14, 15]);
}

#[test]
fn nodes_are_bounded() {
    let mut state = State::default();
    let policy = Policy {
        groups: 1,
        ..Policy::default()
    };
    state.apply(found("c", "1", policy), 1);
    for number in 0..NODES_MAX as u64 {
        let (reply, _) = state.apply(register(&format!("n{number}"), "v"), number + 2);
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    }
    let (reply, changes) = state.apply(register("one more", "v"), 9_999);
    assert_eq!(reply, Reply::Refused(Refusal::limit("nodes")));
    assert!(changes.is_empty());
    let (reply, _) = state.apply(register("n7", "w"), 10_000);
    assert_eq!(reply, Reply::Done { epoch: 10_000 });
}

#[test]
fn topics_are_created_and_grow() {
    let mut check = Check::with_groups();
    let reply = check.apply(put_topic("t", 4, &[]));
    assert_eq!(
        reply,
        Reply::Topic {
            created: true,
            epoch: 5
        }
    );
    assert_eq!(check.queues("t"), [1, 2, 3, 1]);
    let topic = check.state.metadata.topics["t"].clone();
    assert_eq!((topic.id, topic.epoch, topic.created_ms), (1, 5, 77));
    let open = Segment {
        generation: 1,
        group: 1,
        start: 0,
        end: None,
    };
    assert_eq!(topic.queues[0], [open]);

    check.unchanged(put_topic("t", 4, &[]));
    check.unchanged(Command::PutTopic {
        config: TopicConfig::new("t", 1),
        if_absent: true,
        expected: None,
        groups: None,
        now_ms: 78,
    });
    check.refused(put_topic("t", 3, &[]), Refusal::FewerQueues);
    let reply = check.apply(put_topic("t", 6, &[]));
    assert_eq!(
        reply,
        Reply::Topic {
            created: false,
            epoch: 9
        }
    );
    assert_eq!(check.queues("t"), [1, 2, 3, 1, 2, 3]);
    let topic = check.state.metadata.topics["t"].clone();
    assert_eq!((topic.id, topic.epoch, topic.created_ms), (1, 9, 77));

    // Topics of one queue go elsewhere each.
    for (name, group) in [("u", 1), ("v", 2), ("w", 3)] {
        check.done(put_topic(name, 1, &[]));
        assert_eq!(check.queues(name), [group]);
    }
    // Settings without the queues.
    let mut config = TopicConfig::new("t", 6);
    config.order = true;
    check.done(Command::PutTopic {
        config,
        if_absent: false,
        expected: None,
        groups: None,
        now_ms: 79,
    });
    assert!(check.state.metadata.topics["t"].config.order);
    assert_eq!(check.queues("t").len(), 6);
    assert_eq!(check.state.queue_counts().total(), 9);
}

#[test]
fn a_topic_made_again_is_another() {
    let mut check = Check::with_groups();
    check.refused(delete_topic("t"), Refusal::TopicNotExist);
    check.done(put_topic("t", 4, &[]));
    check.done(delete_topic("t"));
    assert_eq!(check.state.queue_counts(), &QueueCounts::default());
    check.refused(delete_topic("t"), Refusal::TopicNotExist);
    check.done(put_topic("t", 4, &[]));
    assert_eq!(check.state.metadata.topics["t"].id, 2);
}

#[test]
fn queues_keep_to_their_pins() {
    let mut check = Check::with_groups();
    check.refused(put_topic("t", 4, &[2, 9]), Refusal::GroupNotExist);
    check.done(put_topic("t", 3, &[3, 2, 2]));
    assert_eq!(check.queues("t"), [2, 3, 2]);
    check.done(put_topic("t", 5, &[]));
    assert_eq!(check.queues("t"), [2, 3, 2, 3, 2]);
}

#[test]
fn queues_are_bounded() {
    let mut check = Check::with_groups();
    check.refused(put_topic("t", 0, &[]), Refusal::QueueOutOfRange);
    check.refused(put_topic("t", QUEUES_PER_TOPIC_MAX + 1, &[]), Refusal::QueueOutOfRange);
    let mut state = check.state;
    for number in 0..QUEUES_MAX / u64::from(QUEUES_PER_TOPIC_MAX) {
        let (reply, _) = state.apply(
            put_topic(&format!("t{number}"), QUEUES_PER_TOPIC_MAX, &[]),
            100 + number,
        );
        assert!(matches!(reply, Reply::Topic { created: true, .. }), "{reply:?}");
    }
    let left = u32::try_from(QUEUES_MAX - state.queue_counts().total()).unwrap();
    let (reply, _) = state.apply(put_topic("last", left + 1, &[]), 1_000);
    assert_eq!(reply, Reply::Refused(Refusal::limit("queues")));
    let (reply, _) = state.apply(put_topic("last", left, &[]), 1_001);
    assert!(matches!(reply, Reply::Topic { created: true, .. }), "{reply:?}");
    let (reply, _) = state.apply(put_topic("last", left + 1, &[]), 1_002);
    assert_eq!(reply, Reply::Refused(Refusal::limit("queues")));
}

#[test]
fn topics_are_bounded() {
    let mut state = Check::with_groups().state;
    for number in 0..TOPICS_MAX as u64 {
        state.apply(put_topic(&format!("t{number}"), 1, &[]), 100 + number);
    }
    assert_eq!(state.metadata.user_topic_count(), TOPICS_MAX);
    let (reply, _) = state.apply(put_topic("one more", 1, &[]), 1_000_000);
    assert_eq!(reply, Reply::Refused(Refusal::limit("topics")));
    let (reply, _) = state.apply(put_topic("t1", 2, &[]), 1_000_001);
    assert!(matches!(reply, Reply::Topic { created: false, .. }), "{reply:?}");
}

#[test]
fn subscription_groups_come_and_go() {
    let mut check = Check::founded(Policy::default());
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    check.done(put_groups(names(&["a", "b", "a"]), true));
    assert_eq!(check.state.metadata.subscription_groups.len(), 2);
    check.unchanged(put_groups(names(&["a", "b"]), false));
    let mut changed = SubscriptionGroupConfig::new("a");
    changed.consume_enable = false;
    let put = |if_absent| Command::PutSubscriptionGroups {
        configs: vec![changed.clone()],
        if_absent,
    };
    check.unchanged(put(true));
    check.done(put(false));
    assert!(!check.state.metadata.subscription_groups["a"].consume_enable);
    let delete = |name: &str| Command::DeleteSubscriptionGroup { name: name.to_owned() };
    check.done(delete("a"));
    check.refused(delete("a"), Refusal::GroupNotExist);
}

#[test]
fn subscription_groups_are_bounded() {
    let mut check = Check::founded(Policy::default());
    let many = |from: usize, count: usize| (from..from + count).map(|number| format!("g{number}"));
    let per_command = SUBSCRIPTION_GROUPS_PER_COMMAND_MAX;
    let too_many = Refusal::limit("subscription groups of one command");
    check.refused(put_groups(many(0, per_command + 1), true), too_many);
    let mut state = check.state;
    let mut made = 0;
    while made < SUBSCRIPTION_GROUPS_MAX - 1 {
        let count = per_command.min(SUBSCRIPTION_GROUPS_MAX - 1 - made);
        state.apply(put_groups(many(made, count), true), 100 + made as u64);
        made += count;
    }
    let (reply, changes) = state.apply(put_groups(many(made, 2), true), 1_000_000);
    assert_eq!(reply, Reply::Refused(Refusal::limit("subscription groups")));
    assert!(changes.is_empty(), "all or none");
    for epoch in 1_000_001..1_000_003 {
        let (reply, _) = state.apply(put_groups(many(made, 1), true), epoch);
        assert_eq!(reply, Reply::Done { epoch: 1_000_001 });
    }
}

#[test]
fn a_preferred_leader_has_a_replica() {
    let mut check = Check::with_groups();
    check.done(register("n4", "v"));
    check.done(prefer(1, "n3"));
    assert_eq!(check.state.metadata.groups[&1].preferred, "n3");
    assert_eq!(check.state.metadata.groups[&1].founder, 1);
    check.unchanged(prefer(1, "n3"));
    check.refused(prefer(1, "n4"), Refusal::ReplicaNotExist);
    check.refused(prefer(99, "n1"), Refusal::GroupNotExist);
}

/// A small generator of random numbers; the last seed printed is that of the failing case.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn name(&mut self, kind: &str, count: u64) -> String {
        format!("{kind}{}", self.below(count))
    }

    fn command(&mut self) -> Command {
        match self.below(20) {
            0 => found("c", &self.name("", 2), Policy::default()),
            1 => Command::SetPolicy {
                policy: Policy {
                    replicas: self.below(5) as usize,
                    groups_per_node: self.below(3) as usize,
                    groups: (self.below(3) * self.below(12)) as usize,
                    ..Policy::default()
                },
            },
            2 => put_controller(&self.name("c", 4), &self.name("h", 3), &self.name("v", 3)),
            3 | 4 => Command::RegisterNode {
                name: self.name("n", 8),
                volume: self.name("v", 2),
                zone: self.name("z", 3),
                peer: self.name("h", 2),
            },
            5..=7 => {
                let pins = self.below(3);
                Command::PutTopic {
                    config: TopicConfig::new(self.name("t", 12), self.below(12) as u32),
                    if_absent: self.below(4) == 0,
                    expected: None,
                    groups: (self.below(8) == 0).then(|| (0..pins).map(|_| 1 + self.below(8) as u16).collect()),
                    now_ms: self.below(1_000) as i64,
                }
            }
            8 => delete_topic(&self.name("t", 12)),
            9 => {
                let names = [self.name("g", 9), self.name("g", 9)];
                put_groups(names, self.below(2) == 0)
            }
            10 => Command::DeleteSubscriptionGroup {
                name: self.name("g", 9),
            },
            11 => prefer(self.below(10) as u16, &self.name("n", 8)),
            12..=14 => Command::StartMoves {
                moves: (0..=self.below(2)).map(|_| self.move_request()).collect(),
                reason: "at random".to_owned(),
                now_ms: self.below(1_000) as i64,
            },
            15..=17 => Command::EndMove {
                id: 1 + self.below(40),
                outcome: match self.below(4) {
                    0 => MoveOutcome::Cancelled {
                        reason: self.name("because ", 3),
                    },
                    _ => MoveOutcome::Opened {
                        end_offset: self.below(30) as i64,
                        writer_pause_ms: Some(self.below(9)),
                        bytes_copied: 0,
                    },
                },
                now_ms: self.below(1_000) as i64,
            },
            18 => Command::DropSegment {
                topic: self.name("t", 12),
                topic_id: 1 + self.below(30),
                queue: self.below(4) as u32,
                generation: 1 + self.below(8) as u32,
            },
            _ => Command::SetDraining {
                group: 1 + self.below(8) as u16,
                draining: self.below(2) == 0,
            },
        }
    }
}

impl Random {
    fn move_request(&mut self) -> MoveRequest {
        MoveRequest {
            topic: match self.below(4) {
                0 => TOPIC.to_owned(),
                _ => self.name("t", 12),
            },
            queue: self.below(4) as u32,
            to: 1 + self.below(8) as u16,
        }
    }
}

/// Everything that must hold after any command; `given` remembers which disk each Raft id was given to.
fn check_invariants(
    state: &State,
    given: &mut BTreeMap<u64, (u16, String, String)>,
    topics: &mut BTreeMap<u64, String>,
) {
    let metadata = &state.metadata;
    for (number, group) in &metadata.groups {
        assert_eq!(group.name, format!("g{number}"));
        let nodes: BTreeSet<&String> = group.members.iter().map(|member| &member.node).collect();
        assert_eq!(nodes.len(), group.members.len(), "{group:?}");
        assert!(nodes.contains(&group.preferred), "{group:?}");
        for member in &group.members {
            let disk = (
                *number,
                member.node.clone(),
                metadata.nodes[&member.node].volume.clone(),
            );
            assert_eq!(given.entry(member.id).or_insert(disk.clone()), &disk);
        }
    }
    let slots = metadata.topics.get(TOPIC);
    assert_eq!(slots.is_none(), metadata.groups.is_empty());
    assert!(slots.is_none_or(|slots| slots.is_coordinator_slots() && slots.queues.len() == SLOTS as usize));
    let counted = QueueCounts::of(metadata.user_topics().map(Arc::as_ref));
    assert_eq!(state.queue_counts(), &counted);
    for (name, topic) in &metadata.topics {
        assert_eq!(topics.entry(topic.id).or_insert(name.clone()), name);
        assert_eq!(topic.queues.len(), topic.config.queues as usize);
        assert!(topic.pinned.is_sorted_by(|group, next| group < next), "{topic:?}");
        assert!(topic.pinned.iter().all(|group| metadata.groups.contains_key(group)));
        for queue in &topic.queues {
            check_segments(queue, metadata);
        }
    }
    assert!(metadata.groups.is_empty() || metadata.groups.values().any(|group| !group.draining));
    check_moves(metadata);
    let replicas: BTreeSet<u64> = metadata
        .controllers
        .values()
        .map(|controller| controller.replica)
        .collect();
    assert_eq!(replicas.len(), metadata.controllers.len());
}

/// They follow each other without a gap, and only the last one is open.
fn check_segments(queue: &[Segment], metadata: &Metadata) {
    let (open, ended) = queue.split_last().expect("every queue has a segment");
    assert_eq!(open.end, None, "{queue:?}");
    assert!(
        ended.iter().all(|segment| segment.end > Some(segment.start)),
        "{queue:?}"
    );
    for pair in queue.windows(2) {
        assert_eq!(pair[0].end, Some(pair[1].start), "{queue:?}");
        assert!(pair[0].generation < pair[1].generation, "{queue:?}");
    }
    assert!(queue.iter().all(|segment| metadata.groups.contains_key(&segment.group)));
}

/// One under way for a queue, from where it is; no generation twice.
fn check_moves(metadata: &Metadata) {
    let mut queues = BTreeSet::new();
    let mut generations = BTreeSet::new();
    for (id, queue_move) in &metadata.moves {
        assert!(generations.insert(queue_move.generation), "{id}: {queue_move:?}");
        assert_eq!(queue_move.is_under_way(), queue_move.ended_ms.is_none());
        if queue_move.is_under_way() {
            let topic = &metadata.topics[&queue_move.topic];
            assert_eq!(topic.id, queue_move.topic_id);
            assert_eq!(topic.open_segment(queue_move.queue).unwrap().group, queue_move.from);
            assert!(
                queues.insert((queue_move.topic_id, queue_move.queue)),
                "{id}: {queue_move:?}"
            );
        }
    }
}

#[test]
fn any_commands_keep_copies_equal_and_ids_apart() {
    let mut moved = 0;
    for seed in 1..=60 {
        println!("seed {seed}");
        let mut random = Random(seed * 0x9e37_79b9_7f4a_7c15);
        let mut check = Check::default();
        let (mut given, mut topics) = (BTreeMap::new(), BTreeMap::new());
        for step in 0..300 {
            check.apply(random.command());
            check_invariants(&check.state, &mut given, &mut topics);
            if step % 25 == 0 {
                let text = serde_json::to_vec(&check.state).unwrap();
                let read: State = serde_json::from_slice(&text).unwrap();
                assert_eq!(read, check.state, "step {step}");
                check.state = read;
            }
        }
        assert!(check.state.metadata.groups.len() > 1, "nothing was done");
        moved += usize::from(!check.state.metadata.moves.is_empty());
    }
    assert!(moved > 50, "queues moved with {moved} seeds only");
}
