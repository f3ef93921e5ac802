//! No bytes from a network or a disk make a reader panic.
//!
//! Each reader gets 100,000 inputs: valid ones in which a few bytes were changed, cut out or put in. The seed is fixed; a
//! failure names the round, which makes it again.

use std::net::SocketAddrV4;

use bytes::{Bytes, BytesMut};
use flotilla_api::batch;
use flotilla_api::message::{self, MessageParts};
use flotilla_api::message_id;
use flotilla_api::properties;
use flotilla_api::remoting::bodies::{HeartbeatData, LockBatchRequest, TopicConfig, TopicRouteData};
use flotilla_api::remoting::frame::{HeaderEncoding, RemotingCommand, decode};
use flotilla_api::remoting::headers::pull::PullMessageHeader;
use flotilla_api::remoting::headers::send::SendMessageHeader;

const ROUNDS: u64 = 100_000;
const BODY_BYTES: usize = 4;

/// A small generator: the same inputs in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Bytes that mean something to one of the formats are put in more often than others.
const TELLING: &[u8] = b"\0\x01\x02\xff\x7f\x80{}[]\",:\\unt0-";

fn mutate(valid: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => bytes.insert(at, TELLING[random.below(TELLING.len())]),
            3 if at < bytes.len() => bytes[at] = TELLING[random.below(TELLING.len())],
            4 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            _ if at < bytes.len() => bytes[at] = random.next() as u8,
            _ => {}
        }
    }
    bytes
}

fn try_all(valid: &[Vec<u8>], read: impl Fn(&[u8])) {
    for input in valid {
        read(input);
    }
    let mut random = Random(20_240_229);
    for round in 0..ROUNDS {
        let input = mutate(&valid[random.below(valid.len())], &mut random);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&input)));
        assert!(outcome.is_ok(), "round {round}: {input:02x?}");
    }
}

fn send_request(encoding: HeaderEncoding, v2: bool) -> RemotingCommand {
    let mut command = RemotingCommand::request(if v2 { 310 } else { 10 })
        .with_body(&b"body"[..])
        .with_remark("é\n");
    command.encoding = encoding;
    SendMessageHeader {
        producer_group: "PG",
        topic: "Töpic",
        default_topic: "TBW102",
        properties: Some("UNIQ_KEY\u{1}X\u{2}TAGS\u{1}A\u{2}"),
        batch: Some(false),
        ..SendMessageHeader::default()
    }
    .encode(&mut command.fields, v2);
    command
}

fn frames() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
        for v2 in [true, false] {
            let mut out = BytesMut::new();
            send_request(encoding, v2).encode(&mut out);
            all.push(out.to_vec());
        }
    }
    all
}

#[test]
fn frames_and_headers() {
    try_all(&frames(), |input| {
        let mut buffer = BytesMut::from(input);
        while let Ok(Some(command)) = decode(&mut buffer) {
            let _ = SendMessageHeader::decode(&command.fields, true);
            let _ = SendMessageHeader::decode(&command.fields, false);
            let _ = PullMessageHeader::decode(&command.fields);
            // What was read can be written and read again.
            let mut again = BytesMut::new();
            command.encode(&mut again);
            let read = decode(&mut again).expect("was written here").expect("is whole");
            assert_eq!(
                (read.opaque, read.flag, read.body),
                (command.opaque, command.flag, command.body)
            );
        }
    });
}

/// The lengths that frame a header hide most of it from random changes; here they are made to fit again.
#[test]
fn headers_in_a_whole_frame() {
    try_all(&frames(), |input| {
        let Some((lengths, header)) = input.split_at_checked(8) else {
            return;
        };
        let header = &header[..header.len().saturating_sub(BODY_BYTES)];
        let mut frame = BytesMut::from(&(4 + header.len() as u32).to_be_bytes()[..]);
        frame.extend_from_slice(&(u32::from(lengths[4] & 1) << 24 | header.len() as u32).to_be_bytes());
        frame.extend_from_slice(header);
        let _ = decode(&mut frame);
    });
}

