//! The client connections of this node, and the clients whose heartbeats came over them.
//!
//! This is what the node itself saw: no part of the replicated state. Replicated membership (`state/`) says who
//! belongs to a consumer group; this table says over which connection of this node a client can be reached, and
//! whether a client that is a member is still alive here. It is lost with the process, and rebuilt by heartbeats.
//!
//! Holds: every table is bounded; a connection is in the table exactly while its task runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flotilla_api::remoting::frame::RemotingCommand;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use crate::answers::READS_PER_CONNECTION_MAX;
use crate::lanes::Lanes;
use crate::state::Subscription;

/// Most client ids one connection may announce: a process with many client instances shares no connection.
pub const CLIENTS_PER_CONNECTION_MAX: usize = 256;

/// Requests of ours (notifications) waiting for one connection. They are hints: what does not fit is dropped.
pub const PUSHES_WAITING_MAX: usize = 64;

/// A client without a heartbeat for this long is no longer alive here, whatever its connection says.
pub const CLIENT_SILENT_MAX: Duration = Duration::from_secs(120);

/// One accepted connection, as the rest of the node sees it.
#[derive(Debug)]
pub struct Connection {
    /// Number within this process.
    pub id: u64,
    /// The client's address.
    pub peer: SocketAddrV4,
    /// Pulls of this connection that are parked: they do not count as requests in flight.
    pub parked: AtomicUsize,
    /// The node shown to this connection as its home (`route.rs`); chosen once.
    pub home: Mutex<Option<String>>,
    /// Shared by offset updates under way; a query of offsets takes it alone once, behind the updates before it.
    /// Clients send updates one way and read them back at once.
    pub offset_updates: tokio::sync::RwLock<()>,
    /// The order of its sends.
    pub lanes: Lanes,
    /// Turns of requests that read messages.
    reads: Semaphore,
    pushes: mpsc::Sender<RemotingCommand>,
}

impl Connection {
    /// Sends a request of ours to the client, unless too many wait already.
    pub fn push(&self, request: RemotingCommand) -> bool {
        self.pushes.try_send(request).is_ok()
    }

    /// Waits for a turn to read messages for an answer; with `alone` until no other request has one.
    pub async fn read_turn(&self, alone: bool) -> SemaphorePermit<'_> {
        let turns = if alone { READS_PER_CONNECTION_MAX } else { 1 };
        self.reads.acquire_many(turns).await.expect("never closed")
    }

    /// Marks one more request of this connection as parked until the guard is dropped.
    pub fn parked(self: &Arc<Self>) -> ParkedRequest {
        self.parked.fetch_add(1, Ordering::Relaxed);
        ParkedRequest(Arc::clone(self))
    }
}

/// See [`Connection::parked`].
#[derive(Debug)]
pub struct ParkedRequest(Arc<Connection>);

impl Drop for ParkedRequest {
    fn drop(&mut self) {
        self.0.parked.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one heartbeat said about one client.
#[derive(Clone, Debug)]
pub struct SeenClient {
    /// The client's id.
    pub client_id: String,
    /// Language code of its header.
    pub language: u8,
    /// Version number of its header.
    pub version: i32,
    /// Consumer groups it listed.
    pub consumer_groups: BTreeSet<String>,
    /// Producer groups it listed.
    pub producer_groups: BTreeSet<String>,
    /// What it subscribes to, by consumer group; `None` if it did not say this time.
    pub subscriptions: Option<BTreeMap<String, Vec<Subscription>>>,
}

/// A producer of a group, for the tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectedProducer {
    /// The client's id.
    pub client_id: String,
    /// Where it is connected from.
    pub peer: SocketAddrV4,
    /// Language code.
    pub language: u8,
    /// Version number.
    pub version: i32,
}

/// A client whose last connection to this node closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    /// The client's id.
    pub client_id: String,
    /// The consumer groups it was in.
    pub consumer_groups: BTreeSet<String>,
}

#[derive(Debug)]
struct Client {
    seen: SeenClient,
    last_heartbeat: Instant,
    /// Connections it sent heartbeats over, the latest last.
    connections: Vec<Arc<Connection>>,
}

#[derive(Debug, Default)]
struct Tables {
    next_id: u64,
    connections: HashMap<u64, (Arc<Connection>, BTreeSet<String>)>,
    clients: BTreeMap<String, Client>,
}

/// All client connections of a node.
#[derive(Debug)]
pub struct ConnectionTable {
    connections_max: usize,
    tables: Mutex<Tables>,
}

