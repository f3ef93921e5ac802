//! Queues that move from one Raft group to another, and groups that are drained of them.
//!
//! Holds: a queue has at most one move under way, and its open segment is where that move starts until it is done. The
//! segments of a queue follow each other without a gap; their generations grow, and none is given out twice.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::limits::{MOVES_ENDED_KEPT_MAX, MOVES_PER_COMMAND_MAX, MOVES_UNDER_WAY_MAX};
use super::{Changes, Refusal, Reply, State};
use crate::metadata::{Change, Segment, Topic};
use crate::queue_move::{MoveOutcome, MoveRequest, MoveState, QueueMove};

impl State {
    pub(super) fn start_moves(
        &mut self,
        requests: Vec<MoveRequest>,
        reason: &str,
        now_ms: i64,
        changes: &mut Changes,
    ) -> Result<Reply, Refusal> {
        self.check_moves(&requests)?;
        let mut counters = self.counters.clone();
        let mut moves = Vec::with_capacity(requests.len());
        for request in requests {
            let (topic, open) = self.open_segment(&request)?;
            let generation = counters
                .next_generation()
                .ok_or_else(|| Refusal::limit("generations of segments"))?;
            let queue_move = QueueMove {
                topic_id: topic.id,
                topic: request.topic,
                queue: request.queue,
                from: open.group,
                to: request.to,
                generation,
                state: MoveState::Preparing,
                reason: reason.to_owned(),
                started_ms: now_ms,
                ended_ms: None,
                end_offset: None,
                writer_pause_ms: None,
                bytes_copied: 0,
            };
            moves.push((counters.next_move(), queue_move));
        }
        self.counters = counters;
        let ids = moves.iter().map(|(id, _)| *id).collect();
        for (id, queue_move) in moves {
            self.set_move(id, Some(queue_move), changes);
        }
        let epoch = self.metadata.epoch;
        Ok(Reply::Moves { ids, epoch })
    }

    fn check_moves(&self, requests: &[MoveRequest]) -> Result<(), Refusal> {
        if requests.len() > MOVES_PER_COMMAND_MAX {
            return Err(Refusal::limit("moves of one command"));
        }
        if self.moves.under_way() + requests.len() > MOVES_UNDER_WAY_MAX {
            return Err(Refusal::limit("moves under way"));
        }
        let mut seen = BTreeSet::new();
        for request in requests {
            let (topic, open) = self.open_segment(request)?;
            let target = self.metadata.groups.get(&request.to).ok_or(Refusal::GroupNotExist)?;
            let known = self.moves.of_queue(topic.id, request.queue);
            if known.is_some() || !seen.insert((topic.id, request.queue)) {
                return Err(Refusal::MoveUnderWay);
            }
            if open.group == request.to {
                return Err(Refusal::SameGroup);
            }
            if !topic.may_be_in(request.to) {
                return Err(Refusal::PinnedElsewhere);
            }
            if target.draining {
                return Err(Refusal::GroupDraining);
            }
        }
        Ok(())
    }

    fn open_segment(&self, request: &MoveRequest) -> Result<(&Topic, &Segment), Refusal> {
        let topic = self.metadata.topics.get(&request.topic).ok_or(Refusal::TopicNotExist)?;
        let open = topic.open_segment(request.queue).ok_or(Refusal::QueueNotExist)?;
        Ok((topic, open))
    }

    pub(super) fn end_move(
        &mut self,
        id: u64,
        outcome: MoveOutcome,
        now_ms: i64,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        let present = self.metadata.moves.get(&id).ok_or(Refusal::MoveNotExist)?;
        match (present.state, &outcome) {
            (MoveState::Preparing, _) | (MoveState::Cancelled, MoveOutcome::Cancelled { .. }) => {}
            // Whoever says it again may have measured otherwise; what was logged is the same.
            (MoveState::Done, MoveOutcome::Opened { end_offset, .. }) if present.end_offset == Some(*end_offset) => {}
            _ => return Err(Refusal::MoveEnded),
        }
        if !present.is_under_way() {
            return Ok(());
        }
        let mut ended = present.clone();
        ended.ended_ms = Some(now_ms);
        match outcome {
            MoveOutcome::Opened {
                end_offset,
                writer_pause_ms,
                bytes_copied,
            } => {
                self.open_next_segment(&ended, end_offset, changes)?;
                ended.state = MoveState::Done;
                ended.end_offset = Some(end_offset);
                ended.writer_pause_ms = writer_pause_ms;
                ended.bytes_copied = bytes_copied;
            }
            MoveOutcome::Cancelled { reason } => {
                ended.state = MoveState::Cancelled;
                ended.reason = reason;
            }
        }
        self.set_move(id, Some(ended), changes);
        while let Some(first) = self.moves.first_ended_beyond(MOVES_ENDED_KEPT_MAX, id) {
            self.set_move(first, None, changes);
        }
        Ok(())
    }

