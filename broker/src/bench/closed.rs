//! Closed loop: every connection keeps its window full.
//!
//! One thread drives all connections; each answer that arrives makes room for the next request, and all requests of one
//! turn leave in one write. So a burst of answers costs two system calls, whatever its size.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::join_all;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::SendArgs;
use super::answer;
use super::measure::{DISCONNECTED, Progress, Sample, Span, TIMED_OUT, now_ms, watch};
use super::report::Report;
use super::target::Target;
use super::template::{OPAQUE_BASE, Template};

/// Window slots are the low bits of a request number; the rest tells uses of a slot apart.
const SLOT_BITS: u32 = 12;
const READ_BYTES: usize = 64 * 1024;
/// How often a connection looks for requests that got no answer.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Runs and reports.
pub(crate) fn run(args: &SendArgs) -> anyhow::Result<Report> {
    let target = Target::find(&args.target)?;
    let templates = Template::for_queues(args, &target.topic, target.write_queues)?;
    let report = Report {
        mode: "send-closed".to_owned(),
        topic: target.topic.clone(),
        connections: args.connections,
        window: args.window,
        size_bytes: args.size,
        batch: args.batch.max(1),
        ..Report::default()
    };
    let span = Span::of(&args.run);
    let progress = Arc::new(Progress::default());
    let driver = Driver {
        args: args.clone(),
        target,
        templates,
        span,
        progress: Arc::clone(&progress),
    };
    let thread = std::thread::Builder::new()
        .name("bench-send".to_owned())
        .spawn(move || driver.run())?;
    let (cpu, seconds) = watch(&args.run, span, &progress);
    let sample = thread
        .join()
        .map_err(|_| anyhow::anyhow!("the sending thread panicked"))??;
    Ok(report.measured(&sample, &cpu, seconds))
}

struct Driver {
    args: SendArgs,
    target: Target,
    templates: Vec<Template>,
    span: Span,
    progress: Arc<Progress>,
}

impl Driver {
    fn run(self) -> anyhow::Result<Sample> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the event loop")?;
        let sample = Rc::new(RefCell::new(Sample::new()));
        runtime.block_on(async {
            let connections = (0..self.args.connections).map(|number| self.keep_connected(number, Rc::clone(&sample)));
            join_all(connections).await;
        });
        drop(runtime);
        Ok(Rc::unwrap_or_clone(sample).into_inner())
    }

    /// Works on one connection at a time until the span is over; a broken one is replaced by one to the next broker.
    async fn keep_connected(&self, number: usize, sample: Rc<RefCell<Sample>>) {
        let mut attempt = number;
        while Instant::now() < self.span.end {
            let address = self.target.addresses[attempt % self.target.addresses.len()];
            attempt += 1;
            let lost = match connect(address, self.args.run.timeout()).await {
                Ok(stream) => Connection::new(self, stream, number, &sample).drive().await,
                Err(_) => Some((DISCONNECTED, 1)),
            };
            let Some((key, requests)) = lost else { return };
            if self.span.contains(Instant::now()) {
                sample.borrow_mut().fail(key, requests);
            }
            self.progress.add(0, requests);
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }
}

async fn connect(address: SocketAddr, timeout: Duration) -> std::io::Result<TcpStream> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A request in flight: when it was sent, and which use of its slot it is.
#[derive(Clone, Copy)]
struct Slot {
    sent: Option<Instant>,
    use_count: u32,
}

struct Connection<'a> {
    driver: &'a Driver,
    stream: TcpStream,
    sample: &'a RefCell<Sample>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    next_queue: usize,
    next_key: u64,
    output: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    filled: usize,
}

enum Event {
    Read,
    Check,
    Broken,
}

