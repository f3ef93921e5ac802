//! The benchmark matrix: one command, one cluster of three nodes on this machine, one JSON file.
//!
//! Rows have fixed names, so that two files can be compared. Rates depend on the machine and on what else runs there; CPU
//! time per message hardly does and is the figure to compare between commits. Every row says whether its goal was met.

mod cluster;
mod cold;
mod consumer_groups;
mod elections;
mod faults;
mod machine;
mod moves;
mod queues;
mod rejoin;
mod row;
mod traffic;

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use cluster::{Cluster, Flush, Setup};
use machine::Machine;
use row::Row;

/// Which rows to run, how long, and where the result goes.
#[derive(Debug, Clone, Args)]
pub(crate) struct MatrixArgs {
    /// Write the result here as JSON.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Seconds to measure per run.
    #[arg(long, default_value_t = 5.0, value_parser = super::seconds)]
    seconds: f64,
    /// Runs of each throughput and latency row; the median counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Trials of each failover row; the median counts.
    #[arg(long, default_value_t = 5)]
    trials: usize,
    /// Only these rows, such as `T1,T2,F1`.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Seconds of full load in which no leader may change.
    #[arg(long, default_value_t = 60.0, value_parser = super::seconds)]
    load_seconds: f64,
    /// MiB of log to write before a restart, and before catching up.
    #[arg(long, default_value_t = 1024)]
    restart_mib: u64,
    /// Program to start the nodes with, to compare builds; this one if not given.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Folder for the nodes' data; a temporary one that is removed afterwards if not given.
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Matrix {
    /// Commit measured, if this is a working copy.
    commit: String,
    /// Where it was measured.
    machine: Machine,
    /// What was measured.
    rows: Vec<Row>,
}

const ONE_LOG: Setup = Setup {
    flush: Flush::Sync,
    groups: 1,
    controllers: 1,
};

/// Which rows run on which cluster. Most have one Raft group, so that a row measures one log; the nodes share this
/// machine, so several groups show their overhead, not what more machines bring.
const CLUSTERS: &[(Setup, &[&str])] = &[
    (
        ONE_LOG,
        &[
            "T1", "T2", "T3", "T4", "T5a", "T5b", "L1", "L2", "C1", "F1", "F2", "F3", "I1", "I4", "R2",
        ],
    ),
    (
        Setup {
            flush: Flush::Async,
            ..ONE_LOG
        },
        &["T6a", "T6b"],
    ),
    (Setup { groups: 2, ..ONE_LOG }, &["S2a"]),
    (Setup { groups: 4, ..ONE_LOG }, &["S2b"]),
    (Setup { groups: 8, ..ONE_LOG }, &["T7"]),
    (ONE_LOG, &["C2"]),
    (ONE_LOG, &["R1"]),
    (ONE_LOG, &["R3"]),
    (ONE_LOG, &["Q1"]),
    (ONE_LOG, &["Q1k"]),
    (ONE_LOG, &["Q2"]),
    (Setup { groups: 2, ..ONE_LOG }, &["S1"]),
    (
        Setup {
            groups: 3,
            controllers: 3,
            ..ONE_LOG
        },
        &["F4", "E1"],
    ),
];

/// Names of all rows.
fn rows() -> impl Iterator<Item = &'static str> {
    CLUSTERS.iter().flat_map(|(_, rows)| rows.iter().copied())
}

/// Runs the wanted rows and writes the result.
pub(crate) fn run(args: &MatrixArgs) -> anyhow::Result<()> {
    for wanted in &args.rows {
        anyhow::ensure!(
            rows().any(|row| row == wanted),
            "no row {wanted}; there are {}",
            rows().collect::<Vec<_>>().join(", ")
        );
    }
    let mut matrix = Matrix {
        commit: machine::commit(),
        machine: Machine::read(),
        rows: Vec::new(),
    };
    for (setup, rows) in CLUSTERS {
        let rows: Vec<&str> = rows
            .iter()
            .copied()
            .filter(|row| args.rows.is_empty() || args.rows.iter().any(|w| w == row))
            .collect();
        if !rows.is_empty() {
            run_on_one_cluster(args, *setup, &rows, &mut matrix)?;
        }
    }
    print!("{}", row::table(&matrix.rows));
    Ok(())
}

fn run_on_one_cluster(args: &MatrixArgs, setup: Setup, rows: &[&str], matrix: &mut Matrix) -> anyhow::Result<()> {
    eprintln!(
        "starting three nodes (flush = {}, {} raft groups, {} controllers)",
        setup.flush.as_str(),
        setup.groups,
        setup.controllers
    );
    let (mut cluster, first_ack) = Cluster::start(args.program.as_deref(), args.folder.as_deref(), setup)?;
    let one_log = matrix.rows.iter().find(|row| row.id == "T2").map(|row| row.value);
    for name in rows {
        eprintln!("row {name}");
        let measured = match *name {
            "I1" => faults::idle(&mut cluster, args.seconds),
            "I4" => Ok(vec![row::Row::new(
                "I4",
                "s",
                row::Goal::AtMost(0.3),
                vec![first_ack.as_secs_f64()],
            )]),
            "F1" => faults::killed_leader(&mut cluster, args.trials).map(|row| vec![row]),
            "F2" => faults::silent_leader(&mut cluster, args.trials).map(|row| vec![row]),
            "F3" => faults::planned_transfer(&mut cluster, args.trials).map(|row| vec![row]),
            "F4" => faults::killed_controller(&mut cluster, args.trials).map(|row| vec![row]),
            "R1" => faults::clean_restart(&mut cluster, args.restart_mib).map(|row| vec![row]),
            "C2" => cold::catch_up(&cluster, args.restart_mib, args.seconds),
            "E1" => elections::under_full_load(&cluster, args.load_seconds).map(|row| vec![row]),
            "Q1" => queues::many_queues(&mut cluster, &queues::TEN_THOUSAND, args.seconds, args.runs),
            "Q1k" => queues::many_queues(&mut cluster, &queues::HUNDRED_THOUSAND, args.seconds, args.runs),
            "Q2" => consumer_groups::commits(&cluster, args.seconds),
            "S1" => moves::every_queue(&cluster, args.restart_mib, args.seconds),
            "R3" => rejoin::empty_follower(&mut cluster, args.restart_mib, args.seconds),
            "R2" => faults::crash_restart(&mut cluster, args.restart_mib).map(|row| vec![row]),
            _ => traffic::row(name, &cluster, args.seconds, args.runs, one_log).map(|row| vec![row]),
        };
        match measured {
            Ok(measured) => matrix.rows.extend(measured),
            // One row that cannot be measured does not cost the others; it counts as not met.
            Err(error) => {
                eprintln!("row {name}: {error:#}");
                matrix.rows.push(Row::failed(name, &format!("{error:#}")));
            }
        }
        write(args, matrix)?;
    }
    Ok(())
}

/// Writes what there is after every row, so that an interrupted run leaves its results.
fn write(args: &MatrixArgs, matrix: &Matrix) -> anyhow::Result<()> {
    let Some(path) = &args.out else { return Ok(()) };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    std::fs::write(path, serde_json::to_string_pretty(matrix)? + "\n")
        .with_context(|| format!("write {}", path.display()))
}
