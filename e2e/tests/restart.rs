//! What was acknowledged before a node ended, planned or not, is there unchanged when it is back: messages at their
//! offsets, consumer offsets, and the next offsets to be given out.

use std::time::Duration;

use anyhow::Result;
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::history::Dump;
use flotilla_e2e::wait;

const TOPIC: &str = "restart";
const QUEUES: u32 = 4;
const GROUP: &str = "restart-group";
const CATCH_UP: Duration = Duration::from_secs(30);

fn send(cluster: &Cluster, node: usize, round: usize, messages: i64) -> Result<()> {
    cluster
        .client(node)?
        .fill(TOPIC, QUEUES, GROUP, messages, &format!("round {round}"))
}

fn view(cluster: &Cluster, node: usize) -> Result<(Dump, Vec<Option<i64>>)> {
    cluster.client(node)?.view(TOPIC, QUEUES, GROUP)
}

/// Subscription groups are created on first use: by a heartbeat, or by the offset itself when the node allows it.
fn prepare(cluster: &Cluster) -> Result<()> {
    cluster.http(0).create_topic(TOPIC, QUEUES)?;
    wait::until("every node knows the topic", CATCH_UP, || {
        for node in 0..cluster.len() {
            cluster.client(node)?.max_offset(TOPIC, QUEUES - 1)?;
        }
        Ok(Some(()))
    })
}

#[test]
fn one_node_comes_back_with_everything_it_acknowledged() {
    let mut cluster = Cluster::start(1).expect("the node starts");
    prepare(&cluster).expect("topic");
    for round in 0..6 {
        send(&cluster, 0, round, 25).expect("send");
        let before = view(&cluster, 0).expect("read");
        if round % 2 == 0 {
            cluster.kill(0).expect("kill");
        } else {
            cluster.terminate(0).expect("planned stop");
        }
        cluster.launch(0).expect("start again");
        cluster.await_ready().expect("ready again");
        let after = view(&cluster, 0).expect("read again");
        assert_eq!(before, after, "round {round}");
    }
}

#[test]
fn three_nodes_restarted_in_turn_stay_alike() {
    let mut cluster = Cluster::start(3).expect("three nodes start");
    prepare(&cluster).expect("topic");
    for round in 0..3 {
        send(&cluster, (round + 1) % 3, round, 20).expect("send");
        cluster.terminate(round).expect("planned stop");
        let other = (round + 2) % 3;
        // Leadership was handed over, so the others go on at once.
        wait::until("the others take a send", Duration::from_secs(5), || {
            cluster
                .client(other)?
                .send(TOPIC, 0, &format!("while n{} is down", round + 1))
                .map(Some)
        })
        .expect("send while one node is down");
        cluster.launch(round).expect("start again");
        cluster.await_ready().expect("ready again");
        let views: Vec<_> = (0..3).map(|node| view(&cluster, node).expect("read")).collect();
        assert_eq!(views[0], views[1], "n1 and n2 after round {round}");
        assert_eq!(views[0], views[2], "n1 and n3 after round {round}");
    }
    cluster.await_alike(CATCH_UP).expect("all replicas are alike");
}
