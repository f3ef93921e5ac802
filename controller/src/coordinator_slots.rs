//! Coordinator slots: the members of a consumer group belong to one of 64 slots, and each slot is a queue of a topic of
//! the server's own, without messages. So a slot is placed, moved, drained and owned as any queue is.
//!
//! The topic is made along with the first Raft groups and stays for ever. To users it does not exist: nothing is sent to
//! it or read from it, no list shows it and no limit counts it ([`crate::metadata::Metadata::topic`]). Its moves are
//! shown, as they are what takes the members of consumer groups elsewhere.

use crate::topic::TopicConfig;

/// The topic's name. Clients may make no topic of this prefix.
pub const TOPIC: &str = "rmq_sys_coordinator_slots";

/// The topic's id: no other topic gets it.
pub const TOPIC_ID: u64 = 0;

/// Slots, fixed for ever.
pub const SLOTS: u32 = 64;

/// The slot of a consumer group.
pub fn slot(consumer_group: &str) -> u32 {
    (xxhash_rust::xxh3::xxh3_64(consumer_group.as_bytes()) % u64::from(SLOTS)) as u32
}

/// The topic's settings: nobody may write or read.
pub fn config() -> TopicConfig {
    TopicConfig {
        perm: 0,
        ..TopicConfig::new(TOPIC, SLOTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members recorded by one version are looked for by the next.
    #[test]
    fn the_slots_of_names_do_not_change() {
        let slots = ["", "CG", "orders", "%RETRY%x"].map(slot);
        assert_eq!(slots, [2, 48, 59, 47]);
    }
}
