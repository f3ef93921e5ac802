//! The log without faults: what is appended is read back, from memory, from files, after reopening, after each of
//! the operations that change where it starts and ends.

mod storage_support;

use flotilla_raft_store::commit_log::{CommitLog, FILE_HEADER_BYTES, LinkedFile, OpenError};
use flotilla_raft_store::disk::Disk;
use flotilla_raft_store::disk::simulated::{Call, SimulatedDisk};
use flotilla_raft_store::identity::GroupIdentity;
use flotilla_raft_store::log_id::LogId;
use flotilla_raft_store::vote::StoredVote;
use std::path::Path;
use storage_support::*;

const FILE_BYTES: u64 = 16 << 10;

async fn filled(disk: &SimulatedDisk, until: u64) -> CommitLog<SimulatedDisk> {
    let log = open(disk, FILE_BYTES, None).await.unwrap();
    for index in 1..until {
        append(&log, vec![record(1 + index / 40, index)]).await.unwrap();
    }
    log
}

fn term(index: u64) -> u64 {
    1 + index / 40
}

async fn check_content(log: &CommitLog<SimulatedDisk>, first: u64, until: u64) {
    let found = read_all(log).await.unwrap();
    assert_eq!(
        found.keys().copied().collect::<Vec<_>>(),
        (first..until).collect::<Vec<_>>()
    );
    for (index, found) in found {
        assert_eq!(found, record(term(index), index));
        assert_eq!(log.read_one(index).await.unwrap().unwrap(), found);
        assert_eq!(log.log_id(index), Some(found.log_id));
    }
}

#[test]
fn appended_records_are_read_from_memory_and_files_and_after_reopening() {
    let mut driver = Driver::new();
    let disk = driver.disk();
    driver.run(async {
        let log = filled(&disk, 200).await;
        assert!(log.files().len() > 3, "several files");
        check_content(&log, 1, 200).await;
        let (offsets, starts) = (log.offsets(), log.term_starts());
        assert_eq!(
            starts,
            (1..=5)
                .map(|term| LogId::new(term, ((term - 1) * 40).max(1)))
                .collect::<Vec<_>>()
        );
        log.close().await;
        let log = open(&disk, FILE_BYTES, Some(LogId::new(term(199), 199))).await.unwrap();
        check_content(&log, 1, 200).await;
        assert_eq!((log.offsets(), log.term_starts()), (offsets, starts));
        assert_eq!(log.last(), Some(LogId::new(term(199), 199)));
        assert_eq!(log.flushed(), log.last());
        append(&log, vec![record(term(200), 200)]).await.unwrap();
        check_content(&log, 1, 201).await;
    });
}

#[test]
fn log_offsets_do_not_depend_on_the_size_of_files() {
    let mut driver = Driver::new();
    let (small, large) = (driver.disk(), driver.disk());
    driver.run(async {
        for (disk, file_bytes) in [(&small, 8 << 10), (&large, 1 << 20)] {
            let log = open(disk, file_bytes, None).await.unwrap();
            append(&log, records(1, 1..100)).await.unwrap();
            let bytes: u64 = records(1, 1..100).iter().map(|record| record.stored_bytes()).sum();
            assert_eq!(log.offsets(), (0, bytes));
        }
    });
}

#[test]
fn records_are_readable_before_they_are_flushed() {
    let mut driver = Driver::new();
    let disk = driver.disk();
    driver.run(async {
        let log = open(&disk, FILE_BYTES, None).await.unwrap();
        // The writer has not run yet when these return.
        for index in 0..30 {
            log.append(vec![record(1, index)], Box::new(|outcome| outcome.unwrap()))
                .unwrap();
        }
        assert_eq!(log.last(), Some(LogId::new(1, 29)));
        assert_eq!(log.flushed(), None);
        assert_eq!(log.read(0, 30, usize::MAX).await.unwrap(), records(1, 0..30));
        log.wait_flushed(29).await.unwrap();
        assert_eq!(log.flushed(), Some(LogId::new(1, 29)));
    });
}

#[test]
fn a_read_that_begins_in_the_files_stops_where_memory_begins() {
    let mut driver = Driver::new();
    let disk = driver.disk();
    driver.run(async {
        filled(&disk, 20).await.close().await;
        let log = open(&disk, FILE_BYTES, None).await.unwrap();
        // Not written yet: the writer has had no turn.
        log.append(records(1, 20..25), Box::new(drop)).unwrap();
        let mut next = 15;
        while next < 25 {
            let found = log.read(next, 25, 1 << 20).await.unwrap();
            assert_eq!(found, records(1, next..next + found.len() as u64));
            next += found.len() as u64;
        }
    });
}

