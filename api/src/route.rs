//! What a client is told about where to go.
//!
//! One presentation for every kind of client: a constant *queue name* under which all queues of a topic are read and
//! written at the asker's *home* node, and other living nodes as write-only *doors* with the same queue numbers. The queue
//! number is the logical one everywhere and the broker name means nothing in requests, so identity never changes with moves
//! and failures, and a client's retry finds another address.
//!
//! Holds: every living node appears once; the first queue entry is the queue name; a list of cluster members and a route
//! name the same brokers. Pure: who lives and who leads is told to this module.

use std::collections::BTreeMap;

use crate::limits::ROUTE_DOORS_MAX;
use crate::remoting::bodies::{BrokerData, ClusterInfo, QueueData, TopicRouteData};

/// Permission: topics may be created after this template.
pub const PERM_INHERIT: u8 = 1;
/// Permission: write.
pub const PERM_WRITE: u8 = 2;
/// Permission: read.
pub const PERM_READ: u8 = 4;

/// Queues the auto-creation template shows.
const TEMPLATE_QUEUES: u32 = 8;

/// A node and the literal `ip:port` clients reach it at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Node name.
    pub node: String,
    /// Remoting address.
    pub address: String,
}

/// The cluster as one asker sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presentation {
    /// Cluster name.
    pub cluster: String,
    /// The constant broker name of all queues.
    pub queue_name: String,
    /// The node shown under it to this asker.
    pub home: Endpoint,
    /// Every other living node.
    pub others: Vec<Endpoint>,
}

impl Presentation {
    /// The answer to 105 for a topic with these queues and permissions. `asker` spreads the doors over the askers.
    pub fn topic_route(&self, asker: &str, queues: u32, perm: u8) -> TopicRouteData {
        let door_perm = perm & PERM_WRITE;
        self.route(
            asker,
            QueueNumbers {
                read: queues,
                write: queues,
                perm,
            },
            QueueNumbers {
                read: 0,
                write: queues,
                perm: door_perm,
            },
        )
    }

    /// The answer to 105 for the auto-creation template: clients take the smaller of 4 and its *read* queues everywhere.
    pub fn template_route(&self, asker: &str) -> TopicRouteData {
        let (read, write) = (TEMPLATE_QUEUES, TEMPLATE_QUEUES);
        let home = QueueNumbers {
            read,
            write,
            perm: PERM_READ | PERM_WRITE | PERM_INHERIT,
        };
        self.route(
            asker,
            home,
            QueueNumbers {
                read,
                write,
                perm: PERM_WRITE | PERM_INHERIT,
            },
        )
    }

    /// The answer to 106: the same names and addresses as in routes.
    pub fn cluster_info(&self) -> ClusterInfo {
        let brokers: BTreeMap<_, _> = self
            .brokers()
            .map(|broker| (broker.broker_name.clone(), broker))
            .collect();
        let names = self.brokers().map(|broker| broker.broker_name).collect();
        ClusterInfo {
            brokers,
            clusters: BTreeMap::from([(self.cluster.clone(), names)]),
        }
    }

    fn route(&self, asker: &str, home: QueueNumbers, door: QueueNumbers) -> TopicRouteData {
        let mut queues = vec![home.under(&self.queue_name)];
        if door.perm != 0 {
            queues.extend(doors(asker, &self.others).iter().map(|node| door.under(node)));
        }
        TopicRouteData {
            brokers: self.brokers().collect(),
            queues,
            ..TopicRouteData::default()
        }
    }

    fn brokers(&self) -> impl Iterator<Item = BrokerData> {
        let home = (self.queue_name.as_str(), self.home.address.as_str());
        let others = self
            .others
            .iter()
            .map(|other| (other.node.as_str(), other.address.as_str()));
        std::iter::once(home).chain(others).map(|(name, address)| BrokerData {
            addresses: BTreeMap::from([(0, address.to_owned())]),
            broker_name: name.to_owned(),
            cluster: self.cluster.clone(),
            ..BrokerData::default()
        })
    }
}

#[derive(Clone, Copy)]
struct QueueNumbers {
    read: u32,
    write: u32,
    perm: u8,
}

impl QueueNumbers {
    fn under(self, broker_name: &str) -> QueueData {
        QueueData {
            broker_name: broker_name.to_owned(),
            perm: i32::from(self.perm),
            read_queues: self.read,
            topic_sys_flag: 0,
            write_queues: self.write,
        }
    }
}

/// The node an asker calls home: of those that lead most of its topic's queues, the one that rendezvous hashing picks.
/// `leads` says how many queues each candidate leads. The caller keeps the choice for the connection's life.
pub fn choose_home<'a>(asker: &str, candidates: impl IntoIterator<Item = (&'a str, usize)>) -> Option<&'a str> {
    candidates
        .into_iter()
        .max_by_key(|(node, leads)| (*leads, rendezvous(asker, node)))
        .map(|(node, _)| node)
}

