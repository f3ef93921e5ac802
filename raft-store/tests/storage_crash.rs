//! D4 and the property test: a random or fixed sequence of operations on a log, a power loss during a chosen
//! call, and what the next start finds, compared with a plain model.
//!
//! The model knows what had returned and what was under way. Afterwards the log must be the state before the
//! operation under way or after it; of appends that were not complete any prefix may be there.

mod storage_support;

use std::collections::BTreeMap;
use std::path::Path;

use flotilla_raft_store::commit_log::{CommitLog, LinkedFile, Record};
use flotilla_raft_store::disk::Disk;
use flotilla_raft_store::disk::simulated::{Random, SimulatedDisk};
use flotilla_raft_store::log_id::LogId;
use flotilla_raft_store::vote::StoredVote;
use storage_support::*;

const FILE_BYTES: u64 = 8 << 10;

#[derive(Clone, Debug)]
enum Step {
    /// Append this many records in this many calls, then wait.
    Append(u64, u64),
    /// Append without waiting.
    AppendBehind(u64),
    /// A higher term, voted for.
    Vote,
    /// Take away up to this many entries.
    Truncate(u64),
    /// Purge up to this many entries before the last flushed one.
    Purge(u64),
    /// Purge this far beyond the end.
    PurgeBeyond(u64),
    RemoveBefore,
    Link,
    /// Install a snapshot that ends this far beyond the last entry.
    Install(u64),
    Reopen,
}

/// What the log must contain.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    records: BTreeMap<u64, Record>,
    last: Option<LogId>,
    purged: Option<LogId>,
    vote: Option<StoredVote>,
    term: u64,
    /// Everything up to here was reported to be on disk.
    complete: Option<u64>,
}

/// The state before and after the step under way when the power failed.
struct Run {
    log: Option<CommitLog<SimulatedDisk>>,
    disk: SimulatedDisk,
    before: Model,
    after: Model,
    /// Files of records that were removed may still be there: the physical start is at most this.
    crashed: bool,
}

impl Run {
    async fn open(disk: &SimulatedDisk, model: Model) -> Self {
        let log = open(disk, FILE_BYTES, None).await.ok();
        let crashed = log.is_none();
        assert!(!crashed || disk.is_dead(), "the log must open unless the power fails");
        Self {
            log,
            disk: disk.clone(),
            before: model.clone(),
            after: model,
            crashed,
        }
    }

    async fn step(&mut self, step: &Step, what: &str) {
        let Some(log) = self.log.clone() else { return };
        self.before = self.after.clone();
        let outcome = self.act(&log, step).await;
        match outcome {
            Ok(()) => self.before = self.after.clone(),
            Err(error) => {
                assert!(self.disk.is_dead(), "{what}: {step:?} failed without a fault: {error}");
                self.crashed = true;
            }
        }
    }

