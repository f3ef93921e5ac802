//! Planned restarts of every node in turn, under load from an official producer with default retries: each node hands
//! leadership over before it stops, so no send fails, and the history holds.

use std::time::Duration;

use anyhow::{Context as _, Result};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::history::{self, History, Report, load};
use flotilla_e2e::java::Java;
use flotilla_e2e::progress;
use flotilla_e2e::wait;

const TOPIC: &str = "rolling";
const QUEUES: u32 = 8;
const GROUP: &str = "rolling";
/// Acknowledgements seen before, during and after each restart.
const ACKS: u64 = 300;
const ACKS_WITHIN: Duration = Duration::from_secs(45);
const STOP_WITHIN: Duration = Duration::from_secs(60);
const CONSUMED_WITHIN: Duration = Duration::from_secs(90);

fn run(cluster: &mut Cluster) -> Result<Report> {
    let java = Java::build("5.3.3")?;
    cluster.http(0).create_topic(TOPIC, QUEUES)?;
    let file = cluster.folder().join("history.jsonl");
    let properties = [
        ("namesrv", cluster.name_servers()),
        ("topic", TOPIC.to_owned()),
        ("group", GROUP.to_owned()),
        // A send by key has one try by the client's own rule; what retries is what is promised here.
        ("ordered", "0".to_owned()),
        ("plain", "4".to_owned()),
    ];
    let mut load = java.load(cluster.folder(), &file, &properties)?;
    load.await_more_acks(ACKS, ACKS_WITHIN).context("before any restart")?;
    for node in 0..cluster.len() {
        cluster.terminate(node)?;
        load.await_more_acks(ACKS, ACKS_WITHIN)
            .with_context(|| format!("while node {node} is down"))?;
        cluster.launch(node)?;
        cluster.await_ready()?;
        load.await_more_acks(ACKS, ACKS_WITHIN)
            .with_context(|| format!("with node {node} back"))?;
        progress::line(format!("{} restarted, {:?}", cluster.nodes()[node].name, load.state()));
    }
    load.stop_sending(STOP_WITHIN)?;
    let state = load.state();
    wait::until("everything is consumed", CONSUMED_WITHIN, || {
        Ok((load.state().received >= state.acked).then_some(()))
    })?;
    load.exit(STOP_WITHIN)?;
    let mut history = History::default();
    for node in 0..cluster.len() {
        history.dumps.push(cluster.client(node)?.dump(TOPIC, QUEUES)?);
    }
    load::read(&file, &mut history)?;
    Ok(history::check(&history))
}

#[test]
fn restarting_every_node_in_turn_fails_no_send() {
    let mut cluster = Cluster::start(3).expect("three nodes start");
    let report = run(&mut cluster).expect("the run completes");
    progress::line(report.to_string());
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!((report.unknown, report.failed), (0, 0), "no send fails: {report}");
    assert!(report.acked as u64 > 6 * ACKS, "{report}");
}
