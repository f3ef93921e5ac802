//! Two nodes of four are dead: the Raft groups that lost their majority with them soon name no leader and refuse every
//! message clearly, the others go on as if nothing had happened, and when the nodes are back everything is in order again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use flotilla_e2e::cluster::{Cluster, Shape};
use flotilla_e2e::wait;
use serde_json::Value;

const TOPIC: &str = "majority-lost";
/// One queue on each Raft group.
const QUEUES: u32 = 4;
/// A send that cannot be done is answered within the clients' own time limit.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
/// A Raft group that has its majority has a leader again.
const FAILED_OVER: Duration = Duration::from_secs(6);
/// A leader that was left alone says so.
const NOTICED: Duration = Duration::from_secs(3);
/// What goes on needs no longer than this.
const AT_ONCE: Duration = Duration::from_secs(1);
const ALIKE_WITHIN: Duration = Duration::from_secs(60);

/// The nodes of every Raft group, by place.
fn members(cluster: &Cluster) -> BTreeMap<String, BTreeSet<usize>> {
    let groups = cluster.http(0).get_ok("/v1/groups").expect("groups");
    let groups = groups["items"].as_array().expect("items").iter().map(|group| {
        let members = group["members"].as_array().expect("members").iter();
        let places = members.map(|member| cluster.place(member["node"].as_str().expect("node")).expect("a node"));
        (group["name"].as_str().expect("name").to_owned(), places.collect())
    });
    groups.collect()
}

/// Two nodes to kill so that some Raft groups keep two of their three nodes and some do not.
fn victims(members: &BTreeMap<String, BTreeSet<usize>>) -> [usize; 2] {
    let pairs = (0..4).flat_map(|one| (one + 1..4).map(move |other| [one, other]));
    let both = |nodes: &BTreeSet<usize>, pair: &[usize; 2]| pair.iter().all(|node| nodes.contains(node));
    let mut splitting = pairs.filter(|pair| {
        let lost = members.values().filter(|nodes| both(nodes, pair)).count();
        lost > 0 && lost < members.len()
    });
    splitting
        .next()
        .unwrap_or_else(|| panic!("every pair hits all or none of {members:?}"))
}

#[test]
fn groups_without_a_majority_take_nothing_and_the_others_go_on() {
    let mut cluster = Shape::of(3).start().expect("three nodes start");
    cluster.add_node().expect("a fourth node");
    cluster.leaders().expect("four groups");
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    let owners = cluster.http(0).owners(TOPIC).expect("owners");
    assert_eq!(owners.iter().collect::<BTreeSet<_>>().len(), 4, "{owners:?}");
    let members = members(&cluster);
    let victims = victims(&members);
    let lives = |queue: u32| {
        !victims
            .iter()
            .all(|node| members[&owners[queue as usize]].contains(node))
    };
    let through = (0..4).find(|node| !victims.contains(node)).expect("a living node");
    let mut may_stand: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut must_stand = may_stand.clone();
    for queue in 0..QUEUES {
        let sent = cluster
            .client(through)
            .and_then(|mut client| client.send(TOPIC, queue, "before"));
        assert_eq!(sent.expect("send"), 0);
        must_stand.entry(queue).or_default().push("before".to_owned());
    }
    for victim in victims {
        cluster.kill(victim).expect("kill");
    }
    for queue in (0..QUEUES).filter(|queue| lives(*queue)) {
        let body = format!("failed over {queue}");
        wait::until("a Raft group with a majority goes on", FAILED_OVER, || {
            cluster.client(through)?.send(TOPIC, queue, &body).map(Some)
        })
        .expect("send");
        may_stand.entry(queue).or_default().push(body);
    }
    let lost = members
        .keys()
        .filter(|group| victims.iter().all(|node| members[*group].contains(node)));
    let lost: BTreeSet<&String> = lost.collect();
    wait::until("groups without a majority name no leader", NOTICED, || {
        let groups = cluster.http(through).get_ok("/v1/groups")?;
        let mut groups = groups["items"].as_array().expect("items").iter();
        let alone =
            |group: &Value| group["leader"].is_null() == lost.contains(&group["name"].as_str().unwrap().to_owned());
        Ok(groups.all(alone).then_some(()))
    })
    .expect("leaders");
    for round in 0..3 {
        for queue in 0..QUEUES {
            let body = format!("round {round} queue {queue}");
            let mut client = cluster.client(through).expect("connect");
            let begin = Instant::now();
            let sent = client.send(TOPIC, queue, &body);
            let time = begin.elapsed();
            match sent {
                Ok(_) => {
                    assert!(lives(queue), "{body} was acknowledged without a majority");
                    assert!(time < AT_ONCE, "{body} took {time:?}");
                    must_stand.entry(queue).or_default().push(body);
                }
                Err(error) => {
                    let told = format!("{error:#}");
                    assert!(!lives(queue), "{body}: {told}");
                    assert!(time < ANSWERED_WITHIN, "{body} took {time:?}: {told}");
                    // Code 14: surely not stored.
                    assert!(told.starts_with("code 14:"), "{body}: {told}");
                }
            }
        }
    }
    for victim in victims {
        cluster.launch(victim).expect("start again");
    }
    cluster.await_whole().expect("whole again");
    cluster.await_alike(ALIKE_WITHIN).expect("all replicas are alike");
    for node in 0..4 {
        let dump = cluster
            .client(node)
            .and_then(|mut client| client.dump(TOPIC, QUEUES))
            .expect("read");
        for queue in 0..QUEUES {
            let stand: BTreeSet<&String> = dump.0[&queue].messages.iter().map(|(_, body)| body).collect();
            let must: BTreeSet<&String> = must_stand[&queue].iter().collect();
            let may: BTreeSet<&String> = may_stand
                .get(&queue)
                .into_iter()
                .flatten()
                .chain(must.iter().copied())
                .collect();
            assert!(
                stand.is_superset(&must),
                "queue {queue} at {node}: {must:?} not in {stand:?}"
            );
            assert!(
                stand.is_subset(&may),
                "queue {queue} at {node}: {stand:?} not of {may:?}"
            );
        }
        let mut client = cluster.client(node).expect("connect");
        for queue in 0..QUEUES {
            client
                .send(TOPIC, queue, "after")
                .expect("every queue takes messages again");
            must_stand.entry(queue).or_default().push("after".to_owned());
        }
    }
}