#[test]
fn what_waits_together_shares_one_sync() {
    let mut driver = Driver::new();
    let disk = driver.disk().with_zero_ahead(0);
    driver.run(async {
        let log = open(&disk, 1 << 20, None).await.unwrap();
        append(&log, vec![record(1, 1)]).await.unwrap();
        let before = (disk.calls(Call::Sync), disk.calls(Call::Write));
        for index in 2..52 {
            log.append(vec![record(1, index)], Box::new(|outcome| outcome.unwrap()))
                .unwrap();
        }
        log.wait_flushed(51).await.unwrap();
        assert_eq!(
            (disk.calls(Call::Sync), disk.calls(Call::Write)),
            (before.0 + 1, before.1 + 1)
        );
    });
}

#[test]
fn appends_out_of_order_are_refused_and_change_nothing() {
    let mut driver = Driver::new();
    let disk = driver.disk();
    driver.run(async {
        let log = open(&disk, FILE_BYTES, None).await.unwrap();
        append(&log, records(3, 5..8)).await.unwrap();
        for bad in [record(3, 9), record(3, 7), record(2, 8)] {
            assert!(append(&log, vec![bad]).await.is_err());
        }
        assert!(append(&log, vec![record(3, 8), record(3, 10)]).await.is_err());
        assert_eq!(log.last(), Some(LogId::new(3, 7)));
        append(&log, records(3, 8..9)).await.unwrap();
        assert_eq!(read_all(&log).await.unwrap().len(), 4);
    });
}

#[test]
fn truncation_within_a_file_and_across_files() {
    for cut in [0, 1, 30, 66, 100, 150, 198] {
        let mut driver = Driver::new();
        let disk = driver.disk();
        driver.run(async {
            let log = filled(&disk, 200).await;
            let keep = (cut > 0).then(|| LogId::new(term(cut), cut));
            log.truncate_after(keep).await.unwrap();
            check_content(&log, 1, cut + 1).await;
            assert_eq!((log.last(), log.flushed()), (keep, keep));
            let new = records(9, cut + 1..cut + 50);
            append(&log, new.clone()).await.unwrap();
            let log = {
                drop(log);
                open(&disk.crash_losing_all(), FILE_BYTES, None).await.unwrap()
            };
            let found = read_all(&log).await.unwrap();
            assert_eq!(found.len() as u64, cut + 49);
            for index in 1..=cut {
                assert_eq!(found[&index], record(term(index), index));
            }
            for record in new {
                assert_eq!(found[&record.log_id.index], record);
            }
        });
    }
}

#[test]
fn a_truncation_right_behind_an_append_counts() {
    let mut driver = Driver::new();
    let disk = driver.disk();
    driver.run(async {
        let log = open(&disk, FILE_BYTES, None).await.unwrap();
        for index in 1..60 {
            log.append(vec![record(1, index)], Box::new(|outcome| outcome.unwrap()))
                .unwrap();
        }
        log.truncate_after(Some(LogId::new(1, 10))).await.unwrap();
        assert_eq!(log.flushed(), Some(LogId::new(1, 10)));
        append(&log, records(2, 11..20)).await.unwrap();
        let log = open(&disk.crash_losing_all(), FILE_BYTES, None).await.unwrap();
        assert_eq!(log.last(), Some(LogId::new(2, 19)));
        assert_eq!(log.term_starts(), [LogId::new(1, 1), LogId::new(2, 11)]);
    });
}

#[test]
fn purge_moves_a_marker_only() {
    let mut driver = Driver::new();
    let disk = driver.disk();
    driver.run(async {
        let log = filled(&disk, 200).await;
        let upto = LogId::new(term(120), 120);
        log.purge(upto).await.unwrap();
        assert!(log.truncate_after(Some(LogId::new(term(119), 119))).await.is_err());
        let log = open(&disk.crash_losing_all(), FILE_BYTES, None).await.unwrap();
        assert_eq!(log.purged(), Some(upto));
        check_content(&log, 1, 200).await;
    });
}

