//! Requests from node to node over one connection: many at a time, answered in any order.
//!
//! ```text
//! request: kind: u8 | number: u64 | time left in ms: u32 | payload
//! cancel:  255 | number: u64
//! answer:  status: u8, 0 is done | number: u64 | payload, or the text of a failure
//! ```
//!
//! Holds: at most [`CALLS_IN_FLIGHT_MAX`] requests wait, and [`CALLS_PARKED_MAX`] for messages; every one of them ends, with its answer, with its deadline
//! or with the connection. A failure of the kind `NotConnected` surely left nothing at the other node; after any
//! other, the outcome is unknown. The serving side stops what a connection asked for when the connection closes, and
//! what a caller gave up when it says so: a parked pull does not outlive its client.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_raft_store::transport::{FrameReceiver, FrameSender};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet, yield_now};
use tokio::time::{timeout, timeout_at};
use tracing::debug;

use super::listener::PeerHandler;
use super::stream::{PeerReceiver, PeerSender};
use super::{CALLS_IN_FLIGHT_MAX, CALLS_PARKED_MAX, CALLS_SERVED_MAX, LIVING_FOR, PEER_FRAME_BYTES_MAX};

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// A client's request, passed on.
    Forward,
    /// Who are you and how are you?
    Info,
    /// An operation of the admin API.
    Admin,
    /// A question to a controller.
    Controller,
    /// A client's request, passed on, that may wait for a message.
    Park,
}

impl CallKind {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Forward => 0,
            Self::Info => 1,
            Self::Admin => 2,
            Self::Controller => 3,
            Self::Park => 4,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Forward),
            1 => Some(Self::Info),
            2 => Some(Self::Admin),
            3 => Some(Self::Controller),
            4 => Some(Self::Park),
            _ => None,
        }
    }
}

/// Frames waiting for the writer task of a connection.
const WRITER_QUEUE_MAX: usize = 1024;
/// Frames written by one system call.
const WRITE_BATCH_MAX: usize = 64;
const REQUEST_HEAD_BYTES: usize = 13;
/// The kind byte of a cancellation.
const CANCEL: u8 = 255;
const CANCEL_BYTES: usize = 9;
const ANSWER_HEAD_BYTES: usize = 9;

type Waiting = HashMap<u64, oneshot::Sender<io::Result<Bytes>>>;

/// The calling side of one connection.
#[derive(Debug)]
pub(super) struct CallConnection {
    outgoing: mpsc::Sender<Vec<Bytes>>,
    pending: Arc<Mutex<Pending>>,
    in_flight: Semaphore,
    parked: Semaphore,
}

#[derive(Debug, Default)]
struct Pending {
    next_number: u64,
    waiting: Waiting,
    broken: bool,
    /// When the first of the questions was asked that nothing was heard after.
    unheard_since: Option<Instant>,
}

impl Pending {
    /// Nothing comes back any more: what is written now may arrive long after its caller gave up.
    fn is_silent(&self) -> bool {
        self.unheard_since.is_some_and(|since| since.elapsed() >= LIVING_FOR)
    }
}

impl CallConnection {
    /// Starts the tasks that write requests and read answers.
    pub(super) fn start(sender: PeerSender, receiver: PeerReceiver) -> Arc<Self> {
        let (outgoing, queued) = mpsc::channel(WRITER_QUEUE_MAX);
        let pending = Arc::new(Mutex::new(Pending::default()));
        tokio::spawn({
            let pending = pending.clone();
            async move {
                let reason = tokio::select! {
                    outcome = write_frames(sender, queued) => outcome.err(),
                    outcome = read_answers(receiver, &pending) => outcome.err(),
                };
                let waiting = {
                    let mut pending = pending.lock();
                    pending.broken = true;
                    std::mem::take(&mut pending.waiting)
                };
                let reason = reason.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
                for answer in waiting.into_values() {
                    // A caller that gave up does not want to know.
                    let _ = answer.send(Err(io::Error::new(io::ErrorKind::ConnectionReset, reason.to_string())));
                }
            }
        });
        Arc::new(Self {
            outgoing,
            pending,
            in_flight: Semaphore::new(CALLS_IN_FLIGHT_MAX),
            parked: Semaphore::new(CALLS_PARKED_MAX),
        })
    }

