//! A queue whose messages lie in the logs of several Raft groups is one queue to everybody, through every node: its
//! bounds, its messages, offsets by time, and the progress of old and new consumer groups.

use std::time::Duration;

use flotilla_api::remoting::codes::{request, response};
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_e2e::client::{Client, pull_request};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::moves;

const TOPIC: &str = "in-segments";
const GROUP: &str = "reads-segments";
/// Messages of each segment.
const EACH: i64 = 5;
const MOVED: Duration = Duration::from_secs(20);
/// Store times of two segments differ by more than clocks are read apart.
const APART: Duration = Duration::from_millis(30);

/// Where the messages of one segment begin, and a time between them and those before.
struct Mark {
    offset: i64,
    before_ms: i64,
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.expect("a clock after 1970").as_millis()).expect("a time of this age")
}

fn fill(client: &mut Client) -> Mark {
    std::thread::sleep(APART);
    let before_ms = now_ms();
    std::thread::sleep(APART);
    let offset = client.max_offset(TOPIC, 0).expect("end");
    for number in 0..EACH {
        let sent = client.send(TOPIC, 0, &format!("message {}", offset + number));
        assert_eq!(sent.expect("send"), offset + number);
    }
    Mark { offset, before_ms }
}

fn ask(client: &mut Client, code: i32, fields: &[(&str, &str)]) -> RemotingCommand {
    let mut asked = RemotingCommand::request(code);
    asked.fields.push("topic", TOPIC);
    asked.fields.push("queueId", "0");
    for (name, value) in fields {
        asked.fields.push(name, *value);
    }
    client.call(asked).expect("an answer")
}

fn number(answer: &RemotingCommand, field: &str) -> i64 {
    assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
    answer.fields.get(field).expect(field).parse().expect("a number")
}

fn by_time(client: &mut Client, time: i64, boundary: &str) -> i64 {
    let time = time.to_string();
    let fields = [("timestamp", time.as_str()), ("boundaryType", boundary)];
    number(&ask(client, request::SEARCH_OFFSET_BY_TIMESTAMP, &fields), "offset")
}

#[test]
fn it_is_one_queue_through_every_node() {
    let cluster = Cluster::start(3).expect("three nodes start");
    let http = cluster.http(0);
    http.create_topic(TOPIC, 1).expect("topic");
    let mut client = cluster.client(0).expect("connect");
    let mut marks = vec![fill(&mut client)];
    client.set_consumer_offset(GROUP, TOPIC, 0, 3).expect("set");
    let home = http.owners(TOPIC).expect("owner").remove(0);
    let mut groups = cluster.groups().expect("groups");
    groups.retain(|group| *group != home);
    groups.push(home);
    // To each of the others, and back to where it began.
    for group in &groups {
        let id = moves::start(&http, TOPIC, 0, group).expect("move");
        let moved = moves::await_ended(&http, &[id], MOVED).expect("moved");
        assert_eq!(moved[0].state, "done");
        marks.push(fill(&mut client));
    }
    let end = EACH * marks.len() as i64;

    for node in 0..cluster.len() {
        let mut client = cluster.client(node).expect("connect");
        let bounds = (
            client.min_offset(TOPIC, 0).expect("min"),
            client.max_offset(TOPIC, 0).expect("max"),
        );
        assert_eq!(bounds, (0, end), "node {node}");
        let dump = client.dump(TOPIC, 1).expect("read");
        let expected: Vec<_> = (0..end).map(|offset| (offset, format!("message {offset}"))).collect();
        assert_eq!(dump.0[&0].messages, expected, "node {node}");
        // What lies in a segment that ended is not told to be the end of the queue.
        let pulled = client.call(pull_request(TOPIC, 0, 0, Duration::ZERO)).expect("pull");
        let bounds = (number(&pulled, "minOffset"), number(&pulled, "maxOffset"));
        assert_eq!(bounds, (0, end), "node {node}");
        for mark in &marks {
            let what = format!("node {node}, before offset {}", mark.offset);
            assert_eq!(by_time(&mut client, mark.before_ms, "LOWER"), mark.offset, "{what}");
            let last_before = (mark.offset - 1).max(0);
            assert_eq!(by_time(&mut client, mark.before_ms, "UPPER"), last_before, "{what}");
        }
        assert_eq!(by_time(&mut client, now_ms() + 60_000, "LOWER"), end, "node {node}");
        let earliest = number(&ask(&mut client, request::GET_EARLIEST_MSG_STORETIME, &[]), "timestamp");
        assert!(
            marks[0].before_ms <= earliest && earliest < marks[1].before_ms,
            "{earliest}"
        );

        let progress = client.consumer_offset(GROUP, TOPIC, 0).expect("ask");
        assert_eq!(progress, Some(3), "node {node}");
        // A group that is new begins at 0, as it would if the queue had never moved.
        let fields = [("consumerGroup", "new-group")];
        let begins = number(&ask(&mut client, request::QUERY_CONSUMER_OFFSET, &fields), "offset");
        assert_eq!(begins, 0, "node {node}");

        let document = cluster
            .http(node)
            .get_ok(&format!("/v1/topics/{TOPIC}/queues"))
            .expect("queues");
        let queue = &document["queues"][0];
        assert_eq!(
            (queue["min_offset"].as_i64(), queue["max_offset"].as_i64()),
            (Some(0), Some(end))
        );
        let segments = queue["segments"].as_array().expect("segments");
        let starts: Vec<_> = segments
            .iter()
            .filter_map(|segment| segment["start_offset"].as_i64())
            .collect();
        assert_eq!(starts, [0, EACH, 2 * EACH, 3 * EACH]);
        for mark in &marks {
            let path = format!("/v1/messages?topic={TOPIC}&queue=0&offset={}", mark.offset);
            let message = cluster.http(node).get_ok(&path).expect("a message");
            assert_eq!(message["offset"].as_i64(), Some(mark.offset));
        }
    }
}
