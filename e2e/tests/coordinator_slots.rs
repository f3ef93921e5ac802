//! The coordinators of consumer groups move between Raft groups, and consumers do not notice: whoever asks whichever
//! node gets all members, none twice, no heartbeat fails, and nobody is told to share out queues again. Then the same
//! while the old leader, the new one or any other process dies in the middle.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use flotilla_api::remoting::codes::{request, response};
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_e2e::client::{Client, pull_request, send_request};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::consumer::{Consumer, Told};
use flotilla_e2e::http::Http;
use flotilla_e2e::moves::{self, SLOTS};
use flotilla_e2e::progress;
use flotilla_e2e::wait;
use serde_json::{Value, json};

const SLOT_COUNT: u64 = 64;
/// Enough for slots in every Raft group.
const GROUPS: usize = 32;
const CONSUMERS: [&str; 3] = ["c1", "c2", "c3"];
const JOINED_WITHIN: Duration = Duration::from_secs(20);
const MOVED_WITHIN: Duration = Duration::from_secs(30);
/// With a process killed in the middle, which may take elections.
const MOVED_DESPITE: Duration = Duration::from_secs(60);
/// Members that leave are gone long before absent ones are taken out.
const GONE_WITHIN: Duration = Duration::from_secs(15);
/// Without a change of the members nothing comes for so long.
const QUIET: Duration = Duration::from_secs(2);
/// Code 14: nothing is known at the moment.
const NOT_NOW: i32 = 14;

fn groups() -> Vec<String> {
    (0..GROUPS).map(|number| format!("members-{number}")).collect()
}

/// Consumers of all groups; the first node of `order` is the one they are recorded with.
fn join(cluster: &Cluster, order: &[usize]) -> Vec<Consumer> {
    let ports: Vec<u16> = order.iter().map(|node| cluster.nodes()[*node].ports.remoting).collect();
    let consumers: Vec<_> = CONSUMERS
        .iter()
        .map(|client| Consumer::start(client, &groups(), &ports).expect("a consumer joins"))
        .collect();
    let mut seen = 0;
    let mut since = Instant::now();
    wait::until("all are told and it is quiet", JOINED_WITHIN, || {
        let changes = told(&consumers).iter().map(|told| told.changes.len()).sum();
        if changes != seen {
            (seen, since) = (changes, Instant::now());
        }
        Ok((seen > 0 && since.elapsed() > QUIET).then_some(()))
    })
    .expect("members settle");
    consumers
}

fn told(consumers: &[Consumer]) -> Vec<Told> {
    consumers.iter().map(Consumer::told).collect()
}

/// An answer that is not true, at no time.
#[derive(Debug)]
struct Wrong(String);

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

/// Asks one node for the members of a group in the way that consumers do; `None` if it cannot say now.
fn asked(client: &mut Client, group: &str) -> Result<Option<Vec<String>>> {
    let query = RemotingCommand::request(request::GET_CONSUMER_LIST_BY_GROUP).with_field("consumerGroup", group);
    let answer = client.call(query)?;
    match answer.code {
        response::SUCCESS => {
            let body: Value = serde_json::from_slice(&answer.body)?;
            let clients = body["consumerIdList"].as_array().context("consumerIdList")?;
            Ok(Some(
                clients
                    .iter()
                    .filter_map(|one| one.as_str().map(str::to_owned))
                    .collect(),
            ))
        }
        NOT_NOW => Ok(None),
        _ if answer
            .remark
            .as_deref()
            .is_some_and(|remark| remark.starts_with("[UNKNOWN]")) =>
        {
            Ok(None)
        }
        code => bail!(Wrong(format!("{group}: code {code}: {:?}", answer.remark))),
    }
}

/// Members as a document of the admin API shows them; `None` if it is a stale copy.
fn shown(document: &Value) -> Option<Vec<String>> {
    if document["stale"] == true {
        return None;
    }
    let members = document["members"].as_array()?.iter();
    Some(
        members
            .filter_map(|one| one["client_id"].as_str().map(str::to_owned))
            .collect(),
    )
}

/// All members, each once; the order is the server's.
fn check(members: Vec<String>, expected: &[&str], what: &str) -> Result<()> {
    let mut sorted = members;
    sorted.sort_unstable();
    ensure!(
        sorted == expected,
        Wrong(format!("{what} shows {sorted:?}, not {expected:?}"))
    );
    Ok(())
}

