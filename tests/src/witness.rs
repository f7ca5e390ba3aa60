//! An origin that takes HTTP/1 at its word, keeps every byte, and answers only what is complete.
//!
//! What it says it has received is what a plain reader behind weir would have served, so requests that were smuggled,
//! cut short or run together show up as requests, as bytes, or as surprises.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Result;

/// A complete request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The request line and the fields, as they arrived.
    pub head: String,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

impl Received {
    /// The request target.
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or("")
    }

    /// The first value of a header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
}

/// A point in what was seen.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    bytes: usize,
    requests: usize,
}

#[derive(Debug, Default)]
struct Seen {
    /// In the order of arrival, over all connections.
    bytes: Vec<u8>,
    requests: Vec<Received>,
    surprises: Vec<String>,
}

/// The origin. Each complete request gets 200 with its own target as the body.
pub struct Witness {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Witness {
    /// Starts to listen.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let all = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(attend(stream, Arc::clone(&all)));
            }
        });
        Ok(Self { address, seen, task })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("the record")
    }

    /// Here and now.
    pub fn mark(&self) -> Mark {
        let seen = self.seen();
        Mark { bytes: seen.bytes.len(), requests: seen.requests.len() }
    }

    /// The bytes since then.
    pub fn bytes_since(&self, mark: Mark) -> Vec<u8> {
        self.seen().bytes[mark.bytes..].to_vec()
    }

    /// The complete requests since then.
    pub fn requests_since(&self, mark: Mark) -> Vec<Received> {
        self.seen().requests[mark.requests..].to_vec()
    }

    /// Everything that no proxy should ever send.
    pub fn surprises(&self) -> Vec<String> {
        self.seen().surprises.clone()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn attend(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    let mut buffer = Vec::new();
    let mut chunk = vec![0; 65536];
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        buffer.extend_from_slice(&chunk[..read]);
        let mut answers = Vec::new();
        {
            let mut seen = seen.lock().expect("the record");
            seen.bytes.extend_from_slice(&chunk[..read]);
            loop {
                match take(&mut buffer) {
                    Ok(Some(request)) => {
                        let target = request.target();
                        let length = target.len();
                        answers.extend(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{target}").into_bytes());
                        seen.requests.push(request);
                    }
                    Ok(None) => break,
                    Err(surprise) => {
                        seen.surprises.push(format!("{surprise}: {}", String::from_utf8_lossy(&buffer)));
                        return;
                    }
                }
            }
        }
        if stream.write_all(&answers).await.is_err() {
            return;
        }
    }
}

/// Takes a complete request off the front of the stream.
fn take(buffer: &mut Vec<u8>) -> Result<Option<Received>> {
    let Some(end) = find(buffer, b"\r\n\r\n").map(|end| end + 4) else { return Ok(None) };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let request = Received { head, body: Vec::new() };
    if !request.head.lines().next().is_some_and(|line| line.ends_with(" HTTP/1.1") && line.split(' ').count() == 3) {
        return Err("no request line".into());
    }
    let (length, coding) = (request.header("content-length"), request.header("transfer-encoding"));
    let body = match (length, coding) {
        (None, None) => Some((Vec::new(), end)),
        (Some(length), None) => {
            let whole = end + length.parse::<usize>()?;
            (buffer.len() >= whole).then(|| (buffer[end..whole].to_vec(), whole))
        }
        (None, Some("chunked")) => chunked(buffer, end)?,
        (length, coding) => return Err(format!("framed by {length:?} and {coding:?}").into()),
    };
    Ok(body.map(|(body, taken)| {
        buffer.drain(..taken);
        Received { body, ..request }
    }))
}

/// A chunked body that begins at `at`, and where it ends, if all of it is there.
fn chunked(buffer: &[u8], mut at: usize) -> Result<Option<(Vec<u8>, usize)>> {
    let mut body = Vec::new();
    loop {
        let Some(line) = find(&buffer[at..], b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&buffer[at..at + line])?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or(""), 16)?;
        at += line + 2;
        if size == 0 {
            // Trailers, up to the empty line.
            while let Some(line) = find(&buffer[at..], b"\r\n") {
                at += line + 2;
                if line == 0 {
                    return Ok(Some((body, at)));
                }
            }
            return Ok(None);
        }
        if buffer.len() < at + size + 2 {
            return Ok(None);
        }
        body.extend_from_slice(&buffer[at..at + size]);
        if &buffer[at + size..at + size + 2] != b"\r\n" {
            return Err("a chunk without its end".into());
        }
        at += size + 2;
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
