//! What a replica answers on an incoming connection, one task a connection.

use std::io;
use std::path::Path;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendError};
use openraft::{AsyncRuntime, Raft, Snapshot, SnapshotMeta};
use tokio::sync::mpsc;

use crate::apply::Applier;
use crate::convert;
use crate::disk::Disk;
use crate::identity::GroupIdentity;
use crate::network::codec::{self, Request, Response};
use crate::network::files;
use crate::state_machine::StateMachine;
use crate::transport::{FrameReceiver, FrameSender};
use crate::type_config::Types;

/// Append requests decoded and not yet taken by the engine.
const REQUESTS_WAITING: usize = 16;

type Engine<Rt, D, S> = Raft<Types<Rt, <S as StateMachine>::Reply>, Applier<Rt, D, S>>;

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed frame from a peer")
}

/// Pipelined append requests, answered in order after the flush. Ends after a conflict or a higher vote: the sender
/// starts a new stream. `leader` is told who sends.
pub async fn serve_append<Rt: AsyncRuntime, D: Disk, S: StateMachine>(
    raft: &Engine<Rt, D, S>,
    mut sender: impl FrameSender,
    mut receiver: impl FrameReceiver,
    mut leader: impl FnMut(u64) + Send,
) -> io::Result<()> {
    let (requests, waiting) = mpsc::channel::<AppendEntriesRequest<Types<Rt, S::Reply>>>(REQUESTS_WAITING);
    let waiting = stream::unfold(
        waiting,
        |mut waiting| async move { Some((waiting.recv().await?, waiting)) },
    );
    let mut responses = raft.stream_append(waiting).boxed();
    let reading = async {
        while let Some(frame) = receiver.receive().await? {
            let Request::Append(request) = codec::decode_request(frame).map_err(|_| malformed())? else {
                return Err(malformed());
            };
            leader(request.vote.leader_id.voted_for);
            if requests.send(request).await.is_err() {
                // The engine ended the stream; the answer that says why is being written.
                futures_util::future::pending::<()>().await;
            }
        }
        Ok(())
    };
    let writing = async {
        while let Some(response) = responses.next().await {
            let response = match response {
                Ok(result) => Response::<Rt, S::Reply>::Appended(result),
                Err(fatal) => Response::Refused(fatal.to_string()),
            };
            sender.send(&[codec::encode_response(&response)]).await?;
        }
        Ok(())
    };
    match select(Box::pin(reading), Box::pin(writing)).await {
        Either::Left((result, _)) | Either::Right((result, _)) => result,
    }
}

/// Heartbeats, votes and hand-overs, one at a time. `may_vote` is asked before a vote is considered, but for one that
/// waives the leader's lease anyway.
pub async fn serve_control<Rt: AsyncRuntime, D: Disk, S: StateMachine>(
    raft: &Engine<Rt, D, S>,
    mut sender: impl FrameSender,
    mut receiver: impl FrameReceiver,
    mut leader: impl FnMut(u64) + Send,
    may_vote: impl Fn() -> bool + Send,
) -> io::Result<()> {
    while let Some(frame) = receiver.receive().await? {
        let refused = |error: &dyn std::fmt::Display| Response::<Rt, S::Reply>::Refused(error.to_string());
        let response = match codec::decode_request(frame).map_err(|_| malformed())? {
            Request::Append(request) => {
                leader(request.vote.leader_id.voted_for);
                let previous = request.prev_log_id;
                let last = request.entries.last().map(|entry| entry.log_id).or(previous);
                match raft.append_entries(request).await {
                    Ok(AppendEntriesResponse::HigherVote(vote)) => {
                        Response::Appended(Err(StreamAppendError::HigherVote(vote)))
                    }
                    Ok(AppendEntriesResponse::Conflict) => match previous {
                        Some(at) => Response::Appended(Err(StreamAppendError::Conflict(at))),
                        None => return Err(malformed()),
                    },
                    Ok(AppendEntriesResponse::Success) => Response::Appended(Ok(last)),
                    Ok(AppendEntriesResponse::PartialSuccess(matched)) => Response::Appended(Ok(matched)),
                    Err(error) => refused(&error),
                }
            }
            Request::Vote(vote) | Request::PreVote(vote) if !vote.leadership_transfer && !may_vote() => {
                refused(&"this replica has just started")
            }
            Request::Vote(request) => match raft.vote(request).await {
                Ok(voted) => Response::Voted(voted),
                Err(error) => refused(&error),
            },
            Request::PreVote(request) => match raft.pre_vote(request).await {
                Ok(voted) => Response::Voted(voted),
                Err(error) => refused(&error),
            },
            Request::Transfer(request) => match raft.handle_transfer_leader(request).await {
                Ok(Ok(())) => Response::Transferring,
                Ok(Err(error)) => refused(&error),
                Err(fatal) => refused(&fatal),
            },
        };
        sender.send(&[codec::encode_response(&response)]).await?;
    }
    Ok(())
}

/// One snapshot: fetch every file, then install, then say so.
pub async fn serve_files<Rt: AsyncRuntime, D: Disk, S: StateMachine>(
    raft: &Engine<Rt, D, S>,
    disk: &D,
    folder: &Path,
    identity: GroupIdentity,
    mut sender: impl FrameSender,
    mut receiver: impl FrameReceiver,
) -> io::Result<()> {
    let Some(frame) = receiver.receive().await? else {
        return Ok(());
    };
    let (vote, manifest) = files::read_offer(frame)?;
    if manifest.identity != identity {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "snapshot of another group was offered",
        ));
    }
    let last = manifest.last;
    let membership = convert::stored_membership(manifest.membership.clone()).map_err(|_| malformed())?;
    tracing::info!(%last, files = manifest.log.len() + manifest.state.len(), "fetching a snapshot");
    let staging = folder.join(format!("in-{}-{}", last.term, last.index));
    files::prepare_staging(disk, &staging, &manifest).await?;
    let fetched = files::fetch(disk, &mut sender, &mut receiver, manifest, &staging).await?;
    let meta = SnapshotMeta {
        last_log_id: Some(convert::engine_log_id(last)),
        last_membership: membership,
    };
    let answer = raft
        .install_full_snapshot(
            vote,
            Snapshot {
                meta,
                snapshot: fetched,
            },
        )
        .await
        .map_err(|fatal| io::Error::other(fatal.to_string()))?;
    tracing::info!(%last, "snapshot installed");
    files::finish(&mut sender, &answer.vote).await
}
