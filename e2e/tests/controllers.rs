//! Controllers die, lose their disks and come back. Whatever becomes of them, clients are served; with a majority of them
//! topics are made, without one they are refused, and said to be.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flotilla_e2e::admin::{all, ask, at, get, is_problem, owner, three};
use flotilla_e2e::cluster::{Cluster, ControllerView, Shape};
use flotilla_e2e::command::succeeds;
use flotilla_e2e::history::Dump;
use flotilla_e2e::progress;
use flotilla_e2e::wait;
use serde_json::Value;

const TOPIC: &str = "controllers";
const QUEUES: u32 = 6;
/// Topics can be made again after a majority of controllers is back, or another one leads.
const MADE_WITHIN: Duration = Duration::from_secs(15);
/// Another controller leads. The goal is a second or two; a machine busy with other tests gets more.
const LEADS_WITHIN: Duration = Duration::from_secs(8);
/// Another node leads a Raft group.
const FAILED_OVER: Duration = Duration::from_secs(6);
/// A controller with an empty disk is a full one again.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(30);

/// Sends one message to every queue through one node.
fn send(cluster: &Cluster, node: usize, body: &str) -> Result<()> {
    let mut client = cluster.client(node)?;
    (0..QUEUES).try_for_each(|queue| client.send(TOPIC, queue, body).map(drop))
}

fn dump(cluster: &Cluster, node: usize) -> Dump {
    let read = cluster.client(node).and_then(|mut client| client.dump(TOPIC, QUEUES));
    read.unwrap_or_else(|error| panic!("read at node {node}: {error:#}"))
}

