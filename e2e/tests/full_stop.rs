//! All processes of a cluster end at once and start again in any order, the controllers last or not yet: everything that
//! was acknowledged is there, under the same ids, and the cluster goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use flotilla_e2e::admin::{get, three, topics};
use flotilla_e2e::cluster::Cluster;
use serde_json::{Value, json};

const TOPIC: &str = "full-stop";
const QUEUES: u32 = 6;
const GROUP: &str = "full-stop-group";
const ALIKE_WITHIN: Duration = Duration::from_secs(60);

/// A process to start.
#[derive(Clone, Copy, Debug)]
enum Start {
    Node(usize),
    Controller(usize),
    /// Everything so far must be whole before the next one starts.
    Wait,
}

use Start::{Controller, Node, Wait};

/// Each begins with nothing running.
const ORDERS: [&[Start]; 4] = [
    // The nodes do without controllers until they come.
    &[
        Node(0),
        Node(1),
        Node(2),
        Wait,
        Controller(0),
        Controller(1),
        Controller(2),
    ],
    &[Controller(2), Controller(1), Controller(0), Node(2), Node(1), Node(0)],
    &[
        Node(1),
        Controller(2),
        Node(2),
        Wait,
        Controller(0),
        Node(0),
        Controller(1),
    ],
    &[
        Controller(1),
        Wait,
        Node(2),
        Node(0),
        Node(1),
        Wait,
        Controller(0),
        Controller(2),
    ],
];

/// What was acknowledged: values by queue and offset, consumer offsets, topics.
#[derive(Default)]
struct Acknowledged {
    messages: BTreeMap<(u32, i64), String>,
    consumer_offsets: BTreeMap<u32, i64>,
    topics: Vec<String>,
}

impl Acknowledged {
    /// Does more of everything; new topics only when there are controllers to make them.
    fn more(&mut self, cluster: &Cluster, node: usize, what: &str, makes_topics: bool) -> Result<()> {
        let mut client = cluster.client(node)?;
        for queue in 0..QUEUES {
            for number in 0..10 {
                let body = format!("{what} number {number}");
                let offset = client.send(TOPIC, queue, &body)?;
                assert_eq!(self.messages.insert((queue, offset), body), None, "given out twice");
                client.set_consumer_offset(GROUP, TOPIC, queue, offset)?;
                self.consumer_offsets.insert(queue, offset);
            }
        }
        if makes_topics {
            let topic = what.replace(' ', "-");
            cluster.http(node).create_topic(&topic, 3)?;
            self.topics.push(topic);
            self.topics.sort();
        }
        Ok(())
    }

    /// All of it is there, at every node.
    fn assert_there(&self, cluster: &Cluster, when: &str) {
        for (place, node) in cluster.nodes().iter().enumerate().filter(|(_, node)| node.is_running()) {
            let mut client = cluster.client(place).expect("connect");
            let dump = client.dump(TOPIC, QUEUES).expect("read");
            let read: BTreeMap<(u32, i64), String> = (dump.0.into_iter())
                .flat_map(|(queue, dump)| dump.messages.into_iter().map(move |(at, body)| ((queue, at), body)))
                .collect();
            assert_eq!(read, self.messages, "{} {when}", node.name);
            for (queue, offset) in &self.consumer_offsets {
                let found = client.consumer_offset(GROUP, TOPIC, *queue).expect("consumer offset");
                assert_eq!(found, Some(*offset), "queue {queue} at {} {when}", node.name);
            }
        }
    }
}

/// What must never change: the cluster's id, and the ids of all replicas of nodes and controllers.
fn identity(cluster: &Cluster) -> Value {
    let document = get(&cluster.http(0), "/v1/cluster");
    let list = |name: &str| document[name].as_array().expect("a list").clone();
    let ids = |list: &[Value]| -> Value { list.iter().map(|one| json!([one["node"], one["replica"]])).collect() };
    let groups = list("groups").into_iter().map(|group| {
        let members = group["members"].as_array().expect("members").clone();
        json!([group["name"], group["preferred_leader"], ids(&members)])
    });
    json!([document["id"], ids(&list("controllers")), groups.collect::<Vec<_>>()])
}

/// Starts everything; what serves clients before the controllers are there serves all that was acknowledged.
fn start(cluster: &mut Cluster, order: &[Start], acknowledged: &mut Acknowledged, round: usize) {
    for (step, start) in order.iter().enumerate() {
        match start {
            Node(place) => cluster.launch(*place).expect("start a node"),
            Controller(place) => cluster.controllers_mut()[*place].launch().expect("start a controller"),
            Wait => {
                let running: Vec<usize> = (0..3).filter(|place| cluster.is_running(*place)).collect();
                // Not the controllers: without a majority of them one need not take part yet.
                for place in &running {
                    cluster.await_node(*place).expect("ready");
                }
                if running.len() > 1 {
                    cluster.leaders().expect("leaders without controllers");
                    acknowledged.assert_there(cluster, &format!("in round {round} before the controllers"));
                    let what = format!("round {round} step {step}");
                    acknowledged.more(cluster, running[0], &what, false).expect("more");
                }
            }
        }
    }
    cluster.await_whole().expect("whole again");
}

#[test]
fn everything_acknowledged_is_there_whatever_starts_first() {
    let mut cluster = three();
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    let mut acknowledged = Acknowledged {
        topics: vec![TOPIC.to_owned()],
        ..Acknowledged::default()
    };
    acknowledged.more(&cluster, 0, "at first", true).expect("more");
    let identity_before = identity(&cluster);
    for (round, order) in ORDERS.iter().enumerate() {
        cluster.await_copies_on_disk().expect("copies on disk");
        cluster.kill_everything().expect("kill everything");
        start(&mut cluster, order, &mut acknowledged, round);
        acknowledged.assert_there(&cluster, &format!("after round {round}: {order:?}"));
        acknowledged
            .more(&cluster, round % 3, &format!("round {round}"), true)
            .expect("more");
        for node in 0..3 {
            assert_eq!(
                topics(&cluster.http(node)),
                acknowledged.topics,
                "node {node} after round {round}"
            );
        }
        cluster.await_alike(ALIKE_WITHIN).expect("all replicas are alike");
        assert_eq!(identity(&cluster), identity_before, "round {round}");
    }
}

#[test]
fn a_planned_stop_of_everything_is_no_different() {
    let mut cluster = three();
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    let mut acknowledged = Acknowledged {
        topics: vec![TOPIC.to_owned()],
        ..Acknowledged::default()
    };
    for (round, order) in ORDERS.iter().take(2).enumerate() {
        acknowledged
            .more(&cluster, round, &format!("round {round}"), true)
            .expect("more");
        let identity_before = identity(&cluster);
        // Controllers first, then nodes, and the other way round.
        if round == 0 {
            (0..3).for_each(|place| cluster.controllers_mut()[place].terminate().expect("stop a controller"));
        }
        (0..3).for_each(|place| cluster.terminate(place).expect("stop a node"));
        if round == 1 {
            (0..3).for_each(|place| cluster.controllers_mut()[place].terminate().expect("stop a controller"));
        }
        start(&mut cluster, order, &mut acknowledged, round);
        acknowledged.assert_there(&cluster, &format!("after round {round}: {order:?}"));
        assert_eq!(identity(&cluster), identity_before, "round {round}");
        for node in 0..3 {
            assert_eq!(
                topics(&cluster.http(node)),
                acknowledged.topics,
                "node {node} after round {round}"
            );
        }
    }
}
