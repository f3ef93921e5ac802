//! Consuming: every queue of the topic is pulled all the time, by a fixed number of connections.
//!
//! Latency is the time from a message's birth at its producer to its arrival here, in whole milliseconds because births are
//! told so; both ends must share a clock. Queue offsets must follow one another: what is skipped or comes twice is counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use flotilla_api::message;
use flotilla_api::remoting::codes::{request, response};
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::offset::{OffsetResponse, QueueHeader};
use flotilla_api::remoting::headers::pull::{PullMessageHeader, PullMessageResponse, SYS_SUBSCRIPTION, SYS_SUSPEND};

use super::RunArgs;
use super::call::Caller;
use super::measure::{DISCONNECTED, Progress, Sample, Span, now_ms, watch};
use super::report::Report;
use super::target::{Target, TargetArgs};

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const SUSPEND: Duration = Duration::from_secs(15);
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// What and how to consume.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConsumeArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Connections; the queues are dealt out among them.
    #[arg(long, default_value_t = 4)]
    pub(crate) consumers: usize,
    /// Consumer group.
    #[arg(long, default_value = "flotilla_bench_consumer")]
    pub(crate) group: String,
    /// Start at the first message there is, instead of the end.
    #[arg(long)]
    pub(crate) from_start: bool,
    /// Stop when every queue was read up to the end it had at the start.
    #[arg(long)]
    pub(crate) stop_at_end: bool,
    /// Most messages in one answer.
    #[arg(long, default_value_t = 32)]
    pub(crate) pull_batch: i32,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

struct Queue {
    number: u32,
    next_offset: i64,
    end_offset: i64,
}

struct Shared {
    args: ConsumeArgs,
    topic: String,
    span: Span,
    progress: Progress,
    faults: AtomicU64,
    left: AtomicU64,
}

/// Runs and reports.
pub(crate) fn run(args: &ConsumeArgs) -> anyhow::Result<Report> {
    let target = Target::find(&args.target)?;
    anyhow::ensure!(
        !target.read_queues.is_empty(),
        "topic {} has no readable queue",
        target.topic
    );
    let report = Report {
        mode: "consume".to_owned(),
        topic: target.topic.clone(),
        connections: args.consumers,
        window: 1,
        batch: args.pull_batch.max(1) as usize,
        ..Report::default()
    };
    let mut by_address: BTreeMap<SocketAddr, Vec<Queue>> = BTreeMap::new();
    for read in &target.read_queues {
        let queue = bounds(read.address, &target.topic, read.queue, args.from_start)?;
        by_address.entry(read.address).or_default().push(queue);
    }
    let shared = Arc::new(Shared {
        args: args.clone(),
        topic: target.topic.clone(),
        span: Span::of(&args.run),
        progress: Progress::default(),
        faults: AtomicU64::new(0),
        left: AtomicU64::new(target.read_queues.len() as u64),
    });
    let mut threads = Vec::new();
    for (address, queues) in by_address {
        for queues in deal(queues, args.consumers.max(1)) {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("bench-pull".to_owned());
            threads.push(thread.spawn(move || consume(address, queues, &shared))?);
        }
    }
    let (cpu, seconds) = watch(&args.run, shared.span, &shared.progress);
    let mut sample = Sample::new();
    for thread in threads {
        sample.merge(
            &thread
                .join()
                .map_err(|_| anyhow::anyhow!("a consuming thread panicked"))?,
        );
    }
    let mut report = report.measured(&sample, &cpu, seconds);
    report.offset_faults = Some(shared.faults.load(Ordering::Relaxed));
    Ok(report)
}

/// Where to begin, and where the queue ends now.
fn bounds(address: SocketAddr, topic: &str, queue: u32, from_start: bool) -> anyhow::Result<Queue> {
    let mut caller = Caller::connect(address, CALL_TIMEOUT).with_context(|| format!("connect to {address}"))?;
    let mut ask = |code| -> anyhow::Result<i64> {
        let mut command = RemotingCommand::request(code);
        QueueHeader {
            topic,
            queue: queue as i32,
            committed: None,
        }
        .encode(&mut command.fields);
        Ok(OffsetResponse::decode(&caller.expect(command, CALL_TIMEOUT)?.fields)?.offset)
    };
    let end_offset = ask(request::GET_MAX_OFFSET)?;
    let next_offset = if from_start {
        ask(request::GET_MIN_OFFSET)?.max(0)
    } else {
        end_offset
    };
    Ok(Queue {
        number: queue,
        next_offset,
        end_offset,
    })
}

fn deal(queues: Vec<Queue>, hands: usize) -> Vec<Vec<Queue>> {
    let mut dealt: Vec<Vec<Queue>> = (0..hands).map(|_| Vec::new()).collect();
    for (place, queue) in queues.into_iter().enumerate() {
        dealt[place % hands].push(queue);
    }
    dealt.retain(|hand| !hand.is_empty());
    dealt
}

