//! SEND_MESSAGE, SEND_MESSAGE_V2 and SEND_BATCH_MESSAGE: where they go, and how the leader stores them.
//!
//! A message becomes one append frame; the messages of a batch become one each and go into one entry, so that their
//! queue offsets follow each other. In the fast path nothing is awaited before the proposal: messages of one
//! connection reach the log in the order they came.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use flotilla_api::limits::{MESSAGE_BYTES_MAX, PROPERTIES_BYTES_MAX};
use flotilla_api::message::{self, MessageParts, SYS_TRANSACTION_MASK};
use flotilla_api::positions::Position;
use flotilla_api::remoting::codes::{request as codes, response};
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::send::{SendMessageHeader, SendMessageResponse};
use flotilla_api::tag::java_string_hash;
use flotilla_api::{batch, message_id, names, properties, tag};
use flotilla_controller::coordinator_slots;
use flotilla_controller::metadata::Topic;
use flotilla_controller::topic::{PERM_WRITE, TopicConfig};

use super::send_properties::{self, REGION};
use super::{offset, propose};
use crate::error::{Failure, check_topic};
use crate::forward;
use crate::lanes::{Barred, Ticket};
use crate::node::{Broker, Owned};
use crate::replica::Replica;
use crate::router::Origin;
use crate::state::{AppendHeader, ForwardMark, KeyHashes, Refusal, Reply};
use crate::topic_changes;

/// Queues looked at for one whose Raft group has a leader.
const QUEUES_LOOKED_AT_MAX: usize = 64;
/// sysFlag bits a client may set: compression and its kind. Host and batch bits are the broker's.
const CLIENT_SYS_FLAGS: i32 = 0x701;

/// The queue that a send names, if it is known here.
pub fn named_queue<'a>(broker: &Broker, request: &'a RemotingCommand) -> Option<Owned<'a>> {
    let fields = SendFields::of(request.code);
    let queue = request.fields.get(fields.queue)?.parse().ok()?;
    let owned = Owned::Queue(request.fields.get(fields.topic)?, queue);
    broker.owner(owned).map(|_| owned)
}

/// A send that names no queue known here: finds one and has its owner store the message. Creates the topic if that is
/// allowed.
pub async fn to_any_queue(
    broker: &Arc<Broker>,
    mut request: RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let fields = SendFields::of(request.code);
    let named = request.fields.get(fields.queue).and_then(|queue| queue.parse().ok());
    let named = named.zip(request.fields.get(fields.topic));
    let mut ticket = named.and_then(|(queue, topic)| forward::ticket(Owned::Queue(topic, queue), origin));
    if let Some(Err(Barred::Full | Barred::Overtaken)) = ticket.as_mut().map(Ticket::take_place) {
        return Err(Failure::Busy("too many sends to this queue wait already".to_owned()));
    }
    let (topic, queue) = choose_queue(broker, &request).await?;
    request.fields.set(fields.queue, i64::from(queue));
    let owned = Owned::Queue(&topic, queue);
    let ticket = ticket.or_else(|| forward::ticket(owned, origin));
    forward::send_at_owner(broker, owned, &request, origin, ticket).await
}

/// Where a send says what it is for.
struct SendFields {
    topic: &'static str,
    queue: &'static str,
}

impl SendFields {
    /// The long names of the first version, or the letters of the second.
    fn of(code: i32) -> Self {
        match code {
            codes::SEND_MESSAGE => Self {
                topic: "topic",
                queue: "queueId",
            },
            _ => Self { topic: "b", queue: "e" },
        }
    }
}

