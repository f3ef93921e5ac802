//! Clients that ask for a lot and read nothing: what waits for them is bounded, for one and for all of them together,
//! others are served meanwhile, and what they cost is given back when they go. The same for messages that are still in
//! memory and for those that have to be read from disk.

use std::time::{Duration, Instant};

use flotilla_e2e::client::{Client, pull_request};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::progress;
use flotilla_e2e::raw::Raw;
use flotilla_e2e::resources::{Usage, mib};
use flotilla_e2e::wait;

const TOPIC: &str = "slow-reader";
/// The messages they ask for.
const BODY_BYTES: usize = 1 << 20;
const MESSAGES: i64 = 8;
/// Clients that do not read, and what each of them asks for: 10 GiB in all. With a bound for each connection alone they
/// cost 2 GiB.
const READERS: usize = 160;
const PULLS_EACH: usize = 64;
/// What a node may grow by: the 512 MiB of answers that a node makes at most, and half as much again for the requests,
/// for what an answer is copied from, and for what the allocator has not given back yet.
const MEMORY_GROWTH_MAX: u64 = 768 << 20;
/// And what may stay once the readers are gone.
const MEMORY_KEPT_MAX: u64 = 128 << 20;
/// A send and a pull of somebody else take no longer than this meanwhile.
const SERVED_WITHIN: Duration = Duration::from_secs(1);
/// How long the readers go on not reading.
const LOOKED_AT_FOR: Duration = Duration::from_secs(2);
/// How long giving memory back may take.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(20);

/// Sends and pulls for a while; how often, and the longest that one of both took.
fn use_beside(good: &mut Client) -> (i64, Duration) {
    let first = good.max_offset(TOPIC, 1).expect("end of the queue");
    let (begin, mut slowest, mut next) = (Instant::now(), Duration::ZERO, first);
    while begin.elapsed() < LOOKED_AT_FOR {
        let asked = Instant::now();
        let body = format!("beside them {next}");
        assert_eq!(good.send(TOPIC, 1, &body).expect("send"), next);
        assert_eq!(good.pull(TOPIC, 1, next).expect("pull"), [(next, body)]);
        slowest = slowest.max(asked.elapsed());
        next += 1;
    }
    (next - first, slowest)
}

fn do_not_read(cluster: &Cluster, messages_are: &str) {
    let usage = Usage::of(cluster, "n1").expect("the process");
    let mut good = cluster.client(0).expect("connect");
    let before = usage.resident_bytes().expect("memory");
    usage.forget_peak().expect("peak");
    let port = cluster.nodes()[0].ports.remoting;
    let readers = (0..READERS).map(|_| {
        let mut raw = Raw::connect(port).expect("connect");
        for _ in 0..PULLS_EACH {
            raw.ask(&pull_request(TOPIC, 0, 0, Duration::ZERO)).expect("ask");
        }
        raw
    });
    let readers: Vec<Raw> = readers.collect();
    let (times, slowest) = use_beside(&mut good);
    let first = good.pull(TOPIC, 0, 0).expect("pull what they pull");
    assert_eq!(first[0].1.len(), BODY_BYTES);
    let peak = usage.peak_bytes().expect("memory");
    progress::line(format!(
        "{READERS} readers, messages {messages_are}: {} before, {} at most; {times} sends and pulls beside them, the \
         slowest in {slowest:?}",
        mib(before),
        mib(peak)
    ));
    assert!(
        peak <= before + MEMORY_GROWTH_MAX,
        "grew from {} to {}",
        mib(before),
        mib(peak)
    );
    assert!(slowest <= SERVED_WITHIN, "somebody else waited for {slowest:?}");

    drop(readers);
    let kept = wait::until("the memory is given back", GIVEN_BACK_WITHIN, || {
        // The allocator gives back while it is asked for something.
        good.send(TOPIC, 1, "on and on")?;
        let now = usage.resident_bytes()?;
        anyhow::ensure!(now <= before + MEMORY_KEPT_MAX, "{} are left", mib(now));
        Ok(Some(now))
    });
    progress::line(format!("without them: {}", mib(kept.expect("given back"))));
    assert!(usage.is_alive());
}

#[test]
fn clients_that_do_not_read_cost_a_bounded_amount_and_hold_up_nobody() {
    let mut cluster = Cluster::start(1).expect("start");
    cluster.http(0).create_topic(TOPIC, 2).expect("topic");
    let mut client = cluster.client(0).expect("connect");
    let large = "x".repeat(BODY_BYTES);
    for number in 0..MESSAGES {
        assert_eq!(client.send(TOPIC, 0, &large).expect("send"), number);
    }
    do_not_read(&cluster, "in memory");
    cluster.terminate(0).expect("stop");
    cluster.launch(0).expect("start");
    cluster.await_whole().expect("whole");
    do_not_read(&cluster, "on disk");
}
