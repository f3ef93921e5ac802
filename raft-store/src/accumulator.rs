//! Messages waiting become one entry: the accumulator closes a batch and proposes it.
//!
//! A batch is closed as soon as fewer than [`ENTRIES_IN_FLIGHT`] entries are proposed and not yet applied, or when it
//! is full. There is no timer: a lone message pays nothing, and the busier the group, the larger its batches.
//! Everything that waits or is in flight is bounded; what does not fit is refused before it is proposed.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use openraft::errors::ClientWriteError;
use openraft::impls::OneshotResponder;
use openraft::raft::ClientWriteResult;
use openraft::{AsyncRuntime, Raft};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::apply::Applier;
use crate::disk::Disk;
use crate::error::ProposeError;
use crate::frames::{self, FRAMES_MAX};
use crate::group::Proposed;
use crate::leadership::Names;
use crate::log_id::LogId;
use crate::state_machine::StateMachine;
use crate::type_config::{Payload, Replies, Types};

/// A batch closes early while fewer entries than this are in flight.
const ENTRIES_IN_FLIGHT: usize = 2;
/// A full batch is proposed up to this many in flight.
const FULL_ENTRIES_IN_FLIGHT: usize = 8;
/// Frames that fill a batch.
const BATCH_FRAMES: usize = 256;
/// Bytes that fill a batch; a larger frame is a batch of its own.
const BATCH_BYTES: usize = 1024 * 1024;
/// Most bytes of frames in one proposal.
pub const PROPOSAL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Proposals waiting for a batch; one more is refused.
const WAITING_MAX: usize = 32 * 1024;
/// KiB of frames waiting or in flight; more is refused.
const WAITING_KIB_MAX: usize = 64 * 1024;
/// How long a leader that has no lease yet (just elected) holds a batch before it refuses it.
const LEASE_WAIT: Duration = Duration::from_secs(1);
/// Pause between two tries within [`LEASE_WAIT`].
const LEASE_RETRY: Duration = Duration::from_millis(2);

type Engine<Rt, D, S> = Raft<Types<Rt, <S as StateMachine>::Reply>, Applier<Rt, D, S>>;
type Outcome<R> = Result<Proposed<R>, ProposeError>;

/// One caller's frames.
struct Proposal<R> {
    frames: Vec<Bytes>,
    bytes: usize,
    reply: oneshot::Sender<Outcome<R>>,
    _share: OwnedSemaphorePermit,
}

/// The way in. Cheap to clone.
pub struct Accumulator<R> {
    waiting: mpsc::Sender<Proposal<R>>,
    room: Arc<Semaphore>,
}

impl<R> Clone for Accumulator<R> {
    fn clone(&self) -> Self {
        Self {
            waiting: self.waiting.clone(),
            room: self.room.clone(),
        }
    }
}

impl<R: Send + Sync + 'static> Accumulator<R> {
    /// Starts the task that proposes to `raft`; it ends when every handle is gone.
    pub fn start<Rt: AsyncRuntime, D: Disk, S: StateMachine<Reply = R>>(raft: Engine<Rt, D, S>, names: Names) -> Self {
        let (waiting, receiver) = mpsc::channel(WAITING_MAX);
        drop(Rt::spawn(run(raft, receiver, names)));
        Self {
            waiting,
            room: Arc::new(Semaphore::new(WAITING_KIB_MAX)),
        }
    }

    /// See [`crate::group::Group::propose`].
    pub async fn propose(&self, frames: Vec<Bytes>) -> Outcome<R> {
        let bytes: usize = frames.iter().map(Bytes::len).sum();
        if frames.len() > FRAMES_MAX || bytes > PROPOSAL_BYTES_MAX {
            return Err(ProposeError::TooLarge);
        }
        let kib = u32::try_from(bytes / 1024 + 1).expect("at most PROPOSAL_BYTES_MAX");
        let share = self.room.clone().try_acquire_many_owned(kib);
        let Ok(share) = share else {
            return Err(ProposeError::Busy("too many bytes are waiting"));
        };
        let (reply, outcome) = oneshot::channel();
        let proposal = Proposal {
            frames,
            bytes,
            reply,
            _share: share,
        };
        match self.waiting.try_send(proposal) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(ProposeError::Busy("too many messages are waiting")),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(ProposeError::NotLeader { leader: None }),
        }
        outcome
            .await
            .unwrap_or_else(|_| Err(ProposeError::Unknown("the replica was closed".to_owned())))
    }
}