    /// True once the connection ended.
    pub(super) fn is_broken(&self) -> bool {
        self.pending.lock().broken
    }

    /// Puts a request behind those before it; it leaves in that order. Waits only while too many are on their way.
    pub(super) async fn place(
        self: &Arc<Self>,
        kind: CallKind,
        payload: Bytes,
        deadline: Instant,
    ) -> io::Result<Placed> {
        let until = tokio::time::Instant::from_std(deadline);
        let not_sent = |why: &str| io::Error::new(io::ErrorKind::NotConnected, why.to_owned());
        let turns = self.turns(kind);
        let acquired = async {
            match turns {
                Some(turns) => turns.acquire().await.map(Some),
                None => Ok(None),
            }
        };
        let Ok(Ok(turn)) = timeout_at(until, acquired).await else {
            return Err(not_sent("too many calls are waiting"));
        };
        let slot = match timeout_at(until, self.outgoing.reserve()).await {
            Ok(Ok(slot)) => slot,
            Ok(Err(_)) => return Err(not_sent("connection closed")),
            Err(_) => return Err(not_sent("connection takes no more")),
        };
        let (answer, answered) = oneshot::channel();
        let number = {
            let mut pending = self.pending.lock();
            if pending.broken {
                return Err(not_sent("connection closed"));
            }
            // Nodes are asked all the time how they are, so an answer of some kind comes if any can; controllers are not.
            if !matches!(kind, CallKind::Info | CallKind::Controller) && pending.is_silent() {
                return Err(not_sent("the node is silent"));
            }
            pending.unheard_since.get_or_insert_with(Instant::now);
            pending.next_number += 1;
            let number = pending.next_number;
            pending.waiting.insert(number, answer);
            number
        };
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let mut head = BytesMut::with_capacity(REQUEST_HEAD_BYTES);
        head.put_u8(kind.to_byte());
        head.put_u64(number);
        head.put_u32(u32::try_from(left).unwrap_or(u32::MAX));
        slot.send(vec![head.freeze(), payload]);
        if let Some(turn) = turn {
            // Given back with the call.
            turn.forget();
        }
        Ok(Placed {
            answered,
            until,
            call: Call {
                connection: Arc::clone(self),
                kind,
                number,
            },
        })
    }

    fn turns(&self, kind: CallKind) -> Option<&Semaphore> {
        match kind {
            // One at a time; it tells whether the others may hope.
            CallKind::Info => None,
            // What waits for messages must not hold up what does not.
            CallKind::Park => Some(&self.parked),
            _ => Some(&self.in_flight),
        }
    }
}

/// A request on its way.
#[derive(Debug)]
pub struct Placed {
    answered: oneshot::Receiver<io::Result<Bytes>>,
    until: tokio::time::Instant,
    call: Call,
}

impl Placed {
    /// Waits for the answer.
    pub async fn answer(self) -> io::Result<Bytes> {
        // Given up when this future is dropped.
        let _call = self.call;
        match timeout_at(self.until, self.answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(io::ErrorKind::ConnectionReset.into()),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        }
    }
}

/// Gives a call's turn back and removes its entry however the call ends, and cancels it if nobody waits for its answer any
/// more.
#[derive(Debug)]
struct Call {
    connection: Arc<CallConnection>,
    kind: CallKind,
    number: u64,
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(turns) = self.connection.turns(self.kind) {
            turns.add_permits(1);
        }
        let given_up = self.connection.pending.lock().waiting.remove(&self.number).is_some();
        if given_up {
            let mut cancel = BytesMut::with_capacity(CANCEL_BYTES);
            cancel.put_u8(CANCEL);
            cancel.put_u64(self.number);
            // Without room the other side ends the call by its deadline.
            let _ = self.connection.outgoing.try_send(vec![cancel.freeze()]);
        }
    }
}

