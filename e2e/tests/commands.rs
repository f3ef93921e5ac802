//! The commands of the `flotilla` program: what they print, their exit codes, and what they do to a cluster.

use flotilla_e2e::admin::{GROUP, SOON, all, at, found, get, owner, send, three};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::command::{fails, succeeds};
use flotilla_e2e::wait;
use serde_json::{Value, json};

/// The metrics of the node that leads queue 0 show how far the consumer group is from its end, and those of no other, so
/// that the figures of all nodes add up.
fn await_lag(cluster: &Cluster, group: &str, topic: &str, lag: f64) {
    let labels = [("consumer_group", group), ("topic", topic), ("queue", "0")];
    let mut expected = vec![None; cluster.len()];
    expected[owner(cluster, topic, 0).1] = Some(lag);
    let mut shown = Vec::new();
    wait::until("one node shows the lag", SOON, || {
        shown.clear();
        for http in all(cluster) {
            shown.push(http.metrics()?.get("flotilla_consumer_lag", &labels));
        }
        Ok((shown == expected).then_some(()))
    })
    .unwrap_or_else(|error| panic!("lag {expected:?}: {error:#}: {shown:?}"));
}

#[test]
fn messages_are_produced_and_consumed_from_a_shell() {
    let cluster = three();
    cluster.http(0).create_topic("shell", 1).expect("topic");
    let ports = cluster.nodes()[(owner(&cluster, "shell", 0).1 + 1) % 3].ports;
    let (server, names) = (at(ports.remoting), at(ports.name_server));
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
    let leader = cluster.leader(GROUP).expect("leader");
    let next = &cluster.nodes()[(leader + 1) % 3];
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
    let put = rows("topics shell --put --queues 2 --retention 1h");
    let places = [0, 1].map(|queue| owner(&cluster, "shell", queue));
    let groups = places.iter().map(|(group, _)| group.as_str());
    let topic = [format!("shell 2 normal 1h {}", groups.collect::<Vec<_>>().join(","))];
    assert_eq!(put, topic);
    assert_eq!(rows("topics"), topic);
    assert_eq!(read("topics shell"), get(&http, "/v1/topics/shell"));
    let sent = send(&http, "shell", json!({ "body": "hello", "keys": ["k"], "queue": 1 }));
    let queues = places.iter().zip(0..).map(|((group, leader), queue)| {
        let name = &cluster.nodes()[*leader].name;
        // Queue 1 has a message.
        format!("{queue} {group} {name} 0 {queue}")
    });
    let shown = rows("queues shell").into_iter().map(|row| {
        let columns: Vec<&str> = row.split(' ').collect();
        let rates: Vec<u64> = columns[5..].iter().map(|rate| rate.parse().expect("a rate")).collect();
        assert_eq!(rates.len(), 2, "messages and bytes a second: {row}");
        columns[..5].join(" ")
    });
    assert_eq!(shown.collect::<Vec<_>>(), queues.collect::<Vec<_>>());
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
    let members = rows(&format!("groups {GROUP}"));
    assert_eq!(
        members.iter().filter(|row| row.contains(" follower true ")).count(),
        2,
        "{members:?}"
    );
    for group in cluster.groups().expect("groups") {
        assert_eq!(read(&format!("digest {group}"))["equal"], true);
    }
    rows(&format!("transfer-leader {}", next.name));
    assert_eq!(read(&format!("groups {GROUP}"))["leader"], json!(next.name));
    assert_eq!(succeeds(&format!("{admin} topics shell --delete"), ""), "");
    fails(&format!("{admin} queues shell"), 1, &["404", "shell"]);
    fails(&format!("{admin} topics shell --delete"), 1, &["404", "refused"]);
    fails(&format!("{admin} transfer-leader n9"), 1, &["404", "n9", "refused"]);
    fails(&format!("{admin} topics --queues 2"), 2, &["--put"]);
    fails("admin --http 127.0.0.1:1 topics", 1, &["127.0.0.1:1"]);
}

/// A configuration file in a folder of its own, of what this command starts.
struct ConfigFile {
    command: &'static str,
    path: String,
    _folder: tempfile::TempDir,
}

impl ConfigFile {
    fn of(command: &'static str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        Self {
            command,
            path: folder.path().join("server.toml").display().to_string(),
            _folder: folder,
        }
    }

    /// With this text it is valid for a `kind`.
    fn is_valid(&self, kind: &str, text: &str) {
        std::fs::write(&self.path, text).expect("write");
        let path = &self.path;
        let said = succeeds(&format!("validate {path}"), "");
        assert_eq!(said, format!("{path}: valid for a {kind}\n"));
    }

    /// With this text it is neither valid nor started with, and both say all of this.
    fn is_refused(&self, text: &str, says: &[&str]) {
        std::fs::write(&self.path, text).expect("write");
        for command in ["validate", &format!("{} --config", self.command)] {
            fails(&format!("{command} {}", self.path), 1, says);
        }
    }
}

#[test]
fn a_node_s_configuration_is_checked_and_every_bad_key_is_named() {
    let file = ConfigFile::of("broker");
    let controllers = "controllers = [\"c1.example.net:9878\", \"c2.example.net:9878\"]\n";
    file.is_valid(
        "node",
        &format!("node = \"n1\"\ndata = \"/var/lib/flotilla\"\nlisten = \"0.0.0.0\"\n{controllers}"),
    );
    let text =
        "node = \"n 3\"\nlisten = \"here\"\ncolour = 1\ncontrollers = [\"c1\"]\n[policy]\nelection_min_ms = 50\n";
    let bad = [
        "node: ",
        "listen: `here`",
        "colour: ",
        "controllers: ",
        "policy.election_min_ms: ",
    ];
    file.is_refused(text, &bad);
    file.is_refused("listen = \"0.0.0.0\"\n", &["controllers: "]);
    file.is_refused(
        "[ports]\nhttp = \"x\"\nremoting = 99999\n[log]\nflush = \"never\"\n",
        &["ports.http: ", "ports.remoting: ", "log.flush: "],
    );
    file.is_refused("node =\n", &["line 1"]);
    std::fs::remove_file(&file.path).expect("remove");
    fails(&format!("validate {}", file.path), 1, &[&file.path]);
}

#[test]
fn a_controller_s_configuration_is_checked_and_every_bad_key_is_named() {
    let file = ConfigFile::of("controller");
    let peers = "peers = [\"c1=c1.example.net:9878\", \"c2=c2.example.net:9878\", \"c3=c3.example.net:9878\"]\n";
    file.is_valid(
        "controller",
        &format!("node = \"c1\"\ncluster = \"orders\"\n{peers}[policy]\nreplicas = 3\n"),
    );
    let text = format!(
        "node = \"c9\"\ncluster = \"or ders\"\nlisten = \"here\"\ncolour = 1\n{peers}\
         [ports]\nhttp = 9878\n[policy]\nreplicas = 0\ngroups_per_node = 0\n"
    );
    let bad = [
        "`c9`",
        "cluster: ",
        "listen: `here`",
        "colour: ",
        "9878",
        "policy.replicas: ",
        "policy.groups_per_node: ",
    ];
    file.is_refused(&text, &bad);
}
