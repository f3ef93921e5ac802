//! Short ways to ask the admin API, for tests that look at clusters through it. A failure ends the test.

use std::time::Duration;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::http::{Answer, Http};

/// A Raft group that every cluster has.
pub const GROUP: &str = "g1";
/// How long nodes may take to hear of each other, and a follower to apply what the leader has.
pub const SOON: Duration = Duration::from_secs(10);

/// Three nodes as processes.
pub fn three() -> Cluster {
    Cluster::start(3).expect("three nodes start")
}

/// One process.
pub fn one() -> Cluster {
    Cluster::standalone().expect("the process starts")
}

/// The admin API of every node.
pub fn all(cluster: &Cluster) -> Vec<Http> {
    (0..cluster.len()).map(|node| cluster.http(node)).collect()
}

/// The Raft group that owns a queue, and the place of the node that leads it.
pub fn owner(cluster: &Cluster, topic: &str, queue: usize) -> (String, usize) {
    let group = cluster.owner(topic, queue).expect("the owner of the queue");
    let leader = cluster.leader(&group).expect("one leader");
    (group, leader)
}

/// The loopback address of a port.
pub fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// One request, whatever is answered.
pub fn ask(http: &Http, method: &str, path: &str, body: &str) -> Answer {
    let body = Some(body).filter(|body| !body.is_empty());
    http.request(method, path, body).expect("the node answers")
}

/// A read that is no stale copy.
pub fn get(http: &Http, path: &str) -> Value {
    let body = http.get_ok(path).expect("read");
    assert_eq!(body["stale"], Value::Null, "{path}: {body}");
    body
}

/// Sends one message, which must succeed.
pub fn send(http: &Http, topic: &str, message: Value) -> Value {
    let path = format!("/v1/topics/{topic}/messages");
    let (status, body) = http.post(&path, &message).expect("send");
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// Messages that a query finds.
pub fn found(http: &Http, query: &str) -> Value {
    get(http, &format!("/v1/messages?{query}"))
}

/// Names of all topics.
pub fn topics(http: &Http) -> Vec<Value> {
    let list = get(http, "/v1/topics");
    let topics = list["items"].as_array().expect("items").iter();
    topics.map(|topic| topic["topic"].clone()).collect()
}

/// First and next offset of every queue.
pub fn queues(http: &Http, topic: &str) -> Vec<(Option<i64>, Option<i64>)> {
    let answer = get(http, &format!("/v1/topics/{topic}/queues"));
    let queues = answer["queues"].as_array().expect("queues").iter();
    queues
        .map(|queue| (queue["min_offset"].as_i64(), queue["max_offset"].as_i64()))
        .collect()
}

/// A queue without messages.
pub const EMPTY: (Option<i64>, Option<i64>) = (Some(0), Some(0));

/// A whole problem document of this status; one of a write says that it was not done.
pub fn is_problem(answer: &Answer, status: u16, write: bool) -> bool {
    let document = answer.json().unwrap_or_default();
    answer.status == status
        && document["status"] == status
        && answer.header("content-type") == "application/problem+json"
        && document["title"].is_string()
        && document["detail"].is_string()
        && (!write || document["outcome"] == "refused")
}
