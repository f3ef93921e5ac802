//! `flotilla bench`: a load generator for anything that speaks the RocketMQ remoting protocol, other brokers included.
//!
//! | mode | what it does |
//! |---|---|
//! | `send` | closed loop (a fixed number of requests in flight per connection), or open loop with `--rate` |
//! | `consume` | pulls all queues of a topic, from the end or the beginning |
//! | `failover` | one send in flight, short timeout; prints the longest time without an acknowledgement |
//! | `matrix` | starts a cluster of three nodes on this machine and runs the benchmark matrix |
//!
//! Latency in a closed loop says how long a request took that the tool got round to sending: a stall delays the requests
//! behind it without being counted for them. Open loop measures from the time a message was *due*, so it is the one to
//! quote. The tool counts its own CPU time, because on a small machine it takes it from the servers.

mod answer;
mod call;
mod closed;
mod consume;
mod cpu;
mod failover;
mod matrix;
mod measure;
mod open;
mod report;
mod target;
mod template;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use target::TargetArgs;

/// Measure a broker.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Send as fast as the window allows, or at a fixed rate.
    Send(SendArgs),
    /// Pull all queues of a topic.
    Consume(consume::ConsumeArgs),
    /// Send one message at a time and report the longest time without an acknowledgement.
    Failover(failover::FailoverArgs),
    /// Start three nodes here and run the benchmark matrix.
    Matrix(matrix::MatrixArgs),
}

/// What and how to send.
#[derive(Debug, Clone, Args)]
pub(crate) struct SendArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Connections, spread over the brokers of the route.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Requests in flight per connection.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    window: u32,
    /// Bytes of a message body.
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Messages in one request; more than one uses batch sends.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Messages a second over all connections: open loop, latency from the time a message was due.
    #[arg(long)]
    rate: Option<u64>,
    /// Give every message a key of its own.
    #[arg(long)]
    keys: bool,
    /// Give every message this tag.
    #[arg(long)]
    tags: Option<String>,
    /// Use the binary header instead of JSON.
    #[arg(long)]
    binary: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// How long, and what to do with the result.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// Seconds to measure.
    #[arg(long, default_value_t = 20.0, value_parser = seconds)]
    duration: f64,
    /// Seconds before the measurement starts.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    warmup: f64,
    /// Milliseconds after which a request without an answer has failed.
    #[arg(long, default_value_t = 3000)]
    timeout: u64,
    /// Server processes whose CPU time to count.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// Write the result as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// No progress line every second.
    #[arg(long)]
    quiet: bool,
}

impl RunArgs {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout.max(1))
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=86_400.0).contains(&value) => Ok(value),
        _ => Err("expected a number of seconds up to a day".to_owned()),
    }
}

impl BenchArgs {
    /// Runs until done and prints the result.
    pub fn run(self) -> anyhow::Result<()> {
        match self.mode {
            Mode::Send(args) => {
                let report = send(&args)?;
                report.finish(args.run.json.as_deref())
            }
            Mode::Consume(args) => {
                let report = consume::run(&args)?;
                report.finish(args.run.json.as_deref())
            }
            Mode::Failover(args) => {
                let report = failover::run(&args)?;
                report.finish(args.run.json.as_deref())
            }
            Mode::Matrix(args) => matrix::run(&args),
        }
    }
}

/// Sends in one of the two loops.
fn send(args: &SendArgs) -> anyhow::Result<report::Report> {
    anyhow::ensure!(args.connections >= 1, "at least one connection is needed");
    match args.rate {
        Some(rate) => open::run(args, rate),
        None => closed::run(args),
    }
}