#[test]
fn purge_beyond_the_end_moves_the_end() {
    let mut driver = Driver::new();
    let disk = driver.disk();
    driver.run(async {
        let log = filled(&disk, 50).await;
        let purged = LogId::new(7, 80);
        log.purge(purged).await.unwrap();
        assert_eq!((log.last(), log.flushed()), (Some(purged), Some(purged)));
        let disk = disk.crash_losing_all();
        let log = open(&disk, FILE_BYTES, None).await.unwrap();
        assert_eq!((log.last(), log.purged()), (Some(purged), Some(purged)));
        append(&log, records(7, 81..90)).await.unwrap();
        let log = open(&disk.crash_losing_all(), FILE_BYTES, None).await.unwrap();
        assert_eq!(log.last(), Some(LogId::new(7, 89)));
        assert_eq!(log.read_one(60).await.unwrap(), None);
        assert_eq!(log.read(81, 90, usize::MAX).await.unwrap(), records(7, 81..90));
        assert_eq!(log.read_one(49).await.unwrap(), Some(record(term(49), 49)));
    });
}

#[test]
fn only_whole_files_below_the_raft_start_are_removed() {
    let mut driver = Driver::new();
    let disk = driver.disk();
    driver.run(async {
        let log = filled(&disk, 200).await;
        assert_eq!(log.remove_before(150).await.unwrap(), 0, "nothing is purged");
        log.purge(LogId::new(term(120), 120)).await.unwrap();
        let before = log.files();
        let bytes = log.remove_before(u64::MAX).await.unwrap();
        let first = log.first_index().unwrap();
        let after = log.files();
        assert!(first <= 121 && first > 1 && bytes > 0);
        assert_eq!(after, before[before.len() - after.len()..]);
        assert!(after[0].last_index >= 121);
        let starts = log.term_starts();
        assert_eq!(starts[0], LogId::new(term(first), first));
        check_content(&log, first, 200).await;
        let log = open(&disk.crash_losing_all(), FILE_BYTES, None).await.unwrap();
        assert_eq!(log.term_starts(), starts);
        check_content(&log, first, 200).await;
    });
}

#[test]
fn votes_survive() {
    let mut driver = Driver::new();
    let disk = driver.disk();
    driver.run(async {
        let log = open(&disk, FILE_BYTES, None).await.unwrap();
        assert_eq!(log.vote(), None);
        let vote = StoredVote {
            term: 4,
            node: Some(2),
            committed: false,
        };
        log.save_vote(vote).await.unwrap();
        assert_eq!(log.vote(), Some(vote));
        let log = open(&disk.crash_losing_all(), FILE_BYTES, None).await.unwrap();
        assert_eq!(log.vote(), Some(vote));
    });
}

#[test]
fn another_group_is_refused() {
    let mut driver = Driver::new();
    let disk = driver.disk();
    driver.run(async {
        filled(&disk, 20).await.close().await;
        let other = GroupIdentity {
            creation: 12,
            ..IDENTITY
        };
        let opened = CommitLog::open(disk.clone(), &folder(), other, options(FILE_BYTES), None).await;
        assert!(matches!(opened, Err(OpenError::Foreign { found, .. }) if found == IDENTITY));
    });
}

/// A log of 199 entries, and the files of its snapshot up to one of them as a receiver has them: cut to the length of
/// the snapshot.
async fn staged(
    source: &SimulatedDisk,
    target: &SimulatedDisk,
    index: u64,
) -> (CommitLog<SimulatedDisk>, LogId, Vec<LinkedFile>) {
    let from = filled(source, 200).await;
    let upto = LogId::new(term(index), index);
    source.create_folder(Path::new("/snapshot")).await.unwrap();
    let files = from.link_files(Path::new("/snapshot"), upto).await.unwrap();
    for file in &files {
        let mut bytes = source.content(&Path::new("/snapshot").join(&file.name)).unwrap();
        bytes.truncate(file.bytes as usize);
        assert_eq!(bytes.len() as u64, file.bytes);
        target.put(&Path::new("/staged").join(&file.name), bytes);
    }
    (from, upto, files)
}

#[test]
fn a_snapshots_files_become_the_log() {
    let mut driver = Driver::new();
    let (source, target) = (driver.disk(), driver.disk());
    driver.run(async {
        let (from, upto, files) = staged(&source, &target, 150).await;
        assert!(files.len() > 2 && files.iter().all(|file| file.bytes > FILE_HEADER_BYTES));
        let log = open(&target, FILE_BYTES, None).await.unwrap();
        append(&log, records(1, 1..20)).await.unwrap();
        log.install(Path::new("/staged"), &files, upto).await.unwrap();
        assert_eq!(
            (log.last(), log.purged(), log.flushed()),
            (Some(upto), Some(upto), Some(upto))
        );
        check_content(&log, 1, 151).await;
        assert_eq!(log.offsets().0, 0);
        for index in 151..200 {
            append(&log, vec![record(term(index), index)]).await.unwrap();
        }
        assert_eq!(log.offsets(), from.offsets());
        let log = open(&target.crash_losing_all(), FILE_BYTES, None).await.unwrap();
        check_content(&log, 1, 200).await;
        assert_eq!(log.purged(), Some(upto));
        // Again: nothing changes.
        log.install(Path::new("/staged"), &files, upto).await.unwrap();
        check_content(&log, 1, 200).await;
    });
}

