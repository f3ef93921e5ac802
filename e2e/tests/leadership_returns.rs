//! Leadership goes back to where it belongs by itself: to the node that led before it died, or to the one that an operator
//! named. While it does, no send fails.

use std::time::{Duration, Instant};

use flotilla_e2e::admin::{GROUP, three};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::progress;
use flotilla_e2e::wait;
use serde_json::json;

const TOPIC: &str = "leadership-returns";
const QUEUES: u32 = 3;
/// A node must have been level for ten seconds before it leads again; with several Raft groups each takes its turn.
const RETURNS_WITHIN: Duration = Duration::from_secs(45);
/// Longer than it takes to go back to where it was.
const STAYS: Duration = Duration::from_secs(20);
const ALIKE_WITHIN: Duration = Duration::from_secs(30);

/// Sends to every queue, again and again, until leadership of `GROUP` is at `node` in the eyes of all.
fn send_until_it_leads(cluster: &Cluster, node: usize) -> Duration {
    let begin = Instant::now();
    let name = &cluster.nodes()[node].name;
    let mut clients: Vec<_> = (0..3).map(|node| cluster.client(node).expect("connect")).collect();
    wait::until(&format!("{name} leads again"), RETURNS_WITHIN, || {
        for (place, client) in clients.iter_mut().enumerate() {
            for queue in 0..QUEUES {
                let sent = client.send(TOPIC, queue, "while leadership returns");
                sent.unwrap_or_else(|error| panic!("send to {queue} at {place}: {error:#}"));
            }
        }
        let mut leads = true;
        for node in cluster.nodes() {
            leads &= node.http().leader(GROUP)?.as_ref() == Some(name);
        }
        Ok(leads.then_some(()))
    })
    .expect("leadership returns");
    begin.elapsed()
}

#[test]
fn leadership_returns_to_the_nodes_that_were_killed() {
    let mut cluster = three();
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    let before = cluster.leaders().expect("leaders");
    let first = before[GROUP];
    cluster.kill(first).expect("kill");
    assert_ne!(cluster.leader(GROUP).expect("another leader"), first);
    cluster.launch(first).expect("start again");
    cluster.await_ready().expect("ready");
    let time = send_until_it_leads(&cluster, first);
    progress::line(format!("leadership came back {time:?} after the node did"));

    // One after another, so that the leaders are where nobody wants them.
    for node in [1, 2, 0] {
        cluster.kill(node).expect("kill");
        cluster.launch(node).expect("start again");
        cluster.await_whole().expect("whole again");
    }
    assert_ne!(cluster.leaders().expect("leaders"), before);
    wait::until("all leaders are where they were", RETURNS_WITHIN, || {
        Ok((cluster.leaders()? == before).then_some(()))
    })
    .expect("leadership returns");
    cluster.await_alike(ALIKE_WITHIN).expect("all replicas are alike");
}

#[test]
fn leadership_stays_where_an_operator_put_it_and_returns_there() {
    let mut cluster = three();
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    let target = (cluster.leader(GROUP).expect("leader") + 1) % 3;
    let name = cluster.nodes()[target].name.clone();
    let path = format!("/v1/groups/{GROUP}/leader");
    let (status, answer) = cluster.http(2).post(&path, &json!({ "node": name })).expect("transfer");
    assert_eq!((status, &answer["leader"]), (200, &json!(name)), "{answer}");
    let until = Instant::now() + STAYS;
    while Instant::now() < until {
        for http in cluster.nodes().iter().map(|node| node.http()) {
            assert_eq!(http.leader(GROUP).expect("leader"), Some(name.clone()));
        }
        // Between two looks at the leader.
        std::thread::sleep(Duration::from_millis(100));
    }
    cluster.kill(target).expect("kill");
    assert_ne!(cluster.leader(GROUP).expect("another leader"), target);
    cluster.launch(target).expect("start again");
    cluster.await_ready().expect("ready");
    send_until_it_leads(&cluster, target);
}
