//! Real node processes on free ports of this machine.
//!
//! A [`Cluster`] owns a temporary folder (configuration, data, logs) and the processes it starts; it ends no other. When it
//! is dropped the processes are killed and the folder removed, unless the test is failing: then the folder stays and the end
//! of every log is printed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::Client;
use crate::fault;
use crate::http::Http;
use crate::ports::{self, Ports};
use crate::progress;
use crate::wait;

/// What the clusters started here are called, but for standalone ones.
pub const CLUSTER_NAME: &str = "e2e";

/// How long a node may take until it serves clients.
const READY: Duration = Duration::from_secs(60);
/// How long a planned stop may take.
const STOP: Duration = Duration::from_secs(30);
/// Small log files, so that a run rolls through several.
const LOG_FILE_BYTES: u64 = 32 << 20;
/// Lines of each log shown when a test fails.
const LOG_TAIL_LINES: usize = 40;

/// One node process and what stays when it dies.
pub struct Node {
    /// The node's name.
    pub name: String,
    /// Where it listens, across restarts.
    pub ports: Ports,
    arguments: Vec<String>,
    log: PathBuf,
    process: Option<Child>,
}

/// Some nodes that form one cluster.
pub struct Cluster {
    folder: Option<TempDir>,
    nodes: Vec<Node>,
}

/// The `flotilla` program of this build, or the one that `FLOTILLA_BIN` names.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FLOTILLA_BIN") {
        return Ok(path.into());
    }
    // Test programs lie in `<target>/release/deps`, the product one folder up.
    let test = std::env::current_exe().context("path of this program")?;
    let folder = test.parent().and_then(Path::parent).context("folder of this program")?;
    let path = folder.join("flotilla");
    ensure!(
        path.exists(),
        "{} is missing: run `cargo build --release` first",
        path.display()
    );
    Ok(path)
}

