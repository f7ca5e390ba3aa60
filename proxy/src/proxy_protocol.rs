//! The PROXY protocol, versions 1 and 2: a connection's first bytes tell for whom it is.
//!
//! Decides what a header says and how one is written; not whose header is believed (that is the listener's business).
//! Source: HAProxy's `proxy-protocol.txt`. Whoever changes this carelessly lets a caller choose its own address.

use std::net::{IpAddr, SocketAddr};

use ppp::{PartialResult, v1, v2};
use weir_config::schema::ProxyVersion;

/// The two ends of a caller's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The caller's.
    pub peer: SocketAddr,
    /// Where the caller was accepted; of a redirected connection where it was going.
    pub local: SocketAddr,
    /// Where the caller was going, if the kernel handed its connection over.
    pub destination: Option<SocketAddr>,
}

impl Ends {
    /// Of a connection that was going to where it was accepted.
    pub fn direct(peer: SocketAddr, local: SocketAddr) -> Self {
        Self { peer, local, destination: None }
    }
}

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// More bytes are needed to tell.
    Incomplete,
    /// Something other than a header.
    Absent,
    /// A header that cannot be understood.
    Malformed,
    /// A header, and its length.
    Header {
        /// For whom the connection is; `None` if the proxy speaks for itself (a health check), or says that it does not know.
        ends: Option<Ends>,
        /// Bytes of the header.
        length: usize,
    },
}

/// The longest version 1 header, with its line end.
const MAX_LINE: usize = 107;
/// The longest version 2 header that is read: all of its fields that are in use together are far smaller.
const MAX_BINARY: usize = 4096;

/// What `begun` begins with.
pub fn parse(begun: &[u8]) -> Greeting {
    let line = v1::PROTOCOL_PREFIX.as_bytes();
    let binary = v2::PROTOCOL_PREFIX;
    if begun.starts_with(binary) {
        parse_binary(begun)
    } else if begun.starts_with(line) {
        parse_line(begun)
    } else if line.starts_with(begun) || binary.starts_with(begun) {
        Greeting::Incomplete
    } else {
        Greeting::Absent
    }
}

/// The parser takes some parts of a line for wrong ones, so it is asked about whole lines only.
fn parse_line(begun: &[u8]) -> Greeting {
    let within = &begun[..begun.len().min(MAX_LINE)];
    let Some(end) = memchr::memchr(b'\n', within) else {
        return if within.len() < MAX_LINE { Greeting::Incomplete } else { Greeting::Malformed };
    };
    let length = end + 1;
    let Ok(header) = v1::Header::try_from(&begun[..length]) else { return Greeting::Malformed };
    let ends = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(ip) => {
            Some(Ends::direct((ip.source_address, ip.source_port).into(), (ip.destination_address, ip.destination_port).into()))
        }
        v1::Addresses::Tcp6(ip) => {
            Some(Ends::direct((ip.source_address, ip.source_port).into(), (ip.destination_address, ip.destination_port).into()))
        }
    };
    Greeting::Header { ends, length }
}

