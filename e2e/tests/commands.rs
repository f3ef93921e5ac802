//! The commands of the `flotilla` program: what they print, their exit codes, and what they do to a cluster.

use flotilla_e2e::admin::{SOON, all, at, found, get, leader, send, three};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::command::{fails, succeeds};
use flotilla_e2e::wait;
use serde_json::{Value, json};

/// Every node's metrics show how far the consumer group is from the end of queue 0.
fn await_lag(cluster: &Cluster, group: &str, topic: &str, lag: f64) {
    let labels = [("consumer_group", group), ("topic", topic), ("queue", "0")];
    for http in all(cluster) {
        wait::until("the node shows the lag", SOON, || {
            Ok((http.metrics()?.get("flotilla_consumer_lag", &labels) == Some(lag)).then_some(()))
        })
        .unwrap_or_else(|error| panic!("lag {lag}: {error:#}: {:?}", http.metrics()));
    }
}

#[test]
fn messages_are_produced_and_consumed_from_a_shell() {
    let cluster = three();
    let ports = cluster.nodes()[(leader(&cluster) + 1) % 3].ports;
    let (server, names) = (at(ports.remoting), at(ports.name_server));
    cluster.http(0).create_topic("shell", 1).expect("topic");
    let produce = |arguments: &str, input: &str| {
        let out = succeeds(&format!("produce --server {server} --topic shell {arguments}"), input);
        let places = out
            .lines()
            .map(|line| line.split_once(' ').expect("id and place").1.to_owned());
        places.collect::<Vec<_>>()
    };
    // Never waits for long: a message that does not come is missing in what was printed.
    let consume = |arguments: &str| {
        let all = format!("consume --server {names} --topic shell --from first --idle 10 {arguments}");
        succeeds(&all, "")
    };
    let place = |offset: i32| format!("queue 0 offset {offset}");
    let lines = produce("--lines", "one\ntwo\nthree\nfour\nfive\n");
    assert_eq!(lines, (0..5).map(place).collect::<Vec<_>>());
    assert_eq!(consume("--group readers --format body --count 3"), "one\ntwo\nthree\n");
    await_lag(&cluster, "readers", "shell", 2.0);
    assert_eq!(consume("--group readers --format body --count 2"), "four\nfive\n");
    await_lag(&cluster, "readers", "shell", 0.0);
    let tagged = produce("--body six --count 2 --tag red --key k --property a=b", "");
    assert_eq!(tagged, [place(5), place(6)]);
    assert_eq!(produce("--body - --queue 0", "seven\nlines"), [place(7)]);
    let red = consume("--group red --tags red||green --format json --count 2");
    for (line, offset) in red.lines().zip(5..) {
        let message: Value = serde_json::from_str(line).expect("JSON");
        let named = ["TAGS", "KEYS", "a"].map(|name| message["properties"][name].clone());
        assert_eq!(json!([message["offset"], message["body"]]), json!([offset, "six"]));
        assert_eq!(named, ["red", "k", "b"]);
    }
    assert_eq!(red.lines().count(), 2, "{red}");
    let unread = consume("--group all --count 8");
    assert!(unread.starts_with("queue 0 offset 0 tag - one\n"), "{unread}");
    assert!(
        unread.ends_with("offset 6 tag red six\nqueue 0 offset 7 tag - seven\nlines\n"),
        "{unread}"
    );
    let to = format!("produce --server {server} --topic");
    fails(&format!("{to} unknown --body x"), 1, &["topic[unknown] not exist"]);
    fails(&format!("{to} shell"), 1, &["--body"]);
    fails(
        "produce --server 127.0.0.1:1 --topic shell --body x",
        1,
        &["127.0.0.1:1"],
    );
    fails("consume --topic shell", 2, &["--group"]);
}

