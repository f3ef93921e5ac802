//! Topics and queues: what may be created and changed, dense offsets, store times, trims.

use super::*;
use crate::state::Command;
use crate::state::limits::STORED_MESSAGE_BYTES_MIN;
use crate::state::tests::Bench;
use crate::state::{AppendHeader, KeyHashes};

fn appended(queue_offset: i64, store_time: i64) -> Reply {
    Reply::Appended {
        queue_offset,
        store_time,
    }
}

fn refused(refusal: Refusal) -> Vec<Reply> {
    vec![Reply::Refused(refusal)]
}

fn queue<'a>(bench: &'a Bench, topic: &str, number: u32) -> &'a Queue {
    bench.state.topics.queue(topic, number).unwrap().1
}

#[test]
fn queue_offsets_are_dense_in_each_queue() {
    let mut bench = Bench::default();
    bench.put_topic("A", 2);
    bench.put_topic("B", 1);
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
    bench.put_topic("A", 2);
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
    bench.put_topic("A", 1);
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
    bench.put_topic("A", 1);
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
    bench.apply(Command::PutTopic {
        config,
        if_absent: false,
        now_ms: 0,
    });
    assert_eq!(bench.append(&[("A", 0, 10)]), refused(Refusal::NotWritable));
}

#[test]
fn another_generation_is_refused() {
    let mut bench = Bench::default();
    bench.put_topic("A", 1);
    let header = AppendHeader {
        topic: "A",
        queue: 0,
        generation: 1,
        tag_hash: 0,
        store_time: 1,
        keys: KeyHashes::none(),
    };
    let frame = header.frame(&[0; STORED_MESSAGE_BYTES_MIN]);
    let mut effects = Effects::default();
    let reply = bench
        .state
        .append(&Append::parse(&frame).unwrap(), 9, 0, &mut None, &mut effects);
    assert_eq!(reply, Reply::Refused(Refusal::StaleGeneration));
    assert_eq!(effects.batches, []);
}

#[test]
fn the_queue_count_grows_and_never_shrinks() {
    let mut bench = Bench::default();
    bench.put_topic("A", 2);
    bench.append(&[("A", 1, 10)]);
    let put = |queues, if_absent| Command::PutTopic {
        config: TopicConfig::new("A", queues),
        if_absent,
        now_ms: 9,
    };
    assert_eq!(bench.apply(put(1, false)), Reply::Refused(Refusal::FewerQueues));
    assert_eq!(
        bench.apply(put(1, true)),
        Reply::Done,
        "an existing topic stays as it is"
    );
    assert_eq!(bench.apply(put(0, false)), Reply::Refused(Refusal::QueueOutOfRange));
    assert_eq!(bench.apply(put(3, false)), Reply::Done);
    assert_eq!(queue(&bench, "A", 1).max_offset, 1);
    assert_eq!(queue(&bench, "A", 2).max_offset, 0);
    assert_eq!(bench.state.topics.get("A").unwrap().created_ms, 1);
    bench.check_records();
}

#[test]
fn a_topic_made_again_has_new_queues() {
    let mut bench = Bench::default();
    bench.put_topic("A", 1);
    bench.append(&[("A", 0, 10)]);
    let before = bench.state.topics.id("A").unwrap();
    bench.apply(Command::DeleteTopic { topic: "A".to_owned() });
    bench.put_topic("A", 1);
    assert_ne!(bench.state.topics.id("A").unwrap(), before);
    assert_eq!(queue(&bench, "A", 0).max_offset, 0);
    bench.check_records();
}

#[test]
fn a_trim_moves_each_queue_behind_the_entry() {
    let mut bench = Bench::default();
    bench.put_topic("A", 3);
    bench.append(&[("A", 0, 10), ("A", 0, 10), ("A", 1, 10)]);
    let first = bench.log_index;
    bench.append(&[("A", 0, 20)]);
    assert_eq!(bench.apply(Command::Trim { log_index: first }), Reply::Done);
    assert_eq!(bench.effects.trimmed, Some(first));
    let bounds = |number| {
        let queue = queue(&bench, "A", number);
        (
            queue.min_offset,
            queue.max_offset,
            queue.min_store_time,
            queue.first_log_index,
        )
    };
    assert_eq!(bounds(0), (2, 3, 20, first + 1));
    assert_eq!(bounds(1), (1, 1, -1, 0), "empty, and its offsets go on");
    assert_eq!(bounds(2), (0, 0, -1, 0));
    bench.check_records();
    assert_eq!(bench.append(&[("A", 1, 30)]), [appended(1, 30)]);
    assert_eq!(queue(&bench, "A", 1).min_store_time, 30);
    bench.check_records();
}

#[test]
fn a_trim_beyond_the_log_is_refused_and_an_old_one_changes_nothing() {
    let mut bench = Bench::default();
    bench.put_topic("A", 1);
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
        min_offset: 2,
        max_offset: 3,
        min_store_time: 4,
        last_store_time: 5,
        first_log_index: 6,
        open_batch: Some((7, 8)),
    };
    let golden = [
        1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5,
        0, 0, 0, 0, 0, 0, 0, 6,
    ];
    assert_eq!(queue.encode(), golden);
    assert_eq!(
        Queue::decode(&golden).unwrap(),
        Queue {
            open_batch: None,
            ..queue
        }
    );
    assert_eq!(Queue::decode(&golden[1..]), Err(Malformed));
}
