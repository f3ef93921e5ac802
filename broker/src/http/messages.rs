//! Reading stored messages, and sending one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use flotilla_api::http::{Message, SendReceipt, SendRequest};
use flotilla_api::message as wire;
use flotilla_api::message_id;
use flotilla_api::positions::Position;
use flotilla_api::properties;
use flotilla_api::remoting::codes::{request, response};
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::send::{SendMessageHeader, SendMessageResponse};
use serde_json::Value;

use super::answer::Answer;
use super::execute::{Read, epoch, read, read_all};
use super::json::{document, items};
use super::operation::{Part, Selection};
use super::problem::Problem;
use crate::error::Failure;
use crate::handlers::message::{find_by_key, locate};
use crate::handlers::propose::now_ms;
use crate::handlers::send::{body_fault, led_queue};
use crate::handlers::stored::{Copied, EntryReader};
use crate::machine::Located;
use crate::message_body::plain_body;
use crate::node::{Broker, Owned};
use crate::replica::Replica;
use crate::router::{self, Origin};

/// Most messages of one answer.
const MESSAGES_MAX: usize = 100;
/// Most stored bytes of one answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// The producer group of messages sent over HTTP.
const PRODUCER_GROUP: &str = "flotilla-http";
/// Where the next message without a queue goes.
static NEXT_QUEUE: AtomicU32 = AtomicU32::new(0);

/// `GET /v1/messages`: one message by id or place; a list by key, or by place with `max`.
pub async fn find(broker: &Arc<Broker>, selection: &Selection) -> Result<Read<Value>, Problem> {
    match selection {
        Selection {
            id: Some(id), topic, ..
        } => by_id(broker, id, topic.as_deref()).await,
        Selection {
            topic: Some(topic),
            queue: Some(queue),
            offset: Some(offset),
            max,
            ..
        } => {
            let owner = broker.owner(Owned::Segment(topic, *queue, *offset));
            let owner = owner.ok_or_else(|| Problem::not_found(format!("queue {queue} of {topic} does not exist")))?;
            let part = Part::Place {
                topic: topic.clone(),
                queue: *queue,
                offset: *offset,
                max: *max,
            };
            read(broker, owner, &part).await
        }
        Selection {
            topic: Some(topic),
            key: Some(key),
            max,
            ..
        } => {
            let max = max.unwrap_or(MESSAGES_MAX).clamp(1, MESSAGES_MAX);
            let found = by_key(broker, topic, key, max).await?;
            Ok(Read {
                value: items(found.value),
                stale: found.stale,
            })
        }
        _ => Err(Problem::malformed(
            "give topic, queue and offset; or topic and key; or id",
        )),
    }
}

async fn by_id(broker: &Arc<Broker>, id: &str, topic: Option<&str>) -> Result<Read<Value>, Problem> {
    let not_found = || Problem::not_found(format!("no message {id}"));
    let position = message_id::decode(id).and_then(|(_, position)| Position::from_i64(position));
    let group = position.map(|position| position.group());
    let group = group.filter(|group| broker.metadata.read(|metadata| metadata.groups.contains_key(group)));
    if let (Some(group), Some(position)) = (group, position) {
        let part = Part::Position {
            position: position.as_i64(),
        };
        let found = read(broker, group, &part).await?;
        if !found.value.is_null() {
            return Ok(found);
        }
    }
    // A client's own id is a key, and keys belong to topics.
    let topic = topic.ok_or_else(not_found)?;
    let mut found = by_key(broker, topic, id, 1).await?;
    Ok(Read {
        value: found.value.pop().ok_or_else(not_found)?,
        stale: found.stale,
    })
}

/// Messages with a key in all Raft groups of a topic, newest first.
async fn by_key(broker: &Arc<Broker>, name: &str, key: &str, max: usize) -> Result<Read<Vec<Value>>, Problem> {
    let topic = broker
        .topic(name)
        .ok_or_else(|| Problem::not_found(format!("topic {name} does not exist")))?;
    let part = Part::Key {
        topic: name.to_owned(),
        key: key.to_owned(),
        max,
    };
    let (mut messages, mut stale) = (Vec::new(), false);
    for (_, found) in read_all(broker, &broker.groups_of(&topic), &part).await {
        stale |= found.as_ref().is_none_or(|found| found.stale);
        if let Some(Value::Array(found)) = found.map(|found| found.value) {
            messages.extend(found);
        }
    }
    messages.sort_by_key(|message| std::cmp::Reverse(message["stored_at"].as_i64()));
    messages.truncate(max);
    Ok(Read { value: messages, stale })
}