#[test]
fn a_cluster_is_looked_at_and_changed_from_a_shell() {
    let cluster = three();
    let leader = leader(&cluster);
    let (name, next) = (&cluster.nodes()[leader].name, &cluster.nodes()[(leader + 1) % 3]);
    let admin = format!("admin --http {}", at(next.ports.http));
    // Rows without their heading, in words.
    let rows = |arguments: &str| {
        let text = succeeds(&format!("{admin} {arguments}"), "");
        let rows = text
            .lines()
            .skip(1)
            .map(|row| row.split_whitespace().collect::<Vec<_>>());
        rows.map(|row| row.join(" ")).collect::<Vec<_>>()
    };
    let read = |arguments: &str| -> Value {
        serde_json::from_str(&succeeds(&format!("{admin} -o json {arguments}"), "")).expect("JSON")
    };
    let http = cluster.http(leader);
    let topic = ["shell 2 normal 1h g1"];
    assert_eq!(rows("topics shell --put --queues 2 --retention 1h"), topic);
    assert_eq!(rows("topics"), topic);
    assert_eq!(read("topics shell"), get(&http, "/v1/topics/shell"));
    let sent = send(&http, "shell", json!({ "body": "hello", "keys": ["k"], "queue": 1 }));
    assert_eq!(
        rows("queues shell"),
        [format!("0 g1 {name} 0 0"), format!("1 g1 {name} 0 1")]
    );
    let message = found(&http, "topic=shell&queue=1&offset=0");
    let id = sent["message_id"].as_str().expect("id");
    assert_eq!(read(&format!("messages --id {id}")), message);
    assert_eq!(read("messages --topic shell --queue 1 --offset 0"), message);
    assert_eq!(read("messages --topic shell --key k"), json!({ "items": [message] }));
    wait::until("every node is alive and ready", SOON, || {
        let nodes = rows("cluster");
        Ok((nodes.iter().filter(|row| row.contains(" true true ")).count() == 3).then_some(()))
    })
    .expect("rows of the nodes");
    let members = rows("groups g1");
    assert_eq!(
        members.iter().filter(|row| row.contains(" follower true ")).count(),
        2,
        "{members:?}"
    );
    assert_eq!(read("digest")["equal"], true);
    rows(&format!("transfer-leader {}", next.name));
    assert_eq!(read("groups")["items"][0]["leader"], json!(next.name));
    assert_eq!(succeeds(&format!("{admin} topics shell --delete"), ""), "");
    fails(&format!("{admin} queues shell"), 1, &["404", "shell"]);
    fails(&format!("{admin} topics shell --delete"), 1, &["404", "refused"]);
    fails(&format!("{admin} transfer-leader n9"), 1, &["404", "n9", "refused"]);
    fails(&format!("{admin} topics --queues 2"), 2, &["--put"]);
    fails("admin --http 127.0.0.1:1 topics", 1, &["127.0.0.1:1"]);
}

#[test]
fn a_configuration_is_checked_and_every_bad_key_is_named() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("n1.toml");
    let path = file.display();
    let validate = format!("validate {path}");
    let write = |text: &str| std::fs::write(&file, text).expect("write");
    let cluster =
        "[cluster]\nname = \"orders\"\nmembers = [\"n1=n1.example.net:10912\", \"n2=n2.example.net:10912\"]\n";
    write(&format!(
        "node = \"n1\"\ndata = \"/var/lib/flotilla\"\nlisten = \"0.0.0.0\"\n{cluster}"
    ));
    assert_eq!(succeeds(&validate, ""), format!("{path}: valid\n"));
    write(&format!(
        "node = \"n3\"\nlisten = \"here\"\ncolour = 1\n[policy]\nelection_min_ms = 50\n{cluster}"
    ));
    fails(
        &validate,
        1,
        &[
            "cluster.members: ",
            "`n3`",
            "listen: `here`",
            "colour: ",
            "policy.election_min_ms: ",
        ],
    );
    write("[ports]\nhttp = \"x\"\nremoting = 99999\n[log]\nflush = \"never\"\n");
    for command in [&validate, &format!("broker --config {path}")] {
        fails(command, 1, &["ports.http: ", "ports.remoting: ", "log.flush: "]);
    }
    write("node =\n");
    fails(&validate, 1, &["line 1"]);
    std::fs::remove_file(&file).expect("remove");
    fails(&validate, 1, &[&path.to_string()]);
}