/// Every node tells of every group, over both protocols.
fn check_everywhere(cluster: &Cluster, expected: &[&str]) -> Result<()> {
    for node in 0..cluster.len() {
        let mut client = cluster.client(node)?;
        let http = cluster.http(node);
        let list = http.get_ok("/v1/consumer-groups")?;
        ensure!(list["stale"] == Value::Null, "node {node}: {list}");
        let items = list["items"].as_array().context("items")?;
        for group in groups() {
            let what = format!("node {node}, {group}");
            let members = asked(&mut client, &group)?.with_context(|| format!("{what} cannot say"))?;
            check(members, expected, &what)?;
            let one = http.get_ok(&format!("/v1/consumer-groups/{group}"))?;
            let items: Vec<_> = items.iter().filter(|item| item["name"] == *group).collect();
            ensure!(items.len() == 1, "{what}: {} times in the list", items.len());
            for document in [&one, items[0]] {
                let members = shown(document).with_context(|| format!("{what}: {document}"))?;
                check(members, expected, &what)?;
            }
        }
    }
    Ok(())
}

/// Asks for members all the time, through nodes in turn, until it is ended.
struct Asking {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Asked>>,
}

/// How often it was told all members, and how often nobody could say.
#[derive(Debug, Default)]
struct Asked {
    told: usize,
    unsaid: usize,
}

impl Asking {
    /// `strictly`: every question is answered.
    fn start(cluster: &Cluster, strictly: bool) -> Self {
        let nodes: Vec<_> = (0..cluster.len())
            .map(|node| (cluster.nodes()[node].ports.remoting, cluster.http(node)))
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut asked = Asked::default();
                let groups = groups();
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    let (port, http) = &nodes[round % nodes.len()];
                    let told = ask_some(*port, http, &groups, round);
                    match told {
                        Ok(told) => {
                            asked.told += told.told;
                            asked.unsaid += told.unsaid;
                            ensure!(!strictly || told.unsaid == 0, "round {round}: {told:?}");
                        }
                        // A node that is dead or not yet back.
                        Err(error) if !strictly && !error.is::<Wrong>() => asked.unsaid += 1,
                        Err(error) => return Err(error.context(format!("round {round}"))),
                    }
                    round += 1;
                }
                Ok(asked)
            })
        };
        Self { stop, thread }
    }

    fn end(self) -> Result<Asked> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic")
    }
}

/// Some groups at one node, one by one and as a list.
fn ask_some(port: u16, http: &Http, groups: &[String], round: usize) -> Result<Asked> {
    let mut asked_for = Asked::default();
    let mut note = |members: Option<Vec<String>>, what: &str| -> Result<()> {
        match members {
            Some(members) => {
                check(members, &CONSUMERS, what)?;
                asked_for.told += 1;
            }
            None => asked_for.unsaid += 1,
        }
        Ok(())
    };
    let mut client = Client::connect(port)?;
    for group in groups.iter().skip(round % 7).step_by(7) {
        note(asked(&mut client, group)?, group)?;
    }
    let group = &groups[round % groups.len()];
    let (status, one) = http.get(&format!("/v1/consumer-groups/{group}"))?;
    ensure!(status != 404, Wrong(format!("{group}: {one}")));
    note(shown(&one).filter(|_| status == 200), group)?;
    let (status, list) = http.get("/v1/consumer-groups")?;
    if status != 200 || list["stale"] == true {
        note(None, "the list")?;
        return Ok(asked_for);
    }
    let items = list["items"].as_array().context("items")?;
    for group in groups {
        let item = items.iter().find(|item| item["name"] == **group);
        let members = item.and_then(shown).unwrap_or_default();
        note(Some(members), &format!("{group} in the list"))?;
    }
    Ok(asked_for)
}

fn slots_in(http: &Http, group: &str) -> Result<u64> {
    let shown = http.get_ok(&format!("/v1/groups/{group}"))?;
    shown["coordinator_slots"].as_u64().context("coordinator_slots")
}

fn slots(cluster: &Cluster) -> Result<Vec<u64>> {
    let groups = cluster.groups()?;
    groups.iter().map(|group| slots_in(&cluster.http(0), group)).collect()
}

fn reopen(http: &Http, group: &str) -> Result<()> {
    let (status, answer) = http.post(&format!("/v1/groups/{group}/reopen"), &json!({}))?;
    ensure!(status == 200, "{status} {answer}");
    Ok(())
}

