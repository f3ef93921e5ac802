//! A state that is opened again: after a close, a crash, or damage.

use super::*;
use crate::state::StoredAt;

#[test]
fn a_state_closed_in_order_reopens_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("n");
    let mut node = Node::open(folder.clone());
    node.apply_all(&sample_log());
    node.machine
        .apply_membership(LogId::new(2, 20), Some(Bytes::from_static(b"members")))
        .unwrap();
    node.machine.apply_membership(LogId::new(3, 21), None).unwrap();
    assert_eq!(node.machine.flush().unwrap(), Some(LogId::new(3, 21)));
    let lock = node.reader.lock_owner("CG", "A", 0, 5);
    assert!(lock.is_some());
    drop(node);

    let mut node = Node::open(folder);
    assert_eq!(node.machine.applied(), Some(LogId::new(3, 21)));
    assert_eq!(
        node.machine.membership(),
        Some((LogId::new(2, 20), Bytes::from_static(b"members")))
    );
    assert_eq!(node.reader.lock_owner("CG", "A", 0, 5), lock);
    assert_eq!(node.reader.consumer_offset("CG", "A", 0), Some(1));
    assert_eq!(node.reader.members(), members(&["c1", "c2"]));
    assert_eq!(node.reader.topic_identity("B"), Some((2, 1)));
    assert_eq!(node.reader.queues_of("B"), [0, 2]);
    assert_eq!(node.reader.topic_identity("S"), Some((1, 2)));
    assert_eq!(node.reader.queues_of("S"), [2, 4]);
    assert_eq!(
        located(&node.reader, "S", 2, 0, 2),
        [(1_000, 5, 2, 200), (1_001, 6, 2, 201)]
    );
    assert_eq!(located(&node.reader, "A", 0, 14, 5), [(14, 17, 1, 300)]);
    node.apply(&[message("A", 0, 1, "k")]);
    assert_eq!(
        located(&node.reader, "A", 0, 14, 5),
        [(14, 17, 1, 300), (15, 22, 0, 300)]
    );
    let replies = node.apply(&[
        message("S", 4, 500, "k"),
        forwarded_message("S", 2, 500, 1, true),
        forwarded_message("S", 2, 500, 12, true),
    ]);
    let first_time = StoredAt {
        log_index: 6,
        slot: 2,
        queue_offset: 1_001,
        store_time: 201,
    };
    assert_eq!(
        replies,
        [appended(7, 500), Reply::Repeated(first_time), appended(1_012, 500)]
    );
}

#[test]
fn a_crash_leaves_a_prefix_and_applying_again_leads_to_the_same_digest() {
    let root = tempfile::tempdir().unwrap();
    let log = sample_log();
    let mut node = Node::open(root.path().join("whole"));
    for (number, entry) in log.iter().enumerate() {
        node.apply(entry);
        if number % 3 == 0 {
            node.machine.flush().unwrap();
        }
        let crashed = node.crash_copy(&root, &format!("crash {number}"));
        let mut again = Node::open(crashed);
        let applied = again.machine.applied().map_or(0, |applied| applied.index as usize);
        assert!(
            applied > number - number % 3 && applied <= number + 1,
            "{applied} after {number}"
        );
        again.apply_all(&log[..=number]);
        let mut reference = Node::open(root.path().join(format!("reference {number}")));
        reference.apply_all(&log[..=number]);
        assert_eq!(again.digest(1), reference.digest(1), "after entry {number}");
        assert_eq!(again.found_by_key(), reference.found_by_key(), "after entry {number}");
    }
}

#[test]
fn a_damaged_state_is_set_aside_and_a_checkpoint_takes_its_place() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("n");
    let log = sample_log();
    let mut node = Node::open(folder.clone());
    node.apply_all(&log[..10]);
    node.machine.flush().unwrap();
    node.apply_all(&log);
    node.machine.flush().unwrap();
    let whole = node.digest(1);
    drop(node);
    let kept = || {
        let names = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with("live")).collect();
        names.sort();
        names
    };
    assert_eq!(kept(), ["checkpoint-10", "checkpoint-19"]);

    let cut_manifests = |of: &str| {
        for entry in fs::read_dir(folder.join(of)).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("MANIFEST") {
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
                let mut damaged = fs::read(&path).unwrap();
                damaged[10] ^= 0xff;
                fs::write(&path, damaged).unwrap();
            }
        }
    };
    cut_manifests("live");
    cut_manifests("checkpoint-19");
    let mut node = Node::open(folder.clone());
    assert_eq!(node.machine.applied().map(|applied| applied.index), Some(10));
    assert_eq!(kept(), ["checkpoint-10", "checkpoint-19", "set-aside-0", "set-aside-1"]);
    node.apply_all(&log);
    assert_eq!(node.digest(1), whole);
}

#[test]
fn a_state_without_its_head_is_not_taken_for_a_new_one() {
    let root = tempfile::tempdir().unwrap();
    let folder = Node::closed(&root, &sample_log());
    fs::remove_file(folder.join("live/CURRENT")).unwrap();
    let node = Node::open(folder.clone());
    assert_eq!(node.machine.applied().map(|applied| applied.index), Some(19));
    assert!(folder.join("set-aside-0").exists());
}
