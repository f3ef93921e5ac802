//! Topics and queues: what may be assigned and changed, dense offsets, store times, trims, records.

use flotilla_controller::topic::PERM_READ;

use super::*;
use crate::state::effects::RecordChange;
use crate::state::limits::STORED_MESSAGE_BYTES_MIN;
use crate::state::tests::{Bench, UID, assignment, delete_topic, opened};
use crate::state::{AppendHeader, Command, KeyHashes, State};

impl Topics {
    /// As their records say.
    pub fn without_open_batches(&self) -> Self {
        let mut topics = self.clone();
        for topic in topics.by_id.values_mut() {
            let sealed = topic.sealed.values_mut().map(|sealed| &mut sealed.queue);
            for queue in topic.queues.iter_mut().flatten().chain(sealed) {
                queue.open_batch = None;
            }
        }
        topics
    }
}

fn appended(queue_offset: i64, store_time: i64) -> Reply {
    Reply::Appended {
        queue_offset,
        store_time,
    }
}

fn refused(refusal: Refusal) -> Vec<Reply> {
    vec![Reply::Refused(refusal)]
}

/// The same topic by a later decision of the controller.
fn newer(version: u64, assignment: Assignment) -> Assignment {
    Assignment { version, ..assignment }
}

/// First offset, end, store time of the first message, its entry.
fn bounds(bench: &Bench, topic: &str, number: u32) -> (i64, i64, i64, u64) {
    let queue = queue(bench, topic, number);
    (
        queue.min_offset,
        queue.max_offset,
        queue.min_store_time,
        queue.first_log_index,
    )
}

/// Numbers of the topic's queues that are here.
fn numbers(bench: &Bench, topic: &str) -> Vec<u32> {
    let topic = bench.state.topics.get(topic).unwrap();
    topic.queues().map(|(number, _)| number).collect()
}

fn queue<'a>(bench: &'a Bench, topic: &str, number: u32) -> &'a Queue {
    bench.state.topics.queue(topic, number).unwrap().1
}

#[test]
fn queue_offsets_are_dense_in_each_queue() {
    let mut bench = Bench::default();
    bench.assign_topic("A", 2);
    bench.assign_topic("B", 1);
    let replies = bench.append(&[("A", 0, 10), ("B", 0, 10), ("A", 1, 10), ("A", 0, 10)]);
    assert_eq!(
        replies,
        [appended(0, 10), appended(0, 10), appended(0, 10), appended(1, 10)]
    );
    assert_eq!(bench.append(&[("A", 0, 11)]), [appended(2, 11)]);
    assert_eq!(
        (queue(&bench, "A", 0).min_offset, queue(&bench, "A", 0).max_offset),
        (0, 3)
    );
    bench.check_records();
}

#[test]
fn messages_of_one_entry_and_queue_are_one_batch() {
    let mut bench = Bench::default();
    bench.assign_topic("A", 2);
    bench.append(&[("A", 0, 10), ("A", 1, 11), ("A", 0, 12)]);
    let batches: Vec<_> = bench
        .effects
        .batches
        .iter()
        .map(|b| (b.queue.queue(), b.first_offset, b.messages.clone()))
        .collect();
    assert_eq!(batches, [(0, 0, vec![(0, 5), (2, 5)]), (1, 0, vec![(1, 5)])]);
}

#[test]
fn store_time_never_goes_back_in_a_queue() {
    let mut bench = Bench::default();
    bench.assign_topic("A", 1);
    assert_eq!(
        bench.append(&[("A", 0, 10), ("A", 0, 12)]),
        [appended(0, 10), appended(1, 10)],
        "one time a batch"
    );
    assert_eq!(bench.append(&[("A", 0, 7)]), [appended(2, 10)]);
    assert_eq!(bench.append(&[("A", 0, 13)]), [appended(3, 13)]);
}

#[test]
fn a_message_for_what_is_not_there_is_refused_and_takes_no_offset() {
    let mut bench = Bench::default();
    bench.assign_topic("A", 1);
    assert_eq!(bench.append(&[("X", 0, 10)]), refused(Refusal::TopicNotExist));
    assert_eq!(bench.append(&[("A", 1, 10)]), refused(Refusal::QueueOutOfRange));
    let replies = bench.append(&[("A", 0, 10), ("X", 0, 10), ("A", 0, 10)]);
    assert_eq!(
        replies,
        [appended(0, 10), Reply::Refused(Refusal::TopicNotExist), appended(1, 10)]
    );
    bench.check_records();
}

