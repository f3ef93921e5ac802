//! CPU time of this process and of others, from `/proc`.

use std::collections::BTreeMap;

/// Ticks of `/proc/<pid>/stat` a second; the kernel's interface fixes it.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds, user and system together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct CpuTimes {
    pub(crate) tool: f64,
    pub(crate) servers: BTreeMap<u32, f64>,
}

impl CpuTimes {
    /// Reads the times now; a process that is gone has none.
    pub(crate) fn read(pids: &[u32]) -> CpuTimes {
        let of = |path: String| std::fs::read_to_string(path).ok().and_then(|text| seconds(&text));
        CpuTimes {
            tool: of("/proc/self/stat".to_owned()).unwrap_or(0.0),
            servers: pids
                .iter()
                .filter_map(|pid| Some((*pid, of(format!("/proc/{pid}/stat"))?)))
                .collect(),
        }
    }

    /// What was used between `before` and this reading.
    pub(crate) fn since(&self, before: &CpuTimes) -> CpuTimes {
        let used = |(pid, time): (&u32, &f64)| (*pid, time - before.servers.get(pid).unwrap_or(time));
        CpuTimes {
            tool: self.tool - before.tool,
            servers: self.servers.iter().map(used).collect(),
        }
    }

    /// All servers together.
    pub(crate) fn servers_total(&self) -> f64 {
        self.servers.values().sum()
    }
}

/// Fields 14 and 15 of a stat line; the second field is a name in brackets and may contain anything.
fn seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// Resident memory of a process in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_behind_the_name() {
        let line = "42 (a ) b) S 1 42 42 0 -1 4194560 500 0 0 0 150 50 0 0 20 0 9 0 100 1 1";
        assert_eq!(seconds(line), Some(2.0));
        assert_eq!(seconds("nonsense"), None);
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        let before = CpuTimes::read(&[std::process::id(), u32::MAX]);
        let mut sum = 0u64;
        while CpuTimes::read(&[]).since(&before).tool < 0.02 {
            sum = (0..100_000u64).fold(sum, |a, b| a.wrapping_mul(31).wrapping_add(b));
        }
        let used = CpuTimes::read(&[std::process::id(), u32::MAX]).since(&before);
        assert!(used.servers_total() > 0.0 && used.servers.len() == 1, "{used:?} {sum}");
        assert!(resident_bytes(std::process::id()).is_some_and(|bytes| bytes > 100_000));
    }
}
