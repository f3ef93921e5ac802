//! Request code to handler: a closed match, the same for every port.
//!
//! A request is either answered by the node the client asked (routes, heartbeats, committed messages) or by the
//! leader of the Raft group that owns what it is about ([`forward::at_owner`]): what writes, and what must be fresh.
//! What tools ask of every node is answered for the groups led here. Everything unknown is answered with code 3 and
//! RocketMQ's text. One-way requests are never answered. A handler that panics costs its own request, nothing else.

use std::net::SocketAddrV4;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use flotilla_api::remoting::codes::{request, response};
use flotilla_api::remoting::frame::RemotingCommand;
use futures_util::FutureExt;
use futures_util::future::OptionFuture;
use tracing::{error, info};

use crate::connection_table::Connection;
use crate::error::Failure;
use crate::forward::{self, Repeat};
use crate::handlers::{
    client_config, cluster_admin, consumer_list, consumer_offset, consumer_stats, group_admin, heartbeat, lock,
    message, offset, pull, send, topic_admin,
};
use crate::node::Broker;
use crate::replica::Replica;
use crate::route;
use crate::state::ForwardMark;

/// Where a request came from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The client's address.
    pub client: SocketAddrV4,
    /// The address shown to clients of the node the client asked: what messages carry as their store host.
    pub store_host: SocketAddrV4,
    /// The node that passed the request on; `None` for a request of a client of this node.
    pub ingress: Option<String>,
    /// The client's connection, if it is one of this node.
    pub connection: Option<Arc<Connection>>,
    /// How the node that passed the request on numbered it.
    pub mark: Option<ForwardMark>,
}

impl Origin {
    /// A request that came over a connection of this node.
    pub fn client(broker: &Broker, connection: &Arc<Connection>) -> Self {
        Self {
            client: connection.peer,
            store_host: route::store_host(broker),
            ingress: None,
            connection: Some(Arc::clone(connection)),
            mark: None,
        }
    }

    /// A request this node makes by itself, or for an HTTP caller.
    pub fn local(broker: &Broker) -> Self {
        let store_host = route::store_host(broker);
        Self {
            client: store_host,
            store_host,
            ingress: None,
            connection: None,
            mark: None,
        }
    }

    /// True for a request another node passed on: it is never sent on again.
    pub fn is_forwarded(&self) -> bool {
        self.ingress.is_some()
    }

    /// The node whose client asked.
    pub fn node<'a>(&'a self, broker: &'a Broker) -> &'a str {
        self.ingress.as_deref().unwrap_or(&broker.node)
    }
}

/// Answers one request; `None` for a one-way one.
pub async fn handle(broker: &Arc<Broker>, request: RemotingCommand, origin: Origin) -> Option<RemotingCommand> {
    let started = Instant::now();
    let code = request.code;
    let one_way = request.is_one_way();
    let prepared = RemotingCommand::response(&request, response::SUCCESS);
    // Known names only: a closed set of labels.
    broker
        .metrics
        .requests
        .with_label_values(&[request::name(code).unwrap_or("unknown")])
        .inc();

    let outcome = guarded(code, answer(broker, request, &origin)).await;
    if one_way {
        if let Err(failure) = outcome {
            info!(code, ?failure, "a one-way request failed");
        }
        return None;
    }
    let answer = match outcome {
        Ok(answer) => answer,
        Err(failure) => failure.fill(prepared),
    };
    match code {
        request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => {
            broker.metrics.send_seconds.observe(started.elapsed().as_secs_f64());
        }
        request::PULL_MESSAGE | request::LITE_PULL_MESSAGE if answer.code == response::SUCCESS => {
            broker.metrics.pull_seconds.observe(started.elapsed().as_secs_f64());
        }
        _ => {}
    }
    Some(answer)
}

/// [`serve_as_leader`] for a request of another node. With `waits` a pull may wait here for a message.
pub async fn serve_as_leader_guarded(
    broker: &Arc<Broker>,
    replica: &Arc<Replica>,
    request: &RemotingCommand,
    origin: &Origin,
    waits: bool,
) -> Result<RemotingCommand, Failure> {
    if waits && matches!(request.code, request::PULL_MESSAGE | request::LITE_PULL_MESSAGE) {
        return guarded(
            request.code,
            Box::pin(pull::pull_waiting(broker, replica, request, origin)),
        )
        .await;
    }
    guarded(request.code, serve_as_leader(broker, replica, request, origin)).await
}

