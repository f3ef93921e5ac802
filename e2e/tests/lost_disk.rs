//! A node whose disk was lost comes back empty under its own name: the controllers give its replicas new ids, the
//! leaders of the Raft groups bring it up to date, and nobody has to be told anything.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::history::Dump;
use flotilla_e2e::progress;
use flotilla_e2e::wait;

const TOPIC: &str = "lost-disk";
const QUEUES: u32 = 6;
const GROUP: &str = "lost-disk-group";
/// Messages sent to every queue before and while a node is away.
const MESSAGES: i64 = 40;
/// An empty node has every message again.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(60);
/// The rest goes on after a node was killed.
const GOES_ON_WITHIN: Duration = Duration::from_secs(10);

/// Raft ids by node, of every Raft group; there must be three members, and all of them must vote.
fn replicas(cluster: &Cluster, node: usize) -> Result<BTreeMap<String, BTreeMap<String, u64>>> {
    let document = cluster.http(node).get_ok("/v1/groups")?;
    let groups = document["items"].as_array().context("items")?.iter().map(|group| {
        let members = group["members"].as_array().context("members")?;
        let voters = members.iter().filter(|member| member["role"] != "learner");
        ensure!(members.len() == 3 && voters.count() == 3, "not three voters: {group}");
        let ids = members.iter().map(|member| {
            let node = member["node"].as_str().context("node")?;
            Ok((node.to_owned(), member["replica"].as_u64().context("replica")?))
        });
        let name = group["name"].as_str().context("name")?;
        Ok((name.to_owned(), ids.collect::<Result<_>>()?))
    });
    groups.collect()
}

fn send(cluster: &Cluster, node: usize, what: &str) -> Result<()> {
    cluster.client(node)?.fill(TOPIC, QUEUES, GROUP, MESSAGES, what)
}

fn view(cluster: &Cluster, node: usize) -> (Dump, Vec<Option<i64>>) {
    let client = cluster.client(node);
    let read = client.and_then(|mut client| client.view(TOPIC, QUEUES, GROUP));
    read.unwrap_or_else(|error| panic!("read at node {node}: {error:#}"))
}

/// Kills a node, goes on without it, gives it an empty disk, and waits until it is a full member again.
fn lose_the_disk_of(cluster: &mut Cluster, victim: usize) {
    let name = cluster.nodes()[victim].name.clone();
    let (other, third) = ((victim + 1) % 3, (victim + 2) % 3);
    let before = replicas(cluster, other).expect("replicas");
    cluster.kill(victim).expect("kill");
    wait::until("the others go on", GOES_ON_WITHIN, || {
        send(cluster, other, &format!("without {name}")).map(Some)
    })
    .expect("send without it");
    cluster.wipe(victim).expect("wipe");
    cluster.launch(victim).expect("start with an empty disk");
    cluster.await_ready().expect("ready");
    let begin = std::time::Instant::now();
    let after = wait::until("three voters in every Raft group", CAUGHT_UP_WITHIN, || {
        let after = replicas(cluster, third)?;
        let renewed = after.iter().all(|(group, ids)| {
            let taken = before[group].values();
            ids.keys().eq(before[group].keys()) && !taken.into_iter().any(|id| *id == ids[&name])
        });
        Ok(renewed.then_some(after))
    })
    .expect("the empty node becomes a member of every Raft group under new ids");
    progress::line(format!("{name} was taken in again after {:?}", begin.elapsed()));
    for (group, ids) in &after {
        for node in [other, third].map(|place| &cluster.nodes()[place].name) {
            assert_eq!(ids[node], before[group][node], "{group}: {node} keeps its id");
        }
    }
    cluster.await_alike(CAUGHT_UP_WITHIN).expect("all replicas are alike");
    let views = [0, 1, 2].map(|node| view(cluster, node));
    assert_eq!(views[0], views[1], "n1 and n2 after {name} lost its disk");
    assert_eq!(views[0], views[2], "n1 and n3 after {name} lost its disk");
}

#[test]
fn every_disk_lost_in_turn_costs_nothing() {
    let mut cluster = Cluster::start(3).expect("three nodes start");
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    send(&cluster, 0, "before").expect("send");
    let before = view(&cluster, 0).0;
    for victim in 0..3 {
        lose_the_disk_of(&mut cluster, victim);
    }
    // Nothing is left of the first disks; what stood on them stands where it stood.
    let (after, offsets) = view(&cluster, 1);
    for (queue, dump) in &before.0 {
        let kept = &after.0[queue].messages[..dump.messages.len()];
        assert_eq!(kept, dump.messages, "queue {queue}");
        assert_eq!(after.0[queue].end_offset, 4 * MESSAGES, "queue {queue}");
    }
    assert_eq!(offsets, vec![Some(3 * MESSAGES + MESSAGES / 2); QUEUES as usize]);
}

#[test]
fn a_node_that_lost_its_disk_counts_for_a_majority_again() {
    let mut cluster = Cluster::start(3).expect("three nodes start");
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    send(&cluster, 0, "before").expect("send");
    lose_the_disk_of(&mut cluster, 0);
    let before = view(&cluster, 0);
    // n1, with its new disk, and n3 are all that is left of any majority.
    cluster.kill(1).expect("kill");
    let after = wait::until("the other two go on", GOES_ON_WITHIN, || {
        let mut client = cluster.client(0)?;
        for queue in 0..QUEUES {
            client.send(TOPIC, queue, "after")?;
        }
        Ok(Some(view(&cluster, 0)))
    })
    .expect("a majority with the new disk in it");
    for (queue, dump) in &before.0.0 {
        assert_eq!(
            after.0.0[queue].messages[..dump.messages.len()],
            dump.messages,
            "queue {queue}"
        );
    }
    assert_eq!(after.1, before.1, "consumer offsets");
}