#[test]
fn a_topic_without_write_permission_refuses_messages() {
    let mut bench = Bench::default();
    let mut config = TopicConfig::new("A", 1);
    config.perm = PERM_READ;
    let readable = Assignment {
        config,
        ..assignment("A", 1, [0])
    };
    assert_eq!(bench.assign(readable), Reply::Done);
    assert_eq!(bench.append(&[("A", 0, 10)]), refused(Refusal::NotWritable));
    assert_eq!(bench.assign(newer(2, assignment("A", 1, []))), Reply::Done);
    assert_eq!(bench.append(&[("A", 0, 10)]), [appended(0, 10)]);
    bench.check_records();
}

#[test]
fn another_generation_is_refused() {
    let mut bench = Bench::default();
    let third = OpenQueue {
        generation: 3,
        ..opened(0, 70)
    };
    let assigned = Assignment {
        open: vec![third],
        ..assignment("A", 1, [])
    };
    assert_eq!(bench.assign(assigned), Reply::Done);
    let append = |bench: &mut Bench, generation, effects: &mut Effects| {
        let header = AppendHeader {
            topic: "A",
            queue: 0,
            generation,
            tag_hash: 0,
            store_time: 1,
            keys: KeyHashes::none(),
            mark: None,
        };
        let frame = header.frame(&[0; STORED_MESSAGE_BYTES_MIN]);
        let append = Append::parse(&frame).unwrap();
        bench.state.append(&append, 9, 0, &mut None, effects)
    };
    let mut effects = Effects::default();
    for stale in [0, 1, 2, 4] {
        assert_eq!(
            append(&mut bench, stale, &mut effects),
            Reply::Refused(Refusal::StaleGeneration)
        );
        assert_eq!(effects.batches, []);
    }
    assert_eq!(append(&mut bench, 3, &mut effects), appended(70, 1));
}

#[test]
fn a_queue_of_another_group_is_refused_and_takes_no_offset() {
    let mut bench = Bench::default();
    assert_eq!(bench.assign(assignment("A", 4, [1, 3])), Reply::Done);
    assert_eq!(numbers(&bench, "A"), [1, 3]);
    for elsewhere in [0, 2] {
        let before = bench.state.clone();
        assert_eq!(bench.append(&[("A", elsewhere, 10)]), refused(Refusal::QueueOutOfRange));
        assert_eq!(bench.state, before);
        assert_eq!(bench.effects.batches, []);
        assert!(bench.state.topics.queue("A", elsewhere).is_none());
    }
    let replies = bench.append(&[("A", 3, 10), ("A", 2, 10), ("A", 3, 10), ("A", 1, 10)]);
    let not_here = Reply::Refused(Refusal::QueueOutOfRange);
    assert_eq!(replies, [appended(0, 10), not_here, appended(1, 10), appended(0, 10)]);
    let batches = bench.effects.batches.iter();
    let batches: Vec<_> = batches.map(|b| (b.queue.queue(), b.messages.clone())).collect();
    assert_eq!(batches, [(3, vec![(0, 5), (2, 5)]), (1, vec![(3, 5)])]);
    bench.check_records();
}

#[test]
fn a_topic_without_queues_here_is_known_and_takes_no_message() {
    let mut bench = Bench::default();
    assert_eq!(bench.assign(assignment("A", 2, [])), Reply::Done);
    assert_eq!(numbers(&bench, "A"), [0; 0]);
    assert_eq!(bench.append(&[("A", 0, 10)]), refused(Refusal::QueueOutOfRange));
    bench.check_records();
    assert_eq!(bench.apply(delete_topic("A", UID)), Reply::Done);
    bench.check_records();
}