async fn write_frames(mut sender: PeerSender, mut queued: mpsc::Receiver<Vec<Bytes>>) -> io::Result<()> {
    let mut batch = Vec::with_capacity(WRITE_BATCH_MAX);
    while queued.recv_many(&mut batch, WRITE_BATCH_MAX).await > 0 {
        // Calls come in bursts: whatever is queued a turn later goes out with the same write.
        yield_now().await;
        while batch.len() < WRITE_BATCH_MAX
            && let Ok(frame) = queued.try_recv()
        {
            batch.push(frame);
        }
        match batch.as_slice() {
            [single] => sender.send(single).await?,
            several => sender.send_all(several).await?,
        }
        batch.clear();
    }
    Ok(())
}

async fn read_answers(mut receiver: PeerReceiver, pending: &Mutex<Pending>) -> io::Result<()> {
    while let Some(mut frame) = receiver.receive().await? {
        if frame.len() < ANSWER_HEAD_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "answer without a head"));
        }
        let status = frame.get_u8();
        let number = frame.get_u64();
        let outcome = match status {
            0 => Ok(frame),
            _ => Err(io::Error::other(String::from_utf8_lossy(&frame).into_owned())),
        };
        let waiting = {
            let mut pending = pending.lock();
            pending.unheard_since = None;
            pending.waiting.remove(&number)
        };
        if let Some(answer) = waiting {
            // A caller that gave up does not want to know.
            let _ = answer.send(outcome);
        }
    }
    Ok(())
}

/// The serving side of one connection of the node `from`, until it closes.
pub(super) async fn serve_calls(
    sender: PeerSender,
    mut receiver: PeerReceiver,
    from: &str,
    handler: Arc<dyn PeerHandler>,
) -> io::Result<()> {
    let (answers, queued) = mpsc::channel(WRITER_QUEUE_MAX);
    let reader = async {
        let mut served = JoinSet::new();
        let mut under_way = HashMap::new();
        while let Some(frame) = receiver.receive().await? {
            while let Some(ended) = served.try_join_next_with_id() {
                forget(&mut under_way, ended);
            }
            if let Some(number) = cancelled(&frame) {
                if let Some(task) = under_way.remove(&number) {
                    let task: AbortHandle = task;
                    task.abort();
                }
                continue;
            }
            if served.len() >= CALLS_SERVED_MAX
                && let Some(ended) = served.join_next_with_id().await
            {
                forget(&mut under_way, ended);
            }
            let number = number_of(&frame);
            // Begun here, in the order of arrival: what a client sends one after another is proposed in that order.
            let mut call = Box::pin(serve_call(frame, from.to_owned(), handler.clone(), answers.clone()));
            if futures_util::poll!(&mut call).is_pending() {
                let task = served.spawn(async move {
                    call.await;
                    number
                });
                under_way.insert(number, task);
            }
        }
        Ok(())
    };
    tokio::select! {
        outcome = write_frames(sender, queued) => outcome,
        outcome = reader => outcome,
    }
}

/// Takes a call that ended off the list.
fn forget(under_way: &mut HashMap<u64, AbortHandle>, ended: Result<(Id, u64), JoinError>) {
    match ended {
        Ok((_, number)) => drop(under_way.remove(&number)),
        // Cancelled, and off the list since; or it panicked, which is rare enough to search for it.
        Err(error) => under_way.retain(|_, task| task.id() != error.id()),
    }
}

/// The number of a call, which stands in the same place in all frames of a caller.
fn number_of(frame: &[u8]) -> u64 {
    let number = frame.get(1..9).and_then(|bytes| bytes.try_into().ok());
    number.map_or(0, u64::from_be_bytes)
}

