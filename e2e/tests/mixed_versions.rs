//! Java clients of both lines in one consumer group, on a topic of 16 queues over all Raft groups: they see the same
//! queues, share them, and consume every message once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::java::{Java, Load, VERSIONS};
use flotilla_e2e::progress;
use flotilla_e2e::wait;
use serde_json::Value;

const TOPIC: &str = "mixed";
const QUEUES: u32 = 16;
const GROUP: &str = "mixed";
const ACKS: u64 = 2_000;
const SHARED_WITHIN: Duration = Duration::from_secs(40);
const CONSUMED_WITHIN: Duration = Duration::from_secs(60);

/// A consumer of one version, and senders if wanted.
fn start(cluster: &Cluster, version: &str, group: &str, senders: usize) -> Result<(Load, PathBuf)> {
    let java = Java::build(version)?;
    let home = tempfile::tempdir_in(cluster.folder())?.keep();
    let history = home.join("history.jsonl");
    let properties = [
        ("namesrv", cluster.name_servers()),
        ("topic", TOPIC.to_owned()),
        ("group", group.to_owned()),
        ("ordered", "0".to_owned()),
        ("plain", senders.to_string()),
    ];
    Ok((java.load(&home, &history, &properties)?, history))
}

/// Queue and offset of everything a consumer received.
fn received(history: &Path) -> Result<Vec<(u64, u64)>> {
    let text = std::fs::read_to_string(history)?;
    let mut received = Vec::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        if event["op"] == "receive" {
            let number = |name: &str| event[name].as_u64().with_context(|| format!("{name} in {line}"));
            received.push((number("queue")?, number("offset")?));
        }
    }
    Ok(received)
}

fn run(cluster: &Cluster) -> Result<()> {
    cluster.http(0).create_topic(TOPIC, QUEUES)?;
    let consumers = VERSIONS
        .iter()
        .map(|version| start(cluster, version, GROUP, 0))
        .collect::<Result<Vec<_>>>()?;
    // Both share the queues before the first message, so that nothing is consumed twice by handing over.
    wait::until("both are members", SHARED_WITHIN, || {
        let group = cluster.http(0).get_ok(&format!("/v1/consumer-groups/{GROUP}"));
        let members = group.ok().and_then(|group| Some(group["members"].as_array()?.len()));
        Ok((members == Some(VERSIONS.len())).then_some(()))
    })?;
    // Which queues a client holds is asked of nobody: the time it has for its rebalance after it was told of the members.
    std::thread::sleep(Duration::from_secs(5));
    let (mut sender, _) = start(cluster, VERSIONS[0], "sender", 4)?;
    sender.await_more_acks(ACKS, SHARED_WITHIN)?;
    sender.stop_sending(SHARED_WITHIN)?;
    let acked = sender.state().acked;
    let all = || consumers.iter().map(|(load, _)| load.state().received).sum::<u64>();
    wait::until("everything is consumed", CONSUMED_WITHIN, || {
        Ok((all() >= acked).then_some(()))
    })?;
    sender.exit(SHARED_WITHIN)?;
    let mut owners: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
    let mut once = BTreeSet::new();
    for (place, (load, history)) in consumers.into_iter().enumerate() {
        load.exit(SHARED_WITHIN)?;
        for (queue, offset) in received(&history)? {
            ensure!(
                once.insert((queue, offset)),
                "offset {offset} of queue {queue} was consumed twice"
            );
            owners.entry(queue).or_default().insert(place);
        }
    }
    let shares = [0, 1].map(|place| owners.values().filter(|owners| owners.contains(&place)).count());
    progress::line(format!("{acked} messages consumed once, queues shared {shares:?}"));
    ensure!(once.len() as u64 == acked, "{} of {acked} consumed", once.len());
    ensure!(owners.len() == QUEUES as usize, "queues with messages: {owners:?}");
    ensure!(
        owners.values().all(|owners| owners.len() == 1),
        "a queue had two owners: {owners:?}"
    );
    ensure!(shares == [QUEUES as usize / 2; 2], "shares of the queues: {shares:?}");
    Ok(())
}

#[test]
fn both_lines_share_the_queues_of_one_group_and_consume_every_message_once() {
    let cluster = Cluster::start(3).expect("three nodes start");
    run(&cluster).expect("the run completes");
}
