//! Opening a log: what was on disk is found again, a torn tail is cut, damage is reported and nothing is cut.
//!
//! Only the last log file is read through; the others are known by their index files, each checked against its
//! neighbours. The tail of the last file is *torn* if the first unreadable record was never known to be on disk:
//! every record says which index was when it was written, and records written after the bad one are looked at too,
//! so sectors of one unfinished write may be lost in any order. Else it is *damage*: a record that had been synced,
//! and perhaps acknowledged, is unreadable. Then the log does not open and no byte is changed; the caller repairs
//! it from a peer or rejoins as a new replica.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::file::{FILE_HEADER_BYTES, FileHeader, LogFile, index_name, parse_file_name};
use super::index::FileIndex;
use super::marker::Marker;
use super::record::checksum_seed;
use super::scan::{Scan, rest, scan};
use super::shared::{Idle, Shared};
use super::slots::Slots;
use super::state::{Entry, State, generation_name};
use super::tail::Tail;
use super::writer::write_index;
use super::{LogOptions, OpenError};
use crate::disk::{Disk, DiskFile};
use crate::identity::GroupIdentity;
use crate::log_id::LogId;
use crate::vote;

const VOTE_FILE: &str = "vote";
const MARKER_FILE: &str = "marker";

pub(super) fn damaged(file: &str, reason: &'static str) -> OpenError {
    OpenError::Damaged {
        file: file.to_owned(),
        log_offset: None,
        log_index: None,
        reason,
    }
}

/// A log file found, with what it contains.
struct Found<D: Disk> {
    file: Arc<LogFile<D>>,
    index: FileIndex,
    last: Option<LogId>,
    sealed: bool,
}

/// Opens or creates the log in `folder`.
pub(super) async fn open<D: Disk>(
    disk: D,
    folder: &Path,
    identity: GroupIdentity,
    options: LogOptions,
    known_synced: Option<LogId>,
) -> Result<Shared<D>, OpenError> {
    let (vote_slots, vote, marker_slots, marker) = open_slots(&disk, folder, identity).await?;
    remove_leftovers(&disk, folder, marker.generation).await?;
    let state = State {
        files: VecDeque::new(),
        tail: Tail::new(options.tail_bytes),
        terms: Vec::new(),
        last: marker.purged,
        flushed: None,
        vote,
        marker,
        end_offset: marker.start_offset,
        cut_count: 0,
        cuts: VecDeque::new(),
        queue: VecDeque::new(),
        waiters: BTreeMap::new(),
        failure: None,
        closing: false,
        installing: false,
        writer_ended: false,
        unsynced: false,
        idle: Some(Idle {
            vote: vote_slots,
            marker: marker_slots,
            marker_value: marker,
            last_record: None,
        }),
        active: None,
        prepared: None,
        prepare_failed: false,
    };
    let shared = Shared::new(disk, folder.to_owned(), identity, options, state);
    load_files(&shared, marker, known_synced).await?;
    Ok(shared)
}

type OpenSlots<F> = (Slots<F>, Option<vote::StoredVote>, Slots<F>, Marker);

