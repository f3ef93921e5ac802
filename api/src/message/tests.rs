use super::*;
use proptest::prelude::*;

const OFFICIAL: &str = "0000007bdaa320a777d18982000000030000000000000000000000070000000000000400000000000000018bcfe56800\
    0a0000050000c3500000018bcfe568010a00000100002a9f0000000000000000000000000000000548656c6c6f09546f\
    7069635465737400124b455953016b310254414753015461674102";

fn official() -> Vec<u8> {
    (0..OFFICIAL.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&OFFICIAL[i..i + 2], 16).expect("hex"))
        .collect()
}

fn official_parts() -> MessageParts<'static> {
    MessageParts {
        topic: "TopicTest",
        queue: 3,
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1_700_000_000_000,
        born_host: "10.0.0.5:50000".parse().expect("an address"),
        store_timestamp: 1_700_000_000_001,
        store_host: "10.0.0.1:10911".parse().expect("an address"),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: b"Hello",
        properties: "KEYS\u{1}k1\u{2}TAGS\u{1}TagA\u{2}",
        queue_offset: 7,
        position: 1024,
    }
}

#[test]
fn bytes_of_the_official_server() {
    let mut out = BytesMut::new();
    encode(&official_parts(), &mut out).expect("within limits");
    assert_eq!(out[..], official()[..]);
    let read = decode(&out).expect("decodes");
    assert_eq!(
        (read.topic.as_str(), read.queue, read.queue_offset, read.position),
        ("TopicTest", 3, 7, 1024)
    );
    assert_eq!((read.body_crc, &read.body[..]), (0x77d1_8982, &b"Hello"[..]));
    assert_eq!((read.born_host.port(), read.store_host.port()), (50_000, 10_911));
}

#[test]
fn patched_fields_are_read_back_and_nothing_else_changes() {
    let mut bytes = official();
    patch::set_queue_offset(&mut bytes, 99).expect("whole");
    patch::set_position(&mut bytes, 1 << 60).expect("whole");
    patch::set_store_timestamp(&mut bytes, 5).expect("whole");
    patch::set_queue(&mut bytes, 8).expect("whole");
    patch::set_store_host(&mut bytes, "127.0.0.1:1".parse().expect("an address")).expect("whole");
    let mut expected = BytesMut::new();
    let parts = MessageParts {
        queue_offset: 99,
        position: 1 << 60,
        store_timestamp: 5,
        queue: 8,
        store_host: "127.0.0.1:1".parse().expect("an address"),
        ..official_parts()
    };
    encode(&parts, &mut expected).expect("within limits");
    assert_eq!(bytes[..], expected[..]);
    assert_eq!(
        patch::set_queue_offset(&mut bytes[..20], 1),
        Err(MessageError::Truncated)
    );
}

#[test]
fn peeks_agree_with_the_view() {
    let bytes = official();
    assert_eq!(peek_topic(&bytes), Ok("TopicTest"));
    assert_eq!(peek_queue(&bytes), Ok(3));
    assert_eq!(peek_properties(&bytes), Ok("KEYS\u{1}k1\u{2}TAGS\u{1}TagA\u{2}"));
    assert_eq!(peek::peek_size(&bytes), Ok(bytes.len()));
    assert_eq!(peek::peek_queue_offset(&bytes), Ok(7));
    assert_eq!(peek::peek_store_timestamp(&bytes), Ok(1_700_000_000_001));
}

#[test]
fn long_topics_take_the_second_form_and_limits_are_kept() {
    let topic = "t".repeat(200);
    let mut out = BytesMut::new();
    encode(
        &MessageParts {
            topic: &topic,
            ..official_parts()
        },
        &mut out,
    )
    .expect("within limits");
    assert_eq!(out[4..8], MAGIC_V2.to_be_bytes());
    assert_eq!(out.len(), encoded_len(&topic, 5, official_parts().properties));
    assert_eq!(decode(&out).expect("decodes").topic, topic);
    assert_eq!(peek_topic(&out), Ok(topic.as_str()));

    let long = "x".repeat(PROPERTIES_BYTES_MAX + 1);
    let before = out.len();
    for (parts, error) in [
        (
            MessageParts {
                properties: &long,
                ..official_parts()
            },
            MessageError::PropertiesTooLong,
        ),
        (
            MessageParts {
                topic: &long,
                ..official_parts()
            },
            MessageError::TopicTooLong,
        ),
        (
            MessageParts {
                body: &vec![0; MESSAGE_BYTES_MAX + 1],
                ..official_parts()
            },
            MessageError::BodyTooLarge,
        ),
    ] {
        assert_eq!(encode(&parts, &mut out), Err(error));
    }
    assert_eq!(out.len(), before);
}

#[test]
fn host_bits_of_a_client_do_not_change_the_layout() {
    let mut out = BytesMut::new();
    encode(
        &MessageParts {
            sys_flag: 0x3F,
            ..official_parts()
        },
        &mut out,
    )
    .expect("within limits");
    assert_eq!(decode(&out).expect("decodes").sys_flag, 0x0F);
}

#[test]
fn ipv6_hosts_are_read() {
    let bytes = official();
    let mut v6 = bytes.clone();
    v6.splice(68..68, [0; 12]);
    v6.splice(48..48, [0; 12]);
    let size = v6.len() as u32;
    v6[..4].copy_from_slice(&size.to_be_bytes());
    v6[39] |= 0x30;
    let read = decode(&v6).expect("decodes");
    assert!(read.born_host.is_ipv6() && read.store_host.is_ipv6());
    assert_eq!(
        (read.topic.as_str(), read.store_timestamp),
        ("TopicTest", 1_700_000_000_001)
    );
    assert_eq!(peek_topic(&v6), Ok("TopicTest"));
}

#[test]
fn a_body_of_several_records_ends_at_the_first_bad_one() {
    let one = official();
    let mut body = [one.clone(), one.clone(), one].concat();
    assert_eq!(records(&body).filter(Result::is_ok).count(), 3);
    let cut = body.len() - 1;
    body.truncate(cut);
    let read: Vec<_> = records(&body).collect();
    assert_eq!((read.len(), read[2]), (3, Err(MessageError::Truncated)));
}

proptest! {
    #[test]
    fn decode_of_encode(
        topic in "[a-zA-Z0-9_%-]{1,160}", body in prop::collection::vec(any::<u8>(), 0..300), properties in "\\PC{0,40}",
        queue in any::<u32>(), flag in any::<i32>(), queue_offset in any::<i64>(), position in any::<i64>(), times in any::<i64>(),
    ) {
        let parts = MessageParts {
            topic: &topic, body: &body, properties: &properties, queue, flag, queue_offset, position,
            store_timestamp: times, ..official_parts()
        };
        let mut out = BytesMut::new();
        encode(&parts, &mut out).expect("within limits");
        let read = view(&out).expect("decodes");
        prop_assert_eq!((read.topic, read.body, read.properties), (topic.as_str(), body.as_slice(), properties.as_str()));
        prop_assert_eq!((read.queue, read.flag, read.queue_offset), (queue, flag, queue_offset));
        prop_assert_eq!((read.position, read.store_timestamp, read.size), (position, times, out.len()));
        prop_assert_eq!(read.body_crc, body_crc(&body));
    }

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = records(&bytes).count();
        let _ = (peek_topic(&bytes), peek_properties(&bytes), peek_queue(&bytes));
    }
}
