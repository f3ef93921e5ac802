//! One client connection: frames in, answers out, in one task.
//!
//! Requests run as futures of this task, many at once, and are answered in the order they finish. Small answers are
//! gathered into one buffer and everything waiting leaves in one vectored write.
//!
//! Bounded: requests in flight, their bytes ([`crate::incoming`]) and answer bytes not yet sent, those of one connection
//! and those of all ([`crate::answers`]). Over any of these the connection is not read until it has caught up, so the
//! client feels the TCP window; finished requests are not even polled while too many bytes wait. A client that for [`STALLED_MAX`] takes no byte of its answers, or sends none of a
//! long frame it began, is cut off. Crash: a killed process resets its connections.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use flotilla_api::remoting::frame::RemotingCommand;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tracing::{debug, info};

use crate::answers::AnswerBytes;
use crate::connection_table::Connection;
use crate::incoming::{Incoming, Next, Share};
use crate::membership;
use crate::node::Broker;
use crate::router::{self, Origin};
use crate::server::stopped;

/// Requests of one connection being worked on; parked pulls are counted apart.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 1_024;
/// Parked pulls of one connection: one for each queue a client consumes.
pub const PARKED_PER_CONNECTION_MAX: usize = 16_384;
/// Answer bytes waiting for one connection before no further answer is made for it.
pub const UNSENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A connection without any traffic is closed after this long.
pub const IDLE_MAX: Duration = Duration::from_secs(120);
/// A client that takes none of the bytes waiting for it, or sends none of a long frame, is cut off after this long.
pub const STALLED_MAX: Duration = Duration::from_secs(30);
/// The first of these while too many answers wait in this node.
pub const STALLED_MAX_WHEN_HIGH: Duration = Duration::from_secs(5);

/// How often idle and stalled connections are looked for.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Bodies up to this size are copied behind their header; larger ones are sent from where they lie.
const COPY_BYTES_MAX: usize = 4 * 1024;
/// Buffers given to one system call.
const WRITE_BUFFERS_MAX: usize = 64;

/// Serves one connection until it closes, breaks, idles or the node stops.
pub async fn serve(
    stream: TcpStream,
    broker: Arc<Broker>,
    connection: Arc<Connection>,
    pushes: mpsc::Receiver<RemotingCommand>,
    shutdown: watch::Receiver<bool>,
) {
    let mut entered = Entered {
        broker: Arc::clone(&broker),
        connection: Arc::clone(&connection),
        left: false,
    };
    let peer = connection.peer;
    match converse(&stream, &broker, &connection, pushes, shutdown).await {
        Ok(End::Closed) => {}
        Ok(End::Stopped) => {
            // Whatever was answered shall arrive: an orderly close, not a reset.
            let _ = SockRef::from(&stream).set_linger(None);
        }
        Ok(End::Idle) => debug!(%peer, "closing an idle connection"),
        Err(Broken::Io(error)) => debug!(%peer, %error, "connection broke"),
        Err(Broken::Frame(error)) => info!(%peer, %error, "closing a connection that sent no valid frame"),
        Err(Broken::Stalled) => info!(%peer, "closing a connection that does not read its answers"),
        Err(Broken::Unfinished) => info!(%peer, "closing a connection that does not finish a frame"),
    }
    entered.leave();
}

/// Takes the connection off the table however its task ends, and tells the group's members that a client left.
struct Entered {
    broker: Arc<Broker>,
    connection: Arc<Connection>,
    left: bool,
}

impl Entered {
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.left, true) {
            let departed = self.broker.connections.remove(self.connection.id);
            membership::clients_departed(&self.broker, departed);
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.leave();
    }
}

enum End {
    Closed,
    Idle,
    Stopped,
}