fn parse_binary(begun: &[u8]) -> Greeting {
    // Of a proxy that speaks for itself, family and addresses are to be ignored, whatever they are; and a connection that
    // was accepted is no datagram.
    match (begun.get(12), begun.get(13).map(|family| family & 15), begun.get(14..16)) {
        (Some(0x20), _, Some(length)) => {
            let length = 16 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            return match begun.len() {
                all if all >= length => Greeting::Header { ends: None, length },
                some if some < MAX_BINARY => Greeting::Incomplete,
                _ => Greeting::Malformed,
            };
        }
        (Some(0x21), Some(2..), _) => return Greeting::Malformed,
        _ => {}
    }
    let parsed = v2::Header::try_from(begun);
    if parsed.is_incomplete() {
        return if begun.len() < MAX_BINARY { Greeting::Incomplete } else { Greeting::Malformed };
    }
    let Ok(header) = parsed else { return Greeting::Malformed };
    let ends = match (header.command, header.addresses) {
        (v2::Command::Local, _) | (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => {
            Some(Ends::direct((ip.source_address, ip.source_port).into(), (ip.destination_address, ip.destination_port).into()))
        }
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => {
            Some(Ends::direct((ip.source_address, ip.source_port).into(), (ip.destination_address, ip.destination_port).into()))
        }
    };
    Greeting::Header { ends, length: header.len() }
}

/// The header that tells `ends`.
///
/// # Errors
/// It cannot be written; a connection without it would be taken for another's.
pub fn header(version: ProxyVersion, ends: &Ends) -> std::io::Result<Vec<u8>> {
    let (peer, local) = same_family(ends);
    match version {
        ProxyVersion::V1 => {
            let family = if peer.is_ipv4() { v1::TCP4 } else { v1::TCP6 };
            let line = format!("PROXY {family} {} {} {} {}\r\n", peer.ip(), local.ip(), peer.port(), local.port());
            Ok(line.into_bytes())
        }
        ProxyVersion::V2 => {
            let (version, protocol) = (v2::Version::Two | v2::Command::Proxy, v2::Protocol::Stream);
            v2::Builder::with_addresses(version, protocol, (peer, local)).build()
        }
    }
}

/// A header names one family for both: IPv4 where both are, mapped into IPv6 or not, else IPv6.
fn same_family(ends: &Ends) -> (SocketAddr, SocketAddr) {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(ip) => SocketAddr::new(ip.into(), address.port()),
    };
    let (peer, local) = (canonical(ends.peer), canonical(ends.local));
    if peer.is_ipv4() == local.is_ipv4() { (peer, local) } else { (mapped(peer), mapped(local)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(peer: &str, local: &str) -> Ends {
        Ends::direct(peer.parse().unwrap(), local.parse().unwrap())
    }

    #[test]
    fn what_is_written_is_read_at_every_length() {
        for told in [
            ends("192.0.2.7:40000", "198.51.100.1:443"),
            ends("[2001:db8::7]:40000", "[2001:db8::1]:443"),
            ends("255.255.255.255:65535", "255.255.255.255:65535"),
        ] {
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let mut bytes = header(version, &told).unwrap();
                let length = bytes.len();
                for short in 0..length {
                    assert_eq!(parse(&bytes[..short]), Greeting::Incomplete, "{version:?} {short}");
                }
                bytes.extend_from_slice(b"\xff\r\nGET / HTTP/1.1\r\n");
                assert_eq!(parse(&bytes), Greeting::Header { ends: Some(told), length });
            }
        }
    }

    #[test]
    fn families_that_differ_become_one() {
        let told = ends("192.0.2.7:1", "[2001:db8::1]:2");
        let line = header(ProxyVersion::V1, &told).unwrap();
        assert_eq!(line, b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 1 2\r\n");
        let line = header(ProxyVersion::V1, &ends("[::ffff:192.0.2.7]:1", "10.0.0.1:2")).unwrap();
        assert_eq!(line, b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n");
    }

    #[test]
    fn a_proxy_may_speak_for_itself() {
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Greeting::Header { ends: None, length: 15 });
        assert_eq!(parse(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\nx"), Greeting::Header { ends: None, length: 35 });
        for (family, length) in [(0, 0), (0x11, 0), (0x21, 3), (0xff, 7)] {
            let mut local = v2::PROTOCOL_PREFIX.to_vec();
            local.extend_from_slice(&[0x20, family, 0, length]);
            local.extend_from_slice(b"1234567");
            let length = 16 + usize::from(length);
            assert_eq!(parse(&local), Greeting::Header { ends: None, length });
            assert_eq!(parse(&local[..length - 1]), Greeting::Incomplete);
        }
    }

    #[test]
    fn nonsense_is_told_from_absence() {
        for absent in [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/2.0", b"\x16\x03\x01", b"\r\n\r\nGET", b"PROXZ"] {
            assert_eq!(parse(absent), Greeting::Absent, "{absent:?}");
        }
        let mut long = v2::PROTOCOL_PREFIX.to_vec();
        long.extend_from_slice(&[0x21, 0x11, 0xff, 0xff]);
        long.resize(MAX_BINARY, 0);
        for malformed in [
            &b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n"[..],
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n",
            b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
            &[&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat(),
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c____________",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c____________",
            &long,
        ] {
            assert_eq!(parse(malformed), Greeting::Malformed, "{}", String::from_utf8_lossy(malformed));
        }
    }
}
