//! Consumer groups: who is in them, and how far they are. Members are known to the Raft group that has the coordinator
//! slot, progress to the Raft groups of the queues.
//!
//! While a slot is on its way two Raft groups may tell of it, or none at the moments they are asked: of two answers the
//! newer segment's counts, and a slot that nobody told of is asked for again. A group that only put the slot aside is
//! believed when all others were asked as well, and none of them has it open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use flotilla_api::http::{ConsumerGroup, ConsumerMember, ConsumerQueue};
use flotilla_api::remoting::language;
use flotilla_controller::coordinator_slots::{SLOTS, TOPIC, slot};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::execute::{Read, read_all};
use super::json::{document, items};
use super::operation::Part;
use super::problem::Problem;
use crate::node::{Broker, Owned};
use crate::replica::Replica;
use crate::state;

/// How long it is looked for a slot that no Raft group told of.
const SLOTS_WAIT_MAX: Duration = Duration::from_secs(2);
/// Before it is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What one Raft group knows of the coordinator slots that it has.
#[derive(Debug, Default, Serialize, Deserialize)]
struct SlotsHere {
    /// Which they are: the generation of the segment of each, and whether it is open.
    slots: BTreeMap<u32, (u32, bool)>,
    /// Their consumer groups.
    groups: ByGroup<Coordinated>,
}

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
    let coordinated = coordinated(broker, None).await;
    let described = describe(broker, recorded, coordinated).await;
    Ok(Read {
        value: items(described.value.iter().map(document).collect()),
        stale: described.stale,
    })
}

