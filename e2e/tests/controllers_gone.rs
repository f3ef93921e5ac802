//! Official clients that start while no controller runs, and go on while nodes die and restart under them: the history
//! holds, and what they need in a new consumer group's records is made up for when the controllers are back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::history::{self, Report};
use flotilla_e2e::java::Java;
use flotilla_e2e::load_run::LoadRun;
use flotilla_e2e::progress;
use flotilla_e2e::wait;

/// Also the consumer group.
const TOPIC: &str = "controllers-gone";
const QUEUES: u32 = 6;
/// Acknowledgements seen between two faults.
const ACKS: u64 = 200;
const ACKS_WITHIN: Duration = Duration::from_secs(45);

/// Every node dies or restarts in turn, again and again for `span`, once at least.
fn run(cluster: &mut Cluster, span: Duration) -> Result<Report> {
    let java = Java::build("5.3.3")?;
    cluster.http(0).create_topic(TOPIC, QUEUES)?;
    cluster.await_copies_on_disk()?;
    cluster.kill_controllers()?;
    let run = LoadRun::start(cluster, &java, TOPIC, QUEUES, &[])?;
    let load = &run.load;
    load.await_more_acks(ACKS, ACKS_WITHIN).context("with all nodes")?;
    let received = || Ok((load.state().received > 0).then_some(()));
    wait::until("a consumer group that nobody knew receives", ACKS_WITHIN, received)?;
    let begun = Instant::now();
    for turn in 0.. {
        if turn >= cluster.len() && begun.elapsed() >= span {
            break;
        }
        let node = turn % cluster.len();
        if turn % 2 == 0 {
            cluster.kill(node)?;
        } else {
            cluster.terminate(node)?;
        }
        load.await_more_acks(ACKS, ACKS_WITHIN)
            .with_context(|| format!("while node {node} is down"))?;
        cluster.launch(node)?;
        cluster.await_whole()?;
        load.await_more_acks(ACKS, ACKS_WITHIN)
            .with_context(|| format!("with node {node} back"))?;
        progress::line(format!("{} restarted, {:?}", cluster.nodes()[node].name, load.state()));
    }
    for controller in cluster.controllers_mut() {
        controller.launch()?;
    }
    cluster.await_whole()?;
    load.await_more_acks(ACKS, ACKS_WITHIN)
        .context("with controllers again")?;
    let path = format!("/v1/consumer-groups/{TOPIC}");
    wait::until("the consumer group is known", ACKS_WITHIN, || {
        let document = cluster.http(1).get_ok(&path)?;
        let members = document["members"].as_array().context("members")?;
        Ok((!members.is_empty()).then_some(()))
    })?;
    Ok(history::check(&run.finish(cluster)?))
}

fn without_controllers(span: Duration) {
    let mut cluster = Cluster::start(3).expect("three nodes start");
    let report = run(&mut cluster, span).expect("the run completes");
    progress::line(report.to_string());
    assert!(report.violations.is_empty(), "{report}");
    assert!(
        report.acked as u64 > 7 * ACKS && report.received >= report.acked,
        "{report}"
    );
}

#[test]
fn official_clients_start_and_go_on_without_controllers() {
    without_controllers(Duration::ZERO);
}

#[test]
#[ignore = "ten minutes: make controllers-gone"]
fn official_clients_go_on_without_controllers_for_ten_minutes() {
    without_controllers(Duration::from_secs(600));
}
