//! Replicas that come and go, command by command. Three nodes, and three groups with a replica on each.

use crate::metadata::RaftGroup;
use crate::state::tests::{Check, register};
use crate::state::{Command, Refusal, Reply};

fn change(group: u16, add: Option<&str>, remove: Option<&str>) -> Command {
    Command::ChangeMembers {
        group,
        add: add.map(str::to_owned),
        remove: remove.map(str::to_owned),
    }
}

fn evacuate(node: &str, evacuating: bool) -> Command {
    Command::SetEvacuating {
        node: node.to_owned(),
        evacuating,
    }
}

fn remove_node(node: &str) -> Command {
    Command::RemoveNode { node: node.to_owned() }
}

fn end(group: u16, replica: u64) -> Command {
    Command::EndReplica { group, replica }
}

fn four_nodes() -> Check {
    let mut check = Check::with_groups();
    check.done(register("n4", "v"));
    assert_eq!(check.state.metadata().groups.len(), 4);
    check
}

impl Check {
    fn group(&self, number: u16) -> &RaftGroup {
        &self.state.metadata().groups[&number]
    }

    /// Nodes of a group in order; with a `-` those that leave.
    fn members(&self, number: u16) -> Vec<String> {
        let members = self.group(number).members.iter();
        let shown = members.map(|member| format!("{}{}", if member.leaving { "-" } else { "" }, member.node));
        shown.collect()
    }
}

#[test]
fn a_replica_is_replaced_in_two_steps() {
    let mut check = four_nodes();
    assert_eq!(check.members(1), ["n1", "n2", "n3"]);
    let ids: Vec<u64> = check.group(1).members.iter().map(|member| member.id).collect();
    check.done(change(1, Some("n4"), Some("n1")));
    assert_eq!(check.members(1), ["-n1", "n2", "n3", "n4"]);
    assert_ne!(check.group(1).preferred, "n1", "it does not lead for long");
    let new = check.group(1).on("n4").expect("added").id;
    assert!(new > 12, "an id never used: {new}");
    check.unchanged(change(1, None, Some("n1")));
    check.done(end(1, ids[0]));
    assert_eq!(check.members(1), ["n2", "n3", "n4"]);
    check.unchanged(end(1, ids[0]));
    // It may come back, as another replica.
    check.done(change(1, Some("n1"), None));
    assert!(check.group(1).on("n1").expect("added").id > new);
    assert_eq!(check.members(1), ["n2", "n3", "n4", "n1"]);
}

#[test]
fn what_cannot_be_is_refused() {
    let mut check = four_nodes();
    let refused = [
        (change(9, Some("n4"), None), Refusal::GroupNotExist),
        (change(1, Some("n9"), None), Refusal::NodeNotExist),
        (change(1, Some("n1"), None), Refusal::ReplicaExists),
        (change(1, None, Some("n4")), Refusal::ReplicaNotExist),
        (change(1, Some("n2"), Some("n3")), Refusal::ReplicaExists),
        (change(1, Some("n4"), Some("n4")), Refusal::ReplicaNotExist),
        (end(9, 1), Refusal::GroupNotExist),
        (end(1, check.group(1).members[0].id), Refusal::ReplicaStays),
        (evacuate("n9", true), Refusal::NodeNotExist),
        (remove_node("n9"), Refusal::NodeNotExist),
        (remove_node("n1"), Refusal::NodeInUse),
        (
            Command::PreferLeader {
                group: 1,
                node: "n4".to_owned(),
            },
            Refusal::ReplicaNotExist,
        ),
    ];
    for (command, why) in refused {
        check.refused(command, why);
    }
    check.done(change(1, None, Some("n1")));
    check.done(change(1, None, Some("n2")));
    check.refused(change(1, None, Some("n3")), Refusal::LastReplica);
    check.refused(
        Command::PreferLeader {
            group: 1,
            node: "n1".to_owned(),
        },
        Refusal::ReplicaNotExist,
    );
    assert_eq!(check.group(1).preferred, "n3");
}

#[test]
fn an_evacuated_node_gets_nothing_and_can_be_forgotten() {
    let mut check = Check::with_groups();
    check.refused(evacuate("n1", true), Refusal::TooFewNodes("g1".to_owned()));
    check.done(register("n4", "v"));
    check.done(evacuate("n1", true));
    check.unchanged(evacuate("n1", true));
    check.refused(evacuate("n2", true), Refusal::TooFewNodes("g1".to_owned()));
    check.refused(change(4, Some("n1"), None), Refusal::NodeEvacuating);
    // Saying again that it exists changes nothing, and a disk that is lost on top of it neither.
    check.unchanged(register("n1", "v"));
    check.done(register("n1", "another"));
    assert!(check.state.metadata().nodes["n1"].evacuating);
    for number in 1..=4 {
        let Some(replica) = check.group(number).on("n1").map(|member| member.id) else {
            continue;
        };
        let target = ["n2", "n3", "n4"]
            .into_iter()
            .find(|node| check.group(number).on(node).is_none());
        check.done(change(number, target, Some("n1")));
        check.done(end(number, replica));
        assert_eq!(check.members(number).len(), 3);
    }
    check.done(remove_node("n1"));
    assert!(!check.state.metadata().nodes.contains_key("n1"));
    // Another node of that name is a new one.
    check.done(register("n1", "new"));
    assert!(!check.state.metadata().nodes["n1"].evacuating);
}

#[test]
fn new_groups_are_not_made_for_nodes_that_are_evacuated() {
    let mut check = four_nodes();
    check.done(evacuate("n4", true));
    check.done(register("n5", "v"));
    assert_eq!(check.state.metadata().groups.len(), 4, "four nodes stay");
    check.done(register("n6", "v"));
    assert_eq!(check.state.metadata().groups.len(), 5);
    assert!(check.group(5).on("n4").is_none());
    let reply = check.apply(evacuate("n4", false));
    assert!(matches!(reply, Reply::Done { .. }));
    assert_eq!(check.state.metadata().groups.len(), 6, "it counts again");
}

#[test]
fn a_leaving_replica_whose_disk_is_lost_still_goes() {
    let mut check = four_nodes();
    check.done(change(1, Some("n4"), Some("n1")));
    let before = check.group(1).on("n1").expect("leaving").id;
    check.done(register("n1", "another"));
    let now = check.group(1).on("n1").expect("leaving");
    assert!(now.leaving && now.id != before);
    let now = now.id;
    check.done(end(1, now));
    assert_eq!(check.members(1), ["n2", "n3", "n4"]);
}