/// Stores one message or a batch at the leader and answers once it is durable on a majority.
pub async fn send(
    broker: &Broker,
    replica: &Replica,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let header = SendMessageHeader::decode(&request.fields, request.code != codes::SEND_MESSAGE)?;
    check_name(header.topic)?;
    if broker.disk_full.load(Ordering::Relaxed) {
        let remark =
            "service not available now. It may be caused by one of the following reasons: the broker's disk is full";
        return Err(Failure::answer(response::SERVICE_NOT_AVAILABLE, remark));
    }
    let perm = broker.queues_and_perm(header.topic).map(|(_, perm)| perm);
    check_writable(header.topic, perm.unwrap_or(PERM_WRITE))?;
    let queue = u32::try_from(header.queue).map_err(|_| Failure::invalid("a forwarded send names its queue"))?;
    let generation = open_generation(replica, header.topic, queue, origin.mark)?;
    let place = Place {
        queue,
        generation,
        part: 0,
    };
    let properties = header.properties.unwrap_or_default();
    check_kind(properties, header.sys_flag)?;

    let stored;
    let (frames, unique_key) = if header.is_batch() {
        let frames = batch_frames(broker, request, origin, &header, place)?;
        (frames, properties::get(properties, properties::UNIQUE_KEY))
    } else {
        stored = send_properties::stored(properties, &broker.cluster);
        let frame = frame(broker, origin, &header, place, header.flag, &request.body, &stored)?;
        (vec![frame], properties::get(&stored, properties::UNIQUE_KEY))
    };
    store(broker, replica, request, origin, queue, frames, unique_key).await
}

/// The generation of a queue's open segment. Whoever asks while it is not open here yet, or no more, looks again.
fn open_generation(replica: &Replica, topic: &str, queue: u32, mark: Option<ForwardMark>) -> Result<u32, Failure> {
    match offset::open_generation(replica, topic, queue) {
        // It may have been stored before the queue moved, and apply knows: under its new generation it is refused.
        Err(Failure::Moved(successor)) if mark.is_some_and(|mark| mark.repeated) => Ok(successor.generation),
        generation => generation,
    }
}

/// The open segment a message goes to, and its place in its batch.
#[derive(Clone, Copy, Debug)]
struct Place {
    queue: u32,
    generation: u32,
    part: u16,
}

fn check_writable(topic: &str, perm: u8) -> Result<(), Failure> {
    if perm & PERM_WRITE == 0 {
        let remark = format!("the topic[{topic}] takes no messages");
        return Err(Failure::answer(response::NO_PERMISSION, remark));
    }
    Ok(())
}

fn check_name(topic: &str) -> Result<(), Failure> {
    check_topic(topic)?;
    if names::is_send_forbidden(topic) {
        return Err(Failure::answer(
            response::NO_PERMISSION,
            format!("the topic[{topic}] is reserved for the server"),
        ));
    }
    Ok(())
}

/// What cannot be kept yet is refused, never stored as something else.
fn check_kind(properties: &str, sys_flag: i32) -> Result<(), Failure> {
    let illegal = |remark: String| Err(Failure::answer(response::MESSAGE_ILLEGAL, remark));
    if let Some(kind) = send_properties::unsupported(properties) {
        return illegal(format!("{kind} messages are not supported by this version"));
    }
    if sys_flag & SYS_TRANSACTION_MASK != 0 {
        return illegal("transactional messages are not supported by this version".to_owned());
    }
    Ok(())
}

/// The queue asked for, or any: the same one for the same ordering key, and one with a living leader otherwise.
async fn choose_queue(broker: &Arc<Broker>, request: &RemotingCommand) -> Result<(String, u32), Failure> {
    let header = SendMessageHeader::decode(&request.fields, request.code != codes::SEND_MESSAGE)?;
    let name = header.topic;
    check_name(name)?;
    if let Ok(queue) = u32::try_from(header.queue) {
        topic_changes::confirmed_owner(broker, Owned::Queue(name, queue)).await;
    }
    let topic = match topic_changes::confirmed(broker, name).await {
        Some(topic) => topic,
        None => create_topic(broker, &header).await?,
    };
    check_writable(name, topic.config.perm)?;
    let queues = topic.config.queues;
    let queue = match u32::try_from(header.queue) {
        Ok(queue) if queue < queues => queue,
        Ok(queue) => {
            return Err(Failure::invalid(format!(
                "request queueId[{queue}] is illegal, topic[{name}] has {queues} queues"
            )));
        }
        Err(_) => match ordering_key(&header) {
            Some(key) => java_string_hash(key).rem_euclid(queues as i32) as u32,
            None => any_queue(broker, &topic),
        },
    };
    Ok((name.to_owned(), queue))
}

/// Any queue, but one whose Raft group has a leader if there is such a queue.
fn any_queue(broker: &Broker, topic: &Topic) -> u32 {
    led_queue(broker, topic, rand::random_range(0..topic.config.queues))
}

