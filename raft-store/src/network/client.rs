//! What a leader or candidate sends to one other member.
//!
//! Append requests are pipelined: as many in flight as the window allows, answered in order. The window is the only
//! limit on what is in flight to a follower. A connection is opened when first needed and at every failure again, so
//! an address that moved is found by resolving the node's name anew.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::base::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, AsyncRuntime, OptionalSend};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::disk::Disk;
use crate::network::codec::{self, Response};
use crate::network::files;
use crate::snapshot::SnapshotFiles;
use crate::transport::{FrameReceiver, FrameSender, Purpose, Transport};
use crate::type_config::{Member, Types};

/// Most append requests in flight to one follower; the receiver holds at most 64.
const WINDOW_REQUESTS: usize = 32;
/// Most payload KiB in flight to one follower: what a disk writes in a fraction of the leader's lease.
const WINDOW_KIB: u32 = 16 * 1024;
/// An append stream with requests in flight and no answer for this long is broken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes the clients of one replica.
pub struct Network<Rt, D: Disk, T: Transport, R> {
    transport: T,
    disk: D,
    types: std::marker::PhantomData<fn() -> (Rt, R)>,
}

impl<Rt, D: Disk, T: Transport, R> Network<Rt, D, T, R> {
    /// Connects through `transport`, reads snapshot files from `disk`.
    pub fn new(transport: T, disk: D) -> Self {
        Self {
            transport,
            disk,
            types: std::marker::PhantomData,
        }
    }

    fn client(&self, replica: u64, node: &Member, purpose: Purpose) -> Client<Rt, D, T, R> {
        Client {
            transport: self.transport.clone(),
            disk: self.disk.clone(),
            replica,
            node: node.node.clone(),
            purpose,
            idle: Arc::new(Mutex::new(None)),
            types: std::marker::PhantomData,
        }
    }
}

