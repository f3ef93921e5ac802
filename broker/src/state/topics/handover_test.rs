//! Moves between Raft groups: nothing is lost or doubled on the way, whatever comes twice, late, or not at all.

use proptest::prelude::*;

use super::*;
use crate::state::records::QueueId;
use crate::state::tests::{Bench, UID, assignment};
use crate::state::{Command, OffsetUpdate};

const TOPIC: &str = "T";
const QUEUE: u32 = 1;

fn step(generation: u32) -> Step {
    Step {
        topic: TOPIC.to_owned(),
        uid: UID,
        queue: QUEUE,
        generation,
    }
}

fn reserve(generation: u32) -> Command {
    Command::Reserve {
        topic: assignment(TOPIC, 2, []),
        queue: QUEUE,
        generation,
    }
}

fn seal(generation: u32, to: u16) -> Command {
    Command::Seal {
        step: step(generation),
        to,
        now_ms: 7,
    }
}

/// What a group that sealed its segment tells the next one.
fn opening(bench: &Bench, generation: u32) -> Option<Command> {
    let topic = bench.state.topics.get(TOPIC)?;
    let sealed = topic.sealed_of(QUEUE).find(|sealed| sealed.next == generation)?;
    Some(Command::Open(Opening {
        step: step(generation),
        start: sealed.queue.max_offset,
        state: sealed.aside.clone()?,
    }))
}

fn send(bench: &mut Bench, time: i64) -> Reply {
    let reply = bench.append(&[(TOPIC, QUEUE, time)]);
    bench.check_records();
    reply.into_iter().next().unwrap()
}

fn owning() -> Bench {
    let mut bench = Bench::default();
    assert_eq!(bench.assign(assignment(TOPIC, 2, [QUEUE])), Reply::Done);
    bench
}

fn moved(generation: u32, group: u16, start: i64) -> Reply {
    Reply::Refused(Refusal::Moved(Successor {
        generation,
        group,
        start,
    }))
}

fn apply(bench: &mut Bench, command: Command) -> Reply {
    let again = command.clone();
    let reply = bench.apply(command);
    bench.check_records();
    let before = bench.state.clone();
    assert_eq!(bench.apply(again), reply, "said twice");
    assert_eq!(bench.state, before, "the second time changes nothing");
    reply
}

/// Moves the queue from one group to another.
fn hand_over(from: &mut Bench, to: &mut Bench, generation: u32) -> i64 {
    assert_eq!(apply(to, reserve(generation)), Reply::Done);
    let Reply::Sealed { end } = apply(from, seal(generation, 2)) else {
        panic!("not sealed");
    };
    assert_eq!(apply(to, opening(from, generation).unwrap()), Reply::Done);
    assert_eq!(apply(from, Command::Delivered(step(generation))), Reply::Done);
    end
}

#[test]
fn a_queue_goes_on_where_it_ended() {
    let (mut old, mut new) = (owning(), Bench::default());
    assert_eq!(
        send(&mut old, 10),
        Reply::Appended {
            queue_offset: 0,
            store_time: 10
        }
    );
    assert_eq!(
        send(&mut old, 90),
        Reply::Appended {
            queue_offset: 1,
            store_time: 90
        }
    );
    assert_eq!(hand_over(&mut old, &mut new, 5), 2);
    assert_eq!(send(&mut old, 95), moved(5, 2, 2));
    let next = Reply::Appended {
        queue_offset: 2,
        store_time: 90,
    };
    assert_eq!(
        send(&mut new, 20),
        next,
        "offsets are dense, store times do not go back"
    );
    let topic = old.state.topics.get(TOPIC).unwrap();
    assert_eq!(topic.segment_at(QUEUE, 1).unwrap().max_offset, 2);
    assert_eq!(topic.queues().count(), 0);
}

