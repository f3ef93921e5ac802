//! The digest of the whole replicated state at one log id: equal on all replicas with the same log.
//!
//! XXH3 over all records from `records::DIGEST_FROM` to `DIGEST_TO` in key order, each as
//! `key length: 4 | key | value length: 4 | value`, big-endian. The records hold the small objects, the queue index
//! and the running hash of the log; the key index is not part of it.
//!
//! It is computed on a thread of its own from a snapshot of the store that is taken before apply goes on, so that a
//! large state does not hold up the group. One at a time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use flotilla_raft_store::log_id::LogId;
use tracing::warn;
use xxhash_rust::xxh3::Xxh3;

use super::Events;
use super::shared::{Digest, Shared};
use crate::kv::KvSnapshot;
use crate::state::records::{DIGEST_FROM, DIGEST_TO};

/// A digest being computed.
pub struct DigestRun {
    cancelled: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl DigestRun {
    /// Takes the snapshot before it returns; tells `events` once for each nonce when done.
    pub fn start(shared: Arc<Shared>, events: Arc<dyn Events>, log_id: LogId, nonces: Vec<u64>) -> io::Result<Self> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let (ready, snapshot_taken) = mpsc::sync_channel::<io::Result<()>>(1);
        let thread = Builder::new().name("digest".to_owned()).spawn({
            let cancelled = cancelled.clone();
            move || {
                let kv = match shared.kv() {
                    Ok(kv) => kv,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let snapshot = kv.snapshot();
                if ready.send(Ok(())).is_err() {
                    return;
                }
                match compute(&snapshot, &cancelled) {
                    Ok(Some(value)) => {
                        for nonce in nonces {
                            *shared.digest.lock() = Some(Digest { nonce, log_id, value });
                            events.digest(nonce, log_id, value);
                        }
                    }
                    Ok(None) => {}
                    Err(error) => warn!(%error, %log_id, "digest could not be computed"),
                }
            }
        })?;
        snapshot_taken
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("digest thread ended early")))?;
        Ok(Self { cancelled, thread })
    }

    /// Returns once the digest is known.
    pub fn wait(self) {
        if self.thread.join().is_err() {
            warn!("digest thread panicked");
        }
    }

    /// Gives up and returns once the store is no longer used.
    pub fn cancel(self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.wait();
    }
}

/// `None` if cancelled.
fn compute(snapshot: &KvSnapshot<'_>, cancelled: &AtomicBool) -> io::Result<Option<u64>> {
    let mut hasher = Xxh3::new();
    let mut cursor = snapshot.scan(vec![DIGEST_FROM], vec![DIGEST_TO]);
    let mut here = cursor.seek_to_first()?;
    while here {
        let Some((key, value)) = cursor.item() else { break };
        for bytes in [key, value] {
            hasher.update(&(bytes.len() as u32).to_be_bytes());
            hasher.update(bytes);
        }
        if cancelled.load(Ordering::Relaxed) {
            return Ok(None);
        }
        here = cursor.step()?;
    }
    Ok(Some(hasher.digest()))
}
