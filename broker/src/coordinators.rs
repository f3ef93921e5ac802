//! Where the members of a consumer group are known: in the Raft group that has the group's coordinator slot open.
//!
//! The leader of that Raft group says what is so now ([`at_leader`], after a read index). Any replica on this node says
//! what was so when it last applied something ([`here`], [`last_here`]): a replica whose Raft group handed the slot on
//! says where to, and the one there is asked in its place.

use flotilla_controller::coordinator_slots::{TOPIC, slot};

use crate::error::Failure;
use crate::machine::StateReader;
use crate::node::{Broker, Owned};
use crate::replica::Replica;
use crate::state::{ConsumerGroup, Refusal};

/// Looks at a consumer group at the leader, `None` without members.
pub fn at_leader<T>(
    replica: &Replica,
    consumer_group: &str,
    look: impl FnOnce(Option<&ConsumerGroup>) -> T,
) -> Result<T, Failure> {
    let found = replica.state.consumer_group(consumer_group, look);
    found.map_err(|refusal| not_here(consumer_group, refusal))
}

/// What is answered where the slot of a consumer group is not open.
pub fn not_here(consumer_group: &str, refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Moved(successor) => Failure::Moved(successor),
        // Its first assignment is not applied yet.
        _ => Failure::not_open(TOPIC, slot(consumer_group)),
    }
}

/// Has a replica on this node look at its state, one after the other until the slot is open there; `None` if there is
/// none that knows.
pub fn here<T>(broker: &Broker, consumer_group: &str, look: impl Fn(&Replica) -> Result<T, Refusal>) -> Option<T> {
    let owned = Owned::Members(consumer_group);
    loop {
        let replica = broker.replica_of(owned)?;
        match look(&replica) {
            Ok(found) => return Some(found),
            Err(Refusal::Moved(successor)) if broker.learn_moved(owned, successor) => {}
            Err(_) => return None,
        }
    }
}

/// Looks at a consumer group as a replica on this node knows it, also while its slot is on its way.
pub fn last_here<T>(broker: &Broker, consumer_group: &str, look: impl Fn(Option<&ConsumerGroup>) -> T) -> Option<T> {
    let last = |state: &StateReader| state.last_consumer_group(consumer_group, &look);
    here(broker, consumer_group, |replica| last(&replica.state))
}
