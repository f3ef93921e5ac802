//! A send request written once; each send copies it and fills in what differs.
//!
//! Number of the request, time and unique keys have a fixed width, so their places never move: request numbers have ten
//! digits, times thirteen, keys sixteen hex digits behind a fixed prefix.

use bytes::BytesMut;
use flotilla_api::batch;
use flotilla_api::names::AUTO_CREATE_TOPIC;
use flotilla_api::properties;
use flotilla_api::remoting::codes::request;
use flotilla_api::remoting::frame::{HeaderEncoding, RemotingCommand};
use flotilla_api::remoting::headers::send::SendMessageHeader;
use rand::RngCore;

use super::SendArgs;

/// Added to every request number, so that all have ten digits.
pub(crate) const OPAQUE_BASE: i32 = 1_000_000_000;
/// Request numbers without the base fit in these bits.
pub(crate) const OPAQUE_BITS: u32 = 30;

const OPAQUE_MARK: i32 = OPAQUE_BASE + 987_654_321;
const BORN_MARK: i64 = 9_876_543_210_123;
const KEY_MARK: &str = "FEDCBA9876543210";
const KEY_PREFIX: &str = "7F00000100010001";

/// A request to one queue.
pub(crate) struct Template {
    frame: Vec<u8>,
    binary: bool,
    opaque_at: usize,
    born_at: usize,
    keys_at: Vec<usize>,
    /// Messages in the request.
    pub(crate) messages: u64,
}

impl Template {
    /// One request for each queue.
    pub(crate) fn for_queues(args: &SendArgs, topic: &str, queues: u32) -> anyhow::Result<Vec<Template>> {
        (0..queues).map(|queue| Template::new(args, topic, queue)).collect()
    }

    fn new(args: &SendArgs, topic: &str, queue: u32) -> anyhow::Result<Template> {
        let mut body = vec![0; args.size];
        rand::rng().fill_bytes(&mut body);
        let messages = args.batch.max(1);
        let unique_key = format!("{KEY_PREFIX}{KEY_MARK}");
        let mut message_properties = properties::encode([(properties::UNIQUE_KEY, unique_key.as_str())]);
        properties::append(&mut message_properties, properties::WAIT, "true");
        if args.keys {
            properties::append(&mut message_properties, properties::KEYS, &format!("k{KEY_MARK}"));
        }
        if let Some(tag) = &args.tags {
            properties::append(&mut message_properties, properties::TAGS, tag);
        }
        let (code, body) = if messages > 1 {
            let mut records = BytesMut::new();
            for _ in 0..messages {
                batch::append(&mut records, 0, &body, &message_properties)?;
            }
            (request::SEND_BATCH_MESSAGE, records.freeze())
        } else {
            (request::SEND_MESSAGE_V2, body.into())
        };
        let mut command = RemotingCommand::request(code).with_body(body);
        command.opaque = OPAQUE_MARK;
        command.encoding = if args.binary {
            HeaderEncoding::Binary
        } else {
            HeaderEncoding::Json
        };
        SendMessageHeader {
            producer_group: "flotilla_bench",
            topic,
            default_topic: AUTO_CREATE_TOPIC,
            default_topic_queues: 4,
            queue: queue as i32,
            sys_flag: 0,
            born_timestamp: BORN_MARK,
            flag: 0,
            properties: Some(&message_properties),
            reconsume_times: Some(0),
            unit_mode: Some(false),
            max_reconsume_times: None,
            batch: Some(messages > 1),
            broker_name: None,
        }
        .encode(&mut command.fields, true);
        let mut frame = BytesMut::new();
        command.encode(&mut frame);
        Template::find(frame.to_vec(), args.binary, messages)
    }

    fn find(frame: Vec<u8>, binary: bool, messages: usize) -> anyhow::Result<Template> {
        let opaque = if binary {
            OPAQUE_MARK.to_be_bytes().to_vec()
        } else {
            OPAQUE_MARK.to_string().into_bytes()
        };
        let places = |mark: &[u8]| -> Vec<usize> {
            frame
                .windows(mark.len())
                .enumerate()
                .filter(|(_, window)| *window == mark)
                .map(|(at, _)| at)
                .collect()
        };
        let (opaque, born, keys_at) = (
            places(&opaque),
            places(BORN_MARK.to_string().as_bytes()),
            places(KEY_MARK.as_bytes()),
        );
        anyhow::ensure!(
            opaque.len() == 1 && born.len() == 1 && keys_at.len() >= messages,
            "the topic name or the body holds a mark of the request template; run again or choose another topic"
        );
        Ok(Template {
            opaque_at: opaque[0],
            born_at: born[0],
            keys_at,
            frame,
            binary,
            messages: messages as u64,
        })
    }

    /// Adds a request to `out`. `number` is without [`OPAQUE_BASE`]; keys count up from `key`.
    pub(crate) fn write(&self, out: &mut Vec<u8>, number: u32, born_ms: u64, key: u64) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        let frame = &mut out[start..];
        let opaque = OPAQUE_BASE + (number & ((1 << OPAQUE_BITS) - 1)) as i32;
        if self.binary {
            frame[self.opaque_at..self.opaque_at + 4].copy_from_slice(&opaque.to_be_bytes());
        } else {
            put_decimal(&mut frame[self.opaque_at..self.opaque_at + 10], opaque as u64);
        }
        put_decimal(&mut frame[self.born_at..self.born_at + 13], born_ms);
        for (i, at) in self.keys_at.iter().enumerate() {
            put_hex(&mut frame[*at..*at + 16], key + i as u64);
        }
    }

    /// Bytes of a request.
    pub(crate) fn len(&self) -> usize {
        self.frame.len()
    }
}

fn put_decimal(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

fn put_hex(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789ABCDEF"[(value & 15) as usize];
        value >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use flotilla_api::remoting::frame::decode;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SendArgs,
    }

    fn written(arguments: &[&str]) -> RemotingCommand {
        let args = Line::parse_from(["bench"].iter().chain(arguments)).args;
        let templates = Template::for_queues(&args, "T", 3).expect("templates");
        let mut out = Vec::new();
        templates[2].write(&mut out, 77, 1_700_000_000_000, 0xABC);
        decode(&mut BytesMut::from(&out[..])).expect("a frame").expect("whole")
    }

    #[test]
    fn a_filled_template_is_a_send_request() {
        for encoding in [&["--size", "100"][..], &["--size", "100", "--binary"]] {
            let command = written(encoding);
            let header = SendMessageHeader::decode(&command.fields, true).expect("a header");
            assert_eq!((command.opaque, command.body.len()), (OPAQUE_BASE + 77, 100));
            assert_eq!(
                (header.queue, header.born_timestamp, header.is_batch()),
                (2, 1_700_000_000_000, false)
            );
            let key = properties::get(header.properties.expect("properties"), properties::UNIQUE_KEY);
            assert_eq!(key, Some("7F000001000100010000000000000ABC"));
        }
    }

    #[test]
    fn records_of_a_batch_have_keys_of_their_own() {
        let command = written(&["--batch", "3", "--size", "10", "--keys", "--tags", "A"]);
        let records = batch::split(&command.body).expect("a batch");
        let keys: std::collections::BTreeSet<_> = records
            .iter()
            .flat_map(|record| properties::keys(record.properties()))
            .collect();
        assert_eq!((records.len(), keys.len()), (3, 6));
        assert!(
            records
                .iter()
                .all(|record| properties::get(record.properties(), properties::TAGS) == Some("A"))
        );
    }
}
