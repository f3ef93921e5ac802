//! Bodies as their producers meant them: clients may compress a body and say so in the message's system flag.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::read::ZlibDecoder;
use flotilla_api::message::SYS_COMPRESSED;

/// Largest body a compressed one may unfold to.
pub const PLAIN_BODY_BYTES_MAX: usize = 64 << 20;

/// Bits 8 to 10 of the system flag name the compression; old clients leave them 0 and mean zlib.
const COMPRESSION_SHIFT: i32 = 8;
const COMPRESSION_MASK: i32 = 0x7;

/// The name of a compression that is not undone here, if the body has one.
pub fn foreign_compression(sys_flag: i32) -> Option<&'static str> {
    if sys_flag & SYS_COMPRESSED == 0 {
        return None;
    }
    match (sys_flag >> COMPRESSION_SHIFT) & COMPRESSION_MASK {
        0 | 3 => None,
        1 => Some("lz4"),
        2 => Some("zstd"),
        _ => Some("unknown"),
    }
}

/// The body without zlib; other compressions are left as they are.
pub fn plain_body(sys_flag: i32, body: &Bytes) -> io::Result<Bytes> {
    if sys_flag & SYS_COMPRESSED == 0 || foreign_compression(sys_flag).is_some() {
        return Ok(body.clone());
    }
    let mut plain = Vec::new();
    ZlibDecoder::new(&body[..])
        .take(PLAIN_BODY_BYTES_MAX as u64 + 1)
        .read_to_end(&mut plain)?;
    if plain.len() > PLAIN_BODY_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the body unfolds to more than the limit",
        ));
    }
    Ok(plain.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    fn compressed(plain: &[u8]) -> Bytes {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap().into()
    }

    #[test]
    fn zlib_is_undone_and_the_rest_left_alone() {
        let body = compressed(b"hello");
        assert_eq!(plain_body(SYS_COMPRESSED, &body).unwrap(), "hello");
        assert_eq!(plain_body(SYS_COMPRESSED | 3 << 8, &body).unwrap(), "hello");
        assert_eq!(plain_body(0, &body).unwrap(), body);
        assert_eq!(plain_body(SYS_COMPRESSED | 2 << 8, &body).unwrap(), body);
        assert_eq!(foreign_compression(SYS_COMPRESSED | 2 << 8), Some("zstd"));
    }

    #[test]
    fn a_body_that_lies_about_itself_is_an_error() {
        assert!(plain_body(SYS_COMPRESSED, &Bytes::from_static(b"plain")).is_err());
        assert!(plain_body(SYS_COMPRESSED, &compressed(&vec![0; PLAIN_BODY_BYTES_MAX + 1])).is_err());
    }
}
