//! The door to time and tasks: every task, sleep and timeout of this crate goes through the Raft engine's runtime
//! trait, so that a whole group runs on virtual time in the simulator.

pub use openraft::AsyncRuntime;
pub use openraft_rt_tokio::TokioRuntime;
