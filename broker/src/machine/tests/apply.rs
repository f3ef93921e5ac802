//! What an entry does: replies, what readers see, events, trims, the digest.

use super::*;

#[test]
fn every_frame_gets_one_reply_and_rubbish_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path().join("n"));
    let rubbish = [
        Bytes::new(),
        Bytes::from_static(&[1]),
        Bytes::from_static(&[250, 1, 2]),
        Bytes::from_static(&[13, 9]),
    ];
    let mut frames = vec![assign_topic("A", 1)];
    frames.extend(rubbish);
    frames.push(message("A", 0, 5, "k"));
    let refused = Reply::Refused(Refusal::Malformed);
    let expected = vec![
        Reply::Done,
        refused.clone(),
        refused.clone(),
        refused.clone(),
        refused,
        appended(0, 5),
    ];
    assert_eq!(node.apply(&frames), expected);
    assert_eq!(located(&node.reader, "A", 0, 0, 9), [(0, 1, 5, 5)]);
    assert_eq!(node.apply(&[]), []);
}

#[test]
fn readers_see_an_entry_and_whoever_waits_is_told() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path().join("n"));
    node.apply(&[assign_topic("A", 2), assign_slots()]);
    assert_eq!(node.told.take(), [""; 0]);
    node.apply(&[
        message("A", 1, 10, "a"),
        message("A", 0, 11, "b"),
        message("A", 1, 12, "c"),
        join("c1"),
    ]);
    assert_eq!(node.told.take(), ["A/1 to 2", "A/0 to 1", "members of CG"]);
    node.apply(&[message("A", 1, 20, "d")]);
    assert_eq!(
        located(&node.reader, "A", 1, 0, 10),
        [(0, 2, 0, 10), (1, 2, 2, 10), (2, 3, 0, 20)]
    );
    assert_eq!(located(&node.reader, "A", 1, 1, 1), [(1, 2, 2, 10)]);
    assert_eq!(located(&node.reader, "A", 1, 2, 10), [(2, 3, 0, 20)]);
    assert_eq!(located(&node.reader, "A", 1, 3, 10), []);
    assert_eq!(located(&node.reader, "A", 2, 0, 10), []);
    assert_eq!(located(&node.reader, "X", 0, 0, 10), []);
    let bounds = node.reader.queue_bounds("A", 1).unwrap();
    assert_eq!((bounds.min_offset, bounds.max_offset), (0, 3));
    assert_eq!((bounds.min_store_time, bounds.last_store_time), (10, 20));
    assert_eq!(node.reader.members(), members(&["c1"]));
    node.machine.on_leadership(3, true);
    assert_eq!(node.told.take(), ["A/1 to 3", "leader true in 3"]);
}

#[test]
fn readers_know_the_queues_that_are_here() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("n");
    let mut node = Node::open(folder.clone());
    let second = OpenQueue {
        queue: 2,
        generation: 2,
        start: 70,
    };
    let assigned = Assignment {
        uid: 8,
        version: 5,
        open: vec![second],
        ..assignment("A", 4, &[])
    };
    node.apply(&[assign(assigned), assign_topic("B", 2)]);
    let more = Assignment {
        uid: 8,
        version: 6,
        ..assignment("A", 4, &[(0, 0)])
    };
    assert_eq!(
        node.apply(&[assign(more.clone()), assign(more)]),
        [Reply::Done, Reply::Done]
    );
    for _ in 0..2 {
        let reader = &node.reader;
        assert_eq!(reader.topic_names(), ["A", "B"]);
        assert_eq!(reader.topic_identity("A"), Some((8, 6)));
        assert_eq!(reader.topic_version("A"), Some(6));
        assert_eq!(reader.queues_of("A"), [0, 2]);
        assert_eq!(reader.queues_of("B"), [0, 1]);
        let generations = [0, 1, 2, 3, 4].map(|queue| reader.generation("A", queue));
        assert_eq!(generations, [Some(1), None, Some(2), None, None]);
        let bounds = reader.queue_bounds("A", 2).unwrap();
        assert_eq!((bounds.min_offset, bounds.max_offset, bounds.generation), (70, 70, 2));
        assert_eq!(reader.queue_bounds("A", 1), None);
        assert_eq!(reader.topic_identity("X"), None);
        assert_eq!(reader.topic_version("X"), None);
        assert_eq!(reader.queues_of("X"), [0; 0]);
        assert_eq!(reader.generation("X", 0), None);
        node.machine.flush().unwrap();
        drop(node);
        node = Node::open(folder.clone());
    }
    node.apply(&[delete_topic("A", 8)]);
    assert_eq!(node.reader.topic_names(), ["B"]);
    assert_eq!(node.reader.queues_of("A"), [0; 0]);
}

