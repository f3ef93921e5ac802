//! How long messages are kept: by time, by bytes, by how full the disk is.
//!
//! The leader decides and logs the decision ([`Command::Trim`]), so that all replicas forget the same messages; every
//! replica then removes the log files that nothing needs any more. A crash in between leaves files that the next
//! round removes.
//!
//! Bytes are turned into a log index by proportion, over and over until they fit: entries are not all of one size.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::Broker;
use crate::config::OnDiskPressure;
use crate::handlers::propose::now_ms;
use crate::replica::Replica;
use crate::state::{Command, Reply};

/// Between two looks at what can be removed.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Between two looks at how full the disk is. What a fast disk takes in this time fits into [`FREE_BYTES_MIN`] and the
/// share of it that is kept free.
const DISK_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Sends are refused when less is free, however small a share that is: requests under way, zeros written ahead of the
/// logs, and what is written beside messages need room.
const FREE_BYTES_MIN: u64 = 64 << 20;
/// The leader decides once a minute.
const LOOKS_PER_DECISION: u64 = 6;
/// Fewer entries than this are not worth a decision when no message lies in them.
const TRIM_ENTRIES_MIN: u64 = 64;
/// Share of the log in percent that goes at once when the disk is too full.
const PRESSURE_STEP_PERCENT: u64 = 10;