#[test]
fn a_newer_assignment_opens_further_queues_and_keeps_messages() {
    let mut bench = Bench::default();
    assert_eq!(bench.assign(assignment("A", 4, [2])), Reply::Done);
    bench.append(&[("A", 2, 10), ("A", 2, 10)]);
    let id = bench.state.topics.id("A").unwrap();
    assert_eq!(bench.assign(newer(2, assignment("A", 4, [0]))), Reply::Done);
    assert_eq!(numbers(&bench, "A"), [0, 2], "no assignment closes a queue");
    assert_eq!(bounds(&bench, "A", 2), (0, 2, 10, 2));
    assert_eq!(bounds(&bench, "A", 0), (0, 0, -1, 0));
    assert_eq!(bench.state.topics.id("A"), Some(id));
    assert_eq!(bench.state.topics.get("A").unwrap().version, 2);
    bench.check_records();
    assert_eq!(
        bench.append(&[("A", 2, 11), ("A", 0, 11)]),
        [appended(2, 11), appended(0, 11)]
    );
    bench.check_records();
}

#[test]
fn an_open_queue_stays_as_it_is() {
    let mut bench = Bench::default();
    bench.assign_topic("A", 1);
    bench.append(&[("A", 0, 10)]);
    let before = queue(&bench, "A", 0).clone();
    let elsewhere = OpenQueue {
        queue: 0,
        generation: 2,
        start: 50,
    };
    let again = Assignment {
        open: vec![elsewhere, opened(1, 0)],
        ..assignment("A", 2, [])
    };
    assert_eq!(bench.assign(newer(2, again)), Reply::Done);
    assert_eq!(queue(&bench, "A", 0), &before);
    assert_eq!(bench.append(&[("A", 0, 11)]), [appended(1, 11)]);
    bench.check_records();
}

#[test]
fn a_queue_may_start_at_any_offset() {
    let mut bench = Bench::default();
    let later = Assignment {
        open: vec![opened(1, 1_000)],
        ..assignment("A", 2, [])
    };
    assert_eq!(bench.assign(later), Reply::Done);
    assert_eq!(bounds(&bench, "A", 1), (1_000, 1_000, -1, 0));
    assert_eq!(queue(&bench, "A", 1).last_store_time, -1);
    bench.check_records();
    assert_eq!(
        bench.append(&[("A", 1, 10), ("A", 1, 10)]),
        [appended(1_000, 10), appended(1_001, 10)]
    );
    assert_eq!(bench.effects.batches[0].first_offset, 1_000);
    let first = bench.log_index;
    assert_eq!(bench.append(&[("A", 1, 20)]), [appended(1_002, 20)]);
    assert_eq!(bounds(&bench, "A", 1), (1_000, 1_003, 10, first));
    bench.check_records();
    assert_eq!(bench.apply(Command::Trim { log_index: first }), Reply::Done);
    assert_eq!(bounds(&bench, "A", 1), (1_002, 1_003, 20, first + 1));
    bench.check_records();
    assert_eq!(bench.apply(Command::Trim { log_index: first + 1 }), Reply::Done);
    assert_eq!(bounds(&bench, "A", 1), (1_003, 1_003, -1, 0));
    bench.check_records();
}

#[test]
fn an_assignment_that_is_not_newer_changes_nothing() {
    let mut bench = Bench::default();
    assert_eq!(bench.assign(newer(7, assignment("A", 3, [0]))), Reply::Done);
    bench.append(&[("A", 0, 10)]);
    let before = bench.state.clone();
    for version in [0, 6, 7] {
        for queues in [1, 3, 4] {
            let mut late = newer(version, assignment("A", queues, 0..queues));
            late.config.perm = PERM_READ;
            late.created_ms = 99;
            assert_eq!(bench.assign(late), Reply::Done, "version {version}");
            assert_eq!(bench.state, before);
            assert_eq!(bench.effects.records, []);
        }
    }
    bench.check_records();
    assert_eq!(bench.assign(newer(8, assignment("A", 3, [1]))), Reply::Done);
    assert_eq!(numbers(&bench, "A"), [0, 1]);
}

