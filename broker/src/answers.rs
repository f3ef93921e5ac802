//! Bytes of answers in this node, over all connections: being read from the log, or waiting for a client to take them.
//!
//! One client may have [`crate::connection::UNSENT_BYTES_MAX`] waiting, and all together [`ANSWER_BYTES_HIGH`]. Above
//! that each connection gets one answer at a time, and who takes none is cut off sooner, so that those who do read are
//! served on. Above [`ANSWER_BYTES_MAX`] what would read messages waits a moment and is then refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flotilla_api::remoting::codes::response;
use tokio::sync::SemaphorePermit;

use crate::connection_table::Connection;
use crate::error::Failure;

/// Bytes of answers from which on clients get one at a time.
pub const ANSWER_BYTES_HIGH: usize = 256 * 1024 * 1024;
/// Bytes of answers from which on no more messages are read.
pub const ANSWER_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Requests of one connection that read messages from the log at a time.
pub const READS_PER_CONNECTION_MAX: u32 = 4;

/// What one of them counts until its answer is there: an entry of the log, and what is copied from it.
const READ_BYTES: usize = 2 * 1024 * 1024;
/// How long such a request waits for the others' answers to leave, and how often it looks.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(2);
const ROOM_POLL: Duration = Duration::from_millis(10);

/// The bytes of one node; see the module.
#[derive(Debug, Default)]
pub struct AnswerBytes(AtomicUsize);

impl AnswerBytes {
    /// So many more.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many less.
    pub fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// True above [`ANSWER_BYTES_HIGH`].
    pub fn is_high(&self) -> bool {
        self.0.load(Ordering::Relaxed) > ANSWER_BYTES_HIGH
    }

    /// Waits until messages may be read for a connection, or for another node.
    pub async fn begin_read<'a>(&'a self, connection: Option<&'a Connection>) -> Result<Reading<'a>, Failure> {
        let turn = match connection {
            Some(connection) => Some(connection.read_turn(self.is_high()).await),
            None => None,
        };
        let deadline = Instant::now() + ROOM_WAIT_MAX;
        while self.0.load(Ordering::Relaxed) > ANSWER_BYTES_MAX {
            if Instant::now() >= deadline {
                let remark = "[OVERLOAD]system busy, too many answers wait for clients that do not read them";
                return Err(Failure::answer(response::SYSTEM_BUSY, remark));
            }
            tokio::time::sleep(ROOM_POLL).await;
        }
        self.add(READ_BYTES);
        Ok(Reading { bytes: self, turn })
    }
}

/// Messages are being read, or wait for the rest of their answer, until it is dropped.
#[derive(Debug)]
pub struct Reading<'a> {
    bytes: &'a AnswerBytes,
    turn: Option<SemaphorePermit<'a>>,
}

impl Reading<'_> {
    /// All is read: the next request of the connection may. What was read still counts.
    pub fn end_turn(&mut self) {
        self.turn = None;
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.bytes.remove(READ_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use futures_util::FutureExt;

    use super::*;
    use crate::connection_table::ConnectionTable;

    #[tokio::test]
    async fn reads_are_bounded_for_one_connection_and_for_all() {
        let table = ConnectionTable::new(10);
        let connection = || table.admit(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1)).unwrap().0;
        let (one, other) = (connection(), connection());
        let bytes = AnswerBytes::default();
        let begin = |connection| bytes.begin_read(Some(connection)).now_or_never();
        let mut held: Vec<_> = (0..READS_PER_CONNECTION_MAX)
            .map(|_| begin(&one).expect("a turn of its own").unwrap())
            .collect();
        assert!(begin(&one).is_none(), "one connection waits for itself");
        drop(begin(&other).expect("and for no other").unwrap());
        held[0].end_turn();
        assert!(begin(&one).is_some());

        bytes.add(ANSWER_BYTES_HIGH);
        assert!(bytes.is_high());
        assert!(begin(&one).is_none(), "one answer at a time");
        held.clear();
        let only = begin(&one).expect("the only one").unwrap();
        assert!(begin(&one).is_none());
        drop(only);

        bytes.add(ANSWER_BYTES_MAX - ANSWER_BYTES_HIGH + 1);
        assert!(begin(&other).is_none());
        let refused = bytes.begin_read(None).await.unwrap_err();
        assert_eq!(refused.code_and_remark().0, response::SYSTEM_BUSY);
        bytes.remove(ANSWER_BYTES_MAX + 1);
        assert!(begin(&other).is_some());
        assert_eq!(bytes.0.load(Ordering::Relaxed), 0, "what was counted is given back");
    }
}
