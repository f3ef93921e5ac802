//! The peer port: lets the right peers in and hands their connections to whom they are for.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use flotilla_raft_store::identity::GroupIdentity;
use flotilla_raft_store::transport::Purpose;
use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::calls::{CallKind, serve_calls};
use super::handshake::{self, Channel, Hello, Refusal};
use super::stream::{PeerReceiver, PeerSender, split, tune};
use super::{CONNECT_TIMEOUT, PEER_CONNECTIONS_MAX};
use crate::metrics::Metrics;

/// What a process does with its peers' connections.
pub trait PeerHandler: Send + Sync + 'static {
    /// Whether this peer may come in.
    fn admit(&self, hello: &Hello) -> Result<(), Refusal>;

    /// Serves a connection of a Raft group until it closes.
    fn raft(
        &self,
        identity: GroupIdentity,
        purpose: Purpose,
        sender: PeerSender,
        receiver: PeerReceiver,
    ) -> BoxFuture<'static, io::Result<()>>;

    /// Answers a call; an `Err` is a text for the other node's log, and an unknown outcome for its caller.
    fn call(
        self: Arc<Self>,
        kind: CallKind,
        request: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// Accepts peers until `stop` says true; then closes what is open.
pub async fn serve_peers(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    handler: Arc<dyn PeerHandler>,
    mut stop: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(PEER_CONNECTIONS_MAX));
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = open.join_next(), if !open.is_empty() => continue,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let (metrics, handler, permit) =
                    (metrics.clone(), handler.clone(), permits.clone().try_acquire_owned());
                open.spawn(async move {
                    if let Err(error) = welcome(stream, &metrics, handler, permit.is_ok()).await {
                        debug!(%address, %error, "peer connection ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "accept a peer");
                // Out of descriptors: leave the others time to close some.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn welcome(
    mut stream: TcpStream,
    metrics: &Metrics,
    handler: Arc<dyn PeerHandler>,
    has_room: bool,
) -> io::Result<()> {
    tune(&stream)?;
    let hello = timeout(CONNECT_TIMEOUT, Hello::receive(&mut stream)).await??;
    let verdict = hello.and_then(|hello| {
        let admitted = if has_room {
            handler.admit(&hello)
        } else {
            Err(Refusal::Limit)
        };
        admitted.map(|()| hello.clone()).inspect_err(|refusal| {
            // A peer that comes back before this node is ready is everyday life; a wrong identity is not.
            if !matches!(refusal, Refusal::NotReady) {
                warn!(from = hello.from, to = hello.to, identity = %hello.identity, %refusal, "refused a peer");
            }
        })
    });
    match verdict {
        Ok(hello) => {
            timeout(CONNECT_TIMEOUT, handshake::answer(&mut stream, Ok(()))).await??;
            let sent = metrics.transfer_bytes.with_label_values(&[hello.channel.name()]);
            let (sender, receiver) = split(stream, sent);
            match hello.channel {
                Channel::Raft(purpose) => handler.raft(hello.identity, purpose, sender, receiver).await,
                Channel::Calls => serve_calls(sender, receiver, &hello.from, handler).await,
            }
        }
        Err(refusal) => {
            metrics.peers_refused.with_label_values(&[refusal.name()]).inc();
            timeout(CONNECT_TIMEOUT, handshake::answer(&mut stream, Err(refusal))).await??;
            // The reason must arrive: an orderly close.
            socket2::SockRef::from(&stream).set_linger(None)
        }
    }
}
