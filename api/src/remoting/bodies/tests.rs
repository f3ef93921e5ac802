use super::*;
use proptest::prelude::*;

fn text(body: Bytes) -> String {
    String::from_utf8(body.to_vec()).expect("UTF-8")
}

fn queue() -> MessageQueue {
    MessageQueue {
        broker_name: "broker-a".into(),
        queue: 0,
        topic: "T".into(),
    }
}

const HEARTBEAT: &str = concat!(
    r#"{"clientID":"127.0.0.1@1234#5678","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","#,
    r#""consumeType":"CONSUME_PASSIVELY","groupName":"CG","messageModel":"CLUSTERING","subscriptionDataSet":[{"#,
    r#""classFilterMode":false,"codeSet":[2598919,2598920],"expressionType":"TAG","subString":"TagA||TagB","#,
    r#""subVersion":1700000000000,"tagsSet":["TagA","TagB"],"topic":"T"}],"unitMode":false}],"heartbeatFingerprint":0,"#,
    r#""producerDataSet":[{"groupName":"PG"}],"withoutSub":false}"#
);

#[test]
fn heartbeat_of_a_java_5_client() {
    let mut heartbeat = HeartbeatData::from_bytes(HEARTBEAT.as_bytes()).expect("reads");
    assert_eq!(heartbeat.client_id, "127.0.0.1@1234#5678");
    assert_eq!(heartbeat.producers[0].group_name, "PG");
    let consumer = &mut heartbeat.consumers[0];
    assert_eq!(
        (consumer.consume_type, consumer.message_model),
        (ConsumeType::Passively, MessageModel::Clustering)
    );
    assert_eq!(
        (
            consumer.subscriptions[0].topic.as_str(),
            consumer.subscriptions[0].sub_version
        ),
        ("T", 1_700_000_000_000)
    );
    assert!(
        consumer.subscriptions[0].code_set.is_empty(),
        "hashes of clients are not trusted"
    );
    consumer.subscriptions[0].code_set = vec![2_598_919, 2_598_920];
    assert_eq!(text(heartbeat.to_bytes()), HEARTBEAT);
}

#[test]
fn heartbeat_of_a_cpp_client() {
    let body = r#"{"clientID":"c","consumerDataSet":[{"consumeFromWhere":4,"consumeType":1,"groupName":"CG","messageModel":"0",
        "subscriptionDataSet":[{"codeSet":["0"],"subString":"*","subVersion":"1700000000000","topic":"T","tagsSet":null}]}]}"#;
    let heartbeat = HeartbeatData::from_bytes(body.as_bytes()).expect("reads");
    let consumer = &heartbeat.consumers[0];
    assert_eq!(
        (consumer.consume_from_where, consumer.message_model),
        (ConsumeFromWhere::FirstOffset, MessageModel::Broadcasting)
    );
    let subscription = &consumer.subscriptions[0];
    assert_eq!(
        (subscription.sub_version, subscription.is_tag()),
        (1_700_000_000_000, true)
    );
    assert!(heartbeat.producers.is_empty() && !heartbeat.without_subscriptions);
}

#[test]
fn heartbeat_of_a_go_client_and_odd_values() {
    let body = r#"{"clientID":"g","producerDataSet":[],"consumerDataSet":[{"groupName":"CG","consumeType":"SOMETHING_NEW","messageModel":null,
        "consumeFromWhere":77,"subscriptionDataSet":[{"topic":"T","codeSet":["2598919"],"subVersion":1700000000000000000,"expressionType":""}],
        "unitMode":"true"}],"unknown":{"a":1}}"#;
    let heartbeat = HeartbeatData::from_bytes(body.as_bytes()).expect("reads");
    let consumer = &heartbeat.consumers[0];
    assert_eq!(
        (consumer.consume_type, consumer.message_model, consumer.unit_mode),
        (ConsumeType::Passively, MessageModel::Clustering, true)
    );
    assert_eq!(consumer.consume_from_where, ConsumeFromWhere::LastOffset);
    assert_eq!(consumer.subscriptions[0].expression_type, "TAG");
    assert!(HeartbeatData::from_bytes(b"[1").is_err());
    assert_eq!(
        HeartbeatData::from_bytes(b"{\"consumerDataSet\":null}").expect("reads"),
        HeartbeatData::default()
    );
}

