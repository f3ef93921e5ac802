//! The marker: where the log starts, kept in a file of two slots beside the log files.
//!
//! Everything that must change at one instant goes through it: the Raft start (purge touches no file), the physical
//! start (files before it are leftovers of an interrupted removal), and which folder of log files is the log (a
//! snapshot's files become the log by naming their folder here).
//!
//! Value layout, big-endian: `generation: 8 | start offset: 8 | purged: 17 | known synced: 17`.

use bytes::{BufMut, BytesMut};

use super::file::{log_id_at, put_log_id};
use super::record::u64_at;
use crate::log_id::LogId;

const VALUE_BYTES: usize = 8 + 8 + 17 + 17;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marker {
    /// The log files are in the folder of this number.
    pub generation: u64,
    /// First log offset of the first log file.
    pub start_offset: u64,
    /// The last entry that Raft no longer reads.
    pub purged: Option<LogId>,
    /// An entry known to be on disk: the last one at an orderly close.
    pub synced: Option<LogId>,
}

impl Marker {
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(VALUE_BYTES);
        out.put_u64(self.generation);
        out.put_u64(self.start_offset);
        put_log_id(&mut out, self.purged);
        put_log_id(&mut out, self.synced);
        out
    }

    pub fn decode(value: &[u8]) -> Option<Self> {
        (value.len() == VALUE_BYTES).then(|| Self {
            generation: u64_at(value, 0),
            start_offset: u64_at(value, 8),
            purged: log_id_at(value, 16),
            synced: log_id_at(value, 33),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_survives_its_bytes() {
        for purged in [None, Some(LogId::new(2, 9))] {
            let marker = Marker {
                generation: 3,
                start_offset: 4096,
                purged,
                synced: Some(LogId::new(3, 12)),
            };
            assert_eq!(Marker::decode(&marker.encode()), Some(marker));
        }
        assert_eq!(Marker::decode(b""), None);
    }
}