/// `GET /v1/consumer-groups/{group}`.
pub async fn one(broker: &Arc<Broker>, consumer_group: &str) -> Result<Read<Value>, Problem> {
    let coordinated = coordinated(broker, Some(consumer_group)).await;
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

/// The consumer groups of all coordinator slots, or one of them.
async fn coordinated(broker: &Arc<Broker>, consumer_group: Option<&str>) -> Read<ByGroup<Coordinated>> {
    let part = Part::Members {
        consumer_group: consumer_group.map(str::to_owned),
    };
    let wanted = match consumer_group {
        _ if broker.any_topic(TOPIC).is_none() => Vec::new(),
        Some(name) => vec![slot(name)],
        None => (0..SLOTS).collect(),
    };
    let mut owner = consumer_group.and_then(|name| broker.owner(Owned::Members(name)));
    let deadline = Instant::now() + SLOTS_WAIT_MAX;
    loop {
        let asked = owner.map_or_else(|| all_groups(broker), |owner| vec![owner]);
        let mut stale = false;
        let mut answers = Vec::new();
        for (_, found) in read_all(broker, &asked, &part).await {
            stale |= found.as_ref().is_none_or(|found| found.stale);
            answers.extend(found.and_then(|found| serde_json::from_value::<SlotsHere>(found.value).ok()));
        }
        let (value, complete) = newest(answers, &wanted, owner.is_none());
        if complete || stale || Instant::now() >= deadline {
            return Read {
                value,
                stale: stale || !complete,
            };
        }
        // Not where this process thinks it is, or on its way.
        if owner.take().is_none() {
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// What the newest segment of each slot tells, and whether that is all that is wanted. Where not `all_asked` a slot may be
/// open elsewhere that was put aside.
fn newest(answers: Vec<SlotsHere>, wanted: &[u32], all_asked: bool) -> (ByGroup<Coordinated>, bool) {
    let mut newest: BTreeMap<u32, (u32, bool, usize)> = BTreeMap::new();
    for (answer, place) in answers.iter().zip(0..) {
        for (slot, (generation, is_open)) in &answer.slots {
            let known = newest.entry(*slot).or_default();
            *known = (*known).max((*generation, *is_open, place));
        }
    }
    let told = |slot: &u32| newest.get(slot).is_some_and(|(_, is_open, _)| *is_open || all_asked);
    let complete = wanted.iter().all(told);
    let mut groups = BTreeMap::new();
    for (answer, place) in answers.into_iter().zip(0..) {
        let is_newest = |name: &str| newest.get(&slot(name)).is_some_and(|(.., newest)| *newest == place);
        groups.extend(answer.groups.into_iter().filter(|(name, _)| is_newest(name)));
    }
    (groups, complete)
}

/// How far consumer groups are in the queues of all Raft groups.
async fn progress_everywhere(broker: &Arc<Broker>, topics: ByGroup<Vec<String>>) -> Read<ByGroup<Vec<ConsumerQueue>>> {
    let mut table: ByGroup<Vec<ConsumerQueue>> = BTreeMap::new();
    let mut stale = false;
    for (_, found) in read_all(broker, &all_groups(broker), &Part::Progress { topics }).await {
        stale |= found.as_ref().is_none_or(|found| found.stale);
        let found = found.and_then(|found| serde_json::from_value::<ByGroup<_>>(found.value).ok());
        for (name, queues) in found.unwrap_or_default() {
            table.entry(name).or_default().extend::<Vec<_>>(queues);
        }
    }
    Read { value: table, stale }
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
    let mut progress = progress_everywhere(broker, topics).await;
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

/// Members and topics of the consumer groups that a replica coordinates, or one of them.
pub fn members(replica: &Replica, consumer_group: Option<&str>) -> Value {
    let here = replica.state.with(|state| {
        let groups = state.consumer_groups_here();
        let wanted = groups.filter(|(name, _)| consumer_group.is_none_or(|wanted| wanted == *name));
        let slots = state.slots_here().into_iter();
        SlotsHere {
            slots: slots
                .map(|(slot, here)| (slot, (here.generation, here.is_open)))
                .collect(),
            groups: wanted
                .map(|(name, group)| (name.to_owned(), coordinated_by(group)))
                .collect(),
        }
    });
    json!(here)
}

fn coordinated_by(group: &state::ConsumerGroup) -> Coordinated {
    let members = group.members.values().map(|member| ConsumerMember {
        client_id: member.client_id.clone(),
        node: member.node.clone(),
        language: language::name(member.language).to_owned(),
        version: member.version,
    });
    Coordinated {
        members: members.collect(),
        topics: group.subscriptions.keys().cloned().collect(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer about the slot of "CG", with one member.
    fn answer(generation: u32, is_open: bool, client_id: &str) -> SlotsHere {
        let member = ConsumerMember {
            client_id: client_id.to_owned(),
            ..ConsumerMember::default()
        };
        let group = Coordinated {
            members: vec![member],
            topics: Vec::new(),
        };
        SlotsHere {
            slots: BTreeMap::from([(slot("CG"), (generation, is_open))]),
            groups: BTreeMap::from([("CG".to_owned(), group)]),
        }
    }

    fn told(answers: Vec<SlotsHere>, all_asked: bool) -> (Vec<String>, bool) {
        let (groups, complete) = newest(answers, &[slot("CG")], all_asked);
        let members = groups.into_values().flat_map(|group| group.members);
        (members.map(|member| member.client_id).collect(), complete)
    }

    #[test]
    fn of_two_answers_the_newer_segments_counts_and_of_none_nothing_is_made_up() {
        let one = |client: &str, complete| (vec![client.to_owned()], complete);
        assert_eq!(told(vec![answer(1, true, "a")], false), one("a", true));
        assert_eq!(
            told(vec![answer(1, false, "a")], false),
            one("a", false),
            "it may be open elsewhere"
        );
        assert_eq!(told(vec![answer(1, false, "a")], true), one("a", true));
        for both in [
            vec![answer(4, true, "new"), answer(1, false, "old")],
            vec![answer(1, true, "old"), answer(4, true, "new")],
        ] {
            assert_eq!(told(both, true), one("new", true));
        }
        assert_eq!(told(vec![SlotsHere::default()], true), (Vec::new(), false));
    }
}
