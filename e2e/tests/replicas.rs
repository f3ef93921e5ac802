//! Replicas are re-created on other nodes while the topic is written and read: because an operator empties a node or
//! names a replica, or because a node was lost for good. Nothing is lost, doubled or reordered, whoever dies meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flotilla_e2e::admin::{ask, get, is_problem};
use flotilla_e2e::cluster::{Cluster, Shape};
use flotilla_e2e::command::succeeds;
use flotilla_e2e::history;
use flotilla_e2e::progress;
use flotilla_e2e::settings::setting;
use flotilla_e2e::traffic::Traffic;
use flotilla_e2e::wait;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

const TOPIC: &str = "spread";
const QUEUES: u32 = 12;
/// What is stored before replicas go, in MiB.
const STORED_MIB: u32 = 64;
const BODY_BYTES: usize = 64 * 1024;
const TRANSFERRED: &str = "flotilla_group_transfer_bytes_total";
/// The points at which a process dies while a node is emptied, as the product names them in `fail_point.rs`.
const STEPS: [&str; 6] = [
    "members-wanted",
    "members-next",
    "members-set",
    "handed-over",
    "replica-ended",
    "thrown-away-next",
];
const SERVED: Duration = Duration::from_secs(20);
const EMPTIED: Duration = Duration::from_secs(180);
const ALIKE: Duration = Duration::from_secs(60);
/// How long some lane may go without an acknowledgement while replicas go and processes die: an election or two, and
/// what a busy machine adds.
const WITHOUT_WRITER: Duration = Duration::from_secs(5);

/// A node's document.
fn node(cluster: &Cluster, name: &str, asked: usize) -> Result<Value> {
    cluster.http(asked).get_ok(&format!("/v1/nodes/{name}"))
}

fn post(cluster: &Cluster, asked: usize, path: &str, body: &Value) -> Result<Value> {
    let (status, answer) = cluster.http(asked).post(path, body)?;
    ensure!(status == 200 || status == 202, "POST {path} {body}: {status} {answer}");
    Ok(answer)
}

/// The nodes with a vote in each Raft group, by its name.
type Voters = Vec<(String, BTreeSet<String>)>;

/// Nodes with a vote in each Raft group, once none of its replicas is about to go or come.
fn voters(cluster: &Cluster, asked: usize) -> Result<Option<Voters>> {
    let document = cluster.http(asked).get_ok("/v1/groups")?;
    let groups = document["items"].as_array().context("items")?;
    let mut settled = Vec::new();
    for group in groups {
        let members = group["members"].as_array().context("members")?;
        let is_settled = |member: &Value| member["role"] != "learner" && member["leaving"] == false;
        if group["leader"].is_null() || !members.iter().all(is_settled) {
            return Ok(None);
        }
        let nodes = members.iter().filter_map(|member| member["node"].as_str());
        let name = group["name"].as_str().context("name")?;
        settled.push((name.to_owned(), nodes.map(str::to_owned).collect()));
    }
    Ok(Some(settled))
}

/// Waits until every Raft group has so many voters, all on the nodes that `may` have them.
fn await_only_on(
    cluster: &Cluster,
    asked: usize,
    count: usize,
    may: impl Fn(&str) -> bool,
    limit: Duration,
) -> Result<()> {
    wait::until("every Raft group has its voters where they belong", limit, || {
        let groups = voters(cluster, asked)?;
        let right = |nodes: &BTreeSet<String>| nodes.len() == count && nodes.iter().all(|name| may(name));
        Ok(groups.filter(|groups| groups.iter().all(|(_, nodes)| right(nodes))))
    })?;
    Ok(())
}

/// Bytes that the running nodes sent to each other.
fn transferred(cluster: &Cluster) -> Result<f64> {
    let running = (0..cluster.len()).filter(|node| cluster.is_running(*node));
    let sent = running.map(|node| Ok(cluster.http(node).metrics()?.sum(TRANSFERRED)));
    sent.sum()
}

