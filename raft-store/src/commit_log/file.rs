//! One log file: its name, its header, its handle.
//!
//! A file is named after its first record, `{first log offset}-{first index}.log`, and starts with a header of
//! [`FILE_HEADER_BYTES`]; records follow it without gaps. The record at log offset `o` lies at
//! `FILE_HEADER_BYTES + o - first log offset`. Header layout, big-endian:
//!
//! ```text
//! | magic: 8 | version: 4 | identity: 28 | first offset: 8 | first index: 8
//! | previous entry present: 1, term: 8, index: 8 | crc of all before: 4 | zeros |
//! ```
//!
//! A file gets its name only after its header is on disk, so a file with a bad header was damaged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};

use super::prefill::Space;
use super::record::{u32_at, u64_at};
use crate::disk::Disk;
use crate::identity::GroupIdentity;
use crate::log_id::LogId;

/// Bytes before the first record: a page, so that a record's block is never shared with the header.
pub const FILE_HEADER_BYTES: u64 = 4096;

const MAGIC: [u8; 8] = *b"FLLOGF\x00\x01";
const VERSION: u32 = 1;
const USED: usize = 8 + 4 + GroupIdentity::BYTES + 8 + 8 + 17 + 4;

/// What a log file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub identity: GroupIdentity,
    pub first_offset: u64,
    pub first_index: u64,
    /// The entry before the first one, in an earlier file or purged.
    pub previous: Option<LogId>,
}

impl FileHeader {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(FILE_HEADER_BYTES as usize);
        out.put_slice(&MAGIC);
        out.put_u32(VERSION);
        out.put_slice(&self.identity.to_bytes());
        out.put_u64(self.first_offset);
        out.put_u64(self.first_index);
        put_log_id(&mut out, self.previous);
        let crc = crc32c::crc32c(&out);
        out.put_u32(crc);
        out.resize(FILE_HEADER_BYTES as usize, 0);
        out.freeze()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..USED)?;
        let (body, crc) = bytes.split_at(USED - 4);
        if body[..8] != MAGIC || u32_at(body, 8) != VERSION || u32_at(crc, 0) != crc32c::crc32c(body) {
            return None;
        }
        Some(Self {
            identity: GroupIdentity::from_bytes(body[12..40].try_into().expect("28 bytes")),
            first_offset: u64_at(body, 40),
            first_index: u64_at(body, 48),
            previous: log_id_at(body, 56),
        })
    }
}

/// present: 1 | term: 8 | index: 8.
pub(super) fn put_log_id(out: &mut BytesMut, log_id: Option<LogId>) {
    out.put_u8(u8::from(log_id.is_some()));
    let LogId { term, index } = log_id.unwrap_or_default();
    out.put_u64(term);
    out.put_u64(index);
}

pub(super) fn log_id_at(bytes: &[u8], at: usize) -> Option<LogId> {
    (bytes[at] == 1).then(|| LogId::new(u64_at(bytes, at + 1), u64_at(bytes, at + 9)))
}

/// The file name of the log file that starts there.
pub(super) fn file_name(first_offset: u64, first_index: u64) -> String {
    format!("{first_offset:020}-{first_index:020}.log")
}

/// First log offset and first index from a file name; `None` for a name that is no log file's.
pub(super) fn parse_file_name(name: &str) -> Option<(u64, u64)> {
    let (offset, index) = name.strip_suffix(".log")?.split_once('-')?;
    let parsed = (offset.parse().ok()?, index.parse().ok()?);
    (file_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// The name of a log file's index.
pub(super) fn index_name(file_name: &str) -> String {
    format!("{}.index", file_name.strip_suffix(".log").unwrap_or(file_name))
}

/// A log file as the writer, the filler and the readers share it. What it contains is in the state's table.
pub(super) struct LogFile<D: Disk> {
    pub folder: PathBuf,
    pub name: String,
    pub header: FileHeader,
    /// Which bytes are written, zeroed or being zeroed.
    pub space: Space,
    /// True while an index file may exist.
    pub indexed: AtomicBool,
    handle: OnceLock<Arc<D::File>>,
}

impl<D: Disk> LogFile<D> {
    /// A file that does not exist yet, or is opened at first use.
    pub fn new(folder: &Path, header: FileHeader, length: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            name: file_name(header.first_offset, header.first_index),
            header,
            space: Space::new(length),
            indexed: AtomicBool::new(false),
            handle: OnceLock::new(),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    pub fn index_path(&self) -> PathBuf {
        self.folder.join(index_name(&self.name))
    }

    /// The handle, if the file was created or opened.
    pub fn handle(&self) -> Option<Arc<D::File>> {
        self.handle.get().cloned()
    }

    /// Sets the handle, once; a second one is dropped.
    pub fn set_handle(&self, file: D::File) -> Arc<D::File> {
        self.handle.get_or_init(|| Arc::new(file)).clone()
    }

    /// The handle of a file that exists.
    pub async fn open(&self, disk: &D) -> io::Result<Arc<D::File>> {
        match self.handle() {
            Some(handle) => Ok(handle),
            None => Ok(self.set_handle(disk.open(&self.path()).await?)),
        }
    }

    /// Where the record at this log offset lies in the file.
    pub fn position(&self, log_offset: u64) -> u64 {
        FILE_HEADER_BYTES + (log_offset - self.header.first_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_its_bytes_and_no_flipped_bit_passes() {
        let identity = GroupIdentity {
            cluster: [9; 16],
            group: 2,
            creation: 5,
        };
        let header = FileHeader {
            identity,
            first_offset: 800,
            first_index: 12,
            previous: Some(LogId::new(4, 11)),
        };
        let bytes = header.encode();
        assert_eq!(bytes.len() as u64, FILE_HEADER_BYTES);
        assert_eq!(FileHeader::decode(&bytes), Some(header));
        for bit in 0..8 * USED {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FileHeader::decode(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn only_log_file_names_are_parsed() {
        assert_eq!(parse_file_name(&file_name(7, 9)), Some((7, 9)));
        for name in [
            "7-9.log",
            "next.tmp",
            "00000000000000000007.log",
            &index_name(&file_name(7, 9)),
        ] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }
}