#[test]
fn a_message_for_a_queue_of_another_group_is_refused_and_nobody_is_told() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path().join("n"));
    node.apply(&[assign(assignment("A", 3, &[(0, 0), (2, 0)]))]);
    let replies = node.apply(&[
        message("A", 2, 10, "k"),
        message("A", 1, 10, "k"),
        message("A", 2, 10, "k"),
        message("A", 3, 10, "k"),
    ]);
    let refused = Reply::Refused(Refusal::QueueOutOfRange);
    assert_eq!(replies, [appended(0, 10), refused.clone(), appended(1, 10), refused]);
    assert_eq!(node.told.take(), ["A/2 to 2"]);
    assert_eq!(located(&node.reader, "A", 2, 0, 9), [(0, 2, 0, 10), (1, 2, 2, 10)]);
    assert_eq!(located(&node.reader, "A", 1, 0, 9), []);
    assert_eq!(node.reader.offset_by_time("A", 1, 1, 5, false).unwrap(), 0);
    let found = node.reader.find_by_key("A", "k", 0, i64::MAX, 9).unwrap();
    let found: Vec<_> = found.iter().map(|f| (f.queue, f.located.queue_offset)).collect();
    assert_eq!(found, [(2, 1), (2, 0)]);
}

#[test]
fn a_queue_may_start_at_any_offset() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("n");
    let mut node = Node::open(folder.clone());
    node.apply(&[assign(assignment("A", 2, &[(1, 1_000)]))]);
    assert_eq!(located(&node.reader, "A", 1, 0, 9), []);
    assert_eq!(node.reader.offset_by_time("A", 1, 1, 5, false).unwrap(), 1_000);
    let point = node.reader.trim_point(i64::MAX, 0).unwrap();
    assert_eq!(point.map(|point| point.log_index), Some(1));
    for time in [10, 20] {
        node.apply(&[message("A", 1, time, "k"), message("A", 1, time, "k")]);
    }
    assert_eq!(node.told.take(), ["A/1 to 1002", "A/1 to 1004"]);
    for _ in 0..2 {
        let reader = &node.reader;
        let bounds = reader.queue_bounds("A", 1).unwrap();
        assert_eq!((bounds.min_offset, bounds.max_offset), (1_000, 1_004));
        assert_eq!((bounds.min_store_time, bounds.last_store_time), (10, 20));
        let all = [
            (1_000, 2, 0, 10),
            (1_001, 2, 1, 10),
            (1_002, 3, 0, 20),
            (1_003, 3, 1, 20),
        ];
        for before in [0, 999, 1_000] {
            assert_eq!(located(reader, "A", 1, before, 9), all);
        }
        assert_eq!(located(reader, "A", 1, 1_003, 9), all[3..]);
        assert_eq!(located(reader, "A", 1, 1_004, 9), []);
        let lower = [0, 10, 11, 21].map(|time| reader.offset_by_time("A", 1, 1, time, false).unwrap());
        assert_eq!(lower, [1_000, 1_000, 1_002, 1_004]);
        let upper = [10, 19, 20].map(|time| reader.offset_by_time("A", 1, 1, time, true).unwrap());
        assert_eq!(upper, [1_001, 1_001, 1_003]);
        let found = reader.find_by_key("A", "k", 0, i64::MAX, 9).unwrap();
        let found: Vec<_> = found.iter().map(|found| found.located.queue_offset).collect();
        assert_eq!(found, [1_003, 1_002, 1_001, 1_000]);
        drop(node);
        node = Node::open(folder.clone());
    }
    node.apply(&[trim(2)]);
    assert_eq!(
        located(&node.reader, "A", 1, 0, 9),
        [(1_002, 3, 0, 20), (1_003, 3, 1, 20)]
    );
    node.apply(&[trim(3)]);
    assert_eq!(node.apply(&[message("A", 1, 30, "k")]), [appended(1_004, 30)]);
    assert_eq!(located(&node.reader, "A", 1, 0, 9), [(1_004, 6, 0, 30)]);
}

#[test]
fn a_further_queue_leaves_the_others_their_messages() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("n");
    let mut node = Node::open(folder.clone());
    node.apply(&[assign(assignment("A", 2, &[(1, 0)]))]);
    node.apply(&[message("A", 1, 10, "k")]);
    let more = Assignment {
        version: 2,
        ..assignment("A", 4, &[(1, 0), (3, 50)])
    };
    let replies = node.apply(&[
        message("A", 1, 11, "k"),
        message("A", 3, 11, "k"),
        assign(more),
        message("A", 1, 12, "k"),
        message("A", 3, 12, "k"),
    ]);
    let refused = Reply::Refused(Refusal::QueueOutOfRange);
    let expected = [appended(1, 11), refused, Reply::Done, appended(2, 11), appended(50, 12)];
    assert_eq!(replies, expected);
    for _ in 0..2 {
        assert_eq!(node.reader.queues_of("A"), [1, 3]);
        assert_eq!(
            located(&node.reader, "A", 1, 0, 9),
            [(0, 2, 0, 10), (1, 3, 0, 11), (2, 3, 3, 11)]
        );
        assert_eq!(located(&node.reader, "A", 3, 0, 9), [(50, 3, 4, 12)]);
        drop(node);
        node = Node::open(folder.clone());
    }
}

