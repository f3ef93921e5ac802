//! Name-server requests: 100, 101, 102, 105, 205, 216, 219, 224.

use super::header;

header! {
    /// Request 105.
    RouteHeader<'a> {
        /// Topic.
        topic: &'a str = "topic",
        /// Whether only standard JSON is understood; it is what we always send.
        accept_standard_json_only: Option<bool> = "acceptStandardJsonOnly",
    }
}

header! {
    /// Requests 101 and 102.
    KvHeader<'a> {
        /// Namespace.
        namespace: &'a str = "namespace",
        /// Key.
        key: &'a str = "key",
    }
}

header! {
    /// Request 100.
    PutKvHeader<'a> {
        /// Namespace.
        namespace: &'a str = "namespace",
        /// Key.
        key: &'a str = "key",
        /// Value.
        value: &'a str = "value",
    }
}

header! {
    /// The answer to 101.
    KvResponse<'a> {
        /// The value found.
        value: Option<&'a str> = "value",
    }
}

header! {
    /// Request 219.
    NamespaceHeader<'a> {
        /// Namespace.
        namespace: &'a str = "namespace",
    }
}

header! {
    /// Request 224.
    ClusterTopicsHeader<'a> {
        /// Cluster name.
        cluster: &'a str = "cluster",
    }
}

header! {
    /// Requests 205 and 327.
    BrokerNameHeader<'a> {
        /// Broker name.
        broker_name: &'a str = "brokerName",
    }
}

header! {
    /// Request 216.
    DeleteTopicRouteHeader<'a> {
        /// Topic.
        topic: &'a str = "topic",
        /// Cluster, or all of them.
        cluster: Option<&'a str> = "clusterName",
    }
}
