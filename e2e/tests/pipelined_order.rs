//! Clients that do not wait for the answer of the send before: what they send to a queue is stored once and in that order,
//! through whichever node, while nothing happens, while the queue moves and while its leader hands over.

use std::time::Duration;

use anyhow::{Context as _, Result};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::moves;
use flotilla_e2e::pipeline::{Order, Pipeline, Plan};
use flotilla_e2e::progress;
use flotilla_e2e::wait;
use serde_json::json;

const TOPIC: &str = "pipelined";
const QUEUES: u32 = 4;
/// Sends of one connection to one queue under way.
const WINDOW: u64 = 64;
/// Sends of one connection to one queue, where a test has no other end.
const MESSAGES: u64 = 5_000;
/// All queues go from one group to the other so often.
const MOVES: usize = 12;
/// Leadership goes to another node so often.
const TRANSFERS: usize = 6;
const SENT_AGAIN: &str = "flotilla_forward_retries_total";
const MOVED: Duration = Duration::from_secs(20);
const SERVED: Duration = Duration::from_secs(20);

/// Three nodes; all queues in one group.
fn start() -> (Cluster, String, String) {
    let cluster = Cluster::start(3).expect("three nodes start");
    let groups = cluster.groups().expect("groups");
    let [first, second, ..] = groups.as_slice() else {
        panic!("groups {groups:?}");
    };
    moves::topic_in(&cluster.http(0), TOPIC, QUEUES, first).expect("topic");
    (cluster, first.clone(), second.clone())
}

/// One connection to every node: whoever leads the queues, there is one that does and one that does not.
fn pipelines(cluster: &Cluster, messages_max: u64) -> Vec<Pipeline> {
    let plan = |node| Plan {
        address: cluster.remoting(node),
        name: format!("c{node}"),
        topic: TOPIC.to_owned(),
        queues: QUEUES,
        window: WINDOW,
        messages_max,
    };
    (0..cluster.len()).map(|node| Pipeline::start(plan(node))).collect()
}

/// Waits until every connection got so many more answers.
fn await_answers(pipelines: &[Pipeline], more: u64) -> Result<()> {
    let before: Vec<u64> = pipelines.iter().map(Pipeline::answered).collect();
    wait::until("answers on every connection", SERVED, || {
        let mut pairs = pipelines.iter().zip(&before);
        Ok(pairs.all(|(one, before)| one.answered() >= before + more).then_some(()))
    })
}

/// How many requests the nodes had to send again so far.
fn sent_again(cluster: &Cluster) -> Result<f64> {
    let nodes = (0..cluster.len()).map(|node| Ok(cluster.http(node).metrics()?.sum(SENT_AGAIN)));
    nodes.sum()
}

/// Has them end, now or by themselves, and looks at what is stored.
fn order(cluster: &Cluster, pipelines: Vec<Pipeline>, stop: bool) -> Order {
    let ended: Vec<_> = pipelines
        .into_iter()
        .map(|one| one.finish(stop).expect("every send is answered"))
        .collect();
    let dump = cluster.client(0).and_then(|mut client| client.dump(TOPIC, QUEUES));
    let dump = dump.expect("read");
    let mut order = Order::default();
    for (plan, sent) in &ended {
        order.check(&dump, plan, sent);
    }
    progress::line(format!("{order}"));
    order
}

#[test]
fn pipelined_sends_are_stored_in_the_order_they_came_here_and_one_hop_away() {
    let (cluster, ..) = start();
    let order = order(&cluster, pipelines(&cluster, MESSAGES), false);
    assert_eq!(order.sent, 3 * u64::from(QUEUES) * MESSAGES);
    assert!(order.holds(), "{order}");
}

#[test]
fn moves_keep_the_order_of_pipelined_sends() {
    let (cluster, first, second) = start();
    let pipelines = pipelines(&cluster, u64::MAX);
    await_answers(&pipelines, 1_000).expect("service");
    let before = sent_again(&cluster).expect("metrics");
    for number in 0..MOVES {
        await_answers(&pipelines, 1_000).expect("service");
        let to = [&second, &first][number % 2];
        let http = cluster.http(number % cluster.len());
        let started = (0..QUEUES).map(|queue| moves::start(&http, TOPIC, queue, to));
        let ids = started.collect::<Result<Vec<_>>>().expect("moves start");
        let moved = moves::await_ended(&http, &ids, MOVED).expect("moves end");
        assert!(moved.iter().all(|one| one.state == "done"), "{moved:?}");
    }
    await_answers(&pipelines, 1_000).expect("service");
    let again = sent_again(&cluster).expect("metrics") - before;
    let order = order(&cluster, pipelines, true);
    progress::line(format!("{again} were sent again"));
    assert!(order.holds(), "{order}");
    assert!(again > 0.0, "nothing met what it was to meet");
}

#[test]
fn a_leader_that_hands_over_keeps_the_order_of_pipelined_sends() {
    let (cluster, group, _) = start();
    let pipelines = pipelines(&cluster, u64::MAX);
    await_answers(&pipelines, 1_000).expect("service");
    let before = sent_again(&cluster).expect("metrics");
    for _ in 0..TRANSFERS {
        await_answers(&pipelines, 1_000).expect("service");
        hand_over(&cluster, &group).expect("another leader");
    }
    await_answers(&pipelines, 1_000).expect("service");
    let again = sent_again(&cluster).expect("metrics") - before;
    let order = order(&cluster, pipelines, true);
    progress::line(format!("{again} were sent again"));
    assert!(order.holds(), "{order}");
    assert!(again > 0.0, "nothing met what it was to meet");
}

/// Has the next node lead.
fn hand_over(cluster: &Cluster, group: &str) -> Result<()> {
    let leader = *cluster.leaders()?.get(group).context("a leader")?;
    let next = (leader + 1) % cluster.len();
    let wanted = json!({ "node": cluster.nodes()[next].name });
    let path = format!("/v1/groups/{group}/leader");
    wait::until(&format!("node {next} leads"), SERVED, || {
        let (status, _) = cluster.http(next).post(&path, &wanted)?;
        Ok((status == 200).then_some(()))
    })
}
