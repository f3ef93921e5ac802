//! Installing a snapshot so that a crash at any moment leaves the old replica or the new one.
//!
//! The log and the state are replaced one after the other, and neither may be seen without the other. So the marker
//! `snapshot/installing` (the manifest and the folder, with a checksum) is made durable first; while it is there,
//! opening the replica finishes the installation from the fetched files before anything else looks at them. Both parts
//! are checked before anything is replaced. A damaged snapshot costs the running replica its process at most: the next
//! start drops it and goes on with what was there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::bytes_reader::BytesReader;
use crate::commit_log::CommitLog;
use crate::disk::{Disk, DiskFile};
use crate::snapshot::{self, Manifest, SnapshotFiles};
use crate::state_machine::StateMachine;

const MARKER: &str = "installing";

/// Replaces log and state by `files`. `folder` is the replica's `snapshot` folder.
pub async fn install<D: Disk, S: StateMachine>(
    disk: &D,
    folder: &Path,
    log: &CommitLog<D>,
    state: &mut S,
    files: &SnapshotFiles,
) -> io::Result<()> {
    write_marker(disk, folder, files).await?;
    finish(disk, folder, log, state, files).await
}

/// Finishes an installation that a crash interrupted, and removes left-over transfers.
pub async fn recover<D: Disk, S: StateMachine>(
    disk: &D,
    folder: &Path,
    log: &CommitLog<D>,
    state: &mut S,
) -> io::Result<()> {
    disk.create_folder(folder).await?;
    if let Some(files) = read_marker(disk, folder).await? {
        tracing::info!(last = %files.manifest.last, "finishing an interrupted snapshot installation");
        match finish(disk, folder, log, state, &files).await {
            // What was fetched is damaged and nothing was replaced yet: the old replica goes on.
            Err(error) if error.kind() == io::ErrorKind::InvalidData && log.purged() != Some(files.manifest.last) => {
                tracing::warn!(%error, "dropping a snapshot that cannot be installed");
                disk.unlink(&folder.join(MARKER)).await?;
                disk.sync_folder(folder).await?;
            }
            outcome => outcome?,
        }
    }
    for name in disk.list(folder).await? {
        if name.starts_with("out-") || name.starts_with("in-") {
            snapshot::remove(disk, &folder.join(name)).await?;
        }
    }
    Ok(())
}

async fn finish<D: Disk, S: StateMachine>(
    disk: &D,
    folder: &Path,
    log: &CommitLog<D>,
    state: &mut S,
    files: &SnapshotFiles,
) -> io::Result<()> {
    let last = files.manifest.last;
    let checkpoint = disk.local_path(&files.state_folder());
    if log.purged() != Some(last) || log.last() < Some(last) {
        if state.applied() != Some(last) {
            state.verify(&checkpoint)?;
        }
        log.install(&files.log_folder(), &files.manifest.log, last).await?;
    }
    if state.applied() != Some(last) {
        state.restore(&checkpoint)?;
    }
    disk.unlink(&folder.join(MARKER)).await?;
    disk.sync_folder(folder).await?;
    snapshot::remove(disk, &files.folder).await
}

async fn write_marker<D: Disk>(disk: &D, folder: &Path, files: &SnapshotFiles) -> io::Result<()> {
    let name = files
        .folder
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let mut body = BytesMut::new();
    body.put_u16(u16::try_from(name.len()).expect("a folder name is short"));
    body.put_slice(name.as_bytes());
    body.put_slice(&files.manifest.encode());
    let body = body.freeze();
    let crc = Bytes::copy_from_slice(&crc32c::crc32c(&body).to_be_bytes());
    let new = folder.join("installing.new");
    match disk.unlink(&new).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&new).await?;
    file.write_at(0, &[crc, body]).await?;
    file.sync().await?;
    disk.rename(&new, &folder.join(MARKER)).await?;
    disk.sync_folder(folder).await
}

async fn read_marker<D: Disk>(disk: &D, folder: &Path) -> io::Result<Option<SnapshotFiles>> {
    let file = match disk.open(&folder.join(MARKER)).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damaged = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the marker of a snapshot installation is damaged",
        )
    };
    let length = usize::try_from(file.len().await?).map_err(|_| damaged())?;
    let bytes = file.read_at(0, length).await?;
    let mut reader = BytesReader::new(bytes);
    let crc = reader.u32().map_err(|_| damaged())?;
    let body = reader.bytes(reader.remaining()).map_err(|_| damaged())?;
    if crc32c::crc32c(&body) != crc {
        return Err(damaged());
    }
    let mut reader = BytesReader::new(body);
    let name: PathBuf = reader.string().map_err(|_| damaged())?.into();
    let manifest = reader.bytes(reader.remaining()).map_err(|_| damaged())?;
    let manifest = Manifest::decode(manifest).map_err(|_| damaged())?;
    Ok(Some(SnapshotFiles {
        folder: Arc::new(folder.join(name)),
        manifest,
    }))
}