impl<'a> Connection<'a> {
    fn new(driver: &'a Driver, stream: TcpStream, number: usize, sample: &'a RefCell<Sample>) -> Connection<'a> {
        let window = driver.args.window;
        Connection {
            driver,
            stream,
            sample,
            slots: vec![
                Slot {
                    sent: None,
                    use_count: 0
                };
                window as usize
            ],
            free: (0..window).collect(),
            next_queue: number,
            next_key: (u64::from(std::process::id()) << 40) ^ ((number as u64) << 32) ^ (now_ms() << 20),
            output: Vec::with_capacity(driver.templates[0].len() * window as usize),
            written: 0,
            input: vec![0; READ_BYTES],
            filled: 0,
        }
    }

    /// Works until the span is over (`None`) or the connection is lost (why, and how many requests with it).
    async fn drive(mut self) -> Option<(i32, u64)> {
        let mut check = pin!(tokio::time::sleep(CHECK_INTERVAL));
        loop {
            let now = Instant::now();
            if now >= self.driver.span.end {
                return None;
            }
            self.fill_window(now);
            let event = poll_fn(|context| {
                if self.poll_write(context).is_err() {
                    return Poll::Ready(Event::Broken);
                }
                match self.poll_read(context) {
                    Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Event::Broken),
                    Poll::Ready(Ok(_)) => return Poll::Ready(Event::Read),
                    Poll::Pending => {}
                }
                check.as_mut().poll(context).map(|()| Event::Check)
            })
            .await;
            match event {
                Event::Read => {
                    if self.take_answers().is_err() {
                        return Some((DISCONNECTED, self.in_flight()));
                    }
                }
                Event::Check => {
                    let timeout = self.driver.args.run.timeout();
                    if self
                        .slots
                        .iter()
                        .any(|slot| slot.sent.is_some_and(|sent| sent.elapsed() > timeout))
                    {
                        return Some((TIMED_OUT, self.in_flight()));
                    }
                    check.as_mut().reset(tokio::time::Instant::now() + CHECK_INTERVAL);
                }
                Event::Broken => return Some((DISCONNECTED, self.in_flight())),
            }
        }
    }

    fn in_flight(&self) -> u64 {
        (self.slots.len() - self.free.len()) as u64
    }

    fn fill_window(&mut self, now: Instant) {
        if self.free.is_empty() {
            return;
        }
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
        let born_ms = now_ms();
        while let Some(slot) = self.free.pop() {
            let state = &mut self.slots[slot as usize];
            state.sent = Some(now);
            state.use_count = state.use_count.wrapping_add(1);
            let template = &self.driver.templates[self.next_queue % self.driver.templates.len()];
            template.write(
                &mut self.output,
                (state.use_count << SLOT_BITS) | slot,
                born_ms,
                self.next_key,
            );
            self.next_queue += 1;
            self.next_key = self.next_key.wrapping_add(template.messages);
        }
    }

    fn poll_write(&mut self, context: &mut std::task::Context<'_>) -> std::io::Result<()> {
        while self.written < self.output.len() {
            match Pin::new(&mut self.stream).poll_write(context, &self.output[self.written..]) {
                Poll::Ready(count) => self.written += count?,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn poll_read(&mut self, context: &mut std::task::Context<'_>) -> Poll<std::io::Result<usize>> {
        if self.filled == self.input.len() {
            self.input.resize(self.input.len() * 2, 0);
        }
        let mut buffer = ReadBuf::new(&mut self.input[self.filled..]);
        match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) => {
                let count = buffer.filled().len();
                self.filled += count;
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn take_answers(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let counts = self.driver.span.contains(now);
        let mut sample = self.sample.borrow_mut();
        let (mut at, mut messages, mut errors) = (0, 0, 0);
        let (size, batch) = (self.driver.args.size as u64, self.driver.templates[0].messages);
        while let Some(answer) = answer::scan(&self.input[at..self.filled])? {
            at += answer.bytes;
            let number = answer.opaque.wrapping_sub(OPAQUE_BASE) as u32;
            let (slot, use_count) = (number & ((1 << SLOT_BITS) - 1), number >> SLOT_BITS);
            let Some(state) = self.slots.get_mut(slot as usize).filter(|_| answer.response) else {
                continue;
            };
            let use_mask = (1 << (super::template::OPAQUE_BITS - SLOT_BITS)) - 1;
            let Some(sent) = state.sent.filter(|_| state.use_count & use_mask == use_count) else {
                continue;
            };
            state.sent = None;
            self.free.push(slot);
            if answer.code == 0 {
                messages += batch;
                if counts {
                    sample.record(now - sent);
                }
            } else {
                errors += 1;
                if counts {
                    sample.fail(answer.code, 1);
                }
            }
        }
        if counts {
            sample.messages += messages;
            sample.bytes += messages * size;
        }
        self.driver.progress.add(messages, errors);
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }
}