/// Pulls these queues until the span is over; reconnects when the connection is lost.
fn consume(address: SocketAddr, mut queues: Vec<Queue>, shared: &Shared) -> Sample {
    let mut sample = Sample::new();
    while Instant::now() < shared.span.end && !queues.is_empty() {
        if pull_all(address, &mut queues, shared, &mut sample).is_ok() {
            break;
        }
        if shared.span.contains(Instant::now()) {
            sample.fail(DISCONNECTED, 1);
        }
        shared.progress.add(0, 1);
        std::thread::sleep(RETRY_PAUSE);
    }
    sample
}

/// Keeps one pull per queue in flight.
fn pull_all(address: SocketAddr, queues: &mut Vec<Queue>, shared: &Shared, sample: &mut Sample) -> std::io::Result<()> {
    let mut caller = Caller::connect(address, CALL_TIMEOUT)?;
    let mut asked = BTreeMap::new();
    if shared.args.stop_at_end {
        finish_read(queues, shared);
    }
    for queue in queues.iter() {
        asked.insert(caller.send(pull_request(queue, shared))?, queue.number);
    }
    while !queues.is_empty() {
        let left = shared.span.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let answer = match caller.receive(left.min(SUSPEND + CALL_TIMEOUT)) {
            Ok(answer) => answer,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut && left < SUSPEND + CALL_TIMEOUT => break,
            Err(error) => return Err(error),
        };
        let Some(number) = asked.remove(&answer.opaque) else {
            continue;
        };
        let Some(queue) = queues.iter_mut().find(|queue| queue.number == number) else {
            continue;
        };
        take(&answer, queue, shared, sample);
        if shared.args.stop_at_end && queue.next_offset >= queue.end_offset {
            finish_read(queues, shared);
            continue;
        }
        asked.insert(caller.send(pull_request(queue, shared))?, number);
    }
    Ok(())
}

/// Lets go of queues that were read to their end; the last one ends the run.
fn finish_read(queues: &mut Vec<Queue>, shared: &Shared) {
    let before = queues.len();
    queues.retain(|queue| queue.next_offset < queue.end_offset);
    let done = (before - queues.len()) as u64;
    if done > 0 && shared.left.fetch_sub(done, Ordering::Relaxed) == done {
        shared.progress.done.store(true, Ordering::Relaxed);
    }
}

fn pull_request(queue: &Queue, shared: &Shared) -> RemotingCommand {
    let mut command = RemotingCommand::request(request::PULL_MESSAGE);
    PullMessageHeader {
        consumer_group: &shared.args.group,
        topic: &shared.topic,
        queue: queue.number as i32,
        queue_offset: queue.next_offset,
        max_messages: shared.args.pull_batch,
        sys_flag: SYS_SUSPEND | SYS_SUBSCRIPTION,
        commit_offset: 0,
        suspend_timeout_millis: SUSPEND.as_millis() as i64,
        subscription: Some("*"),
        subscription_version: 0,
        expression_type: Some("TAG"),
        max_message_bytes: None,
        request_source: None,
    }
    .encode(&mut command.fields);
    command
}

fn take(answer: &RemotingCommand, queue: &mut Queue, shared: &Shared, sample: &mut Sample) {
    let counts = shared.span.contains(Instant::now());
    match answer.code {
        response::SUCCESS => {
            let now = now_ms();
            let (mut messages, mut bytes) = (0, 0);
            for read in message::records(&answer.body) {
                let Ok(read) = read else {
                    shared.faults.fetch_add(1, Ordering::Relaxed);
                    break;
                };
                if read.queue_offset != queue.next_offset {
                    shared.faults.fetch_add(1, Ordering::Relaxed);
                }
                queue.next_offset = read.queue_offset + 1;
                messages += 1;
                bytes += read.body.len() as u64;
                if counts {
                    sample.record_ms(now.saturating_sub(read.born_timestamp as u64), 1);
                }
            }
            if counts {
                sample.messages += messages;
                sample.bytes += bytes;
            }
            shared.progress.add(messages, 0);
        }
        response::PULL_NOT_FOUND | response::PULL_RETRY_IMMEDIATELY | response::PULL_OFFSET_MOVED => {
            if let Ok(moved) = PullMessageResponse::decode(&answer.fields) {
                if answer.code == response::PULL_OFFSET_MOVED {
                    shared.faults.fetch_add(1, Ordering::Relaxed);
                }
                queue.next_offset = moved.next_begin_offset;
            }
        }
        code => {
            if counts {
                sample.fail(code, 1);
            }
            shared.progress.add(0, 1);
            std::thread::sleep(RETRY_PAUSE);
        }
    }
}
