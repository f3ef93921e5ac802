//! Frames of the controllers' log, and what other processes ask controllers.

#![no_main]

use flotilla_controller::protocol::Request;
use flotilla_controller::state::Command;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(command) = Command::decode(input) {
        assert_eq!(Command::decode(&command.encode()), Ok(command));
    }
    if let Ok(request) = serde_json::from_slice::<Request>(input) {
        let again = serde_json::to_vec(&request).expect("a request is written");
        assert_eq!(serde_json::from_slice::<Request>(&again).expect("and read"), request);
    }
});
