//! State machine tests: command in, exact reply and state out. After each test the state loaded from the records
//! must equal the one in memory.

use std::collections::BTreeMap;
use std::convert::Infallible;

use flotilla_controller::topic::TopicConfig;

use super::effects::RecordChange;
use super::forwarded::{INGRESSES_MAX, SEQUENCES_PER_INGRESS};
use super::limits::{LOCK_LEASE_MS, LOCKS_MAX, QUEUES_PER_TOPIC_MAX, STORED_MESSAGE_BYTES_MIN};
use super::*;

/// The controller's id of every topic here, unless a test is about ids.
pub const UID: u64 = 11;

/// A new topic of which these queues are this Raft group's, from their first offset on.
pub fn assignment(topic: &str, queues: u32, open: impl IntoIterator<Item = u32>) -> Assignment {
    Assignment {
        config: TopicConfig::new(topic, queues),
        uid: UID,
        version: 1,
        created_ms: 1,
        open: open.into_iter().map(|queue| opened(queue, 0)).collect(),
    }
}

/// A queue whose first segment starts at this offset.
pub fn opened(queue: u32, start: i64) -> OpenQueue {
    OpenQueue {
        queue,
        generation: 1,
        start,
    }
}

/// Deletes the topic of this name and id.
pub fn delete_topic(topic: &str, uid: u64) -> Command {
    let topic = topic.to_owned();
    Command::DeleteTopic { topic, uid }
}

/// Topic, queue and proposed store time of a message.
type Sent<'a> = (&'a str, u32, i64);

/// A state with its records, and a plain model of the queue index.
#[derive(Default)]
pub struct Bench {
    pub state: State,
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    index: Vec<(QueueId, BatchStart)>,
    pub log_index: u64,
    pub effects: Effects,
}

impl Bench {
    /// Applies an entry of one command.
    pub fn apply(&mut self, command: Command) -> Reply {
        self.log_index += 1;
        let mut effects = Effects::default();
        let index = &self.index;
        let after = |queue: QueueId, offsets: Range<i64>, upto| {
            let found = index
                .iter()
                .find(|(id, batch)| *id == queue && batch.log_index > upto && offsets.contains(&batch.first_offset));
            Ok::<_, Infallible>(found.map(|(_, batch)| *batch))
        };
        let Ok(reply) = self.state.apply(command, self.log_index, after, &mut effects);
        self.carry_out(effects);
        reply
    }

    /// Applies an entry of messages: topic, queue, proposed store time.
    pub fn append(&mut self, messages: &[(&str, u32, i64)]) -> Vec<Reply> {
        let messages: Vec<_> = messages.iter().map(|message| (*message, None)).collect();
        self.append_marked(&messages)
    }

