//! Who leads the Raft groups that have no replica on this node, as far as their members have said.
//!
//! Learned from probes and from members that say who leads instead of them. A wrong entry costs one hop that is
//! answered with the right one. A newer term wins; within a term a known leader stays until a call to it fails.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_raft_store::leadership::Leadership;
use parking_lot::RwLock;
use tokio::sync::watch;

/// See the module.
#[derive(Debug, Default)]
pub struct Leaders {
    groups: RwLock<BTreeMap<u16, watch::Sender<Leadership>>>,
}

impl Leaders {
    /// What is known of a Raft group.
    pub fn of(&self, group: u16) -> Leadership {
        let groups = self.groups.read();
        groups
            .get(&group)
            .map(|known| known.borrow().clone())
            .unwrap_or_default()
    }

    /// Returns when something else than `seen` is known.
    pub async fn changed(&self, group: u16, seen: &Leadership) -> Leadership {
        let mut known = self.entry(group, watch::Sender::subscribe);
        let changed = known.wait_for(|known| known != seen).await.map(|known| known.clone());
        match changed {
            Ok(leadership) => leadership,
            // The table lives as long as the process.
            Err(_) => std::future::pending().await,
        }
    }

    /// A member said who leads.
    pub fn learn(&self, group: u16, term: u64, leader: Option<&str>) {
        self.entry(group, |known| {
            known.send_if_modified(|known| {
                let newer = term > known.term || term == known.term && known.leader.is_none();
                if !newer || known.term == term && leader.is_none() {
                    return false;
                }
                *known = Leadership {
                    term,
                    leader: leader.map(Arc::from),
                    is_leader: false,
                };
                true
            });
        });
    }

    /// A node that was taken for the leader says that `leader` leads, in a term it did not name.
    pub fn hint(&self, group: u16, leader: &str) {
        self.entry(group, |known| {
            known.send_if_modified(|known| {
                let differs = known.leader.as_deref() != Some(leader);
                known.leader = Some(Arc::from(leader));
                differs
            });
        });
    }

    /// The node taken for the leader does not answer, or does not lead.
    pub fn forget(&self, group: u16, leader: &str) {
        self.entry(group, |known| {
            known.send_if_modified(|known| {
                let was = known.leader.as_deref() == Some(leader);
                if was {
                    known.leader = None;
                }
                was
            });
        });
    }

    fn entry<T>(&self, group: u16, with: impl FnOnce(&watch::Sender<Leadership>) -> T) -> T {
        if let Some(known) = self.groups.read().get(&group) {
            return with(known);
        }
        with(self.groups.write().entry(group).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(leaders: &Leaders) -> Option<String> {
        leaders.of(1).leader.as_deref().map(str::to_owned)
    }

    #[test]
    fn a_newer_term_wins_and_a_follower_without_a_leader_changes_nothing() {
        let leaders = Leaders::default();
        leaders.learn(1, 3, Some("n1"));
        leaders.learn(1, 2, Some("n2"));
        leaders.learn(1, 3, None);
        assert_eq!(leader(&leaders).as_deref(), Some("n1"));
        leaders.learn(1, 4, None);
        assert_eq!(leader(&leaders), None, "an election is under way");
        leaders.learn(1, 4, Some("n2"));
        assert_eq!(leader(&leaders).as_deref(), Some("n2"));
    }

    #[tokio::test]
    async fn who_waits_hears_of_a_forgotten_leader() {
        let leaders = Leaders::default();
        leaders.learn(1, 1, Some("n1"));
        let seen = leaders.of(1);
        leaders.forget(1, "n2");
        assert_eq!(leaders.of(1), seen);
        leaders.forget(1, "n1");
        assert_eq!(leaders.changed(1, &seen).await.leader, None);
        leaders.hint(1, "n3");
        assert_eq!(leader(&leaders).as_deref(), Some("n3"));
    }
}
