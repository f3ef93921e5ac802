//! Consumers and their groups: requests 34, 35, 38, 40, 203, 204, 208, 220, 222, 223, 300, 307, 309, 343.

use super::header;

header! {
    /// The answer to 34.
    HeartbeatResponse {
        /// Whether short heartbeats may be sent.
        supports_heartbeat_v2: Option<bool> = "IS_SUPPORT_HEART_BEAT_V2",
        /// Whether the subscription changed.
        subscription_changed: Option<bool> = "IS_SUB_CHANGE",
    }
}

header! {
    /// Request 35.
    UnregisterClientHeader<'a> {
        /// Client id.
        client_id: &'a str = "clientID",
        /// Producer group to leave; empty counts as none.
        producer_group: Option<&'a str> = "producerGroup",
        /// Consumer group to leave; empty counts as none.
        consumer_group: Option<&'a str> = "consumerGroup",
    }
}

header! {
    /// Requests 38, 40 and 203.
    ConsumerGroupHeader<'a> {
        /// Consumer group.
        consumer_group: &'a str = "consumerGroup",
    }
}

header! {
    /// Request 204.
    ProducerGroupHeader<'a> {
        /// Producer group.
        producer_group: &'a str = "producerGroup",
    }
}

header! {
    /// Request 208.
    ConsumeStatsHeader<'a> {
        /// Consumer group.
        consumer_group: &'a str = "consumerGroup",
        /// One topic.
        topic: Option<&'a str> = "topic",
        /// Several topics, joined with `;`.
        topic_list: Option<&'a str> = "topicList",
    }
}

header! {
    /// Requests 220 and 222.
    ResetOffsetHeader<'a> {
        /// Topic.
        topic: &'a str = "topic",
        /// Consumer group.
        consumer_group: &'a str = "group",
        /// Store time to go to; -1: the end.
        timestamp: i64 = "timestamp",
        /// Whether forwards, too.
        force: bool = "isForce",
        /// One queue, or -1.
        queue: Option<i32> = "queueId",
        /// Exact offset, or -1.
        offset: Option<i64> = "offset",
    }
}

header! {
    /// Requests 221 and 223.
    ConsumerStatusHeader<'a> {
        /// Topic.
        topic: &'a str = "topic",
        /// Consumer group.
        consumer_group: &'a str = "group",
        /// One client id, or all.
        client: Option<&'a str> = "clientAddr",
    }
}

header! {
    /// Request 307.
    RunningInfoHeader<'a> {
        /// Consumer group.
        consumer_group: &'a str = "consumerGroup",
        /// Client id.
        client_id: &'a str = "clientId",
        /// Whether stacks are wanted.
        stacks: Option<bool> = "jstackEnable",
    }
}

header! {
    /// Request 309.
    ConsumeDirectlyHeader<'a> {
        /// Consumer group.
        consumer_group: &'a str = "consumerGroup",
        /// Client id.
        client_id: Option<&'a str> = "clientId",
        /// Offset message id.
        message_id: Option<&'a str> = "msgId",
        /// Broker name.
        broker_name: Option<&'a str> = "brokerName",
        /// Topic.
        topic: Option<&'a str> = "topic",
    }
}

header! {
    /// Requests 343, 345 and 352.
    GroupHeader<'a> {
        /// Consumer group.
        consumer_group: &'a str = "group",
        /// Request 345 only.
        topic: Option<&'a str> = "topic",
    }
}
