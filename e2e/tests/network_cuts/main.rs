//! Cuts of the network, one way and both ways, between processes that go on running: nodes with the Raft groups they lead
//! and follow, the node that a client talks to, controllers, two nodes that still reach the third. Every process has a
//! machine of its own in a network of the test (see `flotilla_e2e::network`), and what is cut is lost in silence.
//!
//! All the while every queue is sent to and read at every node. At the end the history of everything that clients saw holds:
//! nothing acknowledged is lost, doubled, moved or out of order, and nothing refused is stored.
//!
//! The tests run one after another, so that the times they print are not those of three clusters on one machine.

mod controllers;
mod figures;
mod moves;
mod nodes;
mod pairs;
mod scene;
