//! Free ports of a node.
//!
//! They come from below the range that the kernel gives to outgoing connections, so that a port stays free while its node
//! is down; a node that restarts must find it again.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

/// First port tried.
const FIRST: u16 = 12_000;
/// First port not tried.
const END: u16 = 19_800;
/// Ports of one node, in a row.
const PER_NODE: u16 = 6;

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

/// Ports that nobody listens on now and that this process has not given out before.
pub fn free() -> Result<Ports> {
    // Test processes that run side by side start at different places.
    let blocks = (END - FIRST) / PER_NODE;
    let start = (std::process::id() % u32::from(blocks)) as u16;
    for _ in 0..blocks {
        let block = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % blocks;
        let base = FIRST + block * PER_NODE;
        let listeners: Vec<_> = (base..base + PER_NODE)
            .map(|port| TcpListener::bind(("127.0.0.1", port)))
            .collect();
        if listeners.iter().all(Result::is_ok) {
            return Ok(Ports {
                remoting: base + 2,
                http: base + 1,
                peer: base + 3,
                name_server: base + 4,
                grpc: base + 5,
            });
        }
    }
    bail!("no {PER_NODE} free ports in a row between {FIRST} and {END}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_get_different_ports() {
        let (one, other) = (free().unwrap(), free().unwrap());
        assert_ne!(one.remoting, other.remoting);
        assert_ne!(one.remoting - 2, one.http);
    }
}
