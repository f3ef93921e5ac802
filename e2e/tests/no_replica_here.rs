//! A client of a node that has no replica of a queue's Raft group is served like any other: it sends, pulls, waits for
//! messages and keeps its progress. What waits for it at the owner ends with its connection.

use std::time::{Duration, Instant};

use flotilla_e2e::admin::{SOON, found, owner, send};
use flotilla_e2e::client::WaitingPull;
use flotilla_e2e::cluster::{Cluster, Shape};
use flotilla_e2e::wait;
use serde_json::json;

const TOPIC: &str = "elsewhere";
const GROUP: &str = "elsewhere-group";
/// How long pulls wait for a message, longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(9);
/// A message wakes a pull, and a closed connection ends it, within this time.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Another leader serves.
const FAILED_OVER: Duration = Duration::from_secs(6);

/// Four nodes with three replicas each; the place of the node that leads queue 0, and of the one without a replica of
/// its Raft group.
fn start() -> (Cluster, usize, usize) {
    let cluster = Shape::of(4).controllers(1).start().expect("four nodes start");
    cluster.http(0).create_topic(TOPIC, 1).expect("topic");
    let (group, leader) = owner(&cluster, TOPIC, 0);
    let document = cluster.http(0).get_ok(&format!("/v1/groups/{group}")).expect("group");
    let members = document["members"].as_array().expect("members");
    let is_member = |name: &str| members.iter().any(|member| member["node"] == name);
    let outsider = cluster.nodes().iter().position(|node| !is_member(&node.name));
    (cluster, leader, outsider.expect("a node without a replica"))
}

/// A pull at the end of the queue, which waits at the node that leads it.
fn wait_for_a_message(cluster: &Cluster, outsider: usize, leader: usize) -> WaitingPull {
    let mut client = cluster.client(outsider).expect("connect");
    let end = client.max_offset(TOPIC, 0).expect("end");
    let pull = client.begin_pull(TOPIC, 0, end, PATIENCE).expect("pull");
    await_parked(cluster, leader, 1.0, SOON);
    pull
}

fn await_parked(cluster: &Cluster, node: usize, pulls: f64, limit: Duration) {
    wait::until(&format!("{pulls} pulls parked at the owner"), limit, || {
        let parked = cluster.http(node).metrics()?.get("flotilla_parked_pulls", &[]);
        Ok((parked == Some(pulls)).then_some(()))
    })
    .expect("parked pulls");
}

#[test]
fn messages_and_progress_are_read_and_written_through_it() {
    let (cluster, leader, outsider) = start();
    let mut client = cluster.client(outsider).expect("connect");
    for number in 0..40 {
        assert_eq!(
            client.send(TOPIC, 0, &format!("number {number}")).expect("send"),
            number
        );
    }
    assert_eq!(
        (
            client.min_offset(TOPIC, 0).expect("min"),
            client.max_offset(TOPIC, 0).expect("max")
        ),
        (0, 40)
    );
    let dump = client.dump(TOPIC, 1).expect("read");
    assert_eq!(dump.0[&0].messages[39], (39, "number 39".to_owned()));
    assert_eq!(
        dump,
        cluster
            .client(leader)
            .and_then(|mut client| client.dump(TOPIC, 1))
            .expect("read")
    );
    assert_eq!(client.pull(TOPIC, 0, 40).expect("pull at the end"), []);
    assert_eq!(client.consumer_offset(GROUP, TOPIC, 0).expect("ask"), None);
    client.set_consumer_offset(GROUP, TOPIC, 0, 17).expect("set");
    for node in [outsider, leader] {
        let mut client = cluster.client(node).expect("connect");
        assert_eq!(
            client.consumer_offset(GROUP, TOPIC, 0).expect("ask"),
            Some(17),
            "at node {node}"
        );
    }
    let http = cluster.http(outsider);
    let receipt = send(&http, TOPIC, json!({ "body": "by HTTP", "keys": ["k"] }));
    assert_eq!(receipt["offset"], 40);
    let message = found(&http, &format!("topic={TOPIC}&queue=0&offset=40"));
    assert_eq!(
        message,
        found(&cluster.http(leader), &format!("topic={TOPIC}&queue=0&offset=40"))
    );
    assert_eq!(
        found(&http, &format!("topic={TOPIC}&key=k")),
        json!({ "items": [message] })
    );
    let id = receipt["message_id"].as_str().expect("id");
    assert_eq!(found(&http, &format!("id={id}")), message);
}

#[test]
fn a_waiting_pull_is_woken_by_a_later_message() {
    let (cluster, leader, outsider) = start();
    for sender in [leader, outsider] {
        let pull = wait_for_a_message(&cluster, outsider, leader);
        let begin = Instant::now();
        let body = format!("by node {sender}");
        let offset = cluster
            .client(sender)
            .and_then(|mut client| client.send(TOPIC, 0, &body))
            .expect("send");
        assert_eq!(pull.finish().expect("the pull is answered"), [(offset, body)]);
        assert!(begin.elapsed() < AT_ONCE, "woken after {:?}", begin.elapsed());
        await_parked(&cluster, leader, 0.0, AT_ONCE);
    }
}

#[test]
fn a_waiting_pull_ends_at_the_owner_when_the_connection_closes() {
    let (cluster, leader, outsider) = start();
    let pulls: Vec<_> = (0..5)
        .map(|_| {
            let client = cluster.client(outsider).expect("connect");
            client.begin_pull(TOPIC, 0, 0, PATIENCE).expect("pull")
        })
        .collect();
    await_parked(&cluster, leader, 5.0, SOON);
    drop(pulls);
    await_parked(&cluster, leader, 0.0, AT_ONCE);
}

#[test]
fn a_waiting_pull_outlives_the_leader_it_waits_at() {
    let (mut cluster, leader, outsider) = start();
    let pull = wait_for_a_message(&cluster, outsider, leader);
    cluster.kill(leader).expect("kill the leader");
    wait::until("a send through the node without a replica", FAILED_OVER, || {
        cluster.client(outsider)?.send(TOPIC, 0, "after the kill").map(Some)
    })
    .expect("send");
    // A try whose answer was lost may have stored the first copy.
    let pulled = pull.finish().expect("the pull is answered");
    assert_eq!(pulled.first(), Some(&(0, "after the kill".to_owned())), "{pulled:?}");
}
