//! Keys are found once each, fresh or in runs, over restarts, trims and crashes at the worst moment.

use tempfile::TempDir;

use super::*;
use crate::kv::KvSettings;
use crate::state::records::KEY_RUN;

const QUEUE: QueueId = QueueId::new(1, 2);

const ALWAYS: StoreTimes = StoreTimes {
    oldest: i64::MIN,
    newest: i64::MAX,
};

/// An entry of the tests is stored in the millisecond of its log index.
fn at(log_index: u64) -> StoreTimes {
    let time = log_index as i64;
    StoreTimes {
        oldest: time,
        newest: time,
    }
}

struct Store {
    folder: TempDir,
    kv: Option<Kv>,
    index: KeyIndex,
}

impl Store {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kv = Kv::open(folder.path(), &KvSettings::default()).unwrap();
        let index = KeyIndex::load(&kv).unwrap();
        Self {
            folder,
            kv: Some(kv),
            index,
        }
    }

    fn kv(&self) -> &Kv {
        self.kv.as_ref().unwrap()
    }

    /// One entry whose messages carry these (hash, slot, queue offset).
    fn apply(&self, log_index: u64, keys: &[(u64, u16, i64)]) {
        let keys = keys.iter().map(|(hash, slot, queue_offset)| IndexedKey {
            hash: *hash,
            slot: *slot,
            queue: QUEUE,
            queue_offset: *queue_offset,
        });
        let mut out = WriteBatch::default();
        let entry = KeyIndex::put(&mut out, log_index, at(log_index), keys.collect()).unwrap();
        self.kv().write(out).unwrap();
        self.index.applied(entry);
    }

    fn trim(&self, log_index: u64) {
        let mut out = WriteBatch::default();
        self.index.trim(&mut out, log_index);
        self.kv().write(out).unwrap();
    }

    /// Queue offsets in the order they are found.
    fn find(&self, hash: u64) -> Vec<i64> {
        self.find_within(hash, ALWAYS)
    }

    fn find_within(&self, hash: u64, times: StoreTimes) -> Vec<i64> {
        let mut offsets = Vec::new();
        self.index
            .find(self.kv(), hash, times, |hit| {
                assert_eq!(hit.queue, QUEUE);
                offsets.push(hit.queue_offset);
                Ok(true)
            })
            .unwrap();
        offsets
    }

    fn reopen(&mut self) {
        self.kv().flush().unwrap();
        self.kv = None;
        let kv = Kv::open(self.folder.path(), &KvSettings::default()).unwrap();
        self.index = KeyIndex::load(&kv).unwrap();
        self.kv = Some(kv);
    }
}

#[test]
fn keys_are_found_newest_first_wherever_they_lie() {
    let mut store = Store::new();
    store.apply(5, &[(7, 0, 10), (8, 1, 12), (7, 2047, 11)]);
    store.apply(6, &[(7, 0, 13)]);
    for step in 0..4 {
        match step {
            1 => store.index.make_run(store.kv()).unwrap(),
            2 => store.apply(900, &[(7, 3, 14), (u64::MAX, 0, i64::MAX)]),
            3 => store.index.make_run(store.kv()).unwrap(),
            _ => {}
        }
        for _ in 0..2 {
            let newer: &[i64] = if step >= 2 { &[14] } else { &[] };
            assert_eq!(store.find(7), [newer, &[13, 11, 10]].concat(), "step {step}");
            assert_eq!(store.find(8), [12]);
            assert_eq!(store.find(9), [0; 0]);
            assert_eq!(store.find(u64::MAX).len(), newer.len());
            store.reopen();
        }
    }
    assert_eq!(store.index.fresh_keys(), 0);
    store.index.make_run(store.kv()).unwrap();
    assert_eq!(store.find(7), [14, 13, 11, 10], "a run of nothing");
}

#[test]
fn a_search_ends_when_it_was_told_enough() {
    let store = Store::new();
    store.apply(1, &[(7, 0, 1)]);
    store.apply(2, &[(7, 0, 2)]);
    store.index.make_run(store.kv()).unwrap();
    store.apply(3, &[(7, 0, 3)]);
    for enough in 1..=3 {
        let mut seen = 0;
        store
            .index
            .find(store.kv(), 7, ALWAYS, |_| {
                seen += 1;
                Ok(seen < enough)
            })
            .unwrap();
        assert_eq!(seen, enough);
    }
}

