//! Where the state lies on disk, and how it is opened, replaced and fallen back to.
//!
//! ```text
//! live             the state in use
//! checkpoint-<n>   copies made on the way, n = log index: the last two are kept
//! live.new         being made; without meaning after a crash
//! live.old         the state before a restore: back in use if the crash came before the new one was in place
//! set-aside-<k>    a state that could not be opened: kept for whoever wants to know why
//! ```
//!
//! A state that cannot be opened is renamed, never removed, and the newest checkpoint that can be opened takes its
//! place. Without one the state is new, and the log from its start, or a peer's snapshot, makes it whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::{error, info, warn};

use crate::kv::{Kv, KvSettings, OpenError};

const LIVE: &str = "live";
const LIVE_NEW: &str = "live.new";
const LIVE_OLD: &str = "live.old";
const CHECKPOINT: &str = "checkpoint-";
const SET_ASIDE: &str = "set-aside-";
/// Checkpoints kept to fall back to.
const CHECKPOINTS_MAX: usize = 2;

/// The folder of one state.
#[derive(Debug)]
pub struct Folders {
    root: PathBuf,
}

impl Folders {
    /// Makes the folder if it is new, and finishes or undoes what a crash interrupted.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let folders = Self { root: root.to_owned() };
        remove_folder(&folders.path(LIVE_NEW))?;
        let (live, old) = (folders.path(LIVE), folders.path(LIVE_OLD));
        if old.exists() {
            if live.exists() {
                remove_folder(&old)?;
            } else {
                fs::rename(&old, &live)?;
            }
        }
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                remove_folder(&path)?;
            }
        }
        folders.sync()?;
        Ok(folders)
    }

    /// Opens the live state, or the newest checkpoint that `load` accepts, or a new one.
    pub fn open_state<T>(
        &self,
        settings: &KvSettings,
        load: impl Fn(&Kv) -> Result<T, OpenError>,
    ) -> io::Result<(Kv, T)> {
        let open = || {
            let kv = Kv::open(&self.path(LIVE), settings)?;
            let loaded = load(&kv)?;
            Ok::<_, OpenError>((kv, loaded))
        };
        let mut fallbacks = self.checkpoints()?;
        if !self.path(LIVE).exists()
            && let Some((log_index, newest)) = fallbacks.pop()
        {
            warn!(log_index, "no live state, using checkpoint");
            self.use_copy(&newest)?;
        }
        loop {
            match open() {
                Ok(opened) => return Ok(opened),
                Err(OpenError::Io(error)) => return Err(error),
                Err(OpenError::Damaged(reason)) => {
                    let aside = self.set_live_aside()?;
                    error!(%reason, aside = %aside.display(), "state is damaged, set aside");
                    match fallbacks.pop() {
                        Some((log_index, checkpoint)) => {
                            info!(log_index, "using checkpoint");
                            self.use_copy(&checkpoint)?;
                        }
                        None => warn!("no checkpoint left, starting with an empty state"),
                    }
                }
            }
        }
    }

    /// Makes a copy of `source` ready to take the live state's place, and checks that `load` accepts it.
    pub fn stage(
        &self,
        source: &Path,
        settings: &KvSettings,
        load: impl Fn(&Kv) -> Result<(), OpenError>,
    ) -> io::Result<()> {
        let staged = self.path(LIVE_NEW);
        remove_folder(&staged)?;
        copy_store(source, &staged)?;
        let checked = Kv::open(&staged, settings).and_then(|kv| load(&kv));
        checked.map_err(|error| match error {
            OpenError::Damaged(reason) => io::Error::new(io::ErrorKind::InvalidData, reason),
            OpenError::Io(error) => error,
        })
    }

    /// Puts the staged copy in the place of the live state, which must be closed. Older checkpoints go: they end
    /// before the log that is kept now begins.
    pub fn swap_in_staged(&self) -> io::Result<()> {
        let (live, old) = (self.path(LIVE), self.path(LIVE_OLD));
        fs::rename(&live, &old)?;
        fs::rename(self.path(LIVE_NEW), &live)?;
        self.sync()?;
        remove_folder(&old)?;
        for (_, checkpoint) in self.checkpoints()? {
            remove_folder(&checkpoint)?;
        }
        self.sync()
    }

    /// Keeps a checkpoint of `kv`, flushed at `log_index`, and drops those beyond the last two.
    pub fn keep_checkpoint(&self, kv: &Kv, log_index: u64) -> io::Result<()> {
        let path = self.path(&format!("{CHECKPOINT}{log_index}"));
        if path.exists() {
            return Ok(());
        }
        kv.checkpoint(&path)?;
        self.sync()?;
        let checkpoints = self.checkpoints()?;
        let surplus = checkpoints.len().saturating_sub(CHECKPOINTS_MAX);
        for (_, path) in checkpoints.into_iter().take(surplus) {
            remove_folder(&path)?;
        }
        Ok(())
    }

    /// Log index of the newest checkpoint.
    pub fn newest_checkpoint(&self) -> io::Result<Option<u64>> {
        Ok(self.checkpoints()?.last().map(|(log_index, _)| *log_index))
    }

    fn checkpoints(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let number = entry
                .file_name()
                .to_str()
                .and_then(|name| name.strip_prefix(CHECKPOINT)?.parse().ok());
            found.extend(number.map(|number: u64| (number, entry.path())));
        }
        found.sort();
        Ok(found)
    }

    fn use_copy(&self, source: &Path) -> io::Result<()> {
        let staged = self.path(LIVE_NEW);
        remove_folder(&staged)?;
        copy_store(source, &staged)?;
        fs::rename(staged, self.path(LIVE))?;
        self.sync()
    }

    fn set_live_aside(&self) -> io::Result<PathBuf> {
        let aside = (0_u32..)
            .map(|k| self.path(&format!("{SET_ASIDE}{k}")))
            .find(|path| !path.exists());
        let aside = aside.expect("there are not 2^32 states set aside");
        fs::rename(self.path(LIVE), &aside)?;
        self.sync()?;
        Ok(aside)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn sync(&self) -> io::Result<()> {
        sync_folder(&self.root)
    }
}

/// Copies a closed store. Tables never change and are hard-linked; the few other files are appended to and copied.
fn copy_store(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let source = entry?.path();
        let Some(name) = source.file_name() else { continue };
        let target = to.join(name);
        let is_table = source.extension().is_some_and(|extension| extension == "sst");
        if !(is_table && fs::hard_link(&source, &target).is_ok()) {
            fs::copy(&source, &target)?;
            fs::File::open(&target)?.sync_all()?;
        }
    }
    sync_folder(to)
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}
