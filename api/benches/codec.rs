//! What reading and writing one frame or message costs: `cargo bench -p flotilla-api`.

use std::hint::black_box;
use std::time::Instant;

use bytes::BytesMut;
use flotilla_api::message::{self, MessageParts};
use flotilla_api::remoting::frame::{HeaderEncoding, RemotingCommand, decode};
use flotilla_api::remoting::headers::send::{SendMessageHeader, SendMessageResponse};

const ROUNDS: u32 = 200_000;

fn measure(name: &str, mut step: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            step();
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
    }
    println!("{name:<40} {best:>8.0} ns");
}

fn send_request(encoding: HeaderEncoding) -> RemotingCommand {
    let mut command = RemotingCommand::request(310).with_body(vec![b'x'; 1024]);
    command.encoding = encoding;
    SendMessageHeader {
        producer_group: "please_rename_unique_group_name",
        topic: "BenchmarkTopic",
        default_topic: "TBW102",
        default_topic_queues: 4,
        queue: 3,
        born_timestamp: 1_700_000_000_000,
        properties: Some("UNIQ_KEY\u{1}7F00000100002A9F0000000000000400\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagA\u{2}"),
        reconsume_times: Some(0),
        unit_mode: Some(false),
        batch: Some(false),
        broker_name: Some("broker-a"),
        ..SendMessageHeader::default()
    }
    .encode(&mut command.fields, true);
    command
}

fn main() {
    for (name, encoding) in [("JSON", HeaderEncoding::Json), ("binary", HeaderEncoding::Binary)] {
        let mut frame = BytesMut::new();
        send_request(encoding).encode(&mut frame);
        // Many frames in one buffer, as a connection reads them.
        let mut buffer = BytesMut::new();
        measure(&format!("read send, {name} header"), || {
            if buffer.is_empty() {
                buffer = frame.repeat(64)[..].into();
            }
            black_box(decode(&mut buffer).expect("a frame").expect("whole"));
        });
        let command = send_request(encoding);
        measure(&format!("read fields of send, {name} header"), || {
            black_box(SendMessageHeader::decode(black_box(&command.fields), true).expect("fields"));
        });
        let mut out = BytesMut::new();
        measure(&format!("write send answer, {name} header"), || {
            let mut response = RemotingCommand::response(&command, 0);
            SendMessageResponse {
                message_id: "0A00000100002A9F0000000000000400",
                queue: 3,
                queue_offset: 123_456,
                transaction_id: Some("7F00000100002A9F0000000000000400"),
                batch_unique_id: None,
                recall_handle: None,
                region: Some("DefaultRegion"),
                trace_on: Some(true),
            }
            .encode(&mut response.fields);
            out.clear();
            response.encode(&mut out);
            black_box(&out);
        });
    }
    let parts = MessageParts {
        topic: "BenchmarkTopic",
        queue: 3,
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: std::net::SocketAddrV4::new([10, 0, 0, 1].into(), 1),
        store_timestamp: 2,
        store_host: std::net::SocketAddrV4::new([10, 0, 0, 1].into(), 2),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: &[b'x'; 1024],
        properties: "UNIQ_KEY\u{1}7F00000100002A9F0000000000000400\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagA\u{2}",
        queue_offset: 0,
        position: 0,
    };
    let mut out = BytesMut::new();
    measure("write stored message of 1 KiB", || {
        out.clear();
        message::encode(black_box(&parts), &mut out).expect("within limits");
    });
    measure("read stored message in place", || {
        black_box(message::view(black_box(&out)).expect("a message"));
    });
}
