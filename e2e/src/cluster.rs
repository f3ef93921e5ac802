//! Real processes on free ports of this machine, or in a network of their own: controllers and nodes that form one cluster.
//!
//! A [`Cluster`] owns a temporary folder (configuration, data, logs) and the processes it starts; it ends no other. When it
//! is dropped the processes are killed and the folder removed, unless the test is failing: then the folder stays and the end
//! of every log is printed.

mod configuration;
mod controllers;
mod groups;
mod shape;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

pub use controllers::ControllerView;
pub use shape::Shape;

use crate::client::{CALL, Client};
use crate::host::Host;
use crate::http::Http;
use crate::network::Network;
use crate::ports::{self, ControllerPorts, Ports};
use crate::process::{Controller, Node, Process, READY};
use crate::progress;
use crate::wait;
use configuration::{broker_toml, controller_toml};

/// What the clusters started here are called, but for standalone ones.
pub const CLUSTER_NAME: &str = "e2e";
/// How long a process that came to its end may take to be gone.
const DEAD: Duration = Duration::from_secs(20);
/// The Raft groups of a standalone cluster that is not told how many.
const STANDALONE_GROUPS: usize = 2;

/// Some nodes, and the controllers that make one cluster of them.
pub struct Cluster {
    folder: Option<TempDir>,
    shape: Shape,
    controllers: Vec<Controller>,
    nodes: Vec<Node>,
    // The last: its machines go after the processes on them.
    network: Option<Network>,
}

impl Cluster {
    /// So many `flotilla broker` processes and the controllers for them, in the usual [`Shape`]; returns once all
    /// serve clients and every Raft group has a leader that all nodes name.
    pub fn start(nodes: usize) -> Result<Self> {
        Self::of(Shape::of(nodes))
    }

    fn of(shape: Shape) -> Result<Self> {
        let mut cluster = Self {
            folder: Some(tempfile::Builder::new().prefix("flotilla-e2e-").tempdir()?),
            shape,
            controllers: Vec::new(),
            nodes: Vec::new(),
            network: shape.networked.then(Network::new).transpose()?,
        };
        cluster.configure_controllers()?;
        for _ in 0..shape.nodes {
            cluster.configure_node()?;
        }
        for controller in &mut cluster.controllers {
            controller.launch()?;
        }
        for node in &mut cluster.nodes {
            node.launch()?;
        }
        cluster.await_whole()?;
        Ok(cluster)
    }

