//! A controller and three nodes as processes of this program, on loopback, with data in a folder of their own.
//!
//! Every port is chosen before the first start and kept, so that a node that was killed comes back where it was. All
//! processes are killed when the cluster is dropped.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use flotilla_api::http::RaftGroup;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::super::RunArgs;
use super::super::cpu::resident_bytes;
use super::super::failover::{FailoverArgs, send_one_by_one};
use super::super::target::{Target, TargetArgs};

/// Nodes of every cluster.
pub(super) const NODES: usize = 3;
/// Below the ports the system gives out by itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORTS_PER_NODE: u16 = 6;
const START_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// How long an empty node may take to have everything again.
const REJOIN_MAX: Duration = Duration::from_secs(600);
const HTTP_TIMEOUT: Duration = Duration::from_secs(2);
/// The Raft group whose leader the rows about failover look at.
const RAFT_GROUP: &str = "g1";
const CONTROLLERS_MAX: usize = 3;

/// When nodes answer a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    Sync,
    Async,
}

impl Flush {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Flush::Sync => "sync",
            Flush::Async => "async",
        }
    }
}

/// What a row needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setup {
    pub(super) flush: Flush,
    /// Raft groups, each with a replica on every node.
    pub(super) groups: usize,
    pub(super) controllers: usize,
}

struct Node {
    name: String,
    /// The command that starts it.
    role: &'static str,
    config: PathBuf,
    name_server: u16,
    http: u16,
    /// None of a controller.
    remoting: Option<u16>,
    process: Option<Child>,
}

impl Node {
    fn spawn(&mut self, program: &Path, folder: &Path) -> anyhow::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join(format!("{}.log", self.name)))?;
        let child = Command::new(program)
            .args([self.role, "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.name))?;
        self.process = Some(child);
        Ok(())
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.process.take() {
            child.kill().context("kill a process")?;
            child.wait().context("wait for a killed process")?;
        }
        Ok(())
    }
}

/// A running cluster.
pub(super) struct Cluster {
    program: PathBuf,
    folder: PathBuf,
    remove_folder: bool,
    controllers: Vec<Node>,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts three empty nodes; also returns how long it took until the first message was acknowledged.
    pub(super) fn start(
        program: Option<&Path>,
        folder: Option<&Path>,
        setup: Setup,
    ) -> anyhow::Result<(Cluster, Duration)> {
        let program = match program {
            Some(program) => program.to_path_buf(),
            None => std::env::current_exe().context("find this program")?,
        };
        let name = format!(
            "flotilla-bench-{}-{}-{}-{}",
            std::process::id(),
            setup.flush.as_str(),
            setup.groups,
            setup.controllers
        );
        let parent = folder.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let folder_given = folder.is_some();
        let folder = parent.join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let mut cluster = Cluster {
            program,
            controllers: Vec::new(),
            nodes: Vec::new(),
            folder,
            remove_folder: !folder_given,
        };
        cluster.write_configurations(setup)?;
        let start = Instant::now();
        cluster.start_missing()?;
        cluster.wait_for_ack()?;
        Ok((cluster, start.elapsed()))
    }

    fn write_configurations(&mut self, setup: Setup) -> anyhow::Result<()> {
        let base = free_ports(PORTS_PER_NODE * (NODES + CONTROLLERS_MAX) as u16)?;
        let port = |place: usize, offset: u16| base + place as u16 * PORTS_PER_NODE + offset;
        let controllers: Vec<(String, u16)> = (0..setup.controllers)
            .map(|place| (format!("c{}", place + 1), port(NODES + place, 4)))
            .collect();
        let peers: Vec<String> = controllers
            .iter()
            .map(|(name, port)| format!("\"{name}=127.0.0.1:{port}\""))
            .collect();
        for (place, (name, controller)) in controllers.iter().enumerate() {
            let (name_server, http) = (port(NODES + place, 0), port(NODES + place, 1));
            let text = format!(
                "node = \"{name}\"\ndata = \"{}\"\ncluster = \"flotilla-bench\"\npeers = [{}]\n\n\
                 [ports]\ncontroller = {controller}\nname_server = {name_server}\nhttp = {http}\n\n\
                 [policy]\nreplicas = {NODES}\ngroups = {}\nauto_create_topics = true\n",
                self.folder.join(name).display(),
                peers.join(", "),
                setup.groups,
            );
            let node = self.configured(name, "controller", &text, (name_server, http))?;
            self.controllers.push(node);
        }
        let addresses: Vec<String> = controllers
            .iter()
            .map(|(_, port)| format!("\"127.0.0.1:{port}\""))
            .collect();
        for place in 0..NODES {
            let name = format!("n{}", place + 1);
            let (name_server, http) = (port(place, 0), port(place, 1));
            let text = format!(
                "node = \"{name}\"\ndata = \"{}\"\ncontrollers = [{}]\n\n\
                 [ports]\nname_server = {name_server}\nhttp = {http}\nremoting = {}\npeer = {}\n\n\
                 [log]\nflush = \"{}\"\n\n[policy]\nleave_seconds = 0\n",
                self.folder.join(&name).display(),
                addresses.join(", "),
                port(place, 5),
                port(place, 4),
                setup.flush.as_str(),
            );
            let node = self.configured(&name, "broker", &text, (name_server, http))?;
            self.nodes.push(Node {
                remoting: Some(port(place, 5)),
                ..node
            });
        }
        Ok(())
    }

