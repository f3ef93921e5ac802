//! Free ports of a process.
//!
//! They come from below the range that the kernel gives to outgoing connections, so that a port stays free while its
//! process is down; one that restarts must find it again.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

/// First port tried.
const FIRST: u16 = 12_000;
/// First port not tried.
const END: u16 = 19_800;
/// Ports of one process, in a row.
const PER_PROCESS: u16 = 6;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// Where one node listens.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Remoting protocol; the "VIP" port is two below it.
    pub remoting: u16,
    /// Admin API.
    pub http: u16,
    /// Between nodes.
    pub peer: u16,
    /// Name-server protocol.
    pub name_server: u16,
    /// Reserved for gRPC.
    pub grpc: u16,
}

/// Where one controller listens.
#[derive(Clone, Copy, Debug)]
pub struct ControllerPorts {
    /// Controllers and nodes.
    pub controller: u16,
    /// Admin API.
    pub http: u16,
    /// Name-server protocol.
    pub name_server: u16,
}

/// A process that has the admin API.
pub trait AdminPort {
    /// The port of its admin API.
    fn http(&self) -> u16;
}

impl AdminPort for Ports {
    fn http(&self) -> u16 {
        self.http
    }
}

impl AdminPort for ControllerPorts {
    fn http(&self) -> u16 {
        self.http
    }
}

/// Ports for a node.
pub fn free() -> Result<Ports> {
    let base = free_block()?;
    Ok(Ports {
        remoting: base + 2,
        http: base + 1,
        peer: base + 3,
        name_server: base + 4,
        grpc: base + 5,
    })
}

/// Ports for a controller.
pub fn free_of_controller() -> Result<ControllerPorts> {
    let base = free_block()?;
    Ok(ControllerPorts {
        controller: base,
        http: base + 1,
        name_server: base + 2,
    })
}

/// The first of some ports in a row that nobody listens on now and that this process has not given out before.
fn free_block() -> Result<u16> {
    // Test processes that run side by side start at different places.
    let blocks = (END - FIRST) / PER_PROCESS;
    let start = (std::process::id() % u32::from(blocks)) as u16;
    for _ in 0..blocks {
        let block = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % blocks;
        let base = FIRST + block * PER_PROCESS;
        let listeners: Vec<_> = (base..base + PER_PROCESS)
            .map(|port| TcpListener::bind(("127.0.0.1", port)))
            .collect();
        if listeners.iter().all(Result::is_ok) {
            return Ok(base);
        }
    }
    bail!("no {PER_PROCESS} free ports in a row between {FIRST} and {END}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_get_different_ports() {
        let (one, other, controller) = (free().unwrap(), free().unwrap(), free_of_controller().unwrap());
        assert_ne!(one.remoting, other.remoting);
        assert_ne!(one.remoting - 2, one.http);
        let mut http = [one.http(), other.http(), controller.http()].to_vec();
        http.dedup();
        assert_eq!(http.len(), 3);
    }
}
