//! The filler: writes zeros ahead of the log writer, so that a sync after an append writes data only, no metadata.
//!
//! A worker of its own fills the active file step by step and prepares the next one. [`Space`] keeps it apart from
//! the writer: a range is being zeroed, or claimed by the writer, never both, and what the writer ever claimed is
//! never zeroed. Each step is synced by itself, so a sync of the writer never finds a backlog of zeros.
//!
//! Without the filler everything works the same, slower: a full disk only stops it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::file::LogFile;
use super::shared::Shared;
use crate::disk::{Disk, DiskFile};

/// Zeros written and synced at once.
const STEP_BYTES: u64 = 1 << 20;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Who may write where in one file.
pub(super) struct Space {
    ranges: Mutex<Ranges>,
    /// Told when a step ends; the writer is the only one who waits.
    step_done: Notify,
}

struct Ranges {
    /// The writer owns everything below.
    claimed: u64,
    /// Everything from `claimed` up to here is zeros on disk.
    zeroed: u64,
    /// The filler is writing zeros up to here.
    filling: Option<u64>,
    /// The disk is too full for the filler, or the writer is about to cut the file.
    held: bool,
}

impl Space {
    /// A file whose bytes below `length` exist.
    pub fn new(length: u64) -> Self {
        let ranges = Ranges {
            claimed: length,
            zeroed: length,
            filling: None,
            held: false,
        };
        Self {
            ranges: Mutex::new(ranges),
            step_done: Notify::new(),
        }
    }

    /// A file whose records end at `written` and whose bytes up to `zeroed` are zeros.
    pub fn set(&self, written: u64, zeroed: u64) {
        let mut ranges = self.ranges.lock();
        ranges.claimed = written;
        ranges.zeroed = zeroed.max(written);
        ranges.held = false;
    }

    /// The writer will write up to `end`: waits for a step that is under way there.
    pub async fn claim(&self, end: u64) {
        loop {
            {
                let mut ranges = self.ranges.lock();
                if ranges.filling.is_none() || end <= ranges.zeroed {
                    ranges.claimed = ranges.claimed.max(end);
                    return;
                }
            }
            self.step_done.notified().await;
        }
    }

    /// The writer will change the length: keeps the filler away until [`Space::set`].
    pub async fn hold(&self) {
        loop {
            {
                let mut ranges = self.ranges.lock();
                ranges.held = true;
                if ranges.filling.is_none() {
                    return;
                }
            }
            self.step_done.notified().await;
        }
    }

    /// Bytes the file takes on disk.
    pub fn allocated(&self) -> u64 {
        let ranges = self.ranges.lock();
        ranges.zeroed.max(ranges.claimed)
    }

    /// Zeros left ahead of the writer.
    pub fn ahead(&self) -> u64 {
        let ranges = self.ranges.lock();
        if ranges.held {
            u64::MAX
        } else {
            ranges.zeroed.saturating_sub(ranges.claimed)
        }
    }

    /// The next step for the filler, if there is one: from, to.
    fn next_step(&self, ahead: u64, file_bytes: u64) -> Option<(u64, u64)> {
        let mut ranges = self.ranges.lock();
        let from = ranges.zeroed.max(ranges.claimed);
        let goal = ranges.claimed.saturating_add(ahead).min(file_bytes);
        if ranges.held || from >= goal {
            return None;
        }
        // Steps end at multiples of the step, so that blocks are zeroed whole.
        let to = (from / STEP_BYTES + 1).saturating_mul(STEP_BYTES).min(goal);
        ranges.zeroed = from;
        ranges.filling = Some(to);
        Some((from, to))
    }

    fn end_step(&self, filled: bool) {
        let mut ranges = self.ranges.lock();
        if let Some(to) = ranges.filling.take() {
            if filled {
                ranges.zeroed = to;
            } else {
                ranges.held = true;
            }
        }
        drop(ranges);
        self.step_done.notify_one();
    }
}

/// The next log file, not named yet: its first bytes are zeros on disk.
pub(super) struct Prepared<D: Disk> {
    pub file: D::File,
    pub path: PathBuf,
    pub folder: PathBuf,
    pub zeroed: u64,
}

/// What the filler should do next.
pub(super) enum Task<D: Disk> {
    Fill(Arc<LogFile<D>>, u64, u64),
    Prepare(PathBuf),
    Wait,
    Stop,
}

