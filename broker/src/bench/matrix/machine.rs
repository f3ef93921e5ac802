//! Where and what was measured.

use std::process::Command;

use serde::Serialize;

/// What a reader needs to judge the figures.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    /// Processor model.
    cpu: String,
    /// Processors this process may use.
    cores: usize,
    /// Memory in GiB.
    memory_gib: u64,
    /// Kernel release.
    kernel: String,
    /// Load average at the start: figures of a busy machine are worth less.
    load: String,
    /// Seconds since 1970.
    time: u64,
}

impl Machine {
    pub(super) fn read() -> Machine {
        let line = |path: &str, mark: &str| -> String {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let found = text
                .lines()
                .find(|line| line.starts_with(mark))
                .and_then(|line| line.split_once(':'));
            found.map_or(String::new(), |(_, value)| value.trim().to_owned())
        };
        let memory_kib: u64 = line("/proc/meminfo", "MemTotal")
            .split_whitespace()
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        Machine {
            cpu: line("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: memory_kib >> 20,
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            load: std::fs::read_to_string("/proc/loadavg")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            time: super::super::measure::now_ms() / 1000,
        }
    }
}

/// The commit of the working copy this runs in; empty outside of one.
pub(super) fn commit() -> String {
    let output = Command::new("git").args(["rev-parse", "HEAD"]).output();
    output.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}
