//! The words Flotilla shares with the outside.
//!
//! Codecs and types only: no socket, no clock, no async. Everything that is read here comes from a network or a disk and may
//! be anything, so every reader returns an error instead of panicking, and every length is checked before it is used.
//!
//! Spoken: the RocketMQ remoting protocol as of 5.3.3 ([`remoting`]), its stored-message layout ([`message`]), and
//! Flotilla's own HTTP API ([`http`]). POP request codes (2000xx) do not fit the binary header's int16 and arrive cut to
//! 16 bits (200050 as 3442); they are answered as unknown, as by the official server.
//!
//! | module | what it is |
//! |---|---|
//! | [`remoting`] | frames, request and response codes, headers, JSON bodies |
//! | [`message`], [`properties`], [`tag`], [`batch`], [`message_id`] | one message: bytes, properties, tag filters, batches, ids |
//! | [`positions`] | what clients call commitLogOffset: Raft group, log index, slot |
//! | [`names`], [`limits`] | what a topic or group may be called; every bound of the system |
//! | [`route`] | what a client is told about where to go |
//! | [`http`] | the types of the HTTP API |

pub mod batch;
pub mod http;
pub mod limits;
pub mod message;
pub mod message_id;
pub mod names;
pub mod positions;
pub mod properties;
pub mod remoting;
pub mod route;
pub mod tag;
