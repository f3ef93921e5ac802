//! The body of a batch send: records one after the other, without topic and queue.
//!
//! | size: 4 | magic: 4 | body CRC: 4 | flag: 4 | body length: 4 | body | properties length: 2 | properties |
//!
//! Magic and CRC are 0 from every client and not looked at.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits::{BATCH_MESSAGES_MAX, MESSAGE_BYTES_MAX, PROPERTIES_BYTES_MAX};

const FIXED_BYTES: usize = 4 + 4 + 4 + 4 + 4 + 2;

/// One message of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRecord {
    /// The user's flag.
    pub flag: i32,
    /// The body, a slice of the batch.
    pub body: Bytes,
    properties: Bytes,
}

impl BatchRecord {
    /// The encoded properties.
    pub fn properties(&self) -> &str {
        std::str::from_utf8(&self.properties).expect("checked by split")
    }
}

/// Why a batch body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A length does not fit the bytes there are.
    #[error("record {0} of the batch is cut or has a wrong length")]
    Malformed(usize),
    /// Properties that are not UTF-8.
    #[error("record {0} of the batch has properties that are not UTF-8")]
    NotText(usize),
    /// One body over the limit.
    #[error("record {0} of the batch is over the limit of {MESSAGE_BYTES_MAX} bytes")]
    TooLarge(usize),
    /// More records than a batch may have.
    #[error("the batch has more than {BATCH_MESSAGES_MAX} messages")]
    TooMany,
    /// No record at all.
    #[error("the batch is empty")]
    Empty,
}

/// The records of a batch body; bodies are slices of it.
pub fn split(body: &Bytes) -> Result<Vec<BatchRecord>, BatchError> {
    let mut records = Vec::new();
    let mut at = 0;
    while at < body.len() {
        if records.len() == BATCH_MESSAGES_MAX {
            return Err(BatchError::TooMany);
        }
        let (record, size) = read(body, at, records.len())?;
        records.push(record);
        at += size;
    }
    if records.is_empty() {
        Err(BatchError::Empty)
    } else {
        Ok(records)
    }
}

fn read(batch: &Bytes, at: usize, number: usize) -> Result<(BatchRecord, usize), BatchError> {
    let malformed = BatchError::Malformed(number);
    let mut rest = &batch[at..];
    if rest.len() < FIXED_BYTES {
        return Err(malformed);
    }
    let size = rest.get_u32() as usize;
    if size < FIXED_BYTES || size > batch.len() - at {
        return Err(malformed);
    }
    rest.advance(8);
    let flag = rest.get_i32();
    let body_length = rest.get_u32() as usize;
    if body_length > size - FIXED_BYTES {
        return Err(malformed);
    }
    if body_length > MESSAGE_BYTES_MAX {
        return Err(BatchError::TooLarge(number));
    }
    let body_at = at + 20;
    rest.advance(body_length);
    let properties_length = usize::from(rest.get_u16());
    if properties_length != size - FIXED_BYTES - body_length {
        return Err(malformed);
    }
    if properties_length > PROPERTIES_BYTES_MAX {
        return Err(BatchError::TooLarge(number));
    }
    let properties_at = body_at + body_length + 2;
    let properties = batch.slice(properties_at..properties_at + properties_length);
    if std::str::from_utf8(&properties).is_err() {
        return Err(BatchError::NotText(number));
    }
    Ok((
        BatchRecord {
            flag,
            body: batch.slice(body_at..body_at + body_length),
            properties,
        },
        size,
    ))
}

/// Adds one record to a batch body. Properties over [`PROPERTIES_BYTES_MAX`] cannot be written.
pub fn append(out: &mut BytesMut, flag: i32, body: &[u8], properties: &str) -> Result<(), BatchError> {
    let properties_length = u16::try_from(properties.len())
        .ok()
        .filter(|n| usize::from(*n) <= PROPERTIES_BYTES_MAX);
    let (Some(properties_length), true) = (properties_length, body.len() <= MESSAGE_BYTES_MAX) else {
        return Err(BatchError::TooLarge(0));
    };
    let size = FIXED_BYTES + body.len() + properties.len();
    out.reserve(size);
    out.put_u32(size as u32);
    out.put_u32(0);
    out.put_u32(0);
    out.put_i32(flag);
    out.put_u32(body.len() as u32);
    out.put_slice(body);
    out.put_u16(properties_length);
    out.put_slice(properties.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OFFICIAL: &str = "00000037000000000000000000000000000000024869001f\
        554e49515f4b45590158025741495401747275650254414753015461674102";

    fn bytes_of(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex"))
            .collect()
    }

    #[test]
    fn record_of_the_official_client() {
        let bytes = Bytes::from(bytes_of(OFFICIAL));
        let records = split(&bytes).expect("splits");
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].flag, &records[0].body[..]), (0, &b"Hi"[..]));
        assert_eq!(
            records[0].properties(),
            "UNIQ_KEY\u{1}X\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagA\u{2}"
        );
        let mut out = BytesMut::new();
        append(&mut out, 0, b"Hi", records[0].properties()).expect("fits");
        assert_eq!(out.freeze(), bytes);
    }

    #[test]
    fn limits_are_kept() {
        assert_eq!(split(&Bytes::new()), Err(BatchError::Empty));
        let mut out = BytesMut::new();
        for _ in 0..=BATCH_MESSAGES_MAX {
            append(&mut out, 0, b"", "").expect("fits");
        }
        assert_eq!(split(&out.freeze()), Err(BatchError::TooMany));
        let long = "x".repeat(PROPERTIES_BYTES_MAX + 1);
        assert_eq!(
            append(&mut BytesMut::new(), 0, b"", &long),
            Err(BatchError::TooLarge(0))
        );
    }

    proptest! {
        #[test]
        fn split_of_append(messages in prop::collection::vec((any::<i32>(), prop::collection::vec(any::<u8>(), 0..40), "\\PC{0,10}"), 1..9)) {
            let mut out = BytesMut::new();
            for (flag, body, properties) in &messages {
                append(&mut out, *flag, body, properties).expect("fits");
            }
            let read: Vec<_> = split(&out.freeze()).expect("splits")
                .iter().map(|r| (r.flag, r.body.to_vec(), r.properties().to_owned())).collect();
            prop_assert_eq!(read, messages);
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = split(&Bytes::from(bytes));
        }
    }
}
