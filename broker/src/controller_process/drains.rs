//! Draining Raft groups that do not become empty by themselves: queues are open there, yet none is on its way out, because
//! moves were cancelled, or queues arrived after the drain began. Decides when which of them move again; `duties.rs`
//! starts the moves.
//!
//! Holds: a group's queues are moved again only after nothing left it for [`IDLE`], so whoever drains has the time to
//! start the moves, and a move that is cancelled again and again is not tried hotly. What pins keep there stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flotilla_controller::metadata::Metadata;
use flotilla_controller::planning::{self, PlannedMove};
use flotilla_controller::queue_move::MoveRequest;
use flotilla_controller::state::limits::MOVES_PER_COMMAND_MAX;
use tokio::time::Instant;

/// How long nothing left a draining group before its queues are moved again, and between two tries.
pub const IDLE: Duration = Duration::from_secs(5);

/// Since when draining groups are idle, by number.
#[derive(Debug, Default)]
pub struct Drains {
    idle: BTreeMap<u16, Instant>,
}

impl Drains {
    /// The groups to look after now. Named again only after another [`IDLE`].
    pub fn due(&mut self, metadata: &Metadata, now: Instant) -> Vec<u16> {
        let moves = metadata.moves.values().filter(|known| known.is_under_way());
        let leaving: BTreeSet<u16> = moves.map(|known| known.from).collect();
        let groups = metadata.groups.iter();
        let idle = groups.filter(|(number, group)| group.draining && !leaving.contains(number));
        let idle: BTreeSet<u16> = idle.map(|(number, _)| *number).collect();
        self.idle.retain(|number, _| idle.contains(number));
        let mut due = Vec::new();
        for number in idle {
            let since = self.idle.entry(number).or_insert(now);
            if now.duration_since(*since) >= IDLE {
                *since = now;
                due.push(number);
            }
        }
        due
    }
}

/// Moves out of a draining group, as many as one command starts.
pub fn moves_out(metadata: &Metadata, group: u16) -> Vec<MoveRequest> {
    let planned = planning::drain(metadata, group);
    let requests = planned.iter().map(PlannedMove::request);
    requests.take(MOVES_PER_COMMAND_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flotilla_controller::coordinator_slots;
    use flotilla_controller::metadata::Policy;
    use flotilla_controller::queue_move::MoveOutcome;
    use flotilla_controller::state::{Command, Reply, State};
    use flotilla_controller::topic::TopicConfig;

    use super::*;

    /// The state of controllers with three groups, in which topic `t` has queues.
    struct Controllers {
        state: State,
        log_index: u64,
    }

    impl Controllers {
        fn with_queues(queues: u32) -> Self {
            let mut controllers = Self {
                state: State::default(),
                log_index: 0,
            };
            controllers.apply(Command::Found {
                name: "c".to_owned(),
                id: "1".to_owned(),
                policy: Policy {
                    replicas: 1,
                    groups: 3,
                    ..Policy::default()
                },
                controllers: BTreeMap::new(),
                feature_level: 1,
            });
            controllers.apply(Command::RegisterNode {
                name: "n1".to_owned(),
                volume: "v".to_owned(),
                zone: String::new(),
                peer: "n1:10912".to_owned(),
            });
            controllers.put(queues, None);
            controllers
        }

        fn apply(&mut self, command: Command) -> Reply {
            self.log_index += 1;
            let (reply, _) = self.state.apply(command, self.log_index);
            assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
            reply
        }

        fn put(&mut self, queues: u32, groups: Option<Vec<u16>>) {
            self.apply(Command::PutTopic {
                config: TopicConfig::new("t", queues),
                if_absent: false,
                expected: None,
                groups,
                now_ms: 0,
            });
        }

        fn drain(&mut self, group: u16, draining: bool) {
            self.apply(Command::SetDraining { group, draining });
        }

        fn start(&mut self, moves: Vec<MoveRequest>) -> Vec<u64> {
            let reply = self.apply(Command::StartMoves {
                moves,
                reason: "drain".to_owned(),
                now_ms: 0,
            });
            match reply {
                Reply::Moves { ids, .. } => ids,
                other => panic!("{other:?}"),
            }
        }

        fn cancel(&mut self, ids: Vec<u64>) {
            for id in ids {
                let outcome = MoveOutcome::Cancelled { reason: String::new() };
                self.apply(Command::EndMove { id, outcome, now_ms: 0 });
            }
        }

        /// Drains a group of its coordinator slots: what is left are its queues.
        fn drain_to_queues(&mut self, group: u16) {
            self.drain(group, true);
            let is_slot = |request: &MoveRequest| request.topic == coordinator_slots::TOPIC;
            let slots: Vec<_> = self.out_of(group).into_iter().filter(is_slot).collect();
            assert_eq!(slots.len(), self.state.metadata().slots_in(group));
            for id in self.start(slots) {
                let outcome = MoveOutcome::Opened {
                    end_offset: 0,
                    writer_pause_ms: None,
                    bytes_copied: 0,
                };
                self.apply(Command::EndMove { id, outcome, now_ms: 0 });
            }
            assert_eq!(self.state.metadata().slots_in(group), 0);
        }

        fn out_of(&self, group: u16) -> Vec<MoveRequest> {
            moves_out(self.state.metadata(), group)
        }
    }

    #[test]
    fn queues_whose_moves_were_cancelled_move_again_but_not_at_once() {
        let mut controllers = Controllers::with_queues(6);
        let mut drains = Drains::default();
        let begun = Instant::now();
        let mut due = |controllers: &Controllers, seconds: u64| {
            drains.due(controllers.state.metadata(), begun + Duration::from_secs(seconds))
        };
        assert_eq!(due(&controllers, 0), [0_u16; 0], "nothing drains");
        controllers.drain_to_queues(2);
        assert_eq!(due(&controllers, 10), [0_u16; 0], "whoever drains starts the moves");
        let ids = controllers.start(controllers.out_of(2));
        assert_eq!(ids.len(), 2);
        assert_eq!(due(&controllers, 20), [0_u16; 0], "they are on their way");
        controllers.cancel(ids);
        assert_eq!(due(&controllers, 30), [0_u16; 0]);
        assert_eq!(due(&controllers, 34), [0_u16; 0]);
        assert_eq!(due(&controllers, 35), [2]);
        assert_eq!(controllers.out_of(2).len(), 2);
        assert_eq!(due(&controllers, 36), [0_u16; 0], "one try at a time");
        assert_eq!(due(&controllers, 40), [2]);
        controllers.drain(2, false);
        assert_eq!(due(&controllers, 50), [0_u16; 0]);
        controllers.drain(2, true);
        assert_eq!(due(&controllers, 51), [0_u16; 0], "another drain");
    }

    #[test]
    fn an_empty_group_has_nothing_to_move_and_neither_has_what_pins_keep() {
        let mut controllers = Controllers::with_queues(1);
        controllers.drain_to_queues(2);
        controllers.drain_to_queues(1);
        assert_eq!(controllers.out_of(2), []);
        assert_eq!(controllers.out_of(1).len(), 1);
        controllers.put(1, Some(vec![1]));
        assert_eq!(controllers.out_of(1), []);
    }

    #[test]
    fn a_try_is_one_command() {
        let mut controllers = Controllers::with_queues(3 * MOVES_PER_COMMAND_MAX as u32 + 30);
        controllers.drain_to_queues(1);
        let moves = controllers.out_of(1);
        assert_eq!(controllers.start(moves).len(), MOVES_PER_COMMAND_MAX);
        assert_eq!(controllers.out_of(1).len(), 10);
    }
}