/// Nobody was told of a change, and no heartbeat failed, since these were told.
fn check_unnoticed(before: &[Told], after: &[Told]) -> Result<()> {
    for ((client, before), after) in CONSUMERS.iter().zip(before).zip(after) {
        let changes = &after.changes[before.changes.len()..];
        ensure!(changes.is_empty(), "{client} was told of changes: {changes:?}");
        let refused = &after.refused[before.refused.len()..];
        ensure!(refused.is_empty(), "{client}: {refused:?}");
        ensure!(after.beats > before.beats, "{client} does not beat");
    }
    Ok(())
}

/// The last consumer goes: the others are told, and everybody knows.
fn last_one_leaves(cluster: &Cluster, mut consumers: Vec<Consumer>) -> Result<()> {
    let last = consumers.pop().context("a consumer")?;
    let before = told(&consumers);
    last.leave(&groups())?;
    let (_, left) = CONSUMERS.split_last().context("consumers")?;
    wait::until("it is gone everywhere", GONE_WITHIN, || {
        check_everywhere(cluster, left).map(Some)
    })?;
    wait::until("the others are told", GONE_WITHIN, || {
        let all: BTreeSet<String> = groups().into_iter().collect();
        let heard = told(&consumers).into_iter().zip(&before).all(|(told, before)| {
            let since = told.changes.into_iter().skip(before.changes.len());
            since.map(|(_, group)| group).collect::<BTreeSet<_>>() == all
        });
        Ok(heard.then_some(()))
    })
}

#[test]
fn slots_leave_a_group_and_come_back_and_consumers_do_not_notice() {
    let cluster = Cluster::start(3).expect("nodes start");
    assert_eq!(slots(&cluster).expect("slots"), [22, 21, 21]);
    let consumers = join(&cluster, &[0, 1, 2]);
    check_everywhere(&cluster, &CONSUMERS).expect("members");
    let before = told(&consumers);
    let asking = Asking::start(&cluster, true);
    for group in cluster.groups().expect("groups") {
        let http = cluster.http(1);
        let had = slots_in(&http, &group).expect("slots");
        assert!(had > 0, "{group}");
        let moved = moves::carry_out(&http, &format!("/v1/groups/{group}/drain"), MOVED_WITHIN).expect("drain");
        assert!(moved.iter().all(|one| one.topic == SLOTS), "{moved:?}");
        let slowest = moved.iter().map(|one| one.writer_pause_ms).max();
        progress::line(format!(
            "{group}: {} slots moved, longest pause {slowest:?} ms",
            moved.len()
        ));
        assert_eq!(moved.len() as u64, had);
        assert_eq!(slots_in(&http, &group).expect("slots"), 0);
        check_everywhere(&cluster, &CONSUMERS).expect("members after a drain");
        reopen(&http, &group).expect("reopen");
        moves::carry_out(&http, "/v1/rebalance", MOVED_WITHIN).expect("rebalance");
        let spread = slots(&cluster).expect("slots");
        assert_eq!(spread.iter().sum::<u64>(), SLOT_COUNT);
        assert!(spread.iter().all(|slots| (21..=22).contains(slots)), "{spread:?}");
    }
    let asked = asking.end().expect("all members, at any time");
    progress::line(format!("{asked:?}"));
    assert!(asked.told > 1_000, "{asked:?}");
    check_everywhere(&cluster, &CONSUMERS).expect("members after all");
    std::thread::sleep(QUIET);
    check_unnoticed(&before, &told(&consumers)).expect("nobody notices");
    last_one_leaves(&cluster, consumers).expect("it leaves");
}

/// A process dies at each of these while a group is drained: its leader between seal and opening, one of the new leaders
/// before and behind the opening, the leader once all is done but written down.
const STEPS: [&str; 4] = ["sealed", "open-asked", "opened", "open-heard"];

/// Has other nodes lead the other groups: after some deaths one node may lead everything, and steps of a move that it says
/// to itself are none at which a process dies.
fn lead_apart(cluster: &Cluster, group: &str) -> Result<usize> {
    wait::until("groups led by different nodes", MOVED_WITHIN, || {
        let leaders = cluster.leaders()?;
        let leader = *leaders.get(group).context("a leader")?;
        let same: Vec<&String> = leaders
            .iter()
            .filter(|(other, led_by)| **led_by == leader && *other != group)
            .map(|(other, _)| other)
            .collect();
        let next = &cluster.nodes()[(leader + 1) % cluster.len()].name;
        for other in &same {
            let path = format!("/v1/groups/{other}/leader");
            cluster.http(leader).post(&path, &json!({ "node": next }))?;
        }
        Ok(same.is_empty().then_some(leader))
    })
}

