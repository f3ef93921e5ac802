//! Members of consumer groups while their coordinator slots move: one Raft group changes them at a time, and they are
//! the same members before and after.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::state::tests::{Bench, UID, assignment};
use crate::state::{Command, GroupShape, Join, JoinGroup, Opening, Reply, Step, Subscription, Successor};

const CG: &str = "CG";

/// Another consumer group of the same slot, or of another one.
fn other_group(same_slot: bool) -> String {
    let mut names = (0..).map(|number| format!("G{number}"));
    names
        .find(|name| (slot(name) == slot(CG)) == same_slot)
        .expect("there are 64 slots")
}

fn step(generation: u32) -> Step {
    Step {
        topic: TOPIC.to_owned(),
        uid: UID,
        queue: slot(CG),
        generation,
    }
}

fn reserve(generation: u32) -> Command {
    Command::Reserve {
        topic: assignment(TOPIC, SLOTS, []),
        queue: slot(CG),
        generation,
    }
}

fn seal(generation: u32, to: usize) -> Command {
    Command::Seal {
        step: step(generation),
        to: to as u16,
        now_ms: 7,
    }
}

fn opening(bench: &Bench, generation: u32) -> Option<Command> {
    let slots = bench.state.slots()?;
    let sealed = slots.sealed_of(slot(CG)).find(|sealed| sealed.next == generation)?;
    Some(Command::Open(Opening {
        step: step(generation),
        start: sealed.queue.max_offset,
        state: sealed.aside.clone()?,
    }))
}

fn join(client: &str, groups: &[&str]) -> Command {
    let subscription = Subscription {
        topic: "T".to_owned(),
        expression_type: "TAG".to_owned(),
        expression: "A".to_owned(),
        version: 3,
    };
    let groups = groups.iter().map(|group| JoinGroup {
        group: (*group).to_owned(),
        shape: GroupShape {
            consume_type: 1,
            message_model: 1,
            consume_from_where: 4,
        },
        subscriptions: Some(vec![subscription.clone()]),
    });
    Command::Join(Join {
        client_id: client.to_owned(),
        node: "n1".to_owned(),
        language: 0,
        version: 479,
        groups: groups.collect(),
        now_ms: 40,
    })
}

fn leave(client: &str, groups: &[&str]) -> Command {
    Command::Leave {
        client_id: client.to_owned(),
        node: "n1".to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
    }
}

fn owning() -> Bench {
    let mut bench = Bench::default();
    bench.assign_slots();
    bench
}

fn moved(generation: u32, group: u16) -> Refusal {
    Refusal::Moved(Successor {
        generation,
        group,
        start: 0,
    })
}

fn joined(changed: bool) -> Reply {
    Reply::Joined { changed }
}

/// Nobody is told that members changed.
fn in_silence(bench: &mut Bench, command: Command) -> Reply {
    let reply = bench.apply(command);
    assert_eq!(bench.effects.memberships, BTreeSet::new());
    bench.check_records();
    reply
}

fn hand_over(old: &mut Bench, new: &mut Bench, generation: u32, to: usize) {
    assert_eq!(in_silence(new, reserve(generation)), Reply::Done);
    assert_eq!(in_silence(old, seal(generation, to)), Reply::Sealed { end: 0 });
    let open = opening(old, generation).expect("what was put aside");
    assert_eq!(in_silence(new, open.clone()), Reply::Done);
    assert_eq!(in_silence(new, open), Reply::Done, "said twice");
    assert_eq!(in_silence(old, Command::Delivered(step(generation))), Reply::Done);
}

fn group(bench: &Bench, name: &str) -> ConsumerGroup {
    let found = bench.state.coordinated(name).expect("its slot is here");
    found.expect("it has members").clone()
}

fn names(bench: &Bench) -> Vec<&str> {
    let mut names: Vec<&str> = bench.state.consumer_groups_here().map(|(name, _)| name).collect();
    names.sort_unstable();
    names
}

