//! The machine as the replicated log sees it: entries in, replies, events, records and digests out, over restarts.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flotilla_raft_store::frames::pack;
use parking_lot::{Condvar, Mutex};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::state::limits::STORED_MESSAGE_BYTES_MIN;
use crate::state::{AppendHeader, GroupShape, Join, JoinGroup, KeyHashes, OffsetUpdate, TopicConfig};

/// Remembers what it was told.
#[derive(Default)]
struct Told {
    lines: Mutex<Vec<String>>,
    digests: Mutex<BTreeMap<u64, u64>>,
    digest_known: Condvar,
}

impl Events for Told {
    fn appended(&self, topic: &str, queue: u32, max_offset: i64) {
        self.lines.lock().push(format!("{topic}/{queue} to {max_offset}"));
    }

    fn membership_changed(&self, consumer_group: &str) {
        self.lines.lock().push(format!("members of {consumer_group}"));
    }

    fn trimmed(&self, log_index: u64) {
        self.lines.lock().push(format!("trimmed {log_index}"));
    }

    fn digest(&self, nonce: u64, _log_id: LogId, value: u64) {
        self.digests.lock().insert(nonce, value);
        self.digest_known.notify_all();
    }

    fn leadership(&self, term: u64, leader: bool) {
        self.lines.lock().push(format!("leader {leader} in {term}"));
    }
}

impl Told {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock())
    }

    fn digest(&self, nonce: u64) -> u64 {
        let until = Instant::now() + Duration::from_secs(30);
        let mut digests = self.digests.lock();
        while !digests.contains_key(&nonce) {
            assert!(
                !self.digest_known.wait_until(&mut digests, until).timed_out(),
                "no digest {nonce}"
            );
        }
        digests[&nonce]
    }
}

/// A machine in a folder.
struct Node {
    machine: Machine,
    reader: StateReader,
    told: Arc<Told>,
    folder: PathBuf,
}

impl Node {
    fn open(folder: PathBuf) -> Self {
        let told = Arc::new(Told::default());
        let settings = MachineSettings {
            kv: KvSettings {
                memtable_bytes: 1 << 20,
                ..KvSettings::default()
            },
            checkpoint_entries: 4,
            run_keys: 5,
        };
        let (machine, reader) = Machine::open(&folder, settings, told.clone()).unwrap();
        Self {
            machine,
            reader,
            told,
            folder,
        }
    }

    /// Applies one entry behind the last.
    fn apply(&mut self, frames: &[Bytes]) -> Vec<Reply> {
        let index = self.machine.applied().map_or(0, |applied| applied.index) + 1;
        self.machine
            .apply(LogId::new(1, index), &Frames::parse(pack(frames)).unwrap())
            .unwrap()
    }

    fn apply_all(&mut self, log: &[Vec<Bytes>]) {
        let applied = self.machine.applied().map_or(0, |applied| applied.index as usize);
        for entry in &log[applied..] {
            self.apply(entry);
        }
    }

    /// All messages of the sample log's keys: key, queue, queue offset.
    fn found_by_key(&self) -> Vec<(&'static str, u32, i64)> {
        let mut all = Vec::new();
        for (topic, key) in [
            ("A", "k0"),
            ("A", "k1"),
            ("A", "k2"),
            ("A", "k"),
            ("A", "last"),
            ("B", "k"),
        ] {
            let found = self.reader.find_by_key(topic, key, 0, i64::MAX, 100).unwrap();
            let places = found.iter().map(|found| (key, found.queue, found.located.queue_offset));
            all.extend(places);
        }
        all
    }

    fn digest(&mut self, nonce: u64) -> u64 {
        self.apply(&[Command::DigestPoint { nonce }.encode()]);
        self.told.digest(nonce)
    }

