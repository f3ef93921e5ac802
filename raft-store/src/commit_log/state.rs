//! The log as its users see it: changed at once by every call, while the writer follows in its own time.
//!
//! Appends, truncations, purges and installs take effect here in the order of their calls, and queue what the writer
//! has to do for them; so a reader never sees a state that a later call has already ended. What is on disk is
//! tracked by `flushed`: it moves forward when the writer is done with a turn, never beyond a truncation that is
//! still in the queue.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::file::{FILE_HEADER_BYTES, FileHeader, LogFile};
use super::index::FileIndex;
use super::marker::Marker;
use super::prefill::Prepared;
use super::record::{PAYLOAD_BYTES_MAX, Record};
use super::shared::{Action, Failure, Idle, Op, Queue, Shared};
use super::tail::Tail;
use crate::disk::Disk;
use crate::log_id::LogId;
use crate::vote::StoredVote;

/// A log file with the places of its records. Holds at least one record.
pub(super) struct Entry<D: Disk> {
    pub file: Arc<LogFile<D>>,
    /// Where each record starts, counted from the first.
    pub offsets: Vec<u32>,
    /// Where the last record ends.
    pub end: u32,
    /// Nothing will be appended to it.
    pub sealed: bool,
}

impl<D: Disk> Entry<D> {
    pub fn first_index(&self) -> u64 {
        self.file.header.first_index
    }

    /// One past the last index.
    pub fn next_index(&self) -> u64 {
        self.first_index() + self.offsets.len() as u64
    }

    pub fn end_offset(&self) -> u64 {
        self.file.header.first_offset + u64::from(self.end)
    }

    /// Where the record at this place in the file ends.
    pub fn end_of(&self, record: usize) -> u32 {
        self.offsets.get(record + 1).copied().unwrap_or(self.end)
    }
}

pub(super) type Waiters = BTreeMap<u64, Vec<oneshot::Sender<io::Result<()>>>>;

pub(super) struct State<D: Disk> {
    pub files: VecDeque<Entry<D>>,
    pub tail: Tail,
    /// The first entry of every term, from the physical start.
    pub terms: Vec<LogId>,
    pub last: Option<LogId>,
    pub flushed: Option<LogId>,
    pub vote: Option<StoredVote>,
    /// Purge marker, physical start and folder number as of the last call.
    pub marker: Marker,
    /// Where the next record goes.
    pub end_offset: u64,
    /// Changes with everything that takes records away, so that a reader knows its bytes may be gone.
    pub cut_count: u64,
    /// The last entries kept by the cuts still in the queue.
    pub cuts: VecDeque<Option<LogId>>,
    pub queue: Queue<D>,
    pub waiters: Waiters,
    pub failure: Option<Failure>,
    pub closing: bool,
    pub installing: bool,
    pub writer_ended: bool,
    /// True while there is something written that no sync has covered.
    pub unsynced: bool,
    pub idle: Option<Idle<D>>,
    /// The file the writer writes.
    pub active: Option<Arc<LogFile<D>>>,
    pub prepared: Option<Prepared<D>>,
    pub prepare_failed: bool,
}

impl<D: Disk> State<D> {
    /// One past the last entry, if there ever was one.
    pub fn next_index(&self) -> Option<u64> {
        self.last.map(|last| last.index + 1)
    }

    /// True while a log file of this name belongs to the log.
    pub fn has_file(&self, name: &str) -> bool {
        self.files.iter().any(|entry| entry.file.name == name)
    }

    /// The last entry in the files: not a purged one beyond them.
    pub fn last_record(&self) -> Option<LogId> {
        let index = self.files.back()?.next_index() - 1;
        self.term_of(index).map(|term| LogId::new(term, index))
    }

    /// Takes `records` in; returns the writes to queue, the last of them without completion.
    pub fn append(&mut self, shared: &Shared<D>, records: Vec<Record>) -> io::Result<Vec<Op<D>>> {
        self.check_order(&records)?;
        let mut ops: Vec<Op<D>> = Vec::new();
        for record in records {
            let bytes = u32::try_from(record.stored_bytes()).expect("payloads are bounded");
            let fits = self.files.back().is_some_and(|entry| {
                let room = shared
                    .options
                    .file_bytes
                    .saturating_sub(FILE_HEADER_BYTES + u64::from(entry.end));
                !entry.sealed && entry.next_index() == record.log_id.index && u64::from(bytes) <= room
            });
            if !fits {
                self.add_file(shared, record.log_id.index);
            }
            let entry = self.files.back_mut().expect("just added");
            let log_offset = entry.end_offset();
            entry.offsets.push(entry.end);
            entry.end += bytes;
            self.end_offset = entry.end_offset();
            if self.terms.last().map(|start| start.term) != Some(record.log_id.term) {
                self.terms.push(record.log_id);
            }
            self.last = Some(record.log_id);
            self.tail.push(record.clone());
            match ops.last_mut() {
                Some(Op {
                    action: Action::Write { file, records, .. },
                    flushes,
                    ..
                }) if Arc::ptr_eq(file, &entry.file) => {
                    *flushes = Some(record.log_id);
                    records.push(record);
                }
                _ => {
                    let flushes = Some(record.log_id);
                    let file = entry.file.clone();
                    let action = Action::Write {
                        file,
                        log_offset,
                        records: vec![record],
                    };
                    ops.push(Op {
                        action,
                        done: None,
                        flushes,
                        is_cut: false,
                    });
                }
            }
        }
        Ok(ops)
    }