/// Opens the vote and the marker, or founds a new log: the marker comes last and says that all is there.
async fn open_slots<D: Disk>(
    disk: &D,
    folder: &Path,
    identity: GroupIdentity,
) -> Result<OpenSlots<D::File>, OpenError> {
    disk.create_folder(folder).await?;
    let names = disk.list(folder).await?;
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        disk.unlink(&folder.join(name)).await?;
    }
    let (vote_path, marker_path) = (folder.join(VOTE_FILE), folder.join(MARKER_FILE));
    let has_vote = names.iter().any(|name| name == VOTE_FILE);
    if names.iter().any(|name| name == MARKER_FILE) {
        if !has_vote {
            return Err(damaged(VOTE_FILE, "missing"));
        }
        let (vote_slots, value) = Slots::open(disk, &vote_path, identity).await?;
        let vote = vote::decode(&value).ok_or_else(|| damaged(VOTE_FILE, "not a vote"))?;
        let (marker_slots, value) = Slots::open(disk, &marker_path, identity).await?;
        let marker = Marker::decode(&value).ok_or_else(|| damaged(MARKER_FILE, "not a marker"))?;
        disk.sync_folder(folder).await?;
        return Ok((vote_slots, vote, marker_slots, marker));
    }
    // No marker: a new log, or one whose founding was interrupted before anything was stored in it.
    if has_vote {
        let (_, value) = Slots::open(disk, &vote_path, identity).await?;
        if vote::decode(&value) != Some(None) {
            return Err(damaged(MARKER_FILE, "missing"));
        }
        disk.unlink(&vote_path).await?;
    }
    let marker = Marker::default();
    let files = folder.join(generation_name(marker.generation));
    disk.create_folder(&files).await?;
    if disk
        .list(&files)
        .await?
        .iter()
        .any(|name| parse_file_name(name).is_some())
    {
        return Err(damaged(MARKER_FILE, "missing"));
    }
    let vote_slots = Slots::create(disk, &vote_path, identity, &vote::encode(None)).await?;
    disk.sync_folder(folder).await?;
    let marker_slots = Slots::create(disk, &marker_path, identity, &marker.encode()).await?;
    disk.sync_folder(folder).await?;
    if let Some(parent) = folder.parent() {
        disk.sync_folder(parent).await?;
    }
    Ok((vote_slots, None, marker_slots, marker))
}

/// Removes folders of log files that are not the log: before a snapshot, or of one that was not finished.
async fn remove_leftovers<D: Disk>(disk: &D, folder: &Path, generation: u64) -> io::Result<()> {
    let current = generation_name(generation);
    for name in disk.list(folder).await? {
        if name.starts_with("files-") && name != current {
            remove_files(disk, &folder.join(name)).await?;
        }
    }
    Ok(())
}

/// Removes a folder with the files in it.
pub(super) async fn remove_files<D: Disk>(disk: &D, folder: &Path) -> io::Result<()> {
    for name in disk.list(folder).await? {
        disk.unlink(&folder.join(name)).await?;
    }
    disk.remove_folder(folder).await
}

async fn load_files<D: Disk>(shared: &Shared<D>, marker: Marker, known_synced: Option<LogId>) -> Result<(), OpenError> {
    let folder = shared.folder.join(generation_name(marker.generation));
    let names = clean_folder(shared, &folder, marker).await?;
    // What the caller knows may have been purged beyond the last record; what the marker says is about records.
    let needed = known_synced.filter(|known| marker.purged.is_none_or(|purged| purged.index < known.index));
    let known = needed.max_by_index(marker.synced);
    let mut found: Vec<Found<D>> = Vec::new();
    let mut headers = Vec::new();
    for name in &names {
        headers.push(read_header(shared, &folder, name).await?);
    }
    if headers
        .first()
        .is_some_and(|header| header.first_offset != marker.start_offset)
    {
        return Err(damaged(&names[0], "log files before it are missing"));
    }
    for (at, header) in headers.iter().enumerate() {
        let name = &names[at];
        if let Some(previous) = found.last() {
            check_follows(name, header, previous, marker)?;
        }
        let next = headers.get(at + 1);
        match load_file(shared, &folder, name, *header, next, known).await? {
            Some(file) => found.push(file),
            // Named, but a crash came before its first record was on disk.
            None => shared.disk.unlink(&folder.join(name)).await?,
        }
    }
    shared.disk.sync_folder(&folder).await?;
    let mut state = shared.state.lock();
    for Found {
        file,
        index,
        last,
        sealed,
    } in found
    {
        state.add_terms(&index.terms);
        state.last = last.max_by_index(state.last);
        if !sealed {
            state.active = Some(file.clone());
        }
        state.files.push_back(Entry {
            file,
            offsets: index.offsets,
            end: index.end,
            sealed,
        });
    }
    if let Some(end_offset) = state.files.back().map(Entry::end_offset) {
        state.end_offset = end_offset;
    }
    if state
        .files
        .back()
        .is_some_and(|entry| Some(entry.next_index()) != state.next_index())
    {
        // Purged beyond the last record: the next one starts a file.
        let entry = state.files.back_mut().expect("just seen");
        entry.sealed = true;
    }
    state.flushed = state.last;
    let last_record = state.last_record();
    if let Some(idle) = &mut state.idle {
        idle.last_record = last_record;
    }
    for known in [known_synced, marker.synced].into_iter().flatten() {
        check_known(&state, known)?;
    }
    Ok(())
}

