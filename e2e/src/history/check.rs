//! The checks on a [`History`]. Pure: a history in, violations out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::{Dump, History, Outcome, Place, Send};

/// Most violations that a report prints; the count is always whole.
const PRINTED_MAX: usize = 20;

/// A promise that the history breaks.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A full read jumps over an offset, or stops before the end.
    Gap {
        dump: usize,
        expected: Place,
        found: Option<i64>,
    },
    /// Two readers, or one at two times, saw different messages at one place.
    Changed { place: Place, one: String, other: String },
    /// A later read ends before an earlier one.
    EndWentBack { queue: u32, from: i64, to: i64 },
    /// An acknowledged message is not at its place in a read made after all sends.
    Lost {
        value: String,
        place: Place,
        found: Option<String>,
    },
    /// A refused message was seen.
    FailedSeen { value: String, place: Place },
    /// A value that nobody sent was seen.
    NeverSent { value: String, place: Place },
    /// More copies than tries.
    TooManyCopies {
        value: String,
        copies: usize,
        tries_max: usize,
    },
    /// A send was acknowledged before another began, and stands behind it.
    Reordered {
        queue: u32,
        earlier: (String, i64),
        later: (String, i64),
    },
    /// A consumer offset went back.
    ConsumerOffsetBack { queue: u32, from: i64, to: i64 },
    /// A message of the last read that no consumer received.
    NotReceived { value: String, place: Place },
}

/// What a check found, with the size of what it looked at.
#[derive(Debug, Default)]
pub struct Report {
    /// Sends acknowledged.
    pub acked: usize,
    /// Sends of unknown outcome.
    pub unknown: usize,
    /// Sends refused.
    pub failed: usize,
    /// Messages in the last read.
    pub stored: usize,
    /// Messages received, repeats counted.
    pub received: usize,
    /// What is broken.
    pub violations: Vec<Violation>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            acked,
            unknown,
            failed,
            stored,
            received,
            violations,
        } = self;
        write!(
            f,
            "{acked} acked, {unknown} unknown, {failed} refused, {stored} stored, {received} received: "
        )?;
        writeln!(f, "{} violations", violations.len())?;
        for violation in violations.iter().take(PRINTED_MAX) {
            writeln!(f, "  {violation:?}")?;
        }
        Ok(())
    }
}

/// Holds a history against every promise. The last dump must have been read after all sends had ended.
pub fn check(history: &History) -> Report {
    let mut report = Report {
        received: history.receives.len(),
        ..Report::default()
    };
    for send in &history.sends {
        match send.outcome {
            Outcome::Stored(_) => report.acked += 1,
            Outcome::Failed => report.failed += 1,
            Outcome::Unknown => report.unknown += 1,
        }
    }
    let violations = &mut report.violations;
    dense(&history.dumps, violations);
    ends_never_go_back(&history.dumps, violations);
    let seen = one_value_a_place(history, violations);
    let last = history.dumps.last().map(places).unwrap_or_default();
    acked_are_there(&history.sends, &last, violations);
    only_what_was_sent(&history.sends, &seen, violations);
    real_time_order(&history.sends, violations);
    consumer_offsets_never_go_back(history, violations);
    everything_was_received(history, &last, violations);
    report.stored = last.len();
    report
}

type Places<'a> = BTreeMap<Place, &'a str>;

fn places(dump: &Dump) -> Places<'_> {
    let mut places = Places::new();
    for (queue, read) in &dump.0 {
        for (offset, value) in &read.messages {
            places.insert(
                Place {
                    queue: *queue,
                    offset: *offset,
                },
                value,
            );
        }
    }
    places
}

fn dense(dumps: &[Dump], violations: &mut Vec<Violation>) {
    for (number, dump) in dumps.iter().enumerate() {
        for (queue, read) in &dump.0 {
            let mut expected = read.first_offset;
            for (offset, _) in &read.messages {
                if *offset != expected {
                    let place = Place {
                        queue: *queue,
                        offset: expected,
                    };
                    violations.push(Violation::Gap {
                        dump: number,
                        expected: place,
                        found: Some(*offset),
                    });
                }
                expected = offset + 1;
            }
            if expected != read.end_offset {
                let place = Place {
                    queue: *queue,
                    offset: expected,
                };
                violations.push(Violation::Gap {
                    dump: number,
                    expected: place,
                    found: None,
                });
            }
        }
    }
}

