//! D2 and D3: flipped bits and garbage anywhere in any file of a log. Whatever opens and reads without an error is
//! what was written, and what was known to be on disk is not missing.

mod storage_support;

use flotilla_raft_store::commit_log::{CommitLog, FILE_HEADER_BYTES};
use flotilla_raft_store::disk::simulated::{Random, SimulatedDisk};
use flotilla_raft_store::log_id::LogId;
use flotilla_raft_store::vote::StoredVote;
use std::path::PathBuf;
use storage_support::*;

const FILE_BYTES: u64 = 16 << 10;
const LAST: u64 = 60;
const VOTE: StoredVote = StoredVote {
    term: 4,
    node: Some(2),
    committed: true,
};

/// A closed log of several files, and the paths of all its files.
fn closed_log(driver: &mut Driver) -> (SimulatedDisk, Vec<PathBuf>) {
    let disk = driver.disk().with_zero_ahead(0);
    driver.run(async {
        let log = open(&disk, FILE_BYTES, None).await.unwrap();
        log.save_vote(StoredVote {
            term: 1,
            node: None,
            committed: false,
        })
        .await
        .unwrap();
        append(&log, records(1, 1..31)).await.unwrap();
        log.save_vote(VOTE).await.unwrap();
        append(&log, records(4, 31..LAST + 1)).await.unwrap();
        log.purge(LogId::new(1, 5)).await.unwrap();
        log.close().await;
        let mut paths: Vec<PathBuf> = ["vote", "marker"].iter().map(|name| folder().join(name)).collect();
        assert!(log.files().len() > 2);
        for at in 0..log.files().len() {
            let path = log_file(&log, &disk, at);
            if disk.content(&path.with_extension("index")).is_some() {
                paths.push(path.with_extension("index"));
            }
            paths.push(path);
        }
        assert!(
            paths
                .iter()
                .any(|path| path.extension().is_some_and(|ext| ext == "index"))
        );
        (disk, paths)
    })
}

/// True if the damage was noticed; panics if anything wrong is served or missing.
async fn noticed(disk: &SimulatedDisk, what: &str) -> bool {
    let Ok(log) = open(disk, FILE_BYTES, None).await else {
        return true;
    };
    assert_eq!(log.vote(), Some(VOTE), "{what}");
    assert_eq!(log.purged(), Some(LogId::new(1, 5)), "{what}");
    assert_eq!(log.last(), Some(LogId::new(4, LAST)), "{what}");
    let Ok(found) = read_all(&log).await else { return true };
    assert_eq!(
        found.keys().copied().collect::<Vec<_>>(),
        (1..=LAST).collect::<Vec<_>>(),
        "{what}"
    );
    for (index, found) in found {
        assert_eq!(found, record(if index < 31 { 1 } else { 4 }, index), "{what}");
    }
    false
}

#[test]
fn a_flipped_bit_is_noticed_or_harmless() {
    let mut driver = Driver::new();
    let (disk, paths) = closed_log(&mut driver);
    let mut flips = 0;
    for path in &paths {
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        let good = disk.content(path).unwrap();
        // Every bit of the parts that mean something, one bit in eight of the payloads.
        for bit in 0..8 * good.len() {
            let sampled = bit / 8 < 256 || bit % 8 == bit / 8 % 8;
            if !sampled {
                continue;
            }
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            disk.put(path, bytes);
            let changed = disk.copy();
            let what = format!("{} bit {bit}", path.display());
            flips += 1;
            let seen = driver.run(noticed(&changed, &what));
            // Every byte of a record counts, its padding too.
            assert!(seen || !is_log || bit / 8 < FILE_HEADER_BYTES as usize, "{what}");
        }
        disk.put(path, good);
    }
    assert!(!driver.run(noticed(&disk, "undamaged")), "the log is as it was");
    assert!(flips > 50_000, "{flips} bits");
}

#[test]
fn garbage_and_misplaced_sectors_are_noticed_or_harmless() {
    let mut driver = Driver::new();
    let (disk, paths) = closed_log(&mut driver);
    let mut random = Random::new(3);
    for case in 0..4000 {
        let path = &paths[random.below(paths.len() as u64) as usize];
        let good = disk.content(path).unwrap();
        let mut bytes = good.clone();
        let sectors = (bytes.len() / 512).max(1) as u64;
        match random.below(4) {
            0 => {
                let from = random.below(bytes.len() as u64) as usize;
                let to = (from + 1 + random.below(4096) as usize).min(bytes.len());
                bytes[from..to].iter_mut().for_each(|byte| *byte = random.draw() as u8);
            }
            1 => {
                let (a, b) = (
                    random.below(sectors) as usize * 512,
                    random.below(sectors) as usize * 512,
                );
                let copy = bytes[a..(a + 512).min(good.len())].to_vec();
                let end = (b + copy.len()).min(bytes.len());
                bytes[b..end].copy_from_slice(&copy[..end - b]);
            }
            2 => {
                let at = random.below(sectors) as usize * 512;
                let end = (at + 512).min(bytes.len());
                bytes[at..end].fill(0);
            }
            _ => bytes.truncate(random.below(bytes.len() as u64) as usize),
        }
        disk.put(path, bytes);
        driver.run(noticed(&disk.copy(), &format!("case {case}, {}", path.display())));
        disk.put(path, good);
    }
}

#[test]
fn missing_files_are_noticed_or_derived_again() {
    let mut driver = Driver::new();
    let (disk, paths) = closed_log(&mut driver);
    for path in &paths {
        let changed = disk.copy();
        let seen = driver.run(async {
            use flotilla_raft_store::disk::Disk;
            changed.unlink(path).await.unwrap();
            noticed(&changed, &path.display().to_string()).await
        });
        let derived = path.extension().is_some_and(|extension| extension == "index");
        assert_eq!(seen, !derived, "{}", path.display());
    }
}

#[test]
fn a_reader_never_serves_a_record_damaged_after_the_start() {
    let mut driver = Driver::new();
    let (disk, paths) = closed_log(&mut driver);
    let log: CommitLog<SimulatedDisk> = driver.run(open(&disk, FILE_BYTES, None)).unwrap();
    let path = paths
        .iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "log"))
        .unwrap();
    let mut bytes = disk.content(path).unwrap();
    bytes[FILE_HEADER_BYTES as usize + 20] ^= 1;
    disk.put(path, bytes);
    assert!(driver.run(log.read_one(1)).is_err());
    assert!(driver.run(log.read(1, 10, usize::MAX)).is_err());
}
