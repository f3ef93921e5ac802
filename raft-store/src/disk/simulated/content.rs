//! The bytes of one simulated file: as written, as on stable storage, and the sectors that differ.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::random::Random;

/// What the medium writes whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

#[derive(Clone, Default)]
pub(super) struct Content {
    /// What readers see.
    written: Arc<Vec<u8>>,
    /// What a power loss leaves for sure.
    synced: Arc<Vec<u8>>,
    /// Sectors written since they were last synced.
    dirty: BTreeSet<usize>,
    /// The shortest length set since the last sync, if the file was cut.
    cut_to: Option<usize>,
}

/// What a sync that was started will put on stable storage.
pub(super) struct SyncStarted {
    length: usize,
    sectors: Vec<(usize, Vec<u8>)>,
    cut_to: Option<usize>,
}

impl Content {
    /// A file on stable storage.
    pub fn of(bytes: Vec<u8>) -> Self {
        let bytes = Arc::new(bytes);
        Self {
            written: bytes.clone(),
            synced: bytes,
            dirty: BTreeSet::new(),
            cut_to: None,
        }
    }

    pub fn written(&self) -> &[u8] {
        &self.written
    }

    pub fn len(&self) -> usize {
        self.written.len()
    }

    pub fn write(&mut self, offset: usize, buffers: &[Bytes]) {
        let mut at = offset;
        let length: usize = buffers.iter().map(Bytes::len).sum();
        if length == 0 {
            return;
        }
        let written = Arc::make_mut(&mut self.written);
        if written.len() < at + length {
            written.resize(at + length, 0);
        }
        for buffer in buffers {
            written[at..at + buffer.len()].copy_from_slice(buffer);
            at += buffer.len();
        }
        self.dirty.extend(offset / SECTOR_BYTES..=(at - 1) / SECTOR_BYTES);
    }

    pub fn read(&self, offset: usize, length: usize) -> Option<Bytes> {
        self.written
            .get(offset..offset.checked_add(length)?)
            .map(Bytes::copy_from_slice)
    }

    pub fn set_len(&mut self, length: usize) {
        if length < self.written.len() {
            self.cut_to = Some(self.cut_to.map_or(length, |cut| cut.min(length)));
            self.dirty.retain(|sector| sector * SECTOR_BYTES < length);
        }
        Arc::make_mut(&mut self.written).resize(length, 0);
    }

    fn sector(&self, sector: usize) -> &[u8] {
        let start = sector * SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(self.written.len());
        self.written.get(start..end).unwrap_or_default()
    }

    pub fn start_sync(&self) -> SyncStarted {
        let sectors = self
            .dirty
            .iter()
            .map(|sector| (*sector, self.sector(*sector).to_vec()))
            .collect();
        SyncStarted {
            length: self.written.len(),
            sectors,
            cut_to: self.cut_to,
        }
    }

    /// All that was written before the sync started is on stable storage; what was written since is not.
    pub fn end_sync(&mut self, started: SyncStarted) {
        let synced = Arc::make_mut(&mut self.synced);
        if let Some(cut) = started.cut_to {
            synced.truncate(cut);
        }
        synced.resize(started.length, 0);
        for (sector, bytes) in started.sectors {
            let start = sector * SECTOR_BYTES;
            synced[start..start + bytes.len()].copy_from_slice(&bytes);
            let end = (start + SECTOR_BYTES).min(self.written.len());
            if self.written.get(start..end) == Some(&bytes) {
                self.dirty.remove(&sector);
            }
        }
        if self.cut_to == started.cut_to {
            self.cut_to = None;
        }
    }

    /// A sync failed as on Linux: what it should have saved is thrown away, but is still read back, and no later
    /// sync will save it.
    pub fn fail_sync(&mut self) {
        self.dirty.clear();
        self.cut_to = None;
    }

    /// What is left after a power loss: any part of what was not synced, in any order, or (`None`) nothing of it.
    pub fn after_power_loss(&self, random: Option<&mut Random>) -> Self {
        let mut left = self.synced.as_ref().clone();
        let Some(random) = random else { return Self::of(left) };
        if let Some(cut) = self.cut_to
            && random.below(2) == 0
        {
            left.truncate(cut);
        }
        // All, none, a part from the front, or each by itself.
        let mode = random.below(4);
        let reach = random.below(self.dirty.len() as u64 + 1) as usize;
        for (number, sector) in self.dirty.iter().enumerate() {
            let kept = match mode {
                0 => true,
                1 => false,
                2 => number < reach,
                _ => random.below(2) == 0,
            };
            if kept {
                let bytes = self.sector(*sector);
                let start = sector * SECTOR_BYTES;
                if left.len() < start + bytes.len() {
                    left.resize(start + bytes.len(), 0);
                }
                left[start..start + bytes.len()].copy_from_slice(bytes);
            }
        }
        if left.len() < self.written.len() && random.below(2) == 0 {
            left.resize(self.written.len(), 0);
        }
        Self::of(left)
    }
}
