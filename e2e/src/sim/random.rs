//! The simulator's only source of chance: the simulated disk's generator, shared, one stream for each purpose.

use std::sync::Arc;

use flotilla_raft_store::disk::simulated;
use parking_lot::Mutex;

/// A stream of numbers that a seed determines. Clones share the stream.
#[derive(Clone, Debug)]
pub struct Random(Arc<Mutex<simulated::Random>>);

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        let generator = simulated::Random::new(seed ^ 0x9e37_79b9_7f4a_7c15);
        Self(Arc::new(Mutex::new(generator)))
    }

    /// Another stream, independent of what this one hands out later.
    pub fn fork(&self) -> Self {
        Self::new(self.next())
    }

    /// Any number.
    pub fn next(&self) -> u64 {
        self.0.lock().draw()
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `n`.
    pub fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }
}