#[test]
fn a_trim_takes_fresh_entries_and_whole_runs() {
    let mut store = Store::new();
    for log_index in 1..=4 {
        store.apply(log_index, &[(7, 0, log_index as i64)]);
        if log_index % 2 == 0 {
            store.index.make_run(store.kv()).unwrap();
        }
    }
    store.apply(5, &[(7, 0, 5)]);
    store.apply(6, &[(7, 0, 6)]);
    store.trim(1);
    assert_eq!(store.find(7), [6, 5, 4, 3, 2, 1], "the first run holds a kept entry");
    store.trim(2);
    assert_eq!(store.find(7), [6, 5, 4, 3]);
    store.trim(5);
    for _ in 0..2 {
        assert_eq!(store.find(7), [6]);
        store.reopen();
    }
    let mut cursor = store.kv().cursor(vec![KEY_RUN], vec![0xff]);
    assert!(!cursor.seek_to_first().unwrap(), "no run is left");
}

#[test]
fn a_table_without_its_record_is_replaced_by_the_next_run() {
    let store = Store::new();
    store.apply(1, &[(7, 0, 1), (8, 1, 2)]);
    store.apply(2, &[(7, 0, 3), (9, 1, 4)]);
    // As a crash leaves it: the table is in the store, its entries are still fresh.
    let entries = store.index.inner.lock().fresh.oldest(RUN_SPAN_MAX);
    run::write(store.kv(), 1, &entries).unwrap();
    assert_eq!(store.find(7), [3, 1]);
    // The state came back older, and the next run ends earlier.
    let index = KeyIndex::default();
    index.applied(FreshEntry {
        log_index: 1,
        times: at(1),
        keys: entries[0].keys.clone(),
    });
    index.make_run(store.kv()).unwrap();
    let store = Store { index, ..store };
    assert_eq!(store.find(7), [1]);
    assert_eq!(store.find(9), [0; 0]);
    store.apply(2, &[(7, 0, 3), (9, 1, 4)]);
    assert_eq!(store.find(7), [3, 1]);
    store.index.make_run(store.kv()).unwrap();
    assert_eq!(
        (store.find(7), store.find(8), store.find(9)),
        (vec![3, 1], vec![2], vec![4])
    );
}

#[test]
fn entries_may_come_and_go_while_a_run_is_made() {
    let store = Store::new();
    for log_index in 1..=200 {
        store.apply(log_index, &[(7, 0, log_index as i64)]);
    }
    std::thread::scope(|scope| {
        let runs = scope.spawn(|| {
            for _ in 0..20 {
                store.index.make_run(store.kv()).unwrap();
            }
        });
        for log_index in 201..=400 {
            store.apply(log_index, &[(7, 0, log_index as i64)]);
            let found = store.find(7);
            let expected: Vec<i64> = (1..=log_index as i64).rev().collect();
            assert_eq!(found, expected);
        }
        runs.join().unwrap();
    });
}

#[test]
fn only_runs_of_the_asked_time_are_searched() {
    let mut store = Store::new();
    for log_index in 1..=6 {
        store.apply(log_index, &[(7, 0, log_index as i64)]);
        if log_index % 2 == 0 {
            store.index.make_run(store.kv()).unwrap();
        }
    }
    for _ in 0..2 {
        let find = |oldest, newest| store.find_within(7, StoreTimes { oldest, newest });
        assert_eq!(find(0, 9), [6, 5, 4, 3, 2, 1]);
        assert_eq!(find(3, 4), [4, 3]);
        assert_eq!(find(4, 5), [6, 5, 4, 3]);
        assert_eq!(find(7, 9), [0; 0]);
        store.reopen();
    }
}

#[test]
fn a_left_over_name_of_a_table_in_use_harms_nothing() {
    let mut store = Store::new();
    store.apply(1, &[(7, 0, 1)]);
    store.index.make_run(store.kv()).unwrap();
    // As a power cut leaves it after the store took the table over.
    let folder = store.folder.path().to_owned();
    let is_table = |path: &std::path::Path| path.extension().is_some_and(|kind| kind == "sst");
    let tables = || std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let table = tables().find(|path| is_table(path)).expect("the run");
    std::fs::hard_link(&table, folder.join("unfinished-table.tmp")).unwrap();
    store.apply(2, &[(7, 0, 2)]);
    store.index.make_run(store.kv()).unwrap();
    for _ in 0..2 {
        assert_eq!(store.find(7), [2, 1]);
        store.reopen();
    }
}
