//! Moves of queues and draining of Raft groups, command by command. Three groups; topic `t` has queues in 1, 2, 3, 1.

use std::collections::BTreeSet;

use super::limits::{MOVES_ENDED_KEPT_MAX, MOVES_PER_COMMAND_MAX, MOVES_UNDER_WAY_MAX};
use super::tests::{Check, delete_topic, put_topic};
use super::{Command, Counters, Refusal, Reply, State};
use crate::coordinator_slots;
use crate::metadata::{Metadata, RaftGroup, Segment};
use crate::queue_move::{MoveOutcome, MoveRequest, MoveState, QueueMove};
use crate::topic::TopicConfig;

fn with_topic() -> Check {
    let mut check = Check::with_groups();
    check.done(put_topic("t", 4, &[]));
    assert_eq!(check.queues("t"), [1, 2, 3, 1]);
    check
}

fn request(topic: &str, queue: u32, to: u16) -> MoveRequest {
    MoveRequest {
        topic: topic.to_owned(),
        queue,
        to,
    }
}

fn start(moves: &[(u32, u16)]) -> Command {
    Command::StartMoves {
        moves: moves.iter().map(|(queue, to)| request("t", *queue, *to)).collect(),
        reason: "asked for".to_owned(),
        now_ms: 100,
    }
}

fn opened(id: u64, end_offset: i64) -> Command {
    Command::EndMove {
        id,
        outcome: MoveOutcome::Opened {
            end_offset,
            writer_pause_ms: Some(3),
            bytes_copied: 0,
        },
        now_ms: 150,
    }
}

fn cancelled(id: u64, reason: &str) -> Command {
    Command::EndMove {
        id,
        outcome: MoveOutcome::Cancelled {
            reason: reason.to_owned(),
        },
        now_ms: 160,
    }
}

fn drop_segment(topic_id: u64, queue: u32, generation: u32) -> Command {
    Command::DropSegment {
        topic: "t".to_owned(),
        topic_id,
        queue,
        generation,
    }
}

/// Binds a topic to no groups in particular.
fn unpin(name: &str, queues: u32) -> Command {
    Command::PutTopic {
        config: TopicConfig::new(name, queues),
        if_absent: false,
        expected: None,
        groups: Some(Vec::new()),
        now_ms: 1,
    }
}

fn drain(group: u16, draining: bool) -> Command {
    Command::SetDraining { group, draining }
}

fn segment(generation: u32, group: u16, start: i64, end: Option<i64>) -> Segment {
    Segment {
        generation,
        group,
        start,
        end,
    }
}

impl Check {
    fn segments(&self, queue: usize) -> &[Segment] {
        &self.state.metadata().topics["t"].queues[queue]
    }

    fn started(&mut self, moves: &[(u32, u16)]) -> Vec<u64> {
        match self.apply(start(moves)) {
            Reply::Moves { ids, .. } => ids,
            reply => panic!("{reply:?}"),
        }
    }

    fn queue_move(&self, id: u64) -> &QueueMove {
        &self.state.metadata().moves[&id]
    }

    fn open_in(&self) -> [u64; 3] {
        [1, 2, 3].map(|group| self.state.queue_counts().open_in(group))
    }
}

#[test]
fn a_move_ends_one_segment_and_opens_the_next_there() {
    let mut check = with_topic();
    let epoch = check.state.metadata().topics["t"].epoch;
    assert_eq!(check.started(&[(0, 2), (1, 3)]), [1, 2]);
    assert_eq!(
        check.queue_move(1),
        &QueueMove {
            topic: "t".to_owned(),
            topic_id: 1,
            queue: 0,
            from: 1,
            to: 2,
            generation: 2,
            state: MoveState::Preparing,
            reason: "asked for".to_owned(),
            started_ms: 100,
            ended_ms: None,
            end_offset: None,
            writer_pause_ms: None,
            bytes_copied: 0,
        }
    );
    let topic = &check.state.metadata().topics["t"];
    assert_eq!((topic.epoch, check.open_in()), (epoch, [2, 1, 1]), "nothing moved yet");

    check.done(opened(1, 40));
    assert_eq!(check.segments(0), [segment(1, 1, 0, Some(40)), segment(2, 2, 40, None)]);
    assert_eq!(check.state.metadata().topics["t"].epoch, check.state.metadata().epoch);
    assert_eq!(check.open_in(), [1, 2, 1]);
    assert_eq!(check.state.queue_counts().total(), 4);
    let done = check.queue_move(1);
    assert_eq!((done.state, done.ended_ms), (MoveState::Done, Some(150)));
    assert_eq!((done.end_offset, done.writer_pause_ms), (Some(40), Some(3)));

    // Back again, under a generation that is new.
    assert_eq!(check.started(&[(0, 1)]), [3]);
    check.done(opened(3, 41));
    assert_eq!(
        check.segments(0)[1..],
        [segment(2, 2, 40, Some(41)), segment(4, 1, 41, None)]
    );
}

