//! Tables of placements: nodes and policy in, places out.

use super::*;
use crate::metadata::{Node, Policy, Topic};
use crate::topic::TopicConfig;

fn cluster(nodes: &[(&str, &str)], policy: Policy) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.cluster.policy = policy;
    for (name, zone) in nodes {
        add_node(&mut metadata, name, zone);
    }
    metadata
}

fn add_node(metadata: &mut Metadata, name: &str, zone: &str) {
    let node = Node {
        volume: format!("volume of {name}"),
        zone: (*zone).to_owned(),
        peer: format!("{name}:10912"),
        evacuating: false,
    };
    metadata.nodes.insert(name.to_owned(), node);
}

fn fill(metadata: &mut Metadata, counters: &mut Counters) {
    let made = missing_groups(metadata, counters, 7);
    metadata.groups.extend(made);
}

fn places(metadata: &Metadata) -> Vec<String> {
    let line = |group: &RaftGroup| {
        let nodes: Vec<&str> = group.members.iter().map(|member| member.node.as_str()).collect();
        format!("{} {}", group.name, nodes.join(" "))
    };
    metadata.groups.values().map(line).collect()
}

/// Least and most replicas, then least and most preferred groups, of any node.
fn spread(metadata: &Metadata) -> [usize; 4] {
    let loads = Loads::of(metadata, |_| true).0;
    let replicas = || loads.iter().map(|load| load.replicas);
    let preferred = || loads.iter().map(|load| load.preferred);
    [
        replicas().min().unwrap(),
        replicas().max().unwrap(),
        preferred().min().unwrap(),
        preferred().max().unwrap(),
    ]
}

#[test]
fn three_nodes_lead_three_groups() {
    let mut metadata = cluster(&[("n1", ""), ("n2", ""), ("n3", "")], Policy::default());
    let mut counters = Counters::default();
    fill(&mut metadata, &mut counters);
    assert_eq!(places(&metadata), ["g1 n1 n2 n3", "g2 n2 n3 n1", "g3 n3 n1 n2"]);
    let ids: Vec<u64> = metadata
        .groups
        .values()
        .flat_map(|group| group.members.iter().map(|member| member.id))
        .collect();
    assert_eq!(ids, (1..=9).collect::<Vec<_>>());
    for group in metadata.groups.values() {
        assert_eq!(group.creation, 7);
        assert_eq!(group.preferred, group.members[0].node);
        assert_eq!(group.founder, group.members[0].id);
    }
    fill(&mut metadata, &mut counters);
    assert_eq!(metadata.groups.len(), 3, "nothing is missing now");
}

#[test]
fn groups_wait_for_enough_nodes_and_follow_later_ones() {
    let mut metadata = cluster(&[("n1", ""), ("n2", "")], Policy::default());
    let mut counters = Counters::default();
    fill(&mut metadata, &mut counters);
    assert!(metadata.groups.is_empty());
    add_node(&mut metadata, "n3", "");
    fill(&mut metadata, &mut counters);
    assert_eq!(metadata.groups.len(), 3);
    add_node(&mut metadata, "n4", "");
    fill(&mut metadata, &mut counters);
    assert_eq!(places(&metadata)[3..], ["g4 n4 n1 n2"]);
}

#[test]
fn the_policy_says_how_many() {
    // Nodes, replicas, groups per node, groups; groups made.
    let table = [
        (1, 1, 1, 0, 1),
        (1, 1, 2, 0, 2),
        (1, 3, 1, 0, 0),
        (3, 3, 2, 0, 6),
        (3, 3, 2, 4, 4),
        (5, 3, 1, 1, 1),
        (5, 3, 0, 0, 0),
        (1, 1, 1, 9_999, 4_095),
        (1, 1, usize::MAX, 0, 4_095),
    ];
    for (nodes, replicas, groups_per_node, groups, made) in table {
        let names: Vec<String> = (1..=nodes).map(|number| format!("n{number}")).collect();
        let nodes: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        let policy = Policy {
            replicas,
            groups_per_node,
            groups,
            ..Policy::default()
        };
        let mut metadata = cluster(&nodes, policy.clone());
        fill(&mut metadata, &mut Counters::default());
        assert_eq!(metadata.groups.len(), made, "{} nodes, {policy:?}", nodes.len());
        assert!(metadata.groups.values().all(|group| group.members.len() == replicas));
    }
}

