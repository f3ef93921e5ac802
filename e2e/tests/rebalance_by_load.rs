//! Queues go where they even out what really comes in: asked for, with a dry run that says why by figures, and by policy
//! when nodes come, with no command at all. Meanwhile everything is written and read, and nothing is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use flotilla_e2e::admin::get;
use flotilla_e2e::cluster::{Cluster, Shape};
use flotilla_e2e::history;
use flotilla_e2e::http::Http;
use flotilla_e2e::moves;
use flotilla_e2e::progress;
use flotilla_e2e::traffic::Traffic;
use flotilla_e2e::wait;
use serde_json::{Value, json};

const TOPIC: &str = "skewed";
const QUEUES: u32 = 8;
/// Between two sends to a queue that carries much, and to another one.
const HEAVY: Duration = Duration::from_millis(5);
const LIGHT: Duration = Duration::from_millis(400);
/// The load of the one group is so many times that of the other before anything moves,
const UNEVEN_RATIO: f64 = 4.0;
/// and at most so many times afterwards.
const EVEN_RATIO: f64 = 1.5;
const SERVED: Duration = Duration::from_secs(20);
const MEASURED: Duration = Duration::from_secs(60);
const MOVED: Duration = Duration::from_secs(20);
/// Some seconds in which everything is well, a look a second, and what a busy machine adds.
const BY_ITSELF: Duration = Duration::from_secs(60);

/// Messages a second that come into each Raft group, as its leader measures them.
fn rates(http: &Http) -> Result<BTreeMap<String, f64>> {
    let groups = http.get_ok("/v1/groups")?;
    let groups = groups["items"].as_array().context("items")?;
    let rates = groups.iter().map(|group| {
        let name = group["name"].as_str().context("name")?;
        let rate = group["rate"]["messages"].as_f64();
        Ok((name.to_owned(), rate.with_context(|| format!("rate in {group}"))?))
    });
    rates.collect()
}

/// How many times the least loaded group's load the most loaded one carries.
fn ratio(rates: &BTreeMap<String, f64>) -> f64 {
    let most = rates.values().copied().fold(0.0, f64::max);
    let least = rates.values().copied().fold(f64::INFINITY, f64::min);
    most / least.max(1.0)
}

fn await_ratio(http: &Http, what: &str, limit: Duration, is_so: impl Fn(f64) -> bool) -> BTreeMap<String, f64> {
    let found = wait::until(what, limit, || {
        let rates = rates(http)?;
        Ok(is_so(ratio(&rates)).then_some(rates))
    });
    found.expect(what)
}

/// How many queues of the topic each of these groups has.
fn counts(http: &Http, groups: &[String]) -> Result<Vec<usize>> {
    let owners = http.owners(TOPIC)?;
    let count = |group: &String| owners.iter().filter(|owner| *owner == group).count();
    Ok(groups.iter().map(count).collect())
}