/// Makes a topic at one node and finds it, with all its queues, at every other.
fn make_topic(cluster: &Cluster, node: usize, topic: &str) {
    let path = format!("/v1/topics/{topic}");
    wait::until(&format!("{topic} is made"), MADE_WITHIN, || {
        let answer = ask(&cluster.http(node), "PUT", &path, r#"{"queues":3}"#);
        // A try of unknown outcome may have made it.
        ensure!([200, 201].contains(&answer.status), "{answer:?}");
        Ok(Some(()))
    })
    .expect("a topic is made");
    for (place, node) in cluster.nodes().iter().enumerate().filter(|(_, node)| node.is_running()) {
        assert_eq!(get(&node.http(), &path)["queues"], 3, "{topic} at {}", node.name);
        for queue in 0..3 {
            let mut client = cluster.client(place).expect("connect");
            client
                .send(topic, queue, "first")
                .unwrap_or_else(|error| panic!("{topic} {queue} at {place}: {error:#}"));
        }
    }
}

/// Asks one node to make a topic, which it must refuse.
fn refuse_topic(cluster: &Cluster, node: usize, topic: &str) {
    let answer = ask(&cluster.http(node), "PUT", &format!("/v1/topics/{topic}"), "");
    assert!(is_problem(&answer, 503, true), "at node {node}: {answer:?}");
}

fn names(controllers: &[ControllerView]) -> Vec<&str> {
    controllers.iter().map(|controller| controller.name.as_str()).collect()
}

fn start() -> Cluster {
    let cluster = three();
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    send(&cluster, 0, "with controllers").expect("send");
    cluster
}

/// Nodes restart, one by one and all at once; then the leader of a queue dies.
fn restart_and_fail_over(cluster: &mut Cluster) {
    for node in 0..cluster.len() {
        match node {
            0 => cluster.terminate(node).expect("planned stop"),
            _ => cluster.kill(node).expect("kill"),
        }
        cluster.launch(node).expect("start again");
        cluster.await_whole().expect("whole without controllers");
        send(cluster, node, &format!("after n{} restarted", node + 1)).expect("send");
    }
    cluster.kill_all().expect("kill all nodes");
    for node in 0..cluster.len() {
        cluster.launch(node).expect("start again");
    }
    cluster.await_whole().expect("whole without controllers");
    send(cluster, 2, "after all nodes restarted").expect("send");
    let (group, victim) = owner(cluster, TOPIC, 0);
    cluster.kill(victim).expect("kill a leader");
    wait::until("another node leads", FAILED_OVER, || {
        send(cluster, (victim + 1) % 3, "after a leader was killed").map(Some)
    })
    .expect("send");
    assert_ne!(cluster.leader(&group).expect("leader"), victim);
    cluster.launch(victim).expect("start again");
    cluster.await_whole().expect("whole without controllers");
}

#[test]
fn without_controllers_everything_but_new_topics_goes_on() {
    let mut cluster = start();
    cluster.await_copies_on_disk().expect("copies on disk");
    cluster.kill_controllers().expect("kill all controllers");
    restart_and_fail_over(&mut cluster);

    let (topic, groups) = (format!("/v1/topics/{TOPIC}"), "/v1/groups".to_owned());
    for http in all(&cluster) {
        for path in [&topic, &groups, &format!("{topic}/queues"), &"/v1/cluster".to_owned()] {
            let body = http.get_ok(path).expect("read");
            assert_eq!(body["stale"], true, "{path}: {body}");
        }
    }
    for node in 0..3 {
        refuse_topic(&cluster, node, "refused");
    }
    // A consumer group that nobody has heard of, at a node that was restarted, gets everything.
    let expected = dump(&cluster, 0);
    let bodies = expected
        .0
        .values()
        .flat_map(|queue| queue.messages.iter().map(|(_, body)| body.as_str()));
    let mut expected: Vec<&str> = bodies.collect();
    expected.sort_unstable();
    let server = at(cluster.nodes()[1].ports.name_server);
    let count = expected.len();
    let arguments = format!("--topic {TOPIC} --group new --from first --idle 15 --format body --count {count}");
    let consumed = succeeds(&format!("consume --server {server} {arguments}"), "");
    let mut consumed: Vec<&str> = consumed.lines().collect();
    consumed.sort_unstable();
    assert_eq!(consumed, expected);
    let produced = succeeds(
        &format!("produce --server {server} --topic {TOPIC} --body x --queue 0"),
        "",
    );
    assert!(produced.contains("queue 0 offset"), "{produced}");

    // In another order than at first.
    for controller in [2, 0, 1] {
        cluster.controllers_mut()[controller]
            .launch()
            .expect("start a controller");
    }
    cluster.await_whole().expect("whole again");
    for node in 0..3 {
        make_topic(&cluster, node, &format!("made-at-{node}"));
    }
    for http in all(&cluster) {
        let refused = ask(&http, "GET", "/v1/topics/refused", "");
        assert!(is_problem(&refused, 404, false), "{refused:?}");
        assert_eq!(get(&http, &topic)["queues"], QUEUES);
    }
    let dumps = [0, 1, 2].map(|node| dump(&cluster, node));
    assert!(dumps[0] == dumps[1] && dumps[0] == dumps[2], "{dumps:?}");
}

#[test]
fn a_lost_majority_of_controllers_refuses_topics_until_it_is_back() {
    let mut cluster = start();
    let leader = cluster.leading_controller().expect("a leading controller");
    for (round, survivor) in [leader, (leader + 1) % 3].into_iter().enumerate() {
        let lost = [(survivor + 1) % 3, (survivor + 2) % 3];
        for controller in lost {
            cluster.controllers_mut()[controller].kill().expect("kill");
        }
        // One that led when it lost the others may have taken the command into its log: then it must not say no.
        let topic = format!("lost-{round}");
        let answer = ask(&cluster.http(round), "PUT", &format!("/v1/topics/{topic}"), "");
        let outcome = answer.json().expect("a problem")["outcome"].clone();
        assert!(
            answer.status == 503 && (outcome == "refused" || outcome == "unknown" && survivor == leader),
            "{answer:?}"
        );
        // A second one later: nobody leads any more.
        refuse_topic(&cluster, round, &format!("refused-{round}"));
        send(&cluster, round, &format!("with one controller, round {round}")).expect("send");
        for controller in lost {
            cluster.controllers_mut()[controller].launch().expect("start again");
        }
        cluster.await_whole().expect("whole again");
        make_topic(&cluster, round, &format!("restored-{round}"));
        for http in all(&cluster) {
            let refused = ask(&http, "GET", &format!("/v1/topics/refused-{round}"), "");
            assert!(is_problem(&refused, 404, false), "{refused:?}");
            if outcome == "refused" {
                let refused = ask(&http, "GET", &format!("/v1/topics/{topic}"), "");
                assert!(is_problem(&refused, 404, false), "{refused:?}");
            }
        }
    }
}

/// Gives a controller an empty disk and waits until it is a full one again, under a new id.
fn wipe(cluster: &mut Cluster, controller: usize) {
    let before = cluster.controllers_seen_at(0).expect("controllers");
    let victim = &mut cluster.controllers_mut()[controller];
    victim.kill().expect("kill");
    victim.wipe().expect("wipe");
    victim.launch().expect("start with an empty disk");
    cluster.await_ready().expect("ready");
    wait::until("the empty controller has caught up", CAUGHT_UP_WITHIN, || {
        let now = cluster.controllers_seen_at(0)?;
        ensure!(names(&now) == names(&before), "{now:?}");
        let newest = now.iter().filter_map(|controller| controller.epoch).max();
        ensure!(
            now.iter().all(|seen| seen.alive && seen.votes && seen.epoch == newest),
            "{now:?}"
        );
        let renewed = now.iter().zip(&before).enumerate().all(|(place, (now, before))| {
            let is_new = before.replica != now.replica;
            is_new == (place == controller)
        });
        ensure!(renewed, "{now:?} after {before:?}");
        Ok(Some(()))
    })
    .expect("a controller with an empty disk is taken in");
}

#[test]
fn a_controller_with_a_wiped_disk_rejoins_under_a_new_id_and_counts() {
    let mut cluster = start();
    let id = get(&cluster.http(0), "/v1/cluster")["id"].clone();
    // The first is the one that founds clusters: it must not found a second one.
    for wiped in [0, 1, 2] {
        wipe(&mut cluster, wiped);
        make_topic(&cluster, 0, &format!("wiped-{wiped}"));
        // The wiped one and one other are all that is left.
        let other = (wiped + 1) % 3;
        cluster.controllers_mut()[other].kill().expect("kill another one");
        make_topic(&cluster, 1, &format!("wiped-{wiped}-and-another-killed"));
        cluster.controllers_mut()[other].launch().expect("start again");
        cluster.await_ready().expect("ready");
    }
    assert_eq!(get(&cluster.http(2), "/v1/cluster")["id"], id);
    let listed = get(&cluster.http(2), "/v1/topics");
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(7), "{listed}");
}

