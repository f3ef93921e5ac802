//! Reading stored messages: a borrowed view of one record, an owned copy, and the records of a response body.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, Bytes};

use super::{MAGIC_V1, MAGIC_V2, MessageError, SYS_BORN_HOST_V6, SYS_STORE_HOST_V6};

/// A message read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageView<'a> {
    /// Bytes of the whole record.
    pub size: usize,
    /// Checksum field as stored.
    pub body_crc: u32,
    /// Queue number.
    pub queue: u32,
    /// The user's flag.
    pub flag: i32,
    /// Place in the queue.
    pub queue_offset: i64,
    /// Place in the cluster.
    pub position: i64,
    /// Compression, transaction and host bits.
    pub sys_flag: i32,
    /// When the producer made it.
    pub born_timestamp: i64,
    /// The producer's address.
    pub born_host: SocketAddr,
    /// When it was stored.
    pub store_timestamp: i64,
    /// The address clients find it at.
    pub store_host: SocketAddr,
    /// How often it was consumed before.
    pub reconsume_times: i32,
    /// Position of its half message, or 0.
    pub prepared_transaction_offset: i64,
    /// Body as sent.
    pub body: &'a [u8],
    /// Topic.
    pub topic: &'a str,
    /// Encoded properties.
    pub properties: &'a str,
}

/// A message with everything it holds, independent of the bytes it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Topic.
    pub topic: String,
    /// Queue number.
    pub queue: u32,
    /// The user's flag.
    pub flag: i32,
    /// Compression, transaction and host bits.
    pub sys_flag: i32,
    /// When the producer made it.
    pub born_timestamp: i64,
    /// The producer's address.
    pub born_host: SocketAddr,
    /// When it was stored.
    pub store_timestamp: i64,
    /// The address clients find it at.
    pub store_host: SocketAddr,
    /// How often it was consumed before.
    pub reconsume_times: i32,
    /// Position of its half message, or 0.
    pub prepared_transaction_offset: i64,
    /// Body as sent.
    pub body: Bytes,
    /// Encoded properties.
    pub properties: String,
    /// Place in the queue.
    pub queue_offset: i64,
    /// Place in the cluster.
    pub position: i64,
    /// Checksum field as stored.
    pub body_crc: u32,
}

impl MessageView<'_> {
    /// A copy that outlives the bytes.
    pub fn to_owned(&self) -> StoredMessage {
        StoredMessage {
            topic: self.topic.to_owned(),
            queue: self.queue,
            flag: self.flag,
            sys_flag: self.sys_flag,
            born_timestamp: self.born_timestamp,
            born_host: self.born_host,
            store_timestamp: self.store_timestamp,
            store_host: self.store_host,
            reconsume_times: self.reconsume_times,
            prepared_transaction_offset: self.prepared_transaction_offset,
            body: Bytes::copy_from_slice(self.body),
            properties: self.properties.to_owned(),
            queue_offset: self.queue_offset,
            position: self.position,
            body_crc: self.body_crc,
        }
    }
}

/// The message at the start of `bytes`, copied; more bytes may follow.
pub fn decode(bytes: &[u8]) -> Result<StoredMessage, MessageError> {
    view(bytes).map(|message| message.to_owned())
}

/// The messages of a response body, in order. An error ends the iteration: what follows has no known start.
pub fn records(body: &[u8]) -> impl Iterator<Item = Result<MessageView<'_>, MessageError>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = view(rest);
        rest = match &message {
            Ok(message) => &rest[message.size..],
            Err(_) => &[],
        };
        Some(message)
    })
}

/// The message at the start of `bytes`, in place; more bytes may follow.
pub fn view(bytes: &[u8]) -> Result<MessageView<'_>, MessageError> {
    let mut head = bytes;
    let size = take(&mut head, 4)?.get_u32() as usize;
    let mut rest = bytes.get(4..size).ok_or(if size < 4 {
        MessageError::Malformed
    } else {
        MessageError::Truncated
    })?;
    read(&mut rest, size).map_err(|error| match error {
        // The record is all there: a part that does not fit in it is a wrong length.
        MessageError::Truncated => MessageError::Malformed,
        other => other,
    })
}

fn read<'a>(rest: &mut &'a [u8], size: usize) -> Result<MessageView<'a>, MessageError> {
    let mut fixed = take(rest, 44)?;
    let magic = fixed.get_u32();
    if magic != MAGIC_V1 && magic != MAGIC_V2 {
        return Err(MessageError::Magic(magic));
    }
    let body_crc = fixed.get_u32();
    let queue = fixed.get_u32();
    let flag = fixed.get_i32();
    let queue_offset = fixed.get_i64();
    let position = fixed.get_i64();
    let sys_flag = fixed.get_i32();
    let born_timestamp = fixed.get_i64();
    let born_host = host(rest, sys_flag & SYS_BORN_HOST_V6 != 0)?;
    let store_timestamp = take(rest, 8)?.get_i64();
    let store_host = host(rest, sys_flag & SYS_STORE_HOST_V6 != 0)?;
    let mut fixed = take(rest, 16)?;
    let reconsume_times = fixed.get_i32();
    let prepared_transaction_offset = fixed.get_i64();
    let body_length = fixed.get_u32() as usize;
    let body = take(rest, body_length)?;
    let topic_length = if magic == MAGIC_V1 {
        usize::from(take(rest, 1)?.get_u8())
    } else {
        usize::from(take(rest, 2)?.get_u16())
    };
    let topic = text(take(rest, topic_length)?)?;
    let properties_length = usize::from(take(rest, 2)?.get_u16());
    let properties = text(take(rest, properties_length)?)?;
    if !rest.is_empty() {
        return Err(MessageError::Malformed);
    }
    Ok(MessageView {
        size,
        body_crc,
        queue,
        flag,
        queue_offset,
        position,
        sys_flag,
        born_timestamp,
        born_host,
        store_timestamp,
        store_host,
        reconsume_times,
        prepared_transaction_offset,
        body,
        topic,
        properties,
    })
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], MessageError> {
    let (taken, left) = rest.split_at_checked(count).ok_or(MessageError::Truncated)?;
    *rest = left;
    Ok(taken)
}

fn host(rest: &mut &[u8], v6: bool) -> Result<SocketAddr, MessageError> {
    let ip = if v6 {
        IpAddr::V6(Ipv6Addr::from(take(rest, 16)?.get_u128()))
    } else {
        IpAddr::V4(Ipv4Addr::from(take(rest, 4)?.get_u32()))
    };
    let port = take(rest, 4)?.get_u32();
    Ok(SocketAddr::new(
        ip,
        u16::try_from(port).map_err(|_| MessageError::Malformed)?,
    ))
}

fn text(bytes: &[u8]) -> Result<&str, MessageError> {
    std::str::from_utf8(bytes).map_err(|_| MessageError::NotText)
}
