//! The admin API: any node answers for the whole cluster, the next read anywhere shows a write, and what is refused says
//! so and changes nothing.

use anyhow::ensure;
use flotilla_e2e::admin::{EMPTY, SOON, all, ask, at, found, get, is_problem, one, owner, queues, send, three, topics};
use flotilla_e2e::cluster::{CLUSTER_NAME, Cluster};
use flotilla_e2e::http::{Answer, Http};
use flotilla_e2e::process::Node;
use flotilla_e2e::wait;
use serde_json::{Value, json};

/// One more than a message may have.
const TOO_MANY_BYTES: usize = (4 << 20) + 1;

/// Nobody has asked these nodes anything but whether they are ready.
fn assert_healthy_when_fresh(cluster: &Cluster) {
    for http in all(cluster) {
        let metrics = http.metrics().expect("metrics of a fresh node");
        assert!(!metrics.has("flotilla_consumer_lag"), "{metrics:?}");
        assert_eq!(metrics.get("flotilla_messages_in_total", &[]), Some(0.0));
        for (path, text) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
            let answer = ask(&http, "GET", path, "");
            assert_eq!((answer.status, answer.text.as_str()), (200, text), "{path}");
        }
    }
    wait::until("the leaders, and no others, say that they lead", SOON, || {
        for (group, leader) in cluster.leaders()? {
            let mut leads = Vec::new();
            for http in all(cluster) {
                leads.push(http.metrics()?.get("flotilla_raft_is_leader", &[("group", &group)]));
            }
            let mut expected = vec![Some(0.0); leads.len()];
            expected[leader] = Some(1.0);
            ensure!(leads == expected, "{group}: {leads:?}");
        }
        Ok(Some(()))
    })
    .expect("one leader of every group");
}

#[test]
fn a_fresh_process_is_healthy_and_has_metrics() {
    assert_healthy_when_fresh(&one());
}

#[test]
fn three_fresh_nodes_are_healthy_and_describe_one_cluster() {
    let cluster = three();
    assert_healthy_when_fresh(&cluster);
    let leaders = cluster.leaders().expect("leaders");
    let groups: Vec<Value> = leaders.keys().map(|group| json!(group)).collect();
    let nodes = cluster.nodes().iter().map(|node| {
        let ports = node.ports;
        let (address, http, peer) = (at(ports.remoting), at(ports.http), at(ports.peer));
        let replicas = leaders.iter().map(|(group, leader)| {
            let leads = cluster.nodes()[*leader].name == node.name;
            let role = if leads { "leader" } else { "follower" };
            json!({ "group": group, "role": role, "leaving": false, "remaining_bytes": null })
        });
        json!({ "node": node.name, "alive": true, "ready": true, "leaving": false, "zone": "", "address": address,
            "http": http, "name_server": at(ports.name_server), "peer": peer, "evacuating": false, "evacuated": false,
            "remaining_bytes": 0, "replicas": replicas.collect::<Value>() })
    });
    let nodes: Value = nodes.collect();
    for http in all(&cluster) {
        let listed = get(&http, "/v1/groups");
        let listed = listed["items"].as_array().expect("items").iter();
        assert_eq!(listed.map(|group| group["name"].clone()).collect::<Vec<_>>(), groups);
        for (name, leader) in &leaders {
            let leader = &cluster.nodes()[*leader].name;
            let role = |node: &Node| if node.name == *leader { "leader" } else { "follower" };
            let roles: Value = cluster
                .nodes()
                .iter()
                .map(|node| json!([node.name, role(node)]))
                .collect();
            let group = get(&http, &format!("/v1/groups/{name}"));
            assert_eq!(json!([group["name"], group["leader"]]), json!([name, leader]));
            let mut shown: Vec<Value> = (group["members"].as_array().expect("members").iter())
                .map(|member| json!([member["node"], member["role"]]))
                .collect();
            shown.sort_by_key(|member| member[0].to_string());
            assert_eq!(json!(shown), roles);
        }
        wait::until("the leader has heard of every node", SOON, || {
            Ok((http.get_ok("/v1/cluster")?["nodes"] == nodes).then_some(()))
        })
        .unwrap_or_else(|_| panic!("{} is not {nodes}", get(&http, "/v1/cluster")["nodes"]));
        assert_eq!(get(&http, "/v1/cluster")["cluster"], CLUSTER_NAME);
    }
}