fn fill(cluster: &Cluster, topic: &str, mib: u32) -> Result<()> {
    cluster.http(0).create_topic(topic, QUEUES)?;
    let mut client = cluster.client(0)?;
    let body = "x".repeat(BODY_BYTES);
    for number in 0..mib * (1 << 20) / BODY_BYTES as u32 {
        client.send(topic, number % QUEUES, &body)?;
    }
    Ok(())
}

/// Median and 99th percentile of the acknowledged sends that began after a time.
fn latencies(traffic: &Traffic, begin: Instant) -> (Duration, Duration) {
    let acked = traffic
        .since(begin)
        .into_iter()
        .filter(flotilla_e2e::traffic::Attempt::is_acked);
    let mut times: Vec<Duration> = acked.map(|attempt| attempt.time()).collect();
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    (at(50), at(99))
}

#[test]
fn six_nodes_become_three_under_load() {
    let mut cluster = Cluster::start(6).expect("six nodes start");
    fill(&cluster, "ballast", setting("STORED_MIB", STORED_MIB)).expect("fill");
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    let traffic = Traffic::through(&cluster, 0..3, TOPIC, QUEUES);
    let quiet = Instant::now();
    traffic.await_all_lanes(3, SERVED, quiet).expect("every lane is served");
    // So many seconds of sends are compared with.
    std::thread::sleep(Duration::from_secs(3));
    let (median, slow) = latencies(&traffic, quiet);
    let before = transferred(&cluster).expect("metrics");
    let begin = Instant::now();
    for name in ["n4", "n5", "n6"] {
        let path = format!("/v1/nodes/{name}/evacuate");
        let answer = post(&cluster, 0, &path, &json!({})).expect("evacuate");
        assert_eq!(answer["evacuating"], true, "{answer}");
    }
    for name in ["n4", "n5", "n6"] {
        wait::until(&format!("{name} is empty"), EMPTIED, || {
            Ok((node(&cluster, name, 1)?["evacuated"] == true).then_some(()))
        })
        .expect("emptied");
    }
    let took = begin.elapsed();
    let after = transferred(&cluster).expect("metrics");
    let (median_then, slow_then) = latencies(&traffic, begin);
    progress::line(format!(
        "six nodes became three in {took:?}, {:.1} MB between nodes meanwhile; a send took {median:?}, 99 % {slow:?} \
         before, {median_then:?}, {slow_then:?} meanwhile",
        (after - before) / 1e6,
    ));
    let stays = |name: &str| ["n1", "n2", "n3"].contains(&name);
    await_only_on(&cluster, 0, 3, stays, SERVED).expect("replicas are on three nodes");
    // Now they can be switched off and forgotten.
    for place in 3..6 {
        let name = cluster.nodes()[place].name.clone();
        let path = format!("/v1/nodes/{name}");
        let runs = ask(&cluster.http(0), "DELETE", &path, "");
        assert!(is_problem(&runs, 409, true), "{runs:?}");
        let data = cluster.nodes()[place].data().join("groups");
        wait::until("nothing is kept there", SERVED, || {
            let kept = std::fs::read_dir(&data)?.count();
            Ok((kept == 0).then_some(()))
        })
        .expect("thrown away");
        cluster.terminate(place).expect("stop");
        wait::until("it is forgotten", SERVED, || {
            Ok((ask(&cluster.http(0), "DELETE", &path, "").status == 200).then_some(()))
        })
        .expect("forget");
    }
    let nodes = get(&cluster.http(1), "/v1/nodes");
    assert_eq!(nodes["items"].as_array().map(Vec::len), Some(3), "{nodes}");
    let end = Instant::now();
    let pause = (0..3).flat_map(|node| (0..QUEUES).map(move |queue| (node, queue)));
    let pause = pause.map(|(node, queue)| traffic.pause(node, queue, begin, end)).max();
    let refused: Vec<_> = traffic
        .since(begin)
        .into_iter()
        .filter(|attempt| !attempt.is_acked())
        .collect();
    let history = traffic.finish(&cluster).expect("everything is read");
    let report = history::check(&history);
    progress::line(format!(
        "{report}longest pause of a lane {pause:?}, {} not acknowledged",
        refused.len()
    ));
    assert!(report.violations.is_empty(), "{report}");
    assert!(refused.is_empty(), "{refused:?}");
    cluster.await_alike(ALIKE).expect("replicas are alike");
    for place in 0..3 {
        let dump = cluster
            .client(place)
            .and_then(|mut client| client.dump("ballast", QUEUES));
        let messages: usize = dump.expect("read").0.values().map(|queue| queue.messages.len()).sum();
        let stored = setting("STORED_MIB", STORED_MIB) as usize * (1 << 20) / BODY_BYTES;
        assert_eq!(messages, stored, "through node {place}");
    }
}

