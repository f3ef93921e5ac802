//! Topics and their queues.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use flotilla_api::http::{Queue, QueueSegment, Queues, Retention, Topic, TopicSettings, TopicType};
use flotilla_api::names::{is_system_topic, validate_topic};
use flotilla_controller::metadata;
use flotilla_controller::planning::Rate;
use flotilla_controller::topic::{TopicConfig, TopicKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::Answer;
use super::execute::{Read, epoch, read_all};
use super::json::{document, format_duration, items, parse_duration};
use super::load;
use super::operation::Part;
use super::problem::Problem;
use crate::node::Broker;
use crate::replica::Replica;
use crate::topic_changes;

/// `GET /v1/topics`.
pub fn list(broker: &Broker) -> Value {
    let topics: Vec<_> = broker
        .metadata
        .read(|metadata| metadata.user_topics().cloned().collect());
    items(
        topics
            .iter()
            .map(|topic| document(&topic_document(broker, topic)))
            .collect(),
    )
}

/// `GET /v1/topics/{topic}`.
pub fn one(broker: &Broker, topic: &str) -> Result<Value, Problem> {
    Ok(document(&topic_document(broker, &*find(broker, topic)?)))
}

fn find(broker: &Broker, topic: &str) -> Result<Arc<metadata::Topic>, Problem> {
    broker
        .topic(topic)
        .ok_or_else(|| Problem::not_found(format!("topic {topic} does not exist")))
}

fn topic_document(broker: &Broker, topic: &metadata::Topic) -> Topic {
    let config = topic.config.clone();
    Topic {
        topic: config.name,
        queues: config.queues,
        kind: match config.kind {
            TopicKind::Unspecified => TopicType::Unspecified,
            TopicKind::Normal => TopicType::Normal,
            TopicKind::Fifo => TopicType::Fifo,
            TopicKind::Delay => TopicType::Delay,
            TopicKind::Transaction => TopicType::Transaction,
        },
        perm: config.perm,
        retention: Retention {
            time: config.retention_ms.map(format_duration),
            bytes: config.retention_bytes,
        },
        groups: topic
            .groups()
            .into_iter()
            .map(|group| broker.group_name(group))
            .collect(),
        pinned: topic.pinned.iter().map(|group| broker.group_name(*group)).collect(),
        attributes: config.attributes,
    }
}

/// `PUT /v1/topics/{topic}`: 201 when it is new, 200 when it was there.
pub async fn put(broker: &Arc<Broker>, topic: &str, settings: &TopicSettings) -> Result<Answer, Problem> {
    validate_topic(topic).map_err(|error| Problem::malformed(error.to_string()).refused())?;
    if is_system_topic(topic) {
        return Err(Problem::new(StatusCode::CONFLICT, format!("{topic} is a system topic")).refused());
    }
    topic_changes::catch_up(broker).await;
    let number = |group: &String| {
        let number = broker.metadata.read(|metadata| metadata.group_number(group));
        number.ok_or_else(|| Problem::malformed(format!("raft group {group} does not exist")).refused())
    };
    let groups = settings.groups.as_ref();
    let groups: Option<Vec<u16>> = groups.map(|groups| groups.iter().map(number).collect()).transpose()?;
    let default_queues = broker.policy().default_queues;
    let change = |existing: Option<TopicConfig>| {
        let config = existing.unwrap_or_else(|| TopicConfig::new(topic, default_queues));
        changed(config, settings)
    };
    let (created, _) = topic_changes::change(broker, topic, groups, change).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(Answer {
        status: status.as_u16(),
        body: one(broker, topic)?,
        epoch: epoch(broker),
    })
}

/// A topic's settings with what is asked for.
fn changed(mut config: TopicConfig, settings: &TopicSettings) -> Result<TopicConfig, Problem> {
    if let Some(queues) = settings.queues {
        config.queues = queues;
    }
    if let Some(kind) = settings.kind {
        config.kind = match kind {
            TopicType::Unspecified => TopicKind::Unspecified,
            TopicType::Normal => TopicKind::Normal,
            TopicType::Fifo => TopicKind::Fifo,
            TopicType::Delay => TopicKind::Delay,
            TopicType::Transaction => TopicKind::Transaction,
        };
    }
    if let Some(retention) = &settings.retention {
        config.retention_ms = match &retention.time {
            Some(text) => Some(parse_duration(text).ok_or_else(|| {
                Problem::malformed(format!("retention.time: `{text}` is not a duration such as 72h")).refused()
            })?),
            None => None,
        };
        config.retention_bytes = retention.bytes;
    }
    Ok(config)
}

/// `DELETE /v1/topics/{topic}`.
pub async fn delete(broker: &Arc<Broker>, topic: &str) -> Result<Answer, Problem> {
    let epoch = topic_changes::delete(broker, topic).await?;
    Ok(Answer {
        status: StatusCode::NO_CONTENT.as_u16(),
        body: Value::Null,
        epoch,
    })
}

/// How far the segments of a topic's queues reach that one Raft group has.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Bounds {
    /// By queue number: generation, minimum and maximum offset of each segment.
    queues: BTreeMap<u32, Vec<(u32, i64, i64)>>,
    /// By queue number, what comes in.
    #[serde(default)]
    rates: BTreeMap<u32, Rate>,
}