#[test]
fn a_segment_without_messages_is_not_kept() {
    let mut check = with_topic();
    check.started(&[(0, 2)]);
    check.done(opened(1, 0));
    assert_eq!(check.segments(0), [segment(2, 2, 0, None)]);
    check.started(&[(0, 3)]);
    check.done(opened(2, 7));
    check.started(&[(0, 1)]);
    check.done(opened(3, 7));
    assert_eq!(check.segments(0), [segment(2, 2, 0, Some(7)), segment(4, 1, 7, None)]);
    // A segment does not end before it begins.
    check.started(&[(0, 2)]);
    check.refused(opened(4, 6), Refusal::Malformed);
}

#[test]
fn moves_are_started_all_or_none() {
    let mut check = with_topic();
    let refused = [
        (request("u", 0, 2), Refusal::TopicNotExist),
        (request("t", 4, 2), Refusal::QueueNotExist),
        (request("t", 0, 9), Refusal::GroupNotExist),
        (request("t", 0, 1), Refusal::SameGroup),
        (request("t", 1, 3), Refusal::MoveUnderWay),
    ];
    for (wrong, why) in refused {
        let command = Command::StartMoves {
            moves: vec![request("t", 1, 3), wrong],
            reason: String::new(),
            now_ms: 0,
        };
        check.refused(command, why);
    }
    check.unchanged(start(&[]));
    assert_eq!(check.started(&[(1, 3)]), [1], "ids of what was refused are not lost");
    check.refused(start(&[(1, 1)]), Refusal::MoveUnderWay);
    check.done(cancelled(1, "no majority"));
    assert_eq!(check.started(&[(1, 1)]), [2]);
    assert_eq!(
        check.queue_move(2).generation,
        3,
        "a cancelled move's generation is used up"
    );
}

#[test]
fn a_move_ends_once() {
    let mut check = with_topic();
    check.started(&[(0, 2), (1, 1)]);
    check.refused(opened(9, 5), Refusal::MoveNotExist);
    check.done(opened(1, 5));
    check.unchanged(opened(1, 5));
    check.refused(opened(1, 6), Refusal::MoveEnded);
    check.refused(cancelled(1, "late"), Refusal::MoveEnded);
    check.done(cancelled(2, "g1 has no majority"));
    check.unchanged(cancelled(2, "otherwise"));
    check.refused(opened(2, 5), Refusal::MoveEnded);
    let ended = check.queue_move(2);
    assert_eq!(ended.reason, "g1 has no majority");
    assert_eq!((ended.state, ended.ended_ms), (MoveState::Cancelled, Some(160)));
    assert_eq!(check.segments(1), [segment(1, 2, 0, None)]);
}

#[test]
fn a_deleted_topic_cancels_its_moves() {
    let mut check = with_topic();
    check.done(put_topic("u", 2, &[]));
    check.started(&[(0, 2), (3, 2)]);
    check.done(Command::StartMoves {
        moves: vec![request("u", 0, 1)],
        reason: String::new(),
        now_ms: 0,
    });
    check.done(delete_topic("t"));
    let states: Vec<MoveState> = check
        .state
        .metadata()
        .moves
        .values()
        .map(|queue_move| queue_move.state)
        .collect();
    let (cancelled, preparing) = (MoveState::Cancelled, MoveState::Preparing);
    assert_eq!(states, [cancelled, cancelled, preparing]);
    check.refused(opened(1, 5), Refusal::MoveEnded);
    // A topic of the same name is another one.
    check.done(put_topic("t", 4, &[1, 2]));
    check.started(&[(0, 2)]);
    assert_eq!(check.queue_move(4).topic_id, 3);
}

#[test]
fn a_topic_that_changes_keeps_its_segments() {
    let mut check = with_topic();
    check.started(&[(0, 2), (1, 3)]);
    check.done(opened(1, 5));
    let before = check.segments(0).to_vec();
    check.done(put_topic("t", 6, &[]));
    assert_eq!(check.segments(0), before);
    assert_eq!(
        check.queues("t"),
        [2, 2, 3, 1, 1, 3],
        "spread by where the open ones are"
    );
    check.done(opened(2, 0));
    let mut config = TopicConfig::new("t", 6);
    config.order = true;
    check.done(Command::PutTopic {
        config,
        if_absent: false,
        expected: None,
        groups: None,
        now_ms: 1,
    });
    assert_eq!(check.segments(0), before);
    assert_eq!(check.segments(1), [segment(3, 3, 0, None)]);
}