fn ends_never_go_back(dumps: &[Dump], violations: &mut Vec<Violation>) {
    let mut ends: BTreeMap<u32, i64> = BTreeMap::new();
    for dump in dumps {
        for (queue, read) in &dump.0 {
            let end = ends.entry(*queue).or_insert(read.end_offset);
            if read.end_offset < *end {
                violations.push(Violation::EndWentBack {
                    queue: *queue,
                    from: *end,
                    to: read.end_offset,
                });
            }
            *end = read.end_offset.max(*end);
        }
    }
}

/// Every place that any reader saw, with its one value.
fn one_value_a_place<'a>(history: &'a History, violations: &mut Vec<Violation>) -> Places<'a> {
    let mut seen = Places::new();
    let mut see = |place: Place, value: &'a str| {
        let first = *seen.entry(place).or_insert(value);
        if first != value {
            violations.push(Violation::Changed {
                place,
                one: first.to_owned(),
                other: value.to_owned(),
            });
        }
    };
    for dump in &history.dumps {
        for (place, value) in places(dump) {
            see(place, value);
        }
    }
    for receive in &history.receives {
        see(receive.place, &receive.value);
    }
    seen
}

fn acked_are_there(sends: &[Send], last: &Places<'_>, violations: &mut Vec<Violation>) {
    for send in sends {
        let Outcome::Stored(place) = send.outcome else { continue };
        let found = last.get(&place).copied();
        if found != Some(send.value.as_str()) {
            let found = found.map(str::to_owned);
            violations.push(Violation::Lost {
                value: send.value.clone(),
                place,
                found,
            });
        }
    }
}

fn only_what_was_sent(sends: &[Send], seen: &Places<'_>, violations: &mut Vec<Violation>) {
    let by_value: HashMap<&str, &Send> = sends.iter().map(|send| (send.value.as_str(), send)).collect();
    let mut copies: HashMap<&str, usize> = HashMap::new();
    for (place, value) in seen {
        match by_value.get(value) {
            None => violations.push(Violation::NeverSent {
                value: (*value).to_owned(),
                place: *place,
            }),
            Some(send) if send.outcome == Outcome::Failed => {
                violations.push(Violation::FailedSeen {
                    value: (*value).to_owned(),
                    place: *place,
                });
            }
            Some(_) => *copies.entry(value).or_default() += 1,
        }
    }
    for send in sends {
        let copies = copies.get(send.value.as_str()).copied().unwrap_or_default();
        if copies > send.tries_max {
            let value = send.value.clone();
            violations.push(Violation::TooManyCopies {
                value,
                copies,
                tries_max: send.tries_max,
            });
        }
    }
}

/// Per queue, in order of offsets: no send may have ended before one that stands in front of it began.
fn real_time_order(sends: &[Send], violations: &mut Vec<Violation>) {
    let mut queues: BTreeMap<u32, Vec<(i64, &Send)>> = BTreeMap::new();
    for send in sends {
        if let Outcome::Stored(place) = send.outcome {
            queues.entry(place.queue).or_default().push((place.offset, send));
        }
    }
    for (queue, mut stored) in queues {
        stored.sort_by_key(|(offset, _)| *offset);
        // From the back: the send that ended first among those behind.
        let mut first_ended: Option<(i64, &Send)> = None;
        for (offset, send) in stored.into_iter().rev() {
            if let Some((behind, earlier)) = first_ended
                && earlier.end < send.begin
            {
                violations.push(Violation::Reordered {
                    queue,
                    earlier: (earlier.value.clone(), behind),
                    later: (send.value.clone(), offset),
                });
            }
            if first_ended.is_none_or(|(_, first)| send.end < first.end) {
                first_ended = Some((offset, send));
            }
        }
    }
}

fn consumer_offsets_never_go_back(history: &History, violations: &mut Vec<Violation>) {
    let mut last: BTreeMap<u32, i64> = BTreeMap::new();
    for sample in &history.consumer_offsets {
        let before = last.insert(sample.queue, sample.offset);
        if let Some(before) = before.filter(|before| sample.offset < *before) {
            violations.push(Violation::ConsumerOffsetBack {
                queue: sample.queue,
                from: before,
                to: sample.offset,
            });
        }
    }
}

fn everything_was_received(history: &History, last: &Places<'_>, violations: &mut Vec<Violation>) {
    let received: HashSet<Place> = history.receives.iter().map(|receive| receive.place).collect();
    for (place, value) in last {
        if !received.contains(place) {
            violations.push(Violation::NotReceived {
                value: (*value).to_owned(),
                place: *place,
            });
        }
    }
}

#[cfg(test)]
#[path = "check_test.rs"]
mod tests;