    fn configured(
        &self,
        name: &str,
        role: &'static str,
        text: &str,
        (name_server, http): (u16, u16),
    ) -> anyhow::Result<Node> {
        let config = self.folder.join(format!("{name}.toml"));
        std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        Ok(Node {
            name: name.to_owned(),
            role,
            config,
            name_server,
            http,
            remoting: None,
            process: None,
        })
    }

    /// Process ids of the nodes that run.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.nodes
            .iter()
            .filter_map(|node| node.process.as_ref().map(Child::id))
            .collect()
    }

    /// The name server of a node.
    pub(super) fn name_server(&self, place: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[place].name_server)
    }

    /// The remoting address of a node.
    pub(super) fn remoting(&self, place: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[place].remoting.unwrap_or_default())
    }

    /// A topic of this cluster, looked up at a node.
    pub(super) fn target(&self, topic: &str, place: usize) -> TargetArgs {
        TargetArgs {
            name_server: self.name_server(place),
            topic: topic.to_owned(),
            create_topic: Some(8),
            queues: None,
            address: Vec::new(),
        }
    }

    /// Waits until a message is acknowledged.
    pub(super) fn wait_for_ack(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_MAX;
        loop {
            if self.one_ack().is_ok() {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "the cluster did not take a message within {START_MAX:?}; see the logs in {}",
                self.folder.display()
            );
            std::thread::sleep(POLL);
        }
    }

    fn one_ack(&self) -> anyhow::Result<()> {
        let mut target_args = self.target("first", 0);
        target_args.create_topic = None;
        let target = Target::find(&target_args)?;
        let run = RunArgs {
            duration: 0.0,
            warmup: 0.0,
            timeout: 1000,
            pids: Vec::new(),
            json: None,
            quiet: true,
        };
        let args = FailoverArgs {
            target: target_args,
            size: 128,
            request_timeout: 1000,
            run,
        };
        let deadline = Instant::now() + Duration::from_secs(2);
        let (_, acks) = send_one_by_one(&args, &target, &|acks| acks.count() > 0 || Instant::now() > deadline)?;
        anyhow::ensure!(acks.count() > 0, "no acknowledgement");
        Ok(())
    }

    /// What a node says about the Raft group.
    fn raft_group(&self, place: usize) -> anyhow::Result<RaftGroup> {
        Ok(serde_json::from_slice(&http_get(
            self.nodes[place].http,
            &format!("/v1/groups/{RAFT_GROUP}"),
        )?)?)
    }

    /// The place of the leader, as most recently told by any node that answers.
    pub(super) fn leader(&self) -> anyhow::Result<usize> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let told = (0..NODES).filter(|place| self.nodes[*place].process.is_some());
            let newest = told
                .filter_map(|place| self.raft_group(place).ok())
                .max_by_key(|group| group.term);
            let leader = newest.and_then(|group| group.leader);
            if let Some(place) = self.nodes.iter().position(|node| Some(&node.name) == leader.as_ref()) {
                return Ok(place);
            }
            anyhow::ensure!(Instant::now() < deadline, "no node names a leader");
            std::thread::sleep(POLL);
        }
    }

    /// Waits until every replica has what is committed.
    pub(super) fn wait_until_caught_up(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let leader = self.leader()?;
            let caught_up = self.raft_group(leader).is_ok_and(|group| {
                group.members.len() == NODES
                    && group
                        .members
                        .iter()
                        .all(|member| member.matched_index >= group.committed_index)
            });
            let answering = (0..NODES).all(|place| self.raft_group(place).is_ok_and(|group| group.leader.is_some()));
            if caught_up && answering {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "a replica does not catch up");
            std::thread::sleep(POLL);
        }
    }

    /// The Raft terms of all groups, in the order of their names.
    pub(super) fn terms(&self) -> anyhow::Result<Vec<u64>> {
        let body = http_get(self.nodes[0].http, "/v1/cluster")?;
        let mut groups = serde_json::from_slice::<flotilla_api::http::Cluster>(&body)?.groups;
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(groups.iter().map(|group| group.term).collect())
    }

    /// Has the system forget what it holds of the nodes' files; what is not on the disk yet stays.
    pub(super) fn forget_cached_files(&self) -> anyhow::Result<()> {
        self.nodes
            .iter()
            .try_for_each(|node| forget_cached(&self.folder.join(&node.name).join("groups")))
    }

    /// Bytes that the nodes have read from the disk since they started.
    pub(super) fn bytes_read(&self) -> anyhow::Result<u64> {
        let read = self.pids().into_iter().map(|pid| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
            let line = text.lines().find_map(|line| line.strip_prefix("read_bytes: "));
            Ok(line.context("read_bytes")?.parse::<u64>()?)
        });
        read.sum()
    }

    /// Files that each node has open.
    pub(super) fn open_files(&self) -> anyhow::Result<Vec<usize>> {
        let counted = self.pids().into_iter().map(|pid| {
            let files = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
            Ok(files.count())
        });
        counted.collect()
    }

    /// Bytes of the Raft group's log, as a node tells.
    pub(super) fn log_bytes(&self, place: usize) -> anyhow::Result<u64> {
        let log = self.raft_group(place)?.commitlog;
        Ok(log.max_offset - log.min_offset)
    }

    /// The Raft id of a node's replica, as another one tells.
    pub(super) fn replica_of(&self, asked: usize, place: usize) -> anyhow::Result<u64> {
        let member = self.member(asked, place)?;
        member["replica"].as_u64().context("the id of a replica")
    }

    /// Waits until a node has another replica than `before`, which has a vote and everything that is committed.
    pub(super) fn wait_for_new_voter(&self, asked: usize, place: usize, before: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + REJOIN_MAX;
        loop {
            let joined = self.member(asked, place).is_ok_and(|member| {
                let is_new = member["replica"].as_u64().is_some_and(|replica| replica != before);
                is_new && member["role"] == "follower"
            });
            if joined {
                return self.wait_until_caught_up();
            }
            anyhow::ensure!(Instant::now() < deadline, "the empty node did not get its vote");
            std::thread::sleep(POLL);
        }
    }

    fn member(&self, asked: usize, place: usize) -> anyhow::Result<Value> {
        let path = format!("/v1/groups/{RAFT_GROUP}");
        let group: Value = serde_json::from_slice(&http_get(self.nodes[asked].http, &path)?)?;
        let members = group["members"].as_array().context("members")?;
        let name = self.nodes[place].name.as_str();
        // A lost replica may be listed beside its successor.
        let newest = members.iter().filter(|member| member["node"] == name);
        let newest = newest.max_by_key(|member| member["replica"].as_u64());
        newest.cloned().context("the node has no replica")
    }

    /// The Raft group that owns a queue.
    pub(super) fn owner(&self, topic: &str, queue: u32) -> anyhow::Result<String> {
        let path = format!("/v1/topics/{topic}/queues");
        let shown: Value = serde_json::from_slice(&http_get(self.nodes[0].http, &path)?)?;
        let owner = shown["queues"][queue as usize]["group"].as_str();
        Ok(owner.context("the owner of a queue")?.to_owned())
    }

    /// Moves a queue to a Raft group; returns what is told of the move, and how long that took.
    pub(super) fn move_queue(&self, topic: &str, queue: u32, group: &str) -> anyhow::Result<(Value, Duration)> {
        let path = format!("/v1/topics/{topic}/queues/{queue}/move?wait=1s");
        let start = Instant::now();
        let answer = http(
            self.nodes[0].http,
            "POST",
            &path,
            &format!("{{\"group\": \"{group}\"}}"),
        )?;
        let taken = start.elapsed();
        let moved: Value = serde_json::from_slice(body_of(&answer)?)?;
        anyhow::ensure!(moved["state"] == "done", "queue {queue} to {group}: {moved}");
        Ok((moved, taken))
    }

    /// Throws away everything that a node stored; it must be down.
    pub(super) fn wipe(&self, place: usize) -> anyhow::Result<()> {
        let folder = self.folder.join(&self.nodes[place].name);
        std::fs::remove_dir_all(&folder).with_context(|| format!("wipe {}", folder.display()))
    }

    /// Kills a node without warning.
    pub(super) fn kill(&mut self, place: usize) -> anyhow::Result<()> {
        self.nodes[place].kill()
    }

    /// Kills all nodes without warning.
    pub(super) fn kill_all(&mut self) -> anyhow::Result<()> {
        (0..NODES).try_for_each(|place| self.kill(place))
    }

    /// Starts the processes that do not run.
    pub(super) fn start_missing(&mut self) -> anyhow::Result<()> {
        for node in self.controllers.iter_mut().chain(&mut self.nodes) {
            if node.process.is_none() {
                node.spawn(&self.program, &self.folder)?;
            }
        }
        Ok(())
    }

    /// The place of the controller that leads, as node 1 sees it.
    pub(super) fn leading_controller(&self) -> anyhow::Result<usize> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let told = http_get(self.nodes[0].http, "/v1/cluster")
                .and_then(|body| Ok(serde_json::from_slice::<flotilla_api::http::Cluster>(&body)?));
            let leading = told.ok().and_then(|told| {
                let leading = told.controllers.into_iter().find(|controller| controller.leader)?.node;
                self.controllers
                    .iter()
                    .position(|controller| controller.name == leading)
            });
            if let Some(place) = leading {
                return Ok(place);
            }
            anyhow::ensure!(Instant::now() < deadline, "no controller leads");
            std::thread::sleep(POLL);
        }
    }

    /// Kills a controller without warning.
    pub(super) fn kill_controller(&mut self, place: usize) -> anyhow::Result<()> {
        self.controllers[place].kill()
    }

    /// Has a node create a topic; true if it was created.
    pub(super) fn create_topic(&self, place: usize, topic: &str, queues: u32) -> anyhow::Result<bool> {
        let body = format!("{{\"queues\": {queues}}}");
        let status = http_status(self.nodes[place].http, "PUT", &format!("/v1/topics/{topic}"), &body)?;
        Ok(status == 201)
    }

    /// Has leadership of the Raft group go to another node.
    pub(super) fn transfer_leader(&self, place: usize) -> anyhow::Result<()> {
        let (node, path) = (&self.nodes[place], format!("/v1/groups/{RAFT_GROUP}/leader"));
        let status = http_status(node.http, "POST", &path, &format!("{{\"node\": \"{}\"}}", node.name))?;
        anyhow::ensure!(status == 200, "the transfer was answered with {status}");
        Ok(())
    }

    /// Stops a node in order.
    pub(super) fn terminate(&mut self, place: usize) -> anyhow::Result<()> {
        if let Some(mut child) = self.nodes[place].process.take() {
            let pid = Pid::from_raw(child.id() as i32).context("a process id")?;
            kill_process(pid, Signal::TERM).context("stop a node")?;
            child.wait().context("wait for a node")?;
        }
        Ok(())
    }

    /// Memory of the nodes that run, in bytes.
    pub(super) fn resident(&self) -> Vec<u64> {
        self.pids().into_iter().filter_map(resident_bytes).collect()
    }

    /// Stops a node's processor time, or gives it back.
    pub(super) fn pause(&self, place: usize, paused: bool) -> anyhow::Result<()> {
        let child = self.nodes[place].process.as_ref().context("the node does not run")?;
        let pid = Pid::from_raw(child.id() as i32).context("a process id")?;
        kill_process(pid, if paused { Signal::STOP } else { Signal::CONT }).context("signal a node")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Best effort: what cannot be killed or removed is left to the system's own cleaning.
        let _ = self.kill_all();
        for controller in &mut self.controllers {
            let _ = controller.kill();
        }
        if self.remove_folder {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Has the system forget what it holds of the files in a folder and its folders.
fn forget_cached(folder: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget_cached(&entry.path())?;
        } else {
            let file = File::open(entry.path())?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).context("forget cached pages")?;
        }
    }
    Ok(())
}

