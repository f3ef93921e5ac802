//! Open loop: messages are sent when they are due, whether or not the ones before were answered.
//!
//! A message's number says when it was due, so its latency counts from there even if the tool or the connection was late:
//! a stall of the server is seen by every message that was due during it. One thread keeps time and writes, one thread per
//! connection reads.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::SendArgs;
use super::answer;
use super::measure::{DISCONNECTED, Progress, Sample, Span, TIMED_OUT, now_ms, watch};
use super::report::Report;
use super::target::Target;
use super::template::{OPAQUE_BASE, OPAQUE_BITS, Template};

/// Closer than this the thread waits awake: a sleep overshoots by about as much.
const SPIN: Duration = Duration::from_micros(60);
const READ_BYTES: usize = 64 * 1024;
/// Requests written before the clock is looked at again, when many are due.
const BURST_MAX: u64 = 64;

struct Shared {
    start: Instant,
    interval_ns: f64,
    messages_per_request: u64,
    size: u64,
    span: Span,
    stop: AtomicBool,
    answered: AtomicU64,
    progress: Progress,
}

impl Shared {
    fn due(&self, number: u64) -> Instant {
        self.start + Duration::from_nanos((number as f64 * self.interval_ns) as u64)
    }
}

/// Runs and reports.
pub(crate) fn run(args: &SendArgs, rate: u64) -> anyhow::Result<Report> {
    anyhow::ensure!(rate > 0, "--rate must be more than 0");
    let target = Target::find(&args.target)?;
    let templates = Template::for_queues(args, &target.topic, target.write_queues)?;
    let messages_per_request = templates[0].messages;
    let report = Report {
        mode: "send-open".to_owned(),
        topic: target.topic.clone(),
        connections: args.connections,
        window: args.window,
        size_bytes: args.size,
        batch: args.batch.max(1),
        rate_wanted: Some(rate),
        ..Report::default()
    };
    let mut streams = Vec::new();
    for number in 0..args.connections {
        let address = target.addresses[number % target.addresses.len()];
        let stream = TcpStream::connect_timeout(&address, args.run.timeout())
            .with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.set_write_timeout(Some(args.run.timeout()))?;
        streams.push(stream);
    }
    let shared = Arc::new(Shared {
        start: Instant::now(),
        interval_ns: 1e9 * messages_per_request as f64 / rate as f64,
        messages_per_request,
        size: args.size as u64,
        span: Span::of(&args.run),
        stop: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        progress: Progress::default(),
    });
    let mut readers = Vec::new();
    for stream in &streams {
        let (stream, shared) = (stream.try_clone().context("share a connection")?, Arc::clone(&shared));
        readers.push(
            std::thread::Builder::new()
                .name("bench-read".to_owned())
                .spawn(move || read(stream, &shared))?,
        );
    }
    let writer = {
        let (shared, window) = (Arc::clone(&shared), u64::from(args.window) * args.connections as u64);
        std::thread::Builder::new()
            .name("bench-write".to_owned())
            .spawn(move || write(streams, &templates, window, &shared))?
    };
    let (cpu, seconds) = watch(&args.run, shared.span, &shared.progress);
    let (sent, mut sample) = writer
        .join()
        .map_err(|_| anyhow::anyhow!("the writing thread panicked"))?;
    let deadline = Instant::now() + args.run.timeout();
    while shared.answered.load(Ordering::Relaxed) < sent && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    shared.stop.store(true, Ordering::Relaxed);
    for reader in readers {
        sample.merge(
            &reader
                .join()
                .map_err(|_| anyhow::anyhow!("a reading thread panicked"))?,
        );
    }
    sample.fail(TIMED_OUT, sent.saturating_sub(shared.answered.load(Ordering::Relaxed)));
    Ok(report.measured(&sample, &cpu, seconds))
}