/// Drains a group and has somebody die at `point`, or its leader at once without one.
fn drain_and_die(cluster: &mut Cluster, group: &str, point: Option<&str>) -> Result<()> {
    let leader = lead_apart(cluster, group)?;
    let asking = Asking::start(cluster, false);
    let begin = Instant::now();
    if let Some(point) = point {
        cluster.arm(point)?;
    }
    let other = (leader + 1) % cluster.len();
    // Whoever is asked may be the one that dies, before it answers.
    if let Ok((status, answer)) = cluster
        .http(other)
        .post(&format!("/v1/groups/{group}/drain"), &json!({}))
    {
        ensure!(status == 202, "{status} {answer}");
    }
    let dead = match point {
        None => {
            cluster.kill(leader)?;
            vec![cluster.nodes()[leader].name.clone()]
        }
        Some(point) => wait::until(&format!("some process dies at {point}"), MOVED_WITHIN, || {
            let dead = cluster.bury()?;
            Ok((!dead.is_empty()).then_some(dead))
        })?,
    };
    let living = (0..cluster.len()).find(|node| cluster.is_running(*node));
    let http = cluster.http(living.context("a living node")?);
    wait::until("no slot is open there", MOVED_DESPITE, || {
        Ok((slots_in(&http, group)? == 0).then_some(()))
    })?;
    let took = begin.elapsed();
    for node in 0..cluster.len() {
        if !cluster.is_running(node) {
            cluster.launch(node)?;
        }
    }
    cluster.await_ready()?;
    let asked = asking.end().context("all members or no answer, at any time")?;
    progress::line(format!(
        "{group}, {point:?}: {dead:?} died, drained in {took:?}, {asked:?}"
    ));
    all_there(cluster)?;
    reopen(&cluster.http(0), group)?;
    moves::carry_out(&cluster.http(0), "/v1/rebalance", MOVED_DESPITE)?;
    ensure!(slots_in(&cluster.http(0), group)? >= 21, "{group} got no slots back");
    all_there(cluster)
}

/// Once every node knows the leaders again.
fn all_there(cluster: &Cluster) -> Result<()> {
    wait::until(
        "every node tells of all members",
        JOINED_WITHIN,
        || match check_everywhere(cluster, &CONSUMERS) {
            Err(wrong) if wrong.is::<Wrong>() => Ok(Some(Err(wrong))),
            told => told.map(|()| Some(Ok(()))),
        },
    )?
}

#[test]
fn whoever_dies_while_slots_move_no_member_is_lost_or_doubled() {
    let mut cluster = Cluster::start(3).expect("nodes start");
    let groups = cluster.groups().expect("groups");
    let points: Vec<Option<&str>> = std::iter::once(None).chain(STEPS.map(Some)).collect();
    let consumers = join(&cluster, &[0, 1, 2]);
    for (point, number) in points.into_iter().zip(1..) {
        let group = &groups[number % groups.len()];
        drain_and_die(&mut cluster, group, point).unwrap_or_else(|error| panic!("{group}, {point:?}: {error:#}"));
    }
    let refused: Vec<_> = told(&consumers).into_iter().flat_map(|told| told.refused).collect();
    progress::line(format!("{} heartbeats refused: {refused:?}", refused.len()));
    last_one_leaves(&cluster, consumers).expect("it leaves");
}

/// The leader of a drained group dies between the seal and the opening. Consumers are at the two other nodes: its death
/// alone changes no member, and what it applies again when it is back reaches nobody.
#[test]
fn a_move_that_its_leader_did_not_survive_is_no_reason_to_share_out_queues_again() {
    let mut cluster = Cluster::start(3).expect("nodes start");
    let group = cluster.groups().expect("groups").remove(0);
    let leader = cluster.leader(&group).expect("leader");
    let consumers = join(&cluster, &[(leader + 1) % 3, (leader + 2) % 3]);
    let before = told(&consumers);
    drain_and_die(&mut cluster, &group, Some("sealed")).expect("it is drained");
    std::thread::sleep(QUIET);
    check_unnoticed(&before, &told(&consumers)).expect("nobody notices");
    last_one_leaves(&cluster, consumers).expect("it leaves");
}

