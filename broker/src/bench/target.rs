//! What is measured: the topic, its queues, and the brokers that take its messages.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use flotilla_api::names::AUTO_CREATE_TOPIC;
use flotilla_api::remoting::bodies::{ClusterInfo, TopicRouteData};
use flotilla_api::remoting::codes::{request, response};
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::topic::CreateTopicHeader;
use flotilla_api::route::{PERM_READ, PERM_WRITE};

use super::call::Caller;

const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a topic just created may be missing from the routes.
const TOPIC_VISIBLE_MAX: Duration = Duration::from_secs(40);
/// Clients take at most this many queues of a topic that does not exist yet.
const TEMPLATE_QUEUES_MAX: u32 = 4;

/// Where the brokers are and which topic to use.
#[derive(Debug, Clone, Args)]
pub(crate) struct TargetArgs {
    /// Name server.
    #[arg(long, default_value = "127.0.0.1:9876")]
    pub(crate) name_server: String,
    /// Topic.
    #[arg(long, default_value = "bench")]
    pub(crate) topic: String,
    /// Create the topic with this many queues first, if it has fewer.
    #[arg(long, value_name = "QUEUES")]
    pub(crate) create_topic: Option<u32>,
    /// Use only the first N queues.
    #[arg(long, value_name = "N")]
    pub(crate) queues: Option<u32>,
    /// Talk to this broker only, whatever the route says. May be given several times.
    #[arg(long)]
    pub(crate) address: Vec<String>,
}

/// A queue and where it is read.
#[derive(Debug, Clone)]
pub(crate) struct ReadQueue {
    pub(crate) queue: u32,
    pub(crate) address: SocketAddr,
}

/// The topic as its route shows it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) topic: String,
    /// Brokers that take messages.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Queues each of them takes.
    pub(crate) write_queues: u32,
    /// Queues with messages; more than one broker may have a queue of the same number.
    pub(crate) read_queues: Vec<ReadQueue>,
}

impl Target {
    /// Asks the name server, creating the topic if wanted.
    pub(crate) fn find(args: &TargetArgs) -> anyhow::Result<Target> {
        let name_server = resolve(&args.name_server)?;
        let mut caller = Caller::connect(name_server, TIMEOUT)
            .with_context(|| format!("connect to name server {}", args.name_server))?;
        let mut found = route(&mut caller, &args.topic)?;
        if let Some(queues) = args.create_topic
            && found.as_ref().is_none_or(|route| write_queues(route) < queues)
        {
            create(&mut caller, &args.topic, queues)?;
            found = Some(wait_for_route(&mut caller, &args.topic, queues)?);
        }
        let mut target = match found {
            Some(route) => Target::from_route(&args.topic, &route)?,
            None => {
                let template = route(&mut caller, AUTO_CREATE_TOPIC)?.with_context(|| {
                    format!(
                        "topic {} does not exist and is not created by itself; use --create-topic",
                        args.topic
                    )
                })?;
                let mut target = Target::from_route(&args.topic, &template)?;
                target.write_queues = target.write_queues.min(TEMPLATE_QUEUES_MAX);
                target
            }
        };
        if !args.address.is_empty() {
            target.addresses = args
                .address
                .iter()
                .map(|text| resolve(text))
                .collect::<Result<_, _>>()?;
            let pinned = target.addresses[0];
            target.read_queues.iter_mut().for_each(|queue| queue.address = pinned);
            target.read_queues.sort_by_key(|queue| queue.queue);
            target.read_queues.dedup_by_key(|queue| queue.queue);
        }
        if let Some(limit) = args.queues {
            target.write_queues = target.write_queues.min(limit.max(1));
            target.read_queues.retain(|queue| queue.queue < limit.max(1));
        }
        Ok(target)
    }

    fn from_route(topic: &str, route: &TopicRouteData) -> anyhow::Result<Target> {
        let address_of = |broker_name: &str| -> Option<SocketAddr> {
            let broker = route.brokers.iter().find(|broker| broker.broker_name == broker_name)?;
            resolve(broker.addresses.get(&0)?).ok()
        };
        let mut addresses = Vec::new();
        let mut read_queues = Vec::new();
        for queue_data in &route.queues {
            let Some(address) = address_of(&queue_data.broker_name) else {
                continue;
            };
            if queue_data.perm & i32::from(PERM_WRITE) != 0 && queue_data.write_queues > 0 {
                addresses.push(address);
            }
            if queue_data.perm & i32::from(PERM_READ) != 0 {
                read_queues.extend((0..queue_data.read_queues).map(|queue| ReadQueue { queue, address }));
            }
        }
        anyhow::ensure!(
            !addresses.is_empty(),
            "the route of topic {topic} names no broker that takes messages"
        );
        Ok(Target {
            topic: topic.to_owned(),
            addresses,
            write_queues: write_queues(route).max(1),
            read_queues,
        })
    }
}

/// The smallest number of queues all writable brokers have.
fn write_queues(route: &TopicRouteData) -> u32 {
    let writable = route
        .queues
        .iter()
        .filter(|queue| queue.perm & i32::from(PERM_WRITE) != 0);
    writable.map(|queue| queue.write_queues).min().unwrap_or(0)
}

