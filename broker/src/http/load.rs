//! The load of Raft groups as their leaders measured it: of one as it is shown, of all as plans are made by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_api::http;
use flotilla_controller::planning::{GroupLoad, Loads, Rate};
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout_at;

use super::execute::at_leader;
use super::operation::Part;
use crate::load_meter::GroupRates;
use crate::node::Broker;
use crate::replica::Replica;

/// How long the leaders of all groups may take together.
const GATHER_MAX: Duration = Duration::from_secs(3);
/// Leaders asked at a time.
const ASKED_MAX: usize = 64;
/// Queues that a leader tells of one by one, those with the most load; the others only count for the group.
const QUEUES_TOLD_MAX: usize = 10_000;

/// What a leader tells.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Report {
    /// By the topic's id at the controllers and the queue's number.
    queues: Vec<(u64, u32, Rate)>,
    others: Rate,
}

/// A rate as it is shown.
pub fn shown(rate: Rate) -> http::Rate {
    http::Rate {
        messages: rate.messages.round() as u64,
        bytes: rate.bytes.round() as u64,
    }
}

/// What a replica measured, if it leads, and for long enough to tell.
fn measured(replica: &Replica) -> Option<GroupRates> {
    let rates = replica.load.rates(Instant::now())?;
    rates.is_settled().then_some(rates)
}

/// All that comes into the Raft group of a replica; `None` if it does not lead, or not long enough to tell.
pub fn of_group(replica: &Replica) -> Option<Rate> {
    measured(replica).map(|rates| rates.all())
}

/// What comes into the queues of a topic that are open in the Raft group of a replica. Empty if it does not lead.
pub fn of_topic(replica: &Replica, topic: &str) -> BTreeMap<u32, Rate> {
    let rates = replica.load.rates_of(topic, Instant::now());
    let Some(rates) = rates else { return BTreeMap::new() };
    let open = replica.state.queues_of(topic).into_iter();
    open.map(|queue| (queue, rates.get(&queue).copied().unwrap_or_default()))
        .collect()
}

/// What [`gather`] asks of a leader; nothing if it cannot tell.
pub fn report(replica: &Replica) -> Value {
    let Some(rates) = measured(replica) else {
        return Value::Null;
    };
    let mut report = Report {
        others: rates.others,
        ..Report::default()
    };
    replica.state.with(|state| {
        for (name, queue, rate) in rates.queues {
            // What was deleted, or moved meanwhile, is nobody's load any more.
            if let Some(topic) = state.topics.get(&name)
                && state.topics.queue(&name, queue).is_some()
            {
                report.queues.push((topic.uid, queue, rate));
            }
        }
    });
    if report.queues.len() > QUEUES_TOLD_MAX {
        report.queues.sort_by_key(|(_, _, rate)| std::cmp::Reverse(rate.load()));
        for (_, _, rate) in report.queues.drain(QUEUES_TOLD_MAX..) {
            report.others += rate;
        }
    }
    json!(report)
}

/// Asks the leaders of all Raft groups. Those that do not answer in time are missing.
pub async fn gather(broker: &Arc<Broker>) -> Loads {
    let deadline = tokio::time::Instant::now() + GATHER_MAX;
    let asked = broker.groups().into_iter().map(|(group, _)| async move {
        let answer = at_leader(broker, group, &Part::Load).await.ok()?;
        let report: Report = serde_json::from_value(answer.body).ok()?;
        Some((group, report))
    });
    let mut answers = stream::iter(asked).buffer_unordered(ASKED_MAX);
    let mut loads = Loads::default();
    while let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await {
        let Some((group, report)) = answer else { continue };
        let queues = report.queues.into_iter();
        let load = GroupLoad {
            queues: queues.map(|(topic, queue, rate)| ((topic, queue), rate)).collect(),
            others: report.others,
        };
        loads.insert(group, load);
    }
    loads
}
