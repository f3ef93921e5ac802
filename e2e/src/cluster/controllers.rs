//! The controllers of a cluster as its nodes see them.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Cluster;
use crate::process::READY;
use crate::wait;

/// A controller as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerView {
    /// Its name.
    pub name: String,
    /// Its Raft id.
    pub replica: u64,
    /// Whether it votes, and no earlier replica of it does.
    pub votes: bool,
    /// Whether it answers.
    pub alive: bool,
    /// Whether it leads.
    pub leads: bool,
    /// How new its copy of the metadata is.
    pub epoch: Option<u64>,
}

impl Cluster {
    /// The controllers as the node at this place sees them, by name.
    pub fn controllers_seen_at(&self, node: usize) -> Result<Vec<ControllerView>> {
        let document = self.http(node).get_ok("/v1/cluster")?;
        let controllers = document["controllers"].as_array().context("controllers")?;
        controllers.iter().map(view).collect()
    }

    /// Waits until every running node has confirmed its copy of the metadata with the controllers.
    pub fn await_controllers(&self) -> Result<()> {
        wait::until("controllers that all nodes reach", READY, || {
            for node in self.nodes().iter().filter(|node| node.is_running()) {
                let answer = node.http().get_ok("/v1/topics")?;
                ensure!(
                    answer["stale"].is_null(),
                    "{} has not reached a leading controller",
                    node.name
                );
            }
            Ok(Some(()))
        })
    }

    /// Waits until every running node has what it knows of the cluster on its disk. One that is killed before may come
    /// back without the last change, and learns it again from the controllers: tests that take those away as well wait.
    pub fn await_copies_on_disk(&self) -> Result<()> {
        wait::until("copies of the metadata on disk", READY, || {
            for node in self.nodes().iter().filter(|node| node.is_running()) {
                let known = node.http().get_ok("/v1/cluster")?["epoch"].as_u64().context("epoch")?;
                let copy: Value = serde_json::from_slice(&fs::read(node.data().join("metadata.json"))?)?;
                ensure!(copy["epoch"].as_u64() >= Some(known), "{} is behind {known}", node.name);
            }
            Ok(Some(()))
        })
    }

    /// The place of the controller that leads, once all running nodes name the same and it runs.
    pub fn leading_controller(&self) -> Result<usize> {
        wait::until("a controller that leads", READY, || {
            let mut leaders = Vec::new();
            for node in (0..self.len()).filter(|node| self.is_running(*node)) {
                let seen = self.controllers_seen_at(node)?.into_iter();
                leaders.push(
                    seen.filter(|controller| controller.leads && controller.alive)
                        .collect::<Vec<_>>(),
                );
            }
            let names: Vec<&str> = leaders
                .iter()
                .flatten()
                .map(|controller| controller.name.as_str())
                .collect();
            let Some(first) = names.first() else { return Ok(None) };
            let agreed = names.len() == leaders.len() && names.iter().all(|name| name == first);
            let place = self
                .controllers()
                .iter()
                .position(|controller| controller.name == *first);
            Ok(place.filter(|place| agreed && self.controllers()[*place].is_running()))
        })
    }
}

fn view(controller: &Value) -> Result<ControllerView> {
    let missing = || controller.to_string();
    Ok(ControllerView {
        name: controller["node"].as_str().with_context(missing)?.to_owned(),
        replica: controller["replica"].as_u64().with_context(missing)?,
        votes: controller["voter"].as_bool().with_context(missing)?,
        alive: controller["alive"].as_bool().with_context(missing)?,
        leads: controller["leader"].as_bool().with_context(missing)?,
        epoch: controller["epoch"].as_u64(),
    })
}