impl ConnectionTable {
    /// An empty table for at most `connections_max` connections, all ports together.
    pub fn new(connections_max: usize) -> Self {
        Self {
            connections_max,
            tables: Mutex::default(),
        }
    }

    /// Enters a new connection; `None` when there are too many. The receiver yields requests of ours to send on it.
    pub fn admit(&self, peer: SocketAddrV4) -> Option<(Arc<Connection>, mpsc::Receiver<RemotingCommand>)> {
        let mut tables = self.tables.lock();
        if tables.connections.len() >= self.connections_max {
            return None;
        }
        let id = tables.next_id;
        tables.next_id += 1;
        let (pushes, receiver) = mpsc::channel(PUSHES_WAITING_MAX);
        let connection = Arc::new(Connection {
            id,
            peer,
            parked: AtomicUsize::new(0),
            home: Mutex::new(None),
            offset_updates: tokio::sync::RwLock::new(()),
            lanes: Lanes::default(),
            reads: Semaphore::new(READS_PER_CONNECTION_MAX as usize),
            pushes,
        });
        tables
            .connections
            .insert(id, (Arc::clone(&connection), BTreeSet::new()));
        Some((connection, receiver))
    }

    /// Takes a closed connection out; returns the clients that have no other connection to this node.
    pub fn remove(&self, id: u64) -> Vec<Departed> {
        let mut tables = self.tables.lock();
        let Some((_, client_ids)) = tables.connections.remove(&id) else {
            return Vec::new();
        };
        let mut departed = Vec::new();
        for client_id in client_ids {
            let Some(client) = tables.clients.get_mut(&client_id) else {
                continue;
            };
            client.connections.retain(|connection| connection.id != id);
            if client.connections.is_empty()
                && let Some(client) = tables.clients.remove(&client_id)
            {
                departed.push(Departed {
                    client_id,
                    consumer_groups: client.seen.consumer_groups,
                });
            }
        }
        departed
    }

    /// Notes a heartbeat; says whether this connection announced the client before. `None` when the connection is
    /// gone or announced too many clients already.
    pub fn heartbeat(&self, connection: &Arc<Connection>, seen: SeenClient) -> Option<bool> {
        let mut tables = self.tables.lock();
        let (_, client_ids) = tables.connections.get_mut(&connection.id)?;
        if client_ids.len() >= CLIENTS_PER_CONNECTION_MAX && !client_ids.contains(&seen.client_id) {
            return None;
        }
        let known = !client_ids.insert(seen.client_id.clone());
        let now = Instant::now();
        match tables.clients.get_mut(&seen.client_id) {
            Some(client) => {
                client.connections.retain(|known| known.id != connection.id);
                client.connections.push(Arc::clone(connection));
                let before = client.seen.subscriptions.take();
                client.seen = seen;
                client.seen.subscriptions = client.seen.subscriptions.take().or(before);
                client.last_heartbeat = now;
            }
            None => {
                let client_id = seen.client_id.clone();
                let connections = vec![Arc::clone(connection)];
                tables.clients.insert(
                    client_id,
                    Client {
                        seen,
                        last_heartbeat: now,
                        connections,
                    },
                );
            }
        }
        Some(known)
    }

    /// A client unregistered from a producer group, a consumer group, or both.
    pub fn unregister(&self, client_id: &str, producer_group: Option<&str>, consumer_group: Option<&str>) {
        let mut tables = self.tables.lock();
        if let Some(client) = tables.clients.get_mut(client_id) {
            if let Some(group) = producer_group {
                client.seen.producer_groups.remove(group);
            }
            if let Some(group) = consumer_group {
                client.seen.consumer_groups.remove(group);
            }
        }
    }

    /// Whether a client is alive here and announced this consumer group last.
    pub fn announces(&self, client_id: &str, consumer_group: &str) -> bool {
        let tables = self.tables.lock();
        let client = tables.clients.get(client_id).filter(|client| client.is_alive());
        client.is_some_and(|client| client.seen.consumer_groups.iter().any(|group| group == consumer_group))
    }

    /// What a consumer group subscribed to last in a topic, as its clients here said.
    pub fn subscription(&self, consumer_group: &str, topic: &str) -> Option<Subscription> {
        let tables = self.tables.lock();
        let said = tables.clients.values().filter_map(|client| {
            let subscriptions = client.seen.subscriptions.as_ref()?.get(consumer_group)?;
            subscriptions.iter().find(|subscription| subscription.topic == topic)
        });
        said.max_by_key(|subscription| subscription.version).cloned()
    }

