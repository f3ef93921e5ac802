//! A small remoting client, apart from the official ones: one connection, one request at a time.
//!
//! It reads what the checks need, from the node it is told, and takes no decision of its own: no retry, no other address.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use flotilla_api::message;
use flotilla_api::remoting::frame::{self, RemotingCommand};

use crate::history::{Dump, QueueDump};
use crate::wait;

/// How long one request may take, unless a test says otherwise.
pub const CALL: Duration = Duration::from_secs(10);
/// How long a read of a whole topic may wait for a node that lags behind.
const CATCH_UP: Duration = Duration::from_secs(30);
/// Bytes read from the socket at a time.
const READ_BYTES: usize = 64 * 1024;
/// Messages asked for at a time.
const PULL_MESSAGES: i32 = 32;

const SEND_MESSAGE: i32 = 10;
const PULL_MESSAGE: i32 = 11;
const QUERY_CONSUMER_OFFSET: i32 = 14;
const UPDATE_CONSUMER_OFFSET: i32 = 15;
const GET_MAX_OFFSET: i32 = 30;
const GET_MIN_OFFSET: i32 = 31;

const SUCCESS: i32 = 0;
const NO_NEW_MESSAGE: i32 = 19;
const RETRY_AT_ONCE: i32 = 20;
const NOT_FOUND: i32 = 22;
/// In a pull: it may wait for a message.
const PULL_MAY_WAIT: i32 = 2;
/// In a pull: the request carries its filter.
const PULL_WITH_SUBSCRIPTION: i32 = 4;

/// One connection to one node.
pub struct Client {
    stream: TcpStream,
    buffer: BytesMut,
    next_opaque: i32,
}

