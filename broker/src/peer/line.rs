//! One connection for calls to another process: dialled when it is needed, dialled again when it broke.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::Mutex;

use super::calls::{CallConnection, CallKind, Placed};
use super::handshake::Hello;
use super::stream::dial;
use crate::metrics::Metrics;

/// A failed dial is not tried again for this long, so that waiting callers do not queue up behind each other.
const REDIAL_AFTER: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug, Default)]
pub struct Line {
    current: RwLock<Option<Arc<CallConnection>>>,
    failed_at: Mutex<Option<Instant>>,
}

impl Line {
    /// Asks for something over the connection, dialling `address` first if there is none. See
    /// [`super::surely_not_sent`] for what a failure leaves open.
    pub async fn call(
        &self,
        address: &str,
        hello: impl FnOnce() -> Hello,
        metrics: &Metrics,
        (kind, request): (CallKind, Bytes),
        deadline: Instant,
    ) -> io::Result<Bytes> {
        let placed = self.place(address, hello, metrics, (kind, request), deadline).await?;
        placed.answer().await
    }

    /// The first half of [`Line::call`]: the request is on its way, behind those placed before it.
    pub async fn place(
        &self,
        address: &str,
        hello: impl FnOnce() -> Hello,
        metrics: &Metrics,
        (kind, request): (CallKind, Bytes),
        deadline: Instant,
    ) -> io::Result<Placed> {
        let connection = match self.usable() {
            Some(connection) => connection,
            None => self.connect(address, hello(), metrics, deadline).await?,
        };
        connection.place(kind, request, deadline).await
    }

    fn usable(&self) -> Option<Arc<CallConnection>> {
        self.current.read().clone().filter(|connection| !connection.is_broken())
    }

    async fn connect(
        &self,
        address: &str,
        hello: Hello,
        metrics: &Metrics,
        deadline: Instant,
    ) -> io::Result<Arc<CallConnection>> {
        let not_sent = |why: String| io::Error::new(io::ErrorKind::NotConnected, why);
        let until = tokio::time::Instant::from_std(deadline);
        let dialled = tokio::time::timeout_at(until, async {
            let mut failed_at = self.failed_at.lock().await;
            if let Some(connection) = self.usable() {
                return Ok(connection);
            }
            if failed_at.is_some_and(|at| at.elapsed() < REDIAL_AFTER) {
                return Err(not_sent(format!("{address} could not be reached a moment ago")));
            }
            match dial(address, &hello, metrics).await {
                Ok((sender, receiver)) => {
                    let connection = CallConnection::start(sender, receiver);
                    *self.current.write() = Some(connection.clone());
                    *failed_at = None;
                    Ok(connection)
                }
                Err(error) => {
                    *failed_at = Some(Instant::now());
                    Err(not_sent(format!("connect to {address}: {error}")))
                }
            }
        });
        dialled
            .await
            .unwrap_or_else(|_| Err(not_sent(format!("connect to {address}: no time left"))))
    }
}
