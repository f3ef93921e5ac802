//! A whole cluster in one process: a controller and nodes `n1 … nR` on loopback, for trying Flotilla and for tests.
//!
//! Each node has its own ports and its own folder `DIR/nodes/{node}`; node 1 has the usual ports. `DIR/ports.json`
//! is written once all accept and every Raft group has a leader. The processes talk over real sockets and store on the
//! real disk: nothing is simulated.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use flotilla_controller::metadata;
use futures_util::future::{select_all, try_join_all};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::config::controller::ControllerPorts;
use crate::config::{ControllerSettings, Policy, Ports, Settings};
use crate::controller_process::{self, ControllerListeners, ControllerProcess};
use crate::node::{BoundPorts, Listeners, Node};
use crate::volume::write_durably;

/// Replica counts that make sense: an even number tolerates no more failures than the odd one below it.
pub const REPLICAS: [usize; 3] = [1, 3, 5];
/// Most Raft groups of a standalone cluster.
pub const GROUPS_MAX: usize = 64;
/// How long all Raft groups may take to have leaders.
const LEADERS_MAX: Duration = Duration::from_secs(60);
const LEADERS_POLL: Duration = Duration::from_millis(5);

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Holds everything the cluster stores.
    pub data: PathBuf,
    /// Raft groups.
    pub groups: usize,
    /// Nodes; each Raft group has a replica on every one.
    pub replicas: usize,
    /// Node 1's ports; the others' are chosen by the system.
    pub ports: Ports,
    /// The controller's port.
    pub controller_port: u16,
    /// Where all processes listen.
    pub listen: String,
    /// What clients are shown; empty for the listen address.
    pub advertise: String,
    /// Limits and automatic behaviour of the nodes.
    pub policy: Policy,
}

/// The policy of a standalone cluster's nodes: a stop does not wait for clients to look elsewhere, because there is no
/// elsewhere.
pub fn policy() -> Policy {
    Policy {
        leave_seconds: 0,
        ..Policy::default()
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Standalone {
    controller: ControllerProcess,
    nodes: Vec<Node>,
}

impl Standalone {
    /// Starts everything; returns once all nodes take clients, all Raft groups have leaders and `ports.json` is
    /// written. Topics appear when they are first sent to.
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        let settings = ControllerSettings {
            data: options.data.clone(),
            listen: options.listen.clone(),
            ports: ControllerPorts {
                controller: options.controller_port,
                ..ControllerPorts::default()
            },
            ..ControllerSettings::default()
        };
        let policy = metadata::Policy {
            replicas: options.replicas,
            groups: options.groups,
            auto_create_topics: true,
            ..metadata::Policy::default()
        };
        let listeners = ControllerListeners::bind(&settings, false)?;
        let controllers = vec![format!(
            "{}:{}",
            local_host(&options.listen),
            listeners.controller_port()?
        )];
        let controller = ControllerProcess::start(controller_process::Options { settings, policy }, listeners);
        let nodes = try_join_all(start_nodes(options, &controllers)?);
        let (controller, nodes) = futures_util::try_join!(controller, nodes)?;
        let cluster = Self { controller, nodes };
        if timeout(LEADERS_MAX, cluster.led(options.groups)).await.is_err() {
            bail!("not all of {} Raft groups have a leader", options.groups);
        }
        write_ports(&options.data, &cluster)?;
        Ok(cluster)
    }

    /// Returns once that many Raft groups have leaders as every node sees it.
    async fn led(&self, groups: usize) {
        let led = |node: &Node| {
            let broker = node.broker();
            let known = broker.groups();
            known.len() >= groups
                && known
                    .iter()
                    .all(|(number, _)| broker.leadership(*number).leader.is_some())
        };
        while !self.nodes.iter().all(led) {
            sleep(LEADERS_POLL).await;
        }
    }

    /// The nodes, `n1` first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns when the process must end, with the reason.
    pub async fn must_end(&self) -> String {
        let nodes = select_all(self.nodes.iter().map(|node| Box::pin(node.must_end())));
        tokio::select! {
            reason = self.controller.must_end() => reason,
            (reason, ..) = nodes => reason,
        }
    }

    /// Stops all nodes, one after another so that leadership is handed over while there is somebody to take it.
    pub async fn stop(self) {
        for node in self.nodes {
            node.stop(std::future::ready(())).await;
        }
        self.controller.stop().await;
    }
}

/// Binds every node's listeners and returns what starts them.
fn start_nodes(
    options: &Options,
    controllers: &[String],
) -> anyhow::Result<Vec<impl Future<Output = anyhow::Result<Node>> + use<>>> {
    let mut starting = Vec::new();
    for number in 1..=options.replicas {
        let node = format!("n{number}");
        let settings = Settings {
            data: options.data.join("nodes").join(&node),
            node: node.clone(),
            listen: options.listen.clone(),
            advertise: options.advertise.clone(),
            controllers: controllers.to_vec(),
            ports: if number == 1 {
                options.ports
            } else {
                Ports::chosen_by_system()
            },
            policy: options.policy,
            ..Settings::default()
        };
        let listeners = Listeners::bind(&settings)?;
        starting.push(async move {
            Node::start(settings, listeners)
                .await
                .with_context(|| format!("start node {node}"))
        });
    }
    Ok(starting)
}

/// Processes of one machine find each other on loopback when they listen everywhere.
fn local_host(listen: &str) -> &str {
    match listen {
        "0.0.0.0" => "127.0.0.1",
        "::" => "[::1]",
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

fn write_ports(folder: &Path, cluster: &Standalone) -> anyhow::Result<()> {
    let controller = cluster.controller.ports().controller;
    let nodes: BTreeMap<String, BoundPorts> = cluster
        .nodes
        .iter()
        .map(|node| (node.broker().node.clone(), node.ports()))
        .collect();
    let first = *nodes.values().next().context("a cluster has nodes")?;
    let first = BoundPorts { controller, ..first };
    write_ports_file(folder, &PortsFile { first, nodes }).context("write ports.json")
}

/// Writes the `ports.json` of one process.
pub fn write_ports_of(folder: &Path, node: &str, ports: BoundPorts) -> io::Result<()> {
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