/// The first queue from `first` on whose Raft group has a leader; `first` if there is none nearby.
pub fn led_queue(broker: &Broker, topic: &Topic, first: u32) -> u32 {
    let queues = topic.config.queues;
    let led = |queue: &u32| {
        let segment = topic.open_segment(*queue);
        segment.is_some_and(|segment| broker.leadership(segment.group).leader.is_some())
    };
    let after = (first..queues).chain(0..first);
    after.take(QUEUES_LOOKED_AT_MAX).find(led).unwrap_or(first)
}

fn ordering_key<'a>(header: &SendMessageHeader<'a>) -> Option<&'a str> {
    properties::get(header.properties?, properties::SHARDING_KEY)
}

/// The rules of the template topic: the client must have asked for it, and it limits the number of queues.
async fn create_topic(broker: &Arc<Broker>, header: &SendMessageHeader<'_>) -> Result<Arc<Topic>, Failure> {
    let policy = broker.policy();
    let reserved = names::group_of_retry_topic(header.topic).is_some() || header.topic == coordinator_slots::TOPIC;
    if !policy.auto_create_topics || reserved || header.default_topic != names::AUTO_CREATE_TOPIC {
        return Err(Failure::no_topic(header.topic));
    }
    let asked = u32::try_from(header.default_topic_queues).unwrap_or_default();
    let queues = asked.clamp(1, policy.default_queues.max(1));
    let config = TopicConfig::new(header.topic, queues);
    topic_changes::create(broker, config).await?;
    broker
        .topic(header.topic)
        .ok_or_else(|| Failure::no_topic(header.topic))
}

fn batch_frames(
    broker: &Broker,
    request: &RemotingCommand,
    origin: &Origin,
    header: &SendMessageHeader<'_>,
    place: Place,
) -> Result<Vec<Bytes>, Failure> {
    let illegal = |remark: String| Failure::answer(response::MESSAGE_ILLEGAL, remark);
    if names::group_of_retry_topic(header.topic).is_some() {
        return Err(illegal("batches are not allowed to retry topics".to_owned()));
    }
    let records = batch::split(&request.body).map_err(|error| illegal(error.to_string()))?;
    let frames = records.iter().zip(0..).map(|(record, part)| {
        check_kind(record.properties(), 0)?;
        let stored = send_properties::stored_in_batch(record.properties());
        let place = Place { part, ..place };
        frame(broker, origin, header, place, record.flag, &record.body, &stored)
    });
    frames.collect()
}

/// Why a body of so many bytes is not taken; `None` if it is.
pub fn body_fault(broker: &Broker, bytes: usize) -> Option<String> {
    let bytes_max = broker.settings.policy.message_bytes_max.min(MESSAGE_BYTES_MAX);
    (bytes > bytes_max).then(|| format!("the message body has {bytes} bytes, at most {bytes_max} are allowed"))
}

fn frame(
    broker: &Broker,
    origin: &Origin,
    header: &SendMessageHeader<'_>,
    place: Place,
    flag: i32,
    body: &[u8],
    properties: &str,
) -> Result<Bytes, Failure> {
    let illegal = |remark: String| Failure::answer(response::MESSAGE_ILLEGAL, remark);
    if let Some(fault) = body_fault(broker, body.len()) {
        return Err(illegal(fault));
    }
    if properties.len() > PROPERTIES_BYTES_MAX {
        return Err(illegal(format!(
            "the properties have more than {PROPERTIES_BYTES_MAX} bytes"
        )));
    }
    let topic = header.topic;
    let append = AppendHeader {
        topic,
        queue: place.queue,
        generation: place.generation,
        tag_hash: tag::tag_hash(properties),
        store_time: propose::now_ms(),
        keys: KeyHashes::of(
            topic,
            properties::get(properties, properties::UNIQUE_KEY),
            properties::get(properties, properties::KEYS),
        ),
        mark: origin.mark.map(|mark| ForwardMark {
            part: place.part,
            ..mark
        }),
    };
    let parts = MessageParts {
        topic,
        queue: place.queue,
        flag,
        sys_flag: header.sys_flag & CLIENT_SYS_FLAGS,
        born_timestamp: header.born_timestamp,
        born_host: origin.client,
        store_timestamp: 0,
        store_host: origin.store_host,
        reconsume_times: header.reconsume_times.unwrap_or_default(),
        prepared_transaction_offset: 0,
        body,
        properties,
        queue_offset: 0,
        position: 0,
    };
    let length = append.encoded_len() + message::encoded_len(topic, body.len(), properties);
    let mut frame = BytesMut::with_capacity(length);
    append.put(&mut frame);
    message::encode(&parts, &mut frame).map_err(|error| illegal(error.to_string()))?;
    Ok(frame.freeze())
}

