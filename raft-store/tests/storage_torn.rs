//! D1: a log tail torn at every byte, and every subset of its last sectors. What was known to be on disk when the
//! power failed is there afterwards, whole; what was being written is there as a prefix of whole records, or not at
//! all; nothing else ever is.

mod storage_support;

use flotilla_raft_store::commit_log::{CommitLog, FILE_HEADER_BYTES, OpenError, Record};
use flotilla_raft_store::disk::simulated::{Random, SimulatedDisk};
use flotilla_raft_store::log_id::LogId;
use std::path::PathBuf;
use storage_support::*;

const FILE_BYTES: u64 = 1 << 20;
const SECTOR: usize = 512;

/// A log whose only file ends with a write that was not synced: 64 KiB of records.
struct TornLog {
    driver: Driver,
    disk: SimulatedDisk,
    path: PathBuf,
    /// The file with everything written.
    bytes: Vec<u8>,
    /// Where the records that were synced before end.
    synced_end: usize,
    /// Where each record after them ends, and its index.
    ends: Vec<(usize, u64)>,
    last_synced: u64,
}

fn torn_log(tail_bytes: usize) -> TornLog {
    let mut driver = Driver::new();
    let disk = driver.disk().with_zero_ahead(0);
    let (path, bytes, synced_end, ends, last_synced) = driver.run(async {
        let log = open(&disk, FILE_BYTES, None).await.unwrap();
        for index in 1..10 {
            append(&log, vec![record(1, index)]).await.unwrap();
        }
        let synced_end = FILE_HEADER_BYTES as usize + log.offsets().1 as usize;
        let mut tail: Vec<Record> = Vec::new();
        let mut ends = Vec::new();
        let mut end = synced_end;
        while end < synced_end + tail_bytes {
            let next = record(2, 10 + tail.len() as u64);
            end += next.stored_bytes() as usize;
            ends.push((end, next.log_id.index));
            tail.push(next);
        }
        append(&log, tail).await.unwrap();
        let path = log_file(&log, &disk, 0);
        let bytes = disk.content(&path).unwrap();
        assert_eq!(bytes.len(), end);
        (path, bytes, synced_end, ends, 9)
    });
    TornLog {
        driver,
        disk,
        path,
        bytes,
        synced_end,
        ends,
        last_synced,
    }
}

impl TornLog {
    fn open_with(&mut self, bytes: Vec<u8>) -> Result<CommitLog<SimulatedDisk>, OpenError> {
        self.disk.put(&self.path, bytes);
        self.driver.run(open(&self.disk, FILE_BYTES, None))
    }

    /// Opens the file cut to `whole` good bytes followed by something else; checks the last entry.
    fn check(&mut self, bytes: Vec<u8>, whole: usize, what: &str) {
        let last = self
            .ends
            .iter()
            .take_while(|(end, _)| *end <= whole)
            .last()
            .map_or(self.last_synced, |(_, i)| *i);
        let log = self.open_with(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(log.last().map(|id| id.index), Some(last), "{what}");
        assert_eq!(log.flushed(), log.last());
    }
}

#[test]
fn a_tail_torn_at_any_byte_leaves_the_whole_records_before_it() {
    let mut torn = torn_log(64 << 10);
    let old = random_bytes(5, torn.bytes.len() * 2);
    let (start, end) = (torn.synced_end, torn.bytes.len());
    for cut in start..end {
        for fill in 0..5 {
            let mut bytes = torn.bytes[..cut].to_vec();
            match fill {
                0 => {}
                1 => bytes.resize(end, 0),
                2 => bytes.resize(end, 0xff),
                3 => bytes.extend_from_slice(&old[cut..end]),
                // Records of an older log of the same group, at other places than they were written for.
                _ => bytes.extend_from_slice(&torn.bytes[start..start + (end - cut).min(end - start - 8)]),
            }
            // A byte that happens to be as it was is no tear.
            let whole = bytes.iter().zip(&torn.bytes).take_while(|(a, b)| a == b).count();
            torn.check(bytes, whole, &format!("cut at {cut}, fill {fill}"));
        }
    }
}

#[test]
fn any_subset_of_the_last_sectors_leaves_the_records_before_the_first_missing_one() {
    let mut torn = torn_log(8 << 10);
    let end = torn.bytes.len();
    let first = end / SECTOR - 8;
    for subset in 0..256_usize {
        for fill in 0..4 {
            let mut bytes = torn.bytes.clone();
            let mut whole = end;
            for sector in (0..8).filter(|sector| subset & (1 << sector) == 0) {
                let from = ((first + sector) * SECTOR).max(torn.synced_end);
                let to = ((first + sector + 1) * SECTOR).min(end);
                let old = random_bytes(9, end);
                for at in from..to {
                    bytes[at] = [0, 0xff, old[at], torn.bytes[torn.synced_end + (at - from)]][fill];
                    if bytes[at] != torn.bytes[at] {
                        whole = whole.min(at);
                    }
                }
            }
            torn.check(bytes, whole, &format!("subset {subset:08b}, fill {fill}"));
        }
    }
}

#[test]
fn the_torn_tail_is_gone_for_good() {
    let mut torn = torn_log(8 << 10);
    let lost_at = torn.synced_end + 3000;
    let mut bytes = torn.bytes.clone();
    bytes[lost_at..lost_at + SECTOR].fill(0);
    let whole: u64 = torn
        .ends
        .iter()
        .take_while(|(end, _)| *end <= lost_at)
        .last()
        .unwrap()
        .1;
    let log = torn.open_with(bytes).unwrap();
    assert_eq!(log.last(), Some(LogId::new(2, whole)));
    drop(log);
    // Records after the tear are still valid for their places, but the file was cut before them.
    let left = torn.disk.crash_losing_all();
    let length = left.content(&torn.path).unwrap().len();
    assert!(length <= lost_at, "cut to {length}");
    let log = torn.driver.run(open(&left, FILE_BYTES, None)).unwrap();
    assert_eq!(log.last(), Some(LogId::new(2, whole)));
}

#[test]
fn a_synced_record_that_is_unreadable_is_damage_and_nothing_is_cut() {
    let mut torn = torn_log(4 << 10);
    for at in FILE_HEADER_BYTES as usize..torn.synced_end {
        let mut bytes = torn.bytes.clone();
        bytes[at] ^= 1;
        match torn.open_with(bytes.clone()) {
            Err(OpenError::Damaged {
                log_index: Some(index), ..
            }) => assert!(index <= torn.last_synced),
            Err(other) => panic!("byte {at}: {other}"),
            Ok(_) => panic!("byte {at} was not missed"),
        }
        assert_eq!(
            torn.disk.content(&torn.path).unwrap(),
            bytes,
            "byte {at}: the file is as it was"
        );
    }
}

#[test]
fn an_entry_known_from_elsewhere_to_be_on_disk_is_not_cut() {
    let mut torn = torn_log(4 << 10);
    let (cut, index) = torn.ends[1];
    let bytes = torn.bytes[..cut - 1].to_vec();
    torn.disk.put(&torn.path, bytes.clone());
    let known = Some(LogId::new(2, index));
    assert!(matches!(
        torn.driver.run(open(&torn.disk, FILE_BYTES, known)),
        Err(OpenError::Damaged { .. })
    ));
    let known = Some(LogId::new(2, index - 1));
    torn.disk.put(&torn.path, bytes);
    let log = torn.driver.run(open(&torn.disk, FILE_BYTES, known)).unwrap();
    assert_eq!(log.last(), known);
}

fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..length).map(|_| random.draw() as u8).collect()
}
