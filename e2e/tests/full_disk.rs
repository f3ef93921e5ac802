//! A disk that fills up: sends are refused with a clear code before anything breaks, everything acknowledged can be read
//! meanwhile and after a restart, and once there is room again sends go on by themselves.
//!
//! The disk is a small one in memory, which only root can make; without it these tests say so and do nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use flotilla_e2e::client::Client;
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::progress;
use flotilla_e2e::resources::{Usage, mib};
use flotilla_e2e::small_disk::SmallDisk;
use flotilla_e2e::wait;

const TOPIC: &str = "full-disk";
/// Size of the disk, and what somebody else has on it.
const DISK_BYTES: u64 = 256 << 20;
const BALLAST_BYTES: usize = 96 << 20;
/// Share of the disk in percent that may be used.
const USED_PERCENT_MAX: u64 = 80;
/// What is sent until it is refused.
const BODY_BYTES: usize = 128 << 10;
const SENDERS: u32 = 3;
/// So much is left when sends are refused, whatever was under way.
const FREE_BYTES_MIN: u64 = 8 << 20;
/// The disk is full after this time at the latest.
const FULL_WITHIN: Duration = Duration::from_secs(30);
/// How long sends are tried while it is full.
const REFUSED_FOR: Duration = Duration::from_secs(2);
/// Sends go on after so much time.
const GOES_ON_WITHIN: Duration = Duration::from_secs(10);
const GROUP: &str = "full-disk-group";

/// A disk, or the reason why this cannot be tested here.
fn disk() -> Option<SmallDisk> {
    let disk = SmallDisk::mount(DISK_BYTES);
    disk.inspect_err(|error| progress::line(format!("not tested: {error:#}")))
        .ok()
}

/// A cluster whose first node has its data on the disk, beside something else.
fn start(nodes: usize, disk: &SmallDisk) -> (Cluster, PathBuf) {
    let mut cluster = Cluster::start(nodes).expect("start");
    cluster.http(0).create_topic(TOPIC, SENDERS).expect("topic");
    cluster.kill(0).expect("kill");
    disk.take_over(&cluster, 0).expect("move the data");
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![7; BALLAST_BYTES]).expect("ballast");
    let config = cluster.folder().join("n1.toml");
    let settings = fs::read_to_string(&config).expect("settings");
    // Its last table is [policy].
    fs::write(
        &config,
        format!("{settings}disk_used_percent_max = {USED_PERCENT_MAX}\n"),
    )
    .expect("settings");
    cluster.launch(0).expect("start");
    cluster.await_whole().expect("whole");
    (cluster, ballast)
}

/// The message number so-and-so of a queue.
fn body(queue: u32, number: i64) -> String {
    let mut body = format!("{queue} {number} ");
    body.push_str(&"x".repeat(BODY_BYTES - body.len()));
    body
}

/// Whether a send failed because the disk is full, and for no other reason.
fn is_refusal(error: &anyhow::Error) -> bool {
    let told = format!("{error:#}");
    told.starts_with("code 14:") && told.contains("disk is full")
}

/// Sends to a queue until the disk is full or `stop` says so; how many messages it has then.
fn fill(mut client: Client, queue: u32, stop: &AtomicBool) -> Result<i64> {
    let begin = Instant::now();
    for number in client.max_offset(TOPIC, queue)?.. {
        if stop.load(Ordering::Relaxed) {
            return Ok(number);
        }
        match client.send(TOPIC, queue, &body(queue, number)) {
            Ok(offset) => ensure!(offset == number, "offset {offset} where {number} is next"),
            Err(error) if is_refusal(&error) => return Ok(number),
            Err(error) => return Err(error.context(format!("message {number} of queue {queue}"))),
        }
        ensure!(begin.elapsed() < FULL_WITHIN, "not full after {number} messages");
    }
    unreachable!("offsets do not end")
}

/// Sends to every queue at once, until all are refused.
fn fill_up(cluster: &Cluster) -> BTreeMap<u32, i64> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let senders = (0..SENDERS).map(|queue| {
            let (client, stop) = (cluster.client(0).expect("connect"), &stop);
            (queue, scope.spawn(move || fill(client, queue, stop)))
        });
        let senders: Vec<_> = senders.collect();
        let sent = senders.into_iter().map(|(queue, sender)| {
            let sent = sender.join().expect("no panic");
            (queue, sent.unwrap_or_else(|error| panic!("{error:#}")))
        });
        sent.collect()
    })
}

/// Everything acknowledged is there, as it was sent.
fn all_is_there(cluster: &Cluster, node: usize, sent: &BTreeMap<u32, i64>) -> Result<()> {
    let read = cluster.client(node)?.dump(TOPIC, SENDERS)?;
    for (queue, count) in sent {
        let found = &read.0[queue];
        ensure!(
            (found.first_offset, found.end_offset) == (0, *count),
            "queue {queue} has {}..{}, {count} were acknowledged",
            found.first_offset,
            found.end_offset
        );
        for (number, (offset, read)) in (0..*count).zip(&found.messages) {
            ensure!(
                *offset == number && *read == body(*queue, number),
                "queue {queue}: {offset} is not message {number}"
            );
        }
    }
    Ok(())
}

/// Every send is refused for a while, and nothing else happens.
fn stays_refused(cluster: &Cluster) -> Result<()> {
    let begin = Instant::now();
    let mut client = cluster.client(0)?;
    let mut tried = 0;
    while begin.elapsed() < REFUSED_FOR {
        for queue in 0..SENDERS {
            match client.send(TOPIC, queue, "one more") {
                Ok(_) => bail!("a send succeeded after {tried} refusals"),
                Err(error) => ensure!(is_refusal(&error), "{error:#}"),
            }
            tried += 1;
        }
        // Somebody who only reads goes on, with the offsets it stores.
        client.set_consumer_offset(GROUP, TOPIC, 0, i64::from(tried))?;
    }
    Ok(())
}

#[test]
fn a_full_disk_refuses_sends_and_nothing_else() {
    let Some(disk) = disk() else { return };
    let (mut cluster, ballast) = start(1, &disk);
    let mut sent = fill_up(&cluster);
    let free = disk.free_bytes().expect("free");
    progress::line(format!("refused after {sent:?} messages, {} free", mib(free)));
    assert!(sent.values().all(|count| *count > 0), "{sent:?}");
    assert!(free >= FREE_BYTES_MIN, "{} are left", mib(free));
    stays_refused(&cluster).expect("refused");
    all_is_there(&cluster, 0, &sent).expect("readable while full");

    cluster.kill(0).expect("kill");
    cluster.launch(0).expect("start");
    cluster.await_whole().expect("starts on a full disk");
    wait::until("refused again", GOES_ON_WITHIN, || stays_refused(&cluster).map(Some)).expect("refused");
    all_is_there(&cluster, 0, &sent).expect("readable after a restart");
    assert!(Usage::of(&cluster, "n1").expect("the process").is_alive());

    fs::remove_file(ballast).expect("make room");
    let begin = Instant::now();
    for (queue, count) in &mut sent {
        let mut client = cluster.client(0).expect("connect");
        let offset = wait::until("sends go on", GOES_ON_WITHIN, || {
            client.send(TOPIC, *queue, &body(*queue, *count)).map(Some)
        });
        assert_eq!(offset.expect("sends go on"), *count);
        *count += 1;
    }
    progress::line(format!("sends went on after {:?}", begin.elapsed()));
    all_is_there(&cluster, 0, &sent).expect("all there at the end");
}