fn finish(cluster: &Cluster, traffic: Traffic, begin: Instant) {
    let failed: Vec<_> = traffic
        .since(begin)
        .into_iter()
        .filter(|attempt| !attempt.is_acked())
        .collect();
    let history = traffic.finish(cluster).expect("everything is read");
    let report = history::check(&history);
    progress::line(format!("{report}{} sends not acknowledged", failed.len()));
    assert!(report.violations.is_empty(), "{report}");
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn a_rebalance_evens_out_the_measured_rates_and_its_dry_run_says_how() {
    let cluster = Cluster::start(2).expect("two nodes start");
    let http = cluster.http(0);
    http.create_topic(TOPIC, QUEUES).expect("topic");
    let owners = http.owners(TOPIC).expect("owners");
    let busy = owners[0].clone();
    let heavy: BTreeSet<u32> = (0..)
        .zip(&owners)
        .filter(|(_, owner)| **owner == busy)
        .map(|(queue, _)| queue)
        .collect();
    let begin = Instant::now();
    let traffic = Traffic::paced(&cluster, TOPIC, QUEUES, |queue| match heavy.contains(&queue) {
        true => HEAVY,
        false => LIGHT,
    });
    traffic.await_all_lanes(2, SERVED, begin).expect("every lane is served");
    let before = await_ratio(&http, "one group carries much more", MEASURED, |ratio| {
        ratio >= UNEVEN_RATIO
    });

    let shown = get(&cluster.http(1), &format!("/v1/topics/{TOPIC}/queues"));
    for queue in shown["queues"].as_array().expect("queues") {
        let number = queue["queue"].as_u64().expect("number") as u32;
        let rate = queue["rate"]["messages"]
            .as_u64()
            .unwrap_or_else(|| panic!("rate in {queue}"));
        assert_eq!(rate >= 30, heavy.contains(&number), "{queue}");
    }
    let (status, plan) = cluster
        .http(1)
        .post("/v1/rebalance", &json!({ "dry_run": true }))
        .expect("dry run");
    assert_eq!(status, 200, "{plan}");
    let planned = plan["moves"].as_array().expect("moves");
    assert!((2..=6).contains(&planned.len()), "{plan}");
    for planned in planned {
        let reason = planned["reason"].as_str().expect("reason");
        let told = reason.contains("evens out") && reason.matches("messages/s").count() == 4;
        assert!(told && reason.contains(&format!("{busy} takes in")), "{reason}");
    }
    let share = |which: &str| -> BTreeMap<String, f64> {
        let groups = plan["groups"].as_array().expect("groups").iter();
        let rate = |group: &Value| group[which]["messages"].as_f64().expect("a rate");
        groups
            .map(|group| (group["group"].as_str().expect("name").to_owned(), rate(group)))
            .collect()
    };
    let (told_before, told_after) = (ratio(&share("rate_before")), ratio(&share("rate_after")));
    assert!(told_before >= UNEVEN_RATIO && told_after <= EVEN_RATIO, "{plan}");

    let ids = moves::start_all(&http, "/v1/rebalance", &json!({})).expect("rebalance");
    assert_eq!(ids.len(), planned.len(), "what the dry run said");
    let moved = moves::await_ended(&http, &ids, MOVED).expect("moves end");
    assert!(
        moved.iter().all(|one| one.state == "done" && one.bytes_copied == 0),
        "{moved:?}"
    );
    let groups: Vec<String> = before.keys().cloned().collect();
    assert_eq!(counts(&http, &groups).expect("counts"), [4, 4], "as even as before");
    let after = await_ratio(&http, "the groups carry alike", MEASURED, |ratio| ratio <= EVEN_RATIO);
    progress::line(format!(
        "messages/s before {before:?}, after {} moves {after:?}",
        moved.len()
    ));
    wait::until("nothing that had better move", MEASURED, || {
        let (_, plan) = http.post("/v1/rebalance", &json!({ "dry_run": true }))?;
        Ok((plan["remaining"] == 0).then_some(()))
    })
    .expect("it is even");
    let metrics = (0..2).map(|node| cluster.http(node).metrics().expect("metrics"));
    let measured: f64 = metrics
        .map(|metrics| metrics.sum("flotilla_group_messages_in_per_second"))
        .sum();
    assert!(measured >= 100.0, "{measured} messages/s of all groups");
    finish(&cluster, traffic, begin);
}

#[test]
fn queues_flow_to_nodes_that_join_with_no_command() {
    let mut cluster = Shape::of(2).auto_rebalance().start().expect("two nodes start");
    let http = cluster.http(0);
    http.create_topic(TOPIC, 12).expect("topic");
    let begin = Instant::now();
    let traffic = Traffic::start(&cluster, TOPIC, 12);
    traffic.await_all_lanes(2, SERVED, begin).expect("every lane is served");
    for nodes in [3, 4] {
        cluster.add_node().expect("one more node");
        let joined = Instant::now();
        let groups: Vec<String> = cluster.leaders().expect("leaders").into_keys().collect();
        assert_eq!(groups.len(), nodes);
        let spread = wait::until("queues in every group, and no move under way", BY_ITSELF, || {
            let counts = counts(&http, &groups)?;
            let moves = http.get_ok("/v1/moves")?;
            let mut moves = moves["moves"].as_array().context("moves")?.iter();
            let at_rest = moves.all(|known| known["state"] == "done");
            // Those that just came to the third stay there for a while.
            let (least, most) = (counts.iter().min(), counts.iter().max());
            Ok((at_rest && least >= Some(&2) && most <= Some(&4)).then_some(counts))
        });
        progress::line(format!(
            "{nodes} nodes: {:?} after {:?}",
            spread.expect("they flow"),
            joined.elapsed()
        ));
    }
    let all = get(&http, "/v1/moves")["moves"].clone();
    let all = all.as_array().expect("moves");
    assert!(
        all.iter()
            .all(|known| known["reason"] == "auto_rebalance: queues are uneven"),
        "{all:?}"
    );
    let mut queues = BTreeSet::new();
    assert!(
        all.iter()
            .all(|known| queues.insert((known["topic"].as_str(), known["queue"].as_u64()))),
        "one moved twice: {all:?}"
    );
    finish(&cluster, traffic, begin);
}
