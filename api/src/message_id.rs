//! Offset message ids: the address a message was stored at and its position, as upper-case hex.
//!
//! | IP: 4 or 16 | port: 4 | position: 8 |, so 32 or 56 characters. A client connects to the address inside.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The id of the message at `position`, shown under `address`.
pub fn encode(address: SocketAddr, position: i64) -> String {
    let mut id = String::with_capacity(56);
    match address.ip() {
        IpAddr::V4(ip) => push_hex(&mut id, u64::from(u32::from(ip)), 8),
        IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            push_hex(&mut id, (bits >> 64) as u64, 16);
            push_hex(&mut id, bits as u64, 16);
        }
    }
    push_hex(&mut id, u64::from(address.port()), 8);
    push_hex(&mut id, position as u64, 16);
    id
}

/// Address and position of an id, or `None` for anything else. Unique keys of clients have the same shape and may pass.
pub fn decode(id: &str) -> Option<(SocketAddr, i64)> {
    if !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let ip_digits = match id.len() {
        32 => 8,
        56 => 32,
        _ => return None,
    };
    let (ip, rest) = id.split_at(ip_digits);
    let (port, position) = rest.split_at(8);
    let ip = match ip_digits {
        8 => IpAddr::from(u32::from_str_radix(ip, 16).ok()?.to_be_bytes()),
        _ => IpAddr::from(Ipv6Addr::from(u128::from_str_radix(ip, 16).ok()?)),
    };
    let port = u16::try_from(u32::from_str_radix(port, 16).ok()?).ok()?;
    let position = u64::from_str_radix(position, 16).ok()? as i64;
    Some((SocketAddr::new(ip, port), position))
}

fn push_hex(out: &mut String, value: u64, digits: usize) {
    write!(out, "{value:0digits$X}").expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn id_of_the_official_encoder() {
        let address: SocketAddr = "10.0.0.1:10911".parse().expect("an address");
        assert_eq!(encode(address, 1024), "0A00000100002A9F0000000000000400");
        assert_eq!(decode("0A00000100002A9F0000000000000400"), Some((address, 1024)));
        assert_eq!(decode("0a00000100002a9f0000000000000400"), Some((address, 1024)));
        for other in [
            "",
            "0A",
            "0A00000100012A9F0000000000000400",
            "+A00000100002A9F0000000000000400",
            "ä",
        ] {
            assert_eq!(decode(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn decode_of_encode(ip in any::<IpAddr>(), port in any::<u16>(), position in any::<i64>()) {
            let address = SocketAddr::new(ip, port);
            prop_assert_eq!(decode(&encode(address, position)), Some((address, position)));
        }

        #[test]
        fn any_text_is_read(text in any::<String>()) {
            decode(&text);
        }
    }
}