/// The doors an asker is shown: up to [`ROUTE_DOORS_MAX`] nodes, spread over the askers, in order of their names.
fn doors<'a>(asker: &str, others: &'a [Endpoint]) -> Vec<&'a str> {
    let mut nodes: Vec<&str> = others.iter().map(|other| other.node.as_str()).collect();
    nodes.sort_by_key(|node| std::cmp::Reverse(rendezvous(asker, node)));
    nodes.truncate(ROUTE_DOORS_MAX);
    nodes.sort_unstable();
    nodes
}

/// Weight of a node for an asker: FNV-1a with a finish that spreads short, similar texts.
fn rendezvous(asker: &str, node: &str) -> u64 {
    let text = asker.bytes().chain([0xFF]).chain(node.bytes());
    let hash = text.fold(0xCBF2_9CE4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3)
    });
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(number: usize) -> Endpoint {
        Endpoint {
            node: format!("node-{number}"),
            address: format!("10.0.0.{number}:10911"),
        }
    }

    fn presentation(others: &[usize]) -> Presentation {
        Presentation {
            cluster: "flotilla".into(),
            queue_name: "flotilla-all".into(),
            home: endpoint(2),
            others: others.iter().map(|n| endpoint(*n)).collect(),
        }
    }

    #[test]
    fn route_of_a_three_node_cluster() {
        let route = presentation(&[1, 3]).topic_route("10.9.9.9:5000", 8, PERM_READ | PERM_WRITE);
        let expected = concat!(
            r#"{"brokerDatas":[{"brokerAddrs":{"0":"10.0.0.2:10911"},"brokerName":"flotilla-all","cluster":"flotilla","enableActingMaster":false},"#,
            r#"{"brokerAddrs":{"0":"10.0.0.1:10911"},"brokerName":"node-1","cluster":"flotilla","enableActingMaster":false},"#,
            r#"{"brokerAddrs":{"0":"10.0.0.3:10911"},"brokerName":"node-3","cluster":"flotilla","enableActingMaster":false}],"#,
            r#""filterServerTable":{},"queueDatas":[{"brokerName":"flotilla-all","perm":6,"readQueueNums":8,"topicSysFlag":0,"writeQueueNums":8},"#,
            r#"{"brokerName":"node-1","perm":2,"readQueueNums":0,"topicSysFlag":0,"writeQueueNums":8},"#,
            r#"{"brokerName":"node-3","perm":2,"readQueueNums":0,"topicSysFlag":0,"writeQueueNums":8}]}"#
        );
        assert_eq!(route.to_bytes(), expected.as_bytes());
    }

    #[test]
    fn a_topic_without_write_permission_has_no_doors_and_the_template_has_open_ones() {
        let cluster = presentation(&[1, 3]);
        assert_eq!(cluster.topic_route("a", 4, PERM_READ).queues.len(), 1);
        let template = cluster.template_route("a");
        let perms: Vec<_> = template
            .queues
            .iter()
            .map(|q| (q.perm, q.read_queues, q.write_queues))
            .collect();
        assert_eq!(perms, [(7, 8, 8), (3, 8, 8), (3, 8, 8)]);
    }

    #[test]
    fn cluster_info_names_what_routes_name() {
        let cluster = presentation(&[1, 3]);
        let info = cluster.cluster_info();
        assert_eq!(info.clusters["flotilla"], ["flotilla-all", "node-1", "node-3"]);
        for broker in cluster.topic_route("a", 8, 6).brokers {
            assert_eq!(info.brokers[&broker.broker_name], broker);
        }
    }

    #[test]
    fn doors_are_few_stable_and_spread() {
        let cluster = presentation(&[1, 3, 4, 5, 6, 7, 8, 9]);
        let mut shown: BTreeMap<String, usize> = BTreeMap::new();
        for asker in 0..400 {
            let asker = format!("10.1.{}.{}:{}", asker % 7, asker % 250, 40_000 + asker);
            let route = cluster.topic_route(&asker, 8, 6);
            assert_eq!(route, cluster.topic_route(&asker, 8, 6));
            assert_eq!(route.queues.len(), 1 + ROUTE_DOORS_MAX);
            for door in &route.queues[1..] {
                *shown.entry(door.broker_name.clone()).or_default() += 1;
            }
        }
        assert_eq!(shown.len(), 8);
        assert!(shown.values().all(|count| (90..=210).contains(count)), "{shown:?}");
    }

    #[test]
    fn home_is_where_most_queues_are_led() {
        assert_eq!(choose_home("a", [("n1", 1), ("n2", 3), ("n3", 2)]), Some("n2"));
        assert_eq!(choose_home("a", []), None);
        let picks: std::collections::BTreeSet<_> = (0..50)
            .filter_map(|i| choose_home(&format!("10.0.0.9:{i}"), [("n1", 1), ("n2", 1), ("n3", 1)]))
            .collect();
        assert_eq!(picks.len(), 3);
    }
}