/// The message at a position of a replica; `null` if there is none.
pub async fn at_position(replica: &Replica, position: i64) -> Result<Value, Problem> {
    let Some(position) = Position::from_i64(position) else {
        return Ok(Value::Null);
    };
    let Some(located) = locate(replica, position).await? else {
        return Ok(Value::Null);
    };
    Ok(read_located(replica, vec![located]).await?.pop().unwrap_or_default())
}

/// Messages of a queue that a replica has.
pub async fn by_place(
    replica: &Replica,
    topic: &str,
    queue: u32,
    offset: i64,
    max: Option<usize>,
) -> Result<Value, Problem> {
    let bounds = replica.state.segment_at(topic, queue, offset);
    let bounds = bounds.ok_or_else(|| Problem::not_found(format!("queue {queue} of {topic} does not exist")))?;
    let not_found = || {
        let (min, max) = (bounds.min_offset, bounds.max_offset);
        Problem::not_found(format!(
            "no message at queue offset {offset}: the queue holds {min} up to before {max}"
        ))
    };
    if max.is_none() && !(bounds.min_offset..bounds.max_offset).contains(&offset) {
        return Err(not_found());
    }
    let wanted = max.unwrap_or(1).clamp(1, MESSAGES_MAX);
    let located = replica
        .state
        .locate(topic, queue, offset.max(bounds.min_offset), wanted);
    let located = located.map_err(|error| Problem::from(Failure::storage(&error)))?;
    let mut found = read_located(replica, located).await?;
    if max.is_some() {
        Ok(items(found))
    } else {
        found.pop().ok_or_else(not_found)
    }
}

/// Messages with a key that a replica has: a list.
pub async fn with_key(replica: &Replica, topic: &str, key: &str, max: usize) -> Result<Value, Problem> {
    let found = find_by_key(replica, topic, key, 0..=i64::MAX, max).await?;
    let located = found.into_iter().map(|found| found.located).collect();
    let mut messages = read_located(replica, located).await?;
    // The index holds hashes; the message says which keys it has.
    messages.retain(|message| {
        let listed = message["keys"]
            .as_array()
            .is_some_and(|keys| keys.iter().any(|listed| listed == key));
        listed || message["properties"][properties::UNIQUE_KEY] == key
    });
    Ok(Value::Array(messages))
}

async fn read_located(replica: &Replica, located: Vec<Located>) -> Result<Vec<Value>, Problem> {
    let storage = |error: std::io::Error| Problem::from(Failure::storage(&error));
    let mut reader = EntryReader::new(replica);
    let mut messages = Vec::with_capacity(located.len());
    let mut bytes = 0;
    for located in located {
        let mut copy = BytesMut::new();
        if bytes > ANSWER_BYTES_MAX
            || reader.copy(&located, usize::MAX, &mut copy).await.map_err(storage)? != Copied::Yes
        {
            continue;
        }
        bytes += copy.len();
        let stored = wire::decode(&copy)
            .map_err(|error| storage(std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string())))?;
        messages.push(document(&message_document(replica, stored)));
    }
    Ok(messages)
}

