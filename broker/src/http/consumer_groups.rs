//! Consumer groups: who is in them, and how far they are. Members are known to the coordinator's Raft group, progress
//! to the Raft groups of the queues.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flotilla_api::http::{ConsumerGroup, ConsumerMember, ConsumerQueue};
use flotilla_api::remoting::language;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::execute::{Read, read_all};
use super::json::{document, items};
use super::operation::Part;
use super::problem::Problem;
use crate::node::{Broker, Owned};
use crate::replica::Replica;

/// What a coordinator knows of a consumer group.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Coordinated {
    members: Vec<ConsumerMember>,
    topics: Vec<String>,
}

type ByGroup<T> = BTreeMap<String, T>;

/// `GET /v1/consumer-groups`.
pub async fn list(broker: &Arc<Broker>) -> Result<Read<Value>, Problem> {
    let recorded = broker
        .metadata
        .read(|metadata| metadata.subscription_groups.keys().cloned().collect::<Vec<_>>());
    let coordinated = coordinated(broker, &all_groups(broker), None).await;
    let described = describe(broker, recorded, coordinated).await;
    Ok(Read {
        value: items(described.value.iter().map(document).collect()),
        stale: described.stale,
    })
}

/// `GET /v1/consumer-groups/{group}`.
pub async fn one(broker: &Arc<Broker>, consumer_group: &str) -> Result<Read<Value>, Problem> {
    let coordinator: Vec<u16> = broker.owner(Owned::Members(consumer_group)).into_iter().collect();
    let coordinated = coordinated(broker, &coordinator, Some(consumer_group)).await;
    let recorded = broker
        .subscription_group(consumer_group)
        .map(|_| consumer_group.to_owned());
    let mut described = describe(broker, recorded, coordinated).await;
    let group = described.value.pop().ok_or_else(|| {
        let detail = format!("consumer group {consumer_group} does not exist");
        Problem::not_found(detail)
    })?;
    Ok(Read {
        value: document(&group),
        stale: described.stale,
    })
}

fn all_groups(broker: &Broker) -> Vec<u16> {
    broker.groups().into_iter().map(|(number, _)| number).collect()
}

async fn coordinated(
    broker: &Arc<Broker>,
    coordinators: &[u16],
    consumer_group: Option<&str>,
) -> Read<ByGroup<Coordinated>> {
    let part = Part::Members {
        consumer_group: consumer_group.map(str::to_owned),
    };
    merged(broker, coordinators, &part).await
}

/// The answers of several Raft groups as one table; what two of them say of one key is put together by `extend`.
async fn merged<T: serde::de::DeserializeOwned + Merge>(
    broker: &Arc<Broker>,
    groups: &[u16],
    part: &Part,
) -> Read<ByGroup<T>> {
    let mut table: ByGroup<T> = BTreeMap::new();
    let mut stale = false;
    for (_, found) in read_all(broker, groups, part).await {
        stale |= found.as_ref().is_none_or(|found| found.stale);
        let found = found.and_then(|found| serde_json::from_value::<ByGroup<T>>(found.value).ok());
        for (name, value) in found.unwrap_or_default() {
            match table.get_mut(&name) {
                Some(known) => known.merge(value),
                None => drop(table.insert(name, value)),
            }
        }
    }
    Read { value: table, stale }
}

trait Merge {
    fn merge(&mut self, other: Self);
}

impl Merge for Coordinated {
    fn merge(&mut self, other: Self) {
        self.members.extend(other.members);
        self.topics.extend(other.topics);
    }
}

impl Merge for Vec<ConsumerQueue> {
    fn merge(&mut self, other: Self) {
        self.extend(other);
    }
}

async fn describe(
    broker: &Arc<Broker>,
    recorded: impl IntoIterator<Item = String>,
    mut coordinated: Read<ByGroup<Coordinated>>,
) -> Read<Vec<ConsumerGroup>> {
    for name in recorded {
        coordinated.value.entry(name).or_default();
    }
    let topics = coordinated.value.iter();
    let topics = topics
        .map(|(name, known)| (name.clone(), known.topics.clone()))
        .collect();
    let mut progress: Read<ByGroup<Vec<ConsumerQueue>>> =
        merged(broker, &all_groups(broker), &Part::Progress { topics }).await;
    let described = coordinated.value.into_iter().map(|(name, known)| {
        let mut queues = progress.value.remove(&name).unwrap_or_default();
        queues.sort_by(|left, right| (&left.topic, left.queue).cmp(&(&right.topic, right.queue)));
        ConsumerGroup {
            name,
            members: known.members,
            queues,
        }
    });
    Read {
        value: described.collect(),
        stale: coordinated.stale || progress.stale,
    }
}

/// Members and topics of the consumer groups that a replica coordinates, by name.
pub fn members(replica: &Replica, consumer_group: Option<&str>) -> Value {
    let names = match consumer_group {
        Some(name) => vec![name.to_owned()],
        None => replica.state.active_consumer_groups(),
    };
    let known = names.into_iter().filter_map(|name| {
        let members = replica.state.members(&name).into_iter().map(|member| ConsumerMember {
            client_id: member.client_id,
            node: member.node,
            language: language::name(member.language).to_owned(),
            version: member.version,
        });
        let subscriptions = replica.state.subscriptions(&name).into_iter();
        let known = Coordinated {
            members: members.collect(),
            topics: subscriptions.map(|subscription| subscription.topic).collect(),
        };
        (!known.members.is_empty()).then_some((name, known))
    });
    json!(known.collect::<ByGroup<_>>())
}

/// How far consumer groups are in a replica's queues, by name.
pub fn progress_document(replica: &Replica, topics: &ByGroup<Vec<String>>) -> Value {
    let progress = topics
        .iter()
        .map(|(name, topics)| (name, progress(replica, name, topics)));
    json!(progress.collect::<BTreeMap<_, _>>())
}

/// How far a consumer group is in every queue here that it has read or subscribes to.
pub fn progress(replica: &Replica, consumer_group: &str, topics: &[String]) -> Vec<ConsumerQueue> {
    let state = &replica.state;
    let read = state.consumer_offsets_of(consumer_group).into_iter();
    let mut queues: BTreeSet<(String, u32)> = read.map(|(topic, queue, _)| (topic, queue)).collect();
    for topic in topics {
        let here = state.queues_of(topic).into_iter();
        queues.extend(here.map(|queue| (topic.clone(), queue)));
    }
    let progress = queues.into_iter().filter_map(|(topic, queue)| {
        let bounds = state.queue_bounds(&topic, queue)?;
        let consumer_offset = state.consumer_offset(consumer_group, &topic, queue);
        // What is before the open segment lies in others, and may be unread there.
        let segment = state.segment(&topic, queue, bounds.generation)?;
        let from = match consumer_offset {
            Some(offset) if segment.start > 0 && offset < segment.start => offset,
            Some(offset) => offset.max(bounds.min_offset),
            None => bounds.min_offset,
        };
        let lag = (bounds.max_offset - from).max(0);
        Some(ConsumerQueue {
            topic,
            queue,
            consumer_offset,
            max_offset: bounds.max_offset,
            lag,
        })
    });
    progress.collect()
}
