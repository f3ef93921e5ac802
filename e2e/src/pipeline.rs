//! A client that does not wait: many sends to each of some queues are under way on one connection, written in the order of
//! their numbers. What is stored must be in that order.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::BytesMut;
use flotilla_api::remoting::frame;

use crate::client::send_request;
use crate::history::Dump;

/// How long nothing may come while answers are due.
const PATIENCE: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 64 * 1024;

/// What a connection sends.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The node.
    pub address: SocketAddr,
    /// Tells the connection's messages from those of others.
    pub name: String,
    /// The topic.
    pub topic: String,
    /// Queues 0 up to this one.
    pub queues: u32,
    /// Sends to one queue under way at a time.
    pub window: u64,
    /// Sends to one queue altogether; ends earlier when it is told to.
    pub messages_max: u64,
}

/// Sends to one queue that one connection made.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// How many; they are numbered from 0.
    pub count: u64,
    /// Numbers that were not acknowledged, with the answer's code and remark.
    pub refused: BTreeMap<u64, String>,
}

/// A connection at work.
pub struct Pipeline {
    plan: Plan,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    work: JoinHandle<Result<BTreeMap<u32, Sent>>>,
}

impl Pipeline {
    /// Begins.
    pub fn start(plan: Plan) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let work = {
            let (plan, stop, answered) = (plan.clone(), stop.clone(), answered.clone());
            std::thread::spawn(move || run(&plan, &stop, &answered))
        };
        Self {
            plan,
            stop,
            answered,
            work,
        }
    }

    /// Sends that were answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Ends it if it has not ended, and waits for the answers to what was sent.
    pub fn finish(self, stop: bool) -> Result<(Plan, BTreeMap<u32, Sent>)> {
        self.stop.fetch_or(stop, Ordering::Relaxed);
        let sent = self.work.join().expect("a pipeline does not panic");
        let sent = sent.with_context(|| format!("connection {}", self.plan.name))?;
        Ok((self.plan, sent))
    }
}

fn body(name: &str, queue: u32, number: u64) -> String {
    format!("{name} {queue} {number}")
}

fn run(plan: &Plan, stop: &AtomicBool, answered: &AtomicU64) -> Result<BTreeMap<u32, Sent>> {
    let mut stream = TcpStream::connect(plan.address).context("connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut sent: BTreeMap<u32, Sent> = (0..plan.queues).map(|queue| (queue, Sent::default())).collect();
    let mut under_way: HashMap<i32, (u32, u64)> = HashMap::new();
    let mut room = vec![plan.window; plan.queues as usize];
    let mut opaque = 0;
    let mut input = BytesMut::new();
    loop {
        let mut output = BytesMut::new();
        for (queue, sent) in &mut sent {
            let room = &mut room[*queue as usize];
            while *room > 0 && sent.count < plan.messages_max && !stop.load(Ordering::Relaxed) {
                let mut request = send_request(&plan.topic, (*queue).into(), body(&plan.name, *queue, sent.count));
                opaque += 1;
                request.opaque = opaque;
                request.encode(&mut output);
                under_way.insert(opaque, (*queue, sent.count));
                sent.count += 1;
                *room -= 1;
            }
        }
        stream.write_all(&output).context("write requests")?;
        if under_way.is_empty() {
            return Ok(sent);
        }
        let mut bytes = [0; READ_BYTES];
        let count = stream.read(&mut bytes).context("wait for answers")?;
        ensure!(count > 0, "the node closed the connection");
        input.extend_from_slice(&bytes[..count]);
        while let Some(answer) = frame::decode(&mut input).context("read an answer")? {
            let Some((queue, number)) = under_way.remove(&answer.opaque) else {
                continue;
            };
            room[queue as usize] += 1;
            answered.fetch_add(1, Ordering::Relaxed);
            if answer.code != 0 {
                let told = format!("{}: {}", answer.code, answer.remark.unwrap_or_default());
                sent.entry(queue).or_default().refused.insert(number, told);
            }
        }
    }
}

/// What is stored of what pipelines sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Messages sent.
    pub sent: u64,
    /// Messages that were not acknowledged.
    pub refused: u64,
    /// Messages that stand behind a later one of their connection and queue.
    pub late: u64,
    /// Acknowledged messages that are not there.
    pub lost: u64,
    /// Messages that are there more than once.
    pub doubled: u64,
    /// The first few of what is wrong.
    pub examples: Vec<String>,
}

