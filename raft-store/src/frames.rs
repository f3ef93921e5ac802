//! The payload of one normal Raft entry: the frames (commands) that were waiting when the batch was closed.
//!
//! Layout, big-endian: `count: u16 | end offset of each frame, from the first frame's start: u32 × count | frames`.
//! A frame's number in its entry is its *slot*; entry index and slot together name a frame for ever.

use bytes::{BufMut, Bytes, BytesMut};

/// Most frames in one entry: slots are 11 bits wide where positions are shown to clients.
pub const FRAMES_MAX: usize = 2048;

/// A parsed payload; frames are slices of it, nothing is copied.
#[derive(Clone, Debug)]
pub struct Frames {
    payload: Bytes,
    count: usize,
}

/// The payload is not a list of frames. Seen only when a peer of another version or a broken one sends it: records
/// on disk are protected by their checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry payload is not a list of frames")]
pub struct MalformedFrames;

impl Frames {
    /// Checks the table of ends, so that every later access is in bounds.
    pub fn parse(payload: Bytes) -> Result<Self, MalformedFrames> {
        if payload.len() < 2 {
            return Err(MalformedFrames);
        }
        let count = usize::from(u16::from_be_bytes([payload[0], payload[1]]));
        let frames = Self { payload, count };
        let table_end = frames.start();
        if count > FRAMES_MAX || frames.payload.len() < table_end {
            return Err(MalformedFrames);
        }
        let mut previous = 0;
        for slot in 0..count {
            let end = frames.end(slot);
            if end < previous {
                return Err(MalformedFrames);
            }
            previous = end;
        }
        if table_end + previous != frames.payload.len() {
            return Err(MalformedFrames);
        }
        Ok(frames)
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True for a payload without frames.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The frame in `slot`, or `None` past the end.
    pub fn get(&self, slot: usize) -> Option<Bytes> {
        if slot >= self.count {
            return None;
        }
        let from = if slot == 0 { 0 } else { self.end(slot - 1) };
        let base = self.start();
        Some(self.payload.slice(base + from..base + self.end(slot)))
    }

    /// All frames in slot order.
    pub fn iter(&self) -> impl Iterator<Item = Bytes> + '_ {
        (0..self.count).filter_map(|slot| self.get(slot))
    }

    fn start(&self) -> usize {
        2 + 4 * self.count
    }

    fn end(&self, slot: usize) -> usize {
        let at = 2 + 4 * slot;
        let bytes = &self.payload[at..at + 4];
        u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize
    }
}

/// Packs `frames` into a payload: the one copy a message pays on its way into the log.
///
/// # Panics
/// With more than [`FRAMES_MAX`] frames, or 4 GiB of them: the accumulator closes a batch long before.
pub fn pack(frames: &[Bytes]) -> Bytes {
    assert!(frames.len() <= FRAMES_MAX, "an entry holds at most {FRAMES_MAX} frames");
    let bytes: usize = frames.iter().map(Bytes::len).sum();
    let mut payload = BytesMut::with_capacity(2 + 4 * frames.len() + bytes);
    payload.put_u16(u16::try_from(frames.len()).expect("at most FRAMES_MAX"));
    let mut end = 0;
    for frame in frames {
        end += frame.len();
        payload.put_u32(u32::try_from(end).expect("an entry is far below 4 GiB"));
    }
    for frame in frames {
        payload.put_slice(frame);
    }
    payload.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_packing() {
        let input = [Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"three")];
        let frames = Frames::parse(pack(&input)).unwrap();
        assert_eq!(frames.iter().collect::<Vec<_>>(), input);
        assert_eq!(frames.get(3), None);
    }

    #[test]
    fn any_cut_of_a_payload_is_refused() {
        let payload = pack(&[Bytes::from_static(b"one"), Bytes::from_static(b"two")]);
        for end in 0..payload.len() {
            assert!(Frames::parse(payload.slice(..end)).is_err(), "cut at {end}");
        }
    }
}