#[test]
fn many_fresh_nodes_carry_alike() {
    for count in 3..40 {
        for groups_per_node in 1..4 {
            let names: Vec<String> = (1..=count).map(|number| format!("n{number}")).collect();
            let nodes: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
            let policy = Policy {
                groups_per_node,
                ..Policy::default()
            };
            let mut metadata = cluster(&nodes, policy);
            fill(&mut metadata, &mut Counters::default());
            let [least, most, least_led, most_led] = spread(&metadata);
            assert_eq!([least_led, most_led], [groups_per_node; 2], "{count} nodes");
            assert!(most - least <= 1, "{count} nodes carry {least} to {most} replicas");
            for group in metadata.groups.values() {
                let nodes: BTreeSet<&str> = group.members.iter().map(|member| member.node.as_str()).collect();
                assert_eq!(nodes.len(), 3, "{group:?}");
            }
        }
    }
}

#[test]
fn replicas_go_to_different_zones_first() {
    let nodes = [
        ("n1", "a"),
        ("n2", "a"),
        ("n3", "b"),
        ("n4", "b"),
        ("n5", "c"),
        ("n6", "c"),
    ];
    let mut metadata = cluster(&nodes, Policy::default());
    fill(&mut metadata, &mut Counters::default());
    for group in metadata.groups.values() {
        let zones: BTreeSet<&str> = group
            .members
            .iter()
            .map(|member| metadata.nodes[&member.node].zone.as_str())
            .collect();
        assert_eq!(zones.len(), 3, "{group:?}");
    }
    let [least, most, ..] = spread(&metadata);
    assert!(most - least <= 1, "{least} to {most}");
    // Two zones for three replicas: both are used, and no node twice.
    let mut metadata = cluster(&[("n1", "a"), ("n2", "a"), ("n3", "b")], Policy::default());
    fill(&mut metadata, &mut Counters::default());
    assert_eq!(places(&metadata), ["g1 n1 n2 n3", "g2 n2 n3 n1", "g3 n3 n1 n2"]);
}

fn segments(groups: &[u16]) -> Vec<Vec<Segment>> {
    let open = |&group: &u16| Segment {
        generation: 1,
        group,
        start: 0,
        end: None,
    };
    groups.iter().map(|group| vec![open(group)]).collect()
}

fn counts(groups: &[u16]) -> QueueCounts {
    QueueCounts::of(&[Topic {
        id: 1,
        epoch: 1,
        created_ms: 0,
        config: TopicConfig::new("others", groups.len() as u32),
        pinned: Vec::new(),
        queues: segments(groups),
    }])
}

#[test]
fn queues_are_spread_over_groups() {
    let mut metadata = cluster(&[("n1", ""), ("n2", ""), ("n3", "")], Policy::default());
    assert!(place_queues(&metadata, &QueueCounts::default(), &[], 4, &[]).is_empty());
    fill(&mut metadata, &mut Counters::default());
    // Open queues of other topics, those of this topic, count, pins; places.
    type Row = (&'static [u16], &'static [u16], usize, &'static [u16], &'static [u16]);
    let table: [Row; 9] = [
        (&[], &[], 0, &[], &[]),
        (&[], &[], 4, &[], &[1, 2, 3, 1]),
        (&[1], &[], 1, &[], &[2]),
        (&[1, 2], &[], 4, &[], &[3, 1, 2, 3]),
        (&[1, 1, 2, 3, 3], &[], 3, &[], &[2, 1, 3]),
        (&[], &[1, 2], 3, &[], &[3, 1, 2]),
        (&[2, 2, 2], &[1, 1], 3, &[], &[3, 2, 3]),
        (&[3], &[], 3, &[3, 2, 3], &[2, 3, 2]),
        (&[], &[1, 1, 1], 2, &[1], &[1, 1]),
    ];
    for (others, own, count, pinned, expected) in table {
        let all: Vec<u16> = others.iter().chain(own).copied().collect();
        let placed = place_queues(&metadata, &counts(&all), &segments(own), count, pinned);
        assert_eq!(placed, expected, "others {others:?}, own {own:?}, pinned {pinned:?}");
    }
    let mut place = |draining: &[u16], pinned: &[u16]| {
        for (number, group) in &mut metadata.groups {
            group.draining = draining.contains(number);
        }
        place_queues(&metadata, &counts(&[]), &[], 3, pinned)
    };
    assert_eq!(place(&[1], &[1, 3]), [3, 3, 3], "pinned, and not draining");
    assert_eq!(place(&[1], &[1]), [1, 1, 1], "pins hold though the group drains");
    assert_eq!(place(&[1, 2, 3], &[]), [1, 2, 3]);
}

#[test]
fn topics_of_one_queue_spread() {
    let mut metadata = cluster(&[("n1", ""), ("n2", ""), ("n3", "")], Policy::default());
    fill(&mut metadata, &mut Counters::default());
    let mut placed = Vec::new();
    for _ in 0..30 {
        placed.extend(place_queues(&metadata, &counts(&placed), &[], 1, &[]));
    }
    for group in 1..=3 {
        assert_eq!(placed.iter().filter(|&&place| place == group).count(), 10);
    }
}
