//! What apply tells the rest of the node, after an entry is applied and visible.
//!
//! Called on the apply path: everything here only wakes or notes, nothing waits.

use std::sync::Arc;

use flotilla_raft_store::log_id::LogId;
use tracing::info;

use crate::connection_table::ConnectionTable;
use crate::long_poll::ParkedPulls;
use crate::machine::Events;
use crate::membership;

/// Wires apply to parked pulls, client connections and the log.
#[derive(Debug)]
pub struct NodeEvents {
    pub(super) node: String,
    pub(super) parked: Arc<ParkedPulls>,
    pub(super) connections: Arc<ConnectionTable>,
}

impl Events for NodeEvents {
    fn appended(&self, topic: &str, queue: u32, max_offset: i64) {
        self.parked.appended(topic, queue, max_offset);
    }

    fn membership_changed(&self, consumer_group: &str) {
        membership::notify_consumers(&self.connections, consumer_group);
    }

    fn digest(&self, nonce: u64, log_id: LogId, value: u64) {
        info!(node_id = self.node, nonce, %log_id, value = format!("{value:016x}"), "digest point");
    }

    fn leadership(&self, term: u64, leader: bool) {
        if leader {
            info!(node_id = self.node, term, "became leader");
        } else {
            info!(node_id = self.node, term, "lost leadership");
        }
    }
}
