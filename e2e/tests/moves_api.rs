//! Moving queues through the admin API: what is planned and why, what is refused, and what a drained group shows.

use std::time::Duration;

use flotilla_e2e::admin::{all, ask, get, is_problem, one, three};
use flotilla_e2e::command::{fails, succeeds, succeeds_with_progress};
use flotilla_e2e::http::Http;
use flotilla_e2e::moves;
use flotilla_e2e::wait;
use serde_json::{Value, json};

const MOVED_WITHIN: Duration = Duration::from_secs(30);

/// What a group shows of the queues it has.
fn placement(http: &Http, group: &str) -> (Value, Value) {
    let shown = get(http, &format!("/v1/groups/{group}"));
    (shown["draining"].clone(), shown["open_queues"].clone())
}

fn all_moves(http: &Http) -> Value {
    get(http, "/v1/moves")["moves"].clone()
}

#[test]
fn a_dry_run_says_at_every_node_what_would_move_and_why_and_moves_nothing() {
    let cluster = three();
    let nodes = all(&cluster);
    moves::topic_in(&nodes[0], "uneven", 6, "g2").expect("topic");
    for http in &nodes {
        let (status, plan) = http
            .post("/v1/rebalance", &json!({ "dry_run": true }))
            .expect("dry run");
        assert_eq!((status, &plan["remaining"]), (200, &json!(4)), "{plan}");
        let planned = plan["moves"].as_array().expect("moves");
        for (planned, (queue, to)) in planned.iter().zip([(0, "g1"), (1, "g1"), (2, "g3"), (3, "g3")]) {
            let reason = format!("rebalance: g2 has 6 queues of the topic, {to} 0");
            let expected = json!({
                "topic": "uneven", "queue": queue, "from": "g2", "to": to, "writer_pause_ms": null,
                "duration_ms": null, "end_offset": null, "bytes_copied": 0, "reason": reason
            });
            assert_eq!(*planned, expected);
        }
        assert_eq!(planned.len(), 4);
        assert_eq!(all_moves(http), json!([]));
        assert_eq!(placement(http, "g2"), (json!(false), json!(6)));
    }
    nodes[1].create_topic("even", 3).expect("topic");
    assert_eq!(ask(&nodes[1], "DELETE", "/v1/topics/uneven", "").status, 204);
    let even = ask(&nodes[2], "POST", "/v1/rebalance", "");
    assert_eq!(
        (even.status, even.json().expect("plan")),
        (200, json!({ "moves": [], "remaining": 0 })),
        "nothing has to move"
    );
}

