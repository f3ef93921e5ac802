//! Thousands of clients that are connected and silent: each costs a few KiB, and those who do something are served as
//! quickly as ever. The node asks the system for the open files it needs.

use std::time::{Duration, Instant};

use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_e2e::client::Client;
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::progress;
use flotilla_e2e::raw::Raw;
use flotilla_e2e::resources::{self, Usage, mib};
use flotilla_e2e::wait;

const TOPIC: &str = "idle-connections";
/// Clients that are connected and say nothing; half of them asked something before.
const CLIENTS: usize = 5_000;
/// Open files that this test needs.
const OPEN_FILES: u64 = CLIENTS as u64 + 500;
/// What most systems allow a program that does not ask for more.
const OPEN_FILES_OF_A_SHELL: u64 = 1_024;
/// What a node may spend on each of them, of its own memory.
const BYTES_PER_CONNECTION_MAX: u64 = 24 * 1024;
/// Half of the sends and pulls of somebody else take no longer than this, and the slowest no longer than that.
const HALF_SERVED_WITHIN: Duration = Duration::from_millis(50);
const SERVED_WITHIN: Duration = Duration::from_secs(1);
/// Sends and pulls of somebody else.
const ROUNDS: i64 = 200;
/// How long a node may take to know that clients came or went.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);

const GET_ROUTE: i32 = 105;

/// How long sends with their pulls take: half of them, and the slowest.
fn served(client: &mut Client) -> (Duration, Duration) {
    let first = client.max_offset(TOPIC, 0).expect("end of the queue");
    let rounds = (first..first + ROUNDS).map(|offset| {
        let begin = Instant::now();
        let body = format!("message {offset}");
        assert_eq!(client.send(TOPIC, 0, &body).expect("send"), offset);
        assert_eq!(client.pull(TOPIC, 0, offset).expect("pull"), [(offset, body)]);
        begin.elapsed()
    });
    let mut rounds: Vec<Duration> = rounds.collect();
    rounds.sort_unstable();
    (rounds[rounds.len() / 2], rounds[rounds.len() - 1])
}

fn connections(cluster: &Cluster) -> anyhow::Result<usize> {
    let metrics = cluster.http(0).metrics()?;
    Ok(metrics.get("flotilla_connections", &[]).unwrap_or_default() as usize)
}

#[test]
fn idle_connections_cost_little_and_slow_nobody_down() {
    // Whoever starts the node gives it as few as a shell does.
    resources::allow_open_files(OPEN_FILES_OF_A_SHELL, None).expect("fewer open files");
    let cluster = Cluster::start(1).expect("start");
    if let Err(error) = resources::allow_open_files(OPEN_FILES, Some(OPEN_FILES)) {
        progress::line(format!("not tested: {error:#}"));
        return;
    }
    let usage = Usage::of(&cluster, "n1").expect("the process");
    cluster.http(0).create_topic(TOPIC, 1).expect("topic");
    let mut good = cluster.client(0).expect("connect");
    let alone = served(&mut good);
    let before = usage.resident_bytes().expect("memory");

    let ports = cluster.nodes()[0].ports;
    let ports = [ports.remoting, ports.remoting - 2, ports.name_server];
    let idle = (0..CLIENTS).map(|number| {
        let mut raw = Raw::connect(ports[number % ports.len()]).expect("connect");
        if number % 2 == 0 {
            raw.ask(&RemotingCommand::request(GET_ROUTE).with_field("topic", TOPIC))
                .expect("ask");
            assert_eq!(raw.answer().expect("answer").code, 0);
        }
        raw
    });
    let begin = Instant::now();
    let idle: Vec<Raw> = idle.collect();
    let took = begin.elapsed();
    wait::until("all are connected", KNOWN_WITHIN, || {
        Ok((connections(&cluster)? > CLIENTS).then_some(()))
    })
    .expect("connected");
    let beside = served(&mut good);
    let now = usage.resident_bytes().expect("memory");
    let each = now.saturating_sub(before) / CLIENTS as u64;
    progress::line(format!(
        "{CLIENTS} idle connections, made in {took:?}: {} bytes each ({} before, {} now, {} files open); a send and a \
         pull take {alone:?} without them, {beside:?} with them",
        each,
        mib(before),
        mib(now),
        usage.open_files().expect("open files"),
    ));
    assert!(each <= BYTES_PER_CONNECTION_MAX, "{each} bytes each");
    assert!(
        beside.0 <= HALF_SERVED_WITHIN && beside.1 <= SERVED_WITHIN,
        "{beside:?}"
    );
    drop(idle);
    wait::until("all are gone", KNOWN_WITHIN, || {
        Ok((connections(&cluster)? < 10).then_some(()))
    })
    .expect("gone");
    served(&mut good);
    assert!(usage.is_alive());
}
