//! The row about many consumer groups that commit their offsets.

use std::time::{Duration, Instant};

use flotilla_api::remoting::codes::request;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::offset::{QueryConsumerOffsetHeader, UpdateConsumerOffsetHeader};

use super::super::call::Caller;
use super::super::cpu::CpuTimes;
use super::super::target::Target;
use super::cluster::Cluster;
use super::row::{Goal, Row};
use super::traffic;

const TOPIC: &str = "progress";
const GROUPS: u32 = 10_000;
/// As official clients do by default.
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);
/// Commits are sent in so many bursts a second.
const BURSTS_PER_SECOND: u32 = 100;
const QUEUE: i32 = 0;
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long the last offset may take to be seen.
const SEEN_MAX: Duration = Duration::from_secs(10);
/// Between two looks at it.
const POLL: Duration = Duration::from_millis(50);

/// Ten thousand consumer groups commit an offset every five seconds each, one-way, as official clients do: what that
/// takes of a processor, all nodes together.
pub(super) fn commits(cluster: &Cluster, seconds: f64) -> anyhow::Result<Vec<Row>> {
    traffic::fill(cluster, TOPIC, 128, 8)?;
    let target = Target::find(&cluster.target(TOPIC, 0))?;
    let mut callers = Vec::new();
    for address in &target.addresses {
        callers.push(Caller::connect(*address, TIMEOUT)?);
    }
    // Every group has committed once before anything is measured: new groups are made by the first.
    let mut sent = 0_u32;
    let mut commit = |count: u32, callers: &mut [Caller]| -> anyhow::Result<()> {
        for _ in 0..count {
            let (group, round) = (sent % GROUPS, sent / GROUPS + 1);
            let place = sent as usize % callers.len();
            callers[place].send(update(group, i64::from(round)))?;
            sent += 1;
        }
        Ok(())
    };
    let per_burst = GROUPS / (COMMIT_INTERVAL.as_secs() as u32 * BURSTS_PER_SECOND);
    let mut run = |seconds: f64| -> anyhow::Result<()> {
        let start = Instant::now();
        let mut bursts = 0_u32;
        while start.elapsed().as_secs_f64() < seconds {
            commit(per_burst, &mut callers)?;
            bursts += 1;
            let due = start + Duration::from_secs(1) / BURSTS_PER_SECOND * bursts;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(())
    };
    run(2.0 * COMMIT_INTERVAL.as_secs_f64())?;
    let pids = cluster.pids();
    let (before, start) = (CpuTimes::read(&pids), Instant::now());
    run(seconds.max(COMMIT_INTERVAL.as_secs_f64()))?;
    let used = CpuTimes::read(&pids).since(&before).servers_total() / start.elapsed().as_secs_f64();
    let (last, round) = ((sent - 1) % GROUPS, i64::from((sent - 1) / GROUPS + 1));
    await_offset(&target, last, round)?;
    Ok(vec![Row::new(
        "Q2",
        "% of a core",
        Goal::AtMost(10.0),
        vec![used * 100.0],
    )])
}

fn name(group: u32) -> String {
    format!("flotilla_bench_group_{group}")
}

fn update(group: u32, offset: i64) -> RemotingCommand {
    let mut command = RemotingCommand::request(request::UPDATE_CONSUMER_OFFSET);
    let header = UpdateConsumerOffsetHeader {
        consumer_group: &name(group),
        topic: TOPIC,
        queue: QUEUE,
        commit_offset: offset,
    };
    header.encode(&mut command.fields);
    command.mark_one_way()
}

/// One-way commits tell nothing: what was committed last must be seen.
fn await_offset(target: &Target, group: u32, offset: i64) -> anyhow::Result<()> {
    let mut caller = Caller::connect(target.addresses[0], TIMEOUT)?;
    let deadline = Instant::now() + SEEN_MAX;
    loop {
        let mut command = RemotingCommand::request(request::QUERY_CONSUMER_OFFSET);
        let header = QueryConsumerOffsetHeader {
            consumer_group: &name(group),
            topic: TOPIC,
            queue: QUEUE,
            set_zero_if_not_found: None,
        };
        header.encode(&mut command.fields);
        let answer = caller.call(command, TIMEOUT)?;
        let seen: Option<i64> = answer.fields.get("offset").and_then(|text| text.parse().ok());
        if seen == Some(offset) {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "offset {offset} was committed, {seen:?} is seen"
        );
        std::thread::sleep(POLL);
    }
}