fn message_document(replica: &Replica, stored: wire::StoredMessage) -> Message {
    // A body that cannot be unfolded is shown as it is stored.
    let body = plain_body(stored.sys_flag, &stored.body).unwrap_or_else(|_| stored.body.clone());
    Message {
        message_id: message_id::encode(stored.store_host, stored.position),
        topic: stored.topic,
        queue: stored.queue,
        offset: stored.queue_offset,
        body_base64: BASE64.encode(body),
        tag: properties::get(&stored.properties, properties::TAGS).map(str::to_owned),
        keys: properties::get(&stored.properties, properties::KEYS)
            .map(|keys| keys.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default(),
        properties: properties::decode(&stored.properties),
        born_at: stored.born_timestamp,
        stored_at: stored.store_timestamp,
        group: replica.name.clone(),
    }
}

/// `POST /v1/topics/{topic}/messages`: goes the way of any client's send.
pub async fn send(broker: &Arc<Broker>, topic: &str, new: SendRequest) -> Result<Answer, Problem> {
    check_properties(&new)?;
    let body = match (new.body, new.body_base64) {
        (Some(text), None) => Bytes::from(text),
        (None, Some(text)) => match BASE64.decode(text) {
            Ok(bytes) => bytes.into(),
            Err(error) => return Err(Problem::malformed(format!("body_base64: {error}")).refused()),
        },
        _ => return Err(Problem::malformed("give either body or body_base64").refused()),
    };
    if let Some(fault) = body_fault(broker, body.len()) {
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, fault).refused());
    }
    let known = broker.topic(topic).filter(|topic| topic.config.queues > 0);
    let queue = match (new.queue, &new.ordering_key, known) {
        (Some(queue), ..) => i32::try_from(queue).map_err(|_| Problem::malformed("queue: out of range").refused())?,
        // Whose queue it is follows from the key; a topic unknown here is looked up, created or refused on its way.
        (None, Some(_), _) | (None, _, None) => -1,
        (None, None, Some(topic)) => {
            let next = NEXT_QUEUE.fetch_add(1, Ordering::Relaxed) % topic.config.queues;
            i32::try_from(led_queue(broker, &topic, next)).unwrap_or(-1)
        }
    };
    let unique_key = format!("{:032X}", rand::random::<u128>());
    let keys = new.keys.join(" ");
    let named = [
        (properties::UNIQUE_KEY, Some(unique_key.as_str())),
        (properties::WAIT, Some("true")),
        (properties::TAGS, new.tag.as_deref()),
        (properties::KEYS, Some(keys.as_str()).filter(|keys| !keys.is_empty())),
        (properties::SHARDING_KEY, new.ordering_key.as_deref()),
    ];
    let named = named.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let own = new
        .properties
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let properties = properties::encode(own.chain(named));
    let mut command = RemotingCommand::request(request::SEND_MESSAGE_V2).with_body(body);
    let header = SendMessageHeader {
        producer_group: PRODUCER_GROUP,
        topic,
        default_topic: flotilla_api::names::AUTO_CREATE_TOPIC,
        default_topic_queues: i32::try_from(broker.policy().default_queues).unwrap_or(i32::MAX),
        queue,
        born_timestamp: now_ms(),
        properties: Some(&properties),
        ..SendMessageHeader::default()
    };
    header.encode(&mut command.fields, true);
    let answer = router::handle(broker, command, Origin::local(broker)).await;
    receipt(answer).map(|receipt| Answer {
        status: 200,
        body: document(&receipt),
        epoch: epoch(broker),
    })
}

/// What the layout of properties cannot hold would be left out.
fn check_properties(new: &SendRequest) -> Result<(), Problem> {
    let single = [("tag", &new.tag), ("ordering_key", &new.ordering_key)];
    let single = single
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let keys = new.keys.iter().map(|key| ("keys", key));
    let own = new
        .properties
        .iter()
        .flat_map(|(name, value)| [("properties", name), ("properties", value)]);
    for (name, text) in single.chain(keys).chain(own) {
        if !properties::writable(text) {
            let detail = format!("{name}: empty, or with U+0001 or U+0002 in it");
            return Err(Problem::malformed(detail).refused());
        }
    }
    Ok(())
}

fn receipt(answer: Option<RemotingCommand>) -> Result<SendReceipt, Problem> {
    let answer = answer.ok_or_else(|| Problem::unavailable("no answer").unknown())?;
    let remark = answer.remark.clone().unwrap_or_default();
    let refused = |status| Err(Problem::new(status, remark.clone()).refused());
    match answer.code {
        response::SUCCESS => {
            let stored = SendMessageResponse::decode(&answer.fields)
                .map_err(|error| Problem::unavailable(format!("garbled answer: {error}")).unknown())?;
            Ok(SendReceipt {
                message_id: stored.message_id.to_owned(),
                queue: u32::try_from(stored.queue).unwrap_or_default(),
                offset: stored.queue_offset,
            })
        }
        response::TOPIC_NOT_EXIST => refused(StatusCode::NOT_FOUND),
        response::NO_PERMISSION => refused(StatusCode::CONFLICT),
        response::SYSTEM_BUSY => refused(StatusCode::TOO_MANY_REQUESTS),
        response::SERVICE_NOT_AVAILABLE => refused(StatusCode::SERVICE_UNAVAILABLE),
        response::SYSTEM_ERROR if remark.starts_with("[UNKNOWN]") => Err(Problem::unavailable(remark).unknown()),
        _ => refused(StatusCode::BAD_REQUEST),
    }
}
