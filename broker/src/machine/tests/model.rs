//! Queues against a plain model, over appends, trims and restarts.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<(u32, i64)>),
    /// Some queues open; those that are open already stay.
    Assign(BTreeSet<u32>),
    Trim(u64),
    Reopen,
}

const QUEUES: usize = 4;

/// The first offset of each queue, once it is open.
const STARTS: [i64; QUEUES] = [0, 0, 1_000, 7];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop::collection::vec((0..QUEUES as u32, 0_i64..50), 1..8).prop_map(Step::Append),
        1 => prop::collection::btree_set(0..QUEUES as u32, 0..3).prop_map(Step::Assign),
        2 => (0_u64..6).prop_map(Step::Trim),
        2 => Just(Step::Reopen),
    ]
}

/// One queue of the model: each message's log index, slot and store time, and how many of them are trimmed.
#[derive(Default)]
struct ModelQueue {
    messages: Vec<(u64, u16, i64)>,
    trimmed: usize,
}

fn assign_queues(version: u64, open: &BTreeSet<u32>) -> Bytes {
    let open: Vec<_> = open.iter().map(|queue| (*queue, STARTS[*queue as usize])).collect();
    let assignment = assignment("A", QUEUES as u32, &open);
    assign(Assignment { version, ..assignment })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn queues_are_what_a_plain_model_says(steps in prop::collection::vec(step(), 1..40)) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("n");
        let mut node = Node::open(folder.clone());
        node.apply(&[assign_queues(1, &BTreeSet::from([0, 2]))]);
        let mut model: [Option<ModelQueue>; QUEUES] =
            [Some(ModelQueue::default()), None, Some(ModelQueue::default()), None];
        let mut clock = 0;
        for step in steps {
            let log_index = node.machine.applied().unwrap().index + 1;
            match step {
                Step::Append(messages) => {
                    let mut frames = Vec::new();
                    let mut expected = Vec::new();
                    for ((number, jitter), slot) in messages.into_iter().zip(0..) {
                        clock += 10;
                        let proposed = clock + jitter;
                        frames.push(message("A", number, proposed, "k"));
                        let Some(queue) = &mut model[number as usize] else {
                            expected.push(Reply::Refused(Refusal::QueueOutOfRange));
                            continue;
                        };
                        let stored = &mut queue.messages;
                        let store_time = match stored.last() {
                            Some((last, _, time)) if *last == log_index => *time,
                            Some((_, _, time)) => proposed.max(*time),
                            None => proposed,
                        };
                        let queue_offset = STARTS[number as usize] + stored.len() as i64;
                        expected.push(appended(queue_offset, store_time));
                        stored.push((log_index, slot, store_time));
                    }
                    prop_assert_eq!(node.apply(&frames), expected);
                }
                Step::Assign(open) => {
                    node.apply(&[assign_queues(log_index, &open)]);
                    for number in open {
                        model[number as usize].get_or_insert_default();
                    }
                }
                Step::Trim(back) => {
                    let upto = log_index.saturating_sub(1 + back);
                    node.apply(&[trim(upto)]);
                    for queue in model.iter_mut().flatten() {
                        let kept = queue.messages.iter().position(|(index, _, _)| *index > upto);
                        queue.trimmed = queue.trimmed.max(kept.unwrap_or(queue.messages.len()));
                    }
                }
                Step::Reopen => {
                    drop(node);
                    node = Node::open(folder.clone());
                }
            }
            for ((queue, start), number) in model.iter().zip(STARTS).zip(0..) {
                let Some(queue) = queue else {
                    prop_assert_eq!(node.reader.queue_bounds("A", number), None);
                    prop_assert_eq!(located(&node.reader, "A", number, 0, 10_000), []);
                    continue;
                };
                let all: Vec<_> = queue.messages.iter().zip(start..).map(|((i, s, t), o)| (o, *i, *s, *t)).collect();
                let end = start + all.len() as i64;
                let kept = &all[queue.trimmed..];
                prop_assert_eq!(located(&node.reader, "A", number, 0, 10_000), kept.to_vec());
                let bounds = node.reader.queue_bounds("A", number).unwrap();
                prop_assert_eq!((bounds.min_offset, bounds.max_offset), (start + queue.trimmed as i64, end));
                prop_assert_eq!(bounds.min_store_time, kept.first().map_or(-1, |first| first.3));
                let lower = node.reader.offset_by_time("A", number, 1, clock - 30, false).unwrap();
                let since = kept.iter().find(|message| message.3 >= clock - 30);
                prop_assert_eq!(lower, since.map_or(end, |message| message.0));
            }
        }
    }
}
