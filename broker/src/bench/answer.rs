//! Code and number of a response, without reading the rest of it.
//!
//! A load generator reads little else, and a full decode of every header would be a third of its work. Whatever does not
//! look like a plain response is decoded in full.

use bytes::BytesMut;
use flotilla_api::limits::FRAME_BYTES_MAX;
use flotilla_api::remoting::frame::{self, FrameError};

/// What is needed of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Response code.
    pub(crate) code: i32,
    /// Number of the request.
    pub(crate) opaque: i32,
    /// Whether it is a response at all; servers send requests, too.
    pub(crate) response: bool,
    /// Bytes of the frame.
    pub(crate) bytes: usize,
}

/// The frame at the start of `input`, or `None` while it is not whole.
pub(crate) fn scan(input: &[u8]) -> Result<Option<Answer>, FrameError> {
    let Some(length) = input.first_chunk::<4>() else {
        return Ok(None);
    };
    let bytes = u32::from_be_bytes(*length) as usize + 4;
    if bytes > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(bytes));
    }
    let Some(frame) = input.get(..bytes) else {
        return Ok(None);
    };
    if let Some((code, opaque)) = quick(frame) {
        return Ok(Some(Answer {
            code,
            opaque,
            response: true,
            bytes,
        }));
    }
    let command = frame::decode(&mut BytesMut::from(frame))?.ok_or(FrameError::Lengths)?;
    Ok(Some(Answer {
        code: command.code,
        opaque: command.opaque,
        response: command.is_response(),
        bytes,
    }))
}

/// The usual case: a JSON header that starts with the code, has `"flag":1` and a number.
fn quick(frame: &[u8]) -> Option<(i32, i32)> {
    let word = u32::from_be_bytes(*frame.get(4..)?.first_chunk::<4>()?) as usize;
    let header = frame.get(8..8 + word)?;
    let code = integer(header.strip_prefix(b"{\"code\":")?)?;
    // Fields follow the code, the rest stands at the end; inside a text the quotes would be escaped.
    let tail = &header[header.len().saturating_sub(160)..];
    let opaque = integer(after(tail, b"\"opaque\":")?)?;
    (integer(after(tail, b"\"flag\":")?)? & 1 == 1).then_some((code, opaque))
}

fn after<'a>(text: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    let at = text.windows(mark.len()).rposition(|window| window == mark)?;
    (at == 0 || text[at - 1] != b'\\').then(|| &text[at + mark.len()..])
}

fn integer(text: &[u8]) -> Option<i32> {
    let end = text.iter().position(|b| !b.is_ascii_digit() && *b != b'-')?;
    std::str::from_utf8(&text[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_api::remoting::frame::{HeaderEncoding, RemotingCommand};

    #[test]
    fn agrees_with_the_full_decoder() {
        let mut request = RemotingCommand::request(310);
        request.opaque = -12;
        let mut binary = request.clone();
        binary.encoding = HeaderEncoding::Binary;
        let responses = [
            RemotingCommand::response(&request, 0)
                .with_field("msgId", "0A")
                .with_body(&b"body"[..]),
            RemotingCommand::response(&request, 14).with_remark("\"opaque\":5,\"flag\":0, no leader"),
            RemotingCommand::response(&request, 1).with_remark("x".repeat(500)),
            RemotingCommand::response(&binary, 2),
            request,
        ];
        for command in responses {
            let mut out = BytesMut::new();
            command.encode(&mut out);
            let answer = scan(&out).expect("a frame").expect("whole");
            assert_eq!(
                (answer.code, answer.opaque, answer.response),
                (command.code, -12, command.is_response())
            );
            assert_eq!(answer.bytes, out.len());
            assert_eq!(scan(&out[..out.len() - 1]), Ok(None));
        }
        assert!(scan(&[0xff; 8]).is_err());
    }
}