impl Client {
    /// Connects to the remoting port of a node of this machine.
    pub fn connect(port: u16) -> Result<Self> {
        Self::connect_to(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), CALL)
    }

    /// Connects to the remoting address of a node; neither that nor a call takes longer than `patience`.
    pub fn connect_to(address: SocketAddr, patience: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self {
            stream,
            buffer: BytesMut::new(),
            next_opaque: 1,
        })
    }

    /// Sends a request and waits for its answer.
    pub fn call(&mut self, request: RemotingCommand) -> Result<RemotingCommand> {
        let opaque = self.ask(request)?;
        self.answer(opaque)
    }

    /// Sends a request; returns what its answer is known by.
    fn ask(&mut self, mut request: RemotingCommand) -> Result<i32> {
        request.opaque = self.next_opaque;
        self.next_opaque = self.next_opaque.wrapping_add(1);
        let mut out = BytesMut::new();
        request.encode(&mut out);
        self.stream.write_all(&out).context("write the request")?;
        Ok(request.opaque)
    }

    /// Waits for the answer to a request.
    fn answer(&mut self, opaque: i32) -> Result<RemotingCommand> {
        loop {
            while let Some(answer) = frame::decode(&mut self.buffer).context("read the answer")? {
                if answer.is_response() && answer.opaque == opaque {
                    return Ok(answer);
                }
            }
            let mut bytes = [0; READ_BYTES];
            let count = self.stream.read(&mut bytes).context("wait for the answer")?;
            ensure!(count > 0, "the node closed the connection");
            self.buffer.extend_from_slice(&bytes[..count]);
        }
    }

    /// Sends one message to a queue; returns its queue offset.
    pub fn send(&mut self, topic: &str, queue: u32, body: &str) -> Result<i64> {
        let request = send_request(topic, queue.into(), Bytes::copy_from_slice(body.as_bytes()));
        let answer = self.call(request)?;
        expect(&answer, &[SUCCESS])?;
        number(&answer, "queueOffset")
    }

    /// The next offset that will be given out in a queue.
    pub fn max_offset(&mut self, topic: &str, queue: u32) -> Result<i64> {
        self.bound(GET_MAX_OFFSET, topic, queue)
    }

    /// The first offset that can still be read in a queue.
    pub fn min_offset(&mut self, topic: &str, queue: u32) -> Result<i64> {
        self.bound(GET_MIN_OFFSET, topic, queue)
    }

    fn bound(&mut self, code: i32, topic: &str, queue: u32) -> Result<i64> {
        let request = RemotingCommand::request(code)
            .with_field("topic", topic)
            .with_field("queueId", queue);
        let answer = self.call(request)?;
        expect(&answer, &[SUCCESS])?;
        number(&answer, "offset")
    }

    /// A consumer group's progress in a queue.
    pub fn consumer_offset(&mut self, group: &str, topic: &str, queue: u32) -> Result<Option<i64>> {
        let request = RemotingCommand::request(QUERY_CONSUMER_OFFSET)
            .with_field("consumerGroup", group)
            .with_field("topic", topic)
            .with_field("queueId", queue)
            .with_field("setZeroIfNotFound", "false");
        let answer = self.call(request)?;
        expect(&answer, &[SUCCESS, NOT_FOUND])?;
        if answer.code == NOT_FOUND {
            Ok(None)
        } else {
            number(&answer, "offset").map(Some)
        }
    }

    /// Stores a consumer group's progress; acknowledged when this returns.
    pub fn set_consumer_offset(&mut self, group: &str, topic: &str, queue: u32, offset: i64) -> Result<()> {
        let request = RemotingCommand::request(UPDATE_CONSUMER_OFFSET)
            .with_field("consumerGroup", group)
            .with_field("topic", topic)
            .with_field("queueId", queue)
            .with_field("commitOffset", offset);
        expect(&self.call(request)?, &[SUCCESS])
    }

    /// Sends so many messages to every queue, which continue where it ended, and stores a consumer offset halfway into
    /// them.
    pub fn fill(&mut self, topic: &str, queues: u32, group: &str, messages: i64, what: &str) -> Result<()> {
        for queue in 0..queues {
            let end = self.max_offset(topic, queue)?;
            for number in 0..messages {
                let offset = self.send(topic, queue, &format!("{what} queue {queue} number {number}"))?;
                ensure!(offset == end + number, "offset {offset} where {} is next", end + number);
            }
            self.set_consumer_offset(group, topic, queue, end + messages / 2)?;
        }
        Ok(())
    }

    /// What a consumer group sees here: all messages, and its consumer offset in each queue.
    pub fn view(&mut self, topic: &str, queues: u32, group: &str) -> Result<(Dump, Vec<Option<i64>>)> {
        let offsets = (0..queues).map(|queue| self.consumer_offset(group, topic, queue));
        let offsets = offsets.collect::<Result<_>>()?;
        Ok((self.dump(topic, queues)?, offsets))
    }

    /// Reads every message of every queue that was in the topic when the read began.
    pub fn dump(&mut self, topic: &str, queues: u32) -> Result<Dump> {
        let mut dump = BTreeMap::new();
        for queue in 0..queues {
            let first_offset = self.min_offset(topic, queue)?;
            let end = self.max_offset(topic, queue)?;
            let mut read = QueueDump {
                first_offset,
                end_offset: end,
                messages: Vec::new(),
            };
            while read.next_offset() < end {
                let from = read.next_offset();
                let what = format!("{topic} {queue} from {from} to {end}");
                let messages = wait::until(&what, CATCH_UP, || {
                    let messages = self.pull(topic, queue, from)?;
                    Ok((!messages.is_empty()).then_some(messages))
                })?;
                read.messages
                    .extend(messages.into_iter().filter(|(offset, _)| *offset < end));
                ensure!(read.next_offset() > from, "{what}: what came does not lead on");
            }
            dump.insert(queue, read);
        }
        Ok(Dump(dump))
    }

    /// Offsets and bodies at and after an offset, as they came; empty when there is nothing yet.
    pub fn pull(&mut self, topic: &str, queue: u32, offset: i64) -> Result<Vec<(i64, String)>> {
        let answer = self.call(pull_request(topic, queue.into(), offset, Duration::ZERO))?;
        pulled(&answer, topic, queue)
    }

    /// Begins a pull that waits at the server for a message; it ends with this connection.
    pub fn begin_pull(mut self, topic: &str, queue: u32, offset: i64, patience: Duration) -> Result<WaitingPull> {
        let opaque = self.ask(pull_request(topic, queue.into(), offset, patience))?;
        Ok(WaitingPull {
            client: self,
            opaque,
            topic: topic.to_owned(),
            queue,
        })
    }
}