/// [`Bounds`] of a replica.
pub fn bounds(replica: &Replica, topic: &str) -> Value {
    let mut bounds = Bounds {
        rates: load::of_topic(replica, topic),
        ..Bounds::default()
    };
    for (queue, segment) in replica.state.segments_of(topic) {
        let segment = (segment.generation, segment.min_offset, segment.max_offset);
        bounds.queues.entry(queue).or_default().push(segment);
    }
    json!(bounds)
}

/// `GET /v1/topics/{topic}/queues`.
pub async fn queues(broker: &Arc<Broker>, name: &str) -> Result<Read<Value>, Problem> {
    let topic = find(broker, name)?;
    let part = Part::Queues { topic: name.to_owned() };
    let mut stale = false;
    let mut rates: BTreeMap<u32, Rate> = BTreeMap::new();
    let mut known: BTreeMap<u32, BTreeMap<u32, (i64, i64)>> = BTreeMap::new();
    for (_, found) in read_all(broker, &broker.groups_of(&topic), &part).await {
        stale |= found.as_ref().is_none_or(|found| found.stale);
        let bounds = found.and_then(|found| serde_json::from_value::<Bounds>(found.value).ok());
        let bounds = bounds.unwrap_or_default();
        rates.extend(bounds.rates);
        for (queue, segments) in bounds.queues {
            let segments = segments.into_iter();
            let by_generation = segments.map(|(generation, min, max)| (generation, (min, max)));
            known.entry(queue).or_default().extend(by_generation);
        }
    }
    let queues = topic.queues.iter().zip(0..).filter_map(|(segments, queue)| {
        let open = segments.last()?;
        let known = known.get(&queue);
        let reach = |segment: &metadata::Segment| known.and_then(|known| known.get(&segment.generation).copied());
        let (open_min, max_offset) = reach(open).unwrap_or((open.start, open.start));
        let mut readable = segments.iter().filter_map(reach).filter(|(min, max)| min < max);
        let min_offset = readable.next().map_or(open_min, |(min, _)| min);
        Some(Queue {
            queue,
            group: broker.group_name(open.group),
            leader: broker.leadership(open.group).leader.as_deref().map(str::to_owned),
            min_offset,
            max_offset,
            rate: rates.get(&queue).copied().map(load::shown),
            segments: segments
                .iter()
                .map(|segment| segment_document(broker, segment))
                .collect(),
        })
    });
    let queues = Queues {
        topic: name.to_owned(),
        epoch: epoch(broker),
        queues: queues.collect(),
    };
    Ok(Read {
        value: json!(queues),
        stale,
    })
}

fn segment_document(broker: &Broker, segment: &metadata::Segment) -> QueueSegment {
    QueueSegment {
        generation: u64::from(segment.generation),
        group: broker.group_name(segment.group),
        start_offset: segment.start,
        end_offset: segment.end,
    }
}