#[test]
fn only_the_first_segment_of_several_is_dropped() {
    let mut check = with_topic();
    check.started(&[(0, 2)]);
    check.done(opened(1, 5));
    check.started(&[(0, 3)]);
    check.done(opened(2, 9));
    check.refused(drop_segment(2, 0, 1), Refusal::TopicNotExist);
    check.refused(drop_segment(1, 4, 1), Refusal::QueueNotExist);
    check.refused(drop_segment(1, 0, 2), Refusal::SegmentNotDropped);
    check.refused(drop_segment(1, 1, 1), Refusal::SegmentNotDropped);
    check.done(drop_segment(1, 0, 1));
    assert_eq!(check.segments(0), [segment(2, 2, 5, Some(9)), segment(3, 3, 9, None)]);
    assert_eq!(check.state.metadata().topics["t"].epoch, check.state.metadata().epoch);
    check.unchanged(drop_segment(1, 0, 1));
    check.done(drop_segment(1, 0, 2));
    check.refused(drop_segment(1, 0, 3), Refusal::SegmentNotDropped);
    assert_eq!(check.open_in(), [1, 1, 2]);
}

#[test]
fn a_draining_group_gets_no_queues() {
    let mut check = with_topic();
    check.refused(drain(9, true), Refusal::GroupNotExist);
    check.unchanged(drain(1, false));
    check.done(drain(1, true));
    check.unchanged(drain(1, true));
    check.refused(start(&[(1, 1)]), Refusal::GroupDraining);
    check.done(put_topic("u", 4, &[]));
    assert_eq!(check.queues("u"), [2, 3, 2, 3]);
    check.done(put_topic("pinned", 2, &[1]));
    assert_eq!(check.queues("pinned"), [1, 1]);
    check.done(drain(2, true));
    check.refused(drain(3, true), Refusal::LastGroup);
    check.started(&[(0, 3)]);
    check.done(drain(1, false));
    check.started(&[(1, 1)]);
    check.done(drain(3, true));
    // Where it goes is drained meanwhile: it arrives all the same, and leaves again.
    check.done(opened(1, 5));
}

#[test]
fn coordinator_slots_move_as_queues_do_and_are_counted_nowhere() {
    let mut check = with_topic();
    let slot = |slot, to| Command::StartMoves {
        moves: vec![request(coordinator_slots::TOPIC, slot, to)],
        reason: String::new(),
        now_ms: 0,
    };
    check.refused(slot(coordinator_slots::SLOTS, 2), Refusal::QueueNotExist);
    check.refused(slot(0, 1), Refusal::SameGroup);
    check.done(slot(0, 2));
    check.refused(slot(0, 3), Refusal::MoveUnderWay);
    assert_eq!(check.queue_move(1).topic_id, coordinator_slots::TOPIC_ID);
    check.done(opened(1, 0));
    let slots_in = |check: &Check| [1, 2, 3].map(|group| check.state.metadata().slots_in(group));
    assert_eq!(slots_in(&check), [21, 22, 21]);
    assert_eq!(
        check.state.metadata().topics[coordinator_slots::TOPIC].queues[0],
        [segment(2, 2, 0, None)]
    );
    assert_eq!(check.open_in(), [2, 1, 1]);
    check.done(drain(2, true));
    check.refused(slot(3, 2), Refusal::GroupDraining);
}

#[test]
fn pins_are_kept_until_others_are_named() {
    let mut check = Check::with_groups();
    let pinned = |check: &Check| check.state.metadata().topics["t"].pinned.clone();
    let put = |queues: u32, groups: Option<&[u16]>| Command::PutTopic {
        config: TopicConfig::new("t", queues),
        if_absent: false,
        expected: None,
        groups: groups.map(<[u16]>::to_vec),
        now_ms: 1,
    };
    check.done(put(2, Some(&[3, 1, 3])));
    assert_eq!((pinned(&check), check.queues("t")), (vec![1, 3], vec![1, 3]));
    check.unchanged(put(2, Some(&[1, 3])));
    check.unchanged(put(2, None));
    check.done(put(4, None));
    assert_eq!((pinned(&check), check.queues("t")), (vec![1, 3], vec![1, 3, 1, 3]));
    check.refused(start(&[(1, 1), (0, 2)]), Refusal::PinnedElsewhere);
    check.started(&[(1, 1)]);
    check.refused(put(4, Some(&[9])), Refusal::GroupNotExist);
    // Others: what is there stays until it is moved, what is new goes there.
    check.done(put(5, Some(&[2])));
    assert_eq!((pinned(&check), check.queues("t")), (vec![2], vec![1, 3, 1, 3, 2]));
    check.started(&[(0, 2)]);
    check.done(put(5, Some(&[])));
    assert!(pinned(&check).is_empty());
    check.started(&[(2, 3)]);
}