#[test]
fn another_topic_of_the_name_is_refused_until_the_first_is_deleted() {
    let mut bench = Bench::default();
    bench.assign_topic("A", 2);
    bench.append(&[("A", 0, 10)]);
    let before = bench.state.clone();
    for version in [1, 9] {
        let other = Assignment {
            uid: UID + 1,
            ..newer(version, assignment("A", 2, [0, 1]))
        };
        assert_eq!(bench.assign(other), Reply::Refused(Refusal::OtherTopic));
        assert_eq!(bench.state, before);
        assert_eq!(bench.effects.records, []);
    }
    assert_eq!(bench.apply(delete_topic("A", UID)), Reply::Done);
    let other = Assignment {
        uid: UID + 1,
        ..assignment("A", 2, [1])
    };
    assert_eq!(bench.assign(other), Reply::Done);
    assert_eq!(bench.state.topics.get("A").unwrap().uid, UID + 1);
    assert_eq!(numbers(&bench, "A"), [1], "nothing is left of the first");
    bench.check_records();
}

#[test]
fn the_queue_count_grows_and_never_shrinks() {
    let mut bench = Bench::default();
    bench.assign_topic("A", 2);
    bench.append(&[("A", 1, 10)]);
    let before = bench.state.clone();
    let assign = |queues| Assignment {
        created_ms: 9,
        ..newer(2, assignment("A", queues, 0..queues))
    };
    assert_eq!(bench.assign(assign(1)), Reply::Refused(Refusal::FewerQueues));
    assert_eq!(bench.assign(assign(0)), Reply::Refused(Refusal::QueueOutOfRange));
    assert_eq!(bench.state, before);
    assert_eq!(bench.assign(assign(3)), Reply::Done);
    assert_eq!(queue(&bench, "A", 1).max_offset, 1);
    assert_eq!(queue(&bench, "A", 2).max_offset, 0);
    assert_eq!(bench.state.topics.get("A").unwrap().created_ms, 1);
    bench.check_records();
}

#[test]
fn a_queue_that_cannot_be_is_not_opened() {
    let mut bench = Bench::default();
    let mut refuse = |queues, open| {
        let wrong = Assignment {
            open,
            ..assignment("A", queues, [])
        };
        assert_eq!(bench.assign(wrong), Reply::Refused(Refusal::QueueOutOfRange));
        assert_eq!(bench.state, State::default());
        assert_eq!(bench.effects.records, []);
    };
    refuse(2, vec![opened(0, 0), opened(2, 0)]);
    refuse(2, vec![opened(0, -1)]);
    refuse(0, Vec::new());
    refuse(QUEUES_PER_TOPIC_MAX + 1, vec![opened(0, 0)]);
}

#[test]
fn only_queues_that_are_here_count_towards_the_limit() {
    let mut bench = Bench::default();
    bench.assign_topic("A", 2);
    assert_eq!(bench.assign(assignment("B", 9, [4])), Reply::Done);
    assert_eq!(bench.state.topics.queues, 3);
    bench.state.topics.queues = QUEUES_MAX - 1;
    let full = Reply::Refused(Refusal::LimitReached("queues"));
    let before = bench.state.clone();
    assert_eq!(bench.assign(assignment("C", 2, [0, 1])), full);
    assert_eq!(bench.assign(newer(2, assignment("B", 9, [3, 4, 5]))), full);
    assert_eq!(bench.state, before);
    assert_eq!(bench.assign(newer(2, assignment("B", 9, [4, 5]))), Reply::Done);
    assert_eq!(bench.assign(assignment("C", 2, [0])), full);
    assert_eq!(bench.assign(assignment("C", 2, [])), Reply::Done);
    assert_eq!(bench.apply(delete_topic("B", UID)), Reply::Done);
    assert_eq!(bench.state.topics.queues, QUEUES_MAX - 2);
}

#[test]
fn a_queue_named_twice_is_one_queue() {
    let mut bench = Bench::default();
    let twice = Assignment {
        open: vec![opened(0, 5), opened(0, 9)],
        ..assignment("A", 1, [])
    };
    assert_eq!(bench.assign(twice), Reply::Done);
    assert_eq!(bounds(&bench, "A", 0), (5, 5, -1, 0));
    bench.check_records();
}

