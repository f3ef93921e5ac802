//! The simulator: runs seeds, prints what happened, exits non-zero on a violation.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use flotilla_e2e::sim::trial::{Settings, run};

/// Runs whole groups on virtual time with faults decided by a seed.
#[derive(Parser)]
#[command(name = "flotilla-sim", version)]
struct Arguments {
    /// Run this one seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run the seeds A..B.
    #[arg(long, value_name = "A..B", value_parser = range)]
    seeds: Option<(u64, u64)>,
    /// Simulated seconds with faults, for each seed.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// What to log, as in RUST_LOG.
    #[arg(long, value_name = "FILTER", default_value = "off")]
    log: String,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("expected A..B")?;
    let number = |text: &str| text.parse().map_err(|error| format!("{text}: {error}"));
    Ok((number(from)?, number(to)?))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(&arguments.log)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let (from, to) = arguments.seeds.unwrap_or_else(|| {
        let seed = arguments.seed.unwrap_or(0);
        (seed, seed + 1)
    });
    let mut failed = 0_u64;
    for seed in from..to {
        let duration = Duration::from_secs(arguments.seconds);
        let summary = run(Settings {
            seed,
            duration,
            resume_leadership: false,
        });
        if !summary.violations.is_empty() {
            failed += 1;
        }
        println!("seed {seed}: {summary}");
    }
    if to - from > 1 {
        println!("{} seeds, {failed} with violations", to - from);
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