/// Looks at the disk until `stop` says true.
pub async fn watch_disk(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(DISK_LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => look_at_disk(&broker),
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Removes what one replica need not keep until `stop` says true.
pub async fn keep(broker: Arc<Broker>, replica: Arc<Replica>, mut stop: watch::Receiver<bool>) {
    let mut removed_to = 0;
    let mut looks = 0_u64;
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        if looks.is_multiple_of(LOOKS_PER_DECISION) && replica.group.is_leader() {
            decide(&broker, &replica).await;
        }
        looks += 1;
        let trimmed = replica.state.trimmed();
        if trimmed > removed_to {
            match replica.group.trim(trimmed).await {
                Ok(bytes) => {
                    removed_to = trimmed;
                    info!(group = replica.name, log_index = trimmed, bytes, "removed log files");
                }
                Err(error) => warn!(group = replica.name, %error, "remove log files"),
            }
        }
    }
}

fn look_at_disk(broker: &Broker) {
    let policy = &broker.settings.policy;
    let Some(level) = Level::of(&broker.settings.data) else {
        return;
    };
    let used = level.used_percent;
    let full = policy.on_disk_pressure == OnDiskPressure::Refuse && level.is_full(policy.disk_used_percent_max);
    if broker.disk_full.swap(full, Ordering::Relaxed) != full {
        warn!(
            used_percent = used,
            free_bytes = level.free_bytes,
            refusing = full,
            "disk level"
        );
    }
}

async fn decide(broker: &Arc<Broker>, replica: &Arc<Replica>) {
    let (settings, reader) = (broker.settings.clone(), replica.clone());
    // Reads the queue index of every queue: not on the tasks that serve clients.
    let point = tokio::task::spawn_blocking(move || {
        let policy = &settings.policy;
        let status = reader.group.status();
        let by_time = reader.state.trim_point(now_ms(), policy.retention_ms())?;
        let forgets = by_time.is_some_and(|point| point.forgets);
        let by_time = by_time.map(|point| point.log_index);
        let log = LogExtent {
            trimmed: reader.state.trimmed(),
            applied: status.applied.map_or(0, |id| id.index),
            bytes: status.log_bytes,
        };
        let by_bytes = log.by_bytes(policy.retention_bytes);
        // One file is being written and stays: without a second, forgetting messages frees nothing.
        let frees = policy.on_disk_pressure == OnDiskPressure::Delete && log.bytes > 2 * settings.log.file_bytes;
        let used = if frees { used_percent(&settings.data) } else { 0 };
        let by_disk = log.by_disk(used, policy.disk_used_percent_max);
        let worth_it = if forgets { 1 } else { TRIM_ENTRIES_MIN };
        let point = by_time.max(by_bytes).max(by_disk);
        Ok::<_, std::io::Error>((point.filter(|point| *point >= log.trimmed + worth_it), log.trimmed))
    });
    let (point, trimmed) = match point.await {
        Ok(Ok((Some(point), trimmed))) => (point, trimmed),
        Ok(Ok(_)) => return,
        Ok(Err(error)) => return warn!(%error, "look for what retention may remove"),
        Err(error) => return warn!(%error, "look for what retention may remove"),
    };
    match replica
        .group
        .propose(vec![Command::Trim { log_index: point }.encode()])
        .await
    {
        Ok(proposed) => match proposed.replies.into_iter().next() {
            Some(Reply::Refused(refusal)) => warn!(log_index = point, %refusal, "trim"),
            _ => info!(from = trimmed, to = point, "forgot the oldest messages"),
        },
        Err(error) => warn!(%error, "trim"),
    }
}

/// What there is to trim.
#[derive(Clone, Copy, Debug)]
struct LogExtent {
    trimmed: u64,
    applied: u64,
    bytes: u64,
}

impl LogExtent {
    fn by_bytes(self, bytes_max: u64) -> Option<u64> {
        if bytes_max == 0 || self.bytes <= bytes_max {
            return None;
        }
        self.share(self.bytes - bytes_max, self.bytes)
    }

    fn by_disk(self, used_percent: u64, used_percent_max: u64) -> Option<u64> {
        if used_percent <= used_percent_max {
            return None;
        }
        self.share(PRESSURE_STEP_PERCENT, 100)
    }

    /// The entry at `part / whole` of the log.
    fn share(self, part: u64, whole: u64) -> Option<u64> {
        let entries = self.applied.checked_sub(self.trimmed)?;
        let share = u128::from(entries) * u128::from(part) / u128::from(whole.max(1));
        u64::try_from(share).ok().map(|share| self.trimmed + share)
    }
}

/// How full the disk under `folder` is; 0 when it cannot be told.
fn used_percent(folder: &Path) -> u64 {
    Level::of(folder).map_or(0, |level| level.used_percent)
}

/// How full a disk is.
#[derive(Clone, Copy, Debug)]
struct Level {
    used_percent: u64,
    free_bytes: u64,
}

impl Level {
    /// Of the disk under `folder`; `None` when it cannot be told.
    fn of(folder: &Path) -> Option<Self> {
        let space = rustix::fs::statvfs(folder).ok().filter(|space| space.f_blocks > 0)?;
        Some(Self {
            used_percent: 100 - (100 * space.f_bavail / space.f_blocks).min(100),
            free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        })
    }

    fn is_full(self, used_percent_max: u64) -> bool {
        self.used_percent > used_percent_max || self.free_bytes < FREE_BYTES_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogExtent = LogExtent {
        trimmed: 1000,
        applied: 3000,
        bytes: 400,
    };

    #[test]
    fn bytes_over_the_limit_go_in_proportion() {
        assert_eq!(LOG.by_bytes(0), None);
        assert_eq!(LOG.by_bytes(400), None);
        assert_eq!(LOG.by_bytes(300), Some(1500));
    }

    #[test]
    fn a_disk_is_full_by_its_share_or_by_what_is_left() {
        let level = |used_percent, free_bytes| Level {
            used_percent,
            free_bytes,
        };
        assert!(!level(95, 1 << 40).is_full(95));
        assert!(level(96, 1 << 40).is_full(95));
        assert!(!level(50, FREE_BYTES_MIN).is_full(95));
        assert!(level(50, FREE_BYTES_MIN - 1).is_full(95));
        assert!(Level::of(Path::new("/")).is_some());
    }

    #[test]
    fn a_full_disk_costs_a_tenth_of_the_log() {
        assert_eq!(LOG.by_disk(85, 85), None);
        assert_eq!(LOG.by_disk(86, 85), Some(1200));
    }
}
