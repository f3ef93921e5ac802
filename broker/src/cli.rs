//! The command line: what `flotilla` can do, and where each command is carried out.

mod admin;
mod admin_client;
mod client;
mod consume;
mod moves;
mod nodes;
mod produce;
mod serve;
mod table;

use std::io::IsTerminal;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::bench::BenchArgs;

/// A Raft-replicated message broker that speaks the RocketMQ remoting protocol.
#[derive(Debug, Parser)]
#[command(name = "flotilla", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to log, as in RUST_LOG: `info`, `debug`, `flotilla_broker=debug,info`.
    #[arg(long, global = true, value_name = "FILTER", env = "RUST_LOG", hide_env_values = true)]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a whole cluster in this process, on loopback.
    Standalone(serve::StandaloneArgs),
    /// Start one controller of a cluster.
    Controller(serve::ServerArgs),
    /// Start one node of a cluster.
    Broker(serve::ServerArgs),
    /// Check a configuration file and report everything that is wrong with it.
    Validate(serve::ValidateArgs),
    /// Look at a running cluster and change it, through any of its nodes.
    Admin(admin::AdminArgs),
    /// Send messages.
    Produce(produce::ProduceArgs),
    /// Receive messages and print them.
    Consume(consume::ConsumeArgs),
    /// Measure how fast a cluster is.
    Bench(BenchArgs),
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> anyhow::Result<()> {
        let serves = matches!(
            self.command,
            Command::Standalone(_) | Command::Controller(_) | Command::Broker(_)
        );
        let default = if serves {
            "info,openraft=warn,openraft::core::heartbeat=error"
        } else {
            "warn"
        };
        let filter = EnvFilter::try_new(self.log.as_deref().unwrap_or(default))?;
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_target(serves)
            .with_ansi(std::io::stderr().is_terminal())
            .init();
        match self.command {
            Command::Standalone(args) => args.run(),
            Command::Controller(args) => args.run_controller(),
            Command::Broker(args) => args.run_broker(),
            Command::Validate(args) => args.run(),
            Command::Admin(args) => args.run(),
            Command::Produce(args) => args.run(),
            Command::Consume(args) => args.run(),
            Command::Bench(args) => args.run(),
        }
    }
}

/// The runtime of a command that talks to a cluster.
fn run_client<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
