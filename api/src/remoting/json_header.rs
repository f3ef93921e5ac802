//! The JSON header: a flat object whose `extFields` holds text.
//!
//! Read by hand, because it is the most frequent thing a broker reads: one pass, the text is kept as it is, and only values
//! with escapes are written out again. Keys may come in any order, unknown ones are skipped, numbers and truth values may
//! stand unquoted (the C++ client), numbers may stand in quotes, and blanks may follow (C++ ends its header with a newline).

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::decimal::Decimal;
use super::ext_fields::{ExtFields, Span};
use super::frame::{FrameError, HeaderEncoding, RemotingCommand};
use super::language;
use crate::limits::{EXT_FIELDS_MAX, HEADER_DEPTH_MAX};

pub(super) fn encode(command: &RemotingCommand, out: &mut BytesMut) {
    let fields: usize = command
        .fields
        .iter()
        .map(|(key, value)| key.len() + value.len() + 6)
        .sum();
    out.reserve(160 + fields + command.remark.as_ref().map_or(0, String::len));
    out.put_slice(b"{\"code\":");
    put_number(out, command.code);
    if !command.fields.is_empty() {
        out.put_slice(b",\"extFields\":{");
        for (i, (key, value)) in command.fields.iter().enumerate() {
            if i > 0 {
                out.put_u8(b',');
            }
            put_text(out, key);
            out.put_u8(b':');
            put_text(out, value);
        }
        out.put_u8(b'}');
    }
    out.put_slice(b",\"flag\":");
    put_number(out, command.flag);
    out.put_slice(b",\"language\":\"");
    out.put_slice(language::name(command.language).as_bytes());
    out.put_slice(b"\",\"opaque\":");
    put_number(out, command.opaque);
    if let Some(remark) = &command.remark {
        out.put_slice(b",\"remark\":");
        put_text(out, remark);
    }
    out.put_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
    put_number(out, command.version);
    out.put_u8(b'}');
}

fn put_number(out: &mut BytesMut, value: i32) {
    out.put_slice(Decimal::new(i64::from(value)).as_bytes());
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    let bytes = text.as_bytes();
    let plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
    if bytes.iter().all(plain) {
        out.put_slice(bytes);
    } else {
        put_escaped(out, bytes);
    }
    out.put_u8(b'"');
}

fn put_escaped(out: &mut BytesMut, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'"' => out.put_slice(b"\\\""),
            b'\\' => out.put_slice(b"\\\\"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            control if *control < 0x20 => {
                out.put_slice(b"\\u00");
                out.put_u8(HEX[usize::from(control >> 4)]);
                out.put_u8(HEX[usize::from(control & 15)]);
            }
            other => out.put_u8(*other),
        }
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

pub(super) fn decode(header: &[u8]) -> Result<RemotingCommand, FrameError> {
    // As the official server does, bytes that are no text are replaced, not refused.
    let header = String::from_utf8_lossy(header);
    let mut command = RemotingCommand::request(0);
    command.encoding = HeaderEncoding::Json;
    command.version = 0;
    let mut scanner = Scanner {
        bytes: header.as_bytes(),
        text: &header,
        at: 0,
    };
    let mut fields = Fields::new(&header);
    scanner.expect(b'{')?;
    if !scanner.accept(b'}') {
        loop {
            let key = scanner.string()?;
            scanner.expect(b':')?;
            read_member(&mut scanner, key.unescaped(), &mut command, &mut fields)?;
            if !scanner.accept(b',') {
                break;
            }
        }
        scanner.expect(b'}')?;
    }
    command.fields = fields.finish();
    Ok(command)
}

fn read_member<'a>(
    scanner: &mut Scanner<'a>,
    key: Cow<'_, str>,
    command: &mut RemotingCommand,
    fields: &mut Fields<'a>,
) -> Result<(), FrameError> {
    match &*key {
        "extFields" if scanner.peek() == Some(b'{') => return read_fields(scanner, fields),
        "code" => command.code = scanner.integer()?,
        "version" => command.version = scanner.integer()?,
        "opaque" => command.opaque = scanner.integer()?,
        "flag" => command.flag = scanner.integer()?,
        "language" => match scanner.value(0)? {
            Value::Text(token) => command.language = language::code(&token.unescaped()),
            Value::Raw(_) => {}
        },
        "remark" => match scanner.value(0)? {
            Value::Text(token) => command.remark = Some(token.unescaped().into_owned()),
            Value::Raw(_) => {}
        },
        _ => {
            scanner.value(0)?;
        }
    }
    Ok(())
}

fn read_fields<'a>(scanner: &mut Scanner<'a>, fields: &mut Fields<'a>) -> Result<(), FrameError> {
    scanner.expect(b'{')?;
    if scanner.accept(b'}') {
        return Ok(());
    }
    loop {
        let key = scanner.string()?;
        scanner.expect(b':')?;
        let value = scanner.value(0)?;
        fields.add(key, value)?;
        if !scanner.accept(b',') {
            return scanner.expect(b'}');
        }
    }
}

/// The fields found so far: places in the header's text, or behind it for what had to be unescaped.
struct Fields<'a> {
    header: &'a str,
    unescaped: String,
    entries: Vec<(Span, Span)>,
}

