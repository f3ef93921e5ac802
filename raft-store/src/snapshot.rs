//! A snapshot: the state's checkpoint and the log files up to it, as hard links in a folder of their own.
//!
//! Built when a follower needs entries that the Raft log no longer shows. Nothing is copied here: the checkpoint
//! links the store's immutable files, the log files are linked, and the links keep both while they are being sent,
//! whatever retention does meanwhile. The manifest says which files belong to it and how long each valid part is.
//!
//! Folders below `snapshot/`: `out-{index}` is being sent, `in-{index}` is being fetched, `installing` is the marker
//! of [`crate::install`]. All but a marked one are removed when the replica opens: a crash loses a transfer, no data.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::bytes_reader::{BytesReader, Malformed};
use crate::commit_log::{CommitLog, LinkedFile};
use crate::disk::{Disk, DiskFile};
use crate::identity::GroupIdentity;
use crate::log_id::LogId;

/// Most files in a snapshot: 64 TiB of log in files of 64 MiB.
const FILES_MAX: u32 = 1_000_000;

/// What belongs to a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Whose it is.
    pub identity: GroupIdentity,
    /// The last entry in the state and in the log files.
    pub last: LogId,
    /// The last membership at or below `last`, with its log id.
    pub membership: Option<(LogId, Bytes)>,
    /// Log files: name and valid bytes, oldest first.
    pub log: Vec<LinkedFile>,
    /// Files of the state's checkpoint: path within the checkpoint, and bytes.
    pub state: Vec<(String, u64)>,
}

/// A snapshot on this disk: built to be sent, or fetched to be installed.
#[derive(Clone, Debug)]
pub struct SnapshotFiles {
    /// Holds `log` and `state`. Shared with every transfer that reads from it: the links stay while one runs.
    pub folder: Arc<PathBuf>,
    /// What is in it.
    pub manifest: Manifest,
}

impl SnapshotFiles {
    /// The folder of linked log files.
    pub fn log_folder(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The folder of the state's checkpoint.
    pub fn state_folder(&self) -> PathBuf {
        self.folder.join("state")
    }
}

impl Manifest {
    /// Big-endian: `identity | last: term u64, index u64 | membership: present u8, term u64, index u64, length u32,
    /// bytes | log files: count u32, per file the bytes of a [`LinkedFile`] | state files: count u32, per file path
    /// length u16, path, bytes u64`.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_slice(&self.identity.to_bytes());
        put_id(&mut bytes, self.last);
        bytes.put_u8(u8::from(self.membership.is_some()));
        let (id, membership) = self.membership.clone().unwrap_or_default();
        put_id(&mut bytes, id);
        bytes.put_u32(u32::try_from(membership.len()).expect("a membership is small"));
        bytes.put_slice(&membership);
        bytes.put_u32(u32::try_from(self.log.len()).expect("at most FILES_MAX"));
        for file in &self.log {
            put_string(&mut bytes, &file.name);
            bytes.put_u64(file.bytes);
        }
        bytes.put_u32(u32::try_from(self.state.len()).expect("at most FILES_MAX"));
        for (path, length) in &self.state {
            put_string(&mut bytes, path);
            bytes.put_u64(*length);
        }
        bytes.freeze()
    }

    /// The inverse of [`Manifest::encode`]; names that would leave their folder are refused.
    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = BytesReader::new(bytes);
        let identity = reader.bytes(GroupIdentity::BYTES)?;
        let identity = GroupIdentity::from_bytes(identity[..].try_into().map_err(|_| Malformed)?);
        let last = id(&mut reader)?;
        let present = reader.u8()? == 1;
        let membership_id = id(&mut reader)?;
        let length = reader.u32()? as usize;
        let membership = reader.bytes(length)?;
        let mut log = Vec::new();
        for _ in 0..count(&mut reader)? {
            log.push(LinkedFile {
                name: file_name(reader.string()?)?,
                bytes: reader.u64()?,
            });
        }
        let mut state = Vec::new();
        for _ in 0..count(&mut reader)? {
            state.push((file_name(reader.string()?)?, reader.u64()?));
        }
        Ok(Self {
            identity,
            last,
            membership: present.then_some((membership_id, membership)),
            log,
            state,
        })
    }

    /// Paths below the snapshot's folder with their bytes, state first.
    pub fn files(&self) -> impl Iterator<Item = (PathBuf, u64)> + '_ {
        let state = self
            .state
            .iter()
            .map(|(name, bytes)| (Path::new("state").join(name), *bytes));
        state.chain(
            self.log
                .iter()
                .map(|file| (Path::new("log").join(&file.name), file.bytes)),
        )
    }
}

/// Links the log files up to `last` beside a checkpoint that already lies in `folder/state`.
pub async fn build<D: Disk>(
    disk: &D,
    log: &CommitLog<D>,
    folder: &Path,
    identity: GroupIdentity,
    last: LogId,
    membership: Option<(LogId, Bytes)>,
) -> io::Result<SnapshotFiles> {
    let log_files = log.link_files(&folder.join("log"), last).await?;
    let mut state = Vec::new();
    for name in disk.list(&folder.join("state")).await? {
        let bytes = disk.open(&folder.join("state").join(&name)).await?.len().await?;
        state.push((name, bytes));
    }
    let manifest = Manifest {
        identity,
        last,
        membership,
        log: log_files,
        state,
    };
    Ok(SnapshotFiles {
        folder: Arc::new(folder.to_owned()),
        manifest,
    })
}

/// Removes a folder of a snapshot with everything in it; a missing one is fine.
pub async fn remove<D: Disk>(disk: &D, folder: &Path) -> io::Result<()> {
    for folder in [folder.join("log"), folder.join("state"), folder.to_owned()] {
        for name in disk.list(&folder).await.unwrap_or_default() {
            disk.unlink(&folder.join(name)).await?;
        }
        match disk.remove_folder(&folder).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn put_id(bytes: &mut BytesMut, id: LogId) {
    bytes.put_u64(id.term);
    bytes.put_u64(id.index);
}

fn id(reader: &mut BytesReader) -> Result<LogId, Malformed> {
    Ok(LogId::new(reader.u64()?, reader.u64()?))
}

fn put_string(bytes: &mut BytesMut, text: &str) {
    bytes.put_u16(u16::try_from(text.len()).expect("a file name is short"));
    bytes.put_slice(text.as_bytes());
}

fn count(reader: &mut BytesReader) -> Result<u32, Malformed> {
    let count = reader.u32()?;
    if count > FILES_MAX { Err(Malformed) } else { Ok(count) }
}

fn file_name(name: String) -> Result<String, Malformed> {
    let safe = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && !name.starts_with('.');
    if safe { Ok(name) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            identity: GroupIdentity {
                cluster: [1; 16],
                group: 2,
                creation: 3,
            },
            last: LogId::new(4, 500),
            membership: Some((LogId::new(1, 1), Bytes::from_static(b"members"))),
            log: vec![LinkedFile {
                name: "0-0.log".to_owned(),
                bytes: 77,
            }],
            state: vec![("000012.sst".to_owned(), 9), ("CURRENT".to_owned(), 16)],
        }
    }

    #[test]
    fn manifest_survives_its_bytes() {
        assert_eq!(Manifest::decode(manifest().encode()).unwrap(), manifest());
    }

    #[test]
    fn a_name_that_leaves_the_folder_is_refused() {
        for name in ["../vote", "/etc/passwd", "", ".hidden", "a/b"] {
            let mut bad = manifest();
            bad.state[0].0 = name.to_owned();
            assert!(Manifest::decode(bad.encode()).is_err(), "{name}");
        }
    }
}