#[test]
fn a_node_lost_for_good_is_replaced_by_the_policy_and_comes_back_as_an_empty_one() {
    let shape = Shape::of(4).replace_after("3s");
    let mut cluster = shape.start().expect("four nodes start");
    fill(&cluster, "ballast", 16).expect("fill");
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    let traffic = Traffic::through(&cluster, 0..3, TOPIC, QUEUES);
    traffic
        .await_all_lanes(3, SERVED, Instant::now())
        .expect("every lane is served");
    cluster.kill(3).expect("kill");
    let before = transferred(&cluster).expect("metrics");
    let begin = Instant::now();
    cluster.wipe(3).expect("its disk is lost");
    await_only_on(&cluster, 1, 3, |name| name != "n4", EMPTIED).expect("replaced");
    let after = transferred(&cluster).expect("metrics");
    progress::line(format!(
        "a lost node was replaced {:?} after its death, {:.1} MB between nodes meanwhile",
        begin.elapsed(),
        (after - before) / 1e6
    ));
    let lost = node(&cluster, "n4", 0).expect("the node");
    assert_eq!(
        (&lost["alive"], &lost["replicas"]),
        (&json!(false), &json!([])),
        "{lost}"
    );
    // Nothing depends on it: another one may die.
    cluster.kill(2).expect("kill");
    cluster.launch(2).expect("launch");
    cluster.await_node(2).expect("ready");
    // It comes back with another disk, and takes part as a node without replicas, which gets some when asked for.
    cluster.launch(3).expect("launch");
    cluster.await_node(3).expect("ready");
    let added = post(
        &cluster,
        3,
        "/v1/groups/g1/members",
        &json!({ "node": "n4", "replaces": "n1" }),
    )
    .expect("replace");
    assert_eq!(added["name"], "g1", "{added}");
    wait::until("g1 has a voter on n4 and none on n1", EMPTIED, || {
        let groups = voters(&cluster, 3)?.unwrap_or_default();
        let g1 = groups.into_iter().find(|(name, _)| name == "g1");
        Ok(g1.filter(|(_, nodes)| nodes.contains("n4") && !nodes.contains("n1")))
    })
    .expect("replaced");
    let history = traffic.finish(&cluster).expect("everything is read");
    let report = history::check(&history);
    progress::line(format!("{report}"));
    assert!(report.violations.is_empty(), "{report}");
    cluster.await_alike(ALIKE).expect("replicas are alike");
}