    fn open_next_segment(
        &mut self,
        queue_move: &QueueMove,
        end_offset: i64,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        let present = self.metadata.topics.get(&queue_move.topic);
        let present = present.filter(|topic| topic.id == queue_move.topic_id);
        let present = present.ok_or(Refusal::TopicNotExist)?.clone();
        let mut topic = Topic::clone(&present);
        let segments = topic.queues.get_mut(queue_move.queue as usize);
        let segments = segments.ok_or(Refusal::QueueNotExist)?;
        match segments.last_mut() {
            // What held no message needs no place in the list.
            Some(open) if open.start == end_offset => drop(segments.pop()),
            Some(open) if open.start < end_offset => open.end = Some(end_offset),
            _ => return Err(Refusal::Malformed),
        }
        segments.push(Segment {
            generation: queue_move.generation,
            group: queue_move.to,
            start: end_offset,
            end: None,
        });
        self.replace_topic(&present, topic, changes);
        Ok(())
    }

    pub(super) fn drop_segment(
        &mut self,
        name: &str,
        topic_id: u64,
        queue: u32,
        generation: u32,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        let present = self.metadata.topics.get(name).filter(|topic| topic.id == topic_id);
        let present = present.ok_or(Refusal::TopicNotExist)?.clone();
        let segments = present.queues.get(queue as usize).ok_or(Refusal::QueueNotExist)?;
        match segments.first() {
            // Dropped before.
            Some(first) if first.generation > generation => return Ok(()),
            Some(first) if first.generation == generation && first.end.is_some() => {}
            _ => return Err(Refusal::SegmentNotDropped),
        }
        let mut topic = Topic::clone(&present);
        topic.queues[queue as usize].remove(0);
        self.replace_topic(&present, topic, changes);
        Ok(())
    }

    fn replace_topic(&mut self, present: &Topic, mut topic: Topic, changes: &mut Changes) {
        topic.epoch = changes.log_index;
        self.queues.remove(present);
        self.queues.add(&topic);
        self.change(Change::Topic(topic.config.name.clone(), Some(Arc::new(topic))), changes);
    }

    pub(super) fn set_draining(&mut self, number: u16, draining: bool, changes: &mut Changes) -> Result<(), Refusal> {
        let groups = &self.metadata.groups;
        let group = groups.get(&number).ok_or(Refusal::GroupNotExist)?;
        if group.draining == draining {
            return Ok(());
        }
        let others_stay = || groups.iter().any(|(other, group)| *other != number && !group.draining);
        if draining && !others_stay() {
            return Err(Refusal::LastGroup);
        }
        let mut group = group.clone();
        group.draining = draining;
        self.change(Change::Group(number, group), changes);
        Ok(())
    }

    /// Ends the moves of a topic that is being deleted. The time is that of their start: nobody says what time it is.
    pub(super) fn cancel_moves_of(&mut self, topic_id: u64, changes: &mut Changes) {
        for id in self.moves.of_topic(topic_id) {
            let mut cancelled = self.metadata.moves[&id].clone();
            cancelled.state = MoveState::Cancelled;
            cancelled.reason = "the topic was deleted".to_owned();
            cancelled.ended_ms = Some(cancelled.started_ms);
            self.set_move(id, Some(cancelled), changes);
            while let Some(first) = self.moves.first_ended_beyond(MOVES_ENDED_KEPT_MAX, id) {
                self.set_move(first, None, changes);
            }
        }
    }

    fn set_move(&mut self, id: u64, queue_move: Option<QueueMove>, changes: &mut Changes) {
        if let Some(present) = self.metadata.moves.get(&id) {
            self.moves.remove(id, present);
        }
        if let Some(queue_move) = &queue_move {
            self.moves.add(id, queue_move);
        }
        self.change(Change::Move(id, queue_move), changes);
    }
}