impl Order {
    const EXAMPLES_MAX: usize = 8;

    /// True if every message is there once, in order.
    pub fn holds(&self) -> bool {
        self.refused == 0 && self.late == 0 && self.lost == 0 && self.doubled == 0
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < Self::EXAMPLES_MAX {
            self.examples.push(text);
        }
    }

    /// Holds a whole read of the topic against what one connection sent.
    pub fn check(&mut self, dump: &Dump, plan: &Plan, sent: &BTreeMap<u32, Sent>) {
        let prefix = format!("{} ", plan.name);
        for (queue, sent) in sent {
            self.sent += sent.count;
            self.refused += sent.refused.len() as u64;
            for (number, told) in &sent.refused {
                self.example(format!("{prefix}{queue} {number} was answered {told}"));
            }
            let mut seen = vec![0_u32; sent.count as usize];
            let mut newest = None;
            let messages = dump
                .0
                .get(queue)
                .map(|read| read.messages.as_slice())
                .unwrap_or_default();
            for (offset, text) in messages.iter().filter(|(_, text)| text.starts_with(&prefix)) {
                let Some(number) = text.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()) else {
                    continue;
                };
                if newest > Some(number) {
                    self.late += 1;
                    self.example(format!("{text} at {offset} stands behind number {newest:?}"));
                }
                newest = newest.max(Some(number));
                seen[number as usize] += 1;
            }
            for (number, times) in (0..).zip(&seen) {
                self.doubled += u64::from(*times > 1);
                if *times == 0 && !sent.refused.contains_key(&number) {
                    self.lost += 1;
                    self.example(format!("{prefix}{queue} {number} is not there"));
                }
            }
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            refused,
            late,
            lost,
            doubled,
            examples,
        } = self;
        write!(
            f,
            "{sent} sent, {refused} refused, {late} out of order, {lost} lost, {doubled} doubled"
        )?;
        examples.iter().try_for_each(|example| write!(f, "\n  {example}"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::history::QueueDump;

    fn checked(numbers: &[u64], count: u64, refused: &[u64]) -> Order {
        let plan = Plan {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            name: "c1".to_owned(),
            topic: "T".to_owned(),
            queues: 1,
            window: 1,
            messages_max: 1,
        };
        let mut messages: Vec<_> = (0..).zip(numbers.iter().map(|number| body("c1", 0, *number))).collect();
        messages.push((99, body("c10", 0, 7)));
        let read = QueueDump {
            first_offset: 0,
            end_offset: 100,
            messages,
        };
        let sent = Sent {
            count,
            refused: refused.iter().map(|number| (*number, "14".to_owned())).collect(),
        };
        let mut order = Order::default();
        order.check(&Dump([(0, read)].into()), &plan, &[(0, sent)].into());
        order
    }

    #[test]
    fn every_fault_is_found() {
        assert!(checked(&[0, 1, 2], 3, &[]).holds());
        let counted = |order: Order| (order.late, order.lost, order.doubled, order.refused);
        assert_eq!(counted(checked(&[0, 2, 1], 3, &[])), (1, 0, 0, 0));
        assert_eq!(counted(checked(&[0, 2], 3, &[])), (0, 1, 0, 0));
        assert_eq!(counted(checked(&[0, 2], 3, &[1])), (0, 0, 0, 1));
        assert_eq!(counted(checked(&[0, 1, 1, 2], 3, &[])), (0, 0, 1, 0));
    }
}
