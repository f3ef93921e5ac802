//! The HTTP side of a node: health, metrics, and the admin API.
//!
//! Any node answers for the whole cluster. A request becomes an [`Operation`]; what must be fresh or writes is carried
//! out where the leader is, here or one hop away, and comes back as status and JSON. When no leader can be reached,
//! reads are answered from this node's own copy and say `"stale": true`; writes say what became of them
//! (`"outcome"`). `/healthz`, `/readyz` and `/metrics` never ask anybody else.
//!
//! Bounded: connections and how long one may be silent, body bytes, list lengths, and how long an operation may take.

mod answer;
mod cluster;
mod consumer_groups;
mod execute;
mod json;
mod limits;
mod load;
mod messages;
mod metrics;
mod moves;
mod nodes;
mod openapi;
mod operation;
mod problem;
mod routes;
mod topics;

use std::sync::{Arc, OnceLock};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::warn;

pub use execute::serve_forwarded;
pub use json::parse_duration;
pub use limits::{HTTP_CONNECTIONS_MAX, HTTP_IDLE_MAX};
pub use load::gather as gather_loads;
pub use moves::MOVE_WAIT_MAX;
pub use operation::Operation;
pub use problem::Problem;

use crate::node::Broker;

/// The broker of a node, once its Raft group is open.
pub type Stage = Arc<OnceLock<Arc<Broker>>>;

/// Largest request body: the largest message in base64, with its properties.
pub const HTTP_BODY_BYTES_MAX: usize = 24 << 20;
/// Most items of one list.
pub const LIST_ITEMS_MAX: usize = 10_000;
/// Most series of one metric that is labelled by topics and groups.
pub const LABELLED_SERIES_MAX: usize = 10_000;

/// Serves HTTP until `stop` says true.
pub async fn serve(listener: TcpListener, stage: Stage, mut stop: watch::Receiver<bool>) {
    let stopped = async move {
        // A dropped sender means the same: nobody is left to serve for.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    if let Err(error) = axum::serve(limits::Limited::new(listener), routes::router(stage))
        .with_graceful_shutdown(stopped)
        .await
    {
        warn!(%error, "the HTTP port stopped");
    }
}
