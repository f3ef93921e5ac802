//! Offsets of consumers and of queues: requests 14, 15, 29, 30, 31, 32.

use super::header;

header! {
    /// Request 14.
    QueryConsumerOffsetHeader<'a> {
        /// Consumer group.
        consumer_group: &'a str = "consumerGroup",
        /// Topic.
        topic: &'a str = "topic",
        /// Queue number.
        queue: i32 = "queueId",
        /// Whether a young queue counts as offset 0.
        set_zero_if_not_found: Option<bool> = "setZeroIfNotFound",
    }
}

header! {
    /// Request 15.
    UpdateConsumerOffsetHeader<'a> {
        /// Consumer group.
        consumer_group: &'a str = "consumerGroup",
        /// Topic.
        topic: &'a str = "topic",
        /// Queue number.
        queue: i32 = "queueId",
        /// Next queue offset the group will read.
        commit_offset: i64 = "commitOffset",
    }
}

header! {
    /// Request 29.
    SearchOffsetHeader<'a> {
        /// Topic.
        topic: &'a str = "topic",
        /// Queue number.
        queue: i32 = "queueId",
        /// Store time looked for.
        timestamp: i64 = "timestamp",
        /// `LOWER`, `UPPER` or nothing; see [`SearchOffsetHeader::is_upper`].
        boundary: Option<&'a str> = "boundaryType",
    }
}

impl SearchOffsetHeader<'_> {
    /// Whether the last message at or before the time is meant, instead of the first at or after it.
    pub fn is_upper(&self) -> bool {
        self.boundary.is_some_and(|text| text.eq_ignore_ascii_case("upper"))
    }
}

header! {
    /// Requests 30, 31 and 32.
    QueueHeader<'a> {
        /// Topic.
        topic: &'a str = "topic",
        /// Queue number.
        queue: i32 = "queueId",
        /// Request 30 only; ignored.
        committed: Option<bool> = "committed",
    }
}

header! {
    /// The answer to 14, 29, 30 and 31.
    OffsetResponse {
        /// The offset.
        offset: i64 = "offset",
    }
}

header! {
    /// The answer to 32.
    TimestampResponse {
        /// Store time, or -1.
        timestamp: i64 = "timestamp",
    }
}
