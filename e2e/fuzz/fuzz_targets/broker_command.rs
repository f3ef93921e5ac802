//! Frames of a Raft group's log. The state machine is compiled from the broker's source: the broker as a whole would
//! bring RocksDB with it, built once more for every sanitizer.

#![no_main]

use libfuzzer_sys::fuzz_target;
use state::{Append, Command};

// Only the decoders of it are used here; the crate's own lints read it as part of the broker.
#[allow(dead_code, unused_imports, missing_docs)]
#[path = "../../../broker/src/state/mod.rs"]
mod state;

fuzz_target!(|input: &[u8]| {
    if let Ok(append) = Append::parse(input) {
        assert!(append.message.len() <= input.len());
        let _ = append.keys();
    }
    if let Ok(command) = Command::decode(input) {
        assert_eq!(command.encode(), input, "read as something else than what was written");
    }
});