/// Writes what is due until the span is over; returns how many requests that were.
fn write(mut streams: Vec<TcpStream>, templates: &[Template], window: u64, shared: &Shared) -> (u64, Sample) {
    let (mut number, mut sample) = (0, Sample::new());
    let mut outputs: Vec<Vec<u8>> = vec![Vec::new(); streams.len()];
    let key = (u64::from(std::process::id()) << 40) ^ (now_ms() << 20);
    while !streams.is_empty() {
        let now = Instant::now();
        if now >= shared.span.end {
            break;
        }
        let due = shared.due(number);
        if due > now {
            match (due - now).checked_sub(SPIN) {
                Some(pause) if !pause.is_zero() => std::thread::sleep(pause),
                _ => std::hint::spin_loop(),
            }
            continue;
        }
        if number - shared.answered.load(Ordering::Relaxed) >= window {
            // The bound on requests in flight; the wait counts for every message that is late because of it.
            std::thread::sleep(SPIN);
            continue;
        }
        let born_ms = now_ms();
        let last = (number + BURST_MAX).min(shared.answered.load(Ordering::Relaxed) + window);
        while number < last && shared.due(number) <= now {
            let template = &templates[number as usize % templates.len()];
            let place = number as usize % streams.len();
            template.write(
                &mut outputs[place],
                number as u32,
                born_ms,
                key.wrapping_add(number * template.messages),
            );
            number += 1;
        }
        for place in (0..streams.len()).rev() {
            if !outputs[place].is_empty() && streams[place].write_all(&outputs[place]).is_err() {
                sample.fail(DISCONNECTED, 1);
                streams.remove(place);
                outputs.remove(place);
            } else {
                outputs[place].clear();
            }
        }
    }
    shared.progress.done.store(true, Ordering::Relaxed);
    (number, sample)
}

/// Reads answers until told to stop or the connection ends.
fn read(mut stream: TcpStream, shared: &Shared) -> Sample {
    let (mut sample, mut input, mut filled) = (Sample::new(), vec![0; READ_BYTES], 0);
    let mut highest = 0u64;
    while !shared.stop.load(Ordering::Relaxed) {
        if filled == input.len() {
            input.resize(input.len() * 2, 0);
        }
        match stream.read(&mut input[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                continue;
            }
            Err(_) => break,
        }
        let now = Instant::now();
        let mut at = 0;
        while let Ok(Some(answer)) = answer::scan(&input[at..filled]) {
            at += answer.bytes;
            if !answer.response {
                continue;
            }
            let number = whole_number(answer.opaque.wrapping_sub(OPAQUE_BASE) as u32, highest);
            highest = highest.max(number);
            shared.answered.fetch_add(1, Ordering::Relaxed);
            let due = shared.due(number);
            if answer.code == 0 {
                shared.progress.add(shared.messages_per_request, 0);
                if shared.span.contains(due) {
                    sample.record(now.saturating_duration_since(due));
                    sample.messages += shared.messages_per_request;
                    sample.bytes += shared.messages_per_request * shared.size;
                }
            } else {
                shared.progress.add(0, 1);
                if shared.span.contains(due) {
                    sample.fail(answer.code, 1);
                }
            }
        }
        input.copy_within(at..filled, 0);
        filled -= at;
    }
    sample
}

/// The number whose low bits came back, nearest to the highest one seen.
fn whole_number(low: u32, highest: u64) -> u64 {
    let range = 1u64 << OPAQUE_BITS;
    let candidate = (highest & !(range - 1)) | u64::from(low);
    if candidate + range / 2 < highest {
        candidate + range
    } else if candidate > highest + range / 2 && candidate >= range {
        candidate - range
    } else {
        candidate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_completed_around_the_highest_seen() {
        let range = 1u64 << OPAQUE_BITS;
        assert_eq!(whole_number(5, 0), 5);
        assert_eq!(whole_number(3, range - 2), range + 3);
        assert_eq!(whole_number((range - 1) as u32, range + 3), range - 1);
        assert_eq!(whole_number(9, 7 * range + 4), 7 * range + 9);
    }
}
