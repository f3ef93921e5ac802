//! Numbers of the requests this process passes on, by Raft group: dense, so that the group need keep only the last ones.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::state::ForwardMark;

/// See the module.
#[derive(Debug)]
pub struct Sequences {
    ingress: u64,
    next: RwLock<HashMap<u16, AtomicU64>>,
}

impl Sequences {
    /// Of a process that starts now: a number of an earlier one is not its own.
    pub fn new() -> Self {
        Self {
            ingress: rand::random(),
            next: RwLock::default(),
        }
    }

    /// The next number of a Raft group.
    pub fn next(&self, group: u16) -> ForwardMark {
        let known = self
            .next
            .read()
            .get(&group)
            .map(|next| next.fetch_add(1, Ordering::Relaxed));
        let sequence = known.unwrap_or_else(|| {
            let mut table = self.next.write();
            table.entry(group).or_default().fetch_add(1, Ordering::Relaxed)
        });
        ForwardMark {
            ingress: self.ingress,
            sequence,
            part: 0,
            repeated: false,
        }
    }
}

impl Default for Sequences {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_counted_by_itself() {
        let sequences = Sequences::new();
        let drawn: Vec<u64> = [1, 1, 2, 1, 2].map(|group| sequences.next(group).sequence).into();
        assert_eq!(drawn, [0, 1, 0, 2, 1]);
        assert_ne!(sequences.next(1).ingress, Sequences::new().next(1).ingress);
    }
}