/// The first of `count` ports in a row that nobody uses.
fn free_ports(count: u16) -> anyhow::Result<u16> {
    let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let offset = (std::process::id() as u16).wrapping_mul(count) % (PORTS.end - PORTS.start);
    (0..100u16)
        .map(|attempt| PORTS.start + (offset.wrapping_add(attempt * count)) % (PORTS.end - PORTS.start - count))
        .find(|base| (0..count).all(|offset| free(base + offset)))
        .context("no free ports")
}

/// The body of a plain GET.
fn http_get(port: u16, path: &str) -> anyhow::Result<Vec<u8>> {
    let answer = http(port, "GET", path, "")?;
    anyhow::ensure!(
        answer.starts_with(b"HTTP/1.1 200"),
        "GET {path} was not answered with 200"
    );
    Ok(body_of(&answer)?.to_vec())
}

fn body_of(answer: &[u8]) -> anyhow::Result<&[u8]> {
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("no end of the header")?;
    Ok(&answer[end + 4..])
}

/// The status of any request.
fn http_status(port: u16, method: &str, path: &str, body: &str) -> anyhow::Result<u16> {
    let answer = http(port, method, path, body)?;
    let status = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
    status.and_then(|digits| digits.parse().ok()).context("no status line")
}

fn http(port: u16, method: &str, path: &str, body: &str) -> anyhow::Result<Vec<u8>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, HTTP_TIMEOUT)?;
    stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}