    /// `flotilla standalone`: a whole cluster in one process, on ports that the system chose.
    pub fn standalone() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("flotilla-e2e-").tempdir()?;
        let data = folder.path().join("standalone");
        let arguments = ["standalone", "--ports", "0", "--data"].map(str::to_owned).into_iter();
        let arguments = arguments.chain([data.display().to_string()]).collect();
        let unknown = Ports {
            remoting: 0,
            http: 0,
            peer: 0,
            name_server: 0,
            grpc: 0,
        };
        let mut node = Process::new("n1", Host::loopback(), unknown, arguments, data);
        node.launch()?;
        node.ports = wait::until("ports.json", READY, || {
            let ended = node.ended()?;
            ensure!(ended.is_none(), "standalone ended: {ended:?}");
            let file = node.data().join("ports.json");
            if file.exists() {
                read_ports(&file).map(Some)
            } else {
                Ok(None)
            }
        })?;
        let mut cluster = Self {
            folder: Some(folder),
            shape: Shape::of(1).groups_per_node(STANDALONE_GROUPS),
            controllers: Vec::new(),
            nodes: vec![node],
            network: None,
        };
        cluster.await_whole()?;
        Ok(cluster)
    }

    fn configure_controllers(&mut self) -> Result<()> {
        let mut places: Vec<(String, Host, ControllerPorts)> = Vec::new();
        for number in 1..=self.shape.controllers {
            let name = format!("c{number}");
            let host = self.host(&name)?;
            places.push((name, host, ports::free_of_controller()?));
        }
        let peers = places.iter();
        let peers: Vec<String> = peers
            .map(|(name, host, ports)| format!("{name}={}:{}", host.address, ports.controller))
            .collect();
        for (name, host, ports) in places {
            let data = self.folder().join(&name);
            let config = controller_toml(&name, &data, host.address, ports, &peers, &self.shape);
            let arguments = self.arguments("controller", &name, &config)?;
            self.controllers.push(Process::new(&name, host, ports, arguments, data));
        }
        Ok(())
    }

    fn configure_node(&mut self) -> Result<()> {
        let name = format!("n{}", self.nodes.len() + 1);
        let (data, ports) = (self.folder().join(&name), ports::free()?);
        let host = self.host(&name)?;
        let arguments = self.configure_ports(&name, &host, ports)?;
        self.nodes.push(Process::new(&name, host, ports, arguments, data));
        Ok(())
    }

    /// Writes a node's configuration; returns what its process is started with.
    fn configure_ports(&self, name: &str, host: &Host, ports: Ports) -> Result<Vec<String>> {
        let data = self.folder().join(name);
        let controllers = self.controllers.iter();
        let controllers: Vec<String> = controllers
            .map(|controller| format!("{}:{}", controller.host.address, controller.ports.controller))
            .collect();
        let config = broker_toml(name, &data, host.address, ports, &controllers);
        self.arguments("broker", name, &config)
    }

    /// Gives a node that is down other ports, as a machine that comes back with another address.
    pub fn readdress(&mut self, number: usize) -> Result<()> {
        let node = &self.nodes[number];
        ensure!(!node.is_running(), "{} runs", node.name);
        let ports = ports::free()?;
        self.configure_ports(&node.name, &node.host, ports)?;
        self.nodes[number].ports = ports;
        Ok(())
    }

    /// The machine that a process gets.
    fn host(&mut self, name: &str) -> Result<Host> {
        match &mut self.network {
            Some(network) => network.add(name),
            None => Ok(Host::loopback()),
        }
    }

    fn arguments(&self, command: &str, name: &str, config: &str) -> Result<Vec<String>> {
        let file = self.folder().join(format!("{name}.toml"));
        fs::write(&file, config)?;
        Ok(vec![
            command.to_owned(),
            "--config".to_owned(),
            file.display().to_string(),
        ])
    }

    /// Starts one more node; returns its place once it serves clients. The Raft groups that it brings may not have
    /// leaders yet, see [`Cluster::leaders`].
    pub fn add_node(&mut self) -> Result<usize> {
        self.configure_node()?;
        let place = self.nodes.len() - 1;
        self.nodes[place].launch()?;
        self.nodes[place].await_ready()?;
        Ok(place)
    }

    /// The nodes, `n1` first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The controllers, `c1` first; none in a standalone cluster, whose only process has one inside.
    pub fn controllers(&self) -> &[Controller] {
        &self.controllers
    }

    /// The controllers, to do something to them.
    pub fn controllers_mut(&mut self) -> &mut [Controller] {
        &mut self.controllers
    }

    /// How many nodes there are, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Where the node of this name is among the nodes.
    pub fn place(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// What official clients are given: the name-server address of every node.
    pub fn name_servers(&self) -> String {
        let addresses: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("{}:{}", node.host.address, node.ports.name_server))
            .collect();
        addresses.join(";")
    }

    /// The admin API of one node.
    pub fn http(&self, number: usize) -> Http {
        self.nodes[number].http()
    }

    /// A remoting connection to one node.
    pub fn client(&self, number: usize) -> Result<Client> {
        Client::connect_to(self.remoting(number), CALL)
    }

    /// The remoting address of one node.
    pub fn remoting(&self, number: usize) -> SocketAddr {
        let node = &self.nodes[number];
        SocketAddr::from((node.host.address, node.ports.remoting))
    }

    /// The network of a cluster whose [`Shape`] says that it has one.
    pub fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("this cluster has no network of its own")
    }

    /// Where files of a test can go; they stay when it fails.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().map_or_else(|| Path::new("."), TempDir::path)
    }

    /// Whether a node's process was started and not ended by us.
    pub fn is_running(&self, number: usize) -> bool {
        self.nodes[number].is_running()
    }

    /// Has the first process that comes to this point die there; see the product's `fail_point.rs`.
    pub fn arm(&self, point: &str) -> Result<()> {
        self.put_fail_point(point, "")
    }

    /// Has the first process that comes to this point stand still there for a tenth of a second.
    pub fn arm_pause(&self, point: &str) -> Result<()> {
        self.put_fail_point(point, "pause")
    }

    fn put_fail_point(&self, point: &str, what: &str) -> Result<()> {
        let folder = self.nodes[0].fail_points();
        std::fs::create_dir_all(&folder)?;
        // Found whole or not at all.
        let unseen = folder.join("next.tmp");
        std::fs::write(&unseen, what)?;
        std::fs::rename(unseen, folder.join(point))?;
        Ok(())
    }

    /// Whether no process has come to this point since.
    pub fn is_armed(&self, point: &str) -> bool {
        self.nodes[0].fail_points().join(point).exists()
    }

    /// Takes notice of the processes that died by themselves; returns their names.
    pub fn bury(&mut self) -> Result<Vec<String>> {
        let mut dead = Vec::new();
        for node in &mut self.nodes {
            dead.extend(node.bury()?);
        }
        for controller in &mut self.controllers {
            dead.extend(controller.bury()?);
        }
        Ok(dead)
    }

    /// Waits until some process died at the point that was armed; returns the names of the dead.
    pub fn await_death(&mut self, point: &str, limit: Duration) -> Result<Vec<String>> {
        wait::until(&format!("some process dies at {point}"), limit, || {
            Ok((!self.is_armed(point)).then_some(()))
        })?;
        wait::until("a dead process", DEAD, || {
            let dead = self.bury()?;
            Ok((!dead.is_empty()).then_some(dead))
        })
    }

    /// Starts every process that is down, on its data and its ports; returns once all are ready.
    pub fn launch_all(&mut self) -> Result<()> {
        for node in self.nodes.iter_mut().filter(|node| !node.is_running()) {
            node.launch()?;
        }
        let controllers = self.controllers.iter_mut();
        for controller in controllers.filter(|controller| !controller.is_running()) {
            controller.launch()?;
        }
        self.await_ready()
    }

    /// `kill -9` of a node.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.nodes[number].kill()
    }

    /// `kill -9` of every running node, with nothing in between. The controllers go on.
    pub fn kill_all(&mut self) -> Result<()> {
        end_together(self.nodes.iter_mut().filter_map(Process::give_up))
    }

    /// `kill -9` of every running controller, with nothing in between. The nodes go on.
    pub fn kill_controllers(&mut self) -> Result<()> {
        end_together(self.controllers.iter_mut().filter_map(Process::give_up))
    }

    /// `kill -9` of everything that runs, with nothing in between.
    pub fn kill_everything(&mut self) -> Result<()> {
        let controllers = self.controllers.iter_mut().filter_map(Process::give_up);
        end_together(controllers.chain(self.nodes.iter_mut().filter_map(Process::give_up)))
    }

    /// A planned stop of a node; fails when the process does not say that it stopped well.
    pub fn terminate(&mut self, number: usize) -> Result<()> {
        self.nodes[number].terminate()
    }

    /// Stops a node from running, until [`Cluster::resume`].
    pub fn pause(&self, number: usize) -> Result<()> {
        self.nodes[number].pause()
    }

    /// Lets a paused node run on.
    pub fn resume(&self, number: usize) -> Result<()> {
        self.nodes[number].resume()
    }

    /// Throws away everything that a node stored; it must be down.
    pub fn wipe(&self, number: usize) -> Result<()> {
        self.nodes[number].wipe()
    }

    /// Starts a node that is down, on its data and its ports.
    pub fn launch(&mut self, number: usize) -> Result<()> {
        self.nodes[number].launch()
    }

    /// Waits until every process that runs is ready: nodes serve clients, controllers take part.
    pub fn await_ready(&mut self) -> Result<()> {
        for controller in &mut self.controllers {
            controller.await_ready()?;
        }
        for node in &mut self.nodes {
            node.await_ready()?;
        }
        Ok(())
    }

    /// Waits until a node that runs is ready.
    pub fn await_node(&mut self, number: usize) -> Result<()> {
        self.nodes[number].await_ready()
    }

    /// Waits until every process that runs is ready, every Raft group has a leader that all running nodes name, and, with
    /// a majority of the controllers running, all nodes have reached the one that leads.
    pub fn await_whole(&mut self) -> Result<()> {
        self.await_ready()?;
        self.leaders()?;
        let running = self.controllers.iter().filter(|controller| controller.is_running());
        if 2 * running.count() > self.controllers.len() {
            self.await_controllers()?;
        }
        Ok(())
    }
}

