//! Starts real clusters, drives them with official clients, breaks them, and checks the history.
//!
//! | module | what it is |
//! |---|---|
//! | [`cluster`] | controllers and nodes that form one cluster, its Raft groups |
//! | [`process`] | one process: its ports, its data, its log |
//! | [`host`], [`network`] | where a process runs; machines with addresses of their own, and cuts between them |
//! | [`fault`] | kill, pause, stop: only processes that a [`cluster::Cluster`] started |
//! | [`client`] | a small remoting client of our own, to read whole topics and offsets |
//! | [`consumer`] | a member of consumer groups that consumes nothing and notes what it is told |
//! | [`http`], [`admin`] | the admin API as a caller sees it; short ways to ask it |
//! | [`command`] | the `flotilla` program as a shell runs it |
//! | [`client_view`] | what applications on official clients notice of a fault |
//! | [`java`] | official Java clients: built once a version, run as processes |
//! | [`load_run`] | those clients send and receive while something is done to the cluster, and what they saw |
//! | [`history`] | what was sent, acknowledged, received and stored, and the checks on it |
//! | [`traffic`] | sends and reads through every node at once, kept for a history |
//! | [`pipeline`] | many sends under way on one connection, and the order in which they are stored |
//! | [`moves`] | queues moved between Raft groups |
//! | [`settings`] | environment variables that change a run |
//! | [`ports`], [`wait`] | free ports; conditions to wait for |
//! | [`raw`] | sockets without a protocol, for bytes that no client sends |
//! | [`resources`] | memory and open files of a process |
//! | [`sim`] | the simulator: virtual time, disk and network |
//! | [`small_disk`] | a disk that can be filled up |
//! | [`progress`] | lines that show even while the test harness captures output |
//!
//! `tests/` holds one file a promise. They need the `flotilla` program of the same build: `cargo build --release` first.

pub mod admin;
pub mod client;
pub mod client_view;
pub mod cluster;
pub mod command;
pub mod consumer;
pub mod fault;
pub mod history;
pub mod host;
pub mod http;
pub mod java;
pub mod load_run;
pub mod moves;
pub mod network;
pub mod pipeline;
pub mod ports;
pub mod process;
pub mod progress;
pub mod raw;
pub mod resources;
pub mod settings;
pub mod sim;
pub mod small_disk;
pub mod traffic;
pub mod wait;