/// A pull whose answer has not come; dropping it closes the connection.
pub struct WaitingPull {
    client: Client,
    opaque: i32,
    topic: String,
    queue: u32,
}

impl WaitingPull {
    /// Waits for the answer: as [`Client::pull`].
    pub fn finish(mut self) -> Result<Vec<(i64, String)>> {
        let answer = self.client.answer(self.opaque)?;
        pulled(&answer, &self.topic, self.queue)
    }
}

/// A send of one message to a queue, whatever its number: a node refuses one that is not there.
pub fn send_request(topic: &str, queue: i64, body: impl Into<Bytes>) -> RemotingCommand {
    RemotingCommand::request(SEND_MESSAGE)
        .with_field("producerGroup", "e2e")
        .with_field("topic", topic)
        .with_field("defaultTopic", "TBW102")
        .with_field("defaultTopicQueueNums", "4")
        .with_field("queueId", queue)
        .with_field("sysFlag", "0")
        .with_field("bornTimestamp", "1700000000000")
        .with_field("flag", "0")
        .with_field("properties", "")
        .with_field("reconsumeTimes", "0")
        .with_body(body)
}

/// A pull from an offset of a queue that waits up to `patience` for a message; not at all when that is zero.
pub fn pull_request(topic: &str, queue: i64, offset: i64, patience: Duration) -> RemotingCommand {
    let waits = if patience.is_zero() { 0 } else { PULL_MAY_WAIT };
    let patience = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
    RemotingCommand::request(PULL_MESSAGE)
        .with_field("consumerGroup", "e2e-reader")
        .with_field("topic", topic)
        .with_field("queueId", queue)
        .with_field("queueOffset", offset)
        .with_field("maxMsgNums", PULL_MESSAGES)
        .with_field("sysFlag", PULL_WITH_SUBSCRIPTION | waits)
        .with_field("commitOffset", "0")
        .with_field("suspendTimeoutMillis", patience)
        .with_field("subscription", "*")
        .with_field("subVersion", "0")
        .with_field("expressionType", "TAG")
}

fn pulled(answer: &RemotingCommand, topic: &str, queue: u32) -> Result<Vec<(i64, String)>> {
    expect(answer, &[SUCCESS, NO_NEW_MESSAGE, RETRY_AT_ONCE])?;
    if answer.code != SUCCESS {
        return Ok(Vec::new());
    }
    let mut messages = Vec::new();
    for record in message::records(&answer.body) {
        let message = record.context("read a stored message")?;
        ensure!(
            message.topic == topic && message.queue == queue,
            "a message of {} {}",
            message.topic,
            message.queue
        );
        messages.push((
            message.queue_offset,
            String::from_utf8(message.body.to_vec()).context("body")?,
        ));
    }
    Ok(messages)
}

fn expect(answer: &RemotingCommand, codes: &[i32]) -> Result<()> {
    if !codes.contains(&answer.code) {
        bail!("code {}: {}", answer.code, answer.remark.as_deref().unwrap_or_default());
    }
    Ok(())
}

fn number(answer: &RemotingCommand, field: &str) -> Result<i64> {
    answer
        .fields
        .i64(field)
        .with_context(|| format!("no {field} in the answer"))
}