enum Broken {
    Io(io::Error),
    Frame(String),
    Stalled,
    Unfinished,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

async fn converse(
    stream: &TcpStream,
    broker: &Arc<Broker>,
    connection: &Arc<Connection>,
    mut pushes: mpsc::Receiver<RemotingCommand>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<End, Broken> {
    let mut input = Incoming::default();
    // Set while a frame waits for its share of the node's budget.
    let mut wanted_share: Option<BoxFuture<'static, Share>> = None;
    let mut last_read = Instant::now();
    let mut unsent = Unsent::new(broker.answers.clone());
    let mut in_flight = FuturesUnordered::new();
    let mut check = tokio::time::interval(CHECK_INTERVAL);
    let mut last_traffic = Instant::now();
    let mut first_byte = true;
    let mut stopping = false;
    let mut received = false;

    loop {
        while std::mem::take(&mut received) {
            match input.take().map_err(|error| Broken::Frame(error.to_string()))? {
                Next::Frame(request, share) => {
                    received = true;
                    if !request.is_response() {
                        in_flight.push(answer(Arc::clone(broker), request, share, Arc::clone(connection)));
                    }
                }
                Next::Share(bytes) => wanted_share = Some(broker.request_budget.clone().share(bytes).boxed()),
                Next::More => {}
            }
        }
        if !unsent.is_empty() && unsent.try_write(stream)? {
            last_traffic = Instant::now();
        }
        if stopping && in_flight.is_empty() && unsent.is_empty() {
            return Ok(End::Stopped);
        }
        let parked = connection.parked.load(Ordering::Relaxed);
        let roomy = unsent.has_room();
        let may_read = !stopping
            && roomy
            && wanted_share.is_none()
            && parked < PARKED_PER_CONNECTION_MAX
            && in_flight.len().saturating_sub(parked) < REQUESTS_IN_FLIGHT_MAX;

        tokio::select! {
            Some(answer) = in_flight.next(), if roomy && !in_flight.is_empty() => {
                unsent.push(answer);
                // Messages of one entry are answered one after another at this moment: whatever is ready a turn later
                // goes out with the same write.
                yield_now().await;
                while unsent.has_room()
                    && let Some(Some(answer)) = in_flight.next().now_or_never()
                {
                    unsent.push(answer);
                }
            }
            ready = stream.readable(), if may_read => {
                ready?;
                if !read(stream, &mut input)? {
                    return Ok(End::Closed);
                }
                last_traffic = Instant::now();
                last_read = last_traffic;
                if std::mem::take(&mut first_byte) {
                    check_first_byte(input.start())?;
                }
                received = true;
            }
            share = async { wanted_share.as_mut().expect("only polled while there is one").await }, if wanted_share.is_some() => {
                wanted_share = None;
                last_read = Instant::now();
                input.allow(share);
                received = true;
            }
            ready = stream.writable(), if !unsent.is_empty() => ready?,
            Some(push) = pushes.recv() => unsent.push(Some(push)),
            () = stopped(&mut shutdown), if !stopping => stopping = true,
            _ = check.tick() => {
                let stalled_max = if broker.answers.is_high() {
                    STALLED_MAX_WHEN_HIGH
                } else {
                    STALLED_MAX
                };
                if unsent.stalled_for() > stalled_max {
                    return Err(Broken::Stalled);
                }
                if input.holds_share() && may_read && last_read.elapsed() > STALLED_MAX {
                    return Err(Broken::Unfinished);
                }
                if last_traffic.elapsed() > IDLE_MAX && in_flight.is_empty() {
                    return Ok(End::Idle);
                }
                if last_traffic.elapsed() > CHECK_INTERVAL {
                    input.rest();
                    unsent.rest();
                }
            }
        }
    }
}

/// Answers one request, which keeps its share of the node's budget until then.
async fn answer(
    broker: Arc<Broker>,
    request: RemotingCommand,
    _share: Option<Share>,
    connection: Arc<Connection>,
) -> Option<RemotingCommand> {
    let origin = Origin::client(&broker, &connection);
    router::handle(&broker, request, origin).await
}

/// A plain frame starts with the top byte of a length of at most 16 MiB. TLS, HTTP and port scans do not.
fn check_first_byte(input: &[u8]) -> Result<(), Broken> {
    match input.first() {
        None | Some(0 | 1) => Ok(()),
        Some(0x16) => Err(Broken::Frame("TLS is not supported".to_owned())),
        Some(byte) => Err(Broken::Frame(format!("first byte is {byte:#04x}"))),
    }
}

/// Reads what is there; false at the end of the stream.
fn read(stream: &TcpStream, input: &mut Incoming) -> io::Result<bool> {
    match stream.try_read_buf(&mut input.room()) {
        Ok(0) => Ok(false),
        Ok(_) => {
            input.received();
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

/// Encoded answers that the socket has not taken yet.
struct Unsent {
    /// Those of all connections.
    all: Arc<AnswerBytes>,
    chunks: VecDeque<Bytes>,
    /// Small frames being gathered; follows the last chunk.
    gathered: BytesMut,
    bytes: usize,
    stalled_since: Option<Instant>,
}

impl Unsent {
    fn new(all: Arc<AnswerBytes>) -> Self {
        Self {
            all,
            chunks: VecDeque::new(),
            gathered: BytesMut::new(),
            bytes: 0,
            stalled_since: None,
        }
    }

    /// Whether a further answer may be made: while there are too many in this node, only once the last one is sent.
    fn has_room(&self) -> bool {
        self.is_empty() || self.bytes < UNSENT_BYTES_MAX && !self.all.is_high()
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.all.add(bytes);
    }

    fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Nothing was sent for a while: an empty buffer is given back.
    fn rest(&mut self) {
        if self.is_empty() {
            self.gathered = BytesMut::new();
        }
    }

    /// Adds a frame; `None` is the answer to a one-way request.
    fn push(&mut self, command: Option<RemotingCommand>) {
        let Some(command) = command else { return };
        let before = self.gathered.len();
        if command.body.len() <= COPY_BYTES_MAX {
            command.encode(&mut self.gathered);
            self.count(self.gathered.len() - before);
        } else {
            command.encode_head(&mut self.gathered, command.body.len());
            self.count(self.gathered.len() - before + command.body.len());
            self.seal();
            self.chunks.push_back(command.body);
        }
    }

    fn seal(&mut self) {
        if !self.gathered.is_empty() {
            self.chunks.push_back(self.gathered.split().freeze());
        }
    }

    /// Writes as much as the socket takes now; true if that was anything.
    fn try_write(&mut self, stream: &TcpStream) -> io::Result<bool> {
        self.seal();
        let mut progress = false;
        while !self.chunks.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_BUFFERS_MAX];
            let mut count = 0;
            for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
                *slice = IoSlice::new(chunk);
                count += 1;
            }
            match stream.try_write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.advance(written);
                    progress = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.stalled_since = match (self.is_empty(), progress) {
            (true, _) => None,
            (false, true) => Some(Instant::now()),
            (false, false) => self.stalled_since.or_else(|| Some(Instant::now())),
        };
        Ok(progress)
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        self.all.remove(written);
        while let Some(front) = self.chunks.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.chunks.pop_front();
        }
    }

    fn stalled_for(&self) -> Duration {
        self.stalled_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.all.remove(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::ANSWER_BYTES_HIGH;

    fn command(body: usize) -> RemotingCommand {
        RemotingCommand::request(40).with_body(Bytes::from(vec![7; body]))
    }

    #[test]
    fn unsent_bytes_are_counted_and_leave_in_order() {
        let all = Arc::new(AnswerBytes::default());
        let mut unsent = Unsent::new(all.clone());
        let mut expected = BytesMut::new();
        for body in [0, COPY_BYTES_MAX, COPY_BYTES_MAX + 1, 3] {
            unsent.push(Some(command(body)));
            command(body).encode(&mut expected);
        }
        unsent.push(None);
        assert_eq!(unsent.bytes, expected.len());
        unsent.seal();
        let mut sent = BytesMut::new();
        while let Some(first) = unsent.chunks.front() {
            let step = first.len().min(1_000);
            sent.extend_from_slice(&first[..step]);
            unsent.advance(step);
        }
        assert_eq!(sent, expected);
        assert!(unsent.is_empty());
    }

    #[test]
    fn while_too_many_answers_wait_each_connection_gets_one_at_a_time() {
        let all = Arc::new(AnswerBytes::default());
        let mut unsent = Unsent::new(all.clone());
        unsent.push(Some(command(1)));
        assert!(unsent.has_room());
        all.add(ANSWER_BYTES_HIGH);
        assert!(!unsent.has_room());
        unsent.seal();
        unsent.advance(unsent.bytes);
        assert!(unsent.has_room());
        unsent.push(Some(command(1)));
        drop(unsent);
        assert!(!all.is_high(), "a connection takes its bytes with it");
    }

    #[test]
    fn only_a_plausible_length_is_let_in() {
        assert!(check_first_byte(&[0, 0, 0, 9]).is_ok());
        assert!(check_first_byte(b"GET / HTTP/1.1").is_err());
        assert!(check_first_byte(&[0x16, 3, 1]).is_err());
    }
}
