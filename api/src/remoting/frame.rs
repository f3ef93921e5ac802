//! Frames: bytes of a connection to commands and back.
//!
//! | length of the rest: 4 | header encoding: 1, header length: 3 | header | body |
//!
//! A frame that is not all there is no error; anything that cannot be a frame closes the connection. The body is a slice of
//! the connection's buffer, never copied.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::ext_fields::ExtFields;
use super::{binary_header, json_header, language};
use crate::limits::{EXT_FIELDS_MAX, FRAME_BYTES_MAX, FRAME_RESERVE_BYTES_MAX};

/// The protocol version we announce: 5.3.3.
pub const VERSION: i32 = 479;
/// Flag bit of a response.
pub const FLAG_RESPONSE: i32 = 1;
/// Flag bit of a request that is not answered.
pub const FLAG_ONE_WAY: i32 = 2;

/// How a header is written. A response uses the encoding of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderEncoding {
    /// Type 0.
    #[default]
    Json,
    /// Type 1, only from Java clients told to use it. Its code has 16 bits, and empty values read back as missing.
    Binary,
}

/// A request or a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemotingCommand {
    /// Request or response code, see [`super::codes`]; unknown ones survive.
    pub code: i32,
    /// Who speaks, see [`language`].
    pub language: u8,
    /// Protocol version of the speaker.
    pub version: i32,
    /// The sender's number for this request; the response repeats it.
    pub opaque: i32,
    /// Bits: response, one-way.
    pub flag: i32,
    /// Why something failed.
    pub remark: Option<String>,
    /// The named fields.
    pub fields: ExtFields,
    /// How the header is written.
    pub encoding: HeaderEncoding,
    /// The body; empty when there is none.
    pub body: Bytes,
}

/// Why a connection's bytes are not a frame. The connection is of no use afterwards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Over [`FRAME_BYTES_MAX`].
    #[error("a frame of {0} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLong(usize),
    /// The lengths contradict each other.
    #[error("the frame's lengths do not add up")]
    Lengths,
    /// Neither JSON nor binary.
    #[error("unknown header encoding {0}")]
    Encoding(u8),
    /// The header cannot be read.
    #[error("the header cannot be read at byte {0}")]
    Header(usize),
    /// Over [`EXT_FIELDS_MAX`].
    #[error("the header has more than {EXT_FIELDS_MAX} fields")]
    TooManyFields,
}

impl RemotingCommand {
    /// A request with a code; set `opaque` before sending.
    pub fn request(code: i32) -> RemotingCommand {
        RemotingCommand {
            code,
            language: language::JAVA,
            version: VERSION,
            opaque: 0,
            flag: 0,
            remark: None,
            fields: ExtFields::new(),
            encoding: HeaderEncoding::Json,
            body: Bytes::new(),
        }
    }

    /// The response to a request: same number, same encoding.
    pub fn response(request: &RemotingCommand, code: i32) -> RemotingCommand {
        RemotingCommand {
            opaque: request.opaque,
            encoding: request.encoding,
            flag: FLAG_RESPONSE,
            ..RemotingCommand::request(code)
        }
    }

    /// With a remark.
    pub fn with_remark(mut self, remark: impl Into<String>) -> RemotingCommand {
        self.remark = Some(remark.into());
        self
    }

    /// With a body.
    pub fn with_body(mut self, body: impl Into<Bytes>) -> RemotingCommand {
        self.body = body.into();
        self
    }

    /// With one more field.
    pub fn with_field(mut self, key: &str, value: impl super::ext_fields::FieldValue) -> RemotingCommand {
        self.fields.push(key, value);
        self
    }

    /// Whether this answers a request.
    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    /// Whether no answer is wanted.
    pub fn is_one_way(&self) -> bool {
        self.flag & FLAG_ONE_WAY != 0
    }

    /// As a request that is not answered.
    pub fn mark_one_way(mut self) -> RemotingCommand {
        self.flag |= FLAG_ONE_WAY;
        self
    }

    /// Writes length and header of a frame whose body of `body_len` bytes is written by the caller.
    pub fn encode_head(&self, out: &mut BytesMut, body_len: usize) {
        let start = out.len();
        out.put_u64(0);
        match self.encoding {
            HeaderEncoding::Json => json_header::encode(self, out),
            HeaderEncoding::Binary => binary_header::encode(self, out),
        }
        let header_length = out.len() - start - 8;
        let length = (4 + header_length + body_len) as u32;
        let kind = u32::from(self.encoding == HeaderEncoding::Binary) << 24;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        out[start + 4..start + 8].copy_from_slice(&(kind | header_length as u32).to_be_bytes());
    }

    /// Writes the whole frame.
    pub fn encode(&self, out: &mut BytesMut) {
        self.encode_head(out, self.body.len());
        out.put_slice(&self.body);
    }
}

/// Takes the next frame off the front of `buffer`; `None` when it is not all there yet.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<RemotingCommand>, FrameError> {
    let Some(length) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if length > FRAME_BYTES_MAX - 4 {
        return Err(FrameError::TooLong(length.saturating_add(4)));
    }
    if length < 4 {
        return Err(FrameError::Lengths);
    }
    let missing = (4 + length).saturating_sub(buffer.len());
    if missing > 0 {
        buffer.reserve(missing.min(FRAME_RESERVE_BYTES_MAX));
        return Ok(None);
    }
    buffer.advance(4);
    decode_frame(buffer.split_to(length).freeze()).map(Some)
}

/// Reads one frame without its length field.
fn decode_frame(mut frame: Bytes) -> Result<RemotingCommand, FrameError> {
    let word = frame.get_u32();
    let header_length = (word & 0x00FF_FFFF) as usize;
    if header_length > frame.len() {
        return Err(FrameError::Lengths);
    }
    let header = frame.split_to(header_length);
    let mut command = match (word >> 24) as u8 {
        0 => json_header::decode(&header)?,
        1 => binary_header::decode(&header)?,
        other => return Err(FrameError::Encoding(other)),
    };
    command.body = frame;
    Ok(command)
}

#[cfg(test)]
mod tests;
