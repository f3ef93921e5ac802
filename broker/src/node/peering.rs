//! What this process answers to the others.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use flotilla_raft_store::identity::GroupIdentity;
use flotilla_raft_store::transport::Purpose;
use futures_util::future::{BoxFuture, FutureExt};

use super::Broker;
use crate::forward;
use crate::http;
use crate::peer::{CallKind, Channel, Hello, NodeInfo, PeerHandler, PeerReceiver, PeerSender, Refusal};

/// Serves peers. The broker is filled in once this process knows its cluster; until then nobody is let in.
#[derive(Debug)]
pub struct Peering {
    pub(super) node: String,
    pub(super) broker: Arc<OnceLock<Arc<Broker>>>,
}

impl PeerHandler for Peering {
    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        let broker = self.broker.get().ok_or(Refusal::NotReady)?;
        if hello.identity.cluster != broker.peers.cluster() {
            return Err(Refusal::Cluster);
        }
        if hello.to != self.node {
            return Err(Refusal::Address);
        }
        let known = broker.metadata.read(|metadata| {
            metadata.nodes.contains_key(&hello.from) || metadata.controllers.contains_key(&hello.from)
        });
        match hello.channel {
            // A process this copy has not heard of yet may only have joined a moment ago.
            _ if !known => Err(Refusal::Stranger),
            Channel::Calls => Ok(()),
            Channel::Raft(_) => {
                let number = u16::try_from(hello.identity.group).map_err(|_| Refusal::Group)?;
                let replica = broker.replicas.get(number).ok_or(Refusal::NotReady)?;
                if replica.identity != hello.identity {
                    return Err(Refusal::Group);
                }
                if replica.id != hello.replica {
                    return Err(Refusal::Replica);
                }
                Ok(())
            }
        }
    }

    fn raft(
        &self,
        identity: GroupIdentity,
        purpose: Purpose,
        sender: PeerSender,
        receiver: PeerReceiver,
    ) -> BoxFuture<'static, io::Result<()>> {
        let replica = self.broker.get().and_then(|broker| {
            let number = u16::try_from(identity.group).ok()?;
            broker.replicas.get(number)
        });
        match replica.filter(|replica| replica.identity == identity) {
            Some(replica) => async move { replica.group.serve(purpose, sender, receiver).await }.boxed(),
            None => std::future::ready(Ok(())).boxed(),
        }
    }

    fn call(
        self: Arc<Self>,
        kind: CallKind,
        request: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let Some(broker) = self.broker.get().cloned() else {
            return std::future::ready(Err("not taking part yet".to_owned())).boxed();
        };
        match kind {
            CallKind::Info => {
                let answer = serde_json::to_vec(&own_info(&broker)).map_err(|error| error.to_string());
                std::future::ready(answer.map(Bytes::from)).boxed()
            }
            CallKind::Forward | CallKind::Park => async move { Ok(forward::serve(&broker, request).await) }.boxed(),
            CallKind::Admin => async move { http::serve_forwarded(&broker, request, deadline).await }.boxed(),
            CallKind::Controller => std::future::ready(Err("this is no controller".to_owned())).boxed(),
        }
    }
}

/// What this node says of itself, with its replicas as they are now.
pub fn own_info(broker: &Broker) -> NodeInfo {
    let known = broker.peers.node(&broker.node).and_then(|node| node.info);
    NodeInfo {
        epoch: broker.metadata.epoch(),
        replicas: broker
            .replicas
            .all()
            .into_iter()
            .map(|replica| (replica.number, replica.info()))
            .collect(),
        ..known.unwrap_or_default()
    }
}
