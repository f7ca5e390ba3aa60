//! A DNS server that says what the test wants, over UDP and TCP on one port, and remembers every question.
//!
//! Written out by hand (RFC 1035, section 4): a resolver under test deserves a peer that shares no code with it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::Result;

/// The type of a question for IPv4 addresses.
pub const A: u16 = 1;
/// The type of a question for IPv6 addresses.
pub const AAAA: u16 = 28;

/// What the server says about a name.
#[derive(Debug, Clone)]
pub enum Say {
    /// These IPv4 addresses (and that there are none of IPv6), to be kept for so many seconds.
    Addresses(Vec<Ipv4Addr>, u32),
    /// As [`Say::Addresses`], but over UDP only that the answer is too long.
    Long(Vec<Ipv4Addr>, u32),
    /// SERVFAIL.
    ServFail,
    /// NXDOMAIN.
    NxDomain,
    /// Nothing at all.
    Nothing,
}

/// A question that was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The name, in lower case, without the last dot.
    pub name: String,
    /// The type.
    pub kind: u16,
    /// When.
    pub at: Instant,
    /// Whether over TCP.
    pub tcp: bool,
}

/// The server.
pub struct Dns {
    /// Where it listens, for UDP and TCP.
    pub address: SocketAddr,
    script: Arc<Script>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

#[derive(Default)]
struct Script {
    says: Mutex<HashMap<String, Say>>,
    asked: Mutex<Vec<Asked>>,
}

impl Dns {
    /// Starts without a name: everything is NXDOMAIN.
    ///
    /// # Errors
    /// No port is free for both.
    pub async fn start() -> Result<Self> {
        for _ in 0..20 {
            let tcp = TcpListener::bind("127.0.0.1:0").await?;
            let address = tcp.local_addr()?;
            let Ok(udp) = UdpSocket::bind(address).await else { continue };
            let script = Arc::<Script>::default();
            let tasks = [tokio::spawn(serve_udp(udp, Arc::clone(&script))), tokio::spawn(serve_tcp(tcp, Arc::clone(&script)))];
            return Ok(Self { address, script, tasks });
        }
        Err("no port is free for UDP and TCP".into())
    }

    /// From now on, says this about a name.
    pub fn say(&self, name: &str, what: Say) {
        self.script.says.lock().expect("the script").insert(name.to_owned(), what);
    }

    /// Everything that was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.script.asked.lock().expect("the questions").clone()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn serve_udp(socket: UdpSocket, script: Arc<Script>) {
    let mut packet = [0; 4096];
    while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
        if let Some(answer) = script.answer(&packet[..length], false) {
            let _ = socket.send_to(&answer, peer).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, script: Arc<Script>) {
    while let Ok((stream, _)) = listener.accept().await {
        let script = Arc::clone(&script);
        tokio::spawn(async move { exchange_tcp(stream, &script).await });
    }
}

async fn exchange_tcp(mut stream: TcpStream, script: &Script) -> Result {
    loop {
        let length = stream.read_u16().await?;
        let mut packet = vec![0; usize::from(length)];
        stream.read_exact(&mut packet).await?;
        if let Some(answer) = script.answer(&packet, true) {
            stream.write_u16(u16::try_from(answer.len())?).await?;
            stream.write_all(&answer).await?;
        }
    }
}

impl Script {
    fn answer(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        const HEADER: usize = 12;
        const TRUNCATED: u16 = 0x0200;
        let (name, kind, end) = question(query, HEADER)?;
        self.asked.lock().expect("the questions").push(Asked { name: name.clone(), kind, at: Instant::now(), tcp });
        let say = self.says.lock().expect("the script").get(&name).cloned().unwrap_or(Say::NxDomain);
        let (flags, addresses, ttl) = match say {
            Say::Nothing => return None,
            Say::ServFail => (2, Vec::new(), 0),
            Say::NxDomain => (3, Vec::new(), 0),
            Say::Long(..) if !tcp => (TRUNCATED, Vec::new(), 0),
            Say::Addresses(addresses, ttl) | Say::Long(addresses, ttl) if kind == A => (0, addresses, ttl),
            Say::Addresses(..) | Say::Long(..) => (0, Vec::new(), 0),
        };
        let mut answer = Vec::with_capacity(512);
        answer.extend_from_slice(&query[..2]);
        // A response, recursion desired and available.
        answer.extend_from_slice(&(0x8180_u16 | flags).to_be_bytes());
        for count in [1, u16::try_from(addresses.len()).ok()?, 0, 0] {
            answer.extend_from_slice(&count.to_be_bytes());
        }
        answer.extend_from_slice(&query[HEADER..end]);
        for address in addresses {
            // The name is the question's, by a pointer; then type A, class IN.
            answer.extend_from_slice(&[0xC0, 0x0C, 0, 1, 0, 1]);
            answer.extend_from_slice(&ttl.to_be_bytes());
            answer.extend_from_slice(&[0, 4]);
            answer.extend_from_slice(&address.octets());
        }
        Some(answer)
    }
}

/// The name, type and end of the first question.
fn question(query: &[u8], mut at: usize) -> Option<(String, u16, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}
