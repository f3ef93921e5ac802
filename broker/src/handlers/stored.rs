//! Committed messages as clients see them: bytes from the log with queue offset, position and store time filled in.
//!
//! Served by any node from its own log and index: a committed message never changes.

use std::io;

use bytes::{Bytes, BytesMut};
use flotilla_api::message::patch;
use flotilla_api::positions::Position;
use flotilla_raft_store::frames::Frames;

use crate::machine::Located;
use crate::replica::Replica;
use crate::state::{Append, KIND_APPEND};

/// Reads the frames of entries, remembering the last entry: messages of a queue lie in entries together.
pub struct EntryReader<'a> {
    replica: &'a Replica,
    last: Option<(u64, Option<Frames>)>,
}

impl<'a> EntryReader<'a> {
    /// A reader of a replica's log.
    pub fn new(replica: &'a Replica) -> Self {
        Self { replica, last: None }
    }

    /// The frame in `slot` of an entry; `None` when retention removed it.
    pub async fn frame(&mut self, log_index: u64, slot: u16) -> io::Result<Option<Bytes>> {
        if self.last.as_ref().is_none_or(|(index, _)| *index != log_index) {
            let frames = self.replica.group.read_frames(log_index).await?;
            self.last = Some((log_index, frames));
        }
        let frames = self.last.as_ref().and_then(|(_, frames)| frames.as_ref());
        Ok(frames.and_then(|frames| frames.get(usize::from(slot))))
    }

    /// Appends the message at `located` to `out` as clients see it, unless that would make `out` longer than
    /// `bytes_max`; the first message always fits.
    pub async fn copy(&mut self, located: &Located, bytes_max: usize, out: &mut BytesMut) -> io::Result<Copied> {
        let Some(frame) = self.frame(located.log_index, located.slot).await? else {
            return Ok(Copied::Removed);
        };
        let Some(message) = message(&frame) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the index points at a frame that is no message",
            ));
        };
        if !out.is_empty() && out.len() + message.len() > bytes_max {
            return Ok(Copied::NoRoom);
        }
        put(self.replica.number, located, message, out)?;
        Ok(Copied::Yes)
    }
}

/// What became of a message to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// It is there.
    Yes,
    /// It is left for the next answer.
    NoRoom,
    /// Retention removed it.
    Removed,
}

/// The message in a frame, if that is what the frame holds.
pub fn message(frame: &[u8]) -> Option<&[u8]> {
    append(frame).map(|append| append.message)
}

/// The append command in a frame, if that is what the frame holds.
pub fn append(frame: &[u8]) -> Option<Append<'_>> {
    (frame.first() == Some(&KIND_APPEND)).then(|| Append::parse(frame).ok())?
}

fn put(group_number: u16, located: &Located, message: &[u8], out: &mut BytesMut) -> io::Result<()> {
    let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let position = Position::new(group_number, located.log_index, located.slot)
        .ok_or_else(|| broken("a log index beyond what positions can name"))?;
    let start = out.len();
    out.extend_from_slice(message);
    let copy = &mut out[start..];
    patch::set_queue_offset(copy, located.queue_offset)
        .and_then(|()| patch::set_position(copy, position.as_i64()))
        .and_then(|()| patch::set_store_timestamp(copy, located.store_time))
        .map_err(|error| broken(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use flotilla_api::message::{self as stored, MessageParts};

    use super::*;
    use crate::state::{AppendHeader, KeyHashes};

    fn frame() -> Bytes {
        let host = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 10_911);
        let parts = MessageParts {
            topic: "T",
            queue: 2,
            flag: 0,
            sys_flag: 0,
            born_timestamp: 5,
            born_host: host,
            store_timestamp: 0,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"body",
            properties: "",
            queue_offset: 0,
            position: 0,
        };
        let mut message = BytesMut::new();
        stored::encode(&parts, &mut message).unwrap();
        let keys = KeyHashes::none();
        AppendHeader {
            topic: "T",
            queue: 2,
            generation: 0,
            tag_hash: 0,
            store_time: 9,
            keys,
            mark: None,
        }
        .frame(&message)
    }

    #[test]
    fn place_and_time_are_filled_in() {
        let located = Located {
            queue_offset: 17,
            log_index: 4,
            slot: 3,
            store_time: 99,
            tag_hash: 0,
        };
        let mut out = BytesMut::new();
        put(1, &located, message(&frame()).unwrap(), &mut out).unwrap();
        let seen = stored::decode(&out).unwrap();
        assert_eq!((seen.queue, seen.queue_offset, seen.store_timestamp), (2, 17, 99));
        assert_eq!(seen.position, Position::new(1, 4, 3).unwrap().as_i64());
        assert_eq!(seen.body, "body");
    }

    #[test]
    fn other_commands_are_no_messages() {
        let frame = crate::state::Command::Trim { log_index: 1 }.encode();
        assert!(message(&frame).is_none());
        assert!(message(&[]).is_none());
    }
}