fn cancelled(frame: &[u8]) -> Option<u64> {
    (frame.first() == Some(&CANCEL) && frame.len() == CANCEL_BYTES).then(|| number_of(frame))
}

async fn serve_call(mut frame: Bytes, from: String, handler: Arc<dyn PeerHandler>, answers: mpsc::Sender<Vec<Bytes>>) {
    if frame.len() < REQUEST_HEAD_BYTES {
        debug!(from, "call without a head");
        return;
    }
    let kind = CallKind::from_byte(frame.get_u8());
    let number = frame.get_u64();
    let left = Duration::from_millis(frame.get_u32().into());
    let outcome = match kind {
        Some(kind) => match timeout(left, handler.call(kind, frame, Instant::now() + left)).await {
            Ok(outcome) => outcome,
            Err(_) => Err("not done in time".to_owned()),
        },
        None => Err("unknown kind of call".to_owned()),
    };
    let (status, payload) = match outcome {
        Ok(payload) if payload.len() > PEER_FRAME_BYTES_MAX - ANSWER_HEAD_BYTES => {
            (1, Bytes::from_static(b"the answer is too large"))
        }
        Ok(payload) => (0, payload),
        Err(text) => (1, Bytes::from(text)),
    };
    let mut head = BytesMut::with_capacity(ANSWER_HEAD_BYTES);
    head.put_u8(status);
    head.put_u64(number);
    // The connection may be gone; the caller learns that from it.
    let _ = answers.send(vec![head.freeze(), payload]).await;
}

#[cfg(test)]
mod tests {
    use flotilla_raft_store::identity::GroupIdentity;
    use tokio::net::TcpListener;

    use super::super::handshake::{Channel, Hello, answer};
    use super::super::stream::{dial, split};
    use super::super::surely_not_sent;
    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn a_silent_node_is_asked_how_it_is_and_nothing_else_until_it_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let hello = Hello {
            channel: Channel::Calls,
            identity: GroupIdentity {
                cluster: [1; 16],
                group: 0,
                creation: 0,
            },
            replica: 0,
            from: "n1".to_owned(),
            to: "n2".to_owned(),
        };
        let metrics = Metrics::new();
        let (dialled, stream) = tokio::join!(dial(&address, &hello, &metrics), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            Hello::receive(&mut stream).await.unwrap().unwrap();
            answer(&mut stream, Ok(())).await.unwrap();
            stream
        });
        let (sender, receiver) = dialled.unwrap();
        let calls = CallConnection::start(sender, receiver);
        let (mut back, mut asked) = split(stream, metrics.transfer_bytes.with_label_values(&["test"]));
        let call = async |kind, patience| {
            let placed = calls.place(kind, Bytes::from_static(b"?"), Instant::now() + patience);
            placed.await?.answer().await
        };
        let moment = Duration::from_millis(10);

        let unknown = call(CallKind::Forward, LIVING_FOR + moment).await.unwrap_err();
        assert!(!surely_not_sent(&unknown), "{unknown}");
        let refused = call(CallKind::Forward, moment).await.unwrap_err();
        assert!(surely_not_sent(&refused), "{refused}");
        let (told, ()) = tokio::join!(call(CallKind::Info, LIVING_FOR), async {
            loop {
                let frame = asked.receive().await.unwrap().unwrap();
                if CallKind::from_byte(frame[0]) == Some(CallKind::Info) {
                    let mut answer = BytesMut::from(&[0][..]);
                    answer.put_slice(&frame[1..9]);
                    return back.send(&[answer.freeze()]).await.unwrap();
                }
            }
        });
        assert_eq!(told.unwrap(), "");
        let unknown = call(CallKind::Forward, moment).await.unwrap_err();
        assert!(!surely_not_sent(&unknown), "{unknown}");
    }
}
