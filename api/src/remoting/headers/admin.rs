//! Administration of groups and brokers: requests 26, 201, 207, 315.

use super::header;

header! {
    /// Request 201.
    GroupPageHeader<'a> {
        /// First group wanted, counted in a stable order.
        group_sequence: Option<i32> = "groupSeq",
        /// Version of the page before.
        data_version: Option<&'a str> = "dataVersion",
        /// Most groups wanted.
        max_groups: Option<i32> = "maxGroupNum",
    }
}

header! {
    /// The answer to 201.
    GroupPageResponse {
        /// How many groups there are.
        total_groups: Option<i32> = "totalGroupNum",
    }
}

header! {
    /// Request 207.
    DeleteGroupHeader<'a> {
        /// Consumer group.
        consumer_group: &'a str = "groupName",
        /// Whether its offsets go, too.
        clean_offset: Option<bool> = "cleanOffset",
    }
}

header! {
    /// Request 315.
    StatsHeader<'a> {
        /// What is counted.
        name: &'a str = "statsName",
        /// For which topic or group.
        key: &'a str = "statsKey",
    }
}

header! {
    /// The answer to 26.
    BrokerConfigResponse<'a> {
        /// Data version as JSON.
        version: &'a str = "version",
    }
}
