//! What applying costs: microseconds a message for entries of 1, 64 and 256 messages of 1 KiB, with and without keys.
//!
//! `cargo run --release -p flotilla-broker --example apply_bench [messages]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_broker::machine::{Events, Machine, MachineSettings};
use flotilla_broker::state::{AppendHeader, Assignment, Command, KeyHashes, OpenQueue};
use flotilla_controller::topic::TopicConfig;
use flotilla_raft_store::frames::{Frames, pack};
use flotilla_raft_store::log_id::LogId;
use flotilla_raft_store::state_machine::StateMachine;

const QUEUES: u32 = 8;
const GENERATION: u32 = 1;
const BODY: [u8; 1024] = [7; 1024];

struct Nobody;

impl Events for Nobody {
    fn appended(&self, _topic: &str, _queue: u32, _max_offset: i64) {}
    fn membership_changed(&self, _consumer_group: &str) {}
    fn digest(&self, _nonce: u64, _log_id: LogId, _value: u64) {}
    fn leadership(&self, _term: u64, _leader: bool) {}
}

fn main() -> std::io::Result<()> {
    let messages: u64 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(2_000_000);
    println!(
        "{:>12} {:>10} {:>14} {:>14} {:>12}",
        "in an entry", "keys each", "us a message", "messages", "pull of 32"
    );
    for (batch, of) in [(1, messages / 8), (64, messages), (256, messages)] {
        for keys in [0, 1, 2] {
            let (apply, pull) = run(batch, keys, of)?;
            let each = apply.as_secs_f64() * 1e6 / of as f64;
            println!(
                "{batch:>12} {keys:>10} {each:>14.3} {of:>14} {:>9.2} us",
                pull.as_secs_f64() * 1e6
            );
        }
    }
    Ok(())
}

/// Time of all applies, and of one pull of 32 messages at a random place.
fn run(batch: u64, keys: u64, messages: u64) -> std::io::Result<(Duration, Duration)> {
    let folder = tempfile::tempdir()?;
    let (mut machine, reader) = Machine::open(folder.path(), MachineSettings::default(), Arc::new(Nobody))?;
    let open = (0..QUEUES).map(|queue| OpenQueue {
        queue,
        generation: GENERATION,
        start: 0,
    });
    let topic = Command::AssignTopic(Assignment {
        config: TopicConfig::new("bench", QUEUES),
        uid: 1,
        version: 1,
        created_ms: 0,
        open: open.collect(),
    })
    .encode();
    machine.apply(LogId::new(1, 1), &parse(&[topic]))?;

    let mut spent = Duration::ZERO;
    for entry in 0..messages / batch {
        let frames: Vec<Bytes> = (0..batch).map(|slot| frame(entry * batch + slot, keys)).collect();
        let frames = parse(&frames);
        let start = Instant::now();
        let replies = machine.apply(LogId::new(1, entry + 2), &frames)?;
        spent += start.elapsed();
        assert_eq!(replies.len() as u64, batch);
    }

    let pulls = 10_000;
    let start = Instant::now();
    for pull in 0..pulls {
        let queue = pull % u64::from(QUEUES);
        let from = spread(pull) % (messages / u64::from(QUEUES) - 32);
        let found = reader.locate("bench", queue as u32, from as i64, 32)?;
        assert_eq!(found.len(), 32);
    }
    Ok((spent, start.elapsed() / pulls as u32))
}

fn frame(number: u64, keys: u64) -> Bytes {
    let mut hashes = KeyHashes::none();
    for key in 0..keys {
        hashes.push(spread(number * 2 + key));
    }
    let header = AppendHeader {
        topic: "bench",
        queue: (number % u64::from(QUEUES)) as u32,
        generation: GENERATION,
        tag_hash: 1,
        store_time: 1_700_000_000_000 + number as i64 / 100,
        keys: hashes,
        mark: None,
    };
    header.frame(&BODY)
}

fn parse(frames: &[Bytes]) -> Frames {
    Frames::parse(pack(frames)).expect("packed here")
}

/// Numbers without order, as hashes are.
fn spread(number: u64) -> u64 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}