    /// What a crash right now would leave on disk.
    ///
    /// A crash leaves the files of one moment, whereas a copy takes a while in which RocksDB's
    /// own thread unlinks files that a flush made obsolete and writes new ones. A copy during
    /// which the folder changed is therefore thrown away and taken again.
    fn crash_copy(&self, root: &TempDir, name: &str) -> PathBuf {
        let target = root.path().join(name);
        for _ in 0..1_000 {
            let before = files(&self.folder);
            let copied = before
                .as_ref()
                .is_ok_and(|_| copy_folder(&self.folder, &target).is_ok());
            if copied && files(&self.folder).ok() == before.ok() {
                return target;
            }
            let _ = fs::remove_dir_all(&target);
            // RocksDB's own thread says nothing when it is done.
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{} never stands still", self.folder.display());
    }
}

/// Every file below `folder` with its length in bytes.
fn files(folder: &Path) -> io::Result<BTreeMap<PathBuf, u64>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.insert(entry.path(), entry.metadata()?.len());
        }
    }
    Ok(found)
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let source = entry?.path();
        let target = to.join(source.file_name().expect("an entry has a name"));
        if source.is_dir() {
            copy_folder(&source, &target)?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

fn put_topic(name: &str, queues: u32) -> Bytes {
    Command::PutTopic {
        config: TopicConfig::new(name, queues),
        if_absent: true,
        now_ms: 1,
    }
    .encode()
}

fn message(topic: &str, queue: u32, store_time: i64, key: &str) -> Bytes {
    let keys = KeyHashes::of(topic, Some(key), None);
    let header = AppendHeader {
        topic,
        queue,
        generation: 0,
        tag_hash: 42,
        store_time,
        keys,
    };
    header.frame(&[7; STORED_MESSAGE_BYTES_MIN])
}

fn join(client: &str) -> Bytes {
    let group = JoinGroup {
        group: "CG".to_owned(),
        shape: GroupShape::default(),
        subscriptions: Some(Vec::new()),
    };
    let join = Join {
        client_id: client.to_owned(),
        node: "n1".to_owned(),
        language: 0,
        version: 479,
        groups: vec![group],
        producer_groups: Vec::new(),
        now_ms: 3,
    };
    Command::Join(join).encode()
}

/// A log with some of everything; entry n has log index n + 1.
fn sample_log() -> Vec<Vec<Bytes>> {
    let offsets = vec![OffsetUpdate {
        group: "CG".to_owned(),
        topic: "A".to_owned(),
        queue: 0,
        offset: 1,
    }];
    let lock = Command::LockQueues {
        group: "CG".to_owned(),
        client_id: "c1".to_owned(),
        queues: vec![("A".to_owned(), 0)],
        now_ms: 4,
    };
    let mut log = vec![
        vec![put_topic("A", 2), put_topic("B", 1)],
        vec![
            message("A", 0, 100, "k0"),
            message("A", 1, 100, "k1"),
            message("A", 0, 100, "k2"),
        ],
        vec![join("c1"), join("c2")],
        vec![Command::UpdateConsumerOffsets(offsets).encode(), lock.encode()],
    ];
    for n in 0..12 {
        log.push(vec![message("A", 0, 200 + n, "k"), message("B", 0, 200 + n, "k")]);
    }
    log.push(vec![
        Command::Trim { log_index: 4 }.encode(),
        message("A", 0, 300, "last"),
    ]);
    log.push(vec![Command::DeleteTopic { topic: "B".to_owned() }.encode()]);
    log.push(vec![put_topic("B", 3), message("B", 2, 400, "k")]);
    log
}

fn located(reader: &StateReader, topic: &str, queue: u32, from: i64, max: usize) -> Vec<(i64, u64, u16, i64)> {
    let found = reader.locate(topic, queue, from, max).unwrap();
    found
        .iter()
        .map(|l| (l.queue_offset, l.log_index, l.slot, l.store_time))
        .collect()
}

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
    let mut frames = vec![put_topic("A", 1)];
    frames.extend(rubbish);
    frames.push(message("A", 0, 5, "k"));
    let refused = Reply::Refused(Refusal::Malformed);
    let appended = Reply::Appended {
        queue_offset: 0,
        store_time: 5,
    };
    let expected = vec![
        Reply::Done,
        refused.clone(),
        refused.clone(),
        refused.clone(),
        refused,
        appended,
    ];
    assert_eq!(node.apply(&frames), expected);
    assert_eq!(located(&node.reader, "A", 0, 0, 9), [(0, 1, 5, 5)]);
    assert_eq!(node.apply(&[]), []);
}

