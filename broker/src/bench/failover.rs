//! Failover: one send in flight with a short timeout; how long is there no acknowledgement?
//!
//! A send that fails or times out is tried again at the next broker at once, as a retrying client would. The gap counts from
//! the last acknowledgement before a fault to the first one after it. Whoever runs this makes the fault.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use clap::Args;
use flotilla_api::remoting::frame;

use super::call::Caller;
use super::cpu::CpuTimes;
use super::measure::{DISCONNECTED, Sample, TIMED_OUT, now_ms};
use super::report::{Gaps, Report};
use super::target::{Target, TargetArgs};
use super::template::Template;
use super::{RunArgs, SendArgs};

const GAP_LISTED: Duration = Duration::from_millis(100);
/// Between attempts when every broker refuses at once, so that the tool does not take the CPU from an election.
const REFUSED_PAUSE: Duration = Duration::from_millis(2);

/// How long after a fault was made it may take until its process feels it.
const FAULT_DELAY_MAX: Duration = Duration::from_millis(50);

/// What to send and for how long.
#[derive(Debug, Clone, Args)]
pub(crate) struct FailoverArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Bytes of a message body.
    #[arg(long, default_value_t = 128)]
    pub(crate) size: usize,
    /// Milliseconds after which a send has failed and goes to the next broker.
    #[arg(long, default_value_t = 500)]
    pub(crate) request_timeout: u64,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Runs for the given time and reports.
pub(crate) fn run(args: &FailoverArgs) -> anyhow::Result<Report> {
    let end = Instant::now() + Duration::from_secs_f64(args.run.duration);
    run_until(args, &|_| Instant::now() >= end)
}

/// Acknowledgement times so far, for whoever decides when to stop.
pub(crate) struct Acks {
    start: Instant,
    times: Vec<Instant>,
}

impl Acks {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.times.len()
    }

    /// How many came after `time`.
    pub(crate) fn since(&self, time: Instant) -> usize {
        self.times.len() - self.times.partition_point(|ack| *ack <= time)
    }

    /// The longest time without an acknowledgement around a fault that was made between `begun` and `done`: one that
    /// arrived while it was being made, or before a signal reached its process, says nothing about it.
    pub(crate) fn gap_around(&self, begun: Instant, done: Instant) -> Option<Duration> {
        let felt = done + FAULT_DELAY_MAX;
        self.times.last().filter(|last| **last > done)?;
        let around = self.times.windows(2).filter(|pair| pair[1] > begun && pair[0] <= felt);
        around.map(|pair| pair[1] - pair[0]).max()
    }

    fn gaps(&self) -> Gaps {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let mut gaps = Gaps::default();
        for pair in self.times.windows(2) {
            let (at, length) = (ms(pair[0] - self.start), pair[1] - pair[0]);
            if ms(length) > gaps.longest_ms {
                (gaps.longest_ms, gaps.longest_at_ms) = (ms(length), at);
            }
            if length > GAP_LISTED {
                gaps.over_100_ms.push((at, ms(length)));
            }
        }
        gaps
    }
}

/// Sends until `stop` says so, and reports.
pub(crate) fn run_until(args: &FailoverArgs, stop: &dyn Fn(&Acks) -> bool) -> anyhow::Result<Report> {
    let target = Target::find(&args.target)?;
    let cpu_before = CpuTimes::read(&args.run.pids);
    let (sample, acks) = send_one_by_one(args, &target, stop)?;
    let seconds = acks.start.elapsed().as_secs_f64();
    let report = Report {
        mode: "failover".to_owned(),
        topic: target.topic.clone(),
        connections: 1,
        window: 1,
        size_bytes: args.size,
        batch: 1,
        failover: Some(acks.gaps()),
        ..Report::default()
    };
    Ok(report.measured(&sample, &CpuTimes::read(&args.run.pids).since(&cpu_before), seconds))
}

/// Sends one message after the other until `stop`; returns what was measured and every acknowledgement time.
pub(crate) fn send_one_by_one(
    args: &FailoverArgs,
    target: &Target,
    stop: &dyn Fn(&Acks) -> bool,
) -> anyhow::Result<(Sample, Acks)> {
    let timeout = Duration::from_millis(args.request_timeout.max(1));
    let templates = Template::for_queues(&send_args(args), &target.topic, target.write_queues)?;
    let mut sample = Sample::new();
    let mut acks = Acks {
        start: Instant::now(),
        times: Vec::new(),
    };
    let mut place = 0;
    let mut connection: Option<Caller> = None;
    let mut number = 0u32;
    while !stop(&acks) {
        number = number.wrapping_add(1);
        let address = target.addresses[place % target.addresses.len()];
        let mut caller = match connection.take() {
            Some(caller) => caller,
            None => match Caller::connect(address, timeout) {
                Ok(caller) => caller,
                Err(_) => {
                    sample.fail(DISCONNECTED, 1);
                    place += 1;
                    std::thread::sleep(REFUSED_PAUSE);
                    continue;
                }
            },
        };
        let mut out = Vec::new();
        templates[number as usize % templates.len()].write(&mut out, number, now_ms(), u64::from(number));
        let command = frame::decode(&mut BytesMut::from(&out[..]))?.expect("a template is a whole frame");
        let sent = Instant::now();
        match caller.call(command, timeout) {
            Ok(answer) if answer.code == 0 => {
                let now = Instant::now();
                sample.record(now - sent);
                sample.messages += 1;
                sample.bytes += args.size as u64;
                acks.times.push(now);
                connection = Some(caller);
            }
            Ok(answer) => {
                sample.fail(answer.code, 1);
                place += 1;
                std::thread::sleep(REFUSED_PAUSE);
            }
            Err(error) => {
                let timed_out = error.kind() == std::io::ErrorKind::TimedOut;
                sample.fail(if timed_out { TIMED_OUT } else { DISCONNECTED }, 1);
                place += 1;
            }
        }
    }
    Ok((sample, acks))
}

fn send_args(args: &FailoverArgs) -> SendArgs {
    SendArgs {
        target: args.target.clone(),
        connections: 1,
        window: 1,
        size: args.size,
        batch: 1,
        rate: None,
        keys: false,
        tags: None,
        binary: false,
        run: args.run.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_around_a_fault() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let acks = Acks {
            start,
            times: vec![at(10), at(20), at(320), at(325)],
        };
        let gap_around = |begun, done| acks.gap_around(at(begun), at(done));
        assert_eq!(gap_around(25, 26), Some(Duration::from_millis(300)));
        // One more arrives while the fault is made, or just after.
        assert_eq!(gap_around(15, 25), Some(Duration::from_millis(300)));
        assert_eq!(gap_around(15, 16), Some(Duration::from_millis(300)));
        assert_eq!(gap_around(321, 322), Some(Duration::from_millis(5)));
        assert_eq!(gap_around(400, 401), None);
        assert_eq!(gap_around(15, 400), None, "none after the fault");
        assert_eq!((acks.count(), acks.since(at(25))), (4, 2));
        let gaps = acks.gaps();
        assert_eq!(
            (gaps.longest_ms, gaps.longest_at_ms, gaps.over_100_ms.len()),
            (300.0, 20.0, 1)
        );
    }
}
