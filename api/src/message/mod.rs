//! One stored message: the bytes a consumer gets, a query returns and a transaction check carries.
//!
//! | size 4 | magic 4 | body CRC 4 | queue 4 | flag 4 | queue offset 8 | position 8 | sys flag 4 | born time 8 |
//! | born host 8 or 20 | store time 8 | store host 8 or 20 | reconsume times 4 | prepared transaction offset 8 |
//! | body length 4, body | topic length 1 (V1) or 2 (V2), topic | properties length 2, properties |
//!
//! Written with IPv4 hosts only, and as V1 whenever the topic fits in 127 bytes, because the Go and C++ clients read nothing
//! else. The body CRC is CRC-32 without its top bit. What is not known before a message has its place (queue offset,
//! position, store time) is written as zero and filled in by [`patch`].

mod decode;
pub mod patch;
pub mod peek;

pub use decode::{MessageView, StoredMessage, decode, records, view};
pub use peek::{peek_properties, peek_queue, peek_topic};

use std::net::SocketAddrV4;

use bytes::{BufMut, BytesMut};

use crate::limits::{MESSAGE_BYTES_MAX, PREFIXED_TOPIC_BYTES_MAX, PROPERTIES_BYTES_MAX};

/// Magic of a message with a one-byte topic length.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic of a message with a two-byte topic length.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Everything but body, topic and properties, with IPv4 hosts and V1.
pub const FIXED_BYTES: usize = 91;

/// sysFlag: the body is compressed.
pub const SYS_COMPRESSED: i32 = 0x1;
/// sysFlag: the broker found several tags.
pub const SYS_MULTI_TAGS: i32 = 0x2;
/// sysFlag: bits of the transaction state.
pub const SYS_TRANSACTION_MASK: i32 = 0xC;
/// sysFlag: half message.
pub const SYS_TRANSACTION_PREPARED: i32 = 0x4;
/// sysFlag: committed.
pub const SYS_TRANSACTION_COMMIT: i32 = 0x8;
/// sysFlag: rolled back.
pub const SYS_TRANSACTION_ROLLBACK: i32 = 0xC;
/// sysFlag: the born host is an IPv6 address.
pub const SYS_BORN_HOST_V6: i32 = 0x10;
/// sysFlag: the store host is an IPv6 address.
pub const SYS_STORE_HOST_V6: i32 = 0x20;

/// What a message is made of.
#[derive(Debug, Clone, Copy)]
pub struct MessageParts<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Queue number.
    pub queue: u32,
    /// The user's flag.
    pub flag: i32,
    /// Compression and transaction bits; the host bits are set by the encoder.
    pub sys_flag: i32,
    /// When the producer made the message, milliseconds since 1970.
    pub born_timestamp: i64,
    /// The producer's address.
    pub born_host: SocketAddrV4,
    /// When it was stored, milliseconds since 1970.
    pub store_timestamp: i64,
    /// The address clients find the message at.
    pub store_host: SocketAddrV4,
    /// How often it was consumed before.
    pub reconsume_times: i32,
    /// Position of the half message of a committed one, else 0.
    pub prepared_transaction_offset: i64,
    /// The body as sent.
    pub body: &'a [u8],
    /// Encoded properties.
    pub properties: &'a str,
    /// Place in the queue.
    pub queue_offset: i64,
    /// Place in the cluster, see [`crate::positions`].
    pub position: i64,
}

/// Why bytes are not a message, or parts do not make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Fewer bytes than the message says it has.
    #[error("the message is cut short")]
    Truncated,
    /// Lengths that contradict each other.
    #[error("the lengths inside the message do not add up")]
    Malformed,
    /// Neither of the two known magics.
    #[error("unknown message magic {0:#010x}")]
    Magic(u32),
    /// Topic or properties are not UTF-8.
    #[error("topic or properties are not UTF-8")]
    NotText,
    /// Body over the limit.
    #[error("the body has more than {MESSAGE_BYTES_MAX} bytes")]
    BodyTooLarge,
    /// Topic over the limit.
    #[error("the topic has more than {PREFIXED_TOPIC_BYTES_MAX} bytes")]
    TopicTooLong,
    /// Properties over the limit.
    #[error("the properties have more than {PROPERTIES_BYTES_MAX} bytes")]
    PropertiesTooLong,
}

/// The checksum field for a body.
pub fn body_crc(body: &[u8]) -> u32 {
    crc32fast::hash(body) & 0x7FFF_FFFF
}

/// How many bytes [`encode`] writes.
pub fn encoded_len(topic: &str, body_len: usize, properties: &str) -> usize {
    let topic_length_bytes = usize::from(topic.len() > 127);
    FIXED_BYTES + topic_length_bytes + topic.len() + body_len + properties.len()
}

/// Appends a message to `out`; nothing is written when a part is over its limit.
pub fn encode(parts: &MessageParts<'_>, out: &mut BytesMut) -> Result<(), MessageError> {
    if parts.body.len() > MESSAGE_BYTES_MAX {
        return Err(MessageError::BodyTooLarge);
    }
    if parts.topic.len() > PREFIXED_TOPIC_BYTES_MAX {
        return Err(MessageError::TopicTooLong);
    }
    if parts.properties.len() > PROPERTIES_BYTES_MAX {
        return Err(MessageError::PropertiesTooLong);
    }
    let short_topic = parts.topic.len() <= 127;
    let size = encoded_len(parts.topic, parts.body.len(), parts.properties);
    out.reserve(size);
    out.put_u32(size as u32);
    out.put_u32(if short_topic { MAGIC_V1 } else { MAGIC_V2 });
    out.put_u32(body_crc(parts.body));
    out.put_u32(parts.queue);
    out.put_i32(parts.flag);
    out.put_i64(parts.queue_offset);
    out.put_i64(parts.position);
    out.put_i32(parts.sys_flag & !(SYS_BORN_HOST_V6 | SYS_STORE_HOST_V6));
    out.put_i64(parts.born_timestamp);
    put_host(out, parts.born_host);
    out.put_i64(parts.store_timestamp);
    put_host(out, parts.store_host);
    out.put_i32(parts.reconsume_times);
    out.put_i64(parts.prepared_transaction_offset);
    out.put_u32(parts.body.len() as u32);
    out.put_slice(parts.body);
    if short_topic {
        out.put_u8(parts.topic.len() as u8);
    } else {
        out.put_u16(parts.topic.len() as u16);
    }
    out.put_slice(parts.topic.as_bytes());
    out.put_u16(parts.properties.len() as u16);
    out.put_slice(parts.properties.as_bytes());
    Ok(())
}

fn put_host(out: &mut BytesMut, host: SocketAddrV4) {
    out.put_slice(&host.ip().octets());
    out.put_u32(u32::from(host.port()));
}

#[cfg(test)]
mod tests;