#[test]
fn members_go_with_their_slot_and_nobody_is_told() {
    let (mut old, mut new) = (owning(), Bench::default());
    let (same, other) = (other_group(true), other_group(false));
    assert_eq!(old.apply(join("c1", &[CG, &same, &other])), joined(true));
    assert_eq!(old.apply(join("c2", &[CG])), joined(true));
    let before = [group(&old, CG), group(&old, &same)];
    let left = group(&old, &other);
    hand_over(&mut old, &mut new, 2, 9);

    assert_eq!([group(&new, CG), group(&new, &same)], before);
    assert_eq!(group(&old, &other), left);
    assert_eq!(old.state.coordinated(CG), Err(moved(2, 9)));
    assert_eq!(old.state.last_coordinated(CG), Err(moved(2, 9)));
    assert_eq!(new.state.coordinated(&other), Err(Refusal::QueueOutOfRange));
    assert_eq!((names(&old), names(&new).len()), (vec![other.as_str()], 2));

    // One writer: the old one refuses what concerns the slot at all, and changes nothing.
    let before = old.state.clone();
    for command in [
        join("c3", &[CG]),
        join("c3", &[&other, CG]),
        leave("c1", &[CG]),
        leave("c1", &[&other, &same]),
    ] {
        assert_eq!(in_silence(&mut old, command), Reply::Refused(moved(2, 9)));
        assert_eq!(old.state, before);
    }
    assert_eq!(old.apply(leave("c1", &[])), Reply::Done, "of what is here");
    assert_eq!(names(&old), [""; 0]);

    // The new one goes on.
    assert_eq!(new.apply(join("c1", &[CG])), joined(false), "it is a member");
    assert!(new.effects.records.is_empty());
    assert_eq!(new.apply(leave("c1", &[CG])), Reply::Done);
    assert!(new.effects.memberships.contains(CG));
    assert_eq!(group(&new, CG).members.keys().collect::<Vec<_>>(), ["c2"]);
    new.check_records();
    old.check_records();
}

#[test]
fn nobody_joins_where_no_slot_is() {
    let mut bench = Bench::default();
    assert_eq!(bench.apply(join("c1", &[CG])), Reply::Refused(Refusal::TopicNotExist));
    let others = (0..SLOTS).filter(|number| *number != slot(CG));
    bench.assign(assignment(TOPIC, SLOTS, others));
    assert_eq!(bench.apply(join("c1", &[CG])), Reply::Refused(Refusal::QueueOutOfRange));
    assert_eq!(bench.apply(join("c1", &[&other_group(false)])), joined(true));
}

#[test]
fn a_slot_on_its_way_is_known_until_it_is_open_elsewhere() {
    let (mut old, mut new) = (owning(), Bench::default());
    let other = other_group(false);
    old.apply(join("c1", &[CG, &other]));
    let before = group(&old, CG);
    assert_eq!(old.state.last_coordinated(CG), Ok(Some(&before)));
    in_silence(&mut new, reserve(5));
    in_silence(&mut old, seal(5, 9));
    let known = |bench: &Bench| {
        let here = bench.state.slots_here().get(&slot(CG)).copied();
        here.map(|here| (here.generation, here.is_open))
    };
    assert_eq!(old.state.coordinated(CG), Err(moved(5, 9)));
    assert_eq!(old.state.last_coordinated(CG), Ok(Some(&before)));
    assert_eq!(old.state.last_coordinated(&other_group(true)), Ok(None));
    assert_eq!((known(&old), known(&new)), (Some((1, false)), None));
    assert_eq!((names(&old).len(), names(&new).len()), (2, 0));
    let open = opening(&old, 5).expect("what was put aside");
    in_silence(&mut new, open);
    assert_eq!(
        (known(&old), known(&new)),
        (Some((1, false)), Some((5, true))),
        "the newer one counts"
    );
    in_silence(&mut old, Command::Delivered(step(5)));
    assert_eq!((known(&old), names(&old)), (None, vec![other.as_str()]));
    assert_eq!(names(&new), [CG]);

    // And back, under another generation.
    hand_over(&mut new, &mut old, 6, 1);
    assert_eq!((group(&old, CG), known(&old)), (before, Some((6, true))));
    assert_eq!((known(&new), names(&new).len()), (None, 0));
}

#[test]
fn a_group_forgotten_while_its_slot_is_on_its_way_does_not_arrive() {
    let (mut old, mut new) = (owning(), Bench::default());
    let same = other_group(true);
    old.apply(join("c1", &[CG, &same]));
    in_silence(&mut new, reserve(2));
    in_silence(&mut old, seal(2, 9));
    let forget = Command::ForgetSubscriptionGroup {
        group: CG.to_owned(),
        clean_offsets: false,
    };
    assert_eq!(old.apply(forget), Reply::Done);
    assert!(old.effects.memberships.contains(CG), "its clients are told");
    old.check_records();
    let open = opening(&old, 2).expect("what was put aside");
    in_silence(&mut new, open);
    assert_eq!(names(&new), [same.as_str()]);
}

