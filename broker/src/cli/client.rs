//! A small client of the remoting protocol, for the shell commands: one connection, many requests at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::BytesMut;
use flotilla_api::remoting::frame::{self, RemotingCommand};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const READ_BYTES: usize = 64 << 10;

type Waiting = Arc<Mutex<Option<HashMap<i32, oneshot::Sender<RemotingCommand>>>>>;

/// A connection to one node.
#[derive(Debug)]
pub struct Client {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    /// `None` once the connection is closed.
    waiting: Waiting,
    next_opaque: AtomicI32,
    /// This connection's client id, `ip@process`.
    pub client_id: String,
}

impl Client {
    /// Connects to any remoting port of any node.
    pub async fn connect(server: &str) -> anyhow::Result<Self> {
        let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(server)).await;
        let stream = connecting.context("no answer").and_then(|done| Ok(done?));
        let stream = stream.with_context(|| format!("connect to {server}"))?;
        stream.set_nodelay(true)?;
        let client_id = format!("{}@{}", stream.local_addr()?.ip(), std::process::id());
        let (reader, writer) = stream.into_split();
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::spawn(read_answers(reader, waiting.clone()));
        Ok(Self {
            writer: writer.into(),
            waiting,
            next_opaque: AtomicI32::new(1),
            client_id,
        })
    }

    /// Sends a request and waits for its answer, whatever its code.
    pub async fn ask(&self, mut request: RemotingCommand, patience: Duration) -> anyhow::Result<RemotingCommand> {
        request.opaque = self.next_opaque.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        match self.waiting.lock().as_mut() {
            Some(waiting) => waiting.insert(request.opaque, answer),
            None => bail!("the connection is closed"),
        };
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        self.writer.lock().await.write_all(&bytes).await.context("send")?;
        match timeout(patience, answered).await {
            Ok(answer) => answer.context("the connection was closed before the answer came"),
            Err(_) => {
                if let Some(waiting) = self.waiting.lock().as_mut() {
                    waiting.remove(&request.opaque);
                }
                bail!("no answer within {} ms", patience.as_millis())
            }
        }
    }

    /// As [`Client::ask`]; any code but success is an error.
    pub async fn demand(&self, request: RemotingCommand, patience: Duration) -> anyhow::Result<RemotingCommand> {
        let answer = self.ask(request, patience).await?;
        if answer.code != flotilla_api::remoting::codes::response::SUCCESS {
            bail!("code {}: {}", answer.code, answer.remark.unwrap_or_default());
        }
        Ok(answer)
    }
}

async fn read_answers(mut reader: OwnedReadHalf, waiting: Waiting) {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        match frame::decode(&mut buffer) {
            Ok(Some(answer)) => {
                // Requests of the server are hints this client does without; they count `opaque` on their own.
                if !answer.is_response() {
                    continue;
                }
                let waits = waiting
                    .lock()
                    .as_mut()
                    .and_then(|waiting| waiting.remove(&answer.opaque));
                if let Some(waits) = waits {
                    // A waiter that gave up does not care.
                    let _ = waits.send(answer);
                }
                continue;
            }
            Ok(None) => {}
            Err(_) => break,
        }
        if !matches!(reader.read_buf(&mut buffer).await, Ok(read) if read > 0) {
            break;
        }
    }
    *waiting.lock() = None;
}
