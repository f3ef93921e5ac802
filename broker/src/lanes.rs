//! The order of a connection's sends: those to one queue reach its log as they came, also when some are refused and sent
//! again because the queue moved or its leader changed.
//!
//! The sends of one connection to one queue are a *lane*. One after another they go to where the queue is, without waiting
//! for answers, as long as all of them go the same way: to one leader of one Raft group, which takes them in the order they
//! come. A send that would go another way, or comes behind one that is to be sent again, waits until those before it have
//! been answered. After a refusal the first to go again goes alone: what comes behind it follows once it is stored, because
//! whoever refused one may take the next.
//!
//! Holds: a send that was surely not stored does not go again once a later one of its lane is stored; its client is told of
//! the refusal instead. Whoever waits is let go by those before it, and all of them end: with an answer, with their own
//! deadline, or with the connection. Bounded: who waits is a request in flight of the connection.
//!
//! The requests of a connection are futures of one task, which is why it is enough that a send that was let go is handed on
//! before it is waited for.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::task::{Context, Poll, Waker};

use flotilla_raft_store::leadership::Leadership;
use parking_lot::Mutex;

use crate::connection::REQUESTS_IN_FLIGHT_MAX;

/// Sends of one lane that wait. All of a connection may be to one queue.
pub const WAITING_MAX: usize = REQUESTS_IN_FLIGHT_MAX;
/// Lanes whose memory an idle connection keeps.
const LANES_KEPT: usize = 64;

/// A way that sends take: a Raft group, and who leads it in which term.
pub type Way<'a> = (u16, &'a Leadership);

/// Why a send is not to go any more; surely it is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barred {
    /// It was refused, and a later one is stored.
    Overtaken,
    /// Too many wait before it.
    Full,
}

/// The lanes of one connection.
#[derive(Debug, Default)]
pub struct Lanes {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next_number: u64,
    /// By a hash of topic and queue: two queues of one hash would share a lane, which costs time and no order.
    lanes: HashMap<u64, Lane>,
}

#[derive(Debug, Default)]
struct Lane {
    under_way: usize,
    /// The way of those under way; `None` for one that goes alone.
    way: Option<(u16, Leadership)>,
    /// One was refused, and none that went alone was stored since.
    doubtful: bool,
    /// The one under way that has not been handed on yet.
    held_by: Option<u64>,
    /// The newest that is stored.
    stored: Option<u64>,
    waiting: BTreeMap<u64, Option<Waker>>,
}

impl Lane {
    fn may_go(&self, number: u64, way: Option<Way<'_>>) -> bool {
        let is_first = self.waiting.first_key_value().is_none_or(|(first, _)| *first >= number);
        let same_way = || {
            let known = self.way.as_ref().map(|(group, leadership)| (*group, leadership));
            !self.doubtful && known.is_some() && known == way
        };
        is_first && self.held_by.is_none() && (self.under_way == 0 || same_way())
    }

    /// Lets a send go; true if it goes alone.
    fn go(&mut self, number: u64, way: Option<Way<'_>>) -> bool {
        self.waiting.remove(&number);
        if self.under_way == 0 {
            let known = way.filter(|_| !self.doubtful);
            self.way = known.map(|(group, leadership)| (group, leadership.clone()));
        }
        self.under_way += 1;
        self.wake_first();
        self.way.is_none()
    }

    fn wait(&mut self, number: u64, waker: Option<Waker>) -> Result<(), Barred> {
        if self.waiting.len() >= WAITING_MAX && !self.waiting.contains_key(&number) {
            return Err(Barred::Full);
        }
        self.waiting.insert(number, waker);
        Ok(())
    }

    fn come_back(&mut self, number: u64) {
        self.under_way -= 1;
        if self.held_by == Some(number) {
            self.held_by = None;
        }
    }

    /// Whoever waits longest may be able to go: it looks.
    fn wake_first(&mut self) {
        if let Some(waker) = self.waiting.first_entry().and_then(|mut first| first.get_mut().take()) {
            waker.wake();
        }
    }

    fn is_empty(&self) -> bool {
        self.under_way == 0 && self.waiting.is_empty()
    }
}

impl Table {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Gives memory back that only a burst needed.
    fn rest(&mut self) {
        if self.lanes.is_empty() && self.lanes.capacity() > 2 * LANES_KEPT {
            self.lanes.shrink_to(LANES_KEPT);
        }
    }
}