#[test]
fn locks() {
    let body = r#"{"clientId":"cid","consumerGroup":"CG","mqSet":[{"brokerName":"broker-a","queueId":0,"topic":"T"}],"onlyThisBroker":false}"#;
    let request = LockBatchRequest::from_bytes(body.as_bytes()).expect("reads");
    assert_eq!(
        (request.client_id.as_str(), &request.queues[..]),
        ("cid", &[queue()][..])
    );
    assert_eq!(text(request.to_bytes()), body);
    let response = LockBatchResponse { queues: vec![queue()] };
    assert_eq!(
        text(response.to_bytes()),
        r#"{"lockOKMQSet":[{"brokerName":"broker-a","queueId":0,"topic":"T"}]}"#
    );
}

#[test]
fn route_of_the_official_name_server() {
    let body = concat!(
        r#"{"brokerDatas":[{"brokerAddrs":{"0":"127.0.0.1:10911","1":"127.0.0.1:10921"},"brokerName":"broker-a","cluster":"DefaultCluster","#,
        r#""enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6,"readQueueNums":8,"#,
        r#""topicSysFlag":0,"writeQueueNums":8}]}"#
    );
    let route = TopicRouteData::from_bytes(body.as_bytes()).expect("reads");
    assert_eq!(route.brokers[0].addresses[&1], "127.0.0.1:10921");
    assert_eq!(text(route.to_bytes()), body);

    let all = concat!(
        r#"{"brokerDatas":[{"brokerAddrs":{"0":"127.0.0.1:10911"},"brokerName":"broker-a","cluster":"C","enableActingMaster":false,"zoneName":"z1"}],"#,
        r#""filterServerTable":{},"orderTopicConf":"broker-a:8;broker-b:8","queueDatas":[],"topicQueueMappingByBroker":{"broker-a":{"bname":"broker-a","#,
        r#""currIdMap":{"0":0},"dirty":false,"epoch":1234,"scope":"__global__","topic":"T","totalQueues":4}}}"#
    );
    let route = TopicRouteData::from_bytes(all.as_bytes()).expect("reads");
    assert_eq!(route.order_topic_conf.as_deref(), Some("broker-a:8;broker-b:8"));
    assert_eq!(route.brokers[0].zone_name.as_deref(), Some("z1"));
}

#[test]
fn cluster_with_quoted_keys() {
    let body = concat!(
        r#"{"brokerAddrTable":{"broker-a":{"brokerAddrs":{"0":"127.0.0.1:10911"},"brokerName":"broker-a","cluster":"DefaultCluster","#,
        r#""enableActingMaster":false}},"clusterAddrTable":{"DefaultCluster":["broker-a"]}}"#
    );
    assert_eq!(
        text(ClusterInfo::from_bytes(body.as_bytes()).expect("reads").to_bytes()),
        body
    );
}

#[test]
fn topic_and_group_configurations() {
    let topic = concat!(
        r#"{"attributes":{"message.type":"FIFO"},"order":false,"perm":6,"readQueueNums":8,"topicFilterType":"SINGLE_TAG","#,
        r#""topicName":"T","topicSysFlag":0,"writeQueueNums":8}"#
    );
    assert_eq!(
        text(TopicConfig::from_bytes(topic.as_bytes()).expect("reads").to_bytes()),
        topic
    );
    let group = concat!(
        r#"{"attributes":{},"brokerId":0,"consumeBroadcastEnable":true,"consumeEnable":true,"consumeFromMinEnable":true,"#,
        r#""consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"CG","groupRetryPolicy":{"type":"CUSTOMIZED"},"#,
        r#""groupSysFlag":0,"notifyConsumerIdsChangedEnable":true,"retryMaxTimes":16,"retryQueueNums":1,"whichBrokerWhenConsumeSlowly":1}"#
    );
    assert_eq!(
        text(
            SubscriptionGroupConfig::from_bytes(group.as_bytes())
                .expect("reads")
                .to_bytes()
        ),
        group
    );
    let defaults = SubscriptionGroupConfig {
        group_name: "CG".into(),
        ..SubscriptionGroupConfig::default()
    };
    assert_eq!(text(defaults.to_bytes()), group);

    let table = TopicConfigTable {
        data_version: DataVersion {
            counter: 0,
            state_version: 0,
            timestamp: 1_700_000_000_000,
        },
        topics: [(
            "T".to_owned(),
            TopicConfig::from_bytes(topic.as_bytes()).expect("reads"),
        )]
        .into(),
        ..TopicConfigTable::default()
    };
    let expected = format!(
        "{{\"dataVersion\":{{\"counter\":0,\"stateVersion\":0,\"timestamp\":1700000000000}},\"mappingDataVersion\":{{\"counter\":0,\
         \"stateVersion\":0,\"timestamp\":0}},\"topicConfigTable\":{{\"T\":{topic}}},\"topicQueueMappingDetailMap\":{{}},\
         \"topicQueueMappingInfoMap\":{{}}}}"
    );
    assert_eq!(text(table.to_bytes()), expected);
    assert_eq!(
        text(SubscriptionGroupTable::default().to_bytes()),
        r#"{"dataVersion":{"counter":0,"stateVersion":0,"timestamp":0},"forbiddenTable":{},"subscriptionGroupTable":{}}"#
    );
}