/// Empties a node while some process dies at `point`, and lets it get replicas again.
fn die_at(cluster: &mut Cluster, traffic: &Traffic, point: &str, random: &mut StdRng) -> Result<()> {
    let names: Vec<String> = cluster.nodes().iter().map(|node| node.name.clone()).collect();
    // One that leads has leadership to hand over, too.
    let leaders: Vec<usize> = cluster.leaders()?.into_values().collect();
    let leaving = &names[*leaders.choose(random).context("a leader")?];
    let begin = Instant::now();
    cluster.arm(point)?;
    post(cluster, 0, &format!("/v1/nodes/{leaving}/evacuate"), &json!({}))?;
    let dead = cluster.await_death(point, EMPTIED)?;
    // A while later it comes back: with two of five gone some groups could not do without it.
    std::thread::sleep(Duration::from_secs(1));
    cluster.launch_all()?;
    wait::until(&format!("{leaving} is empty"), EMPTIED, || {
        Ok((node(cluster, leaving, 0)?["evacuated"] == true).then_some(()))
    })?;
    await_only_on(cluster, 0, 3, |name| name != leaving, EMPTIED)?;
    let end = Instant::now();
    let lanes = (0..cluster.len()).flat_map(|node| (0..QUEUES).map(move |queue| (node, queue)));
    let of_living = lanes.filter(|(node, _)| !dead.contains(&names[*node]));
    let pause = of_living
        .map(|(node, queue)| traffic.pause(node, queue, begin, end))
        .max();
    let pause = pause.context("a lane")?;
    progress::line(format!(
        "{point}: {dead:?} died, {leaving} was empty after {:?}, longest pause of a lane {pause:?}",
        end - begin
    ));
    ensure!(pause < WITHOUT_WRITER, "{pause:?} without a writer");
    post(cluster, 0, &format!("/v1/nodes/{leaving}/reopen"), &json!({}))?;
    // It gets replicas again when another one is emptied.
    cluster.await_alike(ALIKE)
}

