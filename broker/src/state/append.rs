//! The command that stores one message: the only frequent one, so it is written with one copy of the body and read
//! in place.
//!
//! Layout, big-endian:
//!
//!   | kind: 1 | version: 1 | generation: 4 | queue: 4 | tag hash: 4 | proposed store time: 8 |
//!   | key count: 1 | topic length: 1 | mark: 1 | topic | key hashes: 8 each |
//!   | if marked: ingress: 8 | sequence: 8 | part: 2 | message in wire form |
//!
//! The mark is 0 for a message of a client of the leader; else it came through another node ([`ForwardMark::byte`]).
//!
//! The message's queue offset, position and store time are zero in the log: apply decides them, reads patch them in.

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::codec::{Decoder, Malformed};
use super::forwarded::ForwardMark;
use super::limits::{KEYS_PER_MESSAGE_MAX, NAME_BYTES_MAX, STORED_MESSAGE_BYTES_MAX, STORED_MESSAGE_BYTES_MIN};

/// First byte of an append frame.
pub const KIND_APPEND: u8 = 1;
const VERSION: u8 = 2;
const FIXED_BYTES: usize = 25;
const MARK_BYTES: usize = 18;

/// The name under which the key index stores `key` of a message in `topic`.
pub fn key_hash(topic: &str, key: &str) -> u64 {
    xxh3_64_with_seed(key.as_bytes(), xxh3_64(topic.as_bytes()))
}

/// Hashes of a message's keys, without duplicates; the first [`KEYS_PER_MESSAGE_MAX`] count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHashes {
    count: usize,
    hashes: [u64; KEYS_PER_MESSAGE_MAX],
}

impl KeyHashes {
    /// No key.
    pub const fn none() -> Self {
        Self {
            count: 0,
            hashes: [0; KEYS_PER_MESSAGE_MAX],
        }
    }

    /// The unique key, then each blank-separated token of the KEYS property.
    pub fn of(topic: &str, unique_key: Option<&str>, keys: Option<&str>) -> Self {
        let mut all = Self::none();
        let seed = xxh3_64(topic.as_bytes());
        let tokens = keys.unwrap_or_default().split(' ');
        for key in unique_key.into_iter().chain(tokens).filter(|key| !key.is_empty()) {
            all.push(xxh3_64_with_seed(key.as_bytes(), seed));
        }
        all
    }

    /// Adds one hash, unless it is there already or the limit is reached.
    pub fn push(&mut self, hash: u64) {
        if self.count < KEYS_PER_MESSAGE_MAX && !self.as_slice().contains(&hash) {
            self.hashes[self.count] = hash;
            self.count += 1;
        }
    }

    /// The hashes in order of insertion.
    pub fn as_slice(&self) -> &[u64] {
        &self.hashes[..self.count]
    }
}

impl std::fmt::Debug for KeyHashes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

/// What stands before the message in an append frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendHeader<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The queue number.
    pub queue: u32,
    /// The generation of the queue's open segment as the sender knows it.
    pub generation: u32,
    /// Hash of the message's tag as RocketMQ computes it, 0 without a tag.
    pub tag_hash: i32,
    /// The proposer's clock.
    pub store_time: i64,
    /// Keys to be found by.
    pub keys: KeyHashes,
    /// How it is numbered if it came through another node.
    pub mark: Option<ForwardMark>,
}

impl AppendHeader<'_> {
    /// Bytes that [`AppendHeader::put`] will write.
    pub fn encoded_len(&self) -> usize {
        let mark = if self.mark.is_some() { MARK_BYTES } else { 0 };
        FIXED_BYTES + self.topic.len() + 8 * self.keys.as_slice().len() + mark
    }

    /// Writes the header; the message in wire form has to follow.
    ///
    /// # Panics
    /// With a topic longer than 255 bytes: names are validated where requests come in.
    pub fn put(&self, out: &mut BytesMut) {
        out.reserve(self.encoded_len());
        out.put_u8(KIND_APPEND);
        out.put_u8(VERSION);
        out.put_u32(self.generation);
        out.put_u32(self.queue);
        out.put_i32(self.tag_hash);
        out.put_i64(self.store_time);
        out.put_u8(u8::try_from(self.keys.as_slice().len()).expect("KEYS_PER_MESSAGE_MAX fits"));
        out.put_u8(u8::try_from(self.topic.len()).expect("topic names are validated before proposing"));
        out.put_u8(ForwardMark::byte(self.mark.as_ref()));
        out.put_slice(self.topic.as_bytes());
        for hash in self.keys.as_slice() {
            out.put_u64(*hash);
        }
        if let Some(mark) = self.mark {
            out.put_u64(mark.ingress);
            out.put_u64(mark.sequence);
            out.put_u16(mark.part);
        }
    }

    /// The whole frame, by copying `message`. The fast way is [`AppendHeader::put`] and encoding the message behind.
    pub fn frame(&self, message: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len() + message.len());
        self.put(&mut out);
        out.put_slice(message);
        out.freeze()
    }
}

