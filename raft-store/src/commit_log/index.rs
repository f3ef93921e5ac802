//! The index of a sealed log file: where each record lies, and where terms begin. Derived: rebuilt by reading the
//! log file when it is missing or bad.
//!
//! Layout, big-endian, in a file named like the log file with `.index`:
//!
//! ```text
//! | magic: 8 | identity: 28 | first offset: 8 | first index: 8 | end: 4 | records: 4 | term starts: 4
//! | record offset: 4 each | term: 8, index: 8 each | crc of all before: 4 |
//! ```
//!
//! Record offsets and `end` count from the first record. Written when the writer leaves a file for good, removed and
//! the removal synced before a truncation cuts the file.

use bytes::{BufMut, Bytes, BytesMut};

use super::file::FileHeader;
use super::record::{RECORD_HEADER_BYTES, u32_at, u64_at};
use crate::identity::GroupIdentity;
use crate::log_id::LogId;

const MAGIC: [u8; 8] = *b"FLLOGI\x00\x01";
const FIXED: usize = 8 + GroupIdentity::BYTES + 8 + 8 + 4 + 4 + 4;

/// What a log file contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FileIndex {
    /// Where each record starts, from the first record's place.
    pub offsets: Vec<u32>,
    /// Where the last record ends.
    pub end: u32,
    /// The file's first entry, and every entry of a term other than the one before it.
    pub terms: Vec<LogId>,
}

impl FileIndex {
    pub fn encode(&self, header: &FileHeader) -> Bytes {
        let count = |length: usize| u32::try_from(length).expect("records of one file are counted in 32 bits");
        let mut out = BytesMut::with_capacity(FIXED + 4 * self.offsets.len() + 16 * self.terms.len() + 4);
        out.put_slice(&MAGIC);
        out.put_slice(&header.identity.to_bytes());
        out.put_u64(header.first_offset);
        out.put_u64(header.first_index);
        out.put_u32(self.end);
        out.put_u32(count(self.offsets.len()));
        out.put_u32(count(self.terms.len()));
        for offset in &self.offsets {
            out.put_u32(*offset);
        }
        for start in &self.terms {
            out.put_u64(start.term);
            out.put_u64(start.index);
        }
        let crc = crc32c::crc32c(&out);
        out.put_u32(crc);
        out.freeze()
    }

    /// `None` unless `bytes` are the whole, undamaged index of the file with this header.
    pub fn decode(header: &FileHeader, bytes: &[u8]) -> Option<Self> {
        if bytes.len() < FIXED + 4 {
            return None;
        }
        let (body, crc) = bytes.split_at(bytes.len() - 4);
        if body[..8] != MAGIC || u32_at(crc, 0) != crc32c::crc32c(body) {
            return None;
        }
        let place = (u64_at(body, 36), u64_at(body, 44));
        if body[8..36] != header.identity.to_bytes() || place != (header.first_offset, header.first_index) {
            return None;
        }
        let end = u32_at(body, 52);
        let (records, terms) = (u32_at(body, 56) as usize, u32_at(body, 60) as usize);
        if body.len() != FIXED + 4 * records + 16 * terms {
            return None;
        }
        let offsets: Vec<u32> = (0..records).map(|record| u32_at(body, FIXED + 4 * record)).collect();
        let terms_at = FIXED + 4 * records;
        let terms: Vec<LogId> = (0..terms)
            .map(|start| {
                LogId::new(
                    u64_at(body, terms_at + 16 * start),
                    u64_at(body, terms_at + 16 * start + 8),
                )
            })
            .collect();
        let ends = offsets.iter().skip(1).chain(std::iter::once(&end));
        let spaced = offsets
            .iter()
            .zip(ends)
            .all(|(start, end)| *end >= start.saturating_add(RECORD_HEADER_BYTES as u32));
        let whole = offsets.first() == Some(&0) && terms.first().map(|start| start.index) == Some(header.first_index);
        (spaced && whole).then_some(Self { offsets, end, terms })
    }

    /// Term of the last record.
    pub fn last_term(&self) -> Option<u64> {
        self.terms.last().map(|start| start.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_survives_its_bytes_and_no_flipped_bit_passes() {
        let identity = GroupIdentity {
            cluster: [9; 16],
            group: 2,
            creation: 5,
        };
        let header = FileHeader {
            identity,
            first_offset: 800,
            first_index: 12,
            previous: None,
        };
        let index = FileIndex {
            offsets: vec![0, 64, 160],
            end: 224,
            terms: vec![LogId::new(1, 12), LogId::new(4, 14)],
        };
        let bytes = index.encode(&header);
        assert_eq!(FileIndex::decode(&header, &bytes), Some(index));
        let elsewhere = FileHeader {
            first_offset: 808,
            ..header
        };
        assert_eq!(FileIndex::decode(&elsewhere, &bytes), None);
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FileIndex::decode(&header, &flipped), None, "bit {bit}");
        }
    }
}
