//! Sends to one queue through one node, one after another.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use flotilla_api::remoting::frame::RemotingCommand;
use parking_lot::Mutex;

use super::{Attempt, connected};
use crate::client::{Client, send_request};
use crate::history::{Outcome, Place};

const SUCCESS: i32 = 0;
/// How the answer to a send of unknown outcome begins.
const UNKNOWN: &str = "[UNKNOWN]";

/// See the module.
pub struct Lane {
    pub node: usize,
    pub queue: u32,
    pub address: SocketAddr,
    pub topic: String,
    /// Between two sends.
    pub pause: Duration,
}

impl Lane {
    /// Sends until told to stop.
    pub fn run(&self, log: &Mutex<Vec<Attempt>>, stop: &AtomicBool) {
        let mut client: Option<Client> = None;
        let mut number = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(self.pause);
            let Some(connected) = connected(&mut client, self.address) else {
                continue;
            };
            number += 1;
            let value = format!("{}/{}/{number}", self.node, self.queue);
            let begin = Instant::now();
            let answer = connected.call(send_request(&self.topic, self.queue.into(), value.clone()));
            let end = Instant::now();
            if answer.is_err() {
                client = None;
            }
            let (outcome, told) = outcome(self.queue, answer);
            log.lock().push(Attempt {
                node: self.node,
                queue: self.queue,
                value,
                begin,
                end,
                outcome,
                told,
            });
        }
    }
}

/// What an answer to a send means to who sent it.
fn outcome(queue: u32, answer: Result<RemotingCommand>) -> (Outcome, String) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return (Outcome::Unknown, format!("no answer: {error:#}")),
    };
    let remark = answer.remark.as_deref().unwrap_or_default();
    let told = format!("code {}: {remark}", answer.code);
    let outcome = match (answer.code, answer.fields.i64("queueOffset")) {
        (SUCCESS, Some(offset)) => Outcome::Stored(Place { queue, offset }),
        (SUCCESS, None) => Outcome::Unknown,
        _ if remark.starts_with(UNKNOWN) => Outcome::Unknown,
        _ => Outcome::Failed,
    };
    (outcome, told)
}
