//! The leader of the Raft group that owns a queue dies or falls silent: the rest goes on soon, nothing acknowledged is
//! lost, and a silent leader that wakes up changes nothing.

use std::time::{Duration, Instant};

use anyhow::Result;
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::history::Dump;
use flotilla_e2e::progress;
use flotilla_e2e::wait;

const TOPIC: &str = "failover";
const QUEUES: u32 = 2;
/// A new leader serves within this time of a kill. The goal is a second; a machine busy with other tests gets more.
const KILLED_MAX: Duration = Duration::from_secs(5);
/// The same when the leader is silent but its connections are open.
const SILENT_MAX: Duration = Duration::from_secs(8);
const TRIALS: usize = 5;

/// Time until a client of a node that lives gets a send acknowledged.
fn time_to_serve(cluster: &Cluster, node: usize, body: &str, limit: Duration) -> Result<Duration> {
    let begin = Instant::now();
    wait::until("a send through a living node", limit, || {
        cluster.client(node)?.send(TOPIC, 0, body)?;
        Ok(Some(begin.elapsed()))
    })
}

fn dumps(cluster: &Cluster) -> Vec<Dump> {
    (0..cluster.len())
        .map(|node| {
            cluster
                .client(node)
                .expect("connect")
                .dump(TOPIC, QUEUES)
                .expect("read the topic")
        })
        .collect()
}

fn start() -> Cluster {
    let cluster = Cluster::start(3).expect("three nodes start");
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    cluster
}

/// Every value acknowledged so far stands in every node's read, in the order of the acknowledgements.
fn assert_all_there(cluster: &Cluster, acked: &[String]) {
    let dumps = dumps(cluster);
    for dump in &dumps {
        assert_eq!(dump, &dumps[0], "all nodes show the same");
        let values: Vec<&String> = dump.0[&0].messages.iter().map(|(_, value)| value).collect();
        let mut places = acked
            .iter()
            .map(|value| values.iter().position(|found| *found == value));
        let first = places
            .next()
            .flatten()
            .expect("the first acknowledged message is there");
        places.fold(first, |before, place| {
            let place = place.expect("every acknowledged message is there");
            assert!(place > before, "acknowledged messages stand in order");
            place
        });
    }
}

#[test]
fn killed_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut cluster = start();
    let mut acked = Vec::new();
    let mut times = Vec::new();
    for trial in 0..TRIALS {
        let leader = cluster.queue_leader(TOPIC, 0).expect("leader");
        let other = (leader + 1) % 3;
        let mut client = cluster.client(other).expect("connect");
        for number in 0..20 {
            let body = format!("trial {trial} number {number}");
            client.send(TOPIC, 0, &body).expect("send");
            acked.push(body);
        }
        cluster.kill(leader).expect("kill the leader");
        let body = format!("trial {trial} after the kill");
        times.push(time_to_serve(&cluster, other, &body, KILLED_MAX).expect("a new leader serves"));
        acked.push(body);
        cluster.launch(leader).expect("start again");
        cluster.await_ready().expect("ready again");
        assert_all_there(&cluster, &acked);
    }
    times.sort();
    progress::line(format!("leader killed, next send acknowledged after {times:?}"));
}

#[test]
fn silent_leader_is_replaced_and_wakes_up_without_harm() {
    let cluster = start();
    let mut acked = Vec::new();
    let mut times = Vec::new();
    for trial in 0..TRIALS {
        let leader = cluster.queue_leader(TOPIC, 0).expect("leader");
        let other = (leader + 1) % 3;
        let body = format!("trial {trial} before");
        cluster
            .client(other)
            .expect("connect")
            .send(TOPIC, 0, &body)
            .expect("send");
        acked.push(body);
        cluster.pause(leader).expect("pause the leader");
        let body = format!("trial {trial} while the leader is silent");
        let time = time_to_serve(&cluster, other, &body, SILENT_MAX);
        cluster.resume(leader).expect("resume");
        times.push(time.expect("a new leader serves"));
        acked.push(body);
        let again = cluster.queue_leader(TOPIC, 0).expect("leader again");
        assert_ne!(cluster.nodes()[again].name, "", "a leader that all name");
        assert_all_there(&cluster, &acked);
    }
    times.sort();
    progress::line(format!("leader silent, next send acknowledged after {times:?}"));
}
