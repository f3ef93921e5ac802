//! Three nodes as processes of this program, on loopback, with data in a folder of their own.
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

use super::super::RunArgs;
use super::super::failover::{FailoverArgs, send_one_by_one};
use super::super::target::{Target, TargetArgs};

const NODES: usize = 3;
/// Below the ports the system gives out by itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORTS_PER_NODE: u16 = 6;
const START_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
const HTTP_TIMEOUT: Duration = Duration::from_secs(2);
const RAFT_GROUP: &str = "g1";

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

struct Node {
    name: String,
    config: PathBuf,
    name_server: u16,
    http: u16,
    process: Option<Child>,
}

/// A running cluster.
pub(super) struct Cluster {
    program: PathBuf,
    folder: PathBuf,
    remove_folder: bool,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts three empty nodes; also returns how long it took until the first message was acknowledged.
    pub(super) fn start(
        program: Option<&Path>,
        folder: Option<&Path>,
        flush: Flush,
    ) -> anyhow::Result<(Cluster, Duration)> {
        let program = match program {
            Some(program) => program.to_path_buf(),
            None => std::env::current_exe().context("find this program")?,
        };
        let name = format!("flotilla-bench-{}-{}", std::process::id(), flush.as_str());
        let parent = folder.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let folder_given = folder.is_some();
        let folder = parent.join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let mut cluster = Cluster {
            program,
            nodes: Vec::new(),
            folder,
            remove_folder: !folder_given,
        };
        cluster.write_configurations(flush)?;
        let start = Instant::now();
        for place in 0..NODES {
            cluster.spawn(place)?;
        }
        cluster.wait_for_ack()?;
        Ok((cluster, start.elapsed()))
    }

    fn write_configurations(&mut self, flush: Flush) -> anyhow::Result<()> {
        let base = free_ports(PORTS_PER_NODE * NODES as u16)?;
        let port = |place: usize, offset: u16| base + place as u16 * PORTS_PER_NODE + offset;
        let members: Vec<String> = (0..NODES)
            .map(|place| format!("\"n{}=127.0.0.1:{}\"", place + 1, port(place, 4)))
            .collect();
        for place in 0..NODES {
            let name = format!("n{}", place + 1);
            let config = self.folder.join(format!("{name}.toml"));
            let text = format!(
                "node = \"{name}\"\ndata = \"{}\"\n\n[ports]\nname_server = {}\nhttp = {}\nremoting = {}\npeer = {}\n\n\
                 [log]\nflush = \"{}\"\n\n[cluster]\nname = \"flotilla-bench\"\nmembers = [{}]\n\n\
                 [policy]\nauto_create_topics = true\nleave_seconds = 0\n",
                self.folder.join(&name).display(),
                port(place, 0),
                port(place, 1),
                port(place, 5),
                port(place, 4),
                flush.as_str(),
                members.join(", "),
            );
            std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
            self.nodes.push(Node {
                name,
                config,
                name_server: port(place, 0),
                http: port(place, 1),
                process: None,
            });
        }
        Ok(())
    }

    fn spawn(&mut self, place: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[place];
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("{}.log", node.name)))?;
        let child = Command::new(&self.program)
            .args(["broker", "--config"])
            .arg(&node.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start a node")?;
        node.process = Some(child);
        Ok(())
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

    /// Kills a node without warning.
    pub(super) fn kill(&mut self, place: usize) -> anyhow::Result<()> {
        if let Some(mut child) = self.nodes[place].process.take() {
            child.kill().context("kill a node")?;
            child.wait().context("wait for a killed node")?;
        }
        Ok(())
    }

    /// Kills all nodes without warning.
    pub(super) fn kill_all(&mut self) -> anyhow::Result<()> {
        (0..NODES).try_for_each(|place| self.kill(place))
    }

    /// Starts the nodes that do not run.
    pub(super) fn start_missing(&mut self) -> anyhow::Result<()> {
        for place in 0..NODES {
            if self.nodes[place].process.is_none() {
                self.spawn(place)?;
            }
        }
        Ok(())
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
        if self.remove_folder {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
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
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, HTTP_TIMEOUT)?;
    stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    anyhow::ensure!(
        answer.starts_with(b"HTTP/1.1 200"),
        "GET {path} was not answered with 200"
    );
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("no end of the header")?;
    Ok(answer.split_off(end + 4))
}
