//! Pulling: requests 11 and 361 and their response.

use super::header;

/// sysFlag: store `commit_offset` for the consumer group.
pub const SYS_COMMIT_OFFSET: i32 = 0x1;
/// sysFlag: hold the request when there is no message.
pub const SYS_SUSPEND: i32 = 0x2;
/// sysFlag: the filter is in this request.
pub const SYS_SUBSCRIPTION: i32 = 0x4;
/// sysFlag: class filter, no longer supported by anyone.
pub const SYS_CLASS_FILTER: i32 = 0x8;
/// sysFlag: lite pull.
pub const SYS_LITE_PULL: i32 = 0x10;

header! {
    /// What a pull asks for.
    PullMessageHeader<'a> {
        /// Consumer group.
        consumer_group: &'a str = "consumerGroup",
        /// Topic.
        topic: &'a str = "topic",
        /// Queue number.
        queue: i32 = "queueId",
        /// First queue offset wanted.
        queue_offset: i64 = "queueOffset",
        /// Most messages wanted.
        max_messages: i32 = "maxMsgNums",
        /// Bits above.
        sys_flag: i32 = "sysFlag",
        /// Consumer offset to store, with the bit.
        commit_offset: i64 = "commitOffset",
        /// How long to hold the request.
        suspend_timeout_millis: i64 = "suspendTimeoutMillis",
        /// Filter expression, with the bit.
        subscription: Option<&'a str> = "subscription",
        /// Version of the client's subscription.
        subscription_version: i64 = "subVersion",
        /// `TAG` (also when missing) or `SQL92`.
        expression_type: Option<&'a str> = "expressionType",
        /// Most bytes wanted.
        max_message_bytes: Option<i32> = "maxMsgBytes",
        /// Who asks: nothing or -1 for clients.
        request_source: Option<i32> = "requestSource",
    }
}

impl PullMessageHeader<'_> {
    /// Whether a bit is set.
    pub fn has(&self, sys_flag_bit: i32) -> bool {
        self.sys_flag & sys_flag_bit != 0
    }
}

header! {
    /// The answer; Java clients need the first four with codes 0, 19, 20 and 21.
    PullMessageResponse {
        /// Broker id to pull from next time; 0 is the one asked.
        suggest_which_broker_id: i64 = "suggestWhichBrokerId",
        /// Where to go on.
        next_begin_offset: i64 = "nextBeginOffset",
        /// First queue offset there is.
        min_offset: i64 = "minOffset",
        /// Queue offset after the last one.
        max_offset: i64 = "maxOffset",
        /// Added to queue offsets by the client; static topics only.
        offset_delta: Option<i64> = "offsetDelta",
        /// Unit bits of the topic.
        topic_sys_flag: Option<i32> = "topicSysFlag",
        /// Unit bits of the group.
        group_sys_flag: Option<i32> = "groupSysFlag",
        /// Why code 16 was answered.
        forbidden_type: Option<i32> = "forbiddenType",
    }
}