#[test]
fn offsets_and_locks_go_with_the_queue() {
    let (mut old, mut new) = (owning(), Bench::default());
    send(&mut old, 10);
    let update = |offset| {
        Command::UpdateConsumerOffsets(vec![OffsetUpdate {
            group: "G".to_owned(),
            topic: TOPIC.to_owned(),
            queue: QUEUE,
            offset,
        }])
    };
    let lock = |client: &str, now_ms| Command::LockQueues {
        group: "G".to_owned(),
        client_id: client.to_owned(),
        queues: vec![(TOPIC.to_owned(), QUEUE)],
        now_ms,
    };
    let held = Reply::Locked(vec![(TOPIC.to_owned(), QUEUE)]);
    assert_eq!(old.apply(update(1)), Reply::Done);
    assert_eq!(old.apply(lock("a", 1_000)), held);
    hand_over(&mut old, &mut new, 2);
    assert_eq!(old.state.consumer_offsets.get("G", TOPIC, QUEUE), None);
    assert_eq!(old.apply(update(0)), moved(2, 2, 1));
    assert_eq!(
        old.apply(lock("b", 1_000_000)),
        Reply::Locked(vec![]),
        "nothing is locked here any more"
    );
    assert_eq!(new.state.consumer_offsets.get("G", TOPIC, QUEUE), Some(1));
    assert_eq!(new.apply(lock("b", 2_000)), Reply::Locked(vec![]), "the lease goes on");
    assert_eq!(new.apply(lock("a", 2_000)), held);
    assert_eq!(new.apply(update(0)), Reply::Done);
    new.check_records();
}

#[test]
fn a_move_can_be_given_up_until_it_is_sealed() {
    let (mut old, mut new) = (owning(), Bench::default());
    send(&mut old, 10);
    assert_eq!(apply(&mut new, reserve(2)), Reply::Done);
    assert_eq!(apply(&mut old, Command::Bar(step(2))), Reply::Done);
    assert_eq!(apply(&mut old, seal(2, 2)), Reply::Refused(Refusal::StaleGeneration));
    assert_eq!(apply(&mut new, Command::Bar(step(2))), Reply::Done);
    assert_eq!(apply(&mut new, reserve(2)), Reply::Refused(Refusal::StaleGeneration));
    let late = Command::Open(Opening {
        step: step(2),
        start: 1,
        state: QueueState::default(),
    });
    assert_eq!(apply(&mut new, late), Reply::Refused(Refusal::NotReserved));
    assert_eq!(
        send(&mut old, 11),
        Reply::Appended {
            queue_offset: 1,
            store_time: 11
        }
    );

    // The next one, under another generation, goes through, and cannot be given up behind its seal.
    assert_eq!(apply(&mut new, reserve(3)), Reply::Done);
    assert_eq!(apply(&mut old, seal(3, 2)), Reply::Sealed { end: 2 });
    assert_eq!(apply(&mut old, Command::Bar(step(3))), Reply::Refused(Refusal::TooLate));
    let open = opening(&old, 3).unwrap();
    assert_eq!(apply(&mut new, open), Reply::Done);
    assert_eq!(apply(&mut new, Command::Bar(step(3))), Reply::Refused(Refusal::TooLate));
}

#[test]
fn what_was_not_reserved_is_not_opened_and_what_is_not_here_is_not_sealed() {
    let mut bench = owning();
    let opening = Command::Open(Opening {
        step: Step { queue: 0, ..step(2) },
        start: 0,
        state: QueueState::default(),
    });
    assert_eq!(apply(&mut bench, opening), Reply::Refused(Refusal::NotReserved));
    let elsewhere = Command::Seal {
        step: Step { queue: 0, ..step(2) },
        to: 2,
        now_ms: 7,
    };
    assert_eq!(apply(&mut bench, elsewhere), Reply::Refused(Refusal::QueueOutOfRange));
    assert_eq!(apply(&mut bench, seal(1, 2)), Reply::Refused(Refusal::StaleGeneration));
    let other = Command::Seal {
        step: Step {
            uid: UID + 1,
            ..step(2)
        },
        to: 2,
        now_ms: 7,
    };
    assert_eq!(apply(&mut bench, other), Reply::Refused(Refusal::OtherTopic));
    assert_eq!(
        apply(&mut bench, reserve(2)),
        Reply::Refused(Refusal::StaleGeneration),
        "it is open here"
    );
}