fn route(caller: &mut Caller, topic: &str) -> anyhow::Result<Option<TopicRouteData>> {
    let ask = RemotingCommand::request(request::GET_ROUTEINFO_BY_TOPIC)
        .with_field("topic", topic)
        .with_field("acceptStandardJsonOnly", true);
    let answer = caller
        .call(ask, TIMEOUT)
        .with_context(|| format!("ask for the route of {topic}"))?;
    match answer.code {
        response::SUCCESS => Ok(Some(TopicRouteData::from_bytes(&answer.body)?)),
        response::TOPIC_NOT_EXIST => Ok(None),
        code => anyhow::bail!("route of {topic}: code {code}: {}", answer.remark.unwrap_or_default()),
    }
}

/// Creates the topic at every broker that stands alone; a cluster behind one queue name takes the repeated request as no change.
fn create(caller: &mut Caller, topic: &str, queues: u32) -> anyhow::Result<()> {
    let answer = caller.expect(RemotingCommand::request(request::GET_BROKER_CLUSTER_INFO), TIMEOUT)?;
    let cluster = ClusterInfo::from_bytes(&with_quoted_keys(&answer.body)).context("read the list of brokers")?;
    let mut created = false;
    for address in cluster.brokers.values().filter_map(|broker| broker.addresses.get(&0)) {
        let mut create = RemotingCommand::request(request::UPDATE_AND_CREATE_TOPIC);
        CreateTopicHeader {
            topic,
            default_topic: Some(AUTO_CREATE_TOPIC),
            read_queues: queues as i32,
            write_queues: queues as i32,
            perm: i32::from(PERM_READ | PERM_WRITE),
            topic_filter_type: Some("SINGLE_TAG"),
            topic_sys_flag: Some(0),
            order: Some(false),
            attributes: None,
            force: None,
        }
        .encode(&mut create.fields);
        let mut broker =
            Caller::connect(resolve(address)?, TIMEOUT).with_context(|| format!("connect to {address}"))?;
        broker.expect(create, TIMEOUT)?;
        created = true;
    }
    anyhow::ensure!(created, "the cluster has no broker to create topic {topic} at");
    Ok(())
}

fn wait_for_route(caller: &mut Caller, topic: &str, queues: u32) -> anyhow::Result<TopicRouteData> {
    let deadline = Instant::now() + TOPIC_VISIBLE_MAX;
    loop {
        if let Some(found) = route(caller, topic)?.filter(|found| write_queues(found) >= queues) {
            return Ok(found);
        }
        anyhow::ensure!(Instant::now() < deadline, "topic {topic} did not appear in the routes");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Quotes the numeric keys the official server writes bare in this one answer: `{0:"a"}` becomes `{"0":"a"}`.
fn with_quoted_keys(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 16);
    let (mut at, mut in_text) = (0, false);
    while at < body.len() {
        let byte = body[at];
        if byte == b'"' && (at == 0 || body[at - 1] != b'\\') {
            in_text = !in_text;
        }
        out.push(byte);
        at += 1;
        if in_text || (byte != b'{' && byte != b',') {
            continue;
        }
        let digits = body[at..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits > 0 && body.get(at + digits) == Some(&b':') {
            out.push(b'"');
            out.extend_from_slice(&body[at..at + digits]);
            out.push(b'"');
            at += digits;
        }
    }
    out
}

/// The first address a name stands for.
pub(crate) fn resolve(text: &str) -> anyhow::Result<SocketAddr> {
    let mut addresses = text.to_socket_addrs().with_context(|| format!("address {text}"))?;
    addresses
        .next()
        .with_context(|| format!("address {text} stands for nothing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_api::route::{Endpoint, Presentation};

    #[test]
    fn bare_numeric_keys_are_quoted() {
        let body =
            br#"{"brokerAddrTable":{"a":{"brokerAddrs":{0:"127.0.0.1:1",10:"x,1:"},"brokerName":"a"}},"n":[1,2]}"#;
        let expected =
            br#"{"brokerAddrTable":{"a":{"brokerAddrs":{"0":"127.0.0.1:1","10":"x,1:"},"brokerName":"a"}},"n":[1,2]}"#;
        assert_eq!(with_quoted_keys(body), expected);
    }

    #[test]
    fn doors_are_written_to_and_the_queue_name_is_read() {
        let endpoint = |n: u8| Endpoint {
            node: format!("n{n}"),
            address: format!("127.0.0.{n}:10911"),
        };
        let cluster = Presentation {
            cluster: "c".into(),
            queue_name: "all".into(),
            home: endpoint(1),
            others: vec![endpoint(2), endpoint(3)],
        };
        let target = Target::from_route("T", &cluster.topic_route("asker", 8, 6)).expect("a route");
        assert_eq!(
            (target.addresses.len(), target.write_queues, target.read_queues.len()),
            (3, 8, 8)
        );
        assert!(
            target
                .read_queues
                .iter()
                .all(|queue| queue.address == resolve("127.0.0.1:10911").expect("an address"))
        );
        assert!(Target::from_route("T", &TopicRouteData::default()).is_err());
    }
}
