//! One blocking connection: a request, its answer. For everything around the measurement, and for one request in flight.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::BytesMut;
use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::{self, RemotingCommand};

const READ_BYTES: usize = 256 * 1024;

/// A connection that is asked one thing at a time, or many with the answers read one by one.
pub(crate) struct Caller {
    stream: TcpStream,
    input: BytesMut,
    chunk: Vec<u8>,
    next_opaque: i32,
}

impl Caller {
    /// Connects within `timeout`.
    pub(crate) fn connect(address: SocketAddr, timeout: Duration) -> std::io::Result<Caller> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Caller {
            stream,
            input: BytesMut::new(),
            chunk: vec![0; READ_BYTES],
            next_opaque: 1,
        })
    }

    /// Writes a request and returns its number.
    pub(crate) fn send(&mut self, mut request: RemotingCommand) -> std::io::Result<i32> {
        request.opaque = self.next_opaque;
        self.next_opaque = self.next_opaque.wrapping_add(1);
        let mut out = BytesMut::new();
        request.encode(&mut out);
        self.stream.write_all(&out)?;
        Ok(request.opaque)
    }

    /// The next answer; an error of kind `TimedOut` when there is none in time.
    pub(crate) fn receive(&mut self, timeout: Duration) -> std::io::Result<RemotingCommand> {
        let deadline = Instant::now() + timeout;
        loop {
            match frame::decode(&mut self.input) {
                Ok(Some(command)) if command.is_response() => return Ok(command),
                // What the server asks of its clients is no concern of a load generator.
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(error) => return Err(std::io::Error::new(ErrorKind::InvalidData, error)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut self.chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.input.extend_from_slice(&self.chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks and waits for the answer to this request; answers to earlier ones are dropped.
    pub(crate) fn call(&mut self, request: RemotingCommand, timeout: Duration) -> std::io::Result<RemotingCommand> {
        let opaque = self.send(request)?;
        let deadline = Instant::now() + timeout;
        loop {
            let answer = self.receive(deadline.saturating_duration_since(Instant::now()))?;
            if answer.opaque == opaque {
                return Ok(answer);
            }
        }
    }

    /// Asks; any code but success is an error that names the server's reason.
    pub(crate) fn expect(&mut self, request: RemotingCommand, timeout: Duration) -> anyhow::Result<RemotingCommand> {
        let code = request.code;
        let answer = self.call(request, timeout).with_context(|| format!("request {code}"))?;
        anyhow::ensure!(
            answer.code == response::SUCCESS,
            "request {code} was answered with code {}: {}",
            answer.code,
            answer.remark.unwrap_or_default()
        );
        Ok(answer)
    }
}
