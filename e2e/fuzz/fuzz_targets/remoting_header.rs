//! Any header in a frame whose lengths fit, and the typed headers and bodies read from it.

#![no_main]

use bytes::{BufMut, BytesMut};
use flotilla_api::remoting::bodies::{HeartbeatData, LockBatchRequest, TopicConfig};
use flotilla_api::remoting::frame::decode;
use flotilla_api::remoting::headers::offset::UpdateConsumerOffsetHeader;
use flotilla_api::remoting::headers::pull::PullMessageHeader;
use flotilla_api::remoting::headers::query::{QueryMessageHeader, ViewMessageHeader};
use flotilla_api::remoting::headers::send::SendMessageHeader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, &[u8], &[u8])| {
    let (binary, header, body) = input;
    let mut frame = BytesMut::new();
    frame.put_u32((4 + header.len() + body.len()) as u32);
    frame.put_u32(u32::from(binary) << 24 | header.len() as u32);
    frame.put_slice(header);
    frame.put_slice(body);
    if let Ok(Some(command)) = decode(&mut frame) {
        let fields = &command.fields;
        let _ = SendMessageHeader::decode(fields, true);
        let _ = SendMessageHeader::decode(fields, false);
        let _ = PullMessageHeader::decode(fields);
        let _ = UpdateConsumerOffsetHeader::decode(fields);
        let _ = QueryMessageHeader::decode(fields);
        let _ = ViewMessageHeader::decode(fields);
    }
    let _ = HeartbeatData::from_bytes(body);
    let _ = LockBatchRequest::from_bytes(body);
    let _ = TopicConfig::from_bytes(body);
});
