//! Log files as they travel: hard links for a snapshot that is served, and a snapshot's files becoming the log.
//!
//! Files received are linked into a folder of their own, read through and synced before anything changes; naming
//! that folder in the marker makes them the log. A crash before that leaves the old log, after it the new one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::file::{FILE_HEADER_BYTES, LogFile, parse_file_name};
use super::recovery::{read_file_header, remove_files};
use super::scan::scan;
use super::shared::Shared;
use super::state::{Entry, generation_name};
use super::{LinkedFile, OpenError, writer};
use crate::disk::{Disk, DiskFile};
use crate::log_id::LogId;

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

/// Links every file with entries up to `upto` into the folder, and says how long each is as far as `upto`.
pub(super) async fn link_files<D: Disk>(shared: &Shared<D>, into: &Path, upto: LogId) -> io::Result<Vec<LinkedFile>> {
    let mut links: Vec<(PathBuf, LinkedFile)> = Vec::new();
    {
        let state = shared.state.lock();
        for entry in state.files.iter().filter(|entry| entry.first_index() <= upto.index) {
            let end = if upto.index < entry.next_index() {
                entry.end_of((upto.index - entry.first_index()) as usize)
            } else {
                entry.end
            };
            let bytes = FILE_HEADER_BYTES + u64::from(end);
            links.push((
                entry.file.path(),
                LinkedFile {
                    name: entry.file.name.clone(),
                    bytes,
                },
            ));
        }
    }
    shared.disk.create_folder(into).await?;
    let mut linked = Vec::with_capacity(links.len());
    for (path, file) in links {
        match shared.disk.hard_link(&path, &into.join(&file.name)).await {
            Ok(()) => linked.push(file),
            // Removed meanwhile because nobody needs it: the snapshot begins later.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !shared.state.lock().has_file(&file.name) => {}
            Err(error) => return Err(error),
        }
    }
    shared.disk.sync_folder(into).await?;
    Ok(linked)
}

/// Replaces the log by these files of `staged`, which end with `purged`. Does nothing more than purge where the log
/// already holds `purged`: then it also holds what came before, and perhaps entries after it that must stay.
pub(super) async fn install<D: Disk>(
    shared: &Arc<Shared<D>>,
    staged: &Path,
    files: &[LinkedFile],
    purged: LogId,
) -> io::Result<()> {
    let (old, present) = {
        let mut state = shared.state.lock();
        if state.marker.purged.is_some_and(|old| old.index >= purged.index) {
            return Ok(());
        }
        let present = state.term_of(purged.index) == Some(purged.term);
        if !present && std::mem::replace(&mut state.installing, true) {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "a snapshot is being installed",
            ));
        }
        (state.marker.generation, present)
    };
    if present {
        return shared.submit_and_wait(|state| Ok(state.purge(purged))).await;
    }
    let generation = old + 1;
    let folder = shared.folder.join(generation_name(generation));
    let outcome = async {
        let entries = adopt(shared, &folder, staged, files, purged).await?;
        shared
            .submit_and_wait(|state| Ok(Some(state.replace(generation, entries, purged))))
            .await
    }
    .await;
    shared.state.lock().installing = false;
    outcome?;
    shared.fill.notify_one();
    let old = shared.folder.join(generation_name(old));
    if let Err(error) = remove_files(&shared.disk, &old).await {
        // Removed at the next start.
        tracing::warn!(folder = %old.display(), %error, "remove the log files before the snapshot");
    }
    Ok(())
}

type Adopted<D> = Vec<(Entry<D>, Vec<LogId>)>;

/// Links the staged files into their folder, checks every record, and puts all of it on disk.
async fn adopt<D: Disk>(
    shared: &Arc<Shared<D>>,
    folder: &Path,
    staged: &Path,
    files: &[LinkedFile],
    purged: LogId,
) -> io::Result<Adopted<D>> {
    let disk = &shared.disk;
    disk.create_folder(folder).await?;
    for name in disk.list(folder).await? {
        disk.unlink(&folder.join(name)).await?;
    }
    let mut entries: Adopted<D> = Vec::new();
    let mut last: Option<LogId> = None;
    for LinkedFile { name, bytes } in files {
        if parse_file_name(name).is_none() {
            return Err(invalid(format!("not a log file: {name:?}")));
        }
        let path = folder.join(name);
        disk.hard_link(&staged.join(name), &path).await?;
        let handle = disk.open(&path).await?;
        let header = read_file_header(&handle, name, shared.identity)
            .await
            .map_err(OpenError::into_io)?;
        if let Some((before, _)) = entries.last() {
            let gap = header
                .previous
                .is_some_and(|previous| last.is_some_and(|last| last.index < previous.index));
            if before.end_offset() != header.first_offset || !(header.previous == last || gap) {
                return Err(invalid(format!("{name} does not follow the log file before it")));
            }
        }
        let end = bytes
            .checked_sub(FILE_HEADER_BYTES)
            .ok_or_else(|| invalid(format!("{name} is too short")))?;
        let found = scan(&handle, &header, shared.seed, handle.len().await?, Some(end)).await?;
        if u64::from(found.index.end) != end || found.index.offsets.is_empty() {
            return Err(invalid(format!("{name} is damaged: {}", found.stop)));
        }
        last = found.last;
        handle.sync().await?;
        let file = Arc::new(LogFile::new(folder, header, FILE_HEADER_BYTES + end));
        file.set_handle(handle);
        writer::write_index(shared, &file, &found.index.encode(&header)).await?;
        file.indexed.store(true, Ordering::Relaxed);
        let terms = found.index.terms;
        entries.push((
            Entry {
                file,
                offsets: found.index.offsets,
                end: found.index.end,
                sealed: true,
            },
            terms,
        ));
    }
    if last.is_some_and(|last| last != purged) {
        return Err(invalid(format!("the files end with {last:?}, not with {purged}")));
    }
    disk.sync_folder(folder).await?;
    disk.sync_folder(&shared.folder).await?;
    Ok(entries)
}
