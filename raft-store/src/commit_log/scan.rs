//! Reading a log file record by record, checking everything.

use std::io;

use bytes::Bytes;

use super::file::{FILE_HEADER_BYTES, FileHeader};
use super::index::FileIndex;
use super::record::{MAGIC, RECORD_HEADER_BYTES, RecordHeader, u32_at};
use crate::disk::DiskFile;
use crate::log_id::LogId;

/// Bytes read at once.
const WINDOW_BYTES: usize = 4 << 20;

/// A log file's records, up to the first place where none is.
pub(super) struct Scan {
    pub index: FileIndex,
    /// The last record.
    pub last: Option<LogId>,
    /// The highest index that any record says was on disk.
    pub synced: Option<u64>,
    /// Why it ends there.
    pub stop: &'static str,
}

/// What lies behind the end of the records.
pub(super) struct Rest {
    /// The highest index that any readable record there says was on disk.
    pub synced: Option<u64>,
    /// True if there is anything but zeros.
    pub dirty: bool,
}

/// A file read piece by piece.
struct Window<'a, F> {
    file: &'a F,
    length: u64,
    start: u64,
    bytes: Bytes,
}

impl<F: DiskFile> Window<'_, F> {
    /// The bytes there, or `None` past the end of the file.
    async fn get(&mut self, position: u64, length: usize) -> io::Result<Option<Bytes>> {
        if position.saturating_add(length as u64) > self.length {
            return Ok(None);
        }
        if position < self.start || position + length as u64 > self.start + self.bytes.len() as u64 {
            let left = usize::try_from(self.length - position).unwrap_or(usize::MAX);
            self.bytes = self.file.read_at(position, left.min(WINDOW_BYTES.max(length))).await?;
            self.start = position;
        }
        let from = (position - self.start) as usize;
        Ok(Some(self.bytes.slice(from..from + length)))
    }
}

/// Reads the records of a file of `length` bytes with this header, up to `end` (from the first record) if given.
pub(super) async fn scan<F: DiskFile>(
    file: &F,
    header: &FileHeader,
    seed: u32,
    length: u64,
    end: Option<u64>,
) -> io::Result<Scan> {
    let length = end.map_or(length, |end| length.min(FILE_HEADER_BYTES + end));
    let mut window = Window {
        file,
        length,
        start: 0,
        bytes: Bytes::new(),
    };
    let mut found = Scan {
        index: FileIndex::default(),
        last: None,
        synced: None,
        stop: "end of file",
    };
    let mut next = header.first_index;
    let mut term = header.previous.map_or(0, |previous| previous.term);
    loop {
        let position = FILE_HEADER_BYTES + u64::from(found.index.end);
        let log_offset = header.first_offset + u64::from(found.index.end);
        if position == length {
            return Ok(found);
        }
        let Some(bytes) = window.get(position, RECORD_HEADER_BYTES).await? else {
            found.stop = "too short for a record";
            return Ok(found);
        };
        let Some(record) = RecordHeader::decode(seed, log_offset, &bytes) else {
            found.stop = "no record header";
            return Ok(found);
        };
        if record.log_id.index != next || record.log_id.term < term {
            found.stop = "record out of order";
            return Ok(found);
        }
        found.synced = found.synced.max(record.synced);
        let stored = record.stored_bytes();
        let Some(bytes) = window.get(position, stored as usize).await? else {
            found.stop = "record reaches past the end";
            return Ok(found);
        };
        if record.record_in(&bytes).is_none() {
            found.stop = "payload checksum";
            return Ok(found);
        }
        let Some(end) = u32::try_from(stored)
            .ok()
            .and_then(|stored| found.index.end.checked_add(stored))
        else {
            found.stop = "file too long";
            return Ok(found);
        };
        found.index.offsets.push(found.index.end);
        found.index.end = end;
        if found.index.terms.is_empty() || record.log_id.term != term {
            found.index.terms.push(record.log_id);
        }
        found.last = Some(record.log_id);
        term = record.log_id.term;
        next += 1;
    }
}

/// Looks at everything from `end` on (from the first record): a record there, at its own place, tells what was on
/// disk when it was written, and so whether what is missing before it was torn or damaged.
pub(super) async fn rest<F: DiskFile>(
    file: &F,
    header: &FileHeader,
    seed: u32,
    length: u64,
    end: u32,
) -> io::Result<Rest> {
    let mut rest = Rest {
        synced: None,
        dirty: false,
    };
    let mut window = Window {
        file,
        length,
        start: 0,
        bytes: Bytes::new(),
    };
    let mut position = FILE_HEADER_BYTES + u64::from(end);
    while position < length {
        let step = usize::try_from(length - position)
            .unwrap_or(usize::MAX)
            .min(WINDOW_BYTES);
        let Some(bytes) = window.get(position, step).await? else {
            break;
        };
        let (mut at, clean) = (0, bytes.iter().all(|byte| *byte == 0));
        rest.dirty |= !clean;
        while !clean && at + MAGIC.len() <= bytes.len() {
            if u32_at(&bytes, at) == u32::from_be_bytes(MAGIC) {
                let place = position + at as u64;
                // A header may reach into the next window.
                let end = place.saturating_add(RECORD_HEADER_BYTES as u64).min(length);
                let candidate = match bytes.get(at..at + RECORD_HEADER_BYTES) {
                    Some(_) => bytes.slice(at..at + RECORD_HEADER_BYTES),
                    None => file.read_at(place, (end - place) as usize).await?,
                };
                let log_offset = header.first_offset + (place - FILE_HEADER_BYTES);
                if let Some(record) = RecordHeader::decode(seed, log_offset, &candidate) {
                    rest.synced = rest.synced.max(record.synced);
                }
            }
            at += 8;
        }
        position += step as u64;
    }
    Ok(rest)
}
