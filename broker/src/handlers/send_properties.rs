//! The properties of a message as they are stored: what the client sent plus what the broker adds.

use std::fmt::Write;

use flotilla_api::properties;

/// The region clients are told. There is one.
pub const REGION: &str = "DefaultRegion";

/// Properties of a single message: unique key if the client gave none, region, trace switch, cluster. A handle of an
/// earlier POP is removed.
pub fn stored(sent: &str, cluster: &str) -> String {
    let mut stored = with_unique_key(sent);
    properties::append(&mut stored, properties::MSG_REGION, REGION);
    properties::append(&mut stored, properties::TRACE_ON, "true");
    properties::append(&mut stored, properties::CLUSTER, cluster);
    stored
}

/// Properties of a message in a batch: as sent, but never without a unique key.
pub fn stored_in_batch(sent: &str) -> String {
    with_unique_key(sent)
}

fn with_unique_key(sent: &str) -> String {
    let mut stored = String::with_capacity(sent.len() + 128);
    if properties::get(sent, properties::POP_CHECK_POINT).is_some() {
        stored.push_str(&properties::without(sent, properties::POP_CHECK_POINT));
    } else {
        stored.push_str(sent);
    }
    if properties::get(&stored, properties::UNIQUE_KEY).is_none() {
        properties::append(&mut stored, properties::UNIQUE_KEY, &unique_key());
    }
    stored
}

/// 32 upper-case hexadecimal digits, the shape of a client's own.
fn unique_key() -> String {
    let mut key = String::with_capacity(32);
    write!(key, "{:032X}", rand::random::<u128>()).expect("writing to a string does not fail");
    key
}

/// What this version cannot keep: delayed, timed and transactional messages.
pub fn unsupported(sent: &str) -> Option<&'static str> {
    for (name, value) in properties::iter(sent) {
        match name {
            properties::DELAY if value != "0" => return Some("delayed"),
            properties::TIMER_DELAY_SEC | properties::TIMER_DELAY_MS | properties::TIMER_DELIVER_MS => {
                return Some("timed");
            }
            properties::TRANSACTION_PREPARED if value.eq_ignore_ascii_case("true") => return Some("transactional"),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_broker_adds_follows_what_was_sent() {
        let sent = "UNIQ_KEY\u{1}U\u{2}TAGS\u{1}A";
        let expected = "UNIQ_KEY\u{1}U\u{2}TAGS\u{1}A\u{2}MSG_REGION\u{1}DefaultRegion\u{2}TRACE_ON\u{1}true\u{2}\
            CLUSTER\u{1}c1\u{2}";
        assert_eq!(stored(sent, "c1"), expected);
        assert_eq!(stored_in_batch(sent), sent);
    }

    #[test]
    fn a_message_never_lacks_a_unique_key() {
        for stored in [stored("", "c1"), stored_in_batch("TAGS\u{1}A\u{2}")] {
            let key = properties::get(&stored, properties::UNIQUE_KEY).unwrap();
            assert_eq!(key.len(), 32);
            assert!(
                key.bytes()
                    .all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte))
            );
        }
    }

    #[test]
    fn a_pop_handle_is_not_stored() {
        let stored = stored("POP_CK\u{1}x\u{2}KEYS\u{1}k\u{2}UNIQ_KEY\u{1}U\u{2}", "c1");
        assert_eq!(properties::get(&stored, properties::POP_CHECK_POINT), None);
        assert_eq!(properties::get(&stored, properties::KEYS), Some("k"));
    }
}