#[test]
fn a_topic_is_created_changed_and_deleted_for_all_nodes_at_once() {
    let cluster = three();
    let nodes = all(&cluster);
    let path = "/v1/topics/orders";
    let epoch = |answer: &Answer| answer.header("flotilla-epoch").parse::<u64>().expect("epoch");
    let created = ask(&nodes[0], "PUT", path, r#"{"queues":2}"#);
    assert_eq!(created.status, 201, "{created:?}");
    for http in &nodes {
        let read = ask(http, "GET", path, "");
        assert!(epoch(&read) >= epoch(&created), "{read:?} after {created:?}");
        assert_eq!(read.json().expect("topic"), created.json().expect("topic"));
        assert_eq!(topics(http), ["orders"]);
        assert_eq!(queues(http, "orders"), [EMPTY; 2]);
    }
    let changed = ask(&nodes[1], "PUT", path, r#"{"queues":3,"retention":{"time":"90m"}}"#);
    assert_eq!(changed.status, 200, "{changed:?}");
    let receipt = send(&nodes[2], "orders", json!({ "body": "x", "keys": ["k"], "queue": 2 }));
    for http in &nodes {
        let topic = get(http, path);
        assert_eq!(json!([topic["queues"], topic["retention"]["time"]]), json!([3, "90m"]));
        assert_eq!(queues(http, "orders"), [EMPTY, EMPTY, (Some(0), Some(1))]);
    }
    let deleted = ask(&nodes[1], "DELETE", path, "");
    assert_eq!((deleted.status, deleted.text.as_str()), (204, ""), "{deleted:?}");
    let by_id = format!("/v1/messages?id={}", receipt["message_id"].as_str().expect("id"));
    let by_key = "/v1/messages?topic=orders&key=k";
    for http in &nodes {
        assert_eq!(topics(http), [""; 0]);
        for path in [path, "/v1/topics/orders/queues", &by_id, by_key] {
            let answer = ask(http, "GET", path, "");
            assert!(is_problem(&answer, 404, false), "{path}: {answer:?}");
        }
    }
    assert_eq!(ask(&nodes[2], "PUT", path, r#"{"queues":1}"#).status, 201);
    assert_eq!(
        queues(&nodes[0], "orders"),
        [EMPTY],
        "a new topic has nothing of the old"
    );
    assert_eq!(get(&nodes[1], by_key), json!({ "items": [] }));
}

#[test]
fn what_is_wrong_with_a_request_is_told_in_a_problem_document_and_changes_nothing() {
    let cluster = one();
    let http = cluster.http(0);
    http.create_topic("t", 2).expect("topic");
    let large = json!({ "body": "x".repeat(TOO_MANY_BYTES) }).to_string();
    let requests = [
        (404, "GET", "/", ""),
        (404, "GET", "/v1/nothing", ""),
        (404, "GET", "/v1/topics/t/nothing", ""),
        (400, "GET", "/v1/topics/%FF", ""),
        (404, "GET", "/v1/topics/unknown", ""),
        (404, "GET", "/v1/groups/g9", ""),
        (404, "GET", "/v1/consumer-groups/unknown", ""),
        (400, "GET", "/v1/messages", ""),
        (400, "GET", "/v1/messages?colour=red", ""),
        (400, "GET", "/v1/messages?topic=t&queue=x&offset=0", ""),
        (404, "GET", "/v1/messages?topic=t&queue=0&offset=0", ""),
        (404, "GET", "/v1/messages?topic=t&queue=2&offset=0", ""),
        (404, "GET", "/v1/messages?id=unknown", ""),
        (400, "PUT", "/v1/topics/t", "{"),
        (400, "PUT", "/v1/topics/t", "[]"),
        (400, "PUT", "/v1/topics/t", r#"{"queues":"many"}"#),
        (409, "PUT", "/v1/topics/t", r#"{"queues":1}"#),
        (400, "PUT", "/v1/topics/t", r#"{"type":"other"}"#),
        (400, "PUT", "/v1/topics/t", r#"{"retention":{"time":"soon"}}"#),
        (400, "PUT", "/v1/topics/t", r#"{"groups":["g9"]}"#),
        (400, "PUT", "/v1/topics/new", r#"{"queues":0}"#),
        (400, "PUT", "/v1/topics/a%20b", r#"{"queues":1}"#),
        (409, "PUT", "/v1/topics/TBW102", r#"{"queues":1}"#),
        (404, "DELETE", "/v1/topics/unknown", ""),
        (400, "POST", "/v1/topics/t/messages", "{"),
        (400, "POST", "/v1/topics/t/messages", "{}"),
        (400, "POST", "/v1/topics/t/messages", r#"{"body":"","body_base64":""}"#),
        (400, "POST", "/v1/topics/t/messages", r#"{"body_base64":"*"}"#),
        (400, "POST", "/v1/topics/t/messages", r#"{"body":"a","queue":2}"#),
        (413, "POST", "/v1/topics/t/messages", &large),
        (404, "POST", "/v1/groups/g9/digest", ""),
        (404, "POST", "/v1/groups/g9/leader", r#"{"node":"n1"}"#),
        (404, "POST", "/v1/groups/g1/leader", r#"{"node":"n9"}"#),
        (400, "POST", "/v1/groups/g1/leader", "{}"),
    ];
    let state = || (topics(&http), get(&http, "/v1/topics/t"), queues(&http, "t"));
    let before = state();
    let wrong = requests.iter().filter_map(|(status, method, path, body)| {
        let answer = ask(&http, method, path, body);
        let body = body.get(..40).unwrap_or(body);
        let told = is_problem(&answer, *status, *method != "GET");
        (!told).then(|| format!("{status} expected: {method} {path} {body}: {answer:?}\n"))
    });
    let wrong: String = wrong.collect();
    assert_eq!(state(), before);
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_message_sent_at_a_follower_is_found_the_same_at_every_node() {
    let cluster = three();
    let nodes = all(&cluster);
    nodes[0].create_topic("found", 2).expect("topic");
    let (group, leader) = owner(&cluster, "found", 1);
    let follower = &nodes[(leader + 1) % 3];
    send(&nodes[leader], "found", json!({ "body": "before", "queue": 1 }));
    let (keys, properties) = (["k1", "k2"], json!({ "colour": "blue" }));
    let new = json!({ "body_base64": "AP8B", "tag": "red", "keys": keys, "properties": properties, "queue": 1 });
    let receipt = send(follower, "found", new.clone());
    assert_eq!(json!([receipt["queue"], receipt["offset"]]), json!([1, 1]));
    let message = found(follower, "topic=found&queue=1&offset=1");
    for same in ["body_base64", "tag", "keys", "queue"] {
        assert_eq!(message[same], new[same], "{same}");
    }
    assert_eq!(
        json!([message["topic"], message["offset"], message["group"]]),
        json!(["found", 1, group])
    );
    assert_eq!(message["properties"]["colour"], "blue");
    let id = receipt["message_id"].as_str().expect("id");
    let unique = message["properties"]["UNIQ_KEY"].as_str().expect("unique key");
    let one = ["queue=1&offset=1", &format!("id={id}"), &format!("id={unique}")];
    let many = ["key=k1", "key=k2", "queue=1&offset=1&max=9", &format!("key={unique}")];
    for http in &nodes {
        for query in one {
            assert_eq!(found(http, &format!("topic=found&{query}")), message, "{query}");
        }
        for query in many {
            assert_eq!(
                found(http, &format!("topic=found&{query}")),
                json!({ "items": [message] }),
                "{query}"
            );
        }
        assert_eq!(found(http, &format!("id={id}")), message, "an id says which topic");
        assert_eq!(found(http, "topic=found&key=k"), json!({ "items": [] }));
        let lost = ask(http, "POST", "/v1/topics/unknown/messages", r#"{"body":"lost"}"#);
        assert!(is_problem(&lost, 404, true), "{lost:?}");
        assert_eq!(topics(http), ["found"]);
    }
    follower.create_topic("unknown", 2).expect("topic");
    assert_eq!(queues(follower, "unknown"), [EMPTY; 2], "nothing was stored");
}

#[test]
fn messages_of_one_ordering_key_share_a_queue_from_the_first_on() {
    let cluster = one();
    let http = cluster.http(0);
    // The first message of each topic creates it.
    for topic in ["a", "b", "c", "d", "e", "f"] {
        let message = json!({ "body": "x", "ordering_key": "customer 7" });
        let queues = [(); 3].map(|()| send(&http, topic, message.clone())["queue"].clone());
        assert_eq!(queues, [(); 3].map(|()| queues[0].clone()), "{topic}");
    }
}

fn assert_equal_digests(http: &Http, group: &str) {
    let path = format!("/v1/groups/{group}/digest");
    let (status, answer) = http.post(&path, &json!({})).expect("digest");
    assert_eq!((status, &answer["equal"]), (200, &json!(true)), "{answer}");
    let digest = json!({ "index": answer["index"], "value": answer["value"] });
    let expected = ["n1", "n2", "n3"].map(|node| json!([node, digest]));
    let members = answer["members"].as_array().expect("members").iter();
    let mut shown: Vec<Value> = members
        .map(|member| json!([member["node"], member["digest"]]))
        .collect();
    shown.sort_by_key(|member| member[0].to_string());
    assert_eq!(shown, expected);
}

#[test]
fn leadership_goes_where_it_is_told_and_digests_stay_equal() {
    let cluster = three();
    let nodes = all(&cluster);
    nodes[0].create_topic("moves", 1).expect("topic");
    let group = owner(&cluster, "moves", 0).0;
    let leader = || cluster.leader(&group).expect("one leader");
    let mut told = Vec::new();
    let mut expected = Vec::new();
    for round in 0..4 {
        for (number, http) in nodes.iter().enumerate() {
            let receipt = send(http, "moves", json!({ "body": "x" }));
            assert_eq!(receipt["offset"], json!(round * nodes.len() + number));
            assert_equal_digests(http, &group);
        }
        // To the next node, asked at the one after it.
        let target = (leader() + 1) % 3;
        let name = json!({ "node": cluster.nodes()[target].name });
        let moved = nodes[(target + 1) % 3].post(&format!("/v1/groups/{group}/leader"), &name);
        let (status, answer) = moved.expect("transfer");
        told.push(json!([status, answer["leader"]]));
        expected.push(json!([200, name["node"]]));
        assert_eq!(leader(), target, "round {round}: {answer}");
    }
    assert_eq!(told, expected);
}
