use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::*;
use crate::wait;

const PORT: u16 = 4000;
const LIMIT: Duration = Duration::from_secs(5);
/// Longer than any packet needs here.
const SILENCE: Duration = Duration::from_millis(200);

/// A socket of a machine: a socket stays where it was made.
fn socket(network: &Network, machine: &str) -> UdpSocket {
    let host = network.host(machine).unwrap();
    let namespace = File::open(Path::new(NAMESPACES).join(host.namespace.unwrap())).unwrap();
    std::thread::spawn(move || {
        enter(&namespace).unwrap();
        UdpSocket::bind((host.address, PORT)).unwrap()
    })
    .join()
    .unwrap()
}

fn passes(from: &UdpSocket, to: &UdpSocket) -> bool {
    from.send_to(b"x", to.local_addr().unwrap())
        .expect("the sender is not told of a cut");
    to.set_read_timeout(Some(SILENCE)).unwrap();
    to.recv(&mut [0]).is_ok()
}

#[test]
fn cuts_drop_silently_what_they_name_and_nothing_else() {
    let mut network = Network::new().unwrap();
    let [a, b, c] = ["a1", "b1", "c1"].map(|machine| {
        network.add(machine).unwrap();
        socket(&network, machine)
    });
    let open = |from: &UdpSocket, to: &UdpSocket| (passes(from, to), passes(to, from));
    assert_eq!(
        (open(&a, &b), open(&a, &c), open(&b, &c)),
        ((true, true), (true, true), (true, true))
    );
    network.cut("a1", &["b1"], Direction::Outgoing).unwrap();
    assert_eq!(
        (open(&a, &b), open(&a, &c), open(&b, &c)),
        ((false, true), (true, true), (true, true))
    );
    // What is cut already stays cut once.
    network.cut("a1", &["b1", "c1"], Direction::Both).unwrap();
    assert_eq!(
        (open(&a, &b), open(&a, &c), open(&b, &c)),
        ((false, false), (false, false), (true, true))
    );
    network.heal().unwrap();
    assert_eq!(
        (open(&a, &b), open(&a, &c), open(&b, &c)),
        ((true, true), (true, true), (true, true))
    );
    network.cut("c1", &["a1", "b1"], Direction::Incoming).unwrap();
    assert_eq!(
        (open(&a, &b), open(&a, &c), open(&b, &c)),
        ((true, true), (false, true), (false, true))
    );
}

#[test]
fn a_network_is_reached_by_who_made_it_and_leaves_nothing_behind() {
    let here = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let before = here();
    let mut network = Network::new().unwrap();
    assert_ne!(here(), before);
    let prefix = network.prefix.clone();
    let host = network.add("n1").unwrap();
    let listing = host
        .command(Path::new("ip"))
        .args(["-brief", "address"])
        .output()
        .unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    assert!(listing.contains(&host.address.to_string()), "{listing}");
    let refused = TcpStream::connect_timeout(&SocketAddr::from((host.address, PORT)), LIMIT).unwrap_err();
    assert_eq!(
        refused.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "the machine is reached"
    );
    drop(network);
    let left = || {
        let names = std::fs::read_dir(NAMESPACES)?.collect::<std::io::Result<Vec<_>>>()?;
        Ok(names
            .iter()
            .all(|name| !name.file_name().to_string_lossy().starts_with(&prefix))
            .then_some(()))
    };
    wait::until("no namespace is left", LIMIT, left).unwrap();
    assert_eq!(here(), before, "the thread is back");
}
