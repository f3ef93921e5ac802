//! Several Raft groups: their leaders and the queues of a topic spread over all nodes, more nodes bring more Raft groups,
//! and every node serves every queue.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flotilla_e2e::admin::{owner, three};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::history::Dump;

const TOPIC: &str = "many-groups";
const QUEUES: u32 = 16;
const ALIKE_WITHIN: Duration = Duration::from_secs(30);

/// How many queues of a topic each Raft group has.
fn spread(cluster: &Cluster, topic: &str) -> BTreeMap<String, usize> {
    let mut spread = BTreeMap::new();
    for group in cluster.http(0).owners(topic).expect("owners") {
        *spread.entry(group).or_default() += 1;
    }
    spread
}

fn assert_every_node_leads_one_group(cluster: &Cluster) {
    let leaders = cluster.leaders().expect("leaders");
    let places: BTreeSet<usize> = leaders.values().copied().collect();
    assert_eq!(places, (0..cluster.len()).collect(), "{leaders:?}");
}

/// Sends a message to every queue through every node, the nodes in turn; returns what all nodes show then.
fn send_everywhere(cluster: &Cluster, topic: &str, queues: u32) -> Dump {
    for queue in 0..queues {
        let end = cluster
            .client(0)
            .and_then(|mut client| client.max_offset(topic, queue))
            .expect("end");
        for (expected, node) in (end..).zip(0..cluster.len()) {
            let mut client = cluster.client(node).expect("connect");
            let offset = client.send(topic, queue, &format!("queue {queue} by node {node}"));
            assert_eq!(offset.expect("send"), expected, "queue {queue} by node {node}");
        }
    }
    let dumps: Vec<Dump> = (0..cluster.len())
        .map(|node| {
            cluster
                .client(node)
                .and_then(|mut client| client.dump(topic, queues))
                .expect("read")
        })
        .collect();
    assert!(dumps.iter().all(|dump| *dump == dumps[0]), "all nodes show the same");
    dumps.into_iter().next().expect("there are nodes")
}

#[test]
fn queues_and_leaders_spread_and_every_node_serves_every_queue() {
    let cluster = three();
    assert_every_node_leads_one_group(&cluster);
    cluster.http(1).create_topic(TOPIC, QUEUES).expect("topic");
    let spread = spread(&cluster, TOPIC);
    assert_eq!(spread.keys().collect::<Vec<_>>(), ["g1", "g2", "g3"]);
    assert!(spread.values().all(|queues| [5, 6].contains(queues)), "{spread:?}");
    for http in cluster.nodes().iter().map(|node| node.http()) {
        let seen_here: Vec<String> = http.owners(TOPIC).expect("owners");
        let seen_first = cluster.http(0).owners(TOPIC).expect("owners");
        assert_eq!(seen_here, seen_first, "any node tells the same");
    }
    let dump = send_everywhere(&cluster, TOPIC, QUEUES);
    assert!(dump.0.values().all(|queue| queue.messages.len() == 3), "{dump:?}");
    for queue in 0..QUEUES {
        let (set_at, asked_at) = (queue as usize % 3, (queue as usize + 1) % 3);
        let mut client = cluster.client(set_at).expect("connect");
        client.set_consumer_offset("readers", TOPIC, queue, 2).expect("set");
        let mut client = cluster.client(asked_at).expect("connect");
        let offset = client.consumer_offset("readers", TOPIC, queue).expect("ask");
        assert_eq!(offset, Some(2), "queue {queue} set at {set_at}, asked at {asked_at}");
    }
    cluster.await_alike(ALIKE_WITHIN).expect("all replicas are alike");
}

#[test]
fn killing_a_node_stops_nothing_that_another_one_leads() {
    let mut cluster = three();
    cluster.http(0).create_topic(TOPIC, 3).expect("topic");
    let (group, victim) = owner(&cluster, TOPIC, 0);
    let leaders = cluster.leaders().expect("leaders");
    cluster.kill(victim).expect("kill");
    // At once, through the node that leads the queue: there is nothing to fail over.
    for queue in 1..3 {
        let (other, leader) = (
            cluster.owner(TOPIC, queue).expect("owner"),
            cluster.queue_leader(TOPIC, queue),
        );
        let leader = leader.expect("leader");
        assert_ne!(other, group, "three queues lie on three Raft groups");
        assert_eq!(leader, leaders[&other], "leadership of {other} did not move");
        let mut client = cluster.client(leader).expect("connect");
        client
            .send(TOPIC, u32::try_from(queue).expect("small"), "goes on")
            .expect("send");
    }
    let heir = cluster.leader(&group).expect("another leader");
    assert_ne!(heir, victim);
    cluster
        .client(heir)
        .and_then(|mut client| client.send(TOPIC, 0, "goes on"))
        .expect("send");
}

#[test]
fn more_nodes_bring_more_groups_and_new_topics_lie_on_all_of_them() {
    let mut cluster = three();
    cluster.http(0).create_topic("old", 6).expect("topic");
    let before = send_everywhere(&cluster, "old", 6);
    let old_owners = cluster.http(0).owners("old").expect("owners");
    for _ in 0..3 {
        cluster.add_node().expect("one more node");
    }
    assert_every_node_leads_one_group(&cluster);
    assert_eq!(cluster.groups().expect("groups"), ["g1", "g2", "g3", "g4", "g5", "g6"]);
    for node in 0..cluster.len() {
        let groups = cluster.http(node).get_ok("/v1/groups").expect("groups");
        for group in groups["items"].as_array().expect("items") {
            let members = group["members"].as_array().expect("members").iter();
            let nodes: BTreeSet<_> = members.map(|member| member["node"].to_string()).collect();
            assert_eq!(nodes.len(), 3, "three replicas on three nodes: {group}");
        }
    }
    assert_eq!(
        cluster.http(5).owners("old").expect("owners"),
        old_owners,
        "nothing moves"
    );
    let after = send_everywhere(&cluster, "old", 6);
    for (queue, dump) in &before.0 {
        assert_eq!(
            after.0[queue].messages[..dump.messages.len()],
            dump.messages,
            "queue {queue}"
        );
    }
    cluster.http(5).create_topic("new", 12).expect("topic");
    let spread = spread(&cluster, "new");
    assert!(
        spread.len() == 6 && spread.values().all(|queues| *queues == 2),
        "{spread:?}"
    );
    send_everywhere(&cluster, "new", 12);
    cluster.await_alike(ALIKE_WITHIN).expect("all replicas are alike");
}
