//! A snapshot takes the state's place, or leaves it alone.

use super::*;

#[test]
fn a_restored_state_is_the_senders() {
    let root = tempfile::tempdir().unwrap();
    let log = sample_log();
    let mut sender = Node::open(root.path().join("sender"));
    sender.apply_all(&log);
    sender
        .machine
        .apply_membership(LogId::new(1, 20), Some(Bytes::from_static(b"members")))
        .unwrap();
    let snapshot = root.path().join("snapshot");
    assert_eq!(sender.machine.checkpoint(&snapshot).unwrap(), Some(LogId::new(1, 20)));

    let folder = root.path().join("receiver");
    let mut receiver = Node::open(folder.clone());
    receiver.apply_all(&log[..5]);
    receiver.machine.verify(&snapshot).unwrap();
    assert_eq!(receiver.machine.applied().map(|applied| applied.index), Some(5));
    receiver.told.take();
    receiver.machine.restore(&snapshot).unwrap();
    let told = receiver.told.take();
    for waited_for in ["A/0 to 15", "S/2 to 1012", "members of CG"] {
        assert!(told.iter().any(|line| line == waited_for), "{waited_for}: {told:?}");
    }
    assert_eq!(receiver.machine.applied(), Some(LogId::new(1, 20)));
    assert_eq!(receiver.machine.membership(), sender.machine.membership());
    for (topic, queue, messages) in [("B", 2, 1), ("S", 2, 12)] {
        let found = located(&receiver.reader, topic, queue, 0, 20);
        assert_eq!(found.len(), messages);
        assert_eq!(found, located(&sender.reader, topic, queue, 0, 20));
    }
    for topic in ["A", "B", "S"] {
        assert_eq!(receiver.reader.queues_of(topic), sender.reader.queues_of(topic));
        assert_eq!(
            receiver.reader.topic_identity(topic),
            sender.reader.topic_identity(topic)
        );
    }
    let expected = sender.digest(1);
    assert_eq!(
        receiver.digest(1),
        expected,
        "a reader made before the restore sees it, and so does the digest"
    );
    drop(receiver);
    let receiver = Node::open(folder);
    assert_eq!(receiver.machine.applied(), Some(LogId::new(1, 21)));
    assert!(snapshot.join("CURRENT").exists(), "the source is left as it was");
}

#[test]
fn a_snapshot_that_cannot_be_opened_leaves_the_state_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path().join("n"));
    node.apply_all(&sample_log());
    let snapshot = root.path().join("snapshot");
    node.machine.checkpoint(&snapshot).unwrap();
    fs::remove_file(snapshot.join("CURRENT")).unwrap();
    let refusal = node.machine.verify(&snapshot).unwrap_err();
    assert_eq!(refusal.kind(), io::ErrorKind::InvalidData);
    assert!(node.machine.restore(&snapshot).is_err());
    assert_eq!(node.machine.applied().map(|applied| applied.index), Some(19));
    assert_eq!(node.apply(&[message("A", 0, 1, "k")]), [appended(15, 300)]);
}

#[test]
fn a_crash_between_the_renames_of_a_restore_leaves_one_whole_state() {
    let root = tempfile::tempdir().unwrap();
    let folder = Node::closed(&root, &sample_log());
    fs::rename(folder.join("live"), folder.join("live.old")).unwrap();
    copy_folder(&folder.join("live.old"), &folder.join("live.new")).unwrap();
    let node = Node::open(folder.clone());
    assert_eq!(node.machine.applied().map(|applied| applied.index), Some(19));
    assert!(!folder.join("live.old").exists() && !folder.join("live.new").exists());
    drop(node);
    copy_folder(&folder.join("live"), &folder.join("live.old")).unwrap();
    let node = Node::open(folder.clone());
    assert_eq!(node.machine.applied().map(|applied| applied.index), Some(19));
    assert!(!folder.join("live.old").exists());
}
