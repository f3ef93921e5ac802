//! A small value that is replaced whole and survives any one damaged sector: the vote, the log's marker.
//!
//! A file of two slots, 4 KiB apart, each 512 bytes, big-endian:
//! `magic: 4 | crc of all after: 4 | identity: 28 | sequence: 8 | length: 4 | value | zeros`.
//!
//! A write goes to the first slot, is synced, then to the second, and is synced. So whatever was acknowledged is in
//! both: a crash leaves at most one slot torn and the other whole, and a slot that rots later has a twin. Both bad
//! means that the value is lost, and nobody may guess it.

use std::io;
use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};

use super::OpenError;
use super::record::{u32_at, u64_at};
use crate::disk::{Disk, DiskFile};
use crate::identity::GroupIdentity;

const MAGIC: [u8; 4] = *b"FLs1";
const SLOT_BYTES: usize = 512;
const SLOT_OFFSETS: [u64; 2] = [0, 4096];
const VALUE_AT: usize = 4 + 4 + GroupIdentity::BYTES + 8 + 4;

/// Longest value.
pub const VALUE_BYTES_MAX: usize = SLOT_BYTES - VALUE_AT;

/// The open file and the number of the last write.
pub struct Slots<F> {
    file: F,
    identity: GroupIdentity,
    sequence: u64,
}

impl<F: DiskFile> Slots<F> {
    /// Creates the file with a first value under a temporary name, syncs it and names it. The caller syncs the
    /// folder.
    pub async fn create<D: Disk<File = F>>(
        disk: &D,
        path: &Path,
        identity: GroupIdentity,
        value: &[u8],
    ) -> io::Result<Self> {
        let temporary = path.with_extension("tmp");
        match disk.unlink(&temporary).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut slots = Self {
            file: disk.create(&temporary).await?,
            identity,
            sequence: 0,
        };
        slots.write(value).await?;
        disk.rename(&temporary, path).await?;
        Ok(slots)
    }

    /// Opens an existing file and returns its value. A bad or older slot is written again from the good one.
    pub async fn open<D: Disk<File = F>>(
        disk: &D,
        path: &Path,
        identity: GroupIdentity,
    ) -> Result<(Self, Bytes), OpenError> {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let file = disk.open(path).await?;
        let length = file.len().await?;
        let mut found: [Option<(u64, Bytes)>; 2] = [None, None];
        for (slot, offset) in SLOT_OFFSETS.into_iter().enumerate() {
            if offset + SLOT_BYTES as u64 > length {
                continue;
            }
            let bytes = file.read_at(offset, SLOT_BYTES).await?;
            if let Some((owner, sequence, value)) = decode(&bytes) {
                if owner != identity {
                    return Err(OpenError::Foreign {
                        file: name,
                        found: owner,
                    });
                }
                found[slot] = Some((sequence, value));
            }
        }
        let whole = found[0].is_some() && found[0] == found[1];
        let Some((sequence, value)) = found.into_iter().flatten().max_by_key(|(sequence, _)| *sequence) else {
            return Err(OpenError::Damaged {
                file: name,
                log_offset: None,
                log_index: None,
                reason: "both slots are unreadable",
            });
        };
        let mut slots = Self {
            file,
            identity,
            sequence,
        };
        if whole {
            // A killed process may have left them in the page cache only.
            slots.file.sync().await?;
        } else {
            slots.write(&value).await?;
        }
        Ok((slots, value))
    }

    /// Replaces the value. On return it is on disk, twice.
    pub async fn write(&mut self, value: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let bytes = encode(self.identity, self.sequence, value);
        for offset in SLOT_OFFSETS {
            self.file.write_at(offset, std::slice::from_ref(&bytes)).await?;
            self.file.sync().await?;
        }
        Ok(())
    }
}

fn encode(identity: GroupIdentity, sequence: u64, value: &[u8]) -> Bytes {
    assert!(
        value.len() <= VALUE_BYTES_MAX,
        "a slot holds at most {VALUE_BYTES_MAX} bytes"
    );
    let mut out = BytesMut::with_capacity(SLOT_BYTES);
    out.put_slice(&MAGIC);
    out.put_u32(0);
    out.put_slice(&identity.to_bytes());
    out.put_u64(sequence);
    out.put_u32(u32::try_from(value.len()).expect("at most VALUE_BYTES_MAX"));
    out.put_slice(value);
    out.resize(SLOT_BYTES, 0);
    let crc = crc32c::crc32c(&out[8..]);
    out[4..8].copy_from_slice(&crc.to_be_bytes());
    out.freeze()
}

fn decode(bytes: &Bytes) -> Option<(GroupIdentity, u64, Bytes)> {
    if bytes[..4] != MAGIC || u32_at(bytes, 4) != crc32c::crc32c(&bytes[8..]) {
        return None;
    }
    let identity = GroupIdentity::from_bytes(bytes[8..8 + GroupIdentity::BYTES].try_into().expect("28 bytes"));
    let sequence = u64_at(bytes, 36);
    let length = u32_at(bytes, 44) as usize;
    (length <= VALUE_BYTES_MAX).then(|| (identity, sequence, bytes.slice(VALUE_AT..VALUE_AT + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: GroupIdentity = GroupIdentity {
        cluster: [1; 16],
        group: 2,
        creation: 3,
    };

    #[test]
    fn slot_survives_its_bytes_and_no_flipped_bit_passes() {
        let bytes = encode(IDENTITY, 77, b"value");
        assert_eq!(decode(&bytes), Some((IDENTITY, 77, Bytes::from_static(b"value"))));
        for bit in 0..8 * SLOT_BYTES {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&Bytes::from(flipped)), None, "bit {bit}");
        }
    }
}
