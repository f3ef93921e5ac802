use super::*;
use serde_json::json;

#[test]
fn topic_settings_are_all_optional() {
    let settings: TopicSettings =
        serde_json::from_value(json!({"queues": 8, "type": "fifo", "later": 1})).expect("reads");
    assert_eq!(
        (settings.queues, settings.kind, settings.retention),
        (Some(8), Some(TopicType::Fifo), None)
    );
    assert_eq!(
        serde_json::to_value(TopicSettings::default()).expect("writes"),
        json!({})
    );
    assert!(serde_json::from_value::<TopicSettings>(json!({"type": "other"})).is_err());
}

#[test]
fn queues_say_where_their_messages_are() {
    let queue = Queue {
        queue: 0,
        group: "g1".into(),
        leader: Some("n1".into()),
        min_offset: 0,
        max_offset: 5,
        rate: Some(Rate {
            messages: 7,
            bytes: 900,
        }),
        segments: vec![QueueSegment {
            generation: 1,
            group: "g1".into(),
            start_offset: 0,
            end_offset: None,
        }],
    };
    let written = serde_json::to_value(Queues {
        topic: "T".into(),
        epoch: 3,
        queues: vec![queue],
    })
    .expect("writes");
    assert_eq!(written["queues"][0]["rate"], json!({"messages": 7, "bytes": 900}));
    let segment = json!({"generation": 1, "group": "g1", "start_offset": 0, "end_offset": null});
    assert_eq!(written["queues"][0]["segments"][0], segment);
    assert_eq!(
        (&written["epoch"], &written["queues"][0]["leader"]),
        (&json!(3), &json!("n1"))
    );
}

#[test]
fn a_raft_group_names_its_leader_or_null() {
    let written = serde_json::to_value(RaftGroup::default()).expect("writes");
    assert_eq!(written["leader"], json!(null));
    assert_eq!(
        written["commitlog"],
        json!({"min_offset": 0, "max_offset": 0, "bytes": 0})
    );
    let member = GroupMember {
        role: GroupRole::Learner,
        ..GroupMember::default()
    };
    assert_eq!(serde_json::to_value(member).expect("writes")["role"], json!("learner"));
}

#[test]
fn problems_say_what_became_of_a_write() {
    let problem = Problem::new(503, "no leader").with_outcome(Outcome::Unknown);
    let written = serde_json::to_value(&problem).expect("writes");
    assert_eq!(
        written,
        json!({"type": "about:blank", "title": "not available", "status": 503, "detail": "no leader", "outcome": "unknown"})
    );
    assert_eq!(serde_json::from_value::<Problem>(written).expect("reads"), problem);
}

#[test]
fn a_move_that_is_only_planned_has_no_number() {
    let planned = QueueMove {
        id: None,
        topic: "T".into(),
        queue: 3,
        from: "g1".into(),
        to: "g2".into(),
        state: None,
        writer_pause_ms: None,
        duration_ms: None,
        end_offset: None,
        bytes_copied: 0,
        reason: "rebalance".into(),
    };
    let mut expected = json!({
        "topic": "T", "queue": 3, "from": "g1", "to": "g2", "writer_pause_ms": null, "duration_ms": null,
        "end_offset": null, "bytes_copied": 0, "reason": "rebalance"
    });
    assert_eq!(serde_json::to_value(&planned).expect("writes"), expected);
    let started = QueueMove {
        id: Some(7),
        state: Some(MoveState::Preparing),
        ..planned
    };
    expected["id"] = json!(7);
    expected["state"] = json!("preparing");
    assert_eq!(serde_json::to_value(&started).expect("writes"), expected);
    assert_eq!(serde_json::from_value::<QueueMove>(expected).expect("reads"), started);
}
