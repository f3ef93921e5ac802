//! What a plan comes to, in words and figures: why each queue moves, and what every Raft group has before and after.

use std::collections::BTreeMap;

use super::layout::{Layout, group_name};
use super::loads::Rate;
use super::{Plan, PlannedGroup, PlannedMove};
use crate::metadata::Metadata;

/// The moves that lead to a layout, explained.
pub fn plan(layout: &Layout<'_>, metadata: &Metadata) -> Plan {
    let mut groups = layout.before.clone();
    let moved = layout.topics.iter().flat_map(|topic| {
        let queues = topic.queues.iter().filter_map(|queue| {
            let to = layout.groups[queue.place?];
            (to != queue.from).then_some((topic.name, queue, to))
        });
        queues.collect::<Vec<_>>()
    });
    let moved: Vec<_> = moved.collect();
    for (_, queue, to) in &moved {
        if let Some(from) = groups.get_mut(&queue.from) {
            from.after.queues -= 1;
            if let Some(rate) = &mut from.after.rate {
                *rate -= queue.rate;
            }
        }
        if let Some(to) = groups.get_mut(to) {
            to.after.queues += 1;
            if let Some(rate) = &mut to.after.rate {
                *rate += queue.rate;
            }
        }
    }
    let counts = TopicCounts::of(layout);
    let moves = moved.iter().map(|(topic, queue, to)| PlannedMove {
        topic: (*topic).to_owned(),
        queue: queue.number,
        from: queue.from,
        to: *to,
        reason: reason(metadata, &counts, &groups, topic, queue.from, *to),
    });
    Plan {
        moves: moves.collect(),
        groups: groups.into_values().collect(),
    }
}

/// How many queues of each topic were where before any of the moves.
struct TopicCounts<'a>(BTreeMap<&'a str, BTreeMap<u16, usize>>);

impl<'a> TopicCounts<'a> {
    fn of(layout: &Layout<'a>) -> Self {
        let topics = layout.topics.iter().map(|topic| {
            let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
            let fixed = topic.fixed.iter().map(|(place, count)| (layout.groups[*place], *count));
            let movable = topic.queues.iter().map(|queue| (queue.from, 1));
            for (group, count) in fixed.chain(movable) {
                *counts.entry(group).or_default() += count;
            }
            (topic.name, counts)
        });
        Self(topics.collect())
    }
}

fn reason(
    metadata: &Metadata,
    counts: &TopicCounts<'_>,
    groups: &BTreeMap<u16, PlannedGroup>,
    topic: &str,
    from: u16,
    to: u16,
) -> String {
    let (source, target) = (group_name(metadata, from), group_name(metadata, to));
    if metadata.groups.get(&from).is_none_or(|group| group.draining) {
        return format!("drain of {source}");
    }
    if metadata.topics.get(topic).is_some_and(|topic| !topic.may_be_in(from)) {
        return format!("pins: {source} is none of the topic's groups");
    }
    let own = |group: u16| counts.0[topic].get(&group).copied().unwrap_or(0);
    let all = |group: u16| groups.get(&group).map_or(0, |group| group.before.queues);
    let why = if own(from) > own(to) + 1 {
        format!("{source} has {} queues of the topic, {target} {}", own(from), own(to))
    } else if all(from) > all(to) {
        format!("{source} has {} queues, {target} {}", all(from), all(to))
    } else {
        format!("evens out what {source} and {target} carry")
    };
    let of = |group: u16| groups.get(&group).map(|group| (group.before.rate, group.after.rate));
    let (first, second) = (of(from).unwrap_or_default(), of(to).unwrap_or_default());
    let is_idle =
        |(before, after): (Option<Rate>, Option<Rate>)| [before, after].into_iter().flatten().all(Rate::is_none);
    if is_idle(first) && is_idle(second) {
        return format!("rebalance: {why}");
    }
    let figures = |name: &str, rates: (Option<Rate>, Option<Rate>)| match rates {
        (Some(before), Some(after)) => format!("{name} takes in {before}, then {after}"),
        _ => format!("what {name} takes in was not measured"),
    };
    format!(
        "rebalance: {why}; {}; {}",
        figures(source, first),
        figures(target, second)
    )
}
