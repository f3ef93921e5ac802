//! Membership and subscriptions, through the commands that change them.

use super::*;
use crate::state::tests::Bench;
use crate::state::{Command, Reply};

/// All coordinator slots are here.
fn coordinating() -> Bench {
    let mut bench = Bench::default();
    bench.assign_slots();
    bench
}

fn subscription(topic: &str, expression: &str, version: i64) -> Subscription {
    Subscription {
        topic: topic.to_owned(),
        expression_type: "TAG".to_owned(),
        expression: expression.to_owned(),
        version,
    }
}

fn join(client: &str, node: &str, subscriptions: &[Subscription]) -> Join {
    Join {
        client_id: client.to_owned(),
        node: node.to_owned(),
        language: 0,
        version: 479,
        groups: vec![JoinGroup {
            group: "CG".to_owned(),
            shape: GroupShape {
                consume_type: 1,
                message_model: 1,
                consume_from_where: 0,
            },
            subscriptions: Some(subscriptions.to_vec()),
        }],
        now_ms: 5,
    }
}

fn joined(bench: &mut Bench, join: &Join) -> bool {
    match bench.apply(Command::Join(join.clone())) {
        Reply::Joined { changed } => changed,
        other => panic!("{other:?}"),
    }
}

fn members(bench: &Bench) -> Vec<(String, String)> {
    let group = bench.state.coordinator.consumer_group("CG");
    let members = group.into_iter().flat_map(|group| group.members.values());
    members
        .map(|member| (member.client_id.clone(), member.node.clone()))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(client, node)| ((*client).to_owned(), (*node).to_owned()))
        .collect()
}

fn leave(client: &str, node: &str, groups: &[&str]) -> Command {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    Command::Leave {
        client_id: client.to_owned(),
        node: node.to_owned(),
        groups,
    }
}

#[test]
fn the_first_heartbeat_changes_and_the_next_does_not() {
    let mut bench = coordinating();
    let mut heartbeat = join("c1", "n1", &[subscription("T", "*", 1)]);
    assert!(bench.state.coordinator.would_change(&heartbeat));
    assert!(joined(&mut bench, &heartbeat));
    assert!(bench.effects.memberships.contains("CG"));
    heartbeat.now_ms = 90_000;
    assert!(!bench.state.coordinator.would_change(&heartbeat));
    assert!(!joined(&mut bench, &heartbeat));
    assert!(bench.effects.records.is_empty());
    bench.check_records();
}

#[test]
fn a_client_on_another_node_is_the_same_member() {
    let mut bench = coordinating();
    joined(&mut bench, &join("c1", "n1", &[]));
    let moved = join("c1", "n2", &[]);
    assert!(bench.state.coordinator.would_change(&moved));
    assert!(
        joined(&mut bench, &moved),
        "its new connection has to be told to rebalance"
    );
    assert_eq!(members(&bench), pairs(&[("c1", "n2")]));
    bench.apply(leave("c1", "n1", &[]));
    assert_eq!(
        members(&bench),
        pairs(&[("c1", "n2")]),
        "the old node's late farewell removes nobody"
    );
    bench.check_records();
}

#[test]
fn a_new_version_alone_is_recorded_without_a_rebalance() {
    let mut bench = coordinating();
    joined(&mut bench, &join("c1", "n1", &[]));
    let mut upgraded = join("c1", "n1", &[]);
    upgraded.version = 500;
    assert!(bench.state.coordinator.would_change(&upgraded));
    assert!(!joined(&mut bench, &upgraded));
    assert_eq!(
        bench.state.coordinator.consumer_group("CG").unwrap().members["c1"].version,
        500
    );
    bench.check_records();
}

#[test]
fn a_greater_version_replaces_a_subscription() {
    let mut bench = coordinating();
    joined(&mut bench, &join("c1", "n1", &[subscription("T", "A", 10)]));
    let expression = |bench: &Bench| {
        bench.state.coordinator.consumer_group("CG").unwrap().subscriptions["T"]
            .expression
            .clone()
    };
    let older = join("c1", "n1", &[subscription("T", "B", 9)]);
    assert!(!bench.state.coordinator.would_change(&older));
    assert!(!joined(&mut bench, &older));
    assert_eq!(expression(&bench), "A");
    let newer = join("c1", "n1", &[subscription("T", "B", 11)]);
    assert!(bench.state.coordinator.would_change(&newer));
    assert!(!joined(&mut bench, &newer), "the same topics: no rebalance");
    assert_eq!(expression(&bench), "B");
    bench.check_records();
}

#[test]
fn added_and_removed_topics_cause_a_rebalance() {
    let mut bench = coordinating();
    joined(&mut bench, &join("c1", "n1", &[subscription("T", "*", 1)]));
    assert!(joined(
        &mut bench,
        &join("c1", "n1", &[subscription("T", "*", 1), subscription("U", "*", 1)])
    ));
    assert!(joined(&mut bench, &join("c1", "n1", &[subscription("U", "*", 1)])));
    let topics: Vec<_> = bench
        .state
        .coordinator
        .consumer_group("CG")
        .unwrap()
        .subscriptions
        .keys()
        .cloned()
        .collect();
    assert_eq!(topics, ["U"]);
    bench.check_records();
}

#[test]
fn a_heartbeat_without_subscriptions_leaves_them_alone() {
    let mut bench = coordinating();
    joined(&mut bench, &join("c1", "n1", &[subscription("T", "*", 1)]));
    let mut short = join("c1", "n1", &[]);
    short.groups[0].subscriptions = None;
    assert!(!bench.state.coordinator.would_change(&short));
    joined(&mut bench, &short);
    assert_eq!(
        bench
            .state
            .coordinator
            .consumer_group("CG")
            .unwrap()
            .subscriptions
            .len(),
        1
    );
}

#[test]
fn leaving_names_groups_or_all() {
    let mut bench = coordinating();
    joined(&mut bench, &join("c1", "n1", &[subscription("T", "*", 1)]));
    joined(&mut bench, &join("c2", "n1", &[subscription("T", "*", 1)]));
    bench.apply(leave("c1", "n1", &["CG"]));
    assert_eq!(members(&bench), pairs(&[("c2", "n1")]));
    assert!(bench.effects.memberships.contains("CG"));
    bench.apply(leave("c1", "n1", &[]));
    assert!(bench.effects.memberships.is_empty(), "it had left already");
    bench.apply(leave("c2", "n1", &[]));
    assert!(bench.state.coordinator.consumer_group("CG").is_none());
    assert_eq!(bench.state.coordinator, Coordinator::default());
    bench.check_records();
}

#[test]
fn a_full_group_refuses_new_members_and_keeps_the_old() {
    let mut bench = coordinating();
    for number in 0..MEMBERS_PER_GROUP_MAX {
        joined(&mut bench, &join(&format!("c{number}"), "n1", &[]));
    }
    let refused = Reply::Refused(Refusal::LimitReached("members of a group"));
    assert_eq!(bench.apply(Command::Join(join("one more", "n1", &[]))), refused);
    assert!(joined(&mut bench, &join("c7", "n2", &[])), "a member may move");
}
