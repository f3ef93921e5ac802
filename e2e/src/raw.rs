//! Sockets without a protocol: any bytes to any port, and what comes back.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::BytesMut;
use flotilla_api::remoting::frame::{self, RemotingCommand};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a server may take to take bytes, to answer and to close.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes read at a time.
const READ_BYTES: usize = 64 * 1024;

/// How a conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server closed the connection, in order or by a reset.
    Closed,
    /// It kept it open for all of the time.
    Open,
}

/// A connection to a port of this machine.
pub struct Raw {
    stream: TcpStream,
    received: BytesMut,
}

impl Raw {
    /// Connects.
    pub fn connect(port: u16) -> Result<Self> {
        let address = ([127, 0, 0, 1], port).into();
        let stream = TcpStream::connect_timeout(&address, CONNECT).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            received: BytesMut::new(),
        })
    }

    /// How long the server may take to take bytes, from now on.
    pub fn set_write_patience(&mut self, patience: Duration) -> Result<()> {
        Ok(self.stream.set_write_timeout(Some(patience))?)
    }

    /// Sends bytes; false when the server does not want them any more.
    pub fn send(&mut self, bytes: &[u8]) -> Result<bool> {
        match self.stream.write_all(bytes) {
            Ok(()) => Ok(true),
            Err(error) if is_close(&error) => Ok(false),
            Err(error) => Err(error).context("the server neither takes bytes nor closes"),
        }
    }

    /// Says that nothing more will come.
    pub fn finish(&self) {
        // A server that closed already is as well.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Sends a request.
    pub fn ask(&mut self, request: &RemotingCommand) -> Result<()> {
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        ensure!(self.send(&bytes)?, "the server closed the connection");
        Ok(())
    }

    /// The next frame of the remoting protocol.
    pub fn answer(&mut self) -> Result<RemotingCommand> {
        loop {
            if let Some(answer) = frame::decode(&mut self.received).context("read the answer")? {
                return Ok(answer);
            }
            ensure!(self.receive()? > 0, "the server closed the connection");
        }
    }

    /// So many bytes.
    pub fn exactly(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.received.len() < count {
            ensure!(self.receive()? > 0, "the server closed the connection");
        }
        Ok(self.received.split_to(count).to_vec())
    }

    /// Everything that comes until the server closes, but for no longer than this.
    pub fn rest(&mut self, patience: Duration) -> Result<(Vec<u8>, End)> {
        let deadline = Instant::now() + patience;
        let end = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break End::Open;
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.receive() {
                Ok(0) => break End::Closed,
                Ok(_) => {}
                Err(error) if is_close(&error) => break End::Closed,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        };
        self.stream.set_read_timeout(Some(PATIENCE))?;
        Ok((self.received.split().to_vec(), end))
    }

    fn receive(&mut self) -> io::Result<usize> {
        let mut bytes = [0; READ_BYTES];
        let count = self.stream.read(&mut bytes)?;
        self.received.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

/// Sends bytes on a connection of its own; what comes back until the server closes.
pub fn converse(port: u16, bytes: &[u8], patience: Duration) -> Result<(Vec<u8>, End)> {
    let mut raw = Raw::connect(port)?;
    raw.send(bytes)?;
    raw.rest(patience)
}

/// The same, where nothing more will come from us.
pub fn converse_and_finish(port: u16, bytes: &[u8]) -> Result<(Vec<u8>, End)> {
    let mut raw = Raw::connect(port)?;
    raw.send(bytes)?;
    raw.finish();
    raw.rest(PATIENCE)
}

fn is_close(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_came_and_how_it_ended_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut first, _) = listener.accept().unwrap();
            first.write_all(b"go away").unwrap();
            drop(first);
            listener.accept().unwrap()
        });
        assert_eq!(
            converse(port, b"", PATIENCE).unwrap(),
            (b"go away".to_vec(), End::Closed)
        );
        assert_eq!(
            converse(port, b"", Duration::from_millis(50)).unwrap(),
            (Vec::new(), End::Open)
        );
        server.join().unwrap();
    }
}
