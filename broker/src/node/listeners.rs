//! The listening sockets of a node, bound before anything else is done, so that a port in use is found at once and
//! clients of a restarting node queue up instead of being refused.

use std::io;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket};

use crate::config::{Ports, Settings};

/// Connections the system completes before they are accepted.
const BACKLOG: u32 = 1024;
/// How often a pair of ports two apart is looked for when the system chooses.
const PAIR_TRIES: usize = 64;

/// Bound sockets.
#[derive(Debug)]
pub struct Listeners {
    /// Remoting protocol.
    pub remoting: TcpListener,
    /// Remoting protocol, two ports below.
    pub vip: TcpListener,
    /// Name-server protocol.
    pub name_server: TcpListener,
    /// HTTP.
    pub http: TcpListener,
    /// Other nodes.
    pub peer: TcpListener,
}

/// The content of `ports.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BoundPorts {
    /// Name-server protocol.
    pub name_server: u16,
    /// Admin API.
    pub http: u16,
    /// Remoting protocol.
    pub remoting: u16,
    /// Remoting protocol, two ports below.
    pub vip: u16,
    /// Not listening yet.
    pub grpc: Option<u16>,
    /// Other nodes.
    pub peer: u16,
    /// Controllers, in a process that holds one.
    pub controller: Option<u16>,
}

impl Listeners {
    /// Binds all ports of `settings`.
    pub fn bind(settings: &Settings) -> io::Result<Self> {
        let address = settings
            .listen_address()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("listen on {}", settings.listen)))?;
        let Ports {
            remoting,
            http,
            peer,
            name_server,
            grpc: _,
        } = settings.ports;
        let (remoting, vip) = bind_pair(address, remoting)?;
        Ok(Self {
            remoting,
            vip,
            name_server: bind(address, name_server)?,
            http: bind(address, http)?,
            peer: bind(address, peer)?,
        })
    }

    /// Where the sockets are.
    pub fn ports(&self) -> io::Result<BoundPorts> {
        Ok(BoundPorts {
            name_server: self.name_server.local_addr()?.port(),
            http: self.http.local_addr()?.port(),
            remoting: self.remoting.local_addr()?.port(),
            vip: self.vip.local_addr()?.port(),
            grpc: None,
            peer: self.peer.local_addr()?.port(),
            controller: None,
        })
    }
}

/// Listens on a port.
pub fn bind(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let bound = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // A restarted node must not wait for the old connections of its port.
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(address, port))?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|error: io::Error| io::Error::new(error.kind(), format!("listen on {address}:{port}: {error}")))
}

/// A port and the one two below it.
fn bind_pair(address: IpAddr, port: u16) -> io::Result<(TcpListener, TcpListener)> {
    if port != 0 {
        return Ok((bind(address, port)?, bind(address, port - 2)?));
    }
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PAIR_TRIES {
        let main = bind(address, 0)?;
        match bind(address, main.local_addr()?.port().saturating_sub(2)) {
            Ok(vip) => return Ok((main, vip)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_old_port_is_two_below_even_when_the_system_chooses() {
        let settings = Settings {
            ports: Ports::chosen_by_system(),
            ..Settings::default()
        };
        let ports = Listeners::bind(&settings).unwrap().ports().unwrap();
        assert_eq!(ports.vip, ports.remoting - 2);
        let json = serde_json::to_value(ports).unwrap();
        assert_eq!(json["grpc"], serde_json::Value::Null);
        assert_eq!(json["peer"], ports.peer);
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let settings = Settings {
            ports: Ports::chosen_by_system(),
            ..Settings::default()
        };
        let first = Listeners::bind(&settings).unwrap();
        let port = first.ports().unwrap().http;
        let settings = Settings {
            ports: Ports {
                http: port,
                ..Ports::chosen_by_system()
            },
            ..settings
        };
        let error = Listeners::bind(&settings).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&port.to_string()), "{error}");
    }
}