#[test]
fn readers_see_an_entry_and_whoever_waits_is_told() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path().join("n"));
    node.apply(&[put_topic("A", 2)]);
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
    assert_eq!(node.reader.members("CG").len(), 1);
    node.machine.on_leadership(3, true);
    assert_eq!(node.told.take(), ["A/1 to 3", "leader true in 3"]);
}

#[test]
fn offsets_are_found_by_time_as_the_protocol_says() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path().join("n"));
    node.apply(&[put_topic("A", 2)]);
    for time in [10, 20, 20, 30] {
        node.apply(&[message("A", 0, time, "k"), message("A", 0, time, "k")]);
    }
    let lower = |time| node.reader.offset_by_time("A", 0, time, false).unwrap();
    let upper = |time| node.reader.offset_by_time("A", 0, time, true).unwrap();
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
        node.reader.offset_by_time("A", 1, 5, false).unwrap(),
        0,
        "an empty queue"
    );
    assert_eq!(node.reader.offset_by_time("A", 1, 5, true).unwrap(), 0);
    assert_eq!(
        node.reader.offset_by_time("X", 0, 5, false).unwrap(),
        0,
        "an unknown one"
    );
}

#[test]
fn messages_are_found_by_key_newest_first_within_the_time() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path().join("n"));
    node.apply(&[put_topic("A", 2), put_topic("B", 1)]);
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
    node.apply(&[Command::Trim { log_index: 2 }.encode()]);
    assert_eq!(
        find(&node, 0, i64::MAX, 10),
        [(1, 1, 3)],
        "trimmed messages are not found"
    );
    node.apply(&[
        Command::DeleteTopic { topic: "A".to_owned() }.encode(),
        put_topic("A", 2),
    ]);
    assert_eq!(
        find(&node, 0, i64::MAX, 10),
        [],
        "nor those of a topic of the same name"
    );
}

#[test]
fn a_trim_takes_the_index_with_it_and_tells() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path().join("n"));
    node.apply_all(&sample_log()[..16]);
    node.told.take();
    assert_eq!(
        node.apply(&sample_log()[16]),
        [
            Reply::Done,
            Reply::Appended {
                queue_offset: 14,
                store_time: 300
            }
        ]
    );
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
    node.apply(&[put_topic("A", 1)]);
    node.apply(&[message("A", 0, 10, "k")]);
    let trim = Command::Trim { log_index: 2 }.encode();
    node.apply(&[message("A", 0, 20, "k"), trim, message("A", 0, 20, "k")]);
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
fn the_trim_point_is_the_entry_before_the_oldest_message_to_keep() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path().join("n"));
    let mut long = TopicConfig::new("L", 1);
    long.retention_ms = Some(1_000_000);
    let long = Command::PutTopic {
        config: long,
        if_absent: false,
        now_ms: 1,
    }
    .encode();
    node.apply(&[put_topic("A", 1), long]);
    for time in [100, 200, 300] {
        node.apply(&[message("A", 0, time, "k")]);
    }
    assert_eq!(
        node.reader.trim_point(1_000, 900).unwrap(),
        Some(1),
        "the oldest message is just within"
    );
    assert_eq!(node.reader.trim_point(1_001, 900).unwrap(), Some(2));
    assert_eq!(node.reader.trim_point(1_201, 900).unwrap(), Some(4), "nothing is kept");
    node.apply(&[message("L", 0, 300, "k")]);
    assert_eq!(
        node.reader.trim_point(5_000, 900).unwrap(),
        Some(4),
        "the other topic keeps for longer"
    );
    node.apply(&[Command::Trim { log_index: 4 }.encode()]);
    assert_eq!(node.reader.trim_point(5_000, 900).unwrap(), None);
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
fn every_key_is_found_once_while_keys_are_sorted_again_and_again() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("n");
    let mut node = Node::open(folder.clone());
    node.apply(&[put_topic("A", 1)]);
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
    assert_eq!(node.reader.members("CG").len(), 2);
    assert_eq!(located(&node.reader, "A", 0, 14, 5), [(14, 17, 1, 300)]);
    node.apply(&[message("A", 0, 1, "k")]);
    assert_eq!(
        located(&node.reader, "A", 0, 14, 5),
        [(14, 17, 1, 300), (15, 22, 0, 300)]
    );
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
    let folder = root.path().join("n");
    let mut node = Node::open(folder.clone());
    node.apply_all(&sample_log());
    node.machine.flush().unwrap();
    drop(node);
    fs::remove_file(folder.join("live/CURRENT")).unwrap();
    let node = Node::open(folder.clone());
    assert_eq!(node.machine.applied().map(|applied| applied.index), Some(19));
    assert!(folder.join("set-aside-0").exists());
}

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
    for waited_for in ["A/0 to 15", "members of CG"] {
        assert!(told.iter().any(|line| line == waited_for), "{waited_for}: {told:?}");
    }
    assert_eq!(receiver.machine.applied(), Some(LogId::new(1, 20)));
    assert_eq!(receiver.machine.membership(), sender.machine.membership());
    assert_eq!(
        located(&receiver.reader, "B", 2, 0, 5),
        located(&sender.reader, "B", 2, 0, 5)
    );
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
    assert_eq!(
        node.apply(&[message("A", 0, 1, "k")]),
        [Reply::Appended {
            queue_offset: 15,
            store_time: 300
        }]
    );
}

