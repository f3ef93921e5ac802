//! ReadIndex, one round for all reads that wait (Raft dissertation, section 6.4).
//!
//! A read that arrives while a round runs waits for the next one: the round's index may have been taken before the
//! write it must see. No lease is ever trusted.

use std::time::Duration;

use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{AsyncRuntime, Raft, ReadPolicy};
use tokio::sync::{mpsc, oneshot};

use crate::apply::Applier;
use crate::disk::Disk;
use crate::error::ReadError;
use crate::leadership::Names;
use crate::state_machine::StateMachine;
use crate::type_config::Types;

/// Reads waiting for a round; one more waits outside.
const WAITING_MAX: usize = 4096;
/// A round without a majority is given up after this long.
const ROUND_TIMEOUT: Duration = Duration::from_secs(2);

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct ReadIndex {
    waiting: mpsc::Sender<oneshot::Sender<Result<(), ReadError>>>,
}

impl ReadIndex {
    /// Starts the task that runs the rounds; it ends when every handle is gone.
    pub fn start<Rt: AsyncRuntime, D: Disk, S: StateMachine>(
        raft: Raft<Types<Rt, S::Reply>, Applier<Rt, D, S>>,
        names: Names,
    ) -> Self {
        let (waiting, mut receiver) = mpsc::channel::<oneshot::Sender<Result<(), ReadError>>>(WAITING_MAX);
        drop(Rt::spawn(async move {
            while let Some(first) = receiver.recv().await {
                let mut round = vec![first];
                while let Ok(more) = receiver.try_recv() {
                    round.push(more);
                }
                let read = Rt::timeout(ROUND_TIMEOUT, raft.ensure_linearizable(ReadPolicy::ReadIndex)).await;
                let result = match read {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                        Err(ReadError::NotLeader {
                            leader: names.of(forward.leader_id),
                        })
                    }
                    Ok(Err(error)) => Err(ReadError::Unavailable(error.to_string())),
                    Err(_) => Err(ReadError::Unavailable("no majority answered in time".to_owned())),
                };
                for reader in round {
                    // A reader that went away does not want to know.
                    let _ = reader.send(result.clone());
                }
            }
        }));
        Self { waiting }
    }

    /// See [`crate::group::Group::read_index`].
    pub async fn confirm(&self) -> Result<(), ReadError> {
        let closed = || ReadError::Unavailable("the replica is closed".to_owned());
        let (reader, result) = oneshot::channel();
        self.waiting.send(reader).await.map_err(|_| closed())?;
        result.await.unwrap_or_else(|_| Err(closed()))
    }
}
