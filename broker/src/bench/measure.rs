//! What is counted during a run, and the time span in which it counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;

use super::RunArgs;
use super::cpu::CpuTimes;

/// Error key of requests without an answer in time; response codes are not negative.
pub(crate) const TIMED_OUT: i32 = -1;
/// Error key of requests whose connection broke.
pub(crate) const DISCONNECTED: i32 = -2;

const LATENCY_MAX_US: u64 = 120_000_000;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| age.as_millis() as u64)
}

/// Latencies and counts of one thread.
#[derive(Clone)]
pub(crate) struct Sample {
    latency_us: Histogram<u64>,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) errors: BTreeMap<i32, u64>,
}

impl Sample {
    pub(crate) fn new() -> Sample {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are in order");
        Sample {
            latency_us,
            messages: 0,
            bytes: 0,
            errors: BTreeMap::new(),
        }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.latency_us.saturating_record(latency.as_micros() as u64);
    }

    pub(crate) fn record_ms(&mut self, latency_ms: u64, count: u64) {
        self.latency_us
            .saturating_record_n(latency_ms.saturating_mul(1000), count);
    }

    pub(crate) fn fail(&mut self, key: i32, count: u64) {
        if count > 0 {
            *self.errors.entry(key).or_default() += count;
        }
    }

    pub(crate) fn merge(&mut self, other: &Sample) {
        self.latency_us
            .add(&other.latency_us)
            .expect("histograms have the same bounds");
        self.messages += other.messages;
        self.bytes += other.bytes;
        for (key, count) in &other.errors {
            self.fail(*key, *count);
        }
    }

    pub(crate) fn latency_us(&self) -> &Histogram<u64> {
        &self.latency_us
    }
}

/// From when to when answers count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
}

impl Span {
    pub(crate) fn of(run: &RunArgs) -> Span {
        let begin = Instant::now() + Duration::from_secs_f64(run.warmup);
        Span {
            begin,
            end: begin + Duration::from_secs_f64(run.duration),
        }
    }

    pub(crate) fn contains(&self, time: Instant) -> bool {
        time >= self.begin && time < self.end
    }
}

/// Totals of all threads, for the progress line.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) messages: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) done: AtomicBool,
}

impl Progress {
    pub(crate) fn add(&self, messages: u64, errors: u64) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        if errors > 0 {
            self.errors.fetch_add(errors, Ordering::Relaxed);
        }
    }
}

/// Prints progress until the span is over; returns the CPU times used within it.
pub(crate) fn watch(run: &RunArgs, span: Span, progress: &Progress) -> (CpuTimes, f64) {
    let mut before = (Instant::now(), 0, 0);
    let mut cpu_before = None;
    loop {
        let now = Instant::now();
        if cpu_before.is_none() && now >= span.begin {
            cpu_before = Some((CpuTimes::read(&run.pids), now));
        }
        if now >= span.end || progress.done.load(Ordering::Relaxed) {
            break;
        }
        let next_second = before.0 + Duration::from_secs(1);
        if now >= next_second {
            let counts = (
                progress.messages.load(Ordering::Relaxed),
                progress.errors.load(Ordering::Relaxed),
            );
            if !run.quiet {
                let rate = (counts.0 - before.1) as f64 / now.duration_since(before.0).as_secs_f64();
                let phase = if now < span.begin { "warm-up" } else { "running" };
                eprintln!("{phase}  {rate:>10.0} messages/s  {} errors", counts.1 - before.2);
            }
            before = (now, counts.0, counts.1);
            continue;
        }
        let until = if cpu_before.is_none() {
            next_second.min(span.begin)
        } else {
            next_second.min(span.end)
        };
        let pause = until.saturating_duration_since(now).min(Duration::from_millis(100));
        std::thread::sleep(pause);
    }
    let (times, since) = cpu_before.unwrap_or_else(|| (CpuTimes::read(&run.pids), Instant::now()));
    (CpuTimes::read(&run.pids).since(&times), since.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_add_up() {
        let (mut left, mut right) = (Sample::new(), Sample::new());
        left.record(Duration::from_micros(100));
        left.fail(14, 2);
        right.record_ms(1, 3);
        right.fail(14, 1);
        right.fail(TIMED_OUT, 0);
        left.merge(&right);
        assert_eq!((left.latency_us().len(), left.latency_us().max()), (4, 1000));
        assert_eq!(left.errors, BTreeMap::from([(14, 3)]));
    }
}
