//! What a client is told about where to go: the cluster as one connection sees it, from the nodes that live now.
//!
//! Every topic is presented alike (`flotilla_api::route`): one constant queue name at the asker's home node, and
//! doors. The home is chosen once a connection and kept while that node can be reached, because clients keep one
//! address per broker name for all their topics.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use flotilla_api::names::AUTO_CREATE_TOPIC;
use flotilla_api::remoting::bodies::{TopicConfig, TopicList};
use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::route::RouteHeader;
use flotilla_api::route::{Endpoint, Presentation, choose_home};

use crate::error::Failure;
use crate::forward::{self, Repeat};
use crate::node::Broker;
use crate::router::Origin;
use crate::server;

/// The constant broker name of all queues. It contains the cluster's, so that a client of two clusters does not mix
/// up their addresses.
pub fn queue_name(cluster: &str) -> String {
    format!("{cluster}-all")
}

/// The address this node shows to clients, in messages and ids.
pub fn store_host(broker: &Broker) -> SocketAddrV4 {
    broker.peers.remoting_address(&broker.node).map_or(
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, broker.settings.ports.remoting),
        server::ipv4,
    )
}

/// The cluster as `origin` sees it.
fn presentation(broker: &Broker, origin: &Origin) -> Presentation {
    let nodes = broker.peers.nodes();
    let mut endpoints: Vec<Endpoint> = nodes
        .iter()
        .filter_map(|view| {
            Some(Endpoint {
                node: view.name.clone(),
                address: view.routable()?.to_string(),
            })
        })
        .collect();
    if endpoints.is_empty() {
        // A client that asks a node that is about to stop, alone: better this node than none.
        endpoints.push(Endpoint {
            node: broker.node.clone(),
            address: store_host(broker).to_string(),
        });
    }
    let home = home(broker, origin, &endpoints);
    let others = endpoints
        .iter()
        .filter(|endpoint| endpoint.node != home.node)
        .cloned()
        .collect();
    Presentation {
        cluster: broker.cluster.clone(),
        queue_name: queue_name(&broker.cluster),
        home,
        others,
    }
}

/// The home of this connection: as chosen before, or the leader, or whom rendezvous hashing picks.
fn home(broker: &Broker, origin: &Origin, endpoints: &[Endpoint]) -> Endpoint {
    let mut chosen = origin.connection.as_ref().map(|connection| connection.home.lock());
    let named = |name: &str| endpoints.iter().find(|endpoint| endpoint.node == name).cloned();
    if let Some(kept) = chosen.as_ref().and_then(|chosen| chosen.as_deref()).and_then(named) {
        return kept;
    }
    let leader = broker.group.leadership().leader;
    let leads = |node: &str| usize::from(leader.as_deref() == Some(node));
    let candidates = endpoints
        .iter()
        .map(|endpoint| (endpoint.node.as_str(), leads(&endpoint.node)));
    let asker = origin.client.to_string();
    let home = choose_home(&asker, candidates)
        .and_then(named)
        .expect("there is at least one endpoint");
    if let Some(chosen) = &mut chosen {
        **chosen = Some(home.node.clone());
    }
    home
}

/// GET_ROUTEINFO_BY_TOPIC. A topic this node has not heard of is looked up at the leader before it is denied.
pub async fn topic_route(
    broker: &Arc<Broker>,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let topic = RouteHeader::decode(&request.fields)?.topic;
    let asker = origin.client.to_string();
    let answer = RemotingCommand::response(request, response::SUCCESS);
    let known = broker.state.queues_and_perm(topic);
    // RocketMQ has a topic named after every cluster and broker: what clients name to create a topic like it.
    let is_template = topic == broker.cluster || topic == queue_name(&broker.cluster);
    if known.is_none() && is_template || topic == AUTO_CREATE_TOPIC && broker.settings.policy.auto_create_topics {
        return Ok(answer.with_body(presentation(broker, origin).template_route(&asker).to_bytes()));
    }
    let (queues, perm) = match known {
        Some(known) => known,
        None => {
            let confirmed = confirmed_topic(broker, request, origin).await;
            let config = confirmed.ok_or_else(|| {
                let remark = format!("No topic route info in name server for the topic: {topic}");
                Failure::answer(response::TOPIC_NOT_EXIST, remark)
            })?;
            (config.write_queues, u8::try_from(config.perm).unwrap_or_default())
        }
    };
    Ok(answer.with_body(
        presentation(broker, origin)
            .topic_route(&asker, queues, perm)
            .to_bytes(),
    ))
}

/// The leader's word on a topic; `None` also when nobody leads: then there is nothing to send to either.
async fn confirmed_topic(broker: &Arc<Broker>, request: &RemotingCommand, origin: &Origin) -> Option<TopicConfig> {
    let answer = forward::at_leader(broker, request, origin, Repeat::Harmless)
        .await
        .ok()?;
    (answer.code == response::SUCCESS).then(|| TopicConfig::from_bytes(&answer.body).ok())?
}

/// GET_BROKER_CLUSTER_INFO: the names and addresses that routes contain.
pub fn cluster_info(broker: &Broker, request: &RemotingCommand, origin: &Origin) -> Result<RemotingCommand, Failure> {
    let body = presentation(broker, origin).cluster_info().to_bytes();
    Ok(RemotingCommand::response(request, response::SUCCESS).with_body(body))
}

/// GET_SYSTEM_TOPIC_LIST_FROM_NS: cluster and broker names, which tools know as topics, and a broker to ask for more.
pub fn system_topics_of_cluster(
    broker: &Broker,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let seen = presentation(broker, origin);
    let others = seen.others.iter().map(|other| other.node.clone());
    let topics = [seen.cluster.clone(), seen.queue_name.clone()]
        .into_iter()
        .chain(others)
        .collect();
    let body = TopicList {
        broker_address: Some(seen.home.address),
        topics,
    };
    Ok(RemotingCommand::response(request, response::SUCCESS).with_body(body.to_bytes()))
}