trait MaxByIndex {
    fn max_by_index(self, other: Self) -> Self;
}

impl MaxByIndex for Option<LogId> {
    fn max_by_index(self, other: Self) -> Self {
        if self.map(|id| id.index) >= other.map(|id| id.index) {
            self
        } else {
            other
        }
    }
}

/// An entry that was known to be on disk must still be there, unless it was purged.
fn check_known<D: Disk>(state: &State<D>, known: LogId) -> Result<(), OpenError> {
    if state.marker.purged.is_some_and(|purged| purged.index >= known.index) {
        return Ok(());
    }
    if state.term_of(known.index) == Some(known.term) {
        return Ok(());
    }
    Err(OpenError::Damaged {
        file: state
            .files
            .back()
            .map(|entry| entry.file.name.clone())
            .unwrap_or_default(),
        log_offset: Some(state.end_offset),
        log_index: Some(known.index),
        reason: "an entry known to be on disk is not there",
    })
}

/// Names of the log files, in order, after removing what a crash left behind.
async fn clean_folder<D: Disk>(shared: &Shared<D>, folder: &Path, marker: Marker) -> io::Result<Vec<String>> {
    let names = shared.disk.list(folder).await?;
    let mut kept = Vec::new();
    for name in &names {
        if parse_file_name(name).is_some_and(|(first_offset, _)| first_offset >= marker.start_offset) {
            kept.push(name.clone());
        }
    }
    let indexes: Vec<String> = kept.iter().map(|name| index_name(name)).collect();
    for name in &names {
        if !kept.contains(name) && !indexes.contains(name) {
            shared.disk.unlink(&folder.join(name)).await?;
        }
    }
    Ok(kept)
}

async fn read_header<D: Disk>(shared: &Shared<D>, folder: &Path, name: &str) -> Result<FileHeader, OpenError> {
    let file = shared.disk.open(&folder.join(name)).await?;
    read_file_header(&file, name, shared.identity).await
}

/// The header of the log file `name`, if it is whole and the file is where it belongs.
pub(super) async fn read_file_header<F: DiskFile>(
    file: &F,
    name: &str,
    identity: GroupIdentity,
) -> Result<FileHeader, OpenError> {
    if file.len().await? < FILE_HEADER_BYTES {
        return Err(damaged(name, "shorter than a header"));
    }
    let bytes = file.read_at(0, FILE_HEADER_BYTES as usize).await?;
    let header = FileHeader::decode(&bytes).ok_or_else(|| damaged(name, "file header"))?;
    if header.identity != identity {
        return Err(OpenError::Foreign {
            file: name.to_owned(),
            found: header.identity,
        });
    }
    if parse_file_name(name) != Some((header.first_offset, header.first_index)) {
        return Err(damaged(name, "named like another log file"));
    }
    Ok(header)
}

/// A file must start where the one before it ends, or after a purge that reached beyond that.
fn check_follows<D: Disk>(
    name: &str,
    header: &FileHeader,
    previous: &Found<D>,
    marker: Marker,
) -> Result<(), OpenError> {
    let end = previous.file.header.first_offset + u64::from(previous.index.end);
    let after_purge = header.previous.is_some_and(|before| {
        marker.purged.is_some_and(|purged| before.index <= purged.index)
            && previous.last.is_some_and(|last| last.index < before.index)
    });
    if header.first_offset != end || !(header.previous == previous.last || after_purge) {
        return Err(damaged(name, "does not follow the log file before it"));
    }
    Ok(())
}

