//! What this node says about itself, kept up to date.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{BoundPorts, address};
use crate::peer::{NodeInfo, Peers};

/// How often the node's own address is looked up.
const INTRODUCE_INTERVAL: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub struct Introduction {
    /// Whom it is told to.
    pub peers: Arc<Peers>,
    /// Host name or address that clients are to use.
    pub host: String,
    /// Where this node listens.
    pub ports: BoundPorts,
    /// What is said.
    pub info: NodeInfo,
}

impl Introduction {
    /// Looks its own address up again; an address that cannot be looked up stays as it was.
    pub async fn renew(&mut self) {
        if let Some(remoting) = address::resolve(&self.host, self.ports.remoting).await {
            let at = |port| Some(SocketAddr::new(remoting.ip(), port));
            self.info.remoting = Some(remoting);
            self.info.http = at(self.ports.http);
            self.info.name_server = at(self.ports.name_server);
        }
        self.peers.set_local(self.info.clone());
    }

    /// Renews it until `stop`; from when `leaving` on it says so.
    pub async fn keep(mut self, mut leaving: watch::Receiver<bool>, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTRODUCE_INTERVAL) => {}
                Ok(()) = leaving.changed() => self.info.leaving = *leaving.borrow_and_update(),
                _ = stop.wait_for(|stop| *stop) => return,
            }
            self.renew().await;
        }
    }
}