impl<Rt: AsyncRuntime, D: Disk, T: Transport, R: Send + Sync + 'static> RaftNetworkFactory<Types<Rt, R>>
    for Network<Rt, D, T, R>
{
    type Network = Client<Rt, D, T, R>;

    async fn new_client(&mut self, target: u64, node: &Member) -> Self::Network {
        self.client(target, node, Purpose::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Self::Network {
        self.client(target, node, Purpose::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> Self::Network {
        self.client(target, node, Purpose::Files)
    }
}

type Connection<T> = (<T as Transport>::Sender, <T as Transport>::Receiver);

/// Sends to one member. The connection is lent to a stream or request and put back when that ended in order.
pub struct Client<Rt, D: Disk, T: Transport, R> {
    transport: T,
    disk: D,
    replica: u64,
    node: String,
    purpose: Purpose,
    idle: Arc<Mutex<Option<Connection<T>>>>,
    types: std::marker::PhantomData<fn() -> (Rt, R)>,
}

fn unreachable<Rt: AsyncRuntime, R: Send + Sync + 'static>(error: &io::Error) -> RPCError<Types<Rt, R>> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn broken<Rt: AsyncRuntime, R: Send + Sync + 'static>(what: &str) -> RPCError<Types<Rt, R>> {
    RPCError::Network(NetworkError::new(&AnyError::error(what)))
}

impl<Rt: AsyncRuntime, D: Disk, T: Transport, R: Send + Sync + 'static> Client<Rt, D, T, R> {
    async fn connection(&self, purpose: Purpose) -> io::Result<Connection<T>> {
        if purpose == self.purpose
            && let Some(connection) = self.idle.lock().take()
        {
            return Ok(connection);
        }
        self.transport.connect(self.replica, &self.node, purpose).await
    }

    /// One request, one response, within `limit`.
    async fn request(&self, frame: Bytes, limit: Duration) -> Result<Response<Rt, R>, RPCError<Types<Rt, R>>> {
        let exchange = async {
            let (mut sender, mut receiver) = self.connection(Purpose::Control).await.map_err(|e| unreachable(&e))?;
            sender.send(&[frame]).await.map_err(|e| unreachable(&e))?;
            let frame = receiver
                .receive()
                .await
                .map_err(|e| unreachable(&e))?
                .ok_or_else(|| broken("closed"))?;
            if self.purpose == Purpose::Control {
                *self.idle.lock() = Some((sender, receiver));
            }
            codec::decode_response(frame).map_err(|_| broken("malformed response"))
        };
        Rt::timeout(limit, exchange)
            .await
            .map_err(|_| broken("no answer in time"))?
    }

    async fn vote_request(
        &self,
        request: VoteRequest<Types<Rt, R>>,
        pre: bool,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<Rt, R>>, RPCError<Types<Rt, R>>> {
        match self
            .request(codec::encode_vote(&request, pre), option.hard_ttl())
            .await?
        {
            Response::Voted(response) => Ok(response),
            Response::Refused(reason) => Err(broken(&reason)),
            _ => Err(broken("unexpected response")),
        }
    }
}

impl<Rt: AsyncRuntime, D: Disk, T: Transport, R: Send + Sync + 'static> RaftNetworkV2<Types<Rt, R>>
    for Client<Rt, D, T, R>
{
    type SnapshotData = SnapshotFiles;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types<Rt, R>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<Rt, R>>, RPCError<Types<Rt, R>>> {
        let mut responses = self
            .stream_append(Box::pin(stream::once(async { request })), option)
            .await?;
        match responses.next().await {
            Some(result) => result.map(AppendEntriesResponse::from),
            None => Err(broken("closed")),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types<Rt, R>>, RPCError<Types<Rt, R>>>>, RPCError<Types<Rt, R>>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types<Rt, R>>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // The engine's pause after errors lies before the first request: connecting earlier would try without
            // any pause for as long as the follower is away.
            let mut input = input.peekable();
            if Pin::new(&mut input).peek().await.is_none() {
                return Ok(stream::empty().boxed());
            }
            let (sender, receiver) = self.connection(self.purpose).await.map_err(|e| unreachable(&e))?;
            let (sent_tx, sent) = mpsc::channel(WINDOW_REQUESTS);
            let (sender_tx, sender_back) = oneshot::channel();
            let (cancel, cancelled) = oneshot::channel();
            drop(Rt::spawn(send_requests(input, sender, sent_tx, sender_tx, cancelled)));
            let answers = Answers::<Rt, T, R> {
                receiver,
                sent,
                sender_back,
                idle: self.idle.clone(),
                _cancel: cancel,
                types: std::marker::PhantomData,
            };
            let responses = stream::unfold(Some(answers), |answers| async move {
                let mut answers = answers?;
                match answers.next().await {
                    Some(Ok(result)) => {
                        let go_on = result.is_ok();
                        Some((Ok(result), go_on.then_some(answers)))
                    }
                    Some(Err(error)) => Some((Err(error), None)),
                    None => {
                        answers.give_back();
                        None
                    }
                }
            });
            Ok(responses.boxed())
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types<Rt, R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<Rt, R>>, RPCError<Types<Rt, R>>> {
        self.vote_request(request, false, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types<Rt, R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<Rt, R>>, RPCError<Types<Rt, R>>> {
        self.vote_request(request, true, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types<Rt, R>>,
        snapshot: SnapshotOf<Types<Rt, R>, Self::SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types<Rt, R>>, StreamingError<Types<Rt, R>>> {
        let transfer = async {
            let (sender, receiver) = self
                .connection(Purpose::Files)
                .await
                .map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))?;
            files::send_snapshot(&self.disk, sender, receiver, &vote, &snapshot.snapshot)
                .await
                .map(SnapshotResponse::new)
                .map_err(|error| StreamingError::Network(NetworkError::new(&error)))
        };
        match select(Box::pin(cancel), Box::pin(transfer)).await {
            Either::Left((closed, _)) => Err(StreamingError::Closed(closed)),
            Either::Right((result, _)) => result,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types<Rt, R>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<Rt, R>>, RPCError<Types<Rt, R>>> {
        let limit = option.hard_ttl().max(Duration::from_millis(500));
        match self.request(codec::encode_transfer(&request), limit).await? {
            Response::Transferring => Ok(Ok(())),
            Response::Refused(reason) => Err(broken(&reason)),
            _ => Err(broken("unexpected response")),
        }
    }
}

/// One request that was sent; holds its share of the window until answered.
struct Sent {
    _share: tokio::sync::OwnedSemaphorePermit,
}

/// Sends requests while the window has room, until the input ends, the connection breaks, or the stream of answers
/// is dropped. Gives the sender back when the input ended in order.
async fn send_requests<Rt: AsyncRuntime, R: Send + Sync + 'static, F: FrameSender>(
    mut input: impl Stream<Item = AppendEntriesRequest<Types<Rt, R>>> + Unpin + Send,
    mut sender: F,
    sent: mpsc::Sender<Sent>,
    sender_back: oneshot::Sender<F>,
    cancelled: oneshot::Receiver<()>,
) {
    let window = Arc::new(Semaphore::new(WINDOW_KIB as usize));
    let sending = async {
        while let Some(request) = input.next().await {
            let kib = u32::try_from(codec::payload_bytes(&request.entries) / 1024 + 1)
                .unwrap_or(u32::MAX)
                .min(WINDOW_KIB);
            let Ok(share) = window.clone().acquire_many_owned(kib).await else {
                return;
            };
            // The answer's place is taken before the request leaves, so that no answer can come too early.
            if sent.send(Sent { _share: share }).await.is_err() {
                return;
            }
            if sender.send(&codec::encode_append(request)).await.is_err() {
                return;
            }
        }
        // The stream of answers may be gone, then the connection closes with it.
        let _ = sender_back.send(sender);
    };
    select(Box::pin(sending), cancelled).await;
}

/// The answers to what [`send_requests`] sent, in order.
struct Answers<Rt, T: Transport, R> {
    receiver: T::Receiver,
    sent: mpsc::Receiver<Sent>,
    sender_back: oneshot::Receiver<T::Sender>,
    idle: Arc<Mutex<Option<Connection<T>>>>,
    _cancel: oneshot::Sender<()>,
    types: std::marker::PhantomData<fn() -> (Rt, R)>,
}

impl<Rt: AsyncRuntime, T: Transport, R: Send + Sync + 'static> Answers<Rt, T, R> {
    async fn next(&mut self) -> Option<Result<StreamAppendResult<Types<Rt, R>>, RPCError<Types<Rt, R>>>> {
        // `None` here: every request was answered and no more will come, or the sender failed.
        let request = self.sent.recv().await?;
        let answer = match Rt::timeout(ANSWER_TIMEOUT, self.receiver.receive()).await {
            Err(_) => Err(broken("no answer in time")),
            Ok(Err(error)) => Err(unreachable(&error)),
            Ok(Ok(None)) => Err(broken("closed")),
            Ok(Ok(Some(frame))) => match codec::decode_response::<Rt, R>(frame) {
                Ok(Response::Appended(result)) => Ok(result),
                Ok(Response::Refused(reason)) => Err(broken(&reason)),
                _ => Err(broken("unexpected response")),
            },
        };
        drop(request);
        Some(answer)
    }

    /// Keeps the connection for the next stream, if the sender ended in order.
    fn give_back(mut self) {
        if let Ok(sender) = self.sender_back.try_recv() {
            *self.idle.lock() = Some((sender, self.receiver));
        }
    }
}
