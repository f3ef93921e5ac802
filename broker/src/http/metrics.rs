//! `/metrics`: the node's own counters, and what is read from its owner at the moment of asking.

use flotilla_api::http::Rate;
use flotilla_controller::coordinator_slots;
use flotilla_raft_store::group::GroupStatus;
use flotilla_raft_store::log_id::LogId;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts, TextEncoder};

use super::LABELLED_SERIES_MAX;
use super::consumer_groups::progress;
use super::load;
use super::problem::Problem;
use crate::coordinators;
use crate::node::Broker;
use crate::replica::Replica;

/// All figures in the text format.
pub fn render(broker: &Broker) -> Result<String, Problem> {
    let metrics = &broker.metrics;
    metrics.connections.set(integer(broker.connections.len() as u64));
    metrics.parked_pulls.set(integer(broker.parked.parked() as u64));
    let mut families = metrics.registry.gather();
    families.extend(cluster(broker));
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

/// One figure of a replica.
type Figure = (&'static str, &'static str, fn(&Replica, &GroupStatus) -> u64);

fn index(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index)
}

fn rate(replica: &Replica) -> Rate {
    load::shown(load::of_group(replica).unwrap_or_default())
}

const FIGURES: [Figure; 14] = [
    ("flotilla_raft_term", "term of the raft group", |_, status| status.term),
    ("flotilla_raft_is_leader", "1 while this replica leads", |_, status| {
        u64::from(status.is_leader)
    }),
    (
        "flotilla_raft_has_leader",
        "1 while a leader is known here",
        |_, status| u64::from(status.leader.is_some()),
    ),
    (
        "flotilla_raft_closed",
        "1 when this replica stopped by itself",
        |_, status| u64::from(status.closed.is_some()),
    ),
    (
        "flotilla_raft_last_index",
        "last log index in the local log",
        |_, status| index(status.last),
    ),
    (
        "flotilla_raft_flushed_index",
        "last log index flushed locally",
        |_, status| index(status.flushed),
    ),
    (
        "flotilla_raft_committed_index",
        "last log index known committed",
        |_, status| index(status.committed),
    ),
    ("flotilla_raft_applied_index", "last log index applied", |_, status| {
        index(status.applied)
    }),
    (
        "flotilla_commitlog_bytes",
        "bytes of the log files on disk",
        |_, status| status.log_bytes,
    ),
    (
        "flotilla_commitlog_min_offset",
        "first log offset present",
        |_, status| status.log_offsets.0,
    ),
    (
        "flotilla_commitlog_max_offset",
        "one past the last log offset",
        |_, status| status.log_offsets.1,
    ),
    (
        "flotilla_group_topics",
        "topics with queues in the raft group",
        |replica, _| {
            let names = replica.state.topic_names();
            names.iter().filter(|name| *name != coordinator_slots::TOPIC).count() as u64
        },
    ),
    (
        "flotilla_group_messages_in_per_second",
        "messages that come into the raft group, on average over the last minutes; 0 where it is not led",
        |replica, _| rate(replica).messages,
    ),
    (
        "flotilla_group_bytes_in_per_second",
        "stored bytes of those messages",
        |replica, _| rate(replica).bytes,
    ),
];

fn raft(broker: &Broker) -> Vec<MetricFamily> {
    let replicas: Vec<_> = broker
        .replicas
        .all()
        .into_iter()
        .map(|replica| (replica.group.status(), replica))
        .collect();
    let families = FIGURES.iter().filter_map(|(name, help, figure)| {
        let gauges = IntGaugeVec::new(Opts::new(*name, *help), &["group"]).ok()?;
        for (status, replica) in &replicas {
            gauges
                .with_label_values(&[replica.name.as_str()])
                .set(integer(figure(replica, status)));
        }
        Some(gauges.collect())
    });
    families.flatten().collect()
}

fn cluster(broker: &Broker) -> Vec<MetricFamily> {
    let (topics, groups, nodes) = broker
        .metadata
        .read(|metadata| (metadata.user_topic_count(), metadata.groups.len(), metadata.nodes.len()));
    let leading = broker.groups().into_iter();
    let leading = leading.filter(|(number, _)| broker.leadership(*number).leader.is_some());
    let figures = [
        ("flotilla_topics", "topics", topics as u64),
        ("flotilla_groups", "raft groups", groups as u64),
        (
            "flotilla_groups_with_leader",
            "raft groups with a leader as this process sees it",
            leading.count() as u64,
        ),
        ("flotilla_nodes", "nodes", nodes as u64),
        (
            "flotilla_metadata_epoch",
            "epoch of this process's copy of the metadata",
            broker.metadata.epoch(),
        ),
    ];
    let gauges = figures.into_iter().filter_map(|(name, help, value)| {
        let gauge = IntGauge::new(name, help).ok()?;
        gauge.set(integer(value));
        Some(gauge.collect())
    });
    gauges.flatten().collect()
}

/// Of the queues led here, so that the cluster's figures add up. Bounded: the first consumer groups by name, until the
/// limit.
fn consumer_lag(broker: &Broker) -> Vec<MetricFamily> {
    let opts = Opts::new("flotilla_consumer_lag", "messages a consumer group has not read yet");
    let Ok(gauges) = IntGaugeVec::new(opts, &["consumer_group", "topic", "queue"]) else {
        return Vec::new();
    };
    let names: Vec<String> = broker
        .metadata
        .read(|metadata| metadata.subscription_groups.keys().cloned().collect());
    let led = broker.replicas.led();
    let mut series = 0;
    for name in names {
        let topics = coordinators::last_here(broker, &name, |group| {
            let subscriptions = group.into_iter().flat_map(|group| group.subscriptions.keys());
            subscriptions.cloned().collect::<Vec<String>>()
        });
        let topics = topics.unwrap_or_default();
        for queue in led.iter().flat_map(|replica| progress(replica, &name, &topics)) {
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
