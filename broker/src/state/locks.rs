//! Queue locks of orderly consumers (RocketMQ: `RebalanceLockManager`), as leases with a fence.
//!
//! Times are the proposing leader's, carried by the command; apply compares them with each other only. A lock is
//! given to another client only by a command whose time is a whole lease after the last renewal. The fence is the
//! log index of the entry that gave the lock: it grows with every change of owner.

use std::collections::BTreeMap;

use super::codec::{Decoder, Encoder, Malformed};
use super::effects::Effects;
use super::limits::{LOCK_LEASE_MS, LOCKS_MAX, NAME_BYTES_MAX};
use super::records::{self, Key, name_in_key};
use super::reply::{Refusal, Reply};

const RECORD_VERSION: u8 = 1;

/// Who holds a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The holder.
    pub client_id: String,
    /// Log index of the entry that gave it to this holder.
    pub fence: u64,
    /// Last renewal.
    pub renewed_ms: i64,
}

impl Lock {
    /// True once another client may get it.
    pub fn is_expired(&self, now_ms: i64) -> bool {
        now_ms.saturating_sub(self.renewed_ms) >= LOCK_LEASE_MS
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::starting(&[RECORD_VERSION]);
        out.text(&self.client_id).u64(self.fence).i64(self.renewed_ms);
        out.finish()
    }
}

type ByQueue = BTreeMap<(String, u32), Lock>;

/// All queue locks of one Raft group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locks {
    groups: BTreeMap<String, ByQueue>,
    count: usize,
}

impl Locks {
    /// The lock of a queue, expired or not.
    pub fn get(&self, group: &str, topic: &str, queue: u32) -> Option<&Lock> {
        self.groups.get(group)?.get(&(topic.to_owned(), queue))
    }

    /// Gives the free ones among `queues` to the client, renews those it holds, and answers with both.
    pub(super) fn lock(
        &mut self,
        group: &str,
        client_id: &str,
        queues: Vec<(String, u32)>,
        now_ms: i64,
        log_index: u64,
        effects: &mut Effects,
    ) -> Reply {
        if self.count + queues.len() > LOCKS_MAX {
            self.remove_expired(now_ms, effects);
            if self.count + queues.len() > LOCKS_MAX {
                return Reply::Refused(Refusal::LimitReached("locks"));
            }
        }
        let locks = self.groups.entry(group.to_owned()).or_default();
        let mut held = Vec::with_capacity(queues.len());
        for queue in queues {
            let lock = match locks.get(&queue) {
                Some(lock) if lock.client_id == client_id => Lock {
                    renewed_ms: lock.renewed_ms.max(now_ms),
                    ..lock.clone()
                },
                Some(lock) if !lock.is_expired(now_ms) => continue,
                Some(_) | None => Lock {
                    client_id: client_id.to_owned(),
                    fence: log_index,
                    renewed_ms: now_ms,
                },
            };
            effects.put(key(group, &queue), lock.encode());
            self.count += usize::from(locks.insert(queue.clone(), lock).is_none());
            held.push(queue);
        }
        if locks.is_empty() {
            self.groups.remove(group);
        }
        Reply::Locked(held)
    }

    /// Frees those of `queues` that the client holds.
    pub(super) fn unlock(&mut self, group: &str, client_id: &str, queues: &[(String, u32)], effects: &mut Effects) {
        let Some(locks) = self.groups.get_mut(group) else {
            return;
        };
        for queue in queues {
            if locks.get(queue).is_some_and(|lock| lock.client_id == client_id) {
                locks.remove(queue);
                self.count -= 1;
                effects.delete(key(group, queue));
            }
        }
        if locks.is_empty() {
            self.groups.remove(group);
        }
    }

    /// About how many bytes the locks of a queue have in a command.
    pub(super) fn bytes_of_queue(&self, topic: &str, queue: u32) -> usize {
        let place = (topic.to_owned(), queue);
        let held = self
            .groups
            .iter()
            .filter_map(|(group, locks)| Some((group, locks.get(&place)?)));
        held.map(|(group, lock)| group.len() + lock.client_id.len() + 16).sum()
    }

    /// Takes out the locks of a queue that leaves: consumer group, holder, last renewal.
    pub(super) fn take_out(&mut self, topic: &str, queue: u32, effects: &mut Effects) -> Vec<(String, String, i64)> {
        let place = (topic.to_owned(), queue);
        let mut taken = Vec::new();
        for (group, locks) in &mut self.groups {
            if let Some(lock) = locks.remove(&place) {
                effects.delete(key(group, &place));
                taken.push((group.clone(), lock.client_id, lock.renewed_ms));
            }
        }
        self.count -= taken.len();
        self.groups.retain(|_, locks| !locks.is_empty());
        taken
    }

    /// Takes in the locks of a queue that comes here. There is no way back for them, so no limit holds.
    pub(super) fn take_in(
        &mut self,
        topic: &str,
        queue: u32,
        locks: &[(String, String, i64)],
        log_index: u64,
        effects: &mut Effects,
    ) {
        for (group, client_id, renewed_ms) in locks {
            let place = (topic.to_owned(), queue);
            let lock = Lock {
                client_id: client_id.clone(),
                fence: log_index,
                renewed_ms: *renewed_ms,
            };
            effects.put(key(group, &place), lock.encode());
            let held = self.groups.entry(group.clone()).or_default();
            self.count += usize::from(held.insert(place, lock).is_none());
        }
    }

    /// Forgets locks nobody renewed for a lease.
    fn remove_expired(&mut self, now_ms: i64, effects: &mut Effects) {
        self.remove_if(effects, |_, _, lock| lock.is_expired(now_ms));
    }

    /// Forgets a deleted topic.
    pub(super) fn remove_topic(&mut self, topic: &str, effects: &mut Effects) {
        self.remove_if(effects, |_, locked, _| locked == topic);
    }

    /// Forgets a deleted group.
    pub(super) fn remove_group(&mut self, group: &str, effects: &mut Effects) {
        if self.groups.contains_key(group) {
            self.remove_if(effects, |locked, _, _| locked == group);
        }
    }

    fn remove_if(&mut self, effects: &mut Effects, condition: impl Fn(&str, &str, &Lock) -> bool) {
        for (group, locks) in &mut self.groups {
            let before = locks.len();
            locks.retain(|queue, lock| {
                let remove = condition(group, &queue.0, lock);
                if remove {
                    effects.delete(key(group, queue));
                }
                !remove
            });
            self.count -= before - locks.len();
        }
        self.groups.retain(|_, locks| !locks.is_empty());
    }

    pub(super) fn load(&mut self, mut key: Decoder<'_>, value: &[u8]) -> Result<(), Malformed> {
        let (group, topic, queue) = (name_in_key(&mut key)?, name_in_key(&mut key)?, key.u32()?);
        key.finish()?;
        let mut from = Decoder::new(value);
        if from.u8()? != RECORD_VERSION {
            return Err(Malformed);
        }
        let lock = Lock {
            client_id: from.text(NAME_BYTES_MAX)?,
            fence: from.u64()?,
            renewed_ms: from.i64()?,
        };
        from.finish()?;
        self.count += 1;
        self.groups.entry(group).or_default().insert((topic, queue), lock);
        Ok(())
    }
}

fn key(group: &str, queue: &(String, u32)) -> Vec<u8> {
    Key::new(records::LOCK).name(group).name(&queue.0).u32(queue.1).finish()
}
