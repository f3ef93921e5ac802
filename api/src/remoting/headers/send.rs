//! Sending: requests 10, 310, 320, 324, 325 and their response.
//!
//! The V2 form (310, 320, 325) is the V1 form with one-letter names. A command is a batch if its field says so, whatever its
//! code. Numbers that do not parse make these requests fail, as in the official server.

use super::{ExtFields, HeaderError, header};
use crate::remoting::ext_fields::parse_bool;

/// What a send says about its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SendMessageHeader<'a> {
    /// Producer group.
    pub producer_group: &'a str,
    /// Topic.
    pub topic: &'a str,
    /// Template for auto-creation.
    pub default_topic: &'a str,
    /// Queues wanted when the topic is created.
    pub default_topic_queues: i32,
    /// Queue number; negative: the broker picks one.
    pub queue: i32,
    /// Compression and transaction bits.
    pub sys_flag: i32,
    /// When the producer made the message.
    pub born_timestamp: i64,
    /// The user's flag.
    pub flag: i32,
    /// Encoded properties.
    pub properties: Option<&'a str>,
    /// How often it was consumed before; retry topics only.
    pub reconsume_times: Option<i32>,
    /// Unit mode.
    pub unit_mode: Option<bool>,
    /// Limit before the dead-letter topic; retry topics only.
    pub max_reconsume_times: Option<i32>,
    /// Whether the body is a batch.
    pub batch: Option<bool>,
    /// The broker name the client believes it talks to.
    pub broker_name: Option<&'a str>,
}

const V1_NAMES: [&str; 14] = [
    "producerGroup",
    "topic",
    "defaultTopic",
    "defaultTopicQueueNums",
    "queueId",
    "sysFlag",
    "bornTimestamp",
    "flag",
    "properties",
    "reconsumeTimes",
    "unitMode",
    "maxReconsumeTimes",
    "batch",
    "bname",
];
const V2_NAMES: [&str; 14] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"];

impl<'a> SendMessageHeader<'a> {
    /// Reads the V2 names (310, 320, 325) or the V1 names (10, 324).
    pub fn decode(fields: &'a ExtFields, v2: bool) -> Result<SendMessageHeader<'a>, HeaderError> {
        let names = if v2 { &V2_NAMES } else { &V1_NAMES };
        let mut values = [None; 14];
        for (key, value) in fields.iter() {
            if let Some(at) = place(names, key, v2) {
                values[at] = Some(value);
            }
        }
        let reader = Reader { names, values };
        Ok(SendMessageHeader {
            producer_group: reader.text(0)?,
            topic: reader.text(1)?,
            default_topic: reader.text(2)?,
            default_topic_queues: reader.required(3)?,
            queue: reader.required(4)?,
            sys_flag: reader.required(5)?,
            born_timestamp: reader.required(6)?,
            flag: reader.required(7)?,
            properties: reader.values[8],
            reconsume_times: reader.optional(9)?,
            unit_mode: reader.values[10].map(parse_bool),
            max_reconsume_times: reader.optional(11)?,
            batch: reader.values[12].map(parse_bool),
            broker_name: reader.values[13],
        })
    }

    /// Writes the V2 or V1 names.
    pub fn encode(&self, fields: &mut ExtFields, v2: bool) {
        let names = if v2 { &V2_NAMES } else { &V1_NAMES };
        fields.push(names[0], self.producer_group);
        fields.push(names[1], self.topic);
        fields.push(names[2], self.default_topic);
        fields.push(names[3], self.default_topic_queues);
        fields.push(names[4], self.queue);
        fields.push(names[5], self.sys_flag);
        fields.push(names[6], self.born_timestamp);
        fields.push(names[7], self.flag);
        fields.push_some(names[8], self.properties);
        fields.push_some(names[9], self.reconsume_times);
        fields.push_some(names[10], self.unit_mode);
        fields.push_some(names[11], self.max_reconsume_times);
        fields.push_some(names[12], self.batch);
        fields.push_some(names[13], self.broker_name);
    }

    /// Whether the body is a batch.
    pub fn is_batch(&self) -> bool {
        self.batch == Some(true)
    }
}

fn place(names: &[&str; 14], key: &str, v2: bool) -> Option<usize> {
    match key.as_bytes() {
        [letter @ b'a'..=b'n'] if v2 => Some(usize::from(letter - b'a')),
        _ if v2 => None,
        _ => names.iter().position(|name| *name == key),
    }
}

struct Reader<'a> {
    names: &'static [&'static str; 14],
    values: [Option<&'a str>; 14],
}

impl<'a> Reader<'a> {
    fn text(&self, at: usize) -> Result<&'a str, HeaderError> {
        self.values[at].ok_or(HeaderError::Missing(V1_NAMES[at]))
    }

    fn required<T: std::str::FromStr>(&self, at: usize) -> Result<T, HeaderError> {
        self.optional(at)?.ok_or(HeaderError::Missing(V1_NAMES[at]))
    }

    fn optional<T: std::str::FromStr>(&self, at: usize) -> Result<Option<T>, HeaderError> {
        match self.values[at] {
            None => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| HeaderError::Malformed(self.names[at])),
        }
    }
}

header! {
    /// Where the message went. Java clients need the first three, also with codes 10, 11 and 12.
    SendMessageResponse<'a> {
        /// Offset message id; several, joined with commas, for a batch.
        message_id: &'a str = "msgId",
        /// Queue number.
        queue: i32 = "queueId",
        /// Queue offset, of the first message of a batch.
        queue_offset: i64 = "queueOffset",
        /// The client's unique key.
        transaction_id: Option<&'a str> = "transactionId",
        /// Unique key of an inner batch.
        batch_unique_id: Option<&'a str> = "batchUniqId",
        /// Handle to recall a timed message.
        recall_handle: Option<&'a str> = "recallHandle",
        /// Region of the broker.
        region: Option<&'a str> = "MSG_REGION",
        /// Whether the client shall trace.
        trace_on: Option<bool> = "TRACE_ON",
    }
}

header! {
    /// Request 36: consume this message again later.
    SendBackHeader<'a> {
        /// Position of the message.
        position: i64 = "offset",
        /// Consumer group.
        consumer_group: &'a str = "group",
        /// Delay level; 0: by count; negative: dead letter.
        delay_level: i32 = "delayLevel",
        /// Id of the message.
        origin_message_id: Option<&'a str> = "originMsgId",
        /// Topic of the message.
        origin_topic: Option<&'a str> = "originTopic",
        /// Unit mode.
        unit_mode: Option<bool> = "unitMode",
        /// Limit before the dead-letter topic.
        max_reconsume_times: Option<i32> = "maxReconsumeTimes",
    }
}

header! {
    /// Request 370: do not deliver a timed message.
    RecallMessageHeader<'a> {
        /// Producer group.
        producer_group: Option<&'a str> = "producerGroup",
        /// Topic.
        topic: &'a str = "topic",
        /// Handle from the send's answer.
        recall_handle: &'a str = "recallHandle",
    }
}