    async fn act(&mut self, log: &CommitLog<SimulatedDisk>, step: &Step) -> std::io::Result<()> {
        let model = &mut self.after;
        let next = model.last.map_or(1, |last| last.index + 1);
        match *step {
            Step::Append(calls, each) => {
                for call in 0..calls {
                    let from = next + call * each;
                    let new = records(model.term, from..from + each);
                    model.add(&new);
                    if call + 1 < calls {
                        log.append(new, Box::new(|_| ()))?;
                    } else {
                        append(log, new).await?;
                    }
                }
                model.complete = model.last.map(|last| last.index);
            }
            Step::AppendBehind(count) => {
                let new = records(model.term, next..next + count);
                model.add(&new);
                // Also the state before may have any part of it.
                log.append(new, Box::new(|_| ()))?;
            }
            Step::Vote => {
                model.term += 1;
                let vote = StoredVote {
                    term: model.term,
                    node: Some(model.term % 3),
                    committed: false,
                };
                model.vote = Some(vote);
                log.save_vote(vote).await?;
                model.complete = model.last.map(|last| last.index);
            }
            Step::Truncate(count) => {
                let first = model.purged.map_or(1, |purged| purged.index + 1);
                let keep = next.saturating_sub(count + 1).max(first - 1);
                let last = model.records.get(&keep).map(|record| record.log_id).or(model.purged);
                model.records.retain(|index, _| *index <= keep);
                model.last = last;
                model.complete = model.complete.min(last.map(|last| last.index));
                let cuts = log.last().map(|last| last.index + 1) > Some(keep + 1);
                log.truncate_after(last).await?;
                if cuts {
                    model.complete = last.map(|last| last.index);
                }
            }
            Step::Purge(count) => {
                let Some(index) = model.complete.map(|complete| complete.saturating_sub(count)) else {
                    return Ok(());
                };
                let Some(record) = model.records.get(&index) else {
                    return Ok(());
                };
                if model.purged.is_none_or(|purged| purged.index < index) {
                    model.purged = Some(record.log_id);
                }
                log.purge(record.log_id).await?;
            }
            Step::PurgeBeyond(count) => {
                let purged = LogId::new(model.term, next + count);
                model.purged = Some(purged);
                model.last = Some(purged);
                log.purge(purged).await?;
                model.complete = Some(purged.index);
            }
            Step::RemoveBefore => {
                log.remove_before(u64::MAX).await?;
                if let Some(first) = log.first_index() {
                    model.records.retain(|index, _| *index >= first);
                }
            }
            Step::Link => {
                let Some(last) = log.flushed().filter(|last| model.records.contains_key(&last.index)) else {
                    return Ok(());
                };
                let into = Path::new("/snapshot");
                for name in self.disk.names(into) {
                    self.disk.unlink(&into.join(name)).await?;
                }
                log.link_files(into, last).await?;
            }
            Step::Install(beyond) => {
                let upto = next + beyond;
                let (files, all) = staged(&self.disk, model.term, upto).await;
                let last = LogId::new(model.term, upto);
                model.records = all;
                model.last = Some(last);
                model.purged = Some(last);
                log.install(Path::new("/staged"), &files, last).await?;
                model.complete = Some(upto);
            }
            Step::Reopen => {
                log.close().await;
                model.complete = model.last.map(|last| last.index);
                self.log = None;
                self.log = Some(
                    open(&self.disk, FILE_BYTES, model.complete_id())
                        .await
                        .map_err(|error| error.into_io())?,
                );
            }
        }
        Ok(())
    }
}

impl Model {
    fn add(&mut self, new: &[Record]) {
        for record in new {
            self.last = Some(record.log_id);
            self.records.insert(record.log_id.index, record.clone());
        }
    }

    fn complete_id(&self) -> Option<LogId> {
        self.complete
            .and_then(|index| self.records.get(&index))
            .map(|record| record.log_id)
    }

    /// The same without entries after `last`.
    fn cut_to(&self, last: Option<LogId>) -> Self {
        let mut cut = self.clone();
        let next = last.map_or(0, |last| last.index + 1);
        cut.records.retain(|index, _| *index < next);
        cut.last = last;
        cut
    }

    /// Does the log found hold this, except that entries after `complete` may be missing from some point on?
    fn agrees(&self, found: &Model) -> bool {
        let first = found.records.keys().next().copied();
        let expected = self.cut_to(found.last);
        // Files removed from the front may come back with a crash, as long as Raft does not read them.
        let same = expected.records.iter().filter(|(index, _)| Some(**index) >= first);
        let tail: Vec<_> = same.map(|(index, record)| (*index, record)).collect();
        let raft_start = self.purged.map_or(0, |purged| purged.index + 1);
        let read: Vec<_> = found
            .records
            .iter()
            .filter(|(index, _)| **index >= raft_start)
            .collect();
        let expected_read: Vec<_> = expected
            .records
            .iter()
            .filter(|(index, _)| **index >= raft_start)
            .collect();
        let known = tail
            .iter()
            .all(|(index, record)| found.records.get(index) == Some(record));
        self.vote == found.vote
            && self.purged == found.purged
            && read == expected_read
            && known
            && found.last.map(|last| last.index) >= self.complete
            && found.last.map(|last| last.index) <= self.last.map(|last| last.index)
    }
}