#[test]
fn moves_that_cannot_be_are_refused_and_change_nothing() {
    let cluster = one();
    let http = cluster.http(0);
    moves::topic_in(&http, "t", 2, "g2").expect("topic");
    // No queue is open there, but half of the coordinator slots are.
    let moved = moves::carry_out(&http, "/v1/groups/g1/drain", MOVED_WITHIN).expect("drain");
    assert_eq!(moved.len(), 32);
    assert!(moved.iter().all(|one| one.topic == moves::SLOTS), "{moved:?}");
    let drained = ask(&http, "POST", "/v1/groups/g1/drain", "");
    assert_eq!(drained.status, 200, "{drained:?}");
    assert_eq!(placement(&http, "g1"), (json!(true), json!(0)));
    http.create_topic("later", 3).expect("topic");
    assert_eq!(
        http.owners("later").expect("owners"),
        ["g2"; 3],
        "a draining group gets no queues"
    );
    let to = |group: &str| json!({ "group": group }).to_string();
    let requests = [
        (404, "/v1/topics/unknown/queues/0/move", to("g1")),
        (404, "/v1/topics/t/queues/2/move", to("g2")),
        (404, "/v1/topics/t/queues/0/move", to("g9")),
        (409, "/v1/topics/t/queues/0/move", to("g2")),
        (409, "/v1/topics/t/queues/0/move", to("g1")),
        (400, "/v1/topics/t/queues/x/move", to("g1")),
        (400, "/v1/topics/t/queues/-1/move", to("g1")),
        (400, "/v1/topics/t/queues/0/move", String::new()),
        (400, "/v1/topics/t/queues/0/move", "{}".to_owned()),
        (400, "/v1/topics/t/queues/0/move", r#"{"group":1}"#.to_owned()),
        (400, "/v1/topics/t/queues/0/move?wait=soon", to("g1")),
        (400, "/v1/topics/t/queues/0/move?colour=red", to("g1")),
        (400, "/v1/rebalance", "[]".to_owned()),
        (400, "/v1/rebalance", r#"{"dry_run":"yes"}"#.to_owned()),
        // Not taken for a request to move everything.
        (400, "/v1/rebalance", r#"{"dryrun":true}"#.to_owned()),
        (404, "/v1/groups/g9/drain", String::new()),
        (409, "/v1/groups/g2/drain", String::new()),
        (404, "/v1/groups/g9/reopen", String::new()),
    ];
    let state = || {
        (
            http.owners("t").expect("owners"),
            all_moves(&http),
            get(&http, "/v1/topics/t/queues"),
        )
    };
    let before = state();
    let wrong = requests.iter().filter_map(|(status, path, body)| {
        let answer = ask(&http, "POST", path, body);
        let told = is_problem(&answer, *status, true);
        (!told).then(|| format!("{status} expected: {path} {body}: {answer:?}\n"))
    });
    let wrong: String = wrong.collect();
    assert_eq!(state(), before);
    assert!(wrong.is_empty(), "{wrong}");
    for (status, path) in [(404, "/v1/moves/99"), (400, "/v1/moves/x"), (400, "/v1/moves/-1")] {
        let answer = ask(&http, "GET", path, "");
        assert!(is_problem(&answer, status, false), "{path}: {answer:?}");
    }
    let reopened = ask(&http, "POST", "/v1/groups/g1/reopen", "");
    assert_eq!(reopened.status, 200, "{reopened:?}");
    assert_eq!(placement(&http, "g1"), (json!(false), json!(0)));
    http.create_topic("last", 1).expect("topic");
    assert_eq!(http.owners("last").expect("owners"), ["g1"]);
}

#[test]
fn a_move_is_shown_from_its_start_and_ends_with_its_topic() {
    let cluster = one();
    let http = cluster.http(0);
    moves::topic_in(&http, "t", 2, "g2").expect("topic");
    let (status, begun) = http
        .post("/v1/topics/t/queues/1/move", &json!({ "group": "g1" }))
        .expect("move");
    assert!(matches!(status, 200 | 202), "{status} {begun}");
    let place = json!([
        begun["topic"],
        begun["queue"],
        begun["from"],
        begun["to"],
        begun["reason"]
    ]);
    assert_eq!(place, json!(["t", 1, "g2", "g1", "asked for"]));
    let path = format!("/v1/moves/{}", begun["id"]);
    assert_eq!(all_moves(&http).as_array().expect("moves").len(), 1);
    assert_eq!(get(&http, &path)["id"], begun["id"]);
    assert_eq!(ask(&http, "DELETE", "/v1/topics/t", "").status, 204);
    let state = get(&http, &path)["state"].clone();
    assert!(state == "done" || state == "cancelled", "{state}");
}

#[test]
fn moves_are_asked_for_from_a_shell() {
    let cluster = one();
    let http = cluster.http(0);
    moves::topic_in(&http, "t", 2, "g2").expect("topic");
    let admin = format!("admin --http 127.0.0.1:{}", cluster.nodes()[0].ports.http);
    let read = |arguments: &str| -> Value {
        serde_json::from_str(&succeeds(&format!("{admin} -o json {arguments}"), "")).expect("JSON")
    };
    let plan = succeeds(&format!("{admin} rebalance --dry-run"), "");
    assert!(plan.contains("g2 has 2 queues of the topic, g1 0"), "{plan}");
    assert_eq!(read("moves")["moves"], json!([]));
    let (drained, progress) = succeeds_with_progress(&format!("{admin} -o json drain g1 --wait"), "");
    let drained: Value = serde_json::from_str(&drained).expect("JSON");
    assert!(
        progress.lines().all(|line| line.ends_with(" open queues and slots")),
        "{progress}"
    );
    let topics = drained["moves"]
        .as_array()
        .expect("moves")
        .iter()
        .map(|one| &one["topic"]);
    assert_eq!(
        topics.collect::<Vec<_>>(),
        [moves::SLOTS; 32],
        "no queue was open there"
    );
    assert_eq!(read("drain g1 --wait")["moves"], json!([]), "nothing is open there");
    let shown = read("groups g1");
    assert_eq!(
        (&shown["draining"], &shown["coordinator_slots"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(read("reopen g1")["draining"], json!(false));
    fails(&format!("{admin} queues move t 0 g2 --wait 1s"), 1, &["409", "refused"]);
    fails(&format!("{admin} queues move t 7 g1"), 1, &["404", "refused"]);
    fails(&format!("{admin} queues move t 0 g1 --wait soon"), 1, &["soon"]);
    fails(&format!("{admin} queues"), 2, &["TOPIC"]);
    fails(&format!("{admin} moves 99"), 1, &["404"]);
    fails(&format!("{admin} drain g9"), 1, &["404", "refused"]);
    fails(&format!("{admin} rebalance --dry-run --wait"), 2, &["--wait"]);
    let begun = read("queues move t 0 g1");
    assert_eq!(json!([begun["queue"], begun["to"]]), json!([0, "g1"]));
    assert_eq!(read(&format!("moves {}", begun["id"]))["id"], begun["id"]);
}

#[test]
fn pinned_queues_stay_in_the_groups_that_their_topic_names() {
    let cluster = three();
    let http = cluster.http(1);
    let put = |settings: Value| http.put("/v1/topics/t", &settings).expect("put");
    let queues = |group: &str| {
        let owners = http.owners("t").expect("owners").into_iter();
        owners.filter(|owner| owner == group).count()
    };
    let (status, topic) = put(json!({ "queues": 4, "groups": ["g3", "g2"] }));
    assert_eq!((status, &topic["pinned"]), (201, &json!(["g2", "g3"])), "{topic}");
    let (_, topic) = put(json!({ "queues": 6 }));
    assert_eq!(topic["pinned"], json!(["g2", "g3"]), "kept by what does not mention it");
    assert_eq!((queues("g2"), queues("g3")), (3, 3));
    let plan = ask(&http, "POST", "/v1/rebalance", "").json().expect("plan");
    assert_eq!(plan["remaining"], 0, "{plan}");
    let outside = ask(&http, "POST", "/v1/topics/t/queues/0/move", r#"{"group":"g1"}"#);
    assert!(is_problem(&outside, 409, true), "{outside:?}");
    assert!(outside.text.contains("pinned to other groups"), "{outside:?}");
    // One of them is drained: all queues go to the other, from where they cannot leave.
    let moved = moves::carry_out(&http, "/v1/groups/g2/drain", MOVED_WITHIN).expect("drain");
    let moved_of = |topic: &str| moved.iter().filter(|one| one.topic == topic).count();
    assert_eq!((moved_of("t"), moved_of(moves::SLOTS), queues("g3")), (3, 21, 6));
    let held = ask(&http, "POST", "/v1/groups/g3/drain", "");
    assert!(is_problem(&held, 409, true), "{held:?}");
    assert!(held.text.contains("6 queues are pinned"), "{held:?}");
    assert_eq!(placement(&http, "g3"), (json!(false), json!(6)), "nothing was changed");
    moves::topic_in(&http, "free", 2, "g3").expect("topic");
    let (status, answer) = http.post("/v1/groups/g3/drain", &json!({})).expect("drain");
    assert_eq!((status, &answer["pinned"]), (202, &json!(6)), "{answer}");
    let leaving = answer["moves"].as_array().expect("moves").iter();
    let topics: Vec<&str> = leaving.filter_map(|one| one["topic"].as_str()).collect();
    let (slots, queues): (Vec<&str>, Vec<&str>) = topics.into_iter().partition(|topic| *topic == moves::SLOTS);
    assert_eq!((queues, slots.is_empty()), (vec!["free", "free"], false));
}

#[test]
fn a_draining_group_whose_moves_were_not_started_becomes_empty_by_itself() {
    let cluster = three();
    let http = cluster.http(0);
    moves::topic_in(&http, "t", 3, "g1").expect("topic");
    let (status, _) = http.put("/v1/topics/t", &json!({ "groups": ["g1"] })).expect("pin");
    assert_eq!(status, 200);
    moves::topic_in(&http, "free", 1, "g1").expect("topic");
    let drained = moves::carry_out(&http, "/v1/groups/g1/drain", MOVED_WITHIN);
    assert!(drained.is_err(), "pins keep the rest: {drained:?}");
    assert_eq!(placement(&http, "g1"), (json!(true), json!(3)));
    // Nobody asks for a drain again.
    let (status, _) = http.put("/v1/topics/t", &json!({ "groups": [] })).expect("unpin");
    assert_eq!(status, 200);
    wait::until("the group is empty", MOVED_WITHIN, || {
        Ok((placement(&http, "g1").1 == json!(0)).then_some(()))
    })
    .expect("it goes on");
}
