//! Pulls that found nothing and wait for a message: who may wait, who wakes them, who sends them home.
//!
//! `handlers/pull.rs` parks, `Events::appended` wakes after the message is applied and visible on this node, and a
//! graceful stop releases everybody. A parked pull lives in the future of its request: when the connection closes
//! the future is dropped, and [`Parked`] takes itself off the table.
//!
//! Holds: a pull that parked and then looked at the queue once more never misses a message. A queue nobody waits
//! for has no entry. The number of parked pulls is bounded.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// What the watched maximum becomes when the node stops: past every offset, so everyone wakes.
const RELEASED: i64 = i64::MAX;

/// What pulls of one queue wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    /// The queue's maximum offset.
    max_offset: i64,
    /// How often its open segment came or went while anybody waited.
    handovers: u64,
}

/// The table of parked pulls of one node, by topic and queue.
#[derive(Debug)]
pub struct ParkedPulls {
    pulls_max: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    topics: HashMap<String, HashMap<u32, Waiting>>,
    parked: usize,
    released: bool,
}

/// The pulls waiting on one queue share one watched value.
#[derive(Debug)]
struct Waiting {
    level: watch::Sender<Level>,
    pulls: usize,
}

/// Why a pull could not be parked: too many are, already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many pulls are waiting on this node")]
pub struct TooManyParked;

impl ParkedPulls {
    /// An empty table for at most `pulls_max` pulls. A further one is answered as overload.
    pub fn new(pulls_max: usize) -> Self {
        Self {
            pulls_max,
            table: Mutex::default(),
        }
    }

    /// Puts the caller on the list of (topic, queue). It must look at the queue once more afterwards, and only then
    /// wait.
    pub fn park(self: &Arc<Self>, topic: &str, queue: u32) -> Result<Parked, TooManyParked> {
        let mut table = self.table.lock();
        if table.parked >= self.pulls_max {
            return Err(TooManyParked);
        }
        table.parked += 1;
        let start = if table.released { RELEASED } else { 0 };
        if !table.topics.contains_key(topic) {
            table.topics.insert(topic.to_owned(), HashMap::new());
        }
        let queues = table.topics.get_mut(topic).expect("inserted above when it was missing");
        let waiting = queues.entry(queue).or_insert_with(|| Waiting {
            level: watch::Sender::new(Level {
                max_offset: start,
                handovers: 0,
            }),
            pulls: 0,
        });
        waiting.pulls += 1;
        let level = waiting.level.subscribe();
        let handovers = level.borrow().handovers;
        Ok(Parked {
            pulls: Arc::clone(self),
            topic: topic.to_owned(),
            queue,
            level,
            handovers,
        })
    }

    /// Wakes who waits for messages below `max_offset`. Called by apply for every queue an entry touched.
    pub fn appended(&self, topic: &str, queue: u32, max_offset: i64) {
        let table = self.table.lock();
        if let Some(waiting) = table.topics.get(topic).and_then(|queues| queues.get(&queue)) {
            waiting.level.send_if_modified(|known| {
                let grew = max_offset > known.max_offset;
                known.max_offset = max_offset.max(known.max_offset);
                grew
            });
        }
    }

    /// Wakes everybody who waits on a queue: its open segment came or went.
    pub fn handed_over(&self, topic: &str, queue: u32) {
        let table = self.table.lock();
        if let Some(waiting) = table.topics.get(topic).and_then(|queues| queues.get(&queue)) {
            waiting.level.send_modify(|known| known.handovers += 1);
        }
    }

    /// Wakes everybody and lets nobody wait any more: the node stops.
    pub fn release_all(&self) {
        let mut table = self.table.lock();
        table.released = true;
        for waiting in table.topics.values().flat_map(HashMap::values) {
            waiting.level.send_modify(|known| known.max_offset = RELEASED);
        }
    }

