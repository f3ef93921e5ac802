//! The binary header ("ROCKETMQ" serialisation), used by Java clients told to.
//!
//! | code: 2 | language: 1 | version: 2 | opaque: 4 | flag: 4 | remark length: 4, remark | fields length: 4, fields |
//!
//! and per field: | key length: 2, key | value length: 4, value |. An empty text means a missing one.

use bytes::{Buf, BufMut, BytesMut};

use super::ext_fields::{ExtFields, Span};
use super::frame::{FrameError, HeaderEncoding, RemotingCommand};
use crate::limits::EXT_FIELDS_MAX;

const FIXED_BYTES: usize = 2 + 1 + 2 + 4 + 4 + 4;

pub(super) fn encode(command: &RemotingCommand, out: &mut BytesMut) {
    // Codes of 17 bits and more are cut, as by the official encoder.
    out.put_i16(command.code as i16);
    out.put_u8(command.language);
    out.put_i16(command.version as i16);
    out.put_i32(command.opaque);
    out.put_i32(command.flag);
    let remark = command.remark.as_deref().unwrap_or_default();
    out.put_u32(remark.len() as u32);
    out.put_slice(remark.as_bytes());
    let length_at = out.len();
    out.put_u32(0);
    for (key, value) in command.fields.iter() {
        // A key that does not fit its length field cannot be sent.
        let Ok(key_length) = i16::try_from(key.len()) else {
            continue;
        };
        out.put_i16(key_length);
        out.put_slice(key.as_bytes());
        out.put_u32(value.len() as u32);
        out.put_slice(value.as_bytes());
    }
    let length = (out.len() - length_at - 4) as u32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
}

pub(super) fn decode(header: &[u8]) -> Result<RemotingCommand, FrameError> {
    if header.len() < FIXED_BYTES {
        return Err(FrameError::Header(header.len()));
    }
    let mut rest = header;
    let mut command = RemotingCommand::request(i32::from(rest.get_i16()));
    command.encoding = HeaderEncoding::Binary;
    command.language = rest.get_u8();
    command.version = i32::from(rest.get_i16());
    command.opaque = rest.get_i32();
    command.flag = rest.get_i32();
    let mut reader = Reader {
        header,
        at: FIXED_BYTES - 4,
    };
    let remark = reader.long_text()?;
    if !remark.is_empty() {
        command.remark = Some(String::from_utf8_lossy(remark).into_owned());
    }
    let fields = reader.long_text()?;
    if !fields.is_empty() {
        command.fields = decode_fields(fields, reader.at - fields.len())?;
    }
    Ok(command)
}

fn decode_fields(bytes: &[u8], offset: usize) -> Result<ExtFields, FrameError> {
    // Lengths count bytes, so text that is not UTF-8 cannot be replaced as a whole without moving what follows.
    let text = std::str::from_utf8(bytes).ok();
    let mut reader = Reader { header: bytes, at: 0 };
    let mut entries = Vec::with_capacity(16);
    let mut replaced = String::new();
    while reader.at < bytes.len() {
        let fault = |_| FrameError::Header(offset);
        let key = reader.short_text().map_err(fault)?;
        let value = reader.long_text().map_err(fault)?;
        let value_at = reader.at - value.len();
        let key_at = value_at - 4 - key.len();
        if key.is_empty() || value.is_empty() {
            continue;
        }
        if entries.len() == EXT_FIELDS_MAX {
            return Err(FrameError::TooManyFields);
        }
        let whole = |text: &str| {
            text.is_char_boundary(key_at)
                && text.is_char_boundary(key_at + key.len())
                && text.is_char_boundary(value_at)
                && text.is_char_boundary(reader.at)
        };
        match text {
            Some(text) if whole(text) => {
                entries.push((Span::new(key_at, key_at + key.len()), Span::new(value_at, reader.at)));
            }
            _ => {
                let key_start = bytes.len() + replaced.len();
                replaced.push_str(&String::from_utf8_lossy(key));
                let value_start = bytes.len() + replaced.len();
                replaced.push_str(&String::from_utf8_lossy(value));
                entries.push((
                    Span::new(key_start, value_start),
                    Span::new(value_start, bytes.len() + replaced.len()),
                ));
            }
        }
    }
    // Without valid text every entry points behind it; blanks keep the places.
    let mut all = String::with_capacity(bytes.len() + replaced.len());
    match text {
        Some(text) => all.push_str(text),
        None => all.extend(std::iter::repeat_n(' ', bytes.len())),
    }
    all.push_str(&replaced);
    Ok(ExtFields::from_spans(all, entries))
}

struct Reader<'a> {
    header: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.header.len());
        let end = end.ok_or(FrameError::Header(self.at))?;
        let taken = &self.header[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn short_text(&mut self) -> Result<&'a [u8], FrameError> {
        let length = self.take(2)?.get_i16();
        let length = usize::try_from(length).map_err(|_| FrameError::Header(self.at))?;
        self.take(length)
    }

    fn long_text(&mut self) -> Result<&'a [u8], FrameError> {
        let length = self.take(4)?.get_u32() as usize;
        self.take(length)
    }
}
