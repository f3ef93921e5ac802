//! Stored messages, batches, properties and message ids.

#![no_main]

use bytes::Bytes;
use flotilla_api::{batch, message, message_id, properties};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let bytes = Bytes::copy_from_slice(input);
    for record in message::records(&bytes) {
        let Ok(message) = record else { break };
        let _ = properties::keys(message.properties).count();
    }
    if let Ok(records) = batch::split(&bytes) {
        for record in records {
            let _ = properties::keys(record.properties()).count();
        }
    }
    let _ = message::peek_properties(input);
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = message_id::decode(text);
        let _ = properties::keys(text).count();
        let _ = properties::get(text, properties::UNIQUE_KEY);
    }
});