#[test]
fn stored_messages() {
    let host: SocketAddrV4 = "10.0.0.1:10911".parse().expect("an address");
    let mut valid = Vec::new();
    for topic in ["T".to_owned(), "t".repeat(200)] {
        let parts = MessageParts {
            topic: &topic,
            queue: 1,
            flag: 0,
            sys_flag: 0,
            born_timestamp: 1,
            born_host: host,
            store_timestamp: 2,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"body",
            properties: "TAGS\u{1}A\u{2}",
            queue_offset: 3,
            position: 4,
        };
        let mut out = BytesMut::new();
        message::encode(&parts, &mut out).expect("within limits");
        message::encode(&parts, &mut out).expect("within limits");
        valid.push(out.to_vec());
    }
    try_all(&valid, |input| {
        for read in message::records(input) {
            let _ = read.map(|message| (message.to_owned(), properties::decode(message.properties)));
        }
        let _ = (
            message::peek_topic(input),
            message::peek_queue(input),
            message::peek_properties(input),
        );
        let mut bytes = input.to_vec();
        let _ = message::patch::set_queue_offset(&mut bytes, 1);
        let _ = message::patch::set_position(&mut bytes, 1);
        let _ = message::patch::set_store_timestamp(&mut bytes, 1);
        let _ = message::patch::set_store_host(&mut bytes, host);
    });
}

#[test]
fn batches() {
    let mut out = BytesMut::new();
    for _ in 0..3 {
        batch::append(&mut out, 1, b"body", "UNIQ_KEY\u{1}é\u{2}").expect("within limits");
    }
    try_all(&[out.to_vec()], |input| {
        if let Ok(records) = batch::split(&Bytes::copy_from_slice(input)) {
            assert!(
                records
                    .iter()
                    .map(|r| r.body.len() + r.properties().len() + 22)
                    .sum::<usize>()
                    == input.len()
            );
        }
    });
}

#[test]
fn properties_and_ids() {
    let text = "KEYS\u{1}a b\u{2}TAGS\u{1}é\u{2}UNIQ_KEY\u{1}0A00000100002A9F0000000000000400\u{2}";
    let id = "0A00000100002A9F0000000000000400";
    try_all(&[text.into(), id.into()], |input| {
        let text = String::from_utf8_lossy(input);
        let _ = (
            properties::decode(&text),
            properties::keys(&text).count(),
            properties::without(&text, "TAGS"),
        );
        let mut more = text.to_string();
        properties::append(&mut more, "A", "1");
        assert_eq!(properties::get(&more, "A"), Some("1"));
        let _ = message_id::decode(&text);
    });
}

#[test]
fn bodies() {
    let heartbeat = r#"{"clientID":"c@1","consumerDataSet":[{"consumeFromWhere":4,"consumeType":"CONSUME_PASSIVELY","groupName":"CG",
        "messageModel":"0","subscriptionDataSet":[{"codeSet":["0"],"subString":"A||B","subVersion":"17","topic":"T","tagsSet":null}]}],
        "producerDataSet":[{"groupName":"PG"}],"withoutSub":false}"#;
    let lock = r#"{"clientId":"c","consumerGroup":"CG","mqSet":[{"brokerName":"b","queueId":0,"topic":"T"}],"onlyThisBroker":false}"#;
    let route =
        r#"{"brokerDatas":[{"brokerAddrs":{"0":"a:1"},"brokerName":"b"}],"queueDatas":[{"brokerName":"b","perm":6}]}"#;
    try_all(&[heartbeat.into(), lock.into(), route.into()], |input| {
        let _ = HeartbeatData::from_bytes(input);
        let _ = LockBatchRequest::from_bytes(input);
        let _ = TopicRouteData::from_bytes(input);
        let _ = TopicConfig::from_bytes(input);
    });
}
