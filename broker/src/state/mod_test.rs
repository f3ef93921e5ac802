//! State machine tests: command in, exact reply and state out. After each test the state loaded from the records
//! must equal the one in memory.

use std::collections::BTreeMap;
use std::convert::Infallible;

use super::effects::RecordChange;
use super::limits::{LOCK_LEASE_MS, MEMBER_GRACE_MS, STORED_MESSAGE_BYTES_MIN};
use super::*;

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
        self.log_index += 1;
        let mut effects = Effects::default();
        let mut cached = None;
        let mut replies = Vec::new();
        for ((topic, queue, store_time), slot) in messages.iter().zip(0..) {
            let (queue, store_time) = (*queue, *store_time);
            let header = AppendHeader {
                topic,
                queue,
                generation: 0,
                tag_hash: 5,
                store_time,
                keys: KeyHashes::none(),
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
        self.effects = effects;
    }

    /// The state as it would be after reopening. Batch numbers of the last entry are not recorded, so states are
    /// compared by their records: loaded and saved again they are the same.
    pub fn check_records(&self) {
        let mut loaded = State::default();
        for (key, value) in &self.records {
            loaded.load(key, value).unwrap_or_else(|_| panic!("record {key:02x?}"));
        }
        assert_eq!(loaded.subscription_groups, self.state.subscription_groups);
        assert_eq!(loaded.consumer_offsets, self.state.consumer_offsets);
        assert_eq!(loaded.locks, self.state.locks);
        assert_eq!(loaded.coordinator, self.state.coordinator);
        assert_eq!(
            (loaded.trimmed, loaded.next_topic_id),
            (self.state.trimmed, self.state.next_topic_id)
        );
        let topics = |state: &State| {
            let all = state.topics.iter().map(|topic| {
                let queues: Vec<_> = topic.queues.iter().map(Queue::encode).collect();
                (topic.id, topic.config.clone(), topic.created_ms, queues)
            });
            all.collect::<Vec<_>>()
        };
        assert_eq!(topics(&loaded), topics(&self.state));
    }

    pub fn put_topic(&mut self, name: &str, queues: u32) {
        let config = TopicConfig::new(name, queues);
        assert_eq!(
            self.apply(Command::PutTopic {
                config,
                if_absent: false,
                now_ms: 1
            }),
            Reply::Done
        );
    }

    pub fn put_group(&mut self, name: &str) {
        let config = SubscriptionGroupConfig::new(name);
        assert_eq!(
            self.apply(Command::PutSubscriptionGroup {
                config,
                if_absent: true
            }),
            Reply::Done
        );
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
    let queues = queues.iter().map(|queue| ("T".to_owned(), *queue)).collect();
    Command::LockQueues {
        group: "CG".to_owned(),
        client_id: client_id.to_owned(),
        queues,
        now_ms,
    }
}

fn locked(queues: &[u32]) -> Reply {
    Reply::Locked(queues.iter().map(|queue| ("T".to_owned(), *queue)).collect())
}

#[test]
fn consumer_offsets_are_stored_as_given() {
    let mut bench = Bench::default();
    bench.put_topic("T", 2);
    assert_eq!(
        bench.apply(update("CG", "T", 0, 5)),
        Reply::Refused(Refusal::GroupNotExist)
    );
    bench.put_group("CG");
    assert_eq!(
        bench.apply(update("CG", "X", 0, 5)),
        Reply::Refused(Refusal::TopicNotExist)
    );
    assert_eq!(
        bench.apply(update("CG", "T", 2, 5)),
        Reply::Refused(Refusal::QueueOutOfRange)
    );
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
    bench.put_topic("T", 1);
    bench.put_group("CG");
    let of = |queue| OffsetUpdate {
        group: "CG".to_owned(),
        topic: "T".to_owned(),
        queue,
        offset: 9,
    };
    assert_eq!(
        bench.apply(Command::UpdateConsumerOffsets(vec![of(0), of(1)])),
        Reply::Done
    );
    assert_eq!(
        bench.state.consumer_offsets.of_group("CG").collect::<Vec<_>>(),
        [("T", 0, 9)]
    );
    bench.check_records();
}

#[test]
fn deleting_a_topic_forgets_its_offsets_and_locks_but_no_others() {
    let mut bench = Bench::default();
    bench.put_topic("T", 1);
    bench.put_topic("TT", 1);
    bench.put_group("CG");
    bench.apply(update("CG", "T", 0, 5));
    bench.apply(update("CG", "TT", 0, 6));
    bench.apply(lock("c1", &[0], 0));
    assert_eq!(bench.apply(Command::DeleteTopic { topic: "T".to_owned() }), Reply::Done);
    assert_eq!(
        bench.state.consumer_offsets.of_group("CG").collect::<Vec<_>>(),
        [("TT", 0, 6)]
    );
    assert_eq!(bench.state.locks, Locks::default());
    assert_eq!(
        bench.apply(Command::DeleteTopic { topic: "T".to_owned() }),
        Reply::Refused(Refusal::TopicNotExist)
    );
    bench.check_records();
}

#[test]
fn a_lock_is_held_for_a_lease_after_its_last_renewal() {
    let mut bench = Bench::default();
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
    let fence = |bench: &Bench| bench.state.locks.get("CG", "T", 0).unwrap().fence;
    bench.apply(lock("c1", &[0], 0));
    assert_eq!(fence(&bench), 1);
    bench.apply(lock("c1", &[0], 10));
    assert_eq!(fence(&bench), 1);
    bench.apply(lock("c2", &[0], LOCK_LEASE_MS + 10));
    assert_eq!(fence(&bench), 3);
}

#[test]
fn an_older_clock_does_not_shorten_a_lock() {
    let mut bench = Bench::default();
    bench.apply(lock("c1", &[0], 100_000));
    bench.apply(lock("c1", &[0], 50_000));
    assert_eq!(bench.state.locks.get("CG", "T", 0).unwrap().renewed_ms, 100_000);
}

#[test]
fn only_the_holder_unlocks() {
    let mut bench = Bench::default();
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
fn expired_locks_are_swept_with_the_dead_nodes_clients() {
    let mut bench = Bench::default();
    bench.apply(lock("c1", &[0], 0));
    bench.apply(lock("c1", &[1], 1));
    bench.apply(Command::Expire {
        node: "n9".to_owned(),
        now_ms: LOCK_LEASE_MS,
    });
    assert!(bench.state.locks.get("CG", "T", 0).is_none());
    assert!(bench.state.locks.get("CG", "T", 1).is_some());
    bench.check_records();
}

#[test]
fn subscription_groups_are_put_changed_and_deleted() {
    let mut bench = Bench::default();
    bench.put_topic("T", 1);
    bench.put_group("CG");
    let mut config = SubscriptionGroupConfig::new("CG");
    config.retry_times_max = 3;
    bench.apply(Command::PutSubscriptionGroup {
        config: config.clone(),
        if_absent: true,
    });
    assert_eq!(bench.state.subscription_groups.get("CG").unwrap().retry_times_max, 16);
    bench.apply(Command::PutSubscriptionGroup {
        config,
        if_absent: false,
    });
    assert_eq!(bench.state.subscription_groups.get("CG").unwrap().retry_times_max, 3);
    bench.apply(update("CG", "T", 0, 7));
    bench.check_records();

    let delete = |clean_offsets| Command::DeleteSubscriptionGroup {
        group: "CG".to_owned(),
        clean_offsets,
    };
    assert_eq!(bench.apply(delete(false)), Reply::Done);
    assert_eq!(bench.state.consumer_offsets.get("CG", "T", 0), Some(7));
    assert_eq!(bench.apply(delete(true)), Reply::Refused(Refusal::GroupNotExist));
    assert_eq!(
        bench.state.consumer_offsets.get("CG", "T", 0),
        None,
        "offsets go even if the group is gone already"
    );
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

#[test]
fn a_dead_nodes_clients_stay_for_the_grace_time() {
    let mut bench = Bench::default();
    let join = |client: &str, node: &str, now_ms| {
        Command::Join(Join {
            client_id: client.to_owned(),
            node: node.to_owned(),
            language: 0,
            version: 479,
            groups: vec![JoinGroup {
                group: "CG".to_owned(),
                shape: GroupShape::default(),
                subscriptions: None,
            }],
            producer_groups: Vec::new(),
            now_ms,
        })
    };
    bench.apply(join("c1", "n1", 0));
    bench.apply(join("c2", "n1", 0));
    bench.apply(join("c3", "n1", 10_000));
    bench.apply(join("c2", "n2", 20_000));
    let members = |bench: &Bench| {
        let group = bench.state.coordinator.consumer_group("CG").unwrap();
        group.members.keys().cloned().collect::<Vec<_>>()
    };
    bench.apply(Command::Expire {
        node: "n1".to_owned(),
        now_ms: MEMBER_GRACE_MS - 1,
    });
    assert_eq!(members(&bench), ["c1", "c2", "c3"]);
    assert!(bench.effects.memberships.is_empty());
    bench.apply(Command::Expire {
        node: "n1".to_owned(),
        now_ms: MEMBER_GRACE_MS,
    });
    assert_eq!(members(&bench), ["c2", "c3"], "c2 moved on, c3 joined later");
    assert!(bench.effects.memberships.contains("CG"));
    bench.check_records();
}