/// The filler's loop; ends with the writer.
pub(super) async fn run<D: Disk>(shared: Arc<Shared<D>>) {
    loop {
        let outcome = match next_task(&shared) {
            Task::Fill(file, from, to) => fill_step(&file, from, to).await,
            Task::Prepare(folder) => prepare(&shared, folder).await,
            Task::Wait => {
                shared.fill.notified().await;
                Ok(())
            }
            Task::Stop => return,
        };
        if let Err(error) = outcome {
            shared.fail(&error);
        }
    }
}

fn next_task<D: Disk>(shared: &Shared<D>) -> Task<D> {
    let ahead = shared.disk.zero_ahead();
    let file_bytes = shared.options.file_bytes;
    let state = shared.state.lock();
    if state.failure.is_some() || state.writer_ended {
        return Task::Stop;
    }
    let Some(active) = state.active.clone() else {
        return Task::Wait;
    };
    if let Some((from, to)) = active.space.next_step(ahead, file_bytes) {
        return Task::Fill(active, from, to);
    }
    let nearly_full = active.space.allocated() >= file_bytes.saturating_sub(ahead / 2);
    if ahead > 0 && nearly_full && state.prepared.is_none() && !state.prepare_failed {
        return Task::Prepare(active.folder.clone());
    }
    Task::Wait
}

async fn fill_step<D: Disk>(file: &LogFile<D>, from: u64, to: u64) -> io::Result<()> {
    let outcome = match file.handle() {
        Some(handle) => zero(handle.as_ref(), from, to).await,
        None => Err(io::Error::other("the active log file is not open")),
    };
    file.space.end_step(outcome.is_ok());
    match outcome {
        Err(error) if is_full(&error) => Ok(()),
        other => other,
    }
}

async fn prepare<D: Disk>(shared: &Shared<D>, folder: PathBuf) -> io::Result<()> {
    let path = folder.join(format!("prepared-{}.tmp", shared.next_temporary()));
    let goal = shared.disk.zero_ahead().min(shared.options.file_bytes);
    let outcome = async {
        let file = shared.disk.create(&path).await?;
        let mut zeroed = 0;
        while zeroed < goal {
            let to = (zeroed + STEP_BYTES).min(goal);
            zero(&file, zeroed, to).await?;
            zeroed = to;
        }
        Ok(file)
    }
    .await;
    match outcome {
        Ok(file) => {
            shared.state.lock().prepared = Some(Prepared {
                file,
                path,
                folder,
                zeroed: goal,
            })
        }
        // The folder is gone when a snapshot replaced the log meanwhile.
        Err(error) if is_full(&error) || error.kind() == io::ErrorKind::NotFound => {
            shared.state.lock().prepare_failed = true;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn zero<F: DiskFile>(file: &F, from: u64, to: u64) -> io::Result<()> {
    let mut buffers = Vec::new();
    let mut left = to - from;
    while left > 0 {
        let length = left.min(ZEROS.len() as u64);
        buffers.push(Bytes::from_static(&ZEROS[..length as usize]));
        left -= length;
    }
    file.write_at(from, &buffers).await?;
    file.sync().await
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_never_touch_what_the_writer_claimed() {
        let space = Space::new(100);
        assert_eq!(space.next_step(1000, 4096), Some((100, 1100)));
        futures_executor::block_on(async {
            let claim = space.claim(200);
            futures_util::pin_mut!(claim);
            assert!(futures_util::poll!(&mut claim).is_pending(), "the step is under way");
            space.end_step(true);
            claim.await;
        });
        assert_eq!(space.ahead(), 900);
        assert_eq!(space.next_step(1000, 4096), Some((1100, 1200)));
        space.end_step(true);
        futures_executor::block_on(space.claim(3000));
        assert_eq!(space.next_step(1000, 4096), Some((3000, 4000)));
        space.end_step(true);
        assert_eq!(space.next_step(1000, 4000), None, "the file is full");
    }

    #[test]
    fn a_held_file_is_left_alone() {
        let space = Space::new(0);
        futures_executor::block_on(space.hold());
        assert_eq!(space.next_step(1000, 4096), None);
        space.set(10, 10);
        assert_eq!(space.next_step(1000, 4096), Some((10, 1010)));
    }
}
