//! One request, to see whether somebody answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::contestant::Shape;

/// Whether whoever listens there serves.
pub fn answers(port: u16, shape: Shape) -> bool {
    ask(port, shape).unwrap_or(false)
}

/// A header of what is answered to an HTTP/1.1 request over a connection of its own.
pub fn header(port: u16, name: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: service.mesh.local\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.take(64 << 10).read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, _) = answer.split_once("\r\n\r\n")?;
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
}

fn ask(port: u16, shape: Shape) -> std::io::Result<bool> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.set_nodelay(true)?;
    match shape {
        // Who asks for a certificate shows nothing to who has none.
        Shape::Tcp | Shape::PeerH1 | Shape::PeerH2 => return Ok(true),
        Shape::H1H1 | Shape::H1H2 | Shape::Policies | Shape::MtlsH1 | Shape::MtlsH2 => {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: service.mesh.local\r\ncontent-length: 0\r\n\r\n")?;
        }
        // The preface and settings without a setting: who speaks HTTP/2 answers with its own.
        Shape::H2H1 | Shape::H2H2 => stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?,
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(match shape {
        Shape::H1H1 | Shape::H1H2 | Shape::Policies | Shape::MtlsH1 | Shape::MtlsH2 => answer.starts_with(b"HTTP/1.1 200"),
        Shape::H2H1 | Shape::H2H2 => answer[3] == 4,
        Shape::Tcp | Shape::PeerH1 | Shape::PeerH2 => true,
    })
}
