//! Whole groups on one thread with virtual time: the real replica, log, codec and accumulator of `raft-store` over a
//! simulated disk and network, all randomness from one seed.
//!
//! [`network`] carries frames with delay and cuts them, [`machine`] is a small state machine whose store flushes when
//! it likes, [`cluster`] starts, kills and restarts replicas, [`trial`] runs one seed and checks what must hold.

pub mod cluster;
pub mod machine;
pub mod network;
pub mod random;
pub mod trial;
