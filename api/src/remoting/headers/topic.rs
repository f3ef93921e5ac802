//! Topics: requests 17, 21, 202, 215, 300, 351.

use super::header;

header! {
    /// Request 17.
    CreateTopicHeader<'a> {
        /// Topic.
        topic: &'a str = "topic",
        /// Template; unused.
        default_topic: Option<&'a str> = "defaultTopic",
        /// Queues to read from.
        read_queues: i32 = "readQueueNums",
        /// Queues to write to.
        write_queues: i32 = "writeQueueNums",
        /// Permission bits.
        perm: i32 = "perm",
        /// `SINGLE_TAG` or `MULTI_TAG`.
        topic_filter_type: Option<&'a str> = "topicFilterType",
        /// Unit bits; missing from C++.
        topic_sys_flag: Option<i32> = "topicSysFlag",
        /// Order topic; missing from C++.
        order: Option<bool> = "order",
        /// Changes of attributes: `+key=value,-key`.
        attributes: Option<&'a str> = "attributes",
        /// Whether to overwrite a static topic.
        force: Option<bool> = "force",
    }
}

header! {
    /// Requests 202, 215, 300 and 351.
    TopicHeader<'a> {
        /// Topic.
        topic: &'a str = "topic",
    }
}

header! {
    /// Request 21.
    TopicPageHeader<'a> {
        /// First topic wanted, counted in a stable order.
        topic_sequence: Option<i32> = "topicSeq",
        /// Version of the page before.
        data_version: Option<&'a str> = "dataVersion",
        /// Most topics wanted.
        max_topics: Option<i32> = "maxTopicNum",
    }
}

header! {
    /// The answer to 21.
    TopicPageResponse {
        /// How many topics there are.
        total_topics: Option<i32> = "totalTopicNum",
    }
}