impl Lanes {
    /// A send to a queue; it has its place among the others once it asks to go.
    pub fn ticket(&self, topic: &str, queue: u32) -> Ticket<'_> {
        let mut hasher = DefaultHasher::new();
        (topic, queue).hash(&mut hasher);
        Ticket {
            lanes: self,
            key: hasher.finish(),
            number: 0,
            state: State::Outside,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Outside,
    Waiting {
        /// It was refused: it must not be stored behind a later one.
        refused: bool,
    },
    UnderWay {
        alone: bool,
    },
    Stored {
        alone: bool,
    },
}

/// One send in its lane; dropping it gives its place up.
#[derive(Debug)]
pub struct Ticket<'a> {
    lanes: &'a Lanes,
    key: u64,
    number: u64,
    state: State,
}

impl Ticket<'_> {
    /// Takes its place without going yet.
    pub fn take_place(&mut self) -> Result<(), Barred> {
        if self.state != State::Outside {
            return Ok(());
        }
        let mut table = self.lanes.table.lock();
        self.number = table.number();
        let waits = table.lanes.entry(self.key).or_default().wait(self.number, None);
        if waits.is_ok() {
            self.state = State::Waiting { refused: false };
        }
        waits
    }

    /// Whether it may go `way` now; `None` is a way of which little is known, which it goes alone. If it may it is under
    /// way from now on.
    pub fn go(&mut self, way: Option<Way<'_>>) -> bool {
        let mut table = self.lanes.table.lock();
        if self.state == State::Outside {
            let number = table.number();
            let lane = table.lanes.entry(self.key).or_default();
            if !lane.may_go(number, way) {
                // It takes its place when it waits.
                return false;
            }
            self.number = number;
            let alone = lane.go(number, way);
            self.state = State::UnderWay { alone };
            return true;
        }
        let Some(lane) = table.lanes.get_mut(&self.key) else {
            return false;
        };
        let may_go = self.overtaken(lane).is_none() && lane.may_go(self.number, way);
        if may_go {
            let alone = lane.go(self.number, way);
            self.state = State::UnderWay { alone };
        }
        may_go
    }

    /// [`Ticket::go`], woken when it is worth asking again.
    pub fn poll_go(&mut self, context: &Context<'_>, way: Option<Way<'_>>) -> Poll<Result<(), Barred>> {
        if let Err(barred) = self.take_place() {
            return Poll::Ready(Err(barred));
        }
        if self.go(way) {
            return Poll::Ready(Ok(()));
        }
        let mut table = self.lanes.table.lock();
        let lane = table.lanes.entry(self.key).or_default();
        if let Some(barred) = self.overtaken(lane) {
            return Poll::Ready(Err(barred));
        }
        lane.waiting.insert(self.number, Some(context.waker().clone()));
        Poll::Pending
    }

    fn overtaken(&self, lane: &Lane) -> Option<Barred> {
        let is_late = self.state == State::Waiting { refused: true } && lane.stored > Some(self.number);
        is_late.then_some(Barred::Overtaken)
    }

    /// Under way, and no other with it: it may take its time.
    pub fn is_alone(&self) -> bool {
        self.state == State::UnderWay { alone: true }
    }

    /// It could not be handed on at once: until [`Ticket::handed_on`] those behind it wait.
    pub fn hold(&mut self) {
        self.in_lane(|number, lane| lane.held_by = Some(number));
    }

    /// It is on its way.
    pub fn handed_on(&mut self) {
        self.in_lane(|_, lane| {
            lane.held_by = None;
            lane.wake_first();
        });
    }

    /// It will go again, `refused` if it is surely not stored. Until then those behind it wait.
    pub fn again(&mut self, refused: bool) {
        if !matches!(self.state, State::UnderWay { .. }) {
            return;
        }
        self.in_lane(|number, lane| {
            lane.come_back(number);
            lane.doubtful = true;
            lane.waiting.insert(number, None);
            lane.wake_first();
        });
        self.state = State::Waiting { refused };
    }

    /// It is stored.
    pub fn stored(mut self) {
        if let State::UnderWay { alone } = self.state {
            self.state = State::Stored { alone };
        }
    }

    fn in_lane(&mut self, change: impl FnOnce(u64, &mut Lane)) {
        if let Some(lane) = self.lanes.table.lock().lanes.get_mut(&self.key) {
            change(self.number, lane);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.state == State::Outside {
            return;
        }
        let mut table = self.lanes.table.lock();
        let Entry::Occupied(mut place) = table.lanes.entry(self.key) else {
            return;
        };
        let lane = place.get_mut();
        match self.state {
            State::Outside => {}
            State::Waiting { .. } => drop(lane.waiting.remove(&self.number)),
            State::UnderWay { .. } => lane.come_back(self.number),
            State::Stored { alone } => {
                lane.come_back(self.number);
                lane.stored = lane.stored.max(Some(self.number));
                lane.doubtful &= !alone;
            }
        }
        lane.wake_first();
        if lane.is_empty() {
            place.remove();
            table.rest();
        }
    }
}

#[cfg(test)]
#[path = "lanes_test.rs"]
mod tests;
