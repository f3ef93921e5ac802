use super::*;
use pull::{PullMessageHeader, PullMessageResponse};
use send::{SendMessageHeader, SendMessageResponse};

/// The fields of a Java 5 send, from the protocol reference.
fn official_send() -> ExtFields {
    [
        ("a", "PG"),
        ("b", "T"),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "1"),
        ("f", "0"),
        ("g", "1"),
        ("h", "0"),
        ("i", "UNIQ_KEY\u{1}X\u{2}TAGS\u{1}A\u{2}"),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
        ("n", "broker-a"),
    ]
    .into_iter()
    .collect()
}

#[test]
fn send_v2_reads_and_writes_the_official_fields() {
    let fields = official_send();
    let header = SendMessageHeader::decode(&fields, true).expect("decodes");
    assert_eq!((header.producer_group, header.topic, header.queue), ("PG", "T", 1));
    assert_eq!((header.default_topic, header.default_topic_queues), ("TBW102", 4));
    assert_eq!(
        (header.born_timestamp, header.properties),
        (1, Some("UNIQ_KEY\u{1}X\u{2}TAGS\u{1}A\u{2}"))
    );
    assert_eq!(
        (header.max_reconsume_times, header.broker_name, header.is_batch()),
        (None, Some("broker-a"), false)
    );
    let mut written = ExtFields::new();
    header.encode(&mut written, true);
    assert_eq!(written, fields);
}

#[test]
fn send_v1_is_the_same_header_under_long_names() {
    let fields = official_send();
    let header = SendMessageHeader::decode(&fields, true).expect("decodes");
    let mut v1 = ExtFields::new();
    header.encode(&mut v1, false);
    assert_eq!(v1.get("producerGroup"), Some("PG"));
    assert_eq!(SendMessageHeader::decode(&v1, false), Ok(header));
    assert_eq!(
        SendMessageHeader::decode(&v1, true),
        Err(HeaderError::Missing("producerGroup"))
    );
}

#[test]
fn a_send_with_a_malformed_number_fails() {
    let mut fields = official_send();
    fields.set("e", "one");
    assert_eq!(
        SendMessageHeader::decode(&fields, true),
        Err(HeaderError::Malformed("e"))
    );
    fields.set("e", "1");
    fields.set("m", "TRUE");
    assert!(SendMessageHeader::decode(&fields, true).expect("decodes").is_batch());
}

#[test]
fn pull_of_a_java_5_consumer() {
    let fields: ExtFields = [
        ("queueId", "0"),
        ("maxMsgBytes", "262144"),
        ("maxMsgNums", "32"),
        ("sysFlag", "6"),
        ("commitOffset", "0"),
        ("subscription", "*"),
        ("suspendTimeoutMillis", "15000"),
        ("bname", "broker-a"),
        ("topic", "T"),
        ("queueOffset", "0"),
        ("expressionType", "TAG"),
        ("subVersion", "1"),
        ("consumerGroup", "CG"),
    ]
    .into_iter()
    .collect();
    let header = PullMessageHeader::decode(&fields).expect("decodes");
    assert_eq!(
        (header.consumer_group, header.topic, header.max_messages),
        ("CG", "T", 32)
    );
    assert_eq!(
        (header.max_message_bytes, header.suspend_timeout_millis),
        (Some(262_144), 15_000)
    );
    assert!(
        header.has(pull::SYS_SUSPEND) && header.has(pull::SYS_SUBSCRIPTION) && !header.has(pull::SYS_COMMIT_OFFSET)
    );
    let mut written = ExtFields::new();
    header.encode(&mut written);
    assert_eq!(PullMessageHeader::decode(&written), Ok(header));
}

#[test]
fn responses_carry_what_java_needs() {
    let mut fields = ExtFields::new();
    PullMessageResponse {
        suggest_which_broker_id: 0,
        next_begin_offset: 5,
        min_offset: 0,
        max_offset: 9,
        offset_delta: None,
        topic_sys_flag: None,
        group_sys_flag: None,
        forbidden_type: None,
    }
    .encode(&mut fields);
    let names: Vec<_> = fields.iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["suggestWhichBrokerId", "nextBeginOffset", "minOffset", "maxOffset"]
    );

    let mut fields = ExtFields::new();
    let sent = SendMessageResponse {
        message_id: "0A",
        queue: 1,
        queue_offset: 7,
        transaction_id: Some("U"),
        batch_unique_id: None,
        recall_handle: None,
        region: Some("DefaultRegion"),
        trace_on: Some(true),
    };
    sent.encode(&mut fields);
    assert_eq!(fields.get("TRACE_ON"), Some("true"));
    assert_eq!(SendMessageResponse::decode(&fields), Ok(sent));
}

#[test]
fn optional_numbers_that_do_not_parse_count_as_missing() {
    let fields: ExtFields = [
        ("topic", "T"),
        ("queueId", "1"),
        ("timestamp", "5"),
        ("boundaryType", "uPPer"),
    ]
    .into_iter()
    .collect();
    assert!(offset::SearchOffsetHeader::decode(&fields).expect("decodes").is_upper());
    let fields: ExtFields = [("topicSeq", "x"), ("maxTopicNum", "10")].into_iter().collect();
    let page = topic::TopicPageHeader::decode(&fields).expect("decodes");
    assert_eq!((page.topic_sequence, page.max_topics), (None, Some(10)));
    let nothing = ExtFields::new();
    let missing = route::RouteHeader::decode(&nothing);
    assert_eq!(missing, Err(HeaderError::Missing("topic")));
    assert_eq!(
        missing.expect_err("missing").to_string(),
        "the custom field <topic> is null"
    );
}
