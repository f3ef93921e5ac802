//! How a snapshot's files travel: the sender offers, the receiver pulls.
//!
//! ```text
//! offer:  16 | vote | manifest          sender -> receiver, once
//! pull:   17 | file number u32 | offset u64 | length u32        receiver -> sender
//! piece:  18 | crc32c u32 | bytes                               sender -> receiver
//! done:   19 | vote                     receiver -> sender: installed, or refused because of a higher vote
//! ```
//! Files the receiver already holds in full from an earlier attempt are not pulled again. What was fetched stays in
//! its folder when the transfer breaks: committed bytes stay valid under any later leader.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::bytes_reader::{BytesReader, Malformed};
use crate::disk::{Disk, DiskFile};
use crate::network::codec;
use crate::snapshot::{self, Manifest, SnapshotFiles};
use crate::transport::{FrameReceiver, FrameSender};
use crate::type_config::EngineVote;

/// Bytes pulled at once.
const PIECE_BYTES: u32 = 1024 * 1024;

const OFFER: u8 = 16;
const PULL: u8 = 17;
const PIECE: u8 = 18;
const DONE: u8 = 19;

fn malformed(_: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed snapshot frame")
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "peer closed the transfer")
}

/// Offers `snapshot` and serves pulls until the receiver says it is done; returns the receiver's vote.
pub async fn send_snapshot<D: Disk>(
    disk: &D,
    mut sender: impl FrameSender,
    mut receiver: impl FrameReceiver,
    vote: &EngineVote,
    snapshot: &SnapshotFiles,
) -> io::Result<EngineVote> {
    let mut head = BytesMut::new();
    head.put_u8(OFFER);
    codec::put_vote(&mut head, vote);
    sender.send(&[head.freeze(), snapshot.manifest.encode()]).await?;
    let files: Vec<_> = snapshot.manifest.files().collect();
    let mut open: Option<(usize, D::File)> = None;
    loop {
        let mut frame = BytesReader::new(receiver.receive().await?.ok_or_else(closed)?);
        match frame.u8().map_err(malformed)? {
            PULL => {
                let number = frame.u32().map_err(malformed)? as usize;
                let offset = frame.u64().map_err(malformed)?;
                let length = frame.u32().map_err(malformed)?.min(PIECE_BYTES) as usize;
                let (path, bytes) = files.get(number).ok_or_else(|| malformed(Malformed))?;
                if offset.saturating_add(length as u64) > *bytes {
                    return Err(malformed(Malformed));
                }
                if open.as_ref().is_none_or(|(held, _)| *held != number) {
                    open = Some((number, disk.open(&snapshot.folder.join(path)).await?));
                }
                let Some((_, file)) = &open else {
                    return Err(malformed(Malformed));
                };
                let piece = file.read_at(offset, length).await?;
                let mut head = BytesMut::with_capacity(5);
                head.put_u8(PIECE);
                head.put_u32(crc32c::crc32c(&piece));
                sender.send(&[head.freeze(), piece]).await?;
            }
            DONE => return codec::vote(&mut frame).map_err(malformed),
            _ => return Err(malformed(Malformed)),
        }
    }
}

/// Reads the offer that opens a transfer.
pub fn read_offer(frame: Bytes) -> io::Result<(EngineVote, Manifest)> {
    let mut reader = BytesReader::new(frame);
    if reader.u8().map_err(malformed)? != OFFER {
        return Err(malformed(Malformed));
    }
    let vote = codec::vote(&mut reader).map_err(malformed)?;
    let length = reader.remaining();
    let manifest = Manifest::decode(reader.bytes(length).map_err(malformed)?).map_err(malformed)?;
    Ok((vote, manifest))
}

/// The name of the manifest in a folder of fetched files.
const MANIFEST: &str = "manifest";

/// Makes `folder` ready for the files of `manifest`: files of the same offer stay, so that a broken transfer goes on
/// where it stopped. Files of other offers go, here and in other folders: equal names need not be equal files.
pub async fn prepare_staging<D: Disk>(disk: &D, folder: &Path, manifest: &Manifest) -> io::Result<()> {
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name().and_then(|name| name.to_str())) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    for other in disk.list(parent).await? {
        if other.starts_with("in-") && other != name {
            snapshot::remove(disk, &parent.join(other)).await?;
        }
    }
    let offered = manifest.encode();
    let path = folder.join(MANIFEST);
    let stored = match disk.open(&path).await {
        Ok(file) => {
            let length = usize::try_from(file.len().await?).map_err(|_| malformed(Malformed))?;
            file.read_at(0, length).await?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Bytes::new(),
        Err(error) => return Err(error),
    };
    if stored == offered {
        return Ok(());
    }
    snapshot::remove(disk, folder).await?;
    disk.create_folder(folder).await?;
    let file = disk.create(&path).await?;
    file.write_at(0, &[offered]).await?;
    file.sync().await?;
    disk.sync_folder(folder).await
}

/// Pulls every file of `manifest` into `folder`, synced.
pub async fn fetch<D: Disk>(
    disk: &D,
    sender: &mut impl FrameSender,
    receiver: &mut impl FrameReceiver,
    manifest: Manifest,
    folder: &Path,
) -> io::Result<SnapshotFiles> {
    for part in ["log", "state"] {
        disk.create_folder(&folder.join(part)).await?;
    }
    for (number, (path, bytes)) in manifest.files().enumerate() {
        let path = folder.join(path);
        let file = match disk.open(&path).await {
            Ok(file) if file.len().await? == bytes => continue,
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(&path).await?,
            Err(error) => return Err(error),
        };
        // A file reaches its full length only by its last piece, after the sync of all before it: a whole length
        // means whole content.
        file.set_len(0).await?;
        let mut offset = 0;
        while offset < bytes {
            let length = u32::try_from((bytes - offset).min(u64::from(PIECE_BYTES))).expect("at most a piece");
            let mut pull = BytesMut::with_capacity(17);
            pull.put_u8(PULL);
            pull.put_u32(u32::try_from(number).expect("at most FILES_MAX"));
            pull.put_u64(offset);
            pull.put_u32(length);
            sender.send(&[pull.freeze()]).await?;
            let mut frame = BytesReader::new(receiver.receive().await?.ok_or_else(closed)?);
            if frame.u8().map_err(malformed)? != PIECE {
                return Err(malformed(Malformed));
            }
            let crc = frame.u32().map_err(malformed)?;
            let piece = frame.bytes(length as usize).map_err(malformed)?;
            if crc32c::crc32c(&piece) != crc {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "snapshot piece fails its checksum",
                ));
            }
            if offset + u64::from(length) == bytes {
                file.sync().await?;
            }
            file.write_at(offset, &[piece]).await?;
            offset += u64::from(length);
        }
        file.sync().await?;
    }
    for part in ["log", "state"] {
        disk.sync_folder(&folder.join(part)).await?;
    }
    Ok(SnapshotFiles {
        folder: Arc::new(folder.to_owned()),
        manifest,
    })
}

/// Ends a transfer with this replica's vote.
pub async fn finish(sender: &mut impl FrameSender, vote: &EngineVote) -> io::Result<()> {
    let mut frame = BytesMut::with_capacity(18);
    frame.put_u8(DONE);
    codec::put_vote(&mut frame, vote);
    sender.send(&[frame.freeze()]).await
}