#[test]
fn what_goes_along_is_weighed() {
    let mut bench = owning();
    let weigh = |bench: &Bench| bench.state.bytes_of_queue(TOPIC, slot(CG));
    assert_eq!(weigh(&bench), 0);
    bench.apply(join("c1", &[&other_group(false)]));
    assert_eq!(weigh(&bench), 0);
    bench.apply(join(&"c".repeat(200), &[CG]));
    assert!((200..400).contains(&weigh(&bench)), "{}", weigh(&bench));
}

/// What clients and a driver, or ghosts of them, may do.
#[derive(Clone, Debug)]
enum Act {
    Reserve {
        to: usize,
    },
    Seal,
    Open,
    Delivered,
    BarOld,
    Join {
        to: usize,
        client: u8,
    },
    Leave {
        to: usize,
        client: u8,
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
        4 => (0..3_usize, 0..5_u8).prop_map(|(to, client)| Act::Join { to, client }),
        2 => (0..3_usize, 0..5_u8).prop_map(|(to, client)| Act::Leave { to, client }),
        3 => any::<prop::sample::Index>().prop_map(|what| Act::Again { what }),
    ];
    prop::collection::vec(act, 0..80)
}

proptest! {
    /// Three Raft groups, one slot: at most one of them takes members in and out, and wherever the slot is, its members
    /// are those whose joins and leaves were carried out, in that order.
    #[test]
    fn there_is_one_writer_and_no_member_is_lost_or_doubled(acts in acts()) {
        let mut groups = [owning(), Bench::default(), Bench::default()];
        let mut members: BTreeSet<String> = BTreeSet::new();
        let mut said: Vec<(usize, Command)> = Vec::new();
        let mut under_way: Option<(u32, usize, usize)> = None;
        let mut generation = 1;
        for act in acts {
            let is_open = |group: &Bench| group.state.check_coordinates(CG).is_ok();
            let command = match act {
                Act::Reserve { to } => match groups.iter().position(is_open) {
                    Some(from) if from != to => {
                        generation += 1;
                        under_way = Some((generation, from, to));
                        Some((to, reserve(generation)))
                    }
                    _ => None,
                },
                // Only what was reserved is sealed.
                Act::Seal => under_way.filter(|(generation, _, to)| {
                    let intent = groups[*to].state.slots().and_then(|slots| slots.intents.get(&slot(CG)));
                    intent.is_some_and(|intent| intent.reserved == Some(*generation))
                }).map(|(generation, from, to)| (from, seal(generation, to))),
                Act::Open => under_way.and_then(|(generation, from, to)| {
                    Some((to, opening(&groups[from], generation)?))
                }),
                Act::Delivered => under_way.filter(|(generation, _, to)| {
                    groups[*to].state.slots_here().get(&slot(CG)).is_some_and(|here| here.generation >= *generation)
                }).map(|(generation, from, _)| (from, Command::Delivered(step(generation)))),
                Act::BarOld => under_way.map(|(generation, from, _)| (from, Command::Bar(step(generation)))),
                Act::Join { to, client } => Some((to, join(&format!("c{client}"), &[CG]))),
                Act::Leave { to, client } => Some((to, leave(&format!("c{client}"), &[CG]))),
                Act::Again { what } if !said.is_empty() => Some(said[what.index(said.len())].clone()),
                Act::Again { .. } => None,
            };
            if let Some((place, command)) = command {
                let reply = groups[place].apply(command.clone());
                groups[place].check_records();
                let told = !groups[place].effects.memberships.is_empty();
                let changed = match (&command, &reply) {
                    (Command::Join(join), Reply::Joined { .. }) => members.insert(join.client_id.clone()),
                    (Command::Leave { client_id, .. }, Reply::Done) => members.remove(client_id),
                    _ => false,
                };
                prop_assert_eq!(told, changed, "{:?}: {:?}", command, reply);
                said.push((place, command));
            }
            let open = groups.iter().filter(|group| is_open(group)).count();
            prop_assert!(open <= 1, "{open} groups take members in");
            // Of those that tell of the slot the one with the newest segment is right.
            let tells = groups.iter().filter_map(|group| Some((group.state.slots_here().get(&slot(CG))?.generation, group)));
            let (_, newest) = tells.max_by_key(|(generation, _)| *generation).expect("somebody tells of it");
            let told = newest.state.last_coordinated(CG).expect("it tells").into_iter();
            let told: BTreeSet<String> = told.flat_map(|group| group.members.keys().cloned()).collect();
            prop_assert_eq!(&told, &members);
        }
    }
}
