//! What apply tells the rest of the node, after an entry is applied and visible.
//!
//! Called on the apply path: everything here only wakes or notes, nothing waits.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use flotilla_raft_store::log_id::LogId;
use prometheus::Histogram;
use tracing::info;

use crate::connection_table::ConnectionTable;
use crate::load_meter::LoadMeter;
use crate::long_poll::ParkedPulls;
use crate::machine::Events;
use crate::membership;
use crate::node::Broker;
use crate::state::effects::IndexBatch;

/// Wires apply to parked pulls, client connections, the measured load and the log.
#[derive(Debug)]
pub struct NodeEvents {
    /// The Raft group's number and name.
    pub(super) group: (u16, String),
    pub(super) broker: Weak<Broker>,
    pub(super) parked: Arc<ParkedPulls>,
    pub(super) connections: Arc<ConnectionTable>,
    pub(super) load: Arc<LoadMeter>,
    pub(super) apply_seconds: Histogram,
}

impl Events for NodeEvents {
    fn applied(&self, took: Duration) {
        self.apply_seconds.observe(took.as_secs_f64());
    }

    fn appended(&self, topic: &str, queue: u32, max_offset: i64) {
        self.parked.appended(topic, queue, max_offset);
    }

    fn stored(&self, batches: &[IndexBatch]) {
        self.load.stored(batches, Instant::now());
    }

    fn handed_over(&self, topic: &str, queue: u32) {
        self.load.handed_over(topic, queue, Instant::now());
        self.parked.handed_over(topic, queue);
    }

    fn membership_changed(&self, consumer_group: &str) {
        membership::notify_consumers(&self.connections, consumer_group);
        // One replica tells the nodes that have none.
        if let Some(broker) = self.broker.upgrade()
            && broker.led(self.group.0).is_some()
        {
            membership::notify_other_nodes(&broker, self.group.0, consumer_group.to_owned());
        }
    }

    fn digest(&self, nonce: u64, log_id: LogId, value: u64) {
        info!(group = self.group.1, nonce, %log_id, value = format!("{value:016x}"), "digest point");
    }

    fn leadership(&self, term: u64, leader: bool) {
        if leader {
            self.load.begin(Instant::now());
            info!(group = self.group.1, term, "became leader");
        } else {
            self.load.end();
            info!(group = self.group.1, term, "lost leadership");
        }
    }
}
