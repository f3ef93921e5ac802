//! A network of machines with addresses of their own, whose connections can be cut one way or both ways.
//!
//! Every machine is a Linux network namespace with one line to a router, which is a namespace, too. A cut is a rule of the
//! router that throws packets from one address to another away: as in a real network the sender is not told. Nothing of
//! this is seen outside: all ends of all lines are inside the namespaces, whose names carry the id of this process, and which
//! go with the [`Network`]; those of a process that was killed go with the next one that is made.
//!
//! The thread that makes a network is moved to a machine of its own there, the *tester's*, and back when the network goes;
//! threads and processes that it starts in between begin there. That machine is never cut off.
//!
//! Needs root and `ip` (iproute2). Without them making a network fails: a test that needs one must not pass for want of it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::host::Host;

/// Where `ip netns add` puts names of namespaces.
const NAMESPACES: &str = "/run/netns";
/// What the names of all namespaces begin with; the id of the process follows.
const PREFIX: &str = "flotilla-";
/// The machine of the thread that made the network.
const TESTER: &str = "tester";
/// What every machine calls its line to the router.
const LINE: &str = "uplink";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Which packets between a machine and others a cut throws away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// All.
    Both,
    /// What the machine sends.
    Outgoing,
    /// What is sent to the machine.
    Incoming,
}

impl Direction {
    /// Every kind of cut.
    pub const ALL: [Self; 3] = [Self::Both, Self::Outgoing, Self::Incoming];
}

/// See the module.
pub struct Network {
    prefix: String,
    machines: Vec<String>,
    cuts: Mutex<BTreeSet<(Ipv4Addr, Ipv4Addr)>>,
    outside: File,
}

impl Network {
    /// A router, and the machine that the calling thread is on from now on.
    pub fn new() -> Result<Self> {
        remove_left_behind();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut network = Self {
            prefix: format!("{PREFIX}{}-{number}", std::process::id()),
            machines: Vec::new(),
            cuts: Mutex::default(),
            outside: File::open("/proc/thread-self/ns/net").context("open this thread's network namespace")?,
        };
        let router = network.router();
        add_namespace(&router)?;
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        run(
            Command::new("ip").args(["netns", "exec", &router, "sh", "-c", forward]),
            "",
        )?;
        network.add(TESTER)?;
        let inside = File::open(Path::new(NAMESPACES).join(network.namespace(TESTER)))?;
        enter(&inside).context("move this thread to its machine")?;
        Ok(network)
    }

    /// Adds a machine.
    pub fn add(&mut self, machine: &str) -> Result<Host> {
        ensure!(
            !self.machines.iter().any(|known| known == machine),
            "{machine} is there"
        );
        self.machines.push(machine.to_owned());
        let host = self.host(machine)?;
        let (namespace, router) = (self.namespace(machine), self.router());
        add_namespace(&namespace)?;
        // Both ends are made where they belong, so that no other namespace sees them.
        let line = ["link", "add", LINE, "netns", &namespace, "type", "veth", "peer"];
        run(
            Command::new("ip").args(line).args(["name", machine, "netns", &router]),
            "",
        )?;
        let gateway = address(self.machines.len(), 1);
        batch(
            &router,
            &format!("address add {gateway}/24 dev {machine}\nlink set dev {machine} up\n"),
        )?;
        let (own, up) = (host.address, "link set dev");
        batch(
            &namespace,
            &format!("{up} lo up\naddress add {own}/24 dev {LINE}\n{up} {LINE} up\nroute add default via {gateway}\n"),
        )?;
        Ok(host)
    }

    /// A machine that was added.
    pub fn host(&self, machine: &str) -> Result<Host> {
        let place = self.machines.iter().position(|known| known == machine);
        let place = place.with_context(|| format!("no machine {machine}"))?;
        Ok(Host {
            address: address(place + 1, 2),
            namespace: Some(self.namespace(machine)),
        })
    }

    /// Cuts a machine off from others, in addition to what is cut already; returns once not a packet passes.
    pub fn cut(&self, machine: &str, others: &[&str], direction: Direction) -> Result<()> {
        let machine = self.host(machine)?.address;
        let mut added = BTreeSet::new();
        for other in others {
            let other = self.host(other)?.address;
            if direction != Direction::Incoming {
                added.insert((machine, other));
            }
            if direction != Direction::Outgoing {
                added.insert((other, machine));
            }
        }
        let mut cuts = self.cuts.lock();
        added.retain(|pair| !cuts.contains(pair));
        self.change_rules("add", &added)?;
        cuts.extend(added);
        Ok(())
    }

    /// Undoes every cut.
    pub fn heal(&self) -> Result<()> {
        let mut cuts = self.cuts.lock();
        self.change_rules("delete", &cuts)?;
        cuts.clear();
        Ok(())
    }

    /// A packet that is forwarded into a black hole is lost without an answer.
    fn change_rules(&self, change: &str, pairs: &BTreeSet<(Ipv4Addr, Ipv4Addr)>) -> Result<()> {
        let rules = pairs
            .iter()
            .map(|(from, to)| format!("rule {change} from {from} to {to} blackhole\n"));
        batch(&self.router(), &rules.collect::<String>())
    }

    fn router(&self) -> String {
        self.namespace("router")
    }

    fn namespace(&self, machine: &str) -> String {
        format!("{}-{machine}", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Nothing can be done about an error here, and one must not keep the rest from going.
        let _ = enter(&self.outside);
        let machines = self.machines.iter().map(|machine| self.namespace(machine));
        for namespace in machines.chain([self.router()]) {
            let _ = Command::new("ip").args(["netns", "delete", &namespace]).output();
        }
    }
}

/// Namespaces whose process is gone without having removed them.
fn remove_left_behind() {
    // There is no folder before the first namespace, and none is needed to make one.
    for entry in std::fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Another test may remove it at the same time.
            let _ = Command::new("ip").args(["netns", "delete"]).arg(&name).output();
        }
    }
}

/// The address with this last number on a machine's line.
fn address(line: usize, last: u8) -> Ipv4Addr {
    let line = u8::try_from(line).expect("a network has fewer than 256 machines");
    Ipv4Addr::new(10, 77, line, last)
}

fn enter(namespace: &File) -> Result<()> {
    Ok(move_into_link_name_space(
        namespace.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}

fn add_namespace(name: &str) -> Result<()> {
    let made = run(Command::new("ip").args(["netns", "add", name]), "");
    made.context("make a network namespace: this test needs root, and a kernel or container that allows it")
}

/// Several `ip` commands in one namespace.
fn batch(namespace: &str, commands: &str) -> Result<()> {
    run(Command::new("ip").args(["-n", namespace, "-batch", "-"]), commands)
}

fn run(command: &mut Command, input: &str) -> Result<()> {
    let command = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .context("run ip, of the package iproute2; `make test` installs it")?;
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let Output { status, stderr, .. } = child.wait_with_output().context("wait for ip")?;
    let said = String::from_utf8_lossy(&stderr);
    ensure!(status.success(), "{command:?}: {status}: {}", said.trim());
    written.transpose().context("tell ip what to do")?;
    Ok(())
}

#[cfg(test)]
#[path = "network_test.rs"]
mod tests;