/// A snapshot's files, made by another log on another disk, put on this one.
async fn staged(disk: &SimulatedDisk, term: u64, upto: u64) -> (Vec<LinkedFile>, BTreeMap<u64, Record>) {
    let mut driver = Driver::new();
    let source = driver.disk();
    driver.run(async {
        let log = open(&source, FILE_BYTES, None).await.unwrap();
        let from = upto.saturating_sub(40).max(1);
        append(&log, records(term, from..upto + 1)).await.unwrap();
        let files = log.link_files(Path::new("/out"), LogId::new(term, upto)).await.unwrap();
        for file in &files {
            let bytes = source.content(&Path::new("/out").join(&file.name)).unwrap();
            disk.put(
                &Path::new("/staged").join(&file.name),
                bytes[..file.bytes as usize].to_vec(),
            );
        }
        (files, read_all(&log).await.unwrap())
    })
}

async fn found(log: &CommitLog<SimulatedDisk>) -> Model {
    let records = read_all(log).await.expect("what is there is readable");
    if let Some((first, last)) = records.keys().next().zip(log.last()) {
        let mut previous: Option<LogId> = None;
        for (index, record) in &records {
            assert_eq!(log.log_id(*index), Some(record.log_id));
            assert!(previous.is_none_or(|previous| previous.term <= record.log_id.term));
            previous = Some(record.log_id);
        }
        assert!(*first <= last.index + 1);
    }
    assert_eq!(log.flushed(), log.last(), "after opening, all is on disk");
    Model {
        records,
        last: log.last(),
        purged: log.purged(),
        vote: log.vote(),
        ..Model::default()
    }
}

fn check(found: &Model, run: &Run, what: &str) {
    let term = found.vote.map_or(1, |vote| vote.term);
    assert!(
        found.last.is_none_or(|last| last.term <= term),
        "{what}: the vote is older than an entry"
    );
    let agrees = run.before.agrees(found) || run.after.agrees(found) || run.before.agrees_with_more(found, &run.after);
    assert!(
        agrees,
        "{what}\nfound {}\nbefore {}\nafter {}",
        summary(found),
        summary(&run.before),
        summary(&run.after)
    );
}

impl Model {
    /// Truncation of several files leaves, when interrupted, any length between the two.
    fn agrees_with_more(&self, found: &Model, after: &Model) -> bool {
        let between = self.cut_to(found.last);
        after.last.map(|last| last.index) <= found.last.map(|last| last.index)
            && Model {
                complete: None,
                ..between
            }
            .agrees(found)
            && after.complete.map_or(0, |complete| complete) <= found.last.map_or(0, |last| last.index)
            && self.vote == after.vote
            && self.purged == after.purged
    }
}

fn summary(model: &Model) -> String {
    format!(
        "{:?}..={:?}, {} records, last {:?}, purged {:?}, complete {:?}, vote {:?}",
        model.records.keys().next(),
        model.records.keys().last(),
        model.records.len(),
        model.last,
        model.purged,
        model.complete,
        model.vote
    )
}

/// Runs the steps, with the power failing during the given calls; returns what happened.
struct Outcome {
    mutations: u64,
    crashed: bool,
}