#[test]
fn the_topic_of_the_slots_does_not_exist_for_clients() {
    let cluster = Cluster::standalone().expect("the process starts");
    let http = cluster.http(0);
    http.create_topic("hello", 1).expect("topic");
    let mut client = cluster.client(0).expect("connect");
    let mut code = |request: RemotingCommand| client.call(request).expect("an answer").code;
    let unknown = response::TOPIC_NOT_EXIST;
    for queue in [-1, 0, 63, 64] {
        assert_eq!(
            code(send_request(SLOTS, queue, Bytes::from_static(b"x"))),
            unknown,
            "{queue}"
        );
        assert_eq!(code(pull_request(SLOTS, queue, 0, Duration::ZERO)), unknown, "{queue}");
    }
    let about = |code: i32| RemotingCommand::request(code).with_field("topic", SLOTS);
    for asked in [
        request::GET_ROUTEINFO_BY_TOPIC,
        request::GET_TOPIC_STATS_INFO,
        request::GET_TOPIC_CONFIG,
    ] {
        assert_eq!(code(about(asked)), unknown, "{asked}");
    }
    assert_ne!(code(about(request::DELETE_TOPIC_IN_BROKER)), response::SUCCESS);
    let create = about(request::UPDATE_AND_CREATE_TOPIC)
        .with_field("readQueueNums", "4")
        .with_field("writeQueueNums", "4")
        .with_field("perm", "6")
        .with_field("defaultTopic", "TBW102")
        .with_field("topicFilterType", "SINGLE_TAG");
    assert_ne!(code(create), response::SUCCESS);
    for asked in [
        request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER,
        request::GET_ALL_TOPIC_CONFIG,
        request::GET_SYSTEM_TOPIC_LIST_FROM_NS,
        request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER,
    ] {
        let answer = client.call(RemotingCommand::request(asked)).expect("an answer");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(
            answer.code == response::SUCCESS && !text.contains(SLOTS),
            "{asked}: {text}"
        );
    }

    // A subscription to it shows no queue either.
    let group = vec!["curious".to_owned()];
    let port = cluster.nodes()[0].ports.remoting;
    let _consumer = Consumer::subscribing("c1", &group, SLOTS, &[port]).expect("a consumer joins");
    let shown = http.get_ok("/v1/consumer-groups/curious").expect("the group");
    assert_eq!(
        (shown["members"].as_array().map(Vec::len), &shown["queues"]),
        (Some(1), &json!([]))
    );
    let stats = RemotingCommand::request(request::GET_CONSUME_STATS)
        .with_field("consumerGroup", "curious")
        .with_field("topic", SLOTS);
    let stats = client.call(stats).expect("an answer");
    assert!(!String::from_utf8_lossy(&stats.body).contains(SLOTS), "{stats:?}");

    for (method, path, body, status) in [
        ("GET", format!("/v1/topics/{SLOTS}"), "", 404),
        ("GET", format!("/v1/topics/{SLOTS}/queues"), "", 404),
        ("PUT", format!("/v1/topics/{SLOTS}"), r#"{"queues":70}"#, 409),
        ("DELETE", format!("/v1/topics/{SLOTS}"), "", 404),
        ("POST", format!("/v1/topics/{SLOTS}/messages"), r#"{"body":"x"}"#, 404),
        ("GET", format!("/v1/messages?topic={SLOTS}&queue=0&offset=0"), "", 404),
    ] {
        let answer = http
            .request(method, &path, Some(body).filter(|body| !body.is_empty()))
            .expect("an answer");
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    }
    let lists = http.get_ok("/v1/topics").expect("topics").to_string();
    assert!(!lists.contains(SLOTS), "{lists}");
    let metrics = http.metrics().expect("metrics");
    assert_eq!(metrics.get("flotilla_topics", &[]), Some(1.0), "{lists}");
    assert_eq!(metrics.sum("flotilla_group_topics"), 1.0, "{lists}");
    // Its moves are shown.
    let id = moves::start(&http, SLOTS, 0, "g2").expect("a slot moves");
    let moved = moves::await_ended(&http, &[id], MOVED_WITHIN).expect("it ends");
    assert_eq!(moved[0].state, "done");
    assert_eq!(
        (
            slots_in(&http, "g1").expect("slots"),
            slots_in(&http, "g2").expect("slots")
        ),
        (31, 33)
    );
}