#[test]
fn tables_by_queue_are_written_in_the_dialect() {
    let reset = ResetOffsets {
        offsets: vec![(queue(), 5)],
    };
    assert_eq!(
        text(reset.to_bytes()),
        r#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:5}}"#
    );
    assert_eq!(
        text(reset.to_cpp_bytes()),
        r#"{"offsetTable":[{"brokerName":"broker-a","offset":5,"queueId":0,"topic":"T"}]}"#
    );
    let stats = TopicStatsTable {
        offsets: vec![(
            queue(),
            TopicOffset {
                last_update_timestamp: 1_700_000_000_000,
                max_offset: 10,
                min_offset: 0,
            },
        )],
        topic_put_tps: 0.0,
    };
    assert_eq!(
        text(stats.to_bytes()),
        r#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:{"lastUpdateTimestamp":1700000000000,"maxOffset":10,"minOffset":0}},"topicPutTps":0.0}"#
    );
    let consumed = ConsumeStats {
        consume_tps: 0.0,
        offsets: vec![(
            queue(),
            OffsetWrapper {
                broker_offset: 10,
                consumer_offset: 5,
                last_timestamp: 0,
                pull_offset: 0,
            },
        )],
    };
    assert_eq!(
        text(consumed.to_bytes()),
        r#"{"consumeTps":0.0,"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:{"brokerOffset":10,"consumerOffset":5,"lastTimestamp":0,"pullOffset":0}}}"#
    );
}

#[test]
fn connections_and_small_tables() {
    let connection = Connection {
        client_addr: "127.0.0.1:5000".into(),
        client_id: "cid".into(),
        language: "JAVA".into(),
        version: 479,
    };
    let consumers = ConsumerConnection {
        connections: vec![connection],
        ..ConsumerConnection::default()
    };
    assert_eq!(
        text(consumers.to_bytes()),
        concat!(
            r#"{"connectionSet":[{"clientAddr":"127.0.0.1:5000","clientId":"cid","language":"JAVA","version":479}],"#,
            r#""consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","subscriptionTable":{}}"#
        )
    );
    let topics = TopicList {
        broker_address: None,
        topics: vec!["T".into()],
    };
    assert_eq!(text(topics.to_bytes()), r#"{"topicList":["T"]}"#);
    let ids = ConsumerList {
        client_ids: vec!["id1".into()],
    };
    assert_eq!(text(ids.to_bytes()), r#"{"consumerIdList":["id1"]}"#);
    assert_eq!(
        text(
            KvTable {
                table: [("k".into(), "v".into())].into()
            }
            .to_bytes()
        ),
        r#"{"table":{"k":"v"}}"#
    );
    assert_eq!(
        text(BrokerStats::default().to_bytes()),
        r#"{"statsDay":{"avgpt":0.0,"sum":0,"tps":0.0},"statsHour":{"avgpt":0.0,"sum":0,"tps":0.0},"statsMinute":{"avgpt":0.0,"sum":0,"tps":0.0}}"#
    );
    let producer = ProducerInfo {
        client_id: "cid".into(),
        language: "JAVA".into(),
        last_update_timestamp: 1,
        remote_ip: "127.0.0.1".into(),
        version: 479,
    };
    assert_eq!(
        text(
            ProducerTable {
                data: [("PG".into(), vec![producer])].into()
            }
            .to_bytes()
        ),
        r#"{"data":{"PG":[{"clientId":"cid","language":"JAVA","lastUpdateTimestamp":1,"remoteIP":"127.0.0.1","version":479}]}}"#
    );
}

proptest! {
    #[test]
    fn any_change_of_a_heartbeat_is_read(changes in prop::collection::vec((0..HEARTBEAT.len(), any::<u8>()), 1..4)) {
        let mut body = HEARTBEAT.as_bytes().to_vec();
        for (at, byte) in changes {
            body[at] = byte;
        }
        let _ = HeartbeatData::from_bytes(&body);
    }
}
