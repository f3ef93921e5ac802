//! Where a process runs: this machine's loopback, or a machine of a [`Network`](crate::network::Network).

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The address that its processes listen on and are reached at.
    pub address: Ipv4Addr,
    /// The network namespace that its processes are started in, if that is not the caller's.
    pub namespace: Option<String>,
}

impl Host {
    /// This machine, under its loopback address.
    pub const fn loopback() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST,
            namespace: None,
        }
    }

    /// Runs a program there, as the process that is started: nothing stands in between once it runs.
    pub fn command(&self, program: &Path) -> Command {
        let Some(namespace) = &self.namespace else {
            return Command::new(program);
        };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program);
        command
    }
}
