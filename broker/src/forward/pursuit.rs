//! What a failed try teaches, and when the next one comes: the one rule for everything that may have gone elsewhere.
//!
//! *Moved*: the asker notes where the queue went and tries again at once, if that is another Raft group than the one it
//! asked; what is said not to be here by whom the asker still takes for the owner is about to catch up. *Surely not done*:
//! again after a pause, or as soon as another leader is known. *Uncertain*: likewise, if it may be done twice or will be
//! recognised. All of it until the deadline.

use std::time::Duration;

use flotilla_raft_store::leadership::Leadership;
use tokio::time::{Instant, timeout};

use crate::error::Failure;
use crate::node::{Broker, Owned};

/// First and longest pause before a request is tried again.
pub const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// One request on its way to whoever can serve it.
#[derive(Debug)]
pub struct Pursuit {
    deadline: Instant,
    pause: Duration,
}

/// When to try again.
#[derive(Debug)]
pub enum Again {
    /// It is known where.
    AtOnce,
    /// When something else is known of the leader of this Raft group, or after a pause.
    Later(u16, Leadership),
}

impl Pursuit {
    /// One that ends then.
    pub fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            pause: PAUSE_MIN,
        }
    }

    /// When to ask again after the owner `group` was asked in vain; `None` if not. `harmless`: it may be done twice, or
    /// will be recognised.
    pub fn learn(
        &self,
        broker: &Broker,
        owned: Owned<'_>,
        (group, seen): (u16, &Leadership),
        failure: &Failure,
        harmless: bool,
    ) -> Option<Again> {
        let may_repeat = match (failure, owned) {
            // Who asked for this Raft group in particular has to look elsewhere itself.
            (Failure::Moved(_), Owned::Group(_)) => false,
            (Failure::Unknown(_), _) => harmless,
            _ => failure.surely_not_done(),
        };
        let left = self.deadline.saturating_duration_since(Instant::now());
        if !may_repeat || left.is_zero() {
            return None;
        }
        if let Failure::Moved(segment) = failure {
            broker.learn_moved(owned, *segment);
            if broker.owner(owned) != Some(group) {
                return Some(Again::AtOnce);
            }
        }
        (left > self.pause).then(|| Again::Later(group, seen.clone()))
    }

    /// Waits until then.
    pub async fn wait(&mut self, broker: &Broker, again: Again) {
        let Again::Later(group, seen) = again else { return };
        let _ = timeout(self.pause, broker.leadership_changed(group, &seen)).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}
