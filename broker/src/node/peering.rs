//! What this node answers to the other nodes, before and after its Raft group is open.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use flotilla_raft_store::transport::Purpose;
use futures_util::future::{BoxFuture, FutureExt};

use super::{Broker, replica_info};
use crate::forward;
use crate::http;
use crate::peer::{CallKind, PeerHandler, PeerReceiver, PeerSender, Peers};

/// Serves peers. The broker is filled in once the group is open; until then only questions about this node are
/// answered.
#[derive(Debug)]
pub struct Peering {
    pub(super) peers: Arc<Peers>,
    pub(super) broker: Arc<OnceLock<Arc<Broker>>>,
}

impl PeerHandler for Peering {
    fn takes_part(&self) -> bool {
        self.broker.get().is_some()
    }

    fn raft(&self, purpose: Purpose, sender: PeerSender, receiver: PeerReceiver) -> BoxFuture<'static, io::Result<()>> {
        match self.broker.get() {
            Some(broker) => {
                let group = broker.group.clone();
                async move { group.serve(purpose, sender, receiver).await }.boxed()
            }
            None => std::future::ready(Ok(())).boxed(),
        }
    }

    fn call(&self, kind: CallKind, request: Bytes, deadline: Instant) -> BoxFuture<'static, Result<Bytes, String>> {
        let broker = self.broker.get().cloned();
        match (kind, broker) {
            (CallKind::Info, broker) => {
                let mut info = self
                    .peers
                    .node(self.peers.local_name())
                    .and_then(|node| node.info)
                    .unwrap_or_default();
                info.replica_status = broker.as_deref().map(replica_info);
                let answer = serde_json::to_vec(&info)
                    .map(Bytes::from)
                    .map_err(|error| error.to_string());
                std::future::ready(answer).boxed()
            }
            (CallKind::Forward, Some(broker)) => async move { Ok(forward::serve(&broker, request).await) }.boxed(),
            (CallKind::Admin, Some(broker)) => {
                async move { http::serve_forwarded(&broker, request, deadline).await }.boxed()
            }
            (_, None) => std::future::ready(Err("not taking part yet".to_owned())).boxed(),
        }
    }
}
