//! What a process of a cluster takes of the machine: memory and open files, as `/proc` tells.
//!
//! A process is found by its command line: every process of a [`Cluster`] is started with a path below the cluster's own
//! folder, and as a child of this one.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cluster::Cluster;

/// One process, looked at from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pid: u32,
}

impl Usage {
    /// A node or a controller of a cluster, by name; it must run.
    pub fn of(cluster: &Cluster, name: &str) -> Result<Self> {
        let folder = cluster.folder();
        Self::started_with(&folder.join(name).with_extension("toml"))
            .or_else(|_| Self::started_with(&folder.join("standalone")))
            .with_context(|| format!("look for the process of {name}"))
    }

    /// The child of this process that was given `path` as an argument.
    pub fn started_with(path: &Path) -> Result<Self> {
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let candidate = Self { pid };
            // One that ended meanwhile has none.
            let Ok(arguments) = fs::read(format!("/proc/{pid}/cmdline")) else {
                continue;
            };
            let mut arguments = arguments.split(|byte| *byte == 0);
            if arguments.any(|argument| argument == path.as_os_str().as_bytes())
                && candidate
                    .number("PPid")
                    .is_ok_and(|parent| parent == u64::from(std::process::id()))
            {
                return Ok(candidate);
            }
        }
        anyhow::bail!("no child of this process was started with {}", path.display())
    }

    /// Whether it still runs; one that ended and was not waited for does not.
    pub fn is_alive(self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        state.is_some_and(|state| !state.trim_start().starts_with(['Z', 'X']))
    }

    /// Bytes of memory it has now.
    pub fn resident_bytes(self) -> Result<u64> {
        Ok(self.number("VmRSS")? * 1024)
    }

    /// The most it had since [`Usage::forget_peak`].
    pub fn peak_bytes(self) -> Result<u64> {
        Ok(self.number("VmHWM")? * 1024)
    }

    /// Starts [`Usage::peak_bytes`] anew.
    pub fn forget_peak(self) -> Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.pid), "5").context("reset the peak of the memory")
    }

    /// Files and sockets it has open.
    pub fn open_files(self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid))?.count())
    }

    fn number(self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))
            .with_context(|| format!("process {} is gone", self.pid))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let line = line.with_context(|| format!("no {field} of process {}", self.pid))?;
        let number = line.split_whitespace().next().unwrap_or_default();
        number.parse().with_context(|| format!("{field}: {line}"))
    }
}

/// Bytes as people read them.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// From now on this process, and those it starts, have so many open files unless they ask for more. Fails if the system
/// forbids it, or if fewer than `needed` can be had.
pub fn allow_open_files(wanted: u64, needed: Option<u64>) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    ensure!(
        needed.is_none_or(|needed| allowed >= needed),
        "at most {allowed} open files are allowed here, {needed:?} are needed"
    );
    let changed = Rlimit {
        current: Some(allowed),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, changed).with_context(|| format!("allow {allowed} open files"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_process_is_told() {
        let own = Usage {
            pid: std::process::id(),
        };
        assert!(own.is_alive());
        let held = std::hint::black_box(vec![1_u8; 32 << 20]);
        assert!(own.resident_bytes().unwrap() > std::hint::black_box(&held).len() as u64);
        assert!(own.peak_bytes().unwrap() >= own.resident_bytes().unwrap());
        assert!(own.open_files().unwrap() > 2);
        assert!(Usage::started_with(Path::new("/nobody/was/started/with/this")).is_err());
    }
}