async fn run<Rt: AsyncRuntime, D: Disk, S: StateMachine>(
    raft: Engine<Rt, D, S>,
    mut receiver: mpsc::Receiver<Proposal<S::Reply>>,
    names: Names,
) {
    let mut in_flight: FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>> = FuturesUnordered::new();
    let refused = Refused::default();
    let handed_over = HandedOver::default();
    let mut number = 0;
    let mut batch = Batch::default();
    // The proposal that did not fit the last batch.
    let mut next: Option<Proposal<S::Reply>> = None;
    loop {
        while !batch.full() {
            let proposal = match next.take() {
                Some(proposal) => proposal,
                None => match receiver.try_recv() {
                    Ok(proposal) => proposal,
                    Err(_) => break,
                },
            };
            if let Err(proposal) = batch.add(proposal) {
                next = Some(proposal);
                break;
            }
        }
        let full = batch.full() || next.is_some();
        let room = if full {
            FULL_ENTRIES_IN_FLIGHT
        } else {
            ENTRIES_IN_FLIGHT
        };
        let held_back = !refused.lock().is_empty();
        if !batch.is_empty() && in_flight.len() < room && !held_back {
            let closed = std::mem::take(&mut batch);
            number += 1;
            in_flight.push(Box::pin(propose::<Rt, D, S>(
                raft.clone(),
                closed,
                names.clone(),
                (number, refused.clone(), handed_over.clone()),
            )));
            // Entries must reach the engine in the order in which they were closed: handing one over may have to wait, for
            // room or for the turns of other tasks.
            poll_fn(|context| {
                loop {
                    let polled = in_flight.poll_next_unpin(context);
                    if handed_over.load(Ordering::Relaxed) >= number {
                        return Poll::Ready(());
                    }
                    if polled.is_pending() {
                        return Poll::Pending;
                    }
                }
            })
            .await;
            continue;
        }
        if in_flight.is_empty() {
            match receiver.recv().await {
                Some(proposal) => next = Some(proposal),
                None => return,
            }
        } else if full {
            in_flight.next().await;
        } else {
            match select(in_flight.next(), Box::pin(receiver.recv())).await {
                Either::Left(_) => {}
                Either::Right((Some(proposal), _)) => next = Some(proposal),
                Either::Right((None, _)) => {
                    while in_flight.next().await.is_some() {}
                    return;
                }
            }
        }
    }
}

/// Proposals that will share an entry.
struct Batch<R> {
    proposals: Vec<Proposal<R>>,
    frames: usize,
    bytes: usize,
}

impl<R> Default for Batch<R> {
    fn default() -> Self {
        Self {
            proposals: Vec::new(),
            frames: 0,
            bytes: 0,
        }
    }
}

impl<R> Batch<R> {
    fn is_empty(&self) -> bool {
        self.proposals.is_empty()
    }

    fn full(&self) -> bool {
        self.frames >= BATCH_FRAMES || self.bytes >= BATCH_BYTES
    }

    /// Takes the proposal in, or gives it back when it must wait for the next batch.
    fn add(&mut self, proposal: Proposal<R>) -> Result<(), Proposal<R>> {
        let fits = self.frames + proposal.frames.len() <= FRAMES_MAX && self.bytes + proposal.bytes <= BATCH_BYTES;
        if !fits && !self.is_empty() {
            return Err(proposal);
        }
        self.frames += proposal.frames.len();
        self.bytes += proposal.bytes;
        self.proposals.push(proposal);
        Ok(())
    }