#[test]
fn a_topic_made_again_has_new_queues() {
    let mut bench = Bench::default();
    bench.assign_topic("A", 1);
    bench.append(&[("A", 0, 10)]);
    let before = bench.state.topics.id("A").unwrap();
    assert_eq!(bench.apply(delete_topic("A", UID)), Reply::Done);
    let again = Assignment {
        uid: UID + 1,
        ..assignment("A", 1, [0])
    };
    assert_eq!(bench.assign(again), Reply::Done);
    assert_ne!(bench.state.topics.id("A").unwrap(), before);
    assert_eq!(queue(&bench, "A", 0).max_offset, 0);
    bench.check_records();
}

#[test]
fn a_trim_moves_each_queue_behind_the_entry() {
    let mut bench = Bench::default();
    bench.assign_topic("A", 3);
    bench.append(&[("A", 0, 10), ("A", 0, 10), ("A", 1, 10)]);
    let first = bench.log_index;
    bench.append(&[("A", 0, 20)]);
    assert_eq!(bench.apply(Command::Trim { log_index: first }), Reply::Done);
    assert_eq!(bench.effects.trimmed, Some(first));
    assert_eq!(bounds(&bench, "A", 0), (2, 3, 20, first + 1));
    assert_eq!(bounds(&bench, "A", 1), (1, 1, -1, 0), "empty, and its offsets go on");
    assert_eq!(bounds(&bench, "A", 2), (0, 0, -1, 0));
    bench.check_records();
    assert_eq!(bench.append(&[("A", 1, 30)]), [appended(1, 30)]);
    assert_eq!(queue(&bench, "A", 1).min_store_time, 30);
    bench.check_records();
}

#[test]
fn a_trim_passes_over_queues_of_other_groups() {
    let mut bench = Bench::default();
    assert_eq!(bench.assign(assignment("A", 5, [1, 4])), Reply::Done);
    bench.append(&[("A", 4, 10), ("A", 1, 10)]);
    let first = bench.log_index;
    bench.append(&[("A", 4, 20)]);
    assert_eq!(bench.apply(Command::Trim { log_index: first }), Reply::Done);
    assert_eq!(bounds(&bench, "A", 1), (1, 1, -1, 0));
    assert_eq!(bounds(&bench, "A", 4), (1, 2, 20, first + 1));
    assert_eq!(numbers(&bench, "A"), [1, 4]);
    bench.check_records();
}

#[test]
fn a_trim_beyond_the_log_is_refused_and_an_old_one_changes_nothing() {
    let mut bench = Bench::default();
    bench.assign_topic("A", 1);
    bench.append(&[("A", 0, 10)]);
    let ahead = bench.log_index + 1;
    assert_eq!(
        bench.apply(Command::Trim { log_index: ahead }),
        Reply::Refused(Refusal::TrimBeyondLog)
    );
    assert_eq!(queue(&bench, "A", 0).min_offset, 0);
    assert_eq!(bench.apply(Command::Trim { log_index: ahead - 1 }), Reply::Done);
    assert_eq!(queue(&bench, "A", 0).min_offset, 1);
    assert_eq!(bench.apply(Command::Trim { log_index: 1 }), Reply::Done);
    assert_eq!(bench.effects.records, []);
}

#[test]
fn a_queue_records_bytes_do_not_change() {
    let queue = Queue {
        generation: 1,
        start: 1,
        min_offset: 2,
        max_offset: 3,
        min_store_time: 4,
        last_store_time: 5,
        first_log_index: 6,
        open_batch: Some((7, 8)),
    };
    let golden = [
        2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4,
        0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6,
    ];
    assert_eq!(queue.encode(), golden);
    let decoded = Queue {
        open_batch: None,
        ..queue
    };
    assert_eq!(Queue::decode(&golden).unwrap(), decoded);
    assert_eq!(Queue::decode(&golden[1..]), Err(Malformed));
    // The first version, of queues that begin at 0.
    let mut first = golden.to_vec();
    first[0] = 1;
    first.drain(5..13);
    assert_eq!(Queue::decode(&first).unwrap(), Queue { start: 0, ..decoded });
}