async fn store(
    broker: &Broker,
    replica: &Replica,
    request: &RemotingCommand,
    origin: &Origin,
    queue: u32,
    frames: Vec<Bytes>,
    unique_key: Option<&str>,
) -> Result<RemotingCommand, Failure> {
    let messages = frames.len() as u64;
    let proposed = replica.group.propose(frames).await?;
    let mut ids = String::new();
    let mut first_offset = None;
    for (slot, reply) in (proposed.first_slot..).zip(proposed.replies) {
        let (log_index, slot, queue_offset) = match reply {
            Reply::Appended { queue_offset, .. } => (proposed.log_id.index, slot, queue_offset),
            Reply::Repeated(stored) => (stored.log_index, stored.slot, stored.queue_offset),
            // Final: sent again it would be as unknown.
            Reply::Refused(refusal @ Refusal::Forgotten) => {
                let remark = Failure::Unknown(refusal.to_string()).code_and_remark().1;
                return Err(Failure::answer(response::SYSTEM_ERROR, remark));
            }
            // It was not open yet: surely nothing is stored, and whoever asked looks again.
            Reply::Refused(refusal @ (Refusal::StaleGeneration | Refusal::QueueOutOfRange)) => {
                return Err(Failure::Unavailable(refusal.to_string()));
            }
            // A batch goes to one queue, so that either all of it is refused or nothing.
            Reply::Refused(refusal) => return Err(refusal.into()),
            reply => return Err(Failure::Unknown(format!("unexpected reply {reply:?}"))),
        };
        first_offset.get_or_insert(queue_offset);
        let position = Position::new(replica.number, log_index, slot)
            .ok_or_else(|| Failure::Unknown("the log is longer than positions can name".to_owned()))?;
        if !ids.is_empty() {
            ids.push(',');
        }
        ids.push_str(&message_id::encode(origin.store_host.into(), position.as_i64()));
    }
    broker.metrics.messages_in.inc_by(messages);
    broker.metrics.message_bytes_in.inc_by(request.body.len() as u64);

    let mut answer = RemotingCommand::response(request, response::SUCCESS);
    let header = SendMessageResponse {
        message_id: &ids,
        queue: i32::try_from(queue).unwrap_or(i32::MAX),
        queue_offset: first_offset.unwrap_or_default(),
        transaction_id: unique_key,
        batch_unique_id: None,
        recall_handle: None,
        region: Some(REGION),
        trace_on: Some(true),
    };
    header.encode(&mut answer.fields);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_would_need_more_than_storing_are_refused() {
        for (properties, sys_flag) in [
            ("DELAY\u{1}3\u{2}", 0),
            ("TIMER_DELAY_MS\u{1}5\u{2}", 0),
            ("TRAN_MSG\u{1}true\u{2}", 0),
            ("", 4),
        ] {
            let failure = check_kind(properties, sys_flag).unwrap_err();
            assert_eq!(failure.code_and_remark().0, 13, "{properties:?} {sys_flag}");
        }
        assert_eq!(
            check_kind("DELAY\u{1}0\u{2}TRAN_MSG\u{1}false\u{2}TAGS\u{1}A\u{2}", 1),
            Ok(())
        );
    }

    #[test]
    fn names_are_checked_with_their_codes() {
        assert_eq!(check_name("a topic").unwrap_err().code_and_remark().0, 29);
        assert_eq!(check_name("SCHEDULE_TOPIC_XXXX").unwrap_err().code_and_remark().0, 16);
        assert_eq!(check_name("%RETRY%G"), Ok(()));
    }
}
