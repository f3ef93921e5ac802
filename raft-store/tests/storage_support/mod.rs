//! What the storage tests share: a deterministic executor, a log on a simulated disk, records to fill it.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use flotilla_raft_store::commit_log::{CommitLog, LogOptions, OpenError, Record, RecordKind};
use flotilla_raft_store::disk::simulated::{Random, SimulatedDisk};
use flotilla_raft_store::identity::GroupIdentity;
use flotilla_raft_store::log_id::LogId;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

pub const IDENTITY: GroupIdentity = GroupIdentity {
    cluster: [7; 16],
    group: 3,
    creation: 11,
};

pub fn folder() -> PathBuf {
    PathBuf::from("/log")
}

type Spawned = Arc<Mutex<Vec<BoxFuture<'static, ()>>>>;

/// Runs futures on this thread, in a fixed order. A future that can never be woken is a failure of the test.
pub struct Driver {
    spawned: Spawned,
    tasks: Vec<BoxFuture<'static, ()>>,
    woken: Arc<Woken>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Driver {
    pub fn new() -> Self {
        Self {
            spawned: Spawned::default(),
            tasks: Vec::new(),
            woken: Arc::new(Woken(AtomicBool::new(false))),
        }
    }

    /// A disk whose writers are tasks of this driver.
    pub fn disk(&self) -> SimulatedDisk {
        let spawned = self.spawned.clone();
        SimulatedDisk::with_hooks(
            Arc::new(move |task| spawned.lock().push(task)),
            Arc::new(|_| Box::pin(wait_a_round())),
            Arc::new(|_, _| std::time::Duration::ZERO),
        )
    }

    pub fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let waker = Waker::from(self.woken.clone());
        let mut context = Context::from_waker(&waker);
        loop {
            self.woken.0.store(false, Ordering::SeqCst);
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
            self.poll_tasks(&mut context);
            assert!(self.woken.0.load(Ordering::SeqCst), "nothing can go on: a lost wake-up");
        }
    }

    /// Runs all tasks until each waits for something.
    pub fn settle(&mut self) {
        let waker = Waker::from(self.woken.clone());
        let mut context = Context::from_waker(&waker);
        loop {
            self.woken.0.store(false, Ordering::SeqCst);
            self.poll_tasks(&mut context);
            if !self.woken.0.load(Ordering::SeqCst) && self.spawned.lock().is_empty() {
                return;
            }
        }
    }

    fn poll_tasks(&mut self, context: &mut Context<'_>) {
        let spawned: Vec<_> = std::mem::take(&mut *self.spawned.lock());
        if !spawned.is_empty() {
            self.woken.0.store(true, Ordering::SeqCst);
        }
        self.tasks.extend(spawned);
        self.tasks.retain_mut(|task| Pin::new(task).poll(context).is_pending());
    }
}

/// Goes on in the executor's next round.
async fn wait_a_round() {
    let mut waited = false;
    std::future::poll_fn(|context| {
        context.waker().wake_by_ref();
        if std::mem::replace(&mut waited, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

pub fn options(file_bytes: u64) -> LogOptions {
    LogOptions {
        file_bytes,
        tail_bytes: 4096,
        sync: true,
    }
}

pub async fn open(
    disk: &SimulatedDisk,
    file_bytes: u64,
    known: Option<LogId>,
) -> Result<CommitLog<SimulatedDisk>, OpenError> {
    CommitLog::open(disk.clone(), &folder(), IDENTITY, options(file_bytes), known).await
}

/// A record whose payload follows from its log id, of a length that does too.
pub fn record(term: u64, index: u64) -> Record {
    let mut random = Random::new(term << 32 | index);
    let length = match random.below(10) {
        0 => 0,
        1..=7 => random.below(400),
        _ => random.below(2000),
    };
    let kind = match random.below(12) {
        0 => RecordKind::Blank,
        1 => RecordKind::Membership,
        _ => RecordKind::Normal,
    };
    let payload: Vec<u8> = (0..length).map(|_| random.draw() as u8).collect();
    Record::new(LogId::new(term, index), kind, Bytes::from(payload))
}

pub fn records(term: u64, indexes: std::ops::Range<u64>) -> Vec<Record> {
    indexes.map(|index| record(term, index)).collect()
}

/// Appends and waits for the completion.
pub async fn append(log: &CommitLog<SimulatedDisk>, records: Vec<Record>) -> std::io::Result<()> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    log.append(records, Box::new(move |outcome| drop(sender.send(outcome))))?;
    receiver.await.expect("every append is completed")
}

/// Every record in the files, from the first to the last.
pub async fn read_all(log: &CommitLog<SimulatedDisk>) -> std::io::Result<BTreeMap<u64, Record>> {
    let mut found = BTreeMap::new();
    for file in log.files() {
        let mut next = file.first_index;
        while next <= file.last_index {
            let records = log.read(next, file.last_index + 1, 3000).await?;
            assert!(!records.is_empty(), "record {next} is in a file but was not read");
            for record in records {
                assert_eq!(record.log_id.index, next, "records are read in order");
                next += 1;
                found.insert(record.log_id.index, record);
            }
        }
    }
    Ok(found)
}

/// The path of the log file at this place of the list.
pub fn log_file(log: &CommitLog<SimulatedDisk>, disk: &SimulatedDisk, at: usize) -> PathBuf {
    find_file(disk, &log.files()[at].name)
}

/// The path of a file in the current folder of log files.
pub fn find_file(disk: &SimulatedDisk, name: &str) -> PathBuf {
    let folders = disk
        .names(&folder())
        .into_iter()
        .filter(|folder| folder.starts_with("files-"));
    let mut paths = folders
        .map(|files| folder().join(files))
        .filter(|path| disk.names(path).iter().any(|n| n == name));
    paths.next().expect("the file is there").join(name)
}

pub fn seeded(name: &str, seed: u64) -> String {
    format!("{name}, seed {seed}")
}

pub fn copy_into(disk: &SimulatedDisk, from: &Path, to: &Path) {
    let bytes = disk.content(from).expect("the file is there");
    disk.put(to, bytes);
}
