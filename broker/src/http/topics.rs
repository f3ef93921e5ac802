//! Topics and their queues.

use axum::http::StatusCode;
use flotilla_api::http::{Queue, QueueSegment, Queues, Retention, Topic, TopicSettings, TopicType};
use flotilla_api::names::{is_system_topic, validate_topic};
use serde_json::{Value, json};

use super::answer::Answer;
use super::execute::epoch;
use super::json::{document, format_duration, items, parse_duration};
use super::problem::Problem;
use crate::handlers::propose::now_ms;
use crate::node::Broker;
use crate::state::{Command, Reply, TopicConfig, TopicKind};

/// `GET /v1/topics`.
pub fn list(broker: &Broker) -> Value {
    items(
        broker
            .state
            .topics()
            .into_iter()
            .map(|config| document(&topic_document(broker, config)))
            .collect(),
    )
}

/// `GET /v1/topics/{topic}`.
pub fn one(broker: &Broker, topic: &str) -> Result<Value, Problem> {
    Ok(document(&topic_document(broker, find(broker, topic)?)))
}

fn find(broker: &Broker, topic: &str) -> Result<TopicConfig, Problem> {
    broker
        .state
        .topic(topic)
        .ok_or_else(|| Problem::not_found(format!("topic {topic} does not exist")))
}

fn topic_document(broker: &Broker, config: TopicConfig) -> Topic {
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
        groups: vec![broker.group_name.clone()],
        attributes: config.attributes,
    }
}

/// `PUT /v1/topics/{topic}`: 201 when it is new, 200 when it was there.
pub async fn put(broker: &Broker, topic: &str, settings: &TopicSettings) -> Result<Answer, Problem> {
    validate_topic(topic).map_err(|error| Problem::malformed(error.to_string()).refused())?;
    if is_system_topic(topic) {
        return Err(Problem::new(StatusCode::CONFLICT, format!("{topic} is a system topic")).refused());
    }
    let groups = settings.groups.iter().flatten();
    if let Some(unknown) = groups.into_iter().find(|group| **group != broker.group_name) {
        return Err(Problem::malformed(format!("raft group {unknown} does not exist")).refused());
    }
    // What is changed below is what every earlier change left.
    broker.group.read_index().await.map_err(crate::error::Failure::from)?;
    let existing = broker.state.topic(topic);
    let status = if existing.is_some() {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let mut config = existing.unwrap_or_else(|| TopicConfig::new(topic, broker.settings.policy.default_queues));
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
    propose(
        broker,
        &Command::PutTopic {
            config,
            if_absent: false,
            now_ms: now_ms(),
        },
    )
    .await?;
    Ok(Answer {
        status: status.as_u16(),
        body: one(broker, topic)?,
        epoch: epoch(broker),
    })
}

/// `DELETE /v1/topics/{topic}`.
pub async fn delete(broker: &Broker, topic: &str) -> Result<Answer, Problem> {
    propose(
        broker,
        &Command::DeleteTopic {
            topic: topic.to_owned(),
        },
    )
    .await?;
    Ok(Answer {
        status: StatusCode::NO_CONTENT.as_u16(),
        body: Value::Null,
        epoch: epoch(broker),
    })
}

async fn propose(broker: &Broker, command: &Command) -> Result<(), Problem> {
    let proposed = broker.group.propose(vec![command.encode()]).await?;
    match proposed.replies.into_iter().next() {
        Some(Reply::Refused(refusal)) => Err(refusal.into()),
        _ => Ok(()),
    }
}

/// `GET /v1/topics/{topic}/queues`.
pub fn queues(broker: &Broker, topic: &str) -> Result<Value, Problem> {
    let config = find(broker, topic)?;
    let leader = broker.group.leadership().leader;
    let queues = (0..config.queues).filter_map(|queue| {
        let bounds = broker.state.queue_bounds(topic, queue)?;
        let segment = QueueSegment {
            generation: u64::from(bounds.generation),
            group: broker.group_name.clone(),
            start_offset: 0,
            end_offset: None,
        };
        Some(Queue {
            queue,
            group: broker.group_name.clone(),
            leader: leader.as_deref().map(str::to_owned),
            min_offset: bounds.min_offset,
            max_offset: bounds.max_offset,
            segments: vec![segment],
        })
    });
    let queues = Queues {
        topic: topic.to_owned(),
        epoch: epoch(broker),
        queues: queues.collect(),
    };
    Ok(json!(queues))
}