    fn check_order(&self, records: &[Record]) -> io::Result<()> {
        let mut last = self.last;
        for record in records {
            let follows =
                last.is_none_or(|last| record.log_id.index == last.index + 1 && record.log_id.term >= last.term);
            if !follows {
                let message = format!("append {} after {last:?}", record.log_id);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            if record.payload.len() > PAYLOAD_BYTES_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "payload too large for one record",
                ));
            }
            last = Some(record.log_id);
        }
        Ok(())
    }

    fn add_file(&mut self, shared: &Shared<D>, first_index: u64) {
        if let Some(entry) = self.files.back_mut() {
            entry.sealed = true;
        }
        let header = FileHeader {
            identity: shared.identity,
            first_offset: self.end_offset,
            first_index,
            previous: self.last,
        };
        let folder = shared.folder.join(generation_name(self.marker.generation));
        let file = Arc::new(LogFile::new(&folder, header, 0));
        self.files.push_back(Entry {
            file,
            offsets: Vec::new(),
            end: 0,
            sealed: false,
        });
    }

    /// Takes away everything after `last`; returns what the writer has to do, if anything.
    pub fn truncate(&mut self, last: Option<LogId>) -> io::Result<Option<Op<D>>> {
        let next = last.map_or(0, |last| last.index + 1);
        if self.marker.purged.is_some_and(|purged| purged.index >= next) && last != self.marker.purged {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "truncate below the purged entry",
            ));
        }
        if self.next_index().is_none_or(|end| end <= next) {
            return Ok(None);
        }
        if last.is_some_and(|last| Some(last) != self.marker.purged && self.term_of(last.index) != Some(last.term)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "truncate after an entry not in the log",
            ));
        }
        let mut removed = Vec::new();
        let mut cut = None;
        while let Some(entry) = self.files.back_mut() {
            if entry.next_index() <= next {
                break;
            }
            if entry.first_index() >= next {
                removed.extend(self.files.pop_back().map(|entry| entry.file));
                continue;
            }
            let count = usize::try_from(next - entry.first_index()).expect("less than the records of a file");
            entry.end = entry.offsets[count];
            entry.offsets.truncate(count);
            entry.sealed = false;
            cut = Some((entry.file.clone(), entry.end));
            break;
        }
        self.end_offset = self.files.back().map_or(self.marker.start_offset, Entry::end_offset);
        self.tail.truncate(next);
        while self.terms.last().is_some_and(|start| start.index >= next) {
            self.terms.pop();
        }
        self.last = last;
        self.add_cut(last);
        let action = Action::Truncate {
            keep: self.last_record(),
            removed,
            cut,
        };
        Ok(Some(Op {
            action,
            done: None,
            flushes: None,
            is_cut: true,
        }))
    }

    fn add_cut(&mut self, keep: Option<LogId>) {
        self.flushed = earlier(self.flushed, keep);
        self.cuts.push_back(keep);
        self.cut_count += 1;
    }

    /// Moves the Raft start.
    pub fn purge(&mut self, upto: LogId) -> Option<Op<D>> {
        if self.marker.purged.is_some_and(|purged| purged.index >= upto.index) {
            return None;
        }
        self.marker.purged = Some(upto);
        self.marker.synced = None;
        let beyond = self.last.is_none_or(|last| last.index < upto.index);
        if beyond {
            self.last = Some(upto);
            if let Some(entry) = self.files.back_mut() {
                entry.sealed = true;
            }
        }
        let flushes = beyond.then_some(upto);
        Some(Op {
            action: Action::Marker(self.marker),
            done: None,
            flushes,
            is_cut: false,
        })
    }

    /// Forgets the files that lie wholly before `index` and before the Raft start; the last one stays.
    pub fn remove_before(&mut self, index: u64) -> (Vec<Arc<LogFile<D>>>, Option<Op<D>>) {
        let raft_start = self.marker.purged.map_or(0, |purged| purged.index + 1);
        let index = index.min(raft_start);
        let mut removed = Vec::new();
        while self.files.len() > 1 && self.files[0].next_index() <= index {
            removed.extend(self.files.pop_front().map(|entry| entry.file));
        }
        if removed.is_empty() {
            return (removed, None);
        }
        let first = self.files[0].first_index();
        self.marker.start_offset = self.files[0].file.header.first_offset;
        self.marker.synced = None;
        self.cut_count += 1;
        let begun = self.terms.partition_point(|start| start.index <= first);
        if begun > 0 {
            self.terms.drain(..begun - 1);
            self.terms[0].index = self.terms[0].index.max(first);
        }
        let op = Op {
            action: Action::Marker(self.marker),
            done: None,
            flushes: None,
            is_cut: false,
        };
        (removed, Some(op))
    }

    /// Makes these files the log.
    pub fn replace(&mut self, generation: u64, files: Vec<(Entry<D>, Vec<LogId>)>, purged: LogId) -> Op<D> {
        self.files.clear();
        self.terms.clear();
        self.tail.clear();
        for (entry, terms) in files {
            self.files.push_back(entry);
            self.add_terms(&terms);
        }
        let start_offset = self
            .files
            .front()
            .map_or(self.end_offset, |entry| entry.file.header.first_offset);
        self.end_offset = self.files.back().map_or(start_offset, Entry::end_offset);
        self.marker = Marker {
            generation,
            start_offset,
            purged: Some(purged),
            synced: None,
        };
        self.last = Some(purged);
        self.prepared = None;
        self.prepare_failed = false;
        self.add_cut(Some(purged));
        Op {
            action: Action::Marker(self.marker),
            done: None,
            flushes: Some(purged),
            is_cut: true,
        }
    }

    /// Adds the term starts of the next file.
    pub fn add_terms(&mut self, terms: &[LogId]) {
        for start in terms {
            if self.terms.last().map(|last| last.term) != Some(start.term) {
                self.terms.push(*start);
            }
        }
    }

    /// The term of an entry present in the files.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        self.entry_of(index)?;
        let after = self.terms.partition_point(|start| start.index <= index);
        Some(self.terms[after.checked_sub(1)?].term)
    }

    /// The file that holds this entry.
    pub fn entry_of(&self, index: u64) -> Option<&Entry<D>> {
        let after = self.files.partition_point(|entry| entry.first_index() <= index);
        let entry = &self.files[after.checked_sub(1)?];
        (index < entry.next_index()).then_some(entry)
    }

    /// What the index file of `file` says, if it is sealed and nothing queued will change it.
    pub fn index_of(&self, file: &Arc<LogFile<D>>) -> Option<FileIndex> {
        let entry = self.files.iter().rev().find(|entry| Arc::ptr_eq(&entry.file, file))?;
        if !entry.sealed || !self.cuts.is_empty() {
            return None;
        }
        let first = LogId::new(self.term_of(entry.first_index())?, entry.first_index());
        let within = self
            .terms
            .iter()
            .filter(|start| start.index > first.index && start.index < entry.next_index());
        let terms = std::iter::once(first).chain(within.copied()).collect();
        Some(FileIndex {
            offsets: entry.offsets.clone(),
            end: entry.end,
            terms,
        })
    }

    /// The writer finished a turn: moves `flushed` and returns who waited for that.
    pub fn finish(&mut self, flushes: Option<LogId>, is_cut: bool) -> Vec<oneshot::Sender<io::Result<()>>> {
        if is_cut {
            self.cuts.pop_front();
        }
        let Some(flushes) = flushes else { return Vec::new() };
        let mut reached = Some(flushes);
        for cut in &self.cuts {
            reached = earlier(reached, *cut);
        }
        if reached.map(|id| id.index) > self.flushed.map(|id| id.index) {
            self.flushed = reached;
        }
        self.tail.evict(self.flushed.map(|id| id.index));
        let mut woken = Vec::new();
        while let Some(waiting) = self.waiters.first_entry()
            && self.flushed.is_some_and(|flushed| *waiting.key() <= flushed.index)
        {
            woken.extend(waiting.remove());
        }
        woken
    }
}

/// The one with the lower index.
fn earlier(a: Option<LogId>, b: Option<LogId>) -> Option<LogId> {
    if a.map(|id| id.index) <= b.map(|id| id.index) {
        a
    } else {
        b
    }
}

/// The folder of log files with this number.
pub(super) fn generation_name(generation: u64) -> String {
    format!("files-{generation}")
}
