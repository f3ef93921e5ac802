//! A consumer that takes part in consumer groups and consumes nothing: it beats at every node over a connection of its
//! own, as official clients do but more often, and notes what it is told. It broadcasts, so that no retry topic is made
//! for its groups.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use flotilla_api::remoting::codes::{request, response};
use flotilla_api::remoting::frame::{self, RemotingCommand};
use parking_lot::Mutex;
use serde_json::json;

/// Between two heartbeats at one node, and before a lost connection is made anew.
const BEAT: Duration = Duration::from_millis(300);
/// How long one look at one connection takes at most.
const LOOK: Duration = Duration::from_millis(5);
/// How long a first heartbeat or a farewell may take.
const ANSWER: Duration = Duration::from_secs(10);

/// What a consumer was told so far.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Heartbeats answered with success.
    pub beats: u64,
    /// Heartbeats answered otherwise: when, and how.
    pub refused: Vec<(Instant, String)>,
    /// Groups whose members changed, as it was told: when, and which.
    pub changes: Vec<(Instant, String)>,
}

/// A consumer; dropping it closes its connections.
pub struct Consumer {
    client_id: String,
    told: Arc<Mutex<Told>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Connection>>>,
}

impl Consumer {
    /// Joins these groups, through the first port, then beats at all of them.
    pub fn start(client_id: &str, groups: &[String], ports: &[u16]) -> Result<Self> {
        Self::subscribing(client_id, groups, "T", ports)
    }

    /// The same with a topic of choice.
    pub fn subscribing(client_id: &str, groups: &[String], topic: &str, ports: &[u16]) -> Result<Self> {
        let heartbeat = heartbeat(client_id, groups, topic);
        let told = Arc::new(Mutex::new(Told::default()));
        let mut connections: Vec<Connection> = ports.iter().map(|port| Connection::to(*port)).collect();
        for connection in &mut connections {
            connection.call(&heartbeat, &told)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (told, stop) = (told.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for connection in &mut connections {
                        connection.beat(&heartbeat, &told);
                    }
                }
                connections
            })
        };
        Ok(Self {
            client_id: client_id.to_owned(),
            told,
            stop,
            thread: Some(thread),
        })
    }

    /// What it was told so far.
    pub fn told(&self) -> Told {
        self.told.lock().clone()
    }

    /// Says at every node that it leaves the groups, and hangs up.
    pub fn leave(mut self, groups: &[String]) -> Result<()> {
        for mut connection in self.stop() {
            for group in groups {
                let mut farewell = RemotingCommand::request(request::UNREGISTER_CLIENT);
                farewell.fields.push("clientID", &self.client_id);
                farewell.fields.push("consumerGroup", group);
                connection.call(&farewell, &self.told)?;
            }
        }
        Ok(())
    }

    fn stop(&mut self) -> Vec<Connection> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        ended.and_then(Result::ok).unwrap_or_default()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

fn heartbeat(client_id: &str, groups: &[String], topic: &str) -> RemotingCommand {
    let consumers = groups.iter().map(|group| {
        json!({
            "groupName": group, "consumeType": "CONSUME_PASSIVELY", "messageModel": "BROADCASTING",
            "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET",
            "subscriptionDataSet": [{"topic": topic, "subString": "*", "subVersion": 1}],
        })
    });
    let consumers: Vec<_> = consumers.collect();
    let body = json!({ "clientID": client_id, "consumerDataSet": consumers, "producerDataSet": [] });
    RemotingCommand::request(request::HEART_BEAT).with_body(Bytes::from(body.to_string()))
}

/// A connection to one node, made again when it is lost.
struct Connection {
    port: u16,
    stream: Option<TcpStream>,
    received: BytesMut,
    last: Option<Instant>,
    opaque: i32,
}

impl Connection {
    fn to(port: u16) -> Self {
        Self {
            port,
            stream: None,
            received: BytesMut::new(),
            last: None,
            opaque: 0,
        }
    }

    /// Takes what has come, and sends a heartbeat when it is time.
    fn beat(&mut self, heartbeat: &RemotingCommand, told: &Mutex<Told>) {
        if self.receive(told, None).is_err() {
            self.stream = None;
        }
        if self.last.is_none_or(|last| last.elapsed() >= BEAT) {
            self.last = Some(Instant::now());
            if self.send(heartbeat).is_err() {
                self.stream = None;
            }
        }
    }

    /// Sends a request and waits until it is answered with success.
    fn call(&mut self, request: &RemotingCommand, told: &Mutex<Told>) -> Result<()> {
        let opaque = self.send(request)?;
        let deadline = Instant::now() + ANSWER;
        loop {
            if let Some(answer) = self.receive(told, Some(opaque))? {
                ensure!(
                    answer.code == response::SUCCESS,
                    "code {}: {:?}",
                    answer.code,
                    answer.remark
                );
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no answer within {ANSWER:?}");
        }
    }

    fn send(&mut self, request: &RemotingCommand) -> Result<i32> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                self.received.clear();
                let address = ([127, 0, 0, 1], self.port).into();
                let stream = TcpStream::connect_timeout(&address, BEAT).context("connect")?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(LOOK))?;
                stream.set_write_timeout(Some(ANSWER))?;
                self.stream.insert(stream)
            }
        };
        self.opaque += 1;
        let mut request = request.clone();
        request.opaque = self.opaque;
        let mut out = BytesMut::new();
        request.encode(&mut out);
        stream.write_all(&out).context("write")?;
        Ok(self.opaque)
    }

    /// Takes what has come for a moment; returns the answer to `wanted` if it is there.
    fn receive(&mut self, told: &Mutex<Told>, wanted: Option<i32>) -> Result<Option<RemotingCommand>> {
        let Some(stream) = &mut self.stream else {
            std::thread::sleep(LOOK);
            return Ok(None);
        };
        let mut bytes = [0; 16 * 1024];
        match stream.read(&mut bytes) {
            Ok(0) => anyhow::bail!("the node closed the connection"),
            Ok(count) => self.received.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("read"),
        }
        while let Some(frame) = frame::decode(&mut self.received)? {
            let mut told = told.lock();
            if !frame.is_response() {
                if frame.code == request::NOTIFY_CONSUMER_IDS_CHANGED {
                    let group = frame.fields.get("consumerGroup").unwrap_or_default();
                    told.changes.push((Instant::now(), group.to_owned()));
                }
            } else if Some(frame.opaque) == wanted {
                return Ok(Some(frame));
            } else if frame.code == response::SUCCESS {
                told.beats += 1;
            } else {
                let remark = frame.remark.as_deref().unwrap_or_default();
                told.refused
                    .push((Instant::now(), format!("code {}: {remark}", frame.code)));
            }
        }
        Ok(None)
    }
}