/// What one log file contains; `None` for a last file without a record.
async fn load_file<D: Disk>(
    shared: &Shared<D>,
    folder: &Path,
    name: &str,
    header: FileHeader,
    next: Option<&FileHeader>,
    known: Option<LogId>,
) -> Result<Option<Found<D>>, OpenError> {
    let handle = shared.disk.open(&folder.join(name)).await?;
    let length = handle.len().await?;
    let file = LogFile::new(folder, header, length);
    let wanted_end = next.map(|next| next.first_offset - header.first_offset);
    if let Some(index) = read_index(shared, &file, length, wanted_end).await? {
        file.indexed.store(true, Ordering::Relaxed);
        let last = index
            .last_term()
            .map(|term| LogId::new(term, header.first_index + index.offsets.len() as u64 - 1));
        return Ok(Some(Found {
            file: Arc::new(file),
            index,
            last,
            sealed: true,
        }));
    }
    // A killed process may have left its last write in the page cache only.
    handle.sync().await?;
    let scan = scan(&handle, &header, shared.seed, length, wanted_end).await?;
    if let Some(end) = wanted_end {
        if u64::from(scan.index.end) != end {
            return Err(damaged_record(&file, &scan));
        }
        write_index(shared, &file, &scan.index.encode(&header)).await?;
        let Scan { index, last, .. } = scan;
        return Ok(Some(Found {
            file: Arc::new(file),
            index,
            last,
            sealed: true,
        }));
    }
    cut_torn_tail(&handle, &file, &scan, length, known).await?;
    if scan.index.offsets.is_empty() {
        return Ok(None);
    }
    file.set_handle(handle);
    let Scan { index, last, .. } = scan;
    Ok(Some(Found {
        file: Arc::new(file),
        index,
        last,
        sealed: false,
    }))
}

fn damaged_record<D: Disk>(file: &LogFile<D>, scan: &Scan) -> OpenError {
    OpenError::Damaged {
        file: file.name.clone(),
        log_offset: Some(file.header.first_offset + u64::from(scan.index.end)),
        log_index: Some(file.header.first_index + scan.index.offsets.len() as u64),
        reason: scan.stop,
    }
}

/// The index file, if it is there, whole, and fits the log file and the next one.
async fn read_index<D: Disk>(
    shared: &Shared<D>,
    file: &LogFile<D>,
    length: u64,
    wanted_end: Option<u64>,
) -> io::Result<Option<FileIndex>> {
    let handle = match shared.disk.open(&file.index_path()).await {
        Ok(handle) => handle,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = usize::try_from(handle.len().await?).map_err(io::Error::other)?;
    let index = FileIndex::decode(&file.header, &handle.read_at(0, bytes).await?);
    if let Some(index) = index
        && FILE_HEADER_BYTES + u64::from(index.end) <= length
        && wanted_end.is_none_or(|end| end == u64::from(index.end))
    {
        return Ok(Some(index));
    }
    shared.disk.unlink(&file.index_path()).await?;
    Ok(None)
}

/// The end of the last file: torn and cut, or damaged.
async fn cut_torn_tail<D: Disk>(
    handle: &D::File,
    file: &LogFile<D>,
    scan: &Scan,
    length: u64,
    known: Option<LogId>,
) -> Result<(), OpenError> {
    let seed = checksum_seed(file.header.identity);
    let rest = rest(handle, &file.header, seed, length, scan.index.end).await?;
    let next = file.header.first_index + scan.index.offsets.len() as u64;
    let synced = scan.synced.max(rest.synced).max(known.map(|known| known.index));
    if synced.is_some_and(|synced| synced >= next) {
        return Err(damaged_record(file, scan));
    }
    let end = FILE_HEADER_BYTES + u64::from(scan.index.end);
    if rest.dirty {
        tracing::warn!(
            file = file.name,
            next,
            reason = scan.stop,
            bytes = length - end,
            "torn tail cut"
        );
        handle.set_len(end).await?;
        handle.sync().await?;
        file.space.set(end, end);
    } else {
        file.space.set(end, length);
    }
    Ok(())
}