/// Not an async function: that would hold `work` twice.
fn guarded(
    code: i32,
    work: impl Future<Output = Result<RemotingCommand, Failure>>,
) -> impl Future<Output = Result<RemotingCommand, Failure>> {
    // The state a handler can leave half changed is behind locks that do not poison and futures that are dropped.
    AssertUnwindSafe(work).catch_unwind().map(move |outcome| {
        outcome.unwrap_or_else(|_| {
            error!(code, "a request handler panicked");
            Err(Failure::Unknown("internal error".to_owned()))
        })
    })
}

/// The state of a send is moved with each request and kept small; all others lie on the heap.
async fn answer(broker: &Arc<Broker>, request: RemotingCommand, origin: &Origin) -> Result<RemotingCommand, Failure> {
    match request.code {
        request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => {
            match send::named_queue(broker, &request) {
                Some(owned) => forward::at_owner(broker, owned, &request, origin, Repeat::Recognised).await,
                None => Box::pin(send::to_any_queue(broker, request, origin)).await,
            }
        }
        _ => Box::pin(answer_other(broker, request, origin)).await,
    }
}

async fn answer_other(
    broker: &Arc<Broker>,
    request: RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    match request.code {
        request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => pull::pull(broker, request, origin).await,

        request::UPDATE_CONSUMER_OFFSET => {
            let updates = origin.connection.as_ref().map(|connection| &connection.offset_updates);
            let _shared = OptionFuture::from(updates.map(|updates| updates.read())).await;
            consumer_offset::route(broker, &request, origin, Repeat::Harmful).await
        }
        request::QUERY_CONSUMER_OFFSET => {
            if let Some(connection) = &origin.connection {
                drop(connection.offset_updates.write().await);
            }
            consumer_offset::route(broker, &request, origin, Repeat::Harmless).await
        }
        request::SEARCH_OFFSET_BY_TIMESTAMP
        | request::GET_MAX_OFFSET
        | request::GET_MIN_OFFSET
        | request::GET_EARLIEST_MSG_STORETIME => offset::route(broker, &request, origin).await,
        request::GET_CONSUMER_LIST_BY_GROUP => consumer_list::route(broker, &request, origin).await,
        request::LOCK_BATCH_MQ => lock::route(broker, &request, origin, Repeat::Harmless).await,
        request::UNLOCK_BATCH_MQ => lock::route(broker, &request, origin, Repeat::Harmful).await,

        request::UPDATE_AND_CREATE_TOPIC => topic_admin::put(broker, &request).await,
        request::DELETE_TOPIC_IN_BROKER => topic_admin::delete(broker, &request).await,
        request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => group_admin::put(broker, &request).await,
        request::DELETE_SUBSCRIPTIONGROUP => group_admin::delete(broker, &request, origin).await,

        request::HEART_BEAT => heartbeat::heartbeat(broker, &request, origin).await,
        request::UNREGISTER_CLIENT => heartbeat::unregister(broker, &request, origin).await,
        request::CHECK_CLIENT_CONFIG => client_config::check(&request),

        request::QUERY_MESSAGE => message::query(broker, &request).await,
        request::VIEW_MESSAGE_BY_ID => message::route(broker, &request, origin).await,
        request::GET_TOPIC_STATS_INFO => topic_admin::stats(broker, &request).await,
        request::GET_CONSUME_STATS => consumer_stats::consume_stats(broker, &request).await,

        request::GET_ROUTEINFO_BY_TOPIC => route::topic_route(broker, &request, origin).await,
        request::GET_BROKER_CLUSTER_INFO => route::cluster_info(broker, &request, origin),
        request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => topic_admin::all_topics(broker, &request),
        request::GET_SYSTEM_TOPIC_LIST_FROM_NS => route::system_topics_of_cluster(broker, &request, origin),
        request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER => topic_admin::system_topics(&request),
        request::GET_KV_CONFIG | request::GET_KVLIST_BY_NAMESPACE => cluster_admin::no_kv_config(&request),
        request::DELETE_TOPIC_IN_NAMESRV => cluster_admin::nothing_to_do(&request),

        request::GET_TOPIC_CONFIG => topic_admin::topic_config(broker, &request).await,
        request::GET_ALL_TOPIC_CONFIG => topic_admin::all_topic_configs(broker, &request),
        request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG => group_admin::all_groups(broker, &request),
        request::GET_SUBSCRIPTIONGROUP_CONFIG => group_admin::group_config(broker, &request),
        request::GET_CONSUMER_CONNECTION_LIST => consumer_stats::consumer_connections(broker, &request, origin).await,
        request::GET_PRODUCER_CONNECTION_LIST => consumer_stats::producer_connections(broker, &request),
        request::QUERY_TOPIC_CONSUME_BY_WHO => consumer_stats::groups_of_topic(broker, &request),
        request::GET_BROKER_RUNTIME_INFO => cluster_admin::runtime_info(broker, &request),

        code => Err(not_supported(code)),
    }
}

