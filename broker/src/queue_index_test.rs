//! The queue index against a plain model: a vector of (store time, log index, slot, tag hash) and a first offset.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::kv::KvSettings;

fn settings() -> KvSettings {
    KvSettings {
        memtable_bytes: 1 << 20,
        ..KvSettings::default()
    }
}

fn batch(queue: QueueId, first_offset: i64, store_time: i64, messages: &[(u16, i32)]) -> IndexBatch {
    IndexBatch {
        topic: Arc::from("T"),
        queue,
        first_offset,
        store_time,
        messages: messages.to_vec(),
        bytes: 0,
    }
}

#[test]
fn a_record_has_these_bytes() {
    let batch = batch(QueueId::new(1, 2), 3, 4, &[(5, -1), (6, 7)]);
    let golden = [
        0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 4, 0, 2, 0, 5, 0xff, 0xff, 0xff, 0xff, 0, 6, 0, 0, 0, 7,
    ];
    assert_eq!(encode(9, &batch), golden);
    let key = [0; 17];
    for end in 0..golden.len() {
        assert!(Batch::decode(&key, &golden[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn queues_do_not_see_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let kv = Kv::open(folder.path(), &settings()).unwrap();
    let mut out = WriteBatch::default();
    put(&mut out, 1, &batch(QueueId::new(1, 1), 0, 1, &[(0, 0)]));
    put(&mut out, 1, &batch(QueueId::new(1, 3), 0, 1, &[(1, 0)]));
    kv.write(out).unwrap();
    let located = |queue| {
        let mut found = Vec::new();
        QueueIndex::new(&kv, QueueId::new(1, queue))
            .locate(0, 10, &mut found)
            .unwrap();
        found.len()
    };
    assert_eq!([located(0), located(1), located(2), located(3)], [0, 1, 0, 1]);
}

/// One message: store time, log index, slot, tag hash.
type Message = (i64, u64, u16, i32);

/// What the model says to `locate`.
fn expected(model: &[Message], min: i64, from: i64, max: usize) -> Vec<Located> {
    let with_offsets = model.iter().zip(0_i64..);
    with_offsets
        .filter(|(_, queue_offset)| *queue_offset >= min.max(from))
        .take(max)
        .map(|((store_time, log_index, slot, tag_hash), queue_offset)| Located {
            queue_offset,
            log_index: *log_index,
            slot: *slot,
            store_time: *store_time,
            tag_hash: *tag_hash,
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_index_answers_as_the_model_does(
        batches in prop::collection::vec((0_i64..5, 1_u64..4, prop::collection::vec(any::<i32>(), 1..6)), 1..40),
        trimmed in 0_usize..40,
        questions in prop::collection::vec((0_i64..200, 0_usize..20), 20),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let kv = Kv::open(folder.path(), &settings()).unwrap();
        let queue = QueueId::new(7, 1);
        let mut model: Vec<Message> = Vec::new();
        let mut starts = Vec::new();
        let (mut time, mut log_index) = (100, 0);
        for (later, further, tags) in &batches {
            time += later;
            log_index += further;
            let messages: Vec<_> = tags.iter().zip(0_u16..).map(|(tag, slot)| (slot * 3, *tag)).collect();
            starts.push(BatchStart { first_offset: model.len() as i64, log_index, store_time: time });
            let mut out = WriteBatch::default();
            put(&mut out, log_index, &batch(queue, model.len() as i64, time, &messages));
            // Neighbours on both sides must not leak in.
            put(&mut out, log_index, &batch(QueueId::new(7, 0), model.len() as i64, time, &messages));
            put(&mut out, log_index, &batch(QueueId::new(7, 2), model.len() as i64, time, &messages));
            kv.write(out).unwrap();
            model.extend(messages.iter().map(|(slot, tag)| (time, log_index, *slot, *tag)));
        }
        let trimmed = trimmed.min(starts.len() - 1);
        let min = starts[trimmed].first_offset;
        let mut out = WriteBatch::default();
        let key = |offset: i64| Key::new(QUEUE_INDEX).u64(queue.0).u64(offset as u64).finish();
        out.delete_range(key(0), key(min));
        kv.write(out).unwrap();
        starts.drain(..trimmed);
        let offsets = min..model.len() as i64;

        let mut index = QueueIndex::new(&kv, queue);
        for (number, max) in questions {
            let mut found = Vec::new();
            index.locate(number, max, &mut found).unwrap();
            prop_assert_eq!(found, expected(&model, min, number, max));

            let time = number + 50;
            let since = starts.iter().find(|start| start.store_time >= time);
            let found = index.first_since(offsets.clone(), time).unwrap();
            prop_assert_eq!(found.as_ref(), since);

            let log_index = number as u64;
            let behind = starts.iter().find(|start| start.log_index > log_index);
            let found = index.first_behind(offsets.clone(), log_index).unwrap();
            prop_assert_eq!(found.as_ref(), behind);
        }
    }
}