#[test]
fn a_crash_between_the_renames_of_a_restore_leaves_one_whole_state() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("n");
    let mut node = Node::open(folder.clone());
    node.apply_all(&sample_log());
    node.machine.flush().unwrap();
    drop(node);
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

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<(u32, i64)>),
    Trim(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec((0_u32..3, 0_i64..50), 1..8).prop_map(Step::Append),
        1 => (0_u64..6).prop_map(Step::Trim),
        1 => Just(Step::Reopen),
    ]
}

/// One queue of the model: each message's log index, slot and store time, and the first offset not trimmed.
#[derive(Default)]
struct ModelQueue {
    messages: Vec<(u64, u16, i64)>,
    min_offset: usize,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn queues_are_what_a_plain_model_says(steps in prop::collection::vec(step(), 1..40)) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("n");
        let mut node = Node::open(folder.clone());
        node.apply(&[put_topic("A", 3)]);
        let mut model: [ModelQueue; 3] = Default::default();
        let mut clock = 0;
        for step in steps {
            let log_index = node.machine.applied().unwrap().index + 1;
            match step {
                Step::Append(messages) => {
                    let mut frames = Vec::new();
                    let mut expected = Vec::new();
                    for ((queue, jitter), slot) in messages.into_iter().zip(0..) {
                        clock += 10;
                        let proposed = clock + jitter;
                        frames.push(message("A", queue, proposed, "k"));
                        let stored = &mut model[queue as usize].messages;
                        let store_time = match stored.last() {
                            Some((last, _, time)) if *last == log_index => *time,
                            Some((_, _, time)) => proposed.max(*time),
                            None => proposed,
                        };
                        expected.push(Reply::Appended { queue_offset: stored.len() as i64, store_time });
                        stored.push((log_index, slot, store_time));
                    }
                    prop_assert_eq!(node.apply(&frames), expected);
                }
                Step::Trim(back) => {
                    let upto = log_index.saturating_sub(1 + back);
                    node.apply(&[Command::Trim { log_index: upto }.encode()]);
                    for queue in &mut model {
                        let kept = queue.messages.iter().position(|(index, _, _)| *index > upto);
                        queue.min_offset = queue.min_offset.max(kept.unwrap_or(queue.messages.len()));
                    }
                }
                Step::Reopen => {
                    drop(node);
                    node = Node::open(folder.clone());
                }
            }
            for (queue, number) in model.iter().zip(0..) {
                let all: Vec<_> = queue.messages.iter().zip(0_i64..).map(|((i, s, t), o)| (o, *i, *s, *t)).collect();
                let kept = &all[queue.min_offset..];
                prop_assert_eq!(located(&node.reader, "A", number, 0, 10_000), kept.to_vec());
                let bounds = node.reader.queue_bounds("A", number).unwrap();
                prop_assert_eq!((bounds.min_offset, bounds.max_offset), (queue.min_offset as i64, all.len() as i64));
                prop_assert_eq!(bounds.min_store_time, kept.first().map_or(-1, |first| first.3));
                let lower = node.reader.offset_by_time("A", number, clock - 30, false).unwrap();
                let since = kept.iter().find(|message| message.3 >= clock - 30);
                prop_assert_eq!(lower, since.map_or(all.len() as i64, |message| message.0));
            }
        }
    }
}
