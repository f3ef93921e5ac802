//! Six nodes with six Raft groups of three replicas; group i is on nodes i, i+1 and i+2.

use super::*;
use crate::metadata::Policy;
use crate::state::{Reply, State};

struct Cluster {
    state: State,
    log_index: u64,
    sight: Sight,
}

impl Cluster {
    fn of(nodes: usize) -> Self {
        let mut cluster = Self {
            state: State::default(),
            log_index: 0,
            sight: Sight::default(),
        };
        cluster.apply(Command::Found {
            name: "c".to_owned(),
            id: "1".to_owned(),
            policy: Policy::default(),
            controllers: BTreeMap::new(),
            feature_level: 1,
        });
        for number in 1..=nodes {
            cluster.add_node(number, "");
        }
        cluster
    }

    fn add_node(&mut self, number: usize, zone: &str) {
        self.apply(Command::RegisterNode {
            name: format!("n{number}"),
            volume: "v".to_owned(),
            zone: zone.to_owned(),
            peer: "h:1".to_owned(),
        });
        self.sight.living.insert(format!("n{number}"));
    }

    fn apply(&mut self, command: Command) {
        self.log_index += 1;
        let (reply, _) = self.state.apply(command, self.log_index);
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
    }

    fn evacuate(&mut self, number: usize) {
        let node = format!("n{number}");
        self.apply(Command::SetEvacuating { node, evacuating: true });
    }

    fn lose(&mut self, number: usize) {
        self.sight.living.remove(&format!("n{number}"));
        self.sight.lost.insert(format!("n{number}"));
    }

    fn due(&self) -> Vec<Replacement> {
        due(self.state.metadata(), &self.sight)
    }

    /// Begins what is due; returns how many that are.
    fn begin(&mut self) -> usize {
        let due = self.due();
        for replacement in &due {
            self.apply(replacement.command());
        }
        due.len()
    }

    /// Every Raft group that can does what it was told to.
    fn settle(&mut self) {
        let groups = self.state.metadata().groups.clone();
        for (number, group) in groups {
            let staying_live = group.staying().all(|member| self.sight.living.contains(&member.node));
            for member in group.members.iter().filter(|member| member.leaving && staying_live) {
                self.apply(Command::EndReplica {
                    group: number,
                    replica: member.id,
                });
            }
        }
    }

    fn on(&self, number: usize) -> usize {
        let node = format!("n{number}");
        let groups = self.state.metadata().groups.values();
        groups.filter(|group| group.on(&node).is_some()).count()
    }
}

#[test]
fn nothing_is_due_while_all_is_well() {
    let mut cluster = Cluster::of(6);
    assert_eq!(cluster.due(), []);
    // Away, yet not for long enough.
    cluster.sight.living.remove("n1");
    assert_eq!(cluster.due(), []);
}

#[test]
fn six_nodes_become_three_a_few_groups_at_a_time() {
    let mut cluster = Cluster::of(6);
    for number in [4, 5, 6] {
        cluster.evacuate(number);
    }
    let mut rounds = 0;
    loop {
        let begun = cluster.begin();
        assert!(begun <= UNDER_WAY_MAX, "{begun}");
        assert_eq!(cluster.begin(), 0, "no more before these have ended");
        if begun == 0 {
            break;
        }
        cluster.settle();
        rounds += 1;
        assert!(rounds < 30);
    }
    assert_eq!([1, 2, 3, 4, 5, 6].map(|number| cluster.on(number)), [6, 6, 6, 0, 0, 0]);
    let metadata = cluster.state.metadata();
    for group in metadata.groups.values() {
        assert_eq!(group.members.len(), 3, "{group:?}");
        assert!(group.on(&group.preferred).is_some(), "{group:?}");
    }
    let led = [1, 2, 3].map(|number| {
        let groups = metadata.groups.values();
        groups.filter(|group| group.preferred == format!("n{number}")).count()
    });
    assert_eq!(led, [2, 2, 2], "leaders are spread");
}

#[test]
fn a_lost_node_is_replaced_and_one_that_should_have_replaced_it_too() {
    let mut cluster = Cluster::of(5);
    cluster.lose(1);
    assert_eq!(cluster.begin(), 3);
    // Another one is lost before any of it ended.
    cluster.lose(2);
    let groups = &cluster.state.metadata().groups;
    let without_majority = groups
        .values()
        .filter(|group| !can_change(group, &cluster.sight))
        .count();
    for _ in 0..10 {
        cluster.begin();
        cluster.settle();
    }
    let left = cluster.on(1).max(cluster.on(2));
    assert!(left <= without_majority, "{left} {without_majority}");
    assert_eq!(cluster.due(), []);
}

#[test]
fn who_sees_half_of_all_nodes_lost_does_nothing() {
    let mut cluster = Cluster::of(4);
    cluster.lose(1);
    assert_ne!(cluster.due(), []);
    cluster.lose(2);
    assert_eq!(cluster.due(), []);
}

#[test]
fn groups_without_a_majority_hold_up_no_others() {
    let mut cluster = Cluster::of(12);
    cluster.evacuate(1);
    cluster.evacuate(5);
    assert_eq!(cluster.begin(), UNDER_WAY_MAX);
    // Those that began are stuck.
    let stuck: Vec<u16> = cluster
        .state
        .metadata()
        .groups
        .iter()
        .filter(|(_, group)| group.members.iter().any(|member| member.leaving))
        .map(|(number, _)| *number)
        .collect();
    for number in &stuck {
        for member in cluster.state.metadata().groups[number].clone().members {
            cluster.sight.living.remove(&member.node);
        }
    }
    let due = cluster.due();
    assert!(
        due.iter().all(|replacement| !stuck.contains(&replacement.group)),
        "{due:?}"
    );
}

#[test]
fn another_zone_is_preferred() {
    let mut cluster = Cluster::of(0);
    for (number, zone) in [(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "c")] {
        cluster.add_node(number, zone);
    }
    let zones = |cluster: &Cluster, group: u16| {
        let metadata = cluster.state.metadata();
        let staying = metadata.groups[&group].staying();
        let zones: BTreeSet<String> = staying
            .map(|member| metadata.nodes[&member.node].zone.clone())
            .collect();
        zones.len()
    };
    assert_eq!(zones(&cluster, 1), 3);
    cluster.evacuate(3);
    cluster.begin();
    for number in 1..=5 {
        assert_eq!(zones(&cluster, number), 3, "{number}");
    }
}
