//! What queues ask of their Raft groups: the rates at which messages come in, as the leaders of the groups measured them.
//!
//! A group of which nothing is known counts by its queues: each is taken for one of average load. What consumers read is
//! not part of it: any node with a replica serves it, so it does not move with a queue.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{AddAssign, SubAssign};

use serde::{Deserialize, Serialize};

/// A queue, by its topic's id and its number.
pub type QueueKey = (u64, u32);

/// What a message asks beyond its bytes, as so many of them: entries of indexes, an answer of its own.
const MESSAGE_BYTES: f64 = 1_024.0;

/// What comes in, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Messages.
    pub messages: f64,
    /// Their stored bytes.
    pub bytes: f64,
}

impl Rate {
    /// As one figure, comparable with others: bytes, with something for each message.
    pub fn load(self) -> u64 {
        // Out of range it is the nearest that fits.
        (self.bytes + MESSAGE_BYTES * self.messages).round() as u64
    }

    /// Nothing comes in.
    pub fn is_none(self) -> bool {
        self.load() == 0
    }

    fn divided(self, by: usize) -> Self {
        let by = by.max(1) as f64;
        Self {
            messages: self.messages / by,
            bytes: self.bytes / by,
        }
    }
}

impl AddAssign for Rate {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

impl SubAssign for Rate {
    /// Never below nothing.
    fn sub_assign(&mut self, other: Self) {
        self.messages = (self.messages - other.messages).max(0.0);
        self.bytes = (self.bytes - other.bytes).max(0.0);
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} messages/s, ", self.messages)?;
        match self.bytes {
            bytes if bytes < 1e3 => write!(f, "{bytes:.0} B/s"),
            bytes if bytes < 1e6 => write!(f, "{:.1} kB/s", bytes / 1e3),
            bytes => write!(f, "{:.1} MB/s", bytes / 1e6),
        }
    }
}

/// What was measured in one Raft group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupLoad {
    /// By queue; those that are missing are at rest.
    pub queues: BTreeMap<QueueKey, Rate>,
    /// What is not told by queue.
    pub others: Rate,
}

/// What was measured. Of idle groups, too: those that are missing were not measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loads {
    queues: BTreeMap<QueueKey, Rate>,
    /// What is not told by queue, by the number of the Raft group.
    others: BTreeMap<u16, Rate>,
    /// All that comes in, by the number of the Raft group.
    groups: BTreeMap<u16, Rate>,
}

impl Loads {
    /// Adds what was measured in a Raft group.
    pub fn insert(&mut self, group: u16, load: GroupLoad) {
        let mut all = load.others;
        self.others.insert(group, load.others);
        for (queue, rate) in load.queues {
            all += rate;
            // One that just moved may have been measured in both groups.
            *self.queues.entry(queue).or_default() += rate;
        }
        self.groups.insert(group, all);
    }

    /// All that comes into a Raft group; `None` if it was not measured.
    pub fn of_group(&self, group: u16) -> Option<Rate> {
        self.groups.get(&group).copied()
    }

    /// What comes into a Raft group and is not told by queue.
    pub(super) fn others_of(&self, group: u16) -> Rate {
        self.others.get(&group).copied().unwrap_or_default()
    }

    /// What comes into a queue of this group, which is `average` if that was not measured.
    pub(super) fn of_queue(&self, queue: QueueKey, group: u16, average: Rate) -> Rate {
        let measured = self.queues.get(&queue).copied();
        measured.unwrap_or_else(|| match self.groups.contains_key(&group) {
            true => Rate::default(),
            false => average,
        })
    }

    /// What comes into a queue on average, when the groups that were measured have so many.
    pub(super) fn average(&self, queues: usize) -> Rate {
        let mut all = Rate::default();
        self.groups.values().for_each(|rate| all += *rate);
        all.divided(queues)
    }
}
