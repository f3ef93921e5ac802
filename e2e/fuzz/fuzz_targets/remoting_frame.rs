//! Any bytes on a client connection are frames or an error; what was read can be written and read again.

#![no_main]

use bytes::BytesMut;
use flotilla_api::remoting::frame::{HeaderEncoding, RemotingCommand, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut buffer = BytesMut::from(input);
    while let Ok(Some(command)) = decode(&mut buffer) {
        survives(&command);
    }
});

fn survives(command: &RemotingCommand) {
    let mut out = BytesMut::new();
    command.encode(&mut out);
    let read = decode(&mut out).expect("was written here").expect("is whole");
    assert!(out.is_empty(), "bytes are left");
    assert_eq!(read.opaque, command.opaque);
    assert_eq!(read.flag, command.flag);
    assert_eq!(read.body, command.body);
    assert_eq!(read.encoding, command.encoding);
    if command.encoding == HeaderEncoding::Json {
        assert_eq!(read, *command);
    }
}
