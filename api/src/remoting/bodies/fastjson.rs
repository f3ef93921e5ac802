//! The dialect of the official server's JSON library: an object as a key stands there as it is.
//!
//! `{{"brokerName":"b","queueId":0,"topic":"T"}:5}` is no JSON, but it is what every Java version and the Go client expect
//! in tables by queue. Only written here, never read.

use serde::Serialize;

use super::offsets::MessageQueue;

/// Writes `{queue:value,...}`.
pub(super) fn table_by_queue<'a, V: Serialize + 'a>(
    out: &mut String,
    table: impl IntoIterator<Item = (&'a MessageQueue, &'a V)>,
) {
    out.push('{');
    for (i, (queue, value)) in table.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        push_json(out, queue);
        out.push(':');
        push_json(out, value);
    }
    out.push('}');
}

/// Writes plain JSON.
pub(super) fn push_json(out: &mut String, value: &impl Serialize) {
    out.push_str(&serde_json::to_string(value).expect("these types always have a JSON form"));
}