#[test]
fn an_assignment_does_not_bring_back_what_left() {
    let (mut old, mut new) = (owning(), Bench::default());
    send(&mut old, 10);
    hand_over(&mut old, &mut new, 2);
    let before_the_move = crate::state::Assignment {
        version: 7,
        ..assignment(TOPIC, 2, [QUEUE])
    };
    assert_eq!(old.assign(before_the_move), Reply::Done);
    assert_eq!(send(&mut old, 11), moved(2, 2, 1));
}

#[test]
fn segments_that_came_and_went_are_read_trimmed_and_forgotten_one_by_one() {
    let (mut a, mut b) = (owning(), Bench::default());
    let mut ends = Vec::new();
    for generation in 2..6 {
        let (from, to) = if generation % 2 == 0 {
            (&mut a, &mut b)
        } else {
            (&mut b, &mut a)
        };
        send(from, 10);
        send(from, 10);
        ends.push(hand_over(from, to, generation));
    }
    assert_eq!(ends, [2, 4, 6, 8]);
    // a has 0..2, 4..6 and the open one from 8 on.
    let segment = |bench: &Bench, offset| {
        let topic = bench.state.topics.get(TOPIC).unwrap();
        let segment = topic.segment_at(QUEUE, offset).unwrap();
        (segment.start, segment.min_offset, segment.max_offset)
    };
    assert_eq!(segment(&a, 1), (0, 0, 2));
    assert_eq!(segment(&a, 3), (0, 0, 2), "the gap is not its");
    assert_eq!(segment(&a, 5), (4, 4, 6));
    assert_eq!(segment(&a, 8), (8, 8, 8));
    assert_eq!(segment(&b, 0), (2, 2, 4));
    let id = QueueId::new(a.state.topics.get(TOPIC).unwrap().id, QUEUE);
    assert_eq!(a.state.topics.segments_up_to(u64::MAX).len(), 2);
    let first_entry = a.state.topics.get(TOPIC).unwrap().sealed[&(QUEUE, 1)]
        .queue
        .first_log_index;
    assert_eq!(a.apply(Command::Trim { log_index: first_entry }), Reply::Done);
    assert_eq!(segment(&a, 1), (0, 1, 2));
    assert_eq!(segment(&a, 5), (4, 4, 6), "only what lies in the entry goes");
    a.check_records();
    let all = a.log_index;
    assert_eq!(a.apply(Command::Trim { log_index: all }), Reply::Done);
    assert_eq!(segment(&a, 1), (0, 2, 2));
    assert_eq!(segment(&a, 5), (4, 6, 6));
    assert_eq!(apply(&mut a, Command::ForgetSegments(step(3))), Reply::Done);
    let topic = a.state.topics.get(TOPIC).unwrap();
    assert_eq!(topic.segment_at(QUEUE, 1), None, "the first one is forgotten");
    assert_eq!(segment(&a, 5), (4, 6, 6));
    let went = topic.moved_to(QUEUE).unwrap();
    assert_eq!((went.generation, went.start), (2, 2), "what it was is remembered");
    assert_eq!(a.state.topics.queue_by_id(id).unwrap().generation, 5);
    a.check_records();
}

#[test]
fn a_deleted_topic_takes_its_sealed_segments_along() {
    let (mut old, mut new) = (owning(), Bench::default());
    send(&mut old, 10);
    hand_over(&mut old, &mut new, 2);
    for bench in [&mut old, &mut new] {
        let delete = Command::DeleteTopic {
            topic: TOPIC.to_owned(),
            uid: UID,
        };
        assert_eq!(bench.apply(delete), Reply::Done);
        bench.check_records();
        assert_eq!(bench.state.topics, Topics::default());
    }
}

