//! The machine as the replicated log sees it: entries in, replies, events, records and digests out, over restarts.

mod apply;
mod look_ups;
mod model;
mod reopen;
mod restore;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flotilla_controller::coordinator_slots;
use flotilla_controller::topic::TopicConfig;
use flotilla_raft_store::frames::pack;
use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;

use super::*;
use crate::state::limits::STORED_MESSAGE_BYTES_MIN;
use crate::state::{
    AppendHeader, Assignment, ForwardMark, GroupShape, Join, JoinGroup, KeyHashes, OffsetUpdate, OpenQueue,
};

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

    /// The folder of a node that applied this log, was flushed and closed.
    fn closed(root: &TempDir, log: &[Vec<Bytes>]) -> PathBuf {
        let mut node = Self::open(root.path().join("n"));
        node.apply_all(log);
        node.machine.flush().unwrap();
        node.folder
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
            ("S", "k"),
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

/// A new topic of which these queues are this Raft group's: number and first offset.
fn assignment(name: &str, queues: u32, open: &[(u32, i64)]) -> Assignment {
    let open = open.iter().map(|(queue, start)| OpenQueue {
        queue: *queue,
        generation: 1,
        start: *start,
    });
    Assignment {
        config: TopicConfig::new(name, queues),
        uid: 1,
        version: 1,
        created_ms: 1,
        open: open.collect(),
    }
}

fn assign(assignment: Assignment) -> Bytes {
    Command::AssignTopic(assignment).encode()
}

/// A topic all of whose queues are here.
fn assign_topic(name: &str, queues: u32) -> Bytes {
    let open: Vec<_> = (0..queues).map(|queue| (queue, 0)).collect();
    assign(assignment(name, queues, &open))
}

fn delete_topic(name: &str, uid: u64) -> Bytes {
    let topic = name.to_owned();
    Command::DeleteTopic { topic, uid }.encode()
}

fn trim(log_index: u64) -> Bytes {
    Command::Trim { log_index }.encode()
}

fn appended(queue_offset: i64, store_time: i64) -> Reply {
    Reply::Appended {
        queue_offset,
        store_time,
    }
}

fn message(topic: &str, queue: u32, store_time: i64, key: &str) -> Bytes {
    marked_message(topic, queue, store_time, key, None)
}

/// One that came through another node.
fn forwarded_message(topic: &str, queue: u32, store_time: i64, sequence: u64, repeated: bool) -> Bytes {
    let mark = ForwardMark {
        ingress: 9,
        sequence,
        part: 0,
        repeated,
    };
    marked_message(topic, queue, store_time, "k", Some(mark))
}

fn marked_message(topic: &str, queue: u32, store_time: i64, key: &str, mark: Option<ForwardMark>) -> Bytes {
    let keys = KeyHashes::of(topic, Some(key), None);
    let header = AppendHeader {
        topic,
        queue,
        generation: 1,
        tag_hash: 42,
        store_time,
        keys,
        mark,
    };
    header.frame(&[7; STORED_MESSAGE_BYTES_MIN])
}

/// All coordinator slots are here.
fn assign_slots() -> Bytes {
    assign_topic(coordinator_slots::TOPIC, coordinator_slots::SLOTS)
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
        now_ms: 3,
    };
    Command::Join(join).encode()
}

/// As readers show the members that joined.
fn members(clients: &[&str]) -> Vec<(String, String)> {
    clients
        .iter()
        .map(|client| ((*client).to_owned(), "CG".to_owned()))
        .collect()
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
        vec![
            assign_topic("A", 2),
            assign_topic("B", 1),
            assign(assignment("S", 4, &[(2, 1_000)])),
            assign_slots(),
        ],
        vec![
            message("A", 0, 100, "k0"),
            message("A", 1, 100, "k1"),
            message("A", 0, 100, "k2"),
        ],
        vec![join("c1"), join("c2")],
        vec![Command::UpdateConsumerOffsets(offsets).encode(), lock.encode()],
    ];
    for n in 0..12 {
        log.push(vec![
            message("A", 0, 200 + n, "k"),
            message("B", 0, 200 + n, "k"),
            forwarded_message("S", 2, 200 + n, n as u64, false),
        ]);
    }
    log.push(vec![trim(4), message("A", 0, 300, "last")]);
    log.push(vec![delete_topic("B", 1)]);
    let again = Assignment {
        uid: 2,
        ..assignment("B", 3, &[(0, 0), (2, 0)])
    };
    let more = Assignment {
        version: 2,
        ..assignment("S", 5, &[(4, 7)])
    };
    log.push(vec![assign(again), message("B", 2, 400, "k"), assign(more)]);
    log
}

fn located(reader: &StateReader, topic: &str, queue: u32, from: i64, max: usize) -> Vec<(i64, u64, u16, i64)> {
    let found = reader.locate(topic, queue, from, max).unwrap();
    found
        .iter()
        .map(|l| (l.queue_offset, l.log_index, l.slot, l.store_time))
        .collect()
}
