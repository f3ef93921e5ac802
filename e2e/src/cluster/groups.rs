//! The Raft groups of a cluster: which there are, who leads them, whether their replicas are alike.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Cluster;
use crate::http::Http;
use crate::process::READY;
use crate::wait;

impl Cluster {
    /// Names of all Raft groups.
    pub fn groups(&self) -> Result<Vec<String>> {
        let named = self.any_http()?.leaders()?;
        Ok(named.into_keys().collect())
    }

    /// Waits until every Raft group that belongs to so many nodes exists and has a leader that all running nodes name;
    /// returns the leaders' places by the names of the groups.
    pub fn leaders(&self) -> Result<BTreeMap<String, usize>> {
        let groups = self.shape.groups(self.len());
        wait::until(
            &format!("{groups} Raft groups with leaders that all nodes name"),
            READY,
            || {
                let mut views = Vec::new();
                for node in self.nodes().iter().filter(|node| node.is_running()) {
                    views.push(node.http().leaders()?);
                }
                views.dedup();
                let [view] = views.as_slice() else {
                    return Ok(None);
                };
                ensure!(view.len() == groups, "there are {view:?}");
                let places = view.iter().map(|(group, leader)| {
                    let place = leader.as_ref().and_then(|leader| self.place(leader));
                    Some((group.clone(), place?))
                });
                Ok(places.collect())
            },
        )
    }

    /// Which node leads the group, once all running nodes agree.
    pub fn leader(&self, group: &str) -> Result<usize> {
        wait::until(&format!("one leader of {group} that all nodes name"), READY, || {
            let mut leaders = Vec::new();
            for node in self.nodes().iter().filter(|node| node.is_running()) {
                leaders.push(node.http().leader(group)?);
            }
            leaders.dedup();
            let [Some(leader)] = leaders.as_slice() else {
                return Ok(None);
            };
            Ok(self.place(leader))
        })
    }

    /// The Raft group that owns a queue.
    pub fn owner(&self, topic: &str, queue: usize) -> Result<String> {
        let owners = self.any_http()?.owners(topic)?;
        owners
            .get(queue)
            .cloned()
            .with_context(|| format!("{topic} has no queue {queue}"))
    }

    /// Which node leads the Raft group that owns a queue.
    pub fn queue_leader(&self, topic: &str, queue: usize) -> Result<usize> {
        self.leader(&self.owner(topic, queue)?)
    }

    /// Waits until, in every Raft group, all replicas computed the same digest at the same place of the log. Digests
    /// that differ are no matter of time.
    pub fn await_alike(&self, limit: Duration) -> Result<()> {
        for group in self.groups()? {
            let digests = wait::until(&format!("a digest of every replica of {group}"), limit, || {
                let digests = self.any_http()?.digests(&group)?;
                let complete = digests.len() == self.shape.replicas;
                Ok((complete && digests.iter().all(|digest| digest.index == digests[0].index)).then_some(digests))
            })?;
            ensure!(
                digests.iter().all(|digest| digest.value == digests[0].value),
                "replicas of {group} differ: {digests:?}"
            );
        }
        Ok(())
    }

    /// The admin API of the first node that runs.
    fn any_http(&self) -> Result<Http> {
        let mut running = self.nodes().iter().filter(|node| node.is_running());
        Ok(running.next().context("no node runs")?.http())
    }
}