    /// Applies an entry of messages, some of which came through other nodes.
    pub fn append_marked(&mut self, messages: &[(Sent<'_>, Option<ForwardMark>)]) -> Vec<Reply> {
        self.log_index += 1;
        let mut effects = Effects::default();
        let mut cached = None;
        let mut replies = Vec::new();
        for (((topic, queue, store_time), mark), slot) in messages.iter().zip(0..) {
            let open = self.state.topics.queue(topic, *queue);
            let header = AppendHeader {
                topic,
                queue: *queue,
                generation: open.map_or(1, |(_, queue)| queue.generation),
                tag_hash: 5,
                store_time: *store_time,
                keys: KeyHashes::none(),
                mark: *mark,
            };
            let frame = header.frame(&[0; STORED_MESSAGE_BYTES_MIN]);
            let append = Append::parse(&frame).unwrap();
            replies.push(
                self.state
                    .append(&append, self.log_index, slot, &mut cached, &mut effects),
            );
        }
        for batch in &effects.batches {
            let start = BatchStart {
                first_offset: batch.first_offset,
                log_index: self.log_index,
                store_time: batch.store_time,
            };
            self.index.push((batch.queue, start));
            let queue = self.state.topics.queue_by_id(batch.queue).unwrap();
            self.records
                .insert(Key::new(records::QUEUE).u64(batch.queue.0).finish(), queue.encode());
        }
        self.carry_out(effects);
        replies
    }

    fn carry_out(&mut self, effects: Effects) {
        for change in &effects.records {
            match change {
                RecordChange::Put { key, value } => drop(self.records.insert(key.clone(), value.clone())),
                RecordChange::Delete { key } => drop(self.records.remove(key)),
                RecordChange::DeleteRange { from, to } => self.records.retain(|key, _| !(from..to).contains(&key)),
            }
        }
        if !effects.forwarded.is_empty() {
            let (key, value) = forwarded::entry_record(self.log_index, &effects.forwarded);
            self.records.insert(key, value);
        }
        self.effects = effects;
    }

    /// The state must be after reopening what it is now, apart from the batch numbers of the last entry, which are
    /// not recorded.
    pub fn check_records(&self) {
        let mut loaded = State::default();
        for (key, value) in &self.records {
            loaded.load(key, value).unwrap_or_else(|_| panic!("record {key:02x?}"));
        }
        let expected = State {
            topics: self.state.topics.without_open_batches(),
            ..self.state.clone()
        };
        assert_eq!(loaded, expected);
    }

    /// Applies an assignment.
    pub fn assign(&mut self, assignment: Assignment) -> Reply {
        self.apply(Command::AssignTopic(assignment))
    }

    /// All coordinator slots are here.
    pub fn assign_slots(&mut self) {
        self.assign_topic(coordinator_slots::TOPIC, coordinator_slots::SLOTS);
    }

    /// A topic all of whose queues are here.
    pub fn assign_topic(&mut self, name: &str, queues: u32) {
        assert_eq!(self.assign(assignment(name, queues, 0..queues)), Reply::Done);
    }
}

fn update(group: &str, topic: &str, queue: u32, offset: i64) -> Command {
    let (group, topic) = (group.to_owned(), topic.to_owned());
    Command::UpdateConsumerOffsets(vec![OffsetUpdate {
        group,
        topic,
        queue,
        offset,
    }])
}

fn lock(client_id: &str, queues: &[u32], now_ms: i64) -> Command {
    lock_of("CG", client_id, queues, now_ms)
}

fn lock_of(group: &str, client_id: &str, queues: &[u32], now_ms: i64) -> Command {
    let queues = queues.iter().map(|queue| ("T".to_owned(), *queue)).collect();
    Command::LockQueues {
        group: group.to_owned(),
        client_id: client_id.to_owned(),
        queues,
        now_ms,
    }
}

fn locked(queues: &[u32]) -> Reply {
    Reply::Locked(queues.iter().map(|queue| ("T".to_owned(), *queue)).collect())
}

fn join(client: &str, node: &str, group: &str, now_ms: i64) -> Command {
    Command::Join(Join {
        client_id: client.to_owned(),
        node: node.to_owned(),
        language: 0,
        version: 479,
        groups: vec![JoinGroup {
            group: group.to_owned(),
            shape: GroupShape::default(),
            subscriptions: None,
        }],
        now_ms,
    })
}

fn members(bench: &Bench, group: &str) -> Vec<String> {
    let group = bench.state.coordinator.consumer_group(group);
    group.map_or_else(Vec::new, |group| group.members.keys().cloned().collect())
}

#[test]
fn consumer_offsets_are_stored_as_given() {
    let mut bench = Bench::default();
    assert_eq!(bench.assign(assignment("T", 3, [0, 1])), Reply::Done);
    assert_eq!(
        bench.apply(update("CG", "X", 0, 5)),
        Reply::Refused(Refusal::TopicNotExist)
    );
    for elsewhere in [2, 3] {
        assert_eq!(
            bench.apply(update("CG", "T", elsewhere, 5)),
            Reply::Refused(Refusal::QueueOutOfRange),
            "a queue of another group, and one that no group has"
        );
    }
    assert_eq!(bench.state.consumer_offsets, ConsumerOffsets::default());
    assert_eq!(bench.apply(update("CG", "T", 1, 5)), Reply::Done);
    assert_eq!(bench.state.consumer_offsets.get("CG", "T", 1), Some(5));
    assert_eq!(
        bench.apply(update("CG", "T", 1, 3)),
        Reply::Done,
        "an update may go back"
    );
    assert_eq!(bench.state.consumer_offsets.get("CG", "T", 1), Some(3));
    assert_eq!(bench.apply(update("CG", "T", 1, 3)), Reply::Done);
    assert!(bench.effects.records.is_empty(), "the same offset again writes nothing");
    assert_eq!(bench.state.consumer_offsets.get("CG", "T", 0), None);
    bench.check_records();
}

#[test]
fn offsets_of_unknown_queues_are_left_out_of_a_larger_update() {
    let mut bench = Bench::default();
    assert_eq!(bench.assign(assignment("T", 3, [0, 2])), Reply::Done);
    let of = |topic: &str, queue| OffsetUpdate {
        group: "CG".to_owned(),
        topic: topic.to_owned(),
        queue,
        offset: 9,
    };
    let updates = vec![of("T", 2), of("T", 1), of("T", 0), of("X", 0), of("T", 3)];
    assert_eq!(bench.apply(Command::UpdateConsumerOffsets(updates)), Reply::Done);
    assert_eq!(
        bench.state.consumer_offsets.of_group("CG").collect::<Vec<_>>(),
        [("T", 0, 9), ("T", 2, 9)]
    );
    bench.check_records();
}

#[test]
fn deleting_a_topic_forgets_its_offsets_and_locks_but_no_others() {
    let mut bench = Bench::default();
    bench.assign_topic("T", 1);
    bench.assign_topic("TT", 1);
    bench.apply(update("CG", "T", 0, 5));
    bench.apply(update("CG", "TT", 0, 6));
    bench.apply(lock("c1", &[0], 0));
    assert_eq!(bench.apply(delete_topic("T", UID)), Reply::Done);
    assert_eq!(
        bench.state.consumer_offsets.of_group("CG").collect::<Vec<_>>(),
        [("TT", 0, 6)]
    );
    assert_eq!(bench.state.locks, Locks::default());
    assert_eq!(
        bench.apply(delete_topic("T", UID)),
        Reply::Refused(Refusal::TopicNotExist)
    );
    bench.check_records();
}

#[test]
fn a_late_delete_leaves_a_topic_made_again_with_its_offsets_and_locks() {
    let mut bench = Bench::default();
    let mut again = assignment("T", 1, [0]);
    again.uid = UID + 1;
    assert_eq!(bench.assign(again), Reply::Done);
    bench.append(&[("T", 0, 10)]);
    bench.apply(update("CG", "T", 0, 1));
    bench.apply(lock("c1", &[0], 0));
    let before = bench.state.clone();
    for other in [UID, UID + 2, 0] {
        assert_eq!(
            bench.apply(delete_topic("T", other)),
            Reply::Refused(Refusal::TopicNotExist)
        );
        assert_eq!(bench.state, before);
        assert_eq!(bench.effects.records, []);
    }
    assert_eq!(bench.apply(delete_topic("T", UID + 1)), Reply::Done);
    assert!(bench.state.topics.get("T").is_none());
    assert_eq!(bench.state.consumer_offsets, ConsumerOffsets::default());
    assert_eq!(bench.state.locks, Locks::default());
    bench.check_records();
}

#[test]
fn a_lock_is_held_for_a_lease_after_its_last_renewal() {
    let mut bench = Bench::default();
    bench.assign_topic("T", 4);
    assert_eq!(bench.apply(lock("c1", &[0, 1], 1_000)), locked(&[0, 1]));
    assert_eq!(
        bench.apply(lock("c2", &[1, 2], 2_000)),
        locked(&[2]),
        "only the free one"
    );
    assert_eq!(bench.apply(lock("c1", &[1], 30_000)), locked(&[1]), "renewed");
    assert_eq!(bench.apply(lock("c2", &[0, 1], 1_000 + LOCK_LEASE_MS - 1)), locked(&[]));
    assert_eq!(bench.apply(lock("c2", &[0, 1], 1_000 + LOCK_LEASE_MS)), locked(&[0]));
    assert_eq!(bench.apply(lock("c2", &[1], 30_000 + LOCK_LEASE_MS)), locked(&[1]));
    bench.check_records();
}

#[test]
fn a_locks_fence_grows_with_every_owner_and_not_by_renewal() {
    let mut bench = Bench::default();
    bench.assign_topic("T", 4);
    let fence = |bench: &Bench| bench.state.locks.get("CG", "T", 0).unwrap().fence;
    bench.apply(lock("c1", &[0], 0));
    let given = bench.log_index;
    assert_eq!(fence(&bench), given);
    bench.apply(lock("c1", &[0], 10));
    assert_eq!(fence(&bench), given);
    bench.apply(lock("c2", &[0], LOCK_LEASE_MS + 10));
    assert_eq!(fence(&bench), given + 2);
}

#[test]
fn an_older_clock_does_not_shorten_a_lock() {
    let mut bench = Bench::default();
    bench.assign_topic("T", 4);
    bench.apply(lock("c1", &[0], 100_000));
    bench.apply(lock("c1", &[0], 50_000));
    assert_eq!(bench.state.locks.get("CG", "T", 0).unwrap().renewed_ms, 100_000);
}

#[test]
fn only_the_holder_unlocks() {
    let mut bench = Bench::default();
    bench.assign_topic("T", 4);
    bench.apply(lock("c1", &[0, 1], 0));
    let unlock = |client: &str| Command::UnlockQueues {
        group: "CG".to_owned(),
        client_id: client.to_owned(),
        queues: vec![("T".to_owned(), 0), ("T".to_owned(), 9)],
    };
    assert_eq!(bench.apply(unlock("c2")), Reply::Done);
    assert_eq!(bench.apply(lock("c2", &[0], 1)), locked(&[]));
    assert_eq!(bench.apply(unlock("c1")), Reply::Done);
    assert_eq!(bench.apply(lock("c2", &[0, 1], 1)), locked(&[0]));
    bench.check_records();
}

#[test]
fn expired_locks_are_swept_when_there_are_too_many() {
    let mut bench = Bench::default();
    let queues: Vec<u32> = (0..QUEUES_PER_TOPIC_MAX).collect();
    bench.assign_topic("T", QUEUES_PER_TOPIC_MAX);
    let mut now_ms = 0;
    let mut left = LOCKS_MAX;
    while left > 0 {
        let some = queues.len().min(left);
        bench.apply(lock_of(&format!("CG{now_ms}"), "c1", &queues[..some], now_ms));
        left -= some;
        now_ms += 1;
    }
    let last = format!("CG{}", now_ms - 1);
    let more = |now_ms| lock("c2", &[0], now_ms);
    let refused = Reply::Refused(Refusal::LimitReached("locks"));
    assert_eq!(bench.apply(more(LOCK_LEASE_MS - 1)), refused);
    assert_eq!(bench.apply(more(LOCK_LEASE_MS)), locked(&[0]));
    assert!(bench.state.locks.get("CG0", "T", 0).is_none(), "of the first command");
    assert!(bench.state.locks.get(&last, "T", 0).is_some());
    bench.check_records();
}

#[test]
fn forgetting_a_subscription_group_takes_members_and_locks_and_offsets_if_asked() {
    let mut bench = Bench::default();
    bench.assign_slots();
    bench.assign_topic("T", 1);
    for group in ["CG", "CGG"] {
        bench.apply(join("c1", "n1", group, 0));
        bench.apply(update(group, "T", 0, 7));
    }
    bench.apply(lock("c1", &[0], 0));
    bench.check_records();

    let forget = |clean_offsets| Command::ForgetSubscriptionGroup {
        group: "CG".to_owned(),
        clean_offsets,
    };
    assert_eq!(bench.apply(forget(false)), Reply::Done);
    assert_eq!(members(&bench, "CG"), [""; 0]);
    assert!(bench.effects.memberships.contains("CG"), "its clients are told");
    assert_eq!(bench.state.locks, Locks::default());
    assert_eq!(bench.state.consumer_offsets.get("CG", "T", 0), Some(7));
    bench.check_records();

    assert_eq!(bench.apply(forget(true)), Reply::Done);
    assert_eq!(
        bench.state.consumer_offsets.get("CG", "T", 0),
        None,
        "offsets go even if the group is gone already"
    );
    assert!(bench.effects.memberships.is_empty());
    bench.check_records();

    let before = bench.state.clone();
    assert_eq!(bench.apply(forget(true)), Reply::Done, "of a group nobody knows");
    assert_eq!(bench.effects.records, []);
    assert_eq!(bench.state, before);
    assert_eq!(members(&bench, "CGG"), ["c1"], "another group stays");
    assert_eq!(bench.state.consumer_offsets.get("CGG", "T", 0), Some(7));
}

#[test]
fn a_lock_of_another_group_stays_when_a_group_is_forgotten() {
    let mut bench = Bench::default();
    bench.assign_topic("T", 4);
    bench.apply(lock("c1", &[0], 0));
    bench.apply(Command::ForgetSubscriptionGroup {
        group: "C".to_owned(),
        clean_offsets: true,
    });
    assert!(bench.state.locks.get("CG", "T", 0).is_some());
    bench.check_records();
}

#[test]
fn a_digest_point_is_an_effect_only() {
    let mut bench = Bench::default();
    let before = bench.state.clone();
    assert_eq!(bench.apply(Command::DigestPoint { nonce: 4 }), Reply::Done);
    assert_eq!(bench.effects.digest_points, [4]);
    assert_eq!(bench.state, before);
}

fn mark(ingress: u64, sequence: u64) -> ForwardMark {
    ForwardMark {
        ingress,
        sequence,
        part: 0,
        repeated: false,
    }
}

fn again(mark: ForwardMark) -> ForwardMark {
    ForwardMark { repeated: true, ..mark }
}

impl Bench {
    /// Applies an entry of these messages to the first queue of the topic T.
    fn forward(&mut self, marks: &[ForwardMark]) -> Vec<Reply> {
        let messages: Vec<_> = marks.iter().map(|mark| (("T", 0, 10), Some(*mark))).collect();
        self.append_marked(&messages)
    }
}

fn appended(queue_offset: i64) -> Reply {
    Reply::Appended {
        queue_offset,
        store_time: 10,
    }
}

fn repeated(log_index: u64, slot: u16, queue_offset: i64) -> Reply {
    Reply::Repeated(StoredAt {
        log_index,
        slot,
        queue_offset,
        store_time: 10,
    })
}

#[test]
fn a_message_sent_again_is_answered_with_where_it_is_and_stored_once() {
    let mut bench = Bench::default();
    bench.assign_topic("T", 1);
    assert_eq!(bench.append(&[("T", 0, 10)]), [appended(0)]);
    assert_eq!(bench.forward(&[mark(1, 0), mark(2, 0)]), [appended(1), appended(2)]);
    let entry = bench.log_index;
    bench.check_records();
    let replies = bench.forward(&[again(mark(2, 0)), mark(1, 1), mark(1, 0), again(mark(3, 0))]);
    assert_eq!(
        replies,
        [repeated(entry, 1, 2), appended(3), repeated(entry, 0, 1), appended(4)]
    );
    assert_eq!(bench.effects.batches.len(), 1);
    assert_eq!(bench.effects.batches[0].messages, [(1, 5), (3, 5)]);
    assert_eq!(bench.state.topics.queue("T", 0).unwrap().1.max_offset, 5);
    bench.check_records();
}

#[test]
fn a_message_sent_again_within_its_entry_is_stored_once() {
    let mut bench = Bench::default();
    bench.assign_topic("T", 1);
    let replies = bench.forward(&[mark(1, 7), mark(1, 8), again(mark(1, 7))]);
    assert_eq!(replies, [appended(0), appended(1), repeated(bench.log_index, 0, 0)]);
    bench.check_records();
}

/// The messages of a batch.
fn batch(mark: ForwardMark) -> [ForwardMark; 3] {
    [0, 1, 2].map(|part| ForwardMark { part, ..mark })
}

#[test]
fn a_batch_sent_again_is_recognised_as_a_whole() {
    let mut bench = Bench::default();
    bench.assign_topic("T", 1);
    let replies = bench.forward(&[&[mark(1, 0)], &batch(mark(1, 1))[..]].concat());
    assert_eq!(replies, [appended(0), appended(1), appended(2), appended(3)]);
    let entry = bench.log_index;
    bench.check_records();
    assert_eq!(
        bench.forward(&batch(again(mark(1, 1)))),
        [repeated(entry, 1, 1), repeated(entry, 2, 2), repeated(entry, 3, 3)]
    );
    assert_eq!(bench.effects.batches, []);
    bench.check_records();
}

#[test]
fn a_batch_sent_again_within_its_entry_is_stored_once() {
    let mut bench = Bench::default();
    bench.assign_topic("T", 1);
    let replies = bench.forward(&[batch(mark(1, 0)), batch(again(mark(1, 0)))].concat());
    let entry = bench.log_index;
    assert_eq!(
        replies,
        [
            appended(0),
            appended(1),
            appended(2),
            repeated(entry, 0, 0),
            repeated(entry, 1, 1),
            repeated(entry, 2, 2)
        ]
    );
    assert_eq!(bench.state.topics.queue("T", 0).unwrap().1.max_offset, 3);
    bench.check_records();
}

#[test]
fn a_refused_message_is_new_when_it_is_sent_again() {
    let mut bench = Bench::default();
    assert_eq!(bench.forward(&[mark(1, 0)]), [Reply::Refused(Refusal::TopicNotExist)]);
    assert_eq!(bench.state, State::default());
    bench.assign_topic("T", 1);
    assert_eq!(bench.forward(&[again(mark(1, 0))]), [appended(0)]);
    bench.check_records();
}

#[test]
fn a_message_sent_again_too_late_is_refused() {
    let mut bench = Bench::default();
    bench.assign_topic("T", 1);
    for sequence in 0..=SEQUENCES_PER_INGRESS {
        bench.forward(&[mark(1, sequence)]);
    }
    bench.check_records();
    assert_eq!(
        bench.forward(&[again(mark(1, 0))]),
        [Reply::Refused(Refusal::Forgotten)]
    );
    assert!(bench.effects.batches.is_empty() && bench.effects.records.is_empty());
    assert_eq!(
        bench.forward(&[again(mark(1, 1))]),
        [repeated(3, 0, 1)],
        "the oldest kept"
    );
    bench.check_records();
}

/// Ingress 1 was dropped for another, though ingress 2 of its entry stays.
fn first_ingress_dropped() -> Bench {
    let mut bench = Bench::default();
    bench.assign_topic("T", 1);
    bench.forward(&[mark(1, 0), mark(2, 0)]);
    for ingress in 3..=INGRESSES_MAX as u64 + 1 {
        bench.forward(&[mark(2, ingress), mark(ingress, 0)]);
    }
    bench.check_records();
    bench
}

#[test]
fn a_message_of_a_dropped_ingress_sent_again_is_refused() {
    let mut bench = first_ingress_dropped();
    let forgotten = Reply::Refused(Refusal::Forgotten);
    assert_eq!(bench.forward(&[again(mark(1, 0))]), [forgotten]);
    assert_eq!(bench.forward(&[again(mark(2, 0))]), [repeated(2, 1, 1)]);
    bench.check_records();
}

#[test]
fn an_ingress_that_comes_back_has_forgotten_what_it_sent_before() {
    let mut bench = first_ingress_dropped();
    assert!(matches!(bench.forward(&[mark(1, 1)])[..], [Reply::Appended { .. }]));
    let forgotten = Reply::Refused(Refusal::Forgotten);
    assert_eq!(bench.forward(&[again(mark(1, 0))]), [forgotten], "it is in the queue");
}

#[test]
fn an_ingress_that_comes_back_is_reloaded_without_what_was_dropped() {
    let mut bench = first_ingress_dropped();
    assert!(matches!(bench.forward(&[mark(1, 1)])[..], [Reply::Appended { .. }]));
    bench.check_records();
}

#[test]
fn an_ingress_dropped_and_back_within_an_entry_is_reloaded_as_it_was() {
    let mut bench = Bench::default();
    bench.assign_topic("T", 1);
    let mut marks: Vec<_> = (1..=INGRESSES_MAX as u64 + 1).map(|ingress| mark(ingress, 0)).collect();
    marks.push(mark(1, 1));
    bench.forward(&marks);
    bench.check_records();
}
