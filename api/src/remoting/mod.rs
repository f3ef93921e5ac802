//! The RocketMQ remoting protocol: frames, codes, headers, bodies.

mod binary_header;
pub mod bodies;
pub mod codes;
mod decimal;
pub mod ext_fields;
pub mod frame;
pub mod headers;
mod json_header;
pub mod language;

pub use ext_fields::{ExtFields, HeaderError};
pub use frame::{FrameError, HeaderEncoding, RemotingCommand};