/// First and second crash, counted in mutating calls; the second counts from the restart.
fn play(steps: &[Step], crashes: &[u64], seed: u64, what: &str) -> Outcome {
    let mut driver = Driver::new();
    let mut disk = driver.disk();
    let mut outcome = Outcome {
        mutations: 0,
        crashed: false,
    };
    let mut model = Model {
        term: 1,
        ..Model::default()
    };
    let mut at = 0;
    let mut crashes = crashes.iter();
    loop {
        let crash = crashes.next();
        if let Some(n) = crash {
            disk.crash_at_call(*n);
        }
        let run = driver.run(async {
            let mut run = Run::open(&disk, model.clone()).await;
            while at < steps.len() && !run.crashed {
                run.step(&steps[at], what).await;
                at += 1;
            }
            run
        });
        outcome.mutations = disk.mutations();
        outcome.crashed |= disk.is_dead();
        if !run.crashed && crash.is_none() {
            // To the end, then everything not synced is lost.
            disk = disk.crash_losing_all();
        } else {
            disk = disk.crash(seed.wrapping_add(at as u64));
        }
        driver.settle();
        let (now, log) = driver.run(async {
            let log = match open(&disk, FILE_BYTES, None).await {
                Ok(log) => log,
                Err(error) => panic!("{what}: does not open: {error}"),
            };
            (found(&log).await, log)
        });
        check(&now, &run, what);
        driver.run(log.close());
        drop(log);
        if crash.is_none() || at >= steps.len() {
            return outcome;
        }
        // Goes on from what was found.
        let term = now.vote.map_or(1, |vote| vote.term);
        let complete = now.last.map(|last| last.index);
        model = Model { term, complete, ..now };
    }
}

/// Every kind of operation, several files, twice.
fn story() -> Vec<Step> {
    use Step::*;
    vec![
        Append(3, 4),
        Vote,
        Append(2, 20),
        AppendBehind(5),
        Truncate(30),
        Append(1, 40),
        Purge(20),
        RemoveBefore,
        Link,
        AppendBehind(30),
        Vote,
        Truncate(3),
        Append(4, 3),
        Install(25),
        Append(2, 15),
        Reopen,
        Append(1, 3),
        PurgeBeyond(5),
        Vote,
        Append(3, 10),
        Purge(0),
        RemoveBefore,
        Install(50),
        Append(1, 10),
    ]
}

#[test]
fn a_crash_at_every_call_leaves_the_old_or_the_new_state() {
    let steps = story();
    let calls = play(&steps, &[], 0, "no crash").mutations;
    assert!(calls >= 150, "{calls} crash points");
    for call in 1..=calls {
        for seed in 0..12 {
            let what = seeded(&format!("crash at call {call}"), seed);
            assert!(play(&steps, &[call], seed * 1000 + call, &what).crashed, "{what}");
        }
    }
}

#[test]
fn two_crashes_in_a_row_leave_a_good_log() {
    let steps = story();
    let calls = play(&steps, &[], 0, "no crash").mutations;
    let mut random = Random::new(17);
    for _ in 0..4000 {
        let first = 1 + random.below(calls);
        // Half of the second ones come while the first is being recovered from.
        let second = if random.below(2) == 0 {
            1 + random.below(12)
        } else {
            1 + random.below(calls)
        };
        let seed = random.draw();
        play(
            &steps,
            &[first, second],
            seed,
            &seeded(&format!("crashes at calls {first} and {second}"), seed),
        );
    }
}

fn random_steps(random: &mut Random) -> Vec<Step> {
    let count = 5 + random.below(25);
    let mut steps = Vec::new();
    for _ in 0..count {
        steps.push(match random.below(24) {
            0..=6 => Step::Append(1 + random.below(4), 1 + random.below(12)),
            7..=10 => Step::AppendBehind(1 + random.below(30)),
            11..=12 => Step::Vote,
            13..=15 => Step::Truncate(random.below(60)),
            16..=17 => Step::Purge(random.below(20)),
            18 => Step::PurgeBeyond(random.below(20)),
            19..=20 => Step::RemoveBefore,
            21 => Step::Link,
            22 => Step::Install(1 + random.below(60)),
            _ => Step::Reopen,
        });
    }
    steps
}

#[test]
fn random_operations_with_random_crashes_match_the_model() {
    for seed in 0..6000 {
        let mut random = Random::new(seed);
        let steps = random_steps(&mut random);
        let crashes: Vec<u64> = (0..random.below(4)).map(|_| 1 + random.below(120)).collect();
        play(
            &steps,
            &crashes,
            seed,
            &seeded(&format!("{steps:?}, crashes {crashes:?}"), seed),
        );
    }
}