#[test]
fn the_records_of_an_assignment_do_not_change() {
    let mut bench = Bench::default();
    bench.assign_topic("other", 1);
    let mut assigned = Assignment {
        created_ms: 4,
        open: vec![opened(2, 1_000), opened(0, 0)],
        ..newer(3, assignment("T", 8, []))
    };
    assigned.config.retention_bytes = Some(258);
    assert_eq!(bench.assign(assigned), Reply::Done);
    let put = |key: &[u8], value: &[u8]| RecordChange::Put {
        key: key.to_vec(),
        value: value.to_vec(),
    };
    let mut late = vec![2, 0, 0, 0, 1];
    late.extend([0, 0, 0, 0, 0, 0, 3, 0xe8].repeat(3));
    late.extend([0xff; 16]);
    late.extend([0; 8]);
    let mut fresh = vec![2, 0, 0, 0, 1];
    fresh.extend([0; 24]);
    fresh.extend([0xff; 16]);
    fresh.extend([0; 8]);
    let mut topic = vec![1];
    topic.extend([0, 0, 0, 0, 0, 0, 0, 11]); // uid
    topic.extend([0, 0, 0, 0, 0, 0, 0, 3]); // version
    topic.extend([0, 0, 0, 0, 0, 0, 0, 4]); // created
    topic.extend([0, 1, b'T', 0, 0, 0, 8, 6, 1]); // name, queues, perm, kind
    topic.extend([0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 0]); // retention: time, bytes; order
    topic.extend([0, 0, 0, 0]); // attributes
    let golden = [
        put(&[5, 0, 0, 0, 1, 0, 0, 0, 2], &late),
        put(&[5, 0, 0, 0, 1, 0, 0, 0, 0], &fresh),
        put(&[4, 0, 0, 0, 1], &topic),
        put(&[3], &[1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    assert_eq!(bench.effects.records, golden);
    bench.check_records();
}

#[test]
fn a_deleted_topics_records_go() {
    let mut bench = Bench::default();
    bench.assign_topic("A", 1);
    assert_eq!(bench.assign(assignment("B", 3, [0, 2])), Reply::Done);
    bench.append(&[("B", 2, 10)]);
    assert_eq!(bench.apply(delete_topic("B", UID)), Reply::Done);
    let range = |prefix: u8| RecordChange::DeleteRange {
        from: vec![prefix, 0, 0, 0, 1],
        to: vec![prefix, 0, 0, 0, 2],
    };
    let topic = RecordChange::Delete {
        key: vec![4, 0, 0, 0, 1],
    };
    assert_eq!(
        bench.effects.records,
        [topic, range(5), range(6), range(15), range(0x20)]
    );
    assert_eq!(numbers(&bench, "A"), [0]);
    bench.check_records();
}

#[test]
fn records_that_do_not_fit_together_are_refused() {
    let mut bench = Bench::default();
    assert_eq!(bench.assign(assignment("A", 3, [2])), Reply::Done);
    let records: Vec<_> = bench
        .effects
        .records
        .iter()
        .filter_map(|change| match change {
            RecordChange::Put { key, value } => Some((key.clone(), value.clone())),
            _ => None,
        })
        .collect();
    let value_of = |prefix: u8| &records.iter().find(|(key, _)| key[0] == prefix).unwrap().1;
    let (topic, queue) = (value_of(records::TOPIC), value_of(records::QUEUE));
    let topic_key = |id| Key::new(records::TOPIC).u32(id).finish();
    let queue_key = |id, number| Key::new(records::QUEUE).u64(QueueId::new(id, number).0).finish();

    let mut state = State::default();
    assert_eq!(state.load(&queue_key(0, 2), queue), Err(Malformed), "before its topic");
    assert_eq!(state.load(&topic_key(0), topic), Ok(()));
    assert_eq!(state.load(&queue_key(0, 2), queue), Ok(()));
    assert_eq!(
        state.load(&queue_key(0, 3), queue),
        Err(Malformed),
        "the topic has three"
    );
    assert_eq!(state.load(&queue_key(1, 2), queue), Err(Malformed), "no such topic");
    assert_eq!(state.load(&topic_key(1), topic), Err(Malformed), "a second of the name");
    for end in 0..topic.len() {
        assert_eq!(State::default().load(&topic_key(0), &topic[..end]), Err(Malformed));
    }
    let mut other = topic.clone();
    other[0] = 2;
    assert_eq!(
        State::default().load(&topic_key(0), &other),
        Err(Malformed),
        "a version to come"
    );
}
