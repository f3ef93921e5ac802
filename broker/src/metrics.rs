//! What a node counts. One registry a node, so that several nodes in one process keep their figures apart.
//!
//! Counters and histograms are written where things happen; what has an owner elsewhere (Raft status, consumer lag)
//! is read from it when `/metrics` is asked, see `http/metrics.rs`. Label values are bounded: request codes, purposes
//! and outcomes are closed sets, consumer lag has its own limit.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets};

/// The figures of one node.
#[derive(Debug)]
pub struct Metrics {
    /// Where all of them are registered.
    pub registry: Registry,
    /// Messages stored for producers that asked this node.
    pub messages_in: IntCounter,
    /// Their body bytes.
    pub message_bytes_in: IntCounter,
    /// Messages handed to consumers by this node.
    pub messages_out: IntCounter,
    /// Their stored bytes.
    pub message_bytes_out: IntCounter,
    /// Remoting requests by code.
    pub requests: IntCounterVec,
    /// Remoting answers by code.
    pub responses: IntCounterVec,
    /// Requests this node passed on to the leader.
    pub forwarded: IntCounter,
    /// Requests other nodes passed on to this one.
    pub forwarded_in: IntCounter,
    /// Open client connections.
    pub connections: IntGauge,
    /// Connections refused at the limit.
    pub connections_refused: IntCounter,
    /// Pulls waiting for a message.
    pub parked_pulls: IntGauge,
    /// From a decoded send to its answer.
    pub send_seconds: Histogram,
    /// From a decoded pull that found messages to its answer.
    pub pull_seconds: Histogram,
    /// How long syncing a file of a log to disk takes.
    pub flush_seconds: Histogram,
    /// How long applying an entry takes.
    pub apply_seconds: Histogram,
    /// From sending a request to another node to its answer.
    pub forward_seconds: Histogram,
    /// Requests passed on more than once, because a leader could not be found or died.
    pub forward_retries: IntCounter,
    /// Bytes sent to other nodes, by purpose of the connection.
    pub transfer_bytes: IntCounterVec,
    /// Moves of queues, by outcome.
    pub queue_moves: IntCounterVec,
    /// How long moves took.
    pub queue_move_seconds: Histogram,
    /// How long queues had no writer.
    pub writer_pause_seconds: Histogram,
    /// Connections of other nodes refused in the handshake, by reason.
    pub peers_refused: IntCounterVec,
}

impl Metrics {
    /// A registry with everything in it.
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help));
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        let counters = |name: &str, help: &str, label: &str| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), &[label]))
        };
        let seconds = |name: &str, help: &str| {
            let buckets = exponential_buckets(0.000_031_25, 2.0, 19).expect("positive start and factor");
            register(
                &registry,
                Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)),
            )
        };
        let metrics = Self {
            messages_in: counter(
                "flotilla_messages_in_total",
                "messages stored for producers that asked this node",
            ),
            message_bytes_in: counter("flotilla_message_bytes_in_total", "body bytes of those messages"),
            messages_out: counter("flotilla_messages_out_total", "messages handed to consumers"),
            message_bytes_out: counter("flotilla_message_bytes_out_total", "stored bytes of those messages"),
            requests: counters("flotilla_requests_total", "remoting requests", "code"),
            responses: counters("flotilla_responses_total", "remoting answers", "code"),
            forwarded: counter("flotilla_forwarded_total", "requests passed on to the leader"),
            forwarded_in: counter("flotilla_forwarded_in_total", "requests passed on to this node"),
            connections: gauge("flotilla_connections", "open client connections"),
            connections_refused: counter("flotilla_connections_refused_total", "connections refused at the limit"),
            parked_pulls: gauge("flotilla_parked_pulls", "pulls waiting for a message"),
            send_seconds: seconds("flotilla_send_seconds", "from a decoded send to its answer"),
            pull_seconds: seconds("flotilla_pull_seconds", "from a decoded pull to its answer"),
            flush_seconds: seconds("flotilla_flush_seconds", "syncing a file of a log to disk"),
            apply_seconds: seconds("flotilla_apply_seconds", "applying an entry"),
            forward_seconds: seconds("flotilla_forward_seconds", "from passing a request on to its answer"),
            forward_retries: counter(
                "flotilla_forward_retries_total",
                "requests passed on again, because a leader was not found or died",
            ),
            queue_moves: counters(
                "flotilla_queue_moves_total",
                "queues that left a raft group led here, and moves given up",
                "outcome",
            ),
            queue_move_seconds: seconds("flotilla_queue_move_seconds", "from taking a move up to its end"),
            writer_pause_seconds: seconds(
                "flotilla_queue_move_writer_pause_seconds",
                "from sealing a segment of a queue to the opening of the next",
            ),
            transfer_bytes: counters(
                "flotilla_group_transfer_bytes_total",
                "bytes sent to other nodes",
                "purpose",
            ),
            peers_refused: counters("flotilla_peers_refused_total", "peer connections refused", "reason"),
            registry,
        };
        // There from the start, so that a 0 can be told from nothing.
        metrics.segment_bytes();
        metrics
    }
}

impl Metrics {
    /// Bytes of segments sent to other Raft groups. Nothing sends any: this says so where it can be watched.
    pub fn segment_bytes(&self) -> IntCounter {
        self.transfer_bytes.with_label_values(&["segment"])
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn register<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("metric names are valid");
    registry
        .register(Box::new(collector.clone()))
        .expect("metric names differ");
    collector
}
