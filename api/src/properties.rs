//! The properties of a message: `name 0x01 value 0x02`, repeated.
//!
//! Holds on reading: the last of several equal names wins, pairs with an empty name or value do not count, and the closing
//! 0x02 may be missing. Names and values that contain a separator cannot be written.

/// Between a name and its value.
pub const NAME_VALUE_SEPARATOR: char = '\u{1}';
/// After each pair.
pub const PAIR_SEPARATOR: char = '\u{2}';

macro_rules! names {
    ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
        $($(#[$doc])* pub const $constant: &str = $name;)*
    };
}

names! {
    /// Index keys, separated by one blank.
    KEYS = "KEYS";
    /// The tag.
    TAGS = "TAGS";
    /// Whether the sender waits until the message is stored.
    WAIT = "WAIT";
    /// Delay level 1 to 18.
    DELAY = "DELAY";
    /// Topic a message to be consumed again came from.
    RETRY_TOPIC = "RETRY_TOPIC";
    /// Topic a message goes to while it waits elsewhere.
    REAL_TOPIC = "REAL_TOPIC";
    /// Queue a message goes to while it waits elsewhere.
    REAL_QUEUE = "REAL_QID";
    /// "true" for a half message.
    TRANSACTION_PREPARED = "TRAN_MSG";
    /// Producer group, asked about undecided transactions.
    PRODUCER_GROUP = "PGROUP";
    /// Id of the first copy of a message that is consumed again.
    ORIGIN_MESSAGE_ID = "ORIGIN_MESSAGE_ID";
    /// How often the message was consumed before; becomes a header field.
    RECONSUME_TIME = "RECONSUME_TIME";
    /// Limit of the above; becomes a header field.
    MAX_RECONSUME_TIMES = "MAX_RECONSUME_TIMES";
    /// Region of the broker.
    MSG_REGION = "MSG_REGION";
    /// Whether clients trace the message.
    TRACE_ON = "TRACE_ON";
    /// Cluster a message was sent to.
    CLUSTER = "CLUSTER";
    /// The id the client gave the message; also a query key.
    UNIQUE_KEY = "UNIQ_KEY";
    /// Ordering key.
    SHARDING_KEY = "__SHARDINGKEY";
    /// Count of an inner batch.
    INNER_NUM = "INNER_NUM";
    /// First offset of an inner batch.
    INNER_BASE = "INNER_BASE";
    /// Times a transaction was asked about.
    TRANSACTION_CHECK_TIMES = "TRANSACTION_CHECK_TIMES";
    /// Seconds before a transaction is first asked about.
    CHECK_IMMUNITY_SECONDS = "CHECK_IMMUNITY_TIME_IN_SECONDS";
    /// Id of a transaction.
    TRANSACTION_ID = "__transactionId__";
    /// Request and its reply share this.
    CORRELATION_ID = "CORRELATION_ID";
    /// Client a reply goes to.
    REPLY_TO_CLIENT = "REPLY_TO_CLIENT";
    /// Receipt handle of a popped message.
    POP_CHECK_POINT = "POP_CK";
    /// Delay in seconds.
    TIMER_DELAY_SEC = "TIMER_DELAY_SEC";
    /// Delay in milliseconds.
    TIMER_DELAY_MS = "TIMER_DELAY_MS";
    /// Delivery time, milliseconds since 1970.
    TIMER_DELIVER_MS = "TIMER_DELIVER_MS";
    /// Born host carried by proxies.
    BORN_HOST = "__BORNHOST";
    /// Topic a dead letter came from.
    DLQ_ORIGIN_TOPIC = "DLQ_ORIGIN_TOPIC";
    /// Id of the message a dead letter was.
    DLQ_ORIGIN_MESSAGE_ID = "DLQ_ORIGIN_MESSAGE_ID";
}

/// All pairs that count, in the order written; of equal names the last one is meant.
pub fn iter(properties: &str) -> impl DoubleEndedIterator<Item = (&str, &str)> {
    properties
        .split(PAIR_SEPARATOR)
        .filter_map(|pair| pair.split_once(NAME_VALUE_SEPARATOR))
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
}

/// The value of one property, without allocating.
pub fn get<'a>(properties: &'a str, name: &str) -> Option<&'a str> {
    iter(properties).rev().find(|(n, _)| *n == name).map(|(_, value)| value)
}

/// All pairs, one per name.
pub fn decode(properties: &str) -> std::collections::BTreeMap<String, String> {
    iter(properties)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Writes pairs; those that are empty or contain a separator are left out.
pub fn encode<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        append(&mut out, name.as_ref(), value.as_ref());
    }
    out
}

/// Adds a pair at the end, where it wins over earlier ones of its name. An empty or unwritable pair changes nothing.
pub fn append(properties: &mut String, name: &str, value: &str) {
    if !writable(name) || !writable(value) {
        return;
    }
    if !properties.is_empty() && !properties.ends_with(PAIR_SEPARATOR) {
        properties.push(PAIR_SEPARATOR);
    }
    properties.reserve(name.len() + value.len() + 2);
    properties.push_str(name);
    properties.push(NAME_VALUE_SEPARATOR);
    properties.push_str(value);
    properties.push(PAIR_SEPARATOR);
}

/// The same properties without one name.
pub fn without(properties: &str, name: &str) -> String {
    encode(iter(properties).filter(|(n, _)| *n != name))
}

/// The index keys of a message: the unique key and each of `KEYS`.
pub fn keys(properties: &str) -> impl Iterator<Item = &str> {
    let listed = get(properties, KEYS)
        .unwrap_or_default()
        .split(' ')
        .filter(|key| !key.is_empty());
    get(properties, UNIQUE_KEY).into_iter().chain(listed)
}

/// Whether a name or value can be written: it is not empty and contains no separator.
pub fn writable(text: &str) -> bool {
    !text.is_empty() && !text.contains([NAME_VALUE_SEPARATOR, PAIR_SEPARATOR])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reading_rules() {
        let text = "KEYS\u{1}a b\u{2}TAGS\u{1}A\u{2}TAGS\u{1}B\u{2}\u{1}x\u{2}empty\u{1}\u{2}junk\u{2}UNIQ_KEY\u{1}U";
        assert_eq!(get(text, TAGS), Some("B"));
        assert_eq!(get(text, "empty"), None);
        assert_eq!(get(text, "junk"), None);
        assert_eq!(keys(text).collect::<Vec<_>>(), ["U", "a", "b"]);
        assert_eq!(decode(text).len(), 3);
        assert_eq!(without(text, TAGS), "KEYS\u{1}a b\u{2}UNIQ_KEY\u{1}U\u{2}");
    }

    #[test]
    fn append_closes_an_open_pair() {
        let mut text = String::from("A\u{1}1");
        append(&mut text, "B", "2");
        append(&mut text, "C", "");
        append(&mut text, "D", "x\u{2}y");
        assert_eq!(text, "A\u{1}1\u{2}B\u{1}2\u{2}");
    }

    proptest! {
        #[test]
        fn decode_of_encode(pairs in prop::collection::btree_map("[a-zA-Z_]{1,8}", "[^\u{1}\u{2}]{1,12}", 0..8)) {
            let text = encode(pairs.iter());
            prop_assert_eq!(&decode(&text), &pairs);
            for (name, value) in &pairs {
                prop_assert_eq!(get(&text, name), Some(value.as_str()));
            }
        }

        #[test]
        fn any_text_is_read(text in any::<String>(), name in any::<String>()) {
            let all = decode(&text);
            prop_assert_eq!(all.get(&name).map(String::as_str), get(&text, &name));
        }
    }
}
