//! Since when nodes are silent, as the leading controller sees it: what [`flotilla_controller::replacement`] decides by.
//!
//! Holds: a node counts as lost only after this controller has led, and not heard of it, for the whole time that the
//! policy names. Who begins to lead begins to count.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flotilla_controller::replacement::Sight;
use tokio::time::Instant;

/// See the module.
#[derive(Debug, Default)]
pub struct Absences {
    since: BTreeMap<String, Instant>,
}

impl Absences {
    /// What is seen now, of all `nodes` by name, with whether they answer. Without `lost_after` none is ever lost.
    pub fn look(
        &mut self,
        nodes: impl IntoIterator<Item = (String, bool)>,
        now: Instant,
        lost_after: Option<Duration>,
    ) -> Sight {
        let (living, silent): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|(_, lives)| *lives);
        let living: BTreeSet<String> = living.into_iter().map(|(name, _)| name).collect();
        let silent: BTreeSet<String> = silent.into_iter().map(|(name, _)| name).collect();
        self.since.retain(|name, _| silent.contains(name));
        let lost = silent.into_iter().filter(|name| {
            let since = *self.since.entry(name.clone()).or_insert(now);
            lost_after.is_some_and(|after| now.duration_since(since) >= after)
        });
        let lost = lost.collect();
        Sight { living, lost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_lost_after_the_time_and_not_once_it_answered() {
        let mut absences = Absences::default();
        let begun = Instant::now();
        let mut lost = |second: u64, n2: bool| {
            let nodes = [("n1".to_owned(), true), ("n2".to_owned(), n2)];
            let now = begun + Duration::from_secs(second);
            let sight = absences.look(nodes, now, Some(Duration::from_secs(10)));
            assert_eq!(sight.living.contains("n2"), n2);
            sight.lost.len()
        };
        assert_eq!(lost(0, false), 0);
        assert_eq!(lost(9, false), 0);
        assert_eq!(lost(10, false), 1);
        assert_eq!(lost(11, true), 0);
        assert_eq!(lost(12, false), 0, "counted anew");
        assert_eq!(lost(21, false), 0);
        assert_eq!(lost(22, false), 1);
    }

    #[test]
    fn without_a_policy_none_is_lost() {
        let mut absences = Absences::default();
        let begun = Instant::now();
        for hours in [0, 1_000] {
            let now = begun + Duration::from_secs(3_600 * hours);
            let sight = absences.look([("n1".to_owned(), false)], now, None);
            assert_eq!(sight, Sight::default());
        }
    }
}