#[test]
fn moves_are_bounded() {
    let queues = MOVES_UNDER_WAY_MAX as u32;
    let mut check = Check::with_groups();
    check.done(put_topic("t", queues, &[1]));
    check.done(unpin("t", queues));
    let mut state = check.state;
    let many = |from: usize, count: usize| {
        let moves: Vec<(u32, u16)> = (from..from + count).map(|queue| (queue as u32, 2)).collect();
        start(&moves)
    };
    let refused = |what: &str| Reply::Refused(Refusal::limit(what));
    let (reply, _) = state.apply(many(0, MOVES_PER_COMMAND_MAX + 1), 99);
    assert_eq!(reply, refused("moves of one command"));
    for from in (0..MOVES_UNDER_WAY_MAX).step_by(MOVES_PER_COMMAND_MAX) {
        let (reply, _) = state.apply(many(from, MOVES_PER_COMMAND_MAX), 100 + from as u64);
        assert!(matches!(reply, Reply::Moves { .. }), "{reply:?}");
    }
    state.apply(put_topic("u", 1, &[1]), 100_000);
    state.apply(unpin("u", 1), 100_000);
    let one_more = Command::StartMoves {
        moves: vec![request("u", 0, 2)],
        reason: String::new(),
        now_ms: 0,
    };
    let (reply, changes) = state.apply(one_more.clone(), 100_001);
    assert_eq!((reply, changes.len()), (refused("moves under way"), 0));
    state.apply(cancelled(1, ""), 100_002);
    let (reply, _) = state.apply(one_more, 100_003);
    assert!(matches!(reply, Reply::Moves { .. }), "{reply:?}");
}

#[test]
fn the_last_moves_that_ended_can_be_looked_at() {
    let mut check = with_topic();
    let kept = MOVES_ENDED_KEPT_MAX as u64;
    // Queue 1 stays on its way, with the smallest id.
    check.started(&[(1, 3)]);
    for round in 0..kept + 10 {
        let to = [2, 1][round as usize % 2];
        assert_eq!(check.started(&[(0, to)]), [2 + round]);
        check.done(opened(2 + round, round as i64 * 10));
    }
    let ids: BTreeSet<u64> = check.state.metadata().moves.keys().copied().collect();
    assert_eq!(ids, [1].into_iter().chain(12..12 + kept).collect());
    // By a clock that is behind all others; it can still be seen.
    let behind = Command::EndMove {
        id: 1,
        outcome: MoveOutcome::Cancelled { reason: String::new() },
        now_ms: 1,
    };
    check.done(behind.clone());
    check.unchanged(behind);
    assert_eq!(check.state.metadata().moves.len() as u64, kept);
}

#[test]
fn what_was_written_before_queues_moved_is_read() {
    let group: RaftGroup =
        serde_json::from_str(r#"{"name":"g1","creation":3,"members":[],"preferred":"n1","founder":1}"#).unwrap();
    assert!(!group.draining);
    let counters: Counters = serde_json::from_str(r#"{"controller":3,"replica":9,"topic":2,"group":3}"#).unwrap();
    let mut next = counters.clone();
    assert_eq!((next.next_move(), next.next_generation()), (1, Some(2)));
    next.generation = u32::MAX;
    assert_eq!(next.next_generation(), None);
    let mut state = serde_json::to_value(with_topic().state).unwrap();
    let metadata = state["metadata"].as_object_mut().unwrap();
    assert!(metadata.remove("moves").is_some());
    for topic in metadata["topics"].as_object_mut().unwrap().values_mut() {
        assert!(topic.as_object_mut().unwrap().remove("pinned").is_some());
    }
    for group in metadata["groups"].as_object_mut().unwrap().values_mut() {
        assert!(group.as_object_mut().unwrap().remove("draining").is_some());
    }
    state["counters"] = serde_json::to_value(counters).unwrap();
    let counters = state["counters"].as_object_mut().unwrap();
    assert!(counters.remove("queue_move").is_some() && counters.remove("generation").is_some());
    let state: State = serde_json::from_value(state).unwrap();
    let expected: &Metadata = &with_topic().state.metadata().clone();
    assert_eq!(state.metadata(), expected);
}
