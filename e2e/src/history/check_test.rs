//! A clean history passes; each planted fault is found, as itself and as nothing else.

use super::super::{OffsetSample, QueueDump, Receive};
use super::*;

/// Ten messages in each of two queues, sent one after the other, read twice and received once.
fn clean() -> History {
    let mut history = History::default();
    let mut dump = Dump::default();
    for number in 0..20_u64 {
        let place = Place {
            queue: (number % 2) as u32,
            offset: (number / 2) as i64,
        };
        let value = format!("p/{number}");
        history.sends.push(Send {
            value: value.clone(),
            outcome: Outcome::Stored(place),
            tries_max: 1,
            begin: number * 10,
            end: number * 10 + 5,
        });
        let queue = dump.0.entry(place.queue).or_default();
        queue.messages.push((place.offset, value.clone()));
        queue.end_offset = place.offset + 1;
        history.receives.push(Receive { place, value });
        history.consumer_offsets.push(OffsetSample {
            queue: place.queue,
            offset: place.offset,
        });
    }
    history.dumps = vec![dump.clone(), dump];
    history
}

fn queue(history: &mut History, dump: usize, queue: u32) -> &mut QueueDump {
    history.dumps[dump].0.get_mut(&queue).unwrap()
}

#[track_caller]
fn found(history: &History, expected: impl Fn(&Violation) -> bool) {
    let report = check(history);
    assert!(report.violations.iter().any(expected), "not found in {report}");
}

#[track_caller]
fn only(history: &History, expected: impl Fn(&Violation) -> bool) {
    let report = check(history);
    assert!(
        !report.violations.is_empty() && report.violations.iter().all(expected),
        "{report}"
    );
}

#[test]
fn clean_history_passes() {
    let report = check(&clean());
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!((report.acked, report.stored, report.received), (20, 20, 20));
}

#[test]
fn gap_in_a_read_is_found() {
    let mut history = clean();
    queue(&mut history, 0, 1).messages.remove(4);
    only(&history, |v| {
        matches!(
            v,
            Violation::Gap {
                dump: 0,
                expected: Place { queue: 1, offset: 4 },
                found: Some(5)
            }
        )
    });
}

#[test]
fn read_that_stops_before_the_end_is_found() {
    let mut history = clean();
    queue(&mut history, 0, 0).messages.pop();
    only(&history, |v| {
        matches!(
            v,
            Violation::Gap {
                dump: 0,
                expected: Place { queue: 0, offset: 9 },
                found: None
            }
        )
    });
}

#[test]
fn lost_tail_is_found_as_loss_and_as_an_end_that_went_back() {
    let mut history = clean();
    let read = queue(&mut history, 1, 0);
    read.messages.pop();
    read.end_offset -= 1;
    found(&history, |v| {
        matches!(
            v,
            Violation::Lost {
                place: Place { queue: 0, offset: 9 },
                found: None,
                ..
            }
        )
    });
    found(&history, |v| {
        matches!(
            v,
            Violation::EndWentBack {
                queue: 0,
                from: 10,
                to: 9
            }
        )
    });
}

#[test]
fn acked_message_that_was_replaced_is_found() {
    let mut history = clean();
    for dump in 0..2 {
        queue(&mut history, dump, 0).messages[3].1 = "p/8".to_owned();
    }
    found(
        &history,
        |v| matches!(v, Violation::Lost { found: Some(other), .. } if other == "p/8"),
    );
}

#[test]
fn message_that_changes_between_reads_is_found() {
    let mut history = clean();
    queue(&mut history, 0, 1).messages[2].1 = "p/7".to_owned();
    found(&history, |v| {
        matches!(
            v,
            Violation::Changed {
                place: Place { queue: 1, offset: 2 },
                ..
            }
        )
    });
}

#[test]
fn consumer_that_received_something_else_is_found() {
    let mut history = clean();
    history.receives[6].value = "p/4".to_owned();
    only(&history, |v| {
        matches!(v, Violation::Changed { .. } | Violation::TooManyCopies { .. })
    });
}

#[test]
fn refused_message_that_was_stored_is_found() {
    let mut history = clean();
    history.sends[5].outcome = Outcome::Failed;
    only(
        &history,
        |v| matches!(v, Violation::FailedSeen { value, .. } if value == "p/5"),
    );
}

#[test]
fn value_from_nowhere_is_found() {
    let mut history = clean();
    history.sends.remove(5);
    only(
        &history,
        |v| matches!(v, Violation::NeverSent { value, .. } if value == "p/5"),
    );
}

#[test]
fn unknown_send_may_be_stored_or_not_but_not_more_often_than_tried() {
    let mut history = clean();
    history.sends[19].outcome = Outcome::Unknown;
    assert!(check(&history).violations.is_empty());
    let place = Place { queue: 1, offset: 10 };
    let read = queue(&mut history, 1, 1);
    read.messages.push((10, "p/19".to_owned()));
    read.end_offset = 11;
    history.receives.push(Receive {
        place,
        value: "p/19".to_owned(),
    });
    only(&history, |v| {
        matches!(
            v,
            Violation::TooManyCopies {
                copies: 2,
                tries_max: 1,
                ..
            }
        )
    });
    history.sends[19].tries_max = 3;
    assert!(check(&history).violations.is_empty());
    history.sends.push(Send {
        value: "p/20".to_owned(),
        outcome: Outcome::Unknown,
        tries_max: 1,
        begin: 200,
        end: 205,
    });
    assert!(check(&history).violations.is_empty());
}

#[test]
fn two_acks_for_one_place_are_found() {
    let mut history = clean();
    history.sends[7].outcome = history.sends[5].outcome;
    found(
        &history,
        |v| matches!(v, Violation::Lost { value, .. } if value == "p/7"),
    );
}

#[test]
fn reordering_is_found_and_concurrent_sends_are_free() {
    let mut history = clean();
    // p/4 and p/6 are neighbours in queue 0; swap them everywhere.
    for dump in 0..2 {
        queue(&mut history, dump, 0).messages[2].1 = "p/6".to_owned();
        queue(&mut history, dump, 0).messages[3].1 = "p/4".to_owned();
    }
    for (send, offset) in [(4, 3), (6, 2)] {
        let place = Place { queue: 0, offset };
        history.sends[send].outcome = Outcome::Stored(place);
        history.receives[send].place = place;
    }
    only(
        &history,
        |v| matches!(v, Violation::Reordered { queue: 0, earlier: (e, 3), later: (l, 2) } if e == "p/4" && l == "p/6"),
    );
    history.sends[6].begin = history.sends[4].begin;
    assert!(check(&history).violations.is_empty());
}

#[test]
fn consumer_offset_that_goes_back_is_found() {
    let mut history = clean();
    history.consumer_offsets.push(OffsetSample { queue: 1, offset: 4 });
    only(&history, |v| {
        matches!(
            v,
            Violation::ConsumerOffsetBack {
                queue: 1,
                from: 9,
                to: 4
            }
        )
    });
}

#[test]
fn message_that_no_consumer_received_is_found() {
    let mut history = clean();
    history.receives.remove(3);
    only(
        &history,
        |v| matches!(v, Violation::NotReceived { value, .. } if value == "p/3"),
    );
}
