//! Filling in what is known only once a message has its place. The fields lie at fixed offsets.

use super::MessageError;
use super::peek::{self, POSITION_AT, QUEUE_AT, QUEUE_OFFSET_AT};

/// Writes the queue offset.
pub fn set_queue_offset(message: &mut [u8], queue_offset: i64) -> Result<(), MessageError> {
    put(message, QUEUE_OFFSET_AT, &queue_offset.to_be_bytes())
}

/// Writes the position.
pub fn set_position(message: &mut [u8], position: i64) -> Result<(), MessageError> {
    put(message, POSITION_AT, &position.to_be_bytes())
}

/// Writes the queue number.
pub fn set_queue(message: &mut [u8], queue: u32) -> Result<(), MessageError> {
    put(message, QUEUE_AT, &queue.to_be_bytes())
}

/// Writes the store time.
pub fn set_store_timestamp(message: &mut [u8], store_timestamp: i64) -> Result<(), MessageError> {
    let at = peek::store_timestamp_at(message)?;
    put(message, at, &store_timestamp.to_be_bytes())
}

/// Writes the address clients find the message at; the record must have been written with an IPv4 store host.
pub fn set_store_host(message: &mut [u8], store_host: std::net::SocketAddrV4) -> Result<(), MessageError> {
    let at = peek::store_timestamp_at(message)? + 8;
    put(message, at, &store_host.ip().octets())?;
    put(message, at + 4, &u32::from(store_host.port()).to_be_bytes())
}

fn put(message: &mut [u8], at: usize, value: &[u8]) -> Result<(), MessageError> {
    message
        .get_mut(at..at + value.len())
        .ok_or(MessageError::Truncated)?
        .copy_from_slice(value);
    Ok(())
}