#[test]
fn a_log_that_holds_the_snapshots_end_keeps_its_later_entries() {
    let mut driver = Driver::new();
    let (source, target) = (driver.disk(), driver.disk());
    driver.run(async {
        let (_from, upto, files) = staged(&source, &target, 100).await;
        let log = filled(&target, 160).await;
        log.install(Path::new("/staged"), &files, upto).await.unwrap();
        assert_eq!(log.purged(), Some(upto));
        check_content(&log, 1, 160).await;
    });
}

#[test]
fn damaged_or_foreign_staged_files_are_refused_and_the_log_goes_on() {
    let mut driver = Driver::new();
    let (source, target) = (driver.disk(), driver.disk());
    driver.run(async {
        let (_from, upto, files) = staged(&source, &target, 150).await;
        let log = filled(&target, 20).await;
        let path = Path::new("/staged").join(&files[1].name);
        let mut bytes = target.content(&path).unwrap();
        let good = bytes.clone();
        bytes[FILE_HEADER_BYTES as usize + 700] ^= 4;
        target.put(&path, bytes);
        assert!(log.install(Path::new("/staged"), &files, upto).await.is_err());
        target.put(&path, good);
        let outside = vec![LinkedFile {
            name: "../vote".into(),
            bytes: 5000,
        }];
        assert!(log.install(Path::new("/staged"), &outside, upto).await.is_err());
        let missing_one = vec![files[0].clone(), files[2].clone()];
        assert!(log.install(Path::new("/staged"), &missing_one, upto).await.is_err());
        check_content(&log, 1, 20).await;
        append(&log, records(1, 20..21)).await.unwrap();
        log.install(Path::new("/staged"), &files, upto).await.unwrap();
        check_content(&log, 1, 151).await;
    });
}

#[test]
fn a_closed_log_takes_nothing_and_still_reads() {
    let mut driver = Driver::new();
    let disk = driver.disk();
    driver.run(async {
        let log = filled(&disk, 30).await;
        log.close().await;
        assert!(append(&log, records(1, 30..31)).await.is_err());
        assert!(
            log.save_vote(StoredVote {
                term: 1,
                node: None,
                committed: false
            })
            .await
            .is_err()
        );
        check_content(&log, 1, 30).await;
    });
}

#[test]
fn the_log_is_filled_with_zeros_ahead() {
    let mut driver = Driver::new();
    let disk = driver.disk();
    let log = driver.run(filled(&disk, 5));
    driver.settle();
    let length = disk.content(&log_file(&log, &disk, 0)).unwrap().len();
    assert_eq!(length as u64, FILE_BYTES, "filled up to its size");
    let before = disk.calls(Call::Create);
    driver.run(async {
        for index in 5..100 {
            append(&log, vec![record(term(index), index)]).await.unwrap();
        }
        check_content(&log, 1, 100).await;
    });
    driver.settle();
    assert!(disk.calls(Call::Create) > before, "the next file is prepared");
}

#[test]
fn without_waiting_for_syncs_records_are_synced_soon() {
    let mut driver = Driver::new();
    let disk = driver.disk();
    driver.run(async {
        let unsynced = flotilla_raft_store::commit_log::LogOptions {
            sync: false,
            ..options(FILE_BYTES)
        };
        let log = CommitLog::open(disk.clone(), &folder(), IDENTITY, unsynced, None)
            .await
            .unwrap();
        append(&log, records(1, 1..30)).await.unwrap();
        assert_eq!(log.flushed(), Some(LogId::new(1, 29)));
        let before = disk.calls(Call::Sync);
        while disk.calls(Call::Sync) < before + 4 {
            append(&log, vec![record(1, log.last().unwrap().index + 1)])
                .await
                .unwrap();
        }
        log.close().await;
        let last = log.last();
        let log = open(&disk.crash_losing_all(), FILE_BYTES, None).await.unwrap();
        assert_eq!(log.last(), last);
    });
}