/// Serves a request on the node that leads the Raft group, or says that it does not.
pub async fn serve_as_leader(
    broker: &Arc<Broker>,
    replica: &Arc<Replica>,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    match request.code {
        request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => {
            send::send(broker, replica, request, origin).await
        }
        _ => Box::pin(serve_other_as_leader(broker, replica, request, origin)).await,
    }
}

async fn serve_other_as_leader(
    broker: &Arc<Broker>,
    replica: &Arc<Replica>,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    match request.code {
        request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => pull::pull_fresh(broker, replica, request).await,
        request::QUERY_CONSUMER_OFFSET => consumer_offset::query(replica, request).await,
        request::VIEW_MESSAGE_BY_ID => {
            replica.group.read_index().await?;
            message::view_by_id(replica, request).await
        }
        request::UPDATE_CONSUMER_OFFSET => consumer_offset::update(replica, request).await,
        request::SEARCH_OFFSET_BY_TIMESTAMP => offset::by_timestamp(replica, request).await,
        request::GET_MAX_OFFSET => offset::max(replica, request).await,
        request::GET_MIN_OFFSET => offset::min(replica, request).await,
        request::GET_EARLIEST_MSG_STORETIME => offset::earliest_store_time(replica, request).await,
        request::GET_CONSUMER_LIST_BY_GROUP => consumer_list::list(replica, request).await,
        request::LOCK_BATCH_MQ => lock::lock(replica, request).await,
        request::UNLOCK_BATCH_MQ => lock::unlock(replica, request).await,
        request::HEART_BEAT => heartbeat::join(broker, replica, request, origin).await,
        request::UNREGISTER_CLIENT => heartbeat::leave(replica, request).await,
        request::DELETE_SUBSCRIPTIONGROUP => group_admin::forget(replica, request).await,
        request::GET_CONSUMER_CONNECTION_LIST => consumer_stats::confirm_online(broker, replica, request).await,
        code => Err(not_supported(code)),
    }
}

fn not_supported(code: i32) -> Failure {
    Failure::answer(
        response::REQUEST_CODE_NOT_SUPPORTED,
        format!(" request type {code} not supported"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_code_is_answered_with_the_official_text() {
        let (code, remark) = not_supported(200_050).code_and_remark();
        assert_eq!((code, remark.as_str()), (3, " request type 200050 not supported"));
    }

    /// A request's future is moved when it begins: what it may need later is on the heap.
    #[test]
    fn the_state_of_a_send_is_small() {
        fn size<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size::<&'static Arc<Broker>, _, _, _>(handle);
        assert!(bytes <= 2_048, "{bytes} bytes");
    }

    #[tokio::test]
    async fn a_panic_in_a_handler_is_an_unknown_outcome() {
        let outcome = guarded(10, async { panic!("a broken handler") }).await;
        assert!(matches!(outcome, Err(Failure::Unknown(_))));
    }
}
