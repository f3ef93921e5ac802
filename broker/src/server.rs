//! Accepts client connections. All remoting ports (main, main − 2, name server) serve the same requests: clients
//! send any request to any of them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::connection;
use crate::node::Broker;

/// Pause after a failed accept, when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a graceful stop waits for requests in flight.
pub const STOP_WAIT_MAX: Duration = Duration::from_secs(5);

/// Accepts until `shutdown` turns true, then waits for the open connections to finish what they have in flight.
pub async fn serve_remoting(listener: TcpListener, broker: Arc<Broker>, mut shutdown: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    if let Some(task) = admit(stream, peer, &broker, &shutdown) {
                        connections.spawn(task);
                    }
                }
                Err(error) => {
                    warn!(%error, "accept a client connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = stopped(&mut shutdown) => break,
        }
    }
    drop(listener);
    broker.parked.release_all();
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_WAIT_MAX, finished).await.is_err() {
        debug!("closing connections that did not finish in time");
    }
}

/// Returns when the node is to stop.
pub async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // A dropped sender means the same: nobody is left to serve for.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

fn admit(
    stream: TcpStream,
    peer: SocketAddr,
    broker: &Arc<Broker>,
    shutdown: &watch::Receiver<bool>,
) -> Option<impl Future<Output = ()> + Send + use<>> {
    if let Err(error) = prepare(&stream) {
        debug!(%peer, %error, "prepare a client connection");
        return None;
    }
    let peer = ipv4(peer);
    let Some((connection, pushes)) = broker.connections.admit(peer) else {
        warn!(%peer, "too many client connections, refusing one");
        return None;
    };
    Some(connection::serve(
        stream,
        Arc::clone(broker),
        connection,
        pushes,
        shutdown.clone(),
    ))
}

/// Linger 0: when this process is killed the kernel resets its connections, and clients that would wait for the
/// timeout after an orderly close fail over at once. An orderly stop turns it off again.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Messages store the client's address in four bytes. A true IPv6 peer is shown by its port alone.
pub fn ipv4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => {
            let ip = match address.ip().to_ipv4_mapped() {
                Some(ip) => ip,
                None if address.ip().is_loopback() => Ipv4Addr::LOCALHOST,
                None => Ipv4Addr::UNSPECIFIED,
            };
            SocketAddrV4::new(ip, address.port())
        }
    }
}
