//! The literal address that clients are shown for this node, from the host name it is to advertise.

use std::net::{IpAddr, SocketAddr};

use tokio::net::lookup_host;

/// What `host` is now. IPv4 first: stored messages carry four-byte addresses.
pub async fn resolve(host: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, port));
    }
    let found: Vec<SocketAddr> = lookup_host((host, port)).await.ok()?.collect();
    found
        .iter()
        .find(|address| address.is_ipv4())
        .or(found.first())
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn literals_and_names_resolve() {
        assert_eq!(resolve("10.1.2.3", 5).await, Some("10.1.2.3:5".parse().unwrap()));
        assert_eq!(
            resolve("localhost", 5).await.map(|address| address.ip().is_loopback()),
            Some(true)
        );
        assert_eq!(resolve("no such host", 5).await, None);
    }
}
