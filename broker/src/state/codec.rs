//! Bytes of commands and records: big-endian integers, texts and lists with a length in front.
//!
//! Decoding never trusts a length: every text and list has a bound given by the caller, and a list never reserves
//! more than the bytes that are left could hold.

use std::collections::BTreeMap;

use super::limits::{ATTRIBUTES_MAX, NAME_BYTES_MAX, TEXT_BYTES_MAX};

/// The bytes are not what they should be: cut, over a limit, of an unknown kind or version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed bytes")]
pub struct Malformed;

/// Appends values to a buffer.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer that starts with `first`, a kind or prefix, and usually a version after it.
    pub fn starting(first: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(first);
        Self { bytes }
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }

    /// 0 or 1.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    /// Four bytes.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A number.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Four bytes.
    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Eight bytes.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A presence byte, then the value.
    pub fn optional_u64(&mut self, value: Option<u64>) -> &mut Self {
        self.bool(value.is_some());
        if let Some(value) = value {
            self.u64(value);
        }
        self
    }

    /// A length of two bytes, then the text.
    ///
    /// One of 64 KiB or more is cut: it stays longer than any text may be, so that whoever decodes it refuses it.
    pub fn text(&mut self, value: &str) -> &mut Self {
        let value = &value[..value.floor_char_boundary(usize::from(u16::MAX))];
        self.bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self
    }

    /// A presence byte, then the text.
    pub fn optional_text(&mut self, value: Option<&str>) -> &mut Self {
        self.bool(value.is_some());
        if let Some(value) = value {
            self.text(value);
        }
        self
    }

    /// The number of list elements that follow.
    pub fn count(&mut self, value: usize) -> &mut Self {
        self.u32(u32::try_from(value).expect("lists are bounded far below 4 Gi elements"))
    }

    /// Each element by `each`, after their number.
    pub fn list<T>(&mut self, values: &[T], mut each: impl FnMut(&mut Self, &T)) -> &mut Self {
        self.count(values.len());
        for value in values {
            each(self, value);
        }
        self
    }

    /// Names and values of an attribute map.
    pub fn attributes(&mut self, values: &BTreeMap<String, String>) -> &mut Self {
        self.count(values.len());
        for (name, value) in values {
            self.text(name).text(value);
        }
        self
    }
}

/// Takes values off the front of a slice.
#[derive(Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    /// Everything that is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    /// 0 or 1, nothing else.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Four bytes.
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// The inverse of [`Encoder::optional_u64`].
    pub fn optional_u64(&mut self) -> Result<Option<u64>, Malformed> {
        if self.bool()? { self.u64().map(Some) } else { Ok(None) }
    }

    /// A text of at most `bytes_max` bytes, borrowed.
    pub fn text_slice(&mut self, bytes_max: usize) -> Result<&'a str, Malformed> {
        let length = usize::from(self.u16()?);
        if length > bytes_max {
            return Err(Malformed);
        }
        std::str::from_utf8(self.take(length)?).map_err(|_| Malformed)
    }

    /// A text of at most `bytes_max` bytes.
    pub fn text(&mut self, bytes_max: usize) -> Result<String, Malformed> {
        self.text_slice(bytes_max).map(str::to_owned)
    }

    /// A name: a text that is not empty and not longer than a name may be.
    pub fn name(&mut self) -> Result<String, Malformed> {
        let name = self.text(NAME_BYTES_MAX)?;
        if name.is_empty() { Err(Malformed) } else { Ok(name) }
    }

    /// The inverse of [`Encoder::optional_text`].
    pub fn optional_text(&mut self, bytes_max: usize) -> Result<Option<String>, Malformed> {
        if self.bool()? {
            self.text(bytes_max).map(Some)
        } else {
            Ok(None)
        }
    }

    /// At most `elements_max` elements, each by `each`.
    pub fn list<T>(
        &mut self,
        elements_max: usize,
        mut each: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.u32()? as usize;
        if count > elements_max {
            return Err(Malformed);
        }
        let mut values = Vec::with_capacity(count.min(self.rest.len()));
        for _ in 0..count {
            values.push(each(self)?);
        }
        Ok(values)
    }

    /// The inverse of [`Encoder::attributes`]. Names must ascend, so that equal maps have equal bytes.
    pub fn attributes(&mut self) -> Result<BTreeMap<String, String>, Malformed> {
        let pairs = self.list(ATTRIBUTES_MAX, |decoder| {
            Ok((decoder.name()?, decoder.text(TEXT_BYTES_MAX)?))
        })?;
        if pairs.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(Malformed);
        }
        Ok(pairs.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_their_bytes() {
        let attributes = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
        let mut encoder = Encoder::new();
        encoder.u8(7).bool(true).u32(8).i32(-9).u64(u64::MAX).i64(i64::MIN);
        encoder
            .optional_u64(None)
            .optional_u64(Some(3))
            .text("name")
            .optional_text(Some("x"))
            .attributes(&attributes);
        let bytes = encoder.finish();

        let mut decoder = Decoder::new(&bytes);
        assert_eq!(decoder.u8(), Ok(7));
        assert_eq!(decoder.bool(), Ok(true));
        assert_eq!(decoder.u32(), Ok(8));
        assert_eq!(decoder.i32(), Ok(-9));
        assert_eq!(decoder.u64(), Ok(u64::MAX));
        assert_eq!(decoder.i64(), Ok(i64::MIN));
        assert_eq!(decoder.optional_u64(), Ok(None));
        assert_eq!(decoder.optional_u64(), Ok(Some(3)));
        assert_eq!(decoder.name(), Ok("name".to_owned()));
        assert_eq!(decoder.optional_text(1), Ok(Some("x".to_owned())));
        assert_eq!(decoder.attributes(), Ok(attributes));
        assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn limits_and_leftovers_are_refused() {
        let mut encoder = Encoder::new();
        encoder.text("abc");
        let bytes = encoder.finish();
        assert_eq!(Decoder::new(&bytes).text(2), Err(Malformed));
        assert_eq!(Decoder::new(&bytes[..4]).text(3), Err(Malformed));
        assert_eq!(Decoder::new(&[0, 0]).name(), Err(Malformed), "empty name");
        assert_eq!(Decoder::new(&[2]).bool(), Err(Malformed));
        assert_eq!(Decoder::new(&[0xff; 4]).list(10, |d| d.u8()), Err(Malformed));
        assert_eq!(Decoder::new(&[0]).finish(), Err(Malformed));
    }

    #[test]
    fn attributes_out_of_order_are_refused() {
        let mut encoder = Encoder::new();
        encoder.count(2).text("b").text("").text("a").text("");
        assert_eq!(Decoder::new(&encoder.finish()).attributes(), Err(Malformed));
    }
}