/// An append frame read in place.
#[derive(Clone, Debug)]
pub struct Append<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The queue number.
    pub queue: u32,
    /// The generation the sender knew.
    pub generation: u32,
    /// Tag hash.
    pub tag_hash: i32,
    /// The proposer's clock.
    pub store_time: i64,
    /// How it is numbered if it came through another node.
    pub mark: Option<ForwardMark>,
    /// The message in wire form, times and offsets not yet patched.
    pub message: &'a [u8],
    key_bytes: &'a [u8],
}

impl<'a> Append<'a> {
    /// Reads a frame that starts with [`KIND_APPEND`].
    pub fn parse(frame: &'a [u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(frame);
        if decoder.u8()? != KIND_APPEND || decoder.u8()? != VERSION {
            return Err(Malformed);
        }
        let generation = decoder.u32()?;
        let queue = decoder.u32()?;
        let tag_hash = decoder.i32()?;
        let store_time = decoder.i64()?;
        let key_count = usize::from(decoder.u8()?);
        let topic_bytes = usize::from(decoder.u8()?);
        let repeated = ForwardMark::repeated_in(decoder.u8()?)?;
        if key_count > KEYS_PER_MESSAGE_MAX || topic_bytes == 0 || topic_bytes > NAME_BYTES_MAX {
            return Err(Malformed);
        }
        let topic = std::str::from_utf8(decoder.take(topic_bytes)?).map_err(|_| Malformed)?;
        let key_bytes = decoder.take(8 * key_count)?;
        let mark = match repeated {
            None => None,
            Some(repeated) => Some(ForwardMark {
                ingress: decoder.u64()?,
                sequence: decoder.u64()?,
                part: decoder.u16()?,
                repeated,
            }),
        };
        let message = decoder.rest();
        if !(STORED_MESSAGE_BYTES_MIN..=STORED_MESSAGE_BYTES_MAX).contains(&message.len()) || store_time < 0 {
            return Err(Malformed);
        }
        Ok(Self {
            topic,
            queue,
            generation,
            tag_hash,
            store_time,
            mark,
            message,
            key_bytes,
        })
    }

    /// Hashes of the message's keys.
    pub fn keys(&self) -> impl Iterator<Item = u64> + 'a {
        self.key_bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|chunk| u64::from_be_bytes(*chunk))
    }
}