    /// How many pulls wait now.
    pub fn parked(&self) -> usize {
        self.table.lock().parked
    }

    fn leave(&self, topic: &str, queue: u32) {
        let mut table = self.table.lock();
        table.parked -= 1;
        let Some(queues) = table.topics.get_mut(topic) else {
            return;
        };
        if let Some(waiting) = queues.get_mut(&queue) {
            waiting.pulls -= 1;
            if waiting.pulls == 0 {
                queues.remove(&queue);
            }
        }
        if queues.is_empty() {
            table.topics.remove(topic);
        }
    }
}

/// A place on the list of one queue; dropping it gives the place up.
#[derive(Debug)]
pub struct Parked {
    pulls: Arc<ParkedPulls>,
    topic: String,
    queue: u32,
    level: watch::Receiver<Level>,
    /// The handovers that were before.
    handovers: u64,
}

/// Why a parked pull was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The queue has a message at the offset waited for.
    Appended,
    /// The queue's open segment came or went.
    HandedOver,
    /// The node stops.
    Released,
}

impl Parked {
    /// Waits until the queue holds a message at `queue_offset`, its open segment comes or goes, or the node stops.
    pub async fn wait(&mut self, queue_offset: i64) -> Woken {
        let before = self.handovers;
        let level = self
            .level
            .wait_for(|level| level.max_offset > queue_offset || level.handovers != before)
            .await
            .map(|level| *level);
        match level {
            Ok(Level {
                max_offset: RELEASED, ..
            })
            | Err(_) => Woken::Released,
            Ok(level) if level.max_offset > queue_offset => Woken::Appended,
            Ok(level) => {
                self.handovers = level.handovers;
                Woken::HandedOver
            }
        }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.pulls.leave(&self.topic, self.queue);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn only_the_queue_that_grew_past_the_offset_wakes() {
        let pulls = Arc::new(ParkedPulls::new(10));
        let mut parked = pulls.park("T", 1).unwrap();
        pulls.appended("T", 0, 9);
        pulls.appended("U", 1, 9);
        pulls.appended("T", 1, 5);
        assert_eq!(parked.wait(5).now_or_never(), None);
        pulls.appended("T", 1, 6);
        assert_eq!(parked.wait(5).await, Woken::Appended);
    }

    #[tokio::test]
    async fn a_message_between_parking_and_waiting_is_not_missed() {
        let pulls = Arc::new(ParkedPulls::new(10));
        let mut parked = pulls.park("T", 0).unwrap();
        pulls.appended("T", 0, 1);
        assert_eq!(parked.wait(0).now_or_never(), Some(Woken::Appended));
    }

    #[tokio::test]
    async fn a_dropped_pull_leaves_nothing_behind() {
        let pulls = Arc::new(ParkedPulls::new(10));
        let first = pulls.park("T", 0).unwrap();
        let second = pulls.park("T", 0).unwrap();
        drop(first);
        assert_eq!(pulls.parked(), 1);
        drop(second);
        assert_eq!(pulls.parked(), 0);
        assert!(pulls.table.lock().topics.is_empty());
    }

    #[tokio::test]
    async fn one_pull_too_many_is_refused() {
        let pulls = Arc::new(ParkedPulls::new(1));
        let first = pulls.park("T", 0).unwrap();
        assert_eq!(pulls.park("T", 0).err(), Some(TooManyParked));
        drop(first);
        assert!(pulls.park("T", 0).is_ok());
    }

    #[tokio::test]
    async fn release_wakes_those_waiting_and_those_to_come() {
        let pulls = Arc::new(ParkedPulls::new(10));
        let mut before = pulls.park("T", 0).unwrap();
        pulls.release_all();
        let mut after = pulls.park("T", 1).unwrap();
        assert_eq!(before.wait(0).now_or_never(), Some(Woken::Released));
        assert_eq!(after.wait(0).now_or_never(), Some(Woken::Released));
    }
}
