//! Makes runs of the key index on a thread of its own, one at a time.
//!
//! Bounded: with [`FRESH_KEYS_MAX`] keys waiting, apply waits for the run being made.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use tracing::warn;

use super::shared::Shared;
use crate::key_index::{KeyIndex, RUN_KEYS};

/// Fresh keys in memory at which apply waits.
const FRESH_KEYS_MAX: usize = 4 * RUN_KEYS;

/// The run being made, if any.
#[derive(Debug, Default)]
pub struct KeyRuns {
    running: Option<JoinHandle<io::Result<()>>>,
}

impl KeyRuns {
    /// Called after every entry with keys. An error means that the keys can neither be sorted nor kept in memory.
    pub fn keep_up(&mut self, shared: &Arc<Shared>, keys: &Arc<KeyIndex>) -> io::Result<()> {
        let must_wait = keys.fresh_keys() >= FRESH_KEYS_MAX;
        if must_wait || self.running.as_ref().is_some_and(JoinHandle::is_finished) {
            match self.wait() {
                Err(error) if must_wait => return Err(error),
                Err(error) => warn!(%error, "keys could not be sorted, trying again"),
                Ok(()) => {}
            }
        }
        if self.running.is_none() && keys.run_is_due() {
            let (shared, keys) = (shared.clone(), keys.clone());
            let make = move || keys.make_run(&*shared.kv()?);
            self.running = Some(Builder::new().name("key-run".to_owned()).spawn(make)?);
        }
        Ok(())
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