/// The message in an append frame as a slice of it; `None` if the frame is another command or malformed.
pub fn message_of(frame: &Bytes) -> Option<Bytes> {
    let message = Append::parse(frame).ok()?.message.len();
    Some(frame.slice(frame.len() - message..))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> AppendHeader<'static> {
        AppendHeader {
            topic: "T",
            queue: 3,
            generation: 0,
            tag_hash: -2,
            store_time: 1_700_000_000_001,
            keys: KeyHashes::of("T", Some("id1"), Some("k1  k2 k1 ")),
            mark: None,
        }
    }

    fn marked(repeated: bool) -> AppendHeader<'static> {
        let mark = ForwardMark {
            ingress: 0x0102,
            sequence: 0x0304,
            part: 0x0506,
            repeated,
        };
        AppendHeader {
            mark: Some(mark),
            ..header()
        }
    }

    #[test]
    fn an_append_frame_has_these_bytes() {
        let mut header = header();
        header.keys = KeyHashes::none();
        header.keys.push(0x0102_0304_0506_0708);
        let frame = header.frame(&[0xaa; STORED_MESSAGE_BYTES_MIN]);
        let golden = [
            1, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0xff, 0xff, 0xff, 0xfe, 0, 0, 1, 0x8b, 0xcf, 0xe5, 0x68, 1, 1, 1, 0, b'T', 1,
            2, 3, 4, 5, 6, 7, 8,
        ];
        assert_eq!(&frame[..golden.len()], golden);
        assert_eq!(&frame[golden.len()..], [0xaa; STORED_MESSAGE_BYTES_MIN]);
    }

    #[test]
    fn the_mark_of_a_message_through_another_node_has_these_bytes() {
        for (repeated, byte) in [(false, 1), (true, 2)] {
            let mut header = marked(repeated);
            header.keys = KeyHashes::none();
            let frame = header.frame(&[0xaa; STORED_MESSAGE_BYTES_MIN]);
            let golden = [0, 1, byte, b'T', 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4, 5, 6];
            let end = 22 + golden.len();
            assert_eq!(&frame[22..end], golden);
            assert_eq!(end, header.encoded_len());
            assert_eq!(&frame[end..], [0xaa; STORED_MESSAGE_BYTES_MIN]);
        }
    }

    #[test]
    fn a_mark_survives_its_bytes_and_an_unknown_one_is_refused() {
        for header in [header(), marked(false), marked(true)] {
            let frame = header.frame(&[5; 100]);
            let append = Append::parse(&frame).unwrap();
            assert_eq!(append.mark, header.mark);
            assert_eq!(append.keys().collect::<Vec<_>>(), header.keys.as_slice());
            assert_eq!(message_of(&frame).unwrap(), vec![5; 100]);
            let mut unknown = frame.to_vec();
            unknown[24] = 3;
            assert_eq!(Append::parse(&unknown).err(), Some(Malformed));
        }
    }

    #[test]
    fn an_append_frame_is_read_in_place() {
        let frame = header().frame(&[5; 100]);
        let append = Append::parse(&frame).unwrap();
        assert_eq!((append.topic, append.queue, append.tag_hash), ("T", 3, -2));
        assert_eq!(append.store_time, 1_700_000_000_001);
        let expected = [key_hash("T", "id1"), key_hash("T", "k1"), key_hash("T", "k2")];
        assert_eq!(
            append.keys().collect::<Vec<_>>(),
            expected,
            "blanks and repetitions are left out"
        );
        assert_eq!(message_of(&frame).unwrap(), vec![5; 100]);
    }

    #[test]
    fn any_cut_into_the_header_is_refused() {
        for header in [header(), marked(true)] {
            let frame = header.frame(&[5; STORED_MESSAGE_BYTES_MIN]);
            for end in 0..frame.len() {
                assert_eq!(Append::parse(&frame[..end]).err(), Some(Malformed), "cut at {end}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_damaged_append_is_read_as_it_stands_or_refused(
            is_marked in any::<bool>(),
            damage in prop::collection::vec((0..80_usize, any::<u8>()), 0..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let header = if is_marked { marked(true) } else { header() };
            let mut frame = header.frame(&[5; 2 * STORED_MESSAGE_BYTES_MIN]).to_vec();
            for (place, byte) in damage {
                frame[place] = byte;
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len()));
            }
            let frame = Bytes::from(frame);
            if let Ok(append) = Append::parse(&frame) {
                let message = message_of(&frame);
                prop_assert_eq!(message.as_deref(), Some(append.message));
                let mut keys = KeyHashes::none();
                append.keys().for_each(|key| keys.push(key));
                let again = AppendHeader {
                    topic: append.topic,
                    queue: append.queue,
                    generation: append.generation,
                    tag_hash: append.tag_hash,
                    store_time: append.store_time,
                    keys,
                    mark: append.mark,
                };
                // Bytes of the message taken for keys are alike, and nothing writes a key twice.
                if keys.as_slice().len() == append.keys().count() {
                    prop_assert_eq!(again.frame(append.message), frame);
                }
            }
        }
    }

    #[test]
    fn keys_over_the_limit_are_not_indexed() {
        let many: String = (0..100).map(|n| format!("k{n} ")).collect();
        assert_eq!(
            KeyHashes::of("T", None, Some(&many)).as_slice().len(),
            KEYS_PER_MESSAGE_MAX
        );
    }

    #[test]
    fn a_key_is_hashed_with_its_topic() {
        assert_ne!(key_hash("T1", "k"), key_hash("T2", "k"));
        assert_eq!(KeyHashes::of("T", None, Some("k")).as_slice(), [key_hash("T", "k")]);
    }
}
