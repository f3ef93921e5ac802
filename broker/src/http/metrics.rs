//! `/metrics`: the node's own counters, and what is read from its owner at the moment of asking.

use flotilla_raft_store::log_id::LogId;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts, TextEncoder};

use super::LABELLED_SERIES_MAX;
use super::consumer_groups::{names, progress};
use super::problem::Problem;
use crate::node::Broker;

/// All figures in the text format.
pub fn render(broker: &Broker) -> Result<String, Problem> {
    let metrics = &broker.metrics;
    metrics.connections.set(integer(broker.connections.len() as u64));
    metrics.parked_pulls.set(integer(broker.parked.parked() as u64));
    let mut families = metrics.registry.gather();
    families.extend(raft(broker));
    families.extend(consumer_lag(broker));
    // The encoder refuses a family that has no series yet.
    families.retain(|family| !family.get_metric().is_empty());
    let mut text = String::new();
    let encoded = TextEncoder::new().encode_utf8(&families, &mut text);
    encoded.map_err(|error| Problem::unavailable(format!("encode metrics: {error}")))?;
    Ok(text)
}

fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn raft(broker: &Broker) -> Vec<MetricFamily> {
    let status = broker.group.status();
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
    let figures = [
        ("flotilla_raft_term", "term of the raft group", status.term),
        (
            "flotilla_raft_is_leader",
            "1 while this replica leads",
            u64::from(status.is_leader),
        ),
        (
            "flotilla_raft_has_leader",
            "1 while a leader is known here",
            u64::from(status.leader.is_some()),
        ),
        (
            "flotilla_raft_closed",
            "1 when this replica stopped by itself",
            u64::from(status.closed.is_some()),
        ),
        (
            "flotilla_raft_last_index",
            "last log index in the local log",
            index(status.last),
        ),
        (
            "flotilla_raft_flushed_index",
            "last log index flushed locally",
            index(status.flushed),
        ),
        (
            "flotilla_raft_committed_index",
            "last log index known committed",
            index(status.committed),
        ),
        (
            "flotilla_raft_applied_index",
            "last log index applied",
            index(status.applied),
        ),
        (
            "flotilla_commitlog_bytes",
            "bytes of the log files on disk",
            status.log_bytes,
        ),
        (
            "flotilla_commitlog_min_offset",
            "first log offset present",
            status.log_offsets.0,
        ),
        (
            "flotilla_commitlog_max_offset",
            "one past the last log offset",
            status.log_offsets.1,
        ),
        ("flotilla_topics", "topics", broker.state.topics().len() as u64),
    ];
    let gauges = figures.into_iter().filter_map(|(name, help, value)| {
        let gauge = IntGauge::new(name, help).ok()?;
        gauge.set(integer(value));
        Some(gauge.collect())
    });
    gauges.flatten().collect()
}

/// Bounded: the first consumer groups by name, until the limit.
fn consumer_lag(broker: &Broker) -> Vec<MetricFamily> {
    let opts = Opts::new("flotilla_consumer_lag", "messages a consumer group has not read yet");
    let Ok(gauges) = IntGaugeVec::new(opts, &["consumer_group", "topic", "queue"]) else {
        return Vec::new();
    };
    let mut series = 0;
    for name in names(broker) {
        for queue in progress(broker, &name) {
            if series == LABELLED_SERIES_MAX {
                return gauges.collect();
            }
            gauges
                .with_label_values(&[name.as_str(), &queue.topic, &queue.queue.to_string()])
                .set(queue.lag);
            series += 1;
        }
    }
    gauges.collect()
}
