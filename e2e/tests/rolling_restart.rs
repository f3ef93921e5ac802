//! Planned restarts of every node in turn, under load from an official producer with default retries: each node hands
//! leadership over before it stops, so no send fails, and the history holds.

use std::time::Duration;

use anyhow::{Context as _, Result};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::history::{self, Report};
use flotilla_e2e::java::Java;
use flotilla_e2e::load_run::LoadRun;
use flotilla_e2e::progress;

const TOPIC: &str = "rolling";
const QUEUES: u32 = 8;
/// Acknowledgements seen before, during and after each restart.
const ACKS: u64 = 300;
const ACKS_WITHIN: Duration = Duration::from_secs(45);

fn run(cluster: &mut Cluster) -> Result<Report> {
    let java = Java::build("5.3.3")?;
    cluster.http(0).create_topic(TOPIC, QUEUES)?;
    // A send by key has one try by the client's own rule; what retries is what is promised here.
    let run = LoadRun::start(cluster, &java, TOPIC, QUEUES, &[("ordered", "0"), ("plain", "4")])?;
    let load = &run.load;
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
    Ok(history::check(&run.finish(cluster)?))
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
