//! Reads fixed-width big-endian fields from a buffer that may be cut short or made up: never panics.

use bytes::{Buf, Bytes};

/// The buffer ended early, or a field holds a value it cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed bytes")]
pub struct Malformed;

/// A cursor over `Bytes`; slices it hands out share the buffer.
pub struct BytesReader(Bytes);

impl BytesReader {
    /// Starts at the front of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.need(1)?;
        Ok(self.0.get_u8())
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.need(2)?;
        Ok(self.0.get_u16())
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.need(4)?;
        Ok(self.0.get_u32())
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.need(8)?;
        Ok(self.0.get_u64())
    }

    /// The next `length` bytes, without a copy.
    pub fn bytes(&mut self, length: usize) -> Result<Bytes, Malformed> {
        self.need(length)?;
        Ok(self.0.split_to(length))
    }

    /// A string after its length in two bytes.
    pub fn string(&mut self) -> Result<String, Malformed> {
        let length = usize::from(self.u16()?);
        let bytes = self.bytes(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| Malformed)
    }

    /// What is left.
    pub fn remaining(&self) -> usize {
        self.0.len()
    }

    fn need(&self, length: usize) -> Result<(), Malformed> {
        if self.0.len() < length { Err(Malformed) } else { Ok(()) }
    }
}
