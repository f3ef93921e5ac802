//! Reading records: from the tail in memory, or from the files in pieces, every checksum verified.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::file::LogFile;
use super::record::{Record, RecordHeader};
use super::shared::Shared;
use super::state::State;
use crate::disk::{Disk, DiskFile};

/// Bytes read from a file at once, unless one record is larger.
const READ_BYTES_MAX: usize = 4 << 20;

/// Consecutive records of one file.
struct Place<D: Disk> {
    file: Arc<LogFile<D>>,
    first_index: u64,
    /// Where they start and how long each is.
    log_offset: u64,
    lengths: Vec<usize>,
    /// The state's count of cuts when this was true.
    cut_count: u64,
}

/// The records `from..to`, or fewer, at least one if `from` is there.
pub(super) async fn read<D: Disk>(shared: &Shared<D>, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Record>> {
    loop {
        let place = {
            let state = shared.state.lock();
            let recent = state.tail.range(from, to, bytes_max);
            if !recent.is_empty() {
                return Ok(recent);
            }
            // What is in the tail may not be in the files yet.
            let to = state.tail.first_index().map_or(to, |first| to.min(first));
            match locate(&state, from, to, bytes_max.min(READ_BYTES_MAX)) {
                Some(place) => place,
                None => return Ok(Vec::new()),
            }
        };
        match read_place(shared, &place).await {
            Ok(records) => return Ok(records),
            // Taken away meanwhile, or damaged?
            Err(error) if shared.state.lock().cut_count == place.cut_count => return Err(error),
            Err(_) => {}
        }
    }
}

fn locate<D: Disk>(state: &State<D>, from: u64, to: u64, bytes_max: usize) -> Option<Place<D>> {
    if from >= to {
        return None;
    }
    let entry = state.entry_of(from)?;
    let first = usize::try_from(from - entry.first_index()).ok()?;
    let count = usize::try_from(to.min(entry.next_index()) - from).ok()?;
    let mut lengths = Vec::new();
    let mut bytes = 0;
    for record in first..first + count {
        let length = (entry.end_of(record) - entry.offsets[record]) as usize;
        bytes += length;
        if bytes > bytes_max && !lengths.is_empty() {
            break;
        }
        lengths.push(length);
    }
    Some(Place {
        file: entry.file.clone(),
        first_index: from,
        log_offset: entry.file.header.first_offset + u64::from(entry.offsets[first]),
        lengths,
        cut_count: state.cut_count,
    })
}

async fn read_place<D: Disk>(shared: &Shared<D>, place: &Place<D>) -> io::Result<Vec<Record>> {
    let handle = place.file.open(&shared.disk).await?;
    let bytes = handle
        .read_at(place.file.position(place.log_offset), place.lengths.iter().sum())
        .await?;
    let mut records = Vec::with_capacity(place.lengths.len());
    let mut at = 0;
    for (index, length) in (place.first_index..).zip(&place.lengths) {
        let record = parse(shared.seed, place.log_offset + at as u64, bytes.slice(at..at + length));
        match record {
            Some(record) if record.log_id.index == index => records.push(record),
            _ => {
                let message = format!("damaged record: log index {index} in {}", place.file.name);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
        at += length;
    }
    Ok(records)
}

fn parse(seed: u32, log_offset: u64, bytes: Bytes) -> Option<Record> {
    RecordHeader::decode(seed, log_offset, &bytes)?.record_in(&bytes)
}