#[test]
fn when_the_leading_controller_dies_another_leads_and_topics_go_on() {
    let mut cluster = start();
    let mut times = Vec::new();
    for round in 0..4 {
        let leader = cluster.leading_controller().expect("a leading controller");
        cluster.controllers_mut()[leader].kill().expect("kill");
        let begin = Instant::now();
        make_topic(&cluster, round % 3, &format!("round-{round}"));
        times.push(begin.elapsed());
        assert_ne!(cluster.leading_controller().expect("another one"), leader);
        cluster.controllers_mut()[leader].launch().expect("start again");
        cluster.await_ready().expect("ready");
    }
    times.sort();
    progress::line(format!("leading controller killed, topic made after {times:?}"));
    assert!(times.iter().all(|time| *time < LEADS_WITHIN), "{times:?}");
}

#[test]
fn a_silent_leading_controller_is_replaced_and_wakes_up_without_harm() {
    let cluster = start();
    let leader = cluster.leading_controller().expect("a leading controller");
    cluster.controllers()[leader].pause().expect("pause");
    let begin = Instant::now();
    make_topic(&cluster, 0, "while-silent");
    let time = begin.elapsed();
    cluster.controllers()[leader].resume().expect("resume");
    progress::line(format!("leading controller silent, topic made after {time:?}"));
    make_topic(&cluster, 1, "after-it-woke-up");
    let topics = |http: &flotilla_e2e::http::Http| -> Value { get(http, "/v1/topics")["items"].clone() };
    let at_first = topics(&cluster.http(0));
    assert!(all(&cluster).iter().all(|http| topics(http) == at_first));
    wait::until("the controllers are level", CAUGHT_UP_WITHIN, || {
        let seen = cluster.controllers_seen_at(0)?;
        Ok(seen
            .iter()
            .all(|controller| controller.epoch == seen[0].epoch && controller.alive)
            .then_some(()))
    })
    .expect("the one that woke up caught up");
}

#[test]
fn the_only_controller_with_an_empty_disk_makes_a_cluster_of_its_own_and_no_running_node_follows() {
    let mut cluster = Shape::of(3).controllers(1).start().expect("three nodes start");
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    cluster.await_copies_on_disk().expect("copies on disk");
    send(&cluster, 0, "before").expect("send");
    let id = get(&cluster.http(0), "/v1/cluster")["id"].clone();
    let controller = &mut cluster.controllers_mut()[0];
    controller.kill().expect("kill");
    controller.wipe().expect("wipe");
    controller.launch().expect("start with an empty disk");
    controller.await_ready().expect("ready");
    let new = get(&controller.http(), "/v1/cluster");
    assert_ne!(new["id"], id, "the old id died with the disk");
    for node in 0..3 {
        let seen = cluster.http(node).get_ok("/v1/cluster").expect("cluster");
        assert_eq!((&seen["id"], &seen["stale"]), (&id, &Value::Bool(true)), "{seen}");
        refuse_topic(&cluster, node, "refused");
        send(&cluster, node, "after").expect("send");
    }
    let dump = dump(&cluster, 0);
    assert!(dump.0.values().all(|queue| queue.messages.len() == 4), "{dump:?}");
    let nodes = get(&cluster.controllers()[0].http(), "/v1/cluster")["nodes"].clone();
    assert_eq!(nodes, serde_json::json!([]), "no node registered there");
}