    fn payload(&self) -> Payload {
        let frames: Vec<Bytes> = self
            .proposals
            .iter()
            .flat_map(|proposal| proposal.frames.iter().cloned())
            .collect();
        Payload::new(frames::pack(&frames))
    }

    fn answer(self, log_id: LogId, replies: Vec<R>) {
        let mut slot = 0;
        let mut replies = replies.into_iter();
        for proposal in self.proposals {
            let count = proposal.frames.len();
            let replies: Vec<R> = replies.by_ref().take(count).collect();
            let outcome = if replies.len() == count {
                Ok(Proposed {
                    log_id,
                    first_slot: u16::try_from(slot).expect("below FRAMES_MAX"),
                    replies,
                })
            } else {
                Err(ProposeError::Unknown(
                    "the state machine left a frame unanswered".to_owned(),
                ))
            };
            // A caller that went away does not want to know.
            let _ = proposal.reply.send(outcome);
            slot += count;
        }
    }

    fn refuse(self, error: &ProposeError) {
        for proposal in self.proposals {
            let _ = proposal.reply.send(Err(error.clone()));
        }
    }
}

/// Numbers of the batches that were refused and will be tried again: while there are any, no new one is proposed, so
/// that none is overtaken.
type Refused = Arc<Mutex<BTreeSet<u64>>>;

/// The number of the last batch that the engine was given.
type HandedOver = Arc<AtomicU64>;

/// Takes a batch out of [`Refused`] when it is answered.
struct Left(Refused, u64);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

/// Proposes one batch and answers its callers. A refusal for want of a lease is tried again for a moment: it was
/// surely not proposed.
async fn propose<Rt: AsyncRuntime, D: Disk, S: StateMachine>(
    raft: Engine<Rt, D, S>,
    batch: Batch<S::Reply>,
    names: Names,
    (number, refused, handed_over): (u64, Refused, HandedOver),
) {
    let payload = batch.payload();
    let mut waited = Duration::ZERO;
    let _left = Left(refused.clone(), number);
    loop {
        type Answer<Rt, R> = ClientWriteResult<Types<Rt, R>>;
        let (responder, answer) = OneshotResponder::<Types<Rt, S::Reply>, Answer<Rt, S::Reply>>::new_pair();
        let given = raft.client_write_ff(payload.clone(), Some(responder)).await;
        handed_over.fetch_max(number, Ordering::Relaxed);
        if let Err(fatal) = given {
            // The engine was stopped before it took the entry.
            tracing::debug!(%fatal, "proposal refused, the replica is closed");
            return batch.refuse(&ProposeError::NotLeader { leader: None });
        }
        match answer.await {
            Ok(Ok(response)) => {
                let log_id = crate::convert::log_id(&response.log_id);
                let Replies(replies) = response.data;
                return batch.answer(log_id, replies);
            }
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => {
                let lease = forward.reason == openraft::errors::ForwardReason::LeaseExpired;
                if lease && waited < LEASE_WAIT {
                    refused.lock().insert(number);
                    waited += LEASE_RETRY;
                    Rt::sleep(LEASE_RETRY).await;
                    // Behind those that were refused before it.
                    while refused.lock().first().is_some_and(|first| *first < number) {
                        Rt::sleep(LEASE_RETRY).await;
                    }
                    continue;
                }
                let leader = if lease { None } else { names.of(forward.leader_id) };
                return batch.refuse(&ProposeError::NotLeader { leader });
            }
            Ok(Err(error)) => return batch.refuse(&ProposeError::Unknown(error.to_string())),
            Err(_) => return batch.refuse(&ProposeError::Unknown("the replica was closed".to_owned())),
        }
    }
}
