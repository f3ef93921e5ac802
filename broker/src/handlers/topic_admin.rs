//! Topics as tools see and change them.

use std::sync::Arc;

use flotilla_api::names;
use flotilla_api::remoting::bodies::{self, MessageQueue, TopicConfigTable, TopicList, TopicOffset, TopicStatsTable};
use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::topic::{CreateTopicHeader, TopicHeader, TopicPageHeader, TopicPageResponse};

use flotilla_controller::state::Refusal;
use flotilla_controller::topic::{PERM_READ, PERM_WRITE, TopicConfig, TopicKind};

use super::offset;
use crate::controllers::NoController;
use crate::error::{Failure, check_topic};
use crate::node::Broker;
use crate::route;
use crate::topic_changes;

/// The attribute that says what kind of messages a topic is for.
const MESSAGE_TYPE: &str = "message.type";

/// A topic as tools see it.
fn shown(topic: TopicConfig) -> bodies::TopicConfig {
    let mut attributes = topic.attributes;
    attributes
        .entry(MESSAGE_TYPE.to_owned())
        .or_insert_with(|| kind_name(topic.kind).to_owned());
    bodies::TopicConfig {
        attributes,
        order: topic.order,
        perm: i32::from(topic.perm),
        read_queues: topic.queues,
        topic_name: topic.name,
        write_queues: topic.queues,
        ..bodies::TopicConfig::default()
    }
}

fn kind_name(kind: TopicKind) -> &'static str {
    match kind {
        TopicKind::Unspecified => "UNSPECIFIED",
        TopicKind::Normal => "NORMAL",
        TopicKind::Fifo => "FIFO",
        TopicKind::Delay => "DELAY",
        TopicKind::Transaction => "TRANSACTION",
    }
}

fn kind_named(name: &str) -> Result<TopicKind, Failure> {
    TopicKind::ALL
        .into_iter()
        .find(|kind| kind_name(*kind).eq_ignore_ascii_case(name))
        .ok_or_else(|| Failure::answer(response::SYSTEM_ERROR, format!("{MESSAGE_TYPE} {name:?} is not known")))
}

/// UPDATE_AND_CREATE_TOPIC. What tools tell every broker the controller is told as often, which changes nothing more.
pub async fn put(broker: &Arc<Broker>, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = CreateTopicHeader::decode(&request.fields)?;
    check_user_topic(header.topic)?;
    topic_changes::change(broker, header.topic, None, |existing| changed(existing, &header)).await?;
    Ok(RemotingCommand::response(request, response::SUCCESS))
}

fn check_user_topic(topic: &str) -> Result<(), Failure> {
    check_topic(topic)?;
    if names::is_system_topic(topic) {
        return Err(Failure::invalid(format!(
            "the topic[{topic}] is reserved for the server"
        )));
    }
    Ok(())
}

/// The configuration after a request of a tool.
fn changed(existing: Option<TopicConfig>, header: &CreateTopicHeader<'_>) -> Result<TopicConfig, Failure> {
    let queues = header.read_queues.max(header.write_queues);
    let queues = u32::try_from(queues).ok().filter(|queues| *queues > 0);
    let queues = queues.ok_or_else(|| Failure::invalid("a topic needs at least one queue"))?;
    let mut config = existing.unwrap_or_else(|| TopicConfig::new(header.topic, queues));
    config.queues = queues;
    config.perm = u8::try_from(header.perm).unwrap_or_default() & (PERM_READ | PERM_WRITE);
    config.order = header.order.unwrap_or_default();
    for change in header
        .attributes
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
    {
        change_attribute(&mut config, change)?;
    }
    Ok(config)
}

/// `+key=value` sets, `-key` removes.
fn change_attribute(config: &mut TopicConfig, change: &str) -> Result<(), Failure> {
    let wrong = || {
        Failure::answer(
            response::SYSTEM_ERROR,
            format!("attribute change {change:?} is not understood"),
        )
    };
    if let Some(set) = change.strip_prefix('+') {
        let (key, value) = set.split_once('=').ok_or_else(wrong)?;
        if key == MESSAGE_TYPE {
            config.kind = kind_named(value)?;
        }
        config.attributes.insert(key.to_owned(), value.to_owned());
        return Ok(());
    }
    let key = change.strip_prefix('-').ok_or_else(wrong)?;
    if key == MESSAGE_TYPE {
        config.kind = TopicKind::Normal;
    }
    config.attributes.remove(key).map(drop).ok_or_else(wrong)
}

/// DELETE_TOPIC_IN_BROKER. A topic that does not exist is deleted already: tools ask every broker.
pub async fn delete(broker: &Arc<Broker>, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let topic = TopicHeader::decode(&request.fields)?.topic;
    check_user_topic(topic)?;
    match topic_changes::delete(broker, topic).await {
        Ok(_) | Err(NoController::Refused(Refusal::TopicNotExist)) => {
            Ok(RemotingCommand::response(request, response::SUCCESS))
        }
        Err(error) => Err(error.into()),
    }
}

/// GET_TOPIC_CONFIG; confirmed with the controllers if it is not known here.
pub async fn topic_config(broker: &Arc<Broker>, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let name = TopicHeader::decode(&request.fields)?.topic;
    let topic = topic_changes::confirmed(broker, name).await;
    let topic = topic.ok_or_else(|| Failure::no_topic(name))?;
    Ok(RemotingCommand::response(request, response::SUCCESS).with_body(shown(topic.config.clone()).to_bytes()))
}