/// Ends processes that this one started; all are told before any is waited for.
fn end_together(children: impl Iterator<Item = Child>) -> Result<()> {
    let mut children: Vec<Child> = children.collect();
    // None is left behind because of another.
    let killed: Vec<_> = children.iter_mut().map(Child::kill).collect();
    let gone: Vec<_> = children.iter_mut().map(Child::wait).collect();
    killed.into_iter().collect::<io::Result<()>>().context("kill")?;
    gone.into_iter()
        .collect::<io::Result<Vec<_>>>()
        .context("wait for the killed process")?;
    Ok(())
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What is left to write must be written before the folder goes or is kept.
        let _ = self.kill_everything();
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            let path = folder.keep();
            let controllers = self.controllers.iter().map(Process::log_tail);
            for tail in controllers.chain(self.nodes.iter().map(Process::log_tail)) {
                progress::line(tail);
            }
            progress::line(format!("data and logs stay in {}", path.display()));
        }
    }
}

fn read_ports(file: &Path) -> Result<Ports> {
    let all: Value = serde_json::from_str(&fs::read_to_string(file)?).context("read ports.json")?;
    let port = |name: &str| -> Result<u16> {
        let port = all[name].as_u64().with_context(|| format!("{name} in {all}"))?;
        Ok(u16::try_from(port)?)
    };
    Ok(Ports {
        remoting: port("remoting")?,
        http: port("http")?,
        peer: port("peer")?,
        name_server: port("name_server")?,
        grpc: 0,
    })
}