#[test]
fn whoever_dies_while_a_node_is_emptied_it_is_emptied_and_nothing_is_lost() {
    let seed = u64::from(std::process::id());
    progress::line(format!("seed {seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(5).expect("five nodes start");
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    let traffic = Traffic::start(&cluster, TOPIC, QUEUES);
    traffic
        .await_all_lanes(5, SERVED, Instant::now())
        .expect("every lane is served");
    for point in STEPS {
        let emptied = die_at(&mut cluster, &traffic, point, &mut random);
        emptied.with_context(|| point.to_owned()).expect("the node is emptied");
    }
    let history = traffic.finish(&cluster).expect("everything is read");
    let report = history::check(&history);
    progress::line(format!("{report}"));
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
fn a_node_comes_back_at_another_address() {
    let mut cluster = Cluster::start(3).expect("three nodes start");
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    let before = node(&cluster, "n2", 0).expect("the node");
    cluster
        .client(0)
        .and_then(|mut client| client.send(TOPIC, 0, "before"))
        .expect("send");
    cluster.kill(1).expect("kill");
    cluster.readdress(1).expect("other ports");
    cluster.launch(1).expect("launch");
    cluster.await_whole().expect("all of it");
    let after = node(&cluster, "n2", 2).expect("the node");
    assert_ne!(before["peer"], after["peer"]);
    let of = |node: &Value| node["replicas"].as_array().map(Vec::len);
    assert_eq!((of(&before), of(&after)), (Some(3), Some(3)), "{after}");
    cluster
        .client(1)
        .and_then(|mut client| client.send(TOPIC, 0, "after"))
        .expect("send");
    cluster.await_alike(ALIKE).expect("replicas are alike");
    // It is not only reached: it leads and counts for a majority.
    post(&cluster, 0, "/v1/groups/g1/leader", &json!({ "node": "n2" })).expect("transfer");
    cluster.kill(0).expect("kill");
    wait::until("the other two go on", SERVED, || {
        let mut client = cluster.client(1)?;
        for queue in 0..QUEUES {
            client.send(TOPIC, queue, "two")?;
        }
        Ok(Some(()))
    })
    .expect("a majority with the new address in it");
}

#[test]
fn replicas_and_nodes_are_changed_from_a_shell_and_what_cannot_be_is_refused() {
    let cluster = Shape::of(3).replicas(2).start().expect("three nodes start");
    let http = cluster.http(0);
    // Which two of the three nodes have it depends on which of them came first.
    let placed = wait::until("g1 is placed", SERVED, || voters(&cluster, 0)).expect("groups");
    let on = &placed.iter().find(|(name, _)| name == "g1").expect("g1").1;
    let (here, other) = (
        on.first().expect("a voter").as_str(),
        on.last().expect("a voter").as_str(),
    );
    let away = ["n1", "n2", "n3"]
        .into_iter()
        .find(|name| !on.contains(*name))
        .expect("a node without it");
    let replace = |node: &str, leaving: &str| json!({ "node": node, "replaces": leaving }).to_string();
    let requests = [
        (404, "POST", "/v1/nodes/n9/evacuate".to_owned(), String::new()),
        (404, "POST", "/v1/nodes/n9/reopen".to_owned(), String::new()),
        (404, "DELETE", "/v1/nodes/n9".to_owned(), String::new()),
        (409, "DELETE", "/v1/nodes/n2".to_owned(), String::new()),
        (
            404,
            "POST",
            "/v1/groups/g9/members".to_owned(),
            json!({ "node": "n1" }).to_string(),
        ),
        (
            404,
            "POST",
            "/v1/groups/g1/members".to_owned(),
            json!({ "node": "n9" }).to_string(),
        ),
        (
            409,
            "POST",
            "/v1/groups/g1/members".to_owned(),
            json!({ "node": here }).to_string(),
        ),
        (409, "POST", "/v1/groups/g1/members".to_owned(), replace(away, away)),
        (409, "POST", "/v1/groups/g1/members".to_owned(), replace(away, "n9")),
        (
            400,
            "POST",
            "/v1/groups/g1/members".to_owned(),
            json!({ "nodes": away }).to_string(),
        ),
        (
            400,
            "POST",
            "/v1/groups/g1/members".to_owned(),
            json!({ "node": 3 }).to_string(),
        ),
        (400, "POST", "/v1/groups/g1/members".to_owned(), String::new()),
        (404, "DELETE", format!("/v1/groups/g1/members/{away}"), String::new()),
        (404, "DELETE", "/v1/groups/g9/members/n1".to_owned(), String::new()),
    ];
    let before = get(&http, "/v1/groups");
    let members = |document: &Value| -> Vec<Value> {
        let groups = document["items"].as_array().into_iter().flatten();
        let members = groups.flat_map(|group| group["members"].as_array().into_iter().flatten());
        members
            .map(|member| json!([member["node"], member["replica"], member["leaving"]]))
            .collect()
    };
    let wrong = requests.iter().filter_map(|(status, method, path, body)| {
        let answer = ask(&http, method, path, body);
        (!is_problem(&answer, *status, true)).then(|| format!("{status} expected: {path} {body}: {answer:?}\n"))
    });
    let wrong: String = wrong.collect();
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(members(&get(&http, "/v1/groups")), members(&before));

    let admin = format!("admin --http 127.0.0.1:{}", cluster.nodes()[0].ports.http);
    // Two replicas a group on three nodes: one can be emptied, a second one cannot.
    let said = succeeds(&format!("{admin} evacuate {here}"), "");
    assert!(said.contains(here), "{said}");
    let too_few = ask(&http, "POST", &format!("/v1/nodes/{other}/evacuate"), "");
    assert!(is_problem(&too_few, 409, true), "{too_few:?}");
    await_only_on(&cluster, 2, 2, |name| name != here, SERVED).expect("it is empty");
    succeeds(&format!("{admin} evacuate {here} --cancel"), "");
    succeeds(&format!("{admin} members g1 --add {here}"), "");
    wait::until("g1 has three voters", EMPTIED, || {
        let groups = voters(&cluster, 0)?.unwrap_or_default();
        Ok(groups
            .into_iter()
            .find(|(name, nodes)| name == "g1" && nodes.len() == 3))
    })
    .expect("added");
    succeeds(&format!("{admin} members g1 --remove {other}"), "");
    wait::until("g1 has two voters", EMPTIED, || {
        let groups = voters(&cluster, 0)?.unwrap_or_default();
        Ok(groups
            .into_iter()
            .find(|(name, nodes)| name == "g1" && nodes.len() == 2 && !nodes.contains(other)))
    })
    .expect("removed");
    let shown = succeeds(&format!("{admin} nodes"), "");
    assert!(shown.contains("n3") && shown.contains("EVACUATED"), "{shown}");
}