impl<'a> Fields<'a> {
    fn new(header: &'a str) -> Fields<'a> {
        Fields {
            header,
            unescaped: String::new(),
            entries: Vec::new(),
        }
    }

    fn add(&mut self, key: Token<'a>, value: Value<'a>) -> Result<(), FrameError> {
        let value = match value {
            Value::Text(token) => token,
            Value::Raw(token) if token.text == "null" => return Ok(()),
            Value::Raw(token) => token,
        };
        if self.entries.len() == EXT_FIELDS_MAX {
            return Err(FrameError::TooManyFields);
        }
        if self.entries.capacity() == 0 {
            self.entries.reserve(16);
        }
        let entry = (self.span(key), self.span(value));
        self.entries.push(entry);
        Ok(())
    }

    fn span(&mut self, token: Token<'a>) -> Span {
        if !token.escaped {
            return Span::new(token.at, token.at + token.text.len());
        }
        let start = self.header.len() + self.unescaped.len();
        token.unescape_into(&mut self.unescaped);
        Span::new(start, self.header.len() + self.unescaped.len())
    }

    fn finish(self) -> ExtFields {
        if self.entries.is_empty() {
            return ExtFields::new();
        }
        let mut text = String::with_capacity(self.header.len() + self.unescaped.len());
        text.push_str(self.header);
        text.push_str(&self.unescaped);
        ExtFields::from_spans(text, self.entries)
    }
}

/// A piece of the header: what stands between quotes, or a value without quotes.
#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    at: usize,
    escaped: bool,
}

enum Value<'a> {
    Text(Token<'a>),
    /// A number, `true`, `false`, `null`, or an object or list as it stands.
    Raw(Token<'a>),
}

impl<'a> Token<'a> {
    fn unescaped(self) -> Cow<'a, str> {
        if !self.escaped {
            return Cow::Borrowed(self.text);
        }
        let mut out = String::with_capacity(self.text.len());
        self.unescape_into(&mut out);
        Cow::Owned(out)
    }

    /// Writes the text an escaped string stands for. What is no valid escape is taken literally.
    fn unescape_into(self, out: &mut String) {
        let mut rest = self.text;
        while let Some(at) = rest.find('\\') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let Some(kind) = rest.chars().next() else {
                return;
            };
            rest = &rest[kind.len_utf8()..];
            match kind {
                'n' => out.push('\n'),
                'r' => out.push('\r'),
                't' => out.push('\t'),
                'b' => out.push('\u{8}'),
                'f' => out.push('\u{c}'),
                'u' => rest = unescape_unit(rest, out),
                other => out.push(other),
            }
        }
        out.push_str(rest);
    }
}

/// Reads the digits after `\u`, and the second half of a pair if there is one; returns what follows.
fn unescape_unit<'a>(rest: &'a str, out: &mut String) -> &'a str {
    let Some((unit, after)) = hex_unit(rest) else {
        out.push(char::REPLACEMENT_CHARACTER);
        return rest;
    };
    if (0xD800..0xDC00).contains(&unit)
        && let Some((low, end)) = after.strip_prefix("\\u").and_then(hex_unit)
        && (0xDC00..0xE000).contains(&low)
    {
        let point = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
        out.push(char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER));
        return end;
    }
    out.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
    after
}

fn hex_unit(text: &str) -> Option<(u32, &str)> {
    let (digits, after) = text.split_at_checked(4)?;
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some((u32::from_str_radix(digits, 16).ok()?, after))
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn error<T>(&self) -> Result<T, FrameError> {
        Err(FrameError::Header(self.at))
    }

    /// The next byte that is not blank.
    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), FrameError> {
        if self.accept(byte) { Ok(()) } else { self.error() }
    }

    fn string(&mut self) -> Result<Token<'a>, FrameError> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let Some(ahead) = rest.iter().position(|byte| *byte == b'"' || *byte == b'\\') else {
                self.at = self.bytes.len();
                return self.error();
            };
            self.at += ahead;
            if rest[ahead] == b'"' {
                break;
            }
            // The escaped byte is passed over unseen: it may be a quote.
            escaped = true;
            self.at += 2;
        }
        let token = Token {
            text: &self.text[start..self.at],
            at: start,
            escaped,
        };
        self.at += 1;
        Ok(token)
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, FrameError> {
        match self.peek() {
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'{' | b'[') => {
                let start = self.at;
                self.skip_nested(depth)?;
                Ok(Value::Raw(self.token_from(start)))
            }
            Some(byte) if byte.is_ascii_alphanumeric() || byte == b'-' => {
                let start = self.at;
                while self
                    .bytes
                    .get(self.at)
                    .is_some_and(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b))
                {
                    self.at += 1;
                }
                Ok(Value::Raw(self.token_from(start)))
            }
            _ => self.error(),
        }
    }

    fn skip_nested(&mut self, depth: usize) -> Result<(), FrameError> {
        if depth == HEADER_DEPTH_MAX {
            return self.error();
        }
        let object = self.peek() == Some(b'{');
        let close = if object { b'}' } else { b']' };
        self.at += 1;
        if self.accept(close) {
            return Ok(());
        }
        loop {
            if object {
                self.string()?;
                self.expect(b':')?;
            }
            self.value(depth + 1)?;
            if !self.accept(b',') {
                return self.expect(close);
            }
        }
    }

    fn token_from(&self, start: usize) -> Token<'a> {
        Token {
            text: &self.text[start..self.at],
            at: start,
            escaped: false,
        }
    }

    /// A whole number, quoted or not. Larger ones keep their low 32 bits, as numbers that wrap around are sent.
    fn integer(&mut self) -> Result<i32, FrameError> {
        let (Value::Text(token) | Value::Raw(token)) = self.value(0)?;
        match token.text {
            "null" | "" => Ok(0),
            text => match text.parse::<i64>() {
                Ok(value) => Ok(value as i32),
                Err(_) => self.error(),
            },
        }
    }
}
