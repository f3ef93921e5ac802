//! Single fields of a stored message, without reading the rest.

use super::{MAGIC_V1, MAGIC_V2, MessageError, SYS_BORN_HOST_V6, SYS_STORE_HOST_V6};

pub(super) const QUEUE_AT: usize = 12;
pub(super) const QUEUE_OFFSET_AT: usize = 20;
pub(super) const POSITION_AT: usize = 28;
const SYS_FLAG_AT: usize = 36;

/// The size field: bytes of the whole record.
pub fn peek_size(message: &[u8]) -> Result<usize, MessageError> {
    Ok(u32_at(message, 0)? as usize)
}

/// The queue number.
pub fn peek_queue(message: &[u8]) -> Result<u32, MessageError> {
    u32_at(message, QUEUE_AT)
}

/// The queue offset.
pub fn peek_queue_offset(message: &[u8]) -> Result<i64, MessageError> {
    i64_at(message, QUEUE_OFFSET_AT)
}

/// The store time.
pub fn peek_store_timestamp(message: &[u8]) -> Result<i64, MessageError> {
    i64_at(message, store_timestamp_at(message)?)
}

/// The topic.
pub fn peek_topic(message: &[u8]) -> Result<&str, MessageError> {
    let (start, end) = topic_range(message)?;
    text(message, start, end)
}

/// The encoded properties.
pub fn peek_properties(message: &[u8]) -> Result<&str, MessageError> {
    let (_, topic_end) = topic_range(message)?;
    let length = usize::from(u16::from_be_bytes(array_at(message, topic_end)?));
    text(message, topic_end + 2, topic_end + 2 + length)
}

pub(super) fn store_timestamp_at(message: &[u8]) -> Result<usize, MessageError> {
    Ok(if u32_at(message, SYS_FLAG_AT)? as i32 & SYS_BORN_HOST_V6 != 0 {
        68
    } else {
        56
    })
}

fn topic_range(message: &[u8]) -> Result<(usize, usize), MessageError> {
    let sys_flag = u32_at(message, SYS_FLAG_AT)? as i32;
    let store_host_bytes = if sys_flag & SYS_STORE_HOST_V6 != 0 { 20 } else { 8 };
    let body_length_at = store_timestamp_at(message)? + 8 + store_host_bytes + 4 + 8;
    let topic_length_at = body_length_at + 4 + u32_at(message, body_length_at)? as usize;
    let (start, length) = match u32_at(message, 4)? {
        MAGIC_V1 => (
            topic_length_at + 1,
            usize::from(array_at::<1>(message, topic_length_at)?[0]),
        ),
        MAGIC_V2 => (
            topic_length_at + 2,
            usize::from(u16::from_be_bytes(array_at(message, topic_length_at)?)),
        ),
        other => return Err(MessageError::Magic(other)),
    };
    Ok((start, start + length))
}

fn text(message: &[u8], start: usize, end: usize) -> Result<&str, MessageError> {
    let bytes = message.get(start..end).ok_or(MessageError::Truncated)?;
    std::str::from_utf8(bytes).map_err(|_| MessageError::NotText)
}

fn array_at<const N: usize>(message: &[u8], at: usize) -> Result<[u8; N], MessageError> {
    message
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .ok_or(MessageError::Truncated)
}

fn u32_at(message: &[u8], at: usize) -> Result<u32, MessageError> {
    Ok(u32::from_be_bytes(array_at(message, at)?))
}

fn i64_at(message: &[u8], at: usize) -> Result<i64, MessageError> {
    Ok(i64::from_be_bytes(array_at(message, at)?))
}
