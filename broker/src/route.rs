//! What a client is told about where to go: the cluster as one connection sees it, from the nodes that live now.
//!
//! Every topic is presented alike (`flotilla_api::route`): one constant queue name at the asker's home node, and
//! doors. The home is chosen once a connection and kept while that node can be reached, because clients keep one
//! address per broker name for all their topics.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use flotilla_api::names::AUTO_CREATE_TOPIC;
use flotilla_api::remoting::bodies::TopicList;
use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::route::RouteHeader;
use flotilla_api::route::{Endpoint, Presentation, choose_home};

use crate::error::Failure;
use crate::node::Broker;
use crate::peer::NodeView;
use crate::router::Origin;
use crate::server;
use crate::topic_changes;

/// The constant broker name of all queues. It contains the cluster's, so that a client of two clusters does not mix
/// up their addresses.
pub fn queue_name(cluster: &str) -> String {
    format!("{cluster}-all")
}

/// The address this process shows to clients, in messages and ids; a controller shows a node's.
pub fn store_host(broker: &Broker) -> SocketAddrV4 {
    let own = broker.peers.remoting_address(&broker.node);
    let any = || broker.peers.nodes().iter().find_map(NodeView::routable);
    let nowhere = SocketAddrV4::new(Ipv4Addr::LOCALHOST, broker.settings.ports.remoting);
    own.or_else(any).map_or(nowhere, server::ipv4)
}

/// The cluster as `origin` sees it.
fn presentation(broker: &Broker, origin: &Origin, topic: Option<&str>) -> Result<Presentation, Failure> {
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
        // A client that asks a node that is about to stop, alone: better this node than none. A controller has nothing
        // to offer then; clients keep the route they have.
        let own = broker.peers.remoting_address(&broker.node);
        let own = own.ok_or_else(|| {
            Failure::answer(
                response::SERVICE_NOT_AVAILABLE,
                "no node is known to be ready at the moment",
            )
        })?;
        endpoints.push(Endpoint {
            node: broker.node.clone(),
            address: server::ipv4(own).to_string(),
        });
    }
    let home = home(broker, origin, topic, &endpoints);
    let others = endpoints
        .iter()
        .filter(|endpoint| endpoint.node != home.node)
        .cloned()
        .collect();
    Ok(Presentation {
        cluster: broker.cluster.clone(),
        queue_name: queue_name(&broker.cluster),
        home,
        others,
    })
}

/// The home of this connection: as chosen before, or the node that leads most queues of the topic asked for, or whom
/// rendezvous hashing picks among equals.
fn home(broker: &Broker, origin: &Origin, topic: Option<&str>, endpoints: &[Endpoint]) -> Endpoint {
    let mut chosen = origin.connection.as_ref().map(|connection| connection.home.lock());
    let named = |name: &str| endpoints.iter().find(|endpoint| endpoint.node == name).cloned();
    if let Some(kept) = chosen.as_ref().and_then(|chosen| chosen.as_deref()).and_then(named) {
        return kept;
    }
    let led = queues_led(broker, topic);
    let candidates = endpoints.iter().map(|endpoint| {
        let node = endpoint.node.as_str();
        (node, led.get(node).copied().unwrap_or_default())
    });
    let asker = origin.client.to_string();
    let home = choose_home(&asker, candidates)
        .and_then(named)
        .expect("there is at least one endpoint");
    if let Some(chosen) = &mut chosen {
        **chosen = Some(home.node.clone());
    }
    home
}

/// How many queues of a topic each node leads.
fn queues_led(broker: &Broker, topic: Option<&str>) -> HashMap<String, usize> {
    let mut queues: HashMap<u16, usize> = HashMap::new();
    if let Some(topic) = topic.and_then(|topic| broker.topic(topic)) {
        for segment in topic.queues.iter().filter_map(|segments| segments.last()) {
            *queues.entry(segment.group).or_default() += 1;
        }
    }
    let mut led = HashMap::new();
    for (group, count) in queues {
        if let Some(leader) = broker.leadership(group).leader {
            *led.entry(leader.as_ref().to_owned()).or_default() += count;
        }
    }
    led
}

/// GET_ROUTEINFO_BY_TOPIC. A topic this node has not heard of is looked up at the controllers before it is denied.
pub async fn topic_route(
    broker: &Arc<Broker>,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let topic = RouteHeader::decode(&request.fields)?.topic;
    let asker = origin.client.to_string();
    let answer = RemotingCommand::response(request, response::SUCCESS);
    let known = broker.queues_and_perm(topic);
    // RocketMQ has a topic named after every cluster and broker: what clients name to create a topic like it.
    let is_template = topic == broker.cluster || topic == queue_name(&broker.cluster);
    if known.is_none() && is_template || topic == AUTO_CREATE_TOPIC && broker.policy().auto_create_topics {
        let template = presentation(broker, origin, None)?.template_route(&asker);
        return Ok(answer.with_body(template.to_bytes()));
    }
    let (queues, perm) = match known {
        Some(known) => known,
        None => {
            let confirmed = topic_changes::confirmed(broker, topic).await.ok_or_else(|| {
                let remark = format!("No topic route info in name server for the topic: {topic}");
                Failure::answer(response::TOPIC_NOT_EXIST, remark)
            })?;
            (confirmed.config.queues, confirmed.config.perm)
        }
    };
    let route = presentation(broker, origin, Some(topic))?.topic_route(&asker, queues, perm);
    Ok(answer.with_body(route.to_bytes()))
}

/// GET_BROKER_CLUSTER_INFO: the names and addresses that routes contain.
pub fn cluster_info(broker: &Broker, request: &RemotingCommand, origin: &Origin) -> Result<RemotingCommand, Failure> {
    let body = presentation(broker, origin, None)?.cluster_info().to_bytes();
    Ok(RemotingCommand::response(request, response::SUCCESS).with_body(body))
}

/// GET_SYSTEM_TOPIC_LIST_FROM_NS: cluster and broker names, which tools know as topics, and a broker to ask for more.
pub fn system_topics_of_cluster(
    broker: &Broker,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let seen = presentation(broker, origin, None)?;
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
