//! One record of the log: the bytes of one Raft entry and the checksums that tie them to their place.
//!
//! Records start at multiples of 8 bytes. Layout, big-endian:
//!
//! ```text
//! | magic: 4 | header crc: 4 | log offset: 8 | term: 8 | index: 8 | synced index: 8
//! | payload length: 4 | payload crc: 4 | kind: 1 | zero: 7 | payload | zeros up to a multiple of 8 |
//! ```
//!
//! The header's CRC32C covers everything after it and starts from the group's identity, so that neither zeros, nor
//! the remains of another file, nor a record at a wrong place, nor one of another group passes for a record here.
//! The payload's CRC32C is computed once, by the proposer, and travels with the entry. The zeros are checked too.
//!
//! `synced index` is the highest index known to be on disk when this record was written (all ones: none): a record
//! at or below it that cannot be read was damaged, not torn.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::identity::GroupIdentity;
use crate::log_id::LogId;

/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 56;

/// Largest payload of one record.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

pub(super) const MAGIC: [u8; 4] = *b"FLr1";
const NO_INDEX: u64 = u64::MAX;

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// Nothing: a new leader's first entry.
    Blank,
    /// Frames for the state machine.
    Normal,
    /// A membership of the Raft group.
    Membership,
}

impl RecordKind {
    /// The byte that stands for it on disk and between replicas.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Blank => 0,
            Self::Normal => 1,
            Self::Membership => 2,
        }
    }

    /// The inverse of [`RecordKind::to_byte`].
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Blank),
            1 => Some(Self::Normal),
            2 => Some(Self::Membership),
            _ => None,
        }
    }
}

/// One entry of the log. Cloning shares the payload.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Its term and index.
    pub log_id: LogId,
    /// What the payload is.
    pub kind: RecordKind,
    /// The entry's bytes.
    pub payload: Bytes,
    /// CRC32C of `payload`.
    pub payload_crc: u32,
}

impl Record {
    /// A record of `payload`, with its checksum computed here.
    pub fn new(log_id: LogId, kind: RecordKind, payload: Bytes) -> Self {
        let payload_crc = crc32c::crc32c(&payload);
        Self {
            log_id,
            kind,
            payload,
            payload_crc,
        }
    }

    /// Bytes it takes in the log, padding included.
    pub fn stored_bytes(&self) -> u64 {
        stored_bytes(self.payload.len())
    }

    /// False if the payload is not the one the checksum was computed for.
    pub fn is_intact(&self) -> bool {
        crc32c::crc32c(&self.payload) == self.payload_crc
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Record({} {:?}, {} bytes, crc {:08x})",
            self.log_id,
            self.kind,
            self.payload.len(),
            self.payload_crc
        )
    }
}

/// Bytes of a record with a payload of this length.
pub(super) const fn stored_bytes(payload_length: usize) -> u64 {
    (RECORD_HEADER_BYTES + payload_length).next_multiple_of(8) as u64
}

/// The checksum every record header of this group starts from.
pub(super) fn checksum_seed(identity: GroupIdentity) -> u32 {
    crc32c::crc32c(&identity.to_bytes())
}

/// A record's header, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub log_offset: u64,
    pub log_id: LogId,
    pub synced: Option<u64>,
    pub kind: RecordKind,
    pub payload_length: u32,
    pub payload_crc: u32,
}

impl RecordHeader {
    pub fn of(record: &Record, log_offset: u64, synced: Option<u64>) -> Self {
        Self {
            log_offset,
            log_id: record.log_id,
            synced,
            kind: record.kind,
            payload_length: u32::try_from(record.payload.len()).expect("append refuses larger payloads"),
            payload_crc: record.payload_crc,
        }
    }

    /// Appends exactly [`RECORD_HEADER_BYTES`].
    pub fn encode(&self, seed: u32, out: &mut BytesMut) {
        let start = out.len();
        out.put_slice(&MAGIC);
        out.put_u32(0);
        out.put_u64(self.log_offset);
        out.put_u64(self.log_id.term);
        out.put_u64(self.log_id.index);
        out.put_u64(self.synced.unwrap_or(NO_INDEX));
        out.put_u32(self.payload_length);
        out.put_u32(self.payload_crc);
        out.put_u8(self.kind.to_byte());
        out.put_bytes(0, 7);
        let crc = crc32c::crc32c_append(seed, &out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_be_bytes());
    }

    /// The header at the start of `bytes`, or `None` if there is none that was written for `log_offset`.
    pub fn decode(seed: u32, log_offset: u64, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
        if bytes[..4] != MAGIC || u64_at(bytes, 8) != log_offset {
            return None;
        }
        if u32_at(bytes, 4) != crc32c::crc32c_append(seed, &bytes[8..]) {
            return None;
        }
        let synced = u64_at(bytes, 32);
        let payload_length = u32_at(bytes, 40);
        if payload_length as usize > PAYLOAD_BYTES_MAX {
            return None;
        }
        Some(Self {
            log_offset,
            log_id: LogId::new(u64_at(bytes, 16), u64_at(bytes, 24)),
            synced: (synced != NO_INDEX).then_some(synced),
            kind: RecordKind::from_byte(bytes[48])?,
            payload_length,
            payload_crc: u32_at(bytes, 44),
        })
    }

    pub fn stored_bytes(&self) -> u64 {
        stored_bytes(self.payload_length as usize)
    }

    /// The record, if `stored` are all of its bytes, undamaged.
    pub fn record_in(&self, stored: &Bytes) -> Option<Record> {
        let payload_end = RECORD_HEADER_BYTES + self.payload_length as usize;
        if stored.len() as u64 != self.stored_bytes() || stored[payload_end..].iter().any(|byte| *byte != 0) {
            return None;
        }
        let payload = stored.slice(RECORD_HEADER_BYTES..payload_end);
        let record = Record {
            log_id: self.log_id,
            kind: self.kind,
            payload,
            payload_crc: self.payload_crc,
        };
        record.is_intact().then_some(record)
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> RecordHeader {
        let record = Record::new(LogId::new(3, 17), RecordKind::Normal, Bytes::from_static(b"payload"));
        RecordHeader::of(&record, 4096, Some(15))
    }

    #[test]
    fn header_survives_its_bytes() {
        let mut bytes = BytesMut::new();
        header().encode(7, &mut bytes);
        assert_eq!(bytes.len(), RECORD_HEADER_BYTES);
        assert_eq!(RecordHeader::decode(7, 4096, &bytes), Some(header()));
    }

    #[test]
    fn another_group_or_place_or_any_flipped_bit_is_refused() {
        let mut bytes = BytesMut::new();
        header().encode(7, &mut bytes);
        assert_eq!(RecordHeader::decode(8, 4096, &bytes), None);
        assert_eq!(RecordHeader::decode(7, 4104, &bytes), None);
        for bit in 0..8 * RECORD_HEADER_BYTES {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHeader::decode(7, 4096, &bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn records_are_padded_to_eight_bytes() {
        assert_eq!(stored_bytes(0), 56);
        assert_eq!(stored_bytes(1), 64);
        assert_eq!(stored_bytes(8), 64);
    }
}
