//! A whole cluster in one process: nodes `n1 … nR` on loopback, for trying Flotilla and for tests.
//!
//! Each node has its own ports and its own folder `DIR/nodes/{node}`; node 1 has the usual ports. `DIR/ports.json`
//! is written once all accept. The nodes talk over real sockets and store on the real disk: nothing is simulated.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use futures_util::future::try_join_all;
use serde::Serialize;

use crate::config::{Cluster, Member, Policy, Ports, Settings};
use crate::node::{BoundPorts, Listeners, Node};
use crate::volume::{self, write_durably};

/// Replica counts that make sense: an even number tolerates no more failures than the odd one below it.
pub const REPLICAS: [usize; 3] = [1, 3, 5];

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Holds everything the cluster stores.
    pub data: PathBuf,
    /// Nodes.
    pub replicas: usize,
    /// Node 1's ports; the others' are chosen by the system.
    pub ports: Ports,
    /// Where all nodes listen.
    pub listen: String,
    /// What clients are shown; empty for the listen address.
    pub advertise: String,
    /// Limits and automatic behaviour.
    pub policy: Policy,
}

/// The policy of a standalone cluster: topics appear when they are first sent to, and a stop does not wait for
/// clients to look elsewhere, because there is no elsewhere.
pub fn policy() -> Policy {
    Policy {
        auto_create_topics: true,
        leave_seconds: 0,
        ..Policy::default()
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Standalone {
    nodes: Vec<Node>,
    _lock: File,
}

impl Standalone {
    /// Starts all nodes; returns once all take clients and `ports.json` is written.
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&options.data).with_context(|| format!("create {}", options.data.display()))?;
        let lock = volume::lock(&options.data)?;
        let starting = prepare(options)?;
        let nodes = try_join_all(starting).await?;
        write_ports(&options.data, &nodes)?;
        Ok(Self { nodes, _lock: lock })
    }

    /// The nodes, `n1` first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns when a replica closed itself, with its node and the reason.
    pub async fn closed(&self) -> (String, String) {
        let closed = self
            .nodes
            .iter()
            .map(|node| Box::pin(async move { (node.broker().node.clone(), node.closed().await) }));
        futures_util::future::select_all(closed).await.0
    }

    /// Stops all nodes, one after another so that leadership is handed over while there is somebody to take it.
    pub async fn stop(self) {
        for node in self.nodes {
            node.stop(std::future::ready(())).await;
        }
    }
}

/// Binds every node's listeners, so that each can be told where all others are, and returns what starts them.
fn prepare(options: &Options) -> anyhow::Result<Vec<impl Future<Output = anyhow::Result<Node>> + use<>>> {
    let mut bound = Vec::new();
    for number in 1..=options.replicas {
        let node = format!("n{number}");
        let settings = Settings {
            data: options.data.join("nodes").join(&node),
            node,
            listen: options.listen.clone(),
            advertise: options.advertise.clone(),
            ports: if number == 1 {
                options.ports
            } else {
                Ports::chosen_by_system()
            },
            policy: options.policy,
            ..Settings::default()
        };
        let listeners = Listeners::bind(&settings)?;
        bound.push((settings, listeners));
    }
    let mut members = Vec::new();
    for (settings, listeners) in &bound {
        let address = format!("{}:{}", peer_host(&settings.listen), listeners.ports()?.peer);
        members.push(Member {
            name: settings.node.clone(),
            address,
        });
    }
    let listed = members
        .iter()
        .map(|member| format!("{}={}", member.name, member.address))
        .collect();
    let cluster = Cluster {
        members: listed,
        ..Cluster::default()
    };
    let starting = bound.into_iter().map(|(settings, listeners)| {
        let settings = Settings {
            cluster: cluster.clone(),
            ..settings
        };
        let members = members.clone();
        async move {
            let node = settings.node.clone();
            Node::start(settings, members, listeners)
                .await
                .with_context(|| format!("start node {node}"))
        }
    });
    Ok(starting.collect())
}

/// Nodes of one process find each other on loopback when they listen everywhere.
fn peer_host(listen: &str) -> &str {
    match listen {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        other => other,
    }
}

#[derive(Serialize)]
struct PortsFile {
    #[serde(flatten)]
    first: BoundPorts,
    /// Every node's ports, by name.
    nodes: BTreeMap<String, BoundPorts>,
}

fn write_ports(folder: &Path, nodes: &[Node]) -> anyhow::Result<()> {
    let nodes: BTreeMap<String, BoundPorts> = nodes
        .iter()
        .map(|node| (node.broker().node.clone(), node.ports()))
        .collect();
    let first = *nodes.values().next().context("a cluster has nodes")?;
    write_ports_file(folder, &PortsFile { first, nodes }).context("write ports.json")
}

/// Writes one node's `ports.json`.
pub fn write_node_ports(folder: &Path, node: &str, ports: BoundPorts) -> io::Result<()> {
    write_ports_file(
        folder,
        &PortsFile {
            first: ports,
            nodes: BTreeMap::from([(node.to_owned(), ports)]),
        },
    )
}

fn write_ports_file(folder: &Path, ports: &PortsFile) -> io::Result<()> {
    write_durably(&folder.join("ports.json"), &serde_json::to_vec_pretty(ports)?)
}