/// What a driver, or a ghost of one, may do to the groups.
#[derive(Clone, Debug)]
enum Act {
    Reserve {
        to: usize,
    },
    Seal,
    Open,
    Delivered,
    BarOld,
    BarNew,
    Send {
        to: usize,
    },
    /// Something said before is heard again.
    Again {
        what: prop::sample::Index,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        2 => (0..3_usize).prop_map(|to| Act::Reserve { to }),
        3 => Just(Act::Seal),
        3 => Just(Act::Open),
        1 => Just(Act::Delivered),
        1 => Just(Act::BarOld),
        1 => Just(Act::BarNew),
        4 => (0..3_usize).prop_map(|to| Act::Send { to }),
        4 => any::<prop::sample::Index>().prop_map(|what| Act::Again { what }),
    ];
    prop::collection::vec(act, 0..80)
}

proptest! {
    /// Three groups, one queue: at no time do two of them take messages, and offsets are given once each, in order.
    #[test]
    fn there_is_one_writer_and_one_history(acts in acts()) {
        let mut groups = [owning(), Bench::default(), Bench::default()];
        let mut said: Vec<(usize, Command)> = Vec::new();
        // The move under way: generation, from, to, whether it was given up by the old group.
        let mut under_way: Option<(u32, usize, usize, bool)> = None;
        let mut generation = 1;
        let mut next_offset = 0;
        for act in acts {
            let command = match act {
                Act::Reserve { to } => {
                    let from = groups.iter().position(|group| group.state.topics.queue(TOPIC, QUEUE).is_some());
                    match from {
                        Some(from) if from != to => {
                            generation += 1;
                            under_way = Some((generation, from, to, false));
                            Some((to, reserve(generation)))
                        }
                        _ => None,
                    }
                }
                // Only what was reserved is sealed.
                Act::Seal => under_way.filter(|(generation, _, to, _)| {
                    let topic = groups[*to].state.topics.get(TOPIC);
                    let intent = topic.and_then(|topic| topic.intents.get(&QUEUE));
                    intent.is_some_and(|intent| intent.reserved == Some(*generation))
                }).map(|(generation, from, to, _)| (from, seal(generation, to as u16))),
                Act::Open => under_way.and_then(|(generation, from, to, _)| {
                    Some((to, opening(&groups[from], generation)?))
                }),
                Act::Delivered => under_way.filter(|(generation, _, to, _)| {
                    let open = groups[*to].state.topics.queue(TOPIC, QUEUE);
                    open.is_some_and(|(_, queue)| queue.generation >= *generation)
                }).map(|(generation, from, ..)| (from, Command::Delivered(step(generation)))),
                Act::BarOld => under_way.map(|(generation, from, ..)| (from, Command::Bar(step(generation)))),
                Act::BarNew => under_way.filter(|(.., given_up)| *given_up)
                    .map(|(generation, _, to, _)| (to, Command::Bar(step(generation)))),
                Act::Again { what } if !said.is_empty() => Some(said[what.index(said.len())].clone()),
                Act::Again { .. } => None,
                Act::Send { to } => {
                    if let [Reply::Appended { queue_offset, .. }] = groups[to].append(&[(TOPIC, QUEUE, 10)])[..] {
                        prop_assert_eq!(queue_offset, next_offset);
                        next_offset += 1;
                    }
                    None
                }
            };
            if let Some((group, command)) = command {
                let reply = groups[group].apply(command.clone());
                if let (Command::Bar(barred), Reply::Done, Some((generation, from, _, given_up))) =
                    (&command, &reply, &mut under_way)
                    && barred.generation == *generation
                    && group == *from
                {
                    *given_up = true;
                }
                said.push((group, command));
            }
            let open = groups.iter().filter(|group| group.state.topics.queue(TOPIC, QUEUE).is_some()).count();
            prop_assert!(open <= 1, "{open} groups take messages");
            for group in &groups {
                group.check_records();
            }
        }
    }
}