#[test]
fn a_topic_made_again_within_an_entry_has_only_what_came_after() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("n");
    let mut node = Node::open(folder.clone());
    node.apply(&[assign_topic("A", 2)]);
    node.apply(&[message("A", 0, 10, "k")]);
    let again = Assignment {
        uid: 2,
        ..assignment("A", 2, &[(0, 0)])
    };
    let replies = node.apply(&[
        message("A", 0, 20, "k"),
        assign(again.clone()),
        delete_topic("A", 2),
        delete_topic("A", 1),
        message("A", 0, 20, "k"),
        assign(again),
        message("A", 0, 5, "k"),
        message("A", 1, 5, "k"),
    ]);
    let expected = [
        appended(1, 20),
        Reply::Refused(Refusal::OtherTopic),
        Reply::Refused(Refusal::TopicNotExist),
        Reply::Done,
        Reply::Refused(Refusal::TopicNotExist),
        Reply::Done,
        appended(0, 5),
        Reply::Refused(Refusal::QueueOutOfRange),
    ];
    assert_eq!(replies, expected);
    for _ in 0..2 {
        assert_eq!(node.reader.topic_identity("A"), Some((2, 1)));
        assert_eq!(node.reader.queues_of("A"), [0]);
        assert_eq!(located(&node.reader, "A", 0, 0, 9), [(0, 3, 6, 5)]);
        let found = node.reader.find_by_key("A", "k", 0, i64::MAX, 9).unwrap();
        assert_eq!(found.iter().map(|found| found.located.slot).collect::<Vec<_>>(), [6]);
        drop(node);
        node = Node::open(folder.clone());
    }
}

#[test]
fn a_trim_takes_the_index_with_it_and_tells() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path().join("n"));
    node.apply_all(&sample_log()[..16]);
    node.told.take();
    assert_eq!(node.apply(&sample_log()[16]), [Reply::Done, appended(14, 300)]);
    assert_eq!(node.told.take(), ["A/0 to 15", "trimmed 4"]);
    assert_eq!(node.reader.trimmed(), 4);
    let bounds = node.reader.queue_bounds("A", 0).unwrap();
    assert_eq!(
        (bounds.min_offset, bounds.max_offset, bounds.min_store_time),
        (2, 15, 200)
    );
    assert_eq!(located(&node.reader, "A", 0, 0, 1), [(2, 5, 0, 200)]);
    let bounds = node.reader.queue_bounds("A", 1).unwrap();
    assert_eq!(
        (bounds.min_offset, bounds.max_offset, bounds.min_store_time),
        (1, 1, -1)
    );
}

#[test]
fn a_message_before_a_trim_in_one_entry_survives_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("n");
    let mut node = Node::open(folder.clone());
    node.apply(&[assign_topic("A", 1)]);
    node.apply(&[message("A", 0, 10, "k")]);
    node.apply(&[message("A", 0, 20, "k"), trim(2), message("A", 0, 20, "k")]);
    let seen = |node: &Node| {
        (
            node.reader.queue_bounds("A", 0).unwrap(),
            located(&node.reader, "A", 0, 0, 9),
        )
    };
    let before = seen(&node);
    assert_eq!((before.0.min_offset, before.0.max_offset), (1, 3));
    assert_eq!(before.1, [(1, 3, 0, 20), (2, 3, 2, 20)]);
    drop(node);
    assert_eq!(seen(&Node::open(folder)), before);
}

#[test]
fn equal_logs_give_equal_digests_and_others_do_not() {
    let root = tempfile::tempdir().unwrap();
    let log = sample_log();
    let digest = |name: &str, log: &[Vec<Bytes>]| {
        let mut node = Node::open(root.path().join(name));
        node.apply_all(log);
        let digest = node.digest(1);
        assert_eq!(
            node.reader.last_digest().map(|last| (last.nonce, last.value)),
            Some((1, digest))
        );
        digest
    };
    let first = digest("first", &log);
    assert_eq!(digest("second", &log), first);
    for entry in 0..log.len() {
        let mut other = log.clone();
        other[entry].push(Bytes::from_static(b"one frame more"));
        assert_ne!(digest(&format!("other {entry}"), &other), first, "entry {entry}");
    }
}
