//! The first bytes of a connection between processes. The handshake is compiled from the broker's source, which as a
//! whole would bring RocksDB with it.

#![no_main]

use futures_util::FutureExt;
use handshake::{Hello, Refusal};
use libfuzzer_sys::fuzz_target;

// Only the decoders of it are used here; the crate's own lints read it as part of the broker.
#[allow(dead_code, missing_docs)]
#[path = "../../../broker/src/peer/handshake.rs"]
mod handshake;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let received = Hello::receive(&mut rest).now_or_never().expect("all bytes are there");
    match received {
        Ok(Ok(hello)) => {
            // What was understood is what was sent.
            let mut sent = Vec::new();
            let mut answer = tokio::io::join(&[0_u8, 0][..], &mut sent);
            let welcome = hello.send(&mut answer).now_or_never().expect("all bytes are there");
            welcome.expect("welcome");
            assert_eq!(sent, input[..input.len() - rest.len()]);
        }
        Ok(Err(refusal)) => assert!(matches!(refusal, Refusal::Magic | Refusal::Version)),
        Err(_) => {}
    }
});
