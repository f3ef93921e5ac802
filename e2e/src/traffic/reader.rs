//! Reads every queue at one node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::{PAUSE, connected};
use crate::client::Client;
use crate::history::{Place, Receive};

/// See the module.
pub struct Reader {
    pub node: usize,
    pub address: SocketAddr,
    pub topic: String,
    /// By node and queue: where to read on.
    pub read_to: Arc<Mutex<BTreeMap<(usize, u32), i64>>>,
    /// What there is to read in each queue, once nothing is sent any more.
    pub ends: Arc<OnceLock<Vec<i64>>>,
}

impl Reader {
    /// Reads until it has everything; returns what came.
    pub fn run(&self, queues: u32) -> Vec<Receive> {
        let mut receives = Vec::new();
        let mut next: BTreeMap<u32, i64> = (0..queues).map(|queue| (queue, 0)).collect();
        let mut client: Option<Client> = None;
        while !self.has_all(&next) {
            let before = receives.len();
            for (queue, offset) in &mut next {
                let Some(connected) = connected(&mut client, self.address) else {
                    break;
                };
                let Ok(messages) = connected.pull(&self.topic, *queue, *offset) else {
                    client = None;
                    continue;
                };
                for (at, value) in messages {
                    *offset = at + 1;
                    let place = Place {
                        queue: *queue,
                        offset: at,
                    };
                    receives.push(Receive { place, value });
                }
                self.read_to.lock().insert((self.node, *queue), *offset);
            }
            if receives.len() == before {
                std::thread::sleep(PAUSE);
            }
        }
        receives
    }

    fn has_all(&self, next: &BTreeMap<u32, i64>) -> bool {
        let ends = self.ends.get();
        ends.is_some_and(|ends| next.values().zip(ends).all(|(next, end)| next >= end))
    }
}