    /// (client, consumer group) pairs that are alive here.
    pub fn alive_members(&self) -> Vec<(String, String)> {
        let tables = self.tables.lock();
        let alive = tables.clients.values().filter(|client| client.is_alive());
        alive
            .flat_map(|client| {
                let groups = client.seen.consumer_groups.iter();
                groups.map(|group| (client.seen.client_id.clone(), group.clone()))
            })
            .collect()
    }

    /// One connection per client of a consumer group.
    pub fn consumers_of(&self, consumer_group: &str) -> Vec<Arc<Connection>> {
        let tables = self.tables.lock();
        let members = tables
            .clients
            .values()
            .filter(|client| client.seen.consumer_groups.contains(consumer_group));
        members
            .filter_map(|client| client.connections.last().cloned())
            .collect()
    }

    /// Where the consumer `client_id` is connected from, if it is connected here.
    pub fn address_of(&self, client_id: &str) -> Option<SocketAddrV4> {
        let tables = self.tables.lock();
        tables
            .clients
            .get(client_id)
            .and_then(|client| client.connections.last())
            .map(|connection| connection.peer)
    }

    /// The producers of a group that are connected here.
    pub fn producers_of(&self, producer_group: &str) -> Vec<ConnectedProducer> {
        let tables = self.tables.lock();
        let members = tables
            .clients
            .values()
            .filter(|client| client.seen.producer_groups.contains(producer_group));
        members
            .filter_map(|client| {
                client.connections.last().map(|connection| ConnectedProducer {
                    client_id: client.seen.client_id.clone(),
                    peer: connection.peer,
                    language: client.seen.language,
                    version: client.seen.version,
                })
            })
            .collect()
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.tables.lock().connections.len()
    }

    /// True without any connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Client {
    fn is_alive(&self) -> bool {
        !self.connections.is_empty() && self.last_heartbeat.elapsed() < CLIENT_SILENT_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn peer(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
    }

    fn client(client_id: &str, consumer_group: &str) -> SeenClient {
        SeenClient {
            client_id: client_id.to_owned(),
            language: 0,
            version: 479,
            consumer_groups: BTreeSet::from([consumer_group.to_owned()]),
            producer_groups: BTreeSet::from(["PG".to_owned()]),
            subscriptions: None,
        }
    }

    #[test]
    fn a_client_departs_with_its_last_connection() {
        let table = ConnectionTable::new(10);
        let (first, _first_pushes) = table.admit(peer(1)).unwrap();
        let (second, _second_pushes) = table.admit(peer(2)).unwrap();
        assert_eq!(table.heartbeat(&first, client("c", "G")), Some(false));
        assert_eq!(table.heartbeat(&first, client("c", "G")), Some(true));
        assert_eq!(table.heartbeat(&second, client("c", "G")), Some(false));
        assert_eq!(table.remove(first.id), []);
        assert!(table.announces("c", "G"));
        let departed = table.remove(second.id);
        assert_eq!(departed.len(), 1);
        assert_eq!(departed[0].client_id, "c");
        assert!(!table.announces("c", "G"));
        assert!(table.is_empty());
    }

    #[test]
    fn pushes_go_to_the_latest_connection_of_each_client() {
        let table = ConnectionTable::new(10);
        let (first, _first_pushes) = table.admit(peer(1)).unwrap();
        let (second, _second_pushes) = table.admit(peer(2)).unwrap();
        table.heartbeat(&first, client("c", "G"));
        table.heartbeat(&second, client("c", "G"));
        table.heartbeat(&first, client("d", "G"));
        let ids: Vec<u64> = table.consumers_of("G").iter().map(|connection| connection.id).collect();
        assert_eq!(ids, [second.id, first.id]);
        table.unregister("c", None, Some("G"));
        assert_eq!(table.consumers_of("G").len(), 1);
        assert_eq!(table.producers_of("PG").len(), 2);
    }

    #[test]
    fn a_heartbeat_of_a_closed_connection_is_not_entered() {
        let table = ConnectionTable::new(10);
        let (connection, _pushes) = table.admit(peer(1)).unwrap();
        table.remove(connection.id);
        assert_eq!(table.heartbeat(&connection, client("c", "G")), None);
        assert!(!table.announces("c", "G"));
    }
}
