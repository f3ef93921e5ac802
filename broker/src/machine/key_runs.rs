//! Makes runs of the key index on a thread of its own, one at a time.
//!
//! Bounded: with [`RUNS_WAITING_MAX`] times the keys of a run in memory, apply waits for the run being made.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use tracing::warn;

use super::shared::Shared;
use crate::key_index::KeyIndex;

/// Runs whose keys may be in memory before apply waits.
const RUNS_WAITING_MAX: usize = 4;

/// The run being made, if any.
#[derive(Debug)]
pub struct KeyRuns {
    run_keys: usize,
    /// After a failure: fresh keys at which the next run is tried.
    retry_at: Option<usize>,
    running: Option<JoinHandle<io::Result<()>>>,
}

impl KeyRuns {
    /// Nothing running; a run is made of `run_keys` keys.
    pub fn new(run_keys: usize) -> Self {
        Self {
            run_keys,
            retry_at: None,
            running: None,
        }
    }

    /// Called after every entry with keys. An error means that the keys can neither be sorted nor kept in memory.
    pub fn keep_up(&mut self, shared: &Arc<Shared>, keys: &Arc<KeyIndex>) -> io::Result<()> {
        let fresh = keys.fresh_keys();
        let must_wait = fresh >= RUNS_WAITING_MAX * self.run_keys;
        if must_wait || self.running.as_ref().is_some_and(JoinHandle::is_finished) {
            match self.wait() {
                Ok(()) => self.retry_at = None,
                Err(error) if must_wait => return Err(error),
                Err(error) => self.failed(fresh, &error),
            }
        }
        let due = match self.retry_at {
            Some(keys) => fresh >= keys,
            None => keys.run_is_due(self.run_keys),
        };
        if due && self.running.is_none() {
            let (shared, keys) = (shared.clone(), keys.clone());
            let make = move || keys.make_run(&*shared.kv()?);
            match Builder::new().name("key-run".to_owned()).spawn(make) {
                Ok(running) => self.running = Some(running),
                Err(error) => self.failed(fresh, &error),
            }
        }
        Ok(())
    }

    fn failed(&mut self, fresh: usize, error: &io::Error) {
        warn!(%error, fresh, "keys could not be sorted, trying again later");
        self.retry_at = Some(fresh + self.run_keys / 4);
    }

    /// Returns once no run is being made, with the outcome of the last one.
    pub fn wait(&mut self) -> io::Result<()> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        let panicked = |_| Err(io::Error::other("the thread that sorts keys panicked"));
        running.join().unwrap_or_else(panicked)
    }
}
