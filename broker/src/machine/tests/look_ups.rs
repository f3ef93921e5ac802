//! What readers ask for: offsets by time, messages by key, how far a trim may go.

use super::*;

#[test]
fn offsets_are_found_by_time_as_the_protocol_says() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path().join("n"));
    node.apply(&[assign_topic("A", 2)]);
    for time in [10, 20, 20, 30] {
        node.apply(&[message("A", 0, time, "k"), message("A", 0, time, "k")]);
    }
    let lower = |time| node.reader.offset_by_time("A", 0, 1, time, false).unwrap();
    let upper = |time| node.reader.offset_by_time("A", 0, 1, time, true).unwrap();
    assert_eq!(
        [
            lower(0),
            lower(10),
            lower(11),
            lower(20),
            lower(21),
            lower(30),
            lower(31)
        ],
        [0, 0, 2, 2, 6, 6, 8]
    );
    assert_eq!(
        [upper(0), upper(10), upper(19), upper(20), upper(30), upper(31)],
        [0, 1, 1, 5, 7, 7]
    );
    assert_eq!(
        node.reader.offset_by_time("A", 1, 1, 5, false).unwrap(),
        0,
        "an empty queue"
    );
    assert_eq!(node.reader.offset_by_time("A", 1, 1, 5, true).unwrap(), 0);
    assert_eq!(
        node.reader.offset_by_time("X", 0, 1, 5, false).unwrap(),
        0,
        "an unknown one"
    );
}

#[test]
fn messages_are_found_by_key_newest_first_within_the_time() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path().join("n"));
    node.apply(&[assign_topic("A", 2), assign_topic("B", 1)]);
    node.apply(&[
        message("A", 0, 10, "x"),
        message("A", 1, 10, "x"),
        message("B", 0, 10, "x"),
    ]);
    node.apply(&[message("A", 1, 20, "x"), message("A", 1, 20, "y")]);
    let find = |node: &Node, begin, end, max| {
        let found = node.reader.find_by_key("A", "x", begin, end, max).unwrap();
        found
            .iter()
            .map(|f| (f.queue, f.located.queue_offset, f.located.log_index))
            .collect::<Vec<_>>()
    };
    assert_eq!(find(&node, 0, i64::MAX, 10), [(1, 1, 3), (1, 0, 2), (0, 0, 2)]);
    assert_eq!(find(&node, 0, i64::MAX, 1), [(1, 1, 3)]);
    assert_eq!(find(&node, 0, 15, 10), [(1, 0, 2), (0, 0, 2)]);
    node.apply(&[trim(2)]);
    assert_eq!(
        find(&node, 0, i64::MAX, 10),
        [(1, 1, 3)],
        "trimmed messages are not found"
    );
    let again = Assignment {
        uid: 2,
        ..assignment("A", 2, &[(0, 0), (1, 0)])
    };
    node.apply(&[delete_topic("A", 1), assign(again)]);
    assert_eq!(
        find(&node, 0, i64::MAX, 10),
        [],
        "nor those of a topic of the same name"
    );
}

#[test]
fn every_key_is_found_once_while_keys_are_sorted_again_and_again() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("n");
    let mut node = Node::open(folder.clone());
    node.apply(&[assign_topic("A", 1)]);
    let keys: Vec<String> = (0..200).map(|n| format!("key {n}")).collect();
    for (n, key) in (0..).zip(&keys) {
        node.apply(&[message("A", 0, n, key), message("A", 0, n, "all")]);
        if n == 100 {
            drop(node);
            node = Node::open(folder.clone());
        }
    }
    let find = |key: &str| {
        let found = node.reader.find_by_key("A", key, 0, i64::MAX, 1_000).unwrap();
        found.iter().map(|found| found.located.queue_offset).collect::<Vec<_>>()
    };
    for (n, key) in (0..).zip(&keys) {
        assert_eq!(find(key), [2 * n]);
    }
    assert_eq!(find("all"), (0..200).rev().map(|n| 2 * n + 1).collect::<Vec<_>>());
    let tables = fs::read_dir(folder.join("live")).unwrap();
    let tables = tables.filter(|file| {
        file.as_ref()
            .unwrap()
            .path()
            .extension()
            .is_some_and(|kind| kind == "sst")
    });
    assert!(tables.count() > 20, "runs were made");
}

/// The trim point of queues kept for 900 ms, and whether messages lie in or before it.
fn trim_point(reader: &StateReader, now_ms: i64) -> Option<(u64, bool)> {
    let point = reader.trim_point(now_ms, 900).unwrap();
    point.map(|point| (point.log_index, point.forgets))
}

#[test]
fn the_trim_point_is_the_entry_before_the_oldest_message_to_keep() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path().join("n"));
    let mut long = assignment("L", 1, &[(0, 0)]);
    long.config.retention_ms = Some(1_000_000);
    node.apply(&[assign_topic("A", 1), assign(long)]);
    for time in [100, 200, 300] {
        node.apply(&[message("A", 0, time, "k")]);
    }
    assert_eq!(
        trim_point(&node.reader, 1_000),
        Some((1, false)),
        "the oldest message is just within"
    );
    assert_eq!(trim_point(&node.reader, 1_001), Some((2, true)));
    assert_eq!(trim_point(&node.reader, 1_201), Some((4, true)), "nothing is kept");
    node.apply(&[message("L", 0, 300, "k")]);
    assert_eq!(
        trim_point(&node.reader, 5_000),
        Some((4, true)),
        "the other topic keeps for longer"
    );
    node.apply(&[trim(4)]);
    assert_eq!(trim_point(&node.reader, 5_000), None);
}
