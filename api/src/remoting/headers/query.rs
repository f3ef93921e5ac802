//! Finding single messages: requests 12 and 33.

use super::header;

header! {
    /// Request 12.
    QueryMessageHeader<'a> {
        /// Topic.
        topic: &'a str = "topic",
        /// Key.
        key: &'a str = "key",
        /// Most messages wanted.
        max_messages: i32 = "maxNum",
        /// Earliest store time.
        begin_timestamp: i64 = "beginTimestamp",
        /// Latest store time.
        end_timestamp: i64 = "endTimestamp",
        /// Whether the key is a unique key.
        unique_key: Option<bool> = "_UNIQUE_KEY_QUERY",
    }
}

header! {
    /// The answer to 12.
    QueryMessageResponse {
        /// When the index last changed.
        index_last_update_timestamp: i64 = "indexLastUpdateTimestamp",
        /// Position up to which the index goes.
        index_last_update_position: i64 = "indexLastUpdatePhyoffset",
    }
}

header! {
    /// Request 33.
    ViewMessageHeader<'a> {
        /// Position of the message; clients try any number here.
        position: i64 = "offset",
        /// Topic.
        topic: Option<&'a str> = "topic",
    }
}