impl Cluster {
    /// `flotilla broker` processes that form one Raft group; returns once all serve clients.
    pub fn start(nodes: usize) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("flotilla-e2e-").tempdir()?;
        let ports = (0..nodes).map(|_| ports::free()).collect::<Result<Vec<_>>>()?;
        let members: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(number, ports)| format!("\"n{}=127.0.0.1:{}\"", number + 1, ports.peer))
            .collect();
        let mut cluster = Self {
            folder: None,
            nodes: Vec::new(),
        };
        for (number, ports) in ports.into_iter().enumerate() {
            let name = format!("n{}", number + 1);
            let config = folder.path().join(format!("{name}.toml"));
            fs::write(&config, broker_toml(&name, &folder.path().join(&name), ports, &members))?;
            let arguments = vec!["broker".to_owned(), "--config".to_owned(), config.display().to_string()];
            let log = folder.path().join(format!("{name}.log"));
            cluster.nodes.push(Node {
                name,
                ports,
                arguments,
                log,
                process: None,
            });
        }
        cluster.folder = Some(folder);
        for number in 0..nodes {
            cluster.launch(number)?;
        }
        cluster.await_ready()?;
        Ok(cluster)
    }

    /// `flotilla standalone`: a whole cluster in one process, on ports that the system chose.
    pub fn standalone() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("flotilla-e2e-").tempdir()?;
        let data = folder.path().join("data");
        let arguments = ["standalone", "--ports", "0", "--data"].map(str::to_owned).into_iter();
        let node = Node {
            name: "n1".to_owned(),
            ports: Ports {
                remoting: 0,
                http: 0,
                peer: 0,
                name_server: 0,
                grpc: 0,
            },
            arguments: arguments.chain([data.display().to_string()]).collect(),
            log: folder.path().join("standalone.log"),
            process: None,
        };
        let mut cluster = Self {
            folder: Some(folder),
            nodes: vec![node],
        };
        cluster.launch(0)?;
        cluster.nodes[0].ports = wait::until("ports.json", READY, || {
            let exited = cluster.nodes[0]
                .process
                .as_mut()
                .and_then(|child| child.try_wait().transpose())
                .transpose()?;
            ensure!(exited.is_none(), "standalone ended: {exited:?}");
            let file = data.join("ports.json");
            if file.exists() {
                read_ports(&file).map(Some)
            } else {
                Ok(None)
            }
        })?;
        cluster.await_ready()?;
        Ok(cluster)
    }

    /// The nodes, `n1` first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How many nodes there are, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// What official clients are given: the name-server address of every node.
    pub fn name_servers(&self) -> String {
        let addresses: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.ports.name_server))
            .collect();
        addresses.join(";")
    }

    /// The admin API of one node.
    pub fn http(&self, number: usize) -> Http {
        Http::new(self.nodes[number].ports.http)
    }

    /// A remoting connection to one node.
    pub fn client(&self, number: usize) -> Result<Client> {
        Client::connect(self.nodes[number].ports.remoting)
    }

    /// Where files of a test can go; they stay when it fails.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().map_or_else(|| Path::new("."), TempDir::path)
    }

    /// Which node leads the group, once all running nodes agree.
    pub fn leader(&self, group: &str) -> Result<usize> {
        wait::until("one leader that all nodes name", READY, || {
            let mut leaders = Vec::new();
            for number in (0..self.len()).filter(|number| self.is_running(*number)) {
                leaders.push(self.http(number).leader(group)?);
            }
            leaders.dedup();
            let [Some(leader)] = leaders.as_slice() else {
                return Ok(None);
            };
            Ok(self.nodes.iter().position(|node| node.name == *leader))
        })
    }

    /// Whether a node's process was started and not ended by us.
    pub fn is_running(&self, number: usize) -> bool {
        self.nodes[number].process.is_some()
    }

    /// `kill -9`.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        let mut process = self.take(number)?;
        fault::kill(&mut process)
    }

    /// `kill -9` of every running node, with nothing in between.
    pub fn kill_all(&mut self) -> Result<()> {
        let mut processes: Vec<Child> = self.nodes.iter_mut().filter_map(|node| node.process.take()).collect();
        for process in &mut processes {
            process.kill().context("kill")?;
        }
        for process in &mut processes {
            process.wait().context("wait for the killed process")?;
        }
        Ok(())
    }

    /// A planned stop; fails when the process does not say that it stopped well.
    pub fn terminate(&mut self, number: usize) -> Result<()> {
        let mut process = self.take(number)?;
        let stopped_well = fault::terminate(&mut process, STOP);
        if !matches!(stopped_well, Ok(true)) {
            // Ours either way, and must not outlive the test.
            let _ = fault::kill(&mut process);
        }
        ensure!(stopped_well?, "{} ended with an error", self.nodes[number].name);
        Ok(())
    }

    /// Stops a node from running, until [`Cluster::resume`].
    pub fn pause(&self, number: usize) -> Result<()> {
        fault::pause(self.process(number)?)
    }

    /// Lets a paused node run on.
    pub fn resume(&self, number: usize) -> Result<()> {
        fault::resume(self.process(number)?)
    }

    /// Starts a node that is down, on its data and its ports.
    pub fn launch(&mut self, number: usize) -> Result<()> {
        let node = &mut self.nodes[number];
        ensure!(node.process.is_none(), "{} runs", node.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&node.log)
            .context("open the log")?;
        let process = Command::new(program()?)
            .args(&node.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", node.name))?;
        node.process = Some(process);
        Ok(())
    }

    /// Waits until every running node serves clients.
    pub fn await_ready(&mut self) -> Result<()> {
        for number in 0..self.len() {
            let http = self.http(number);
            let node = &mut self.nodes[number];
            let Some(process) = node.process.as_mut() else { continue };
            let mut ended = None;
            wait::until(&format!("{} is ready", node.name), READY, || {
                ended = process.try_wait()?;
                Ok((ended.is_some() || http.is_ready()?).then_some(()))
            })?;
            ensure!(ended.is_none(), "{} ended by itself: {ended:?}", node.name);
        }
        Ok(())
    }

    fn process(&self, number: usize) -> Result<&Child> {
        self.nodes[number]
            .process
            .as_ref()
            .with_context(|| format!("{} is down", self.nodes[number].name))
    }

    fn take(&mut self, number: usize) -> Result<Child> {
        let node = &mut self.nodes[number];
        let mut process = node.process.take().with_context(|| format!("{} is down", node.name))?;
        if let Some(status) = process.try_wait()? {
            bail!("{} had ended by itself: {status}", node.name);
        }
        Ok(process)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                // Also ends a paused one. Nothing can be done about an error here.
                let _ = fault::kill(&mut process);
            }
        }
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            let path = folder.keep();
            for node in &self.nodes {
                progress::line(format!("end of {}:\n{}", node.log.display(), tail(&node.log)));
            }
            progress::line(format!("data and logs stay in {}", path.display()));
        }
    }
}

fn broker_toml(name: &str, data: &Path, ports: Ports, members: &[String]) -> String {
    format!(
        "node = \"{name}\"\ndata = \"{data}\"\nlisten = \"127.0.0.1\"\n\n\
         [ports]\nremoting = {remoting}\nhttp = {http}\ngrpc = {grpc}\npeer = {peer}\nname_server = {name_server}\n\n\
         [log]\nfile_bytes = {LOG_FILE_BYTES}\n\n\
         [cluster]\nname = \"{CLUSTER_NAME}\"\nmembers = [{members}]\n\n\
         [policy]\nleave_seconds = 0\n",
        data = data.display(),
        remoting = ports.remoting,
        http = ports.http,
        grpc = ports.grpc,
        peer = ports.peer,
        name_server = ports.name_server,
        members = members.join(", "),
    )
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

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}