/// GET_ALL_TOPIC_CONFIG, in pages if asked so.
pub fn all_topic_configs(broker: &Broker, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let header = TopicPageHeader::decode(&request.fields)?;
    let topics = broker.topics();
    let total = i32::try_from(topics.len()).unwrap_or(i32::MAX);
    let (skip, take) = page(header.topic_sequence, header.max_topics);
    let shown = topics
        .into_iter()
        .skip(skip)
        .take(take)
        .map(|topic| (topic.name.clone(), shown(topic)));
    let body = TopicConfigTable {
        topics: shown.collect(),
        ..TopicConfigTable::default()
    };
    let mut answer = RemotingCommand::response(request, response::SUCCESS);
    TopicPageResponse {
        total_topics: Some(total),
    }
    .encode(&mut answer.fields);
    Ok(answer.with_body(body.to_bytes()))
}

/// Entries to skip and to take; everything without a page number.
pub fn page(sequence: Option<i32>, entries_max: Option<i32>) -> (usize, usize) {
    const PAGE_ENTRIES_MAX: usize = 2_000;
    let number = |value: Option<i32>| value.and_then(|value| usize::try_from(value).ok());
    match number(sequence) {
        None => (0, usize::MAX),
        Some(skip) => (
            skip,
            number(entries_max)
                .unwrap_or(PAGE_ENTRIES_MAX)
                .clamp(1, PAGE_ENTRIES_MAX),
        ),
    }
}

/// GET_ALL_TOPIC_LIST_FROM_NAMESERVER.
pub fn all_topics(broker: &Broker, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let topics = broker
        .metadata
        .read(|metadata| metadata.user_topics().map(|topic| topic.config.name.clone()).collect());
    let body = TopicList {
        broker_address: None,
        topics,
    };
    Ok(RemotingCommand::response(request, response::SUCCESS).with_body(body.to_bytes()))
}

/// GET_SYSTEM_TOPIC_LIST_FROM_BROKER.
pub fn system_topics(request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let topics = vec![names::AUTO_CREATE_TOPIC.to_owned(), names::SCHEDULE_TOPIC.to_owned()];
    let body = TopicList {
        broker_address: None,
        topics,
    };
    Ok(RemotingCommand::response(request, response::SUCCESS).with_body(body.to_bytes()))
}

/// GET_TOPIC_STATS_INFO: the bounds of the queues led here. Tools ask every node and put the answers together.
pub async fn stats(broker: &Arc<Broker>, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let name = TopicHeader::decode(&request.fields)?.topic;
    let topic = topic_changes::confirmed(broker, name).await;
    let topic = topic.ok_or_else(|| Failure::no_topic(name))?;
    let mut table = TopicStatsTable::default();
    for group in topic.groups() {
        let Some(replica) = broker.led(group) else { continue };
        replica.group.read_index().await?;
        for queue in replica.state.queues_of(name) {
            let Some(bounds) = replica.state.queue_bounds(name, queue) else {
                continue;
            };
            let sealed = broker.segments(name, queue).len() > 1;
            let min_offset = match sealed {
                true => offset::first(broker, name, queue).await?,
                false => bounds.min_offset,
            };
            let offset = TopicOffset {
                last_update_timestamp: bounds.last_store_time.max(0),
                max_offset: bounds.max_offset,
                min_offset,
            };
            table.offsets.push((message_queue(broker, name, queue), offset));
        }
    }
    Ok(RemotingCommand::response(request, response::SUCCESS).with_body(table.to_bytes()))
}

/// A queue under the name clients know all queues by.
pub fn message_queue(broker: &Broker, topic: &str, queue: u32) -> MessageQueue {
    MessageQueue {
        broker_name: route::queue_name(&broker.cluster),
        queue: i32::try_from(queue).unwrap_or(i32::MAX),
        topic: topic.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(attributes: Option<&str>) -> CreateTopicHeader<'_> {
        CreateTopicHeader {
            topic: "T",
            default_topic: None,
            read_queues: 4,
            write_queues: 8,
            perm: 7,
            topic_filter_type: None,
            topic_sys_flag: None,
            order: None,
            attributes,
            force: None,
        }
    }

    #[test]
    fn a_new_topic_takes_the_larger_number_and_no_template_bit() {
        let config = changed(None, &header(Some("+message.type=FIFO,+reserve.time=-1"))).unwrap();
        assert_eq!((config.queues, config.perm, config.kind), (8, 6, TopicKind::Fifo));
        assert_eq!(shown(config).attributes["reserve.time"], "-1");
        assert_eq!(shown(TopicConfig::new("T", 1)).attributes[MESSAGE_TYPE], "NORMAL");
    }

    #[test]
    fn attributes_change_one_by_one() {
        let fifo = changed(None, &header(Some("+message.type=FIFO"))).unwrap();
        let normal = changed(Some(fifo.clone()), &header(Some("-message.type"))).unwrap();
        assert_eq!(normal.kind, TopicKind::Normal);
        assert!(normal.attributes.is_empty());
        assert!(
            changed(Some(normal), &header(Some("-message.type"))).is_err(),
            "it is not there"
        );
        assert!(
            changed(Some(fifo), &header(Some("message.type=DELAY"))).is_err(),
            "neither + nor -"
        );
        assert!(changed(None, &header(Some("+message.type=ODD"))).is_err());
    }

    #[test]
    fn pages() {
        assert_eq!(page(None, None), (0, usize::MAX));
        assert_eq!(page(Some(0), Some(9_999)), (0, 2_000));
        assert_eq!(page(Some(40), Some(20)), (40, 20));
    }
}
