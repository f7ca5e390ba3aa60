//! HTTP/1 by hand, byte for byte.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Result;

/// A response, read by hand.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The status line and header lines as they arrived.
    pub head: String,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

impl Response {
    /// The first value of a header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection that is written to and read from by hand.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// No connection opens.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// This end's address.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result {
        Ok(self.stream.write_all(bytes.as_ref()).await?)
    }

    /// Ends the sending side.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn finish(&mut self) -> Result {
        Ok(self.stream.shutdown().await?)
    }

    /// Reads one response; `head_only` for the answer to HEAD. A 1xx is a response of its own.
    ///
    /// # Errors
    /// It does not arrive whole within ten seconds.
    pub async fn response(&mut self, head_only: bool) -> Result<Response> {
        tokio::time::timeout(Duration::from_secs(10), self.read_response(head_only)).await?
    }

    async fn read_response(&mut self, head_only: bool) -> Result<Response> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end);
        let status: u16 = head.split(' ').nth(1).ok_or("no status")?.parse()?;
        let mut response = Response { status, head, body: Vec::new() };
        if head_only || status < 200 || matches!(status, 204 | 304) {
            return Ok(response);
        }
        if response.header("transfer-encoding").is_some() {
            response.body = self.chunks().await?;
        } else if let Some(length) = response.header("content-length") {
            let length: usize = length.parse()?;
            while self.buffer.len() < length {
                self.more().await?;
            }
            response.body = self.buffer.drain(..length).collect();
        } else {
            while self.more().await.is_ok() {}
            response.body = std::mem::take(&mut self.buffer);
        }
        Ok(response)
    }

    async fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(line.trim().split(';').next().unwrap_or(""), 16)?;
            if size == 0 {
                while self.line().await? != "\r\n" {}
                return Ok(body);
            }
            while self.buffer.len() < size + 2 {
                self.more().await?;
            }
            body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
        }
    }

    /// Reads one line, with its end.
    ///
    /// # Errors
    /// The connection is closed first.
    pub async fn line(&mut self) -> Result<String> {
        let mut seen = 0;
        loop {
            // Only what is new: a long line comes in many pieces.
            if let Some(end) = find(&self.buffer[seen..], b"\n") {
                let line: Vec<u8> = self.buffer.drain(..=seen + end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            seen = self.buffer.len();
            self.more().await?;
        }
    }

    /// Reads until the peer closes and gives what was left.
    ///
    /// # Errors
    /// The connection is reset, or not closed within ten seconds.
    pub async fn rest(&mut self) -> Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.buffer);
        tokio::time::timeout(Duration::from_secs(10), self.stream.read_to_end(&mut rest)).await??;
        Ok(rest)
    }

    /// The next so many bytes.
    ///
    /// # Errors
    /// The connection ends before.
    pub async fn exactly(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.more().await?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Closes with a reset.
    ///
    /// # Errors
    /// The socket refuses.
    pub fn reset(self) -> Result {
        Ok(self.stream.set_zero_linger()?)
    }

    async fn more(&mut self) -> Result {
        let mut chunk = [0; 16384];
        match self.stream.read(&mut chunk).await? {
            0 => Err("closed".into()),
            read => {
                self.buffer.extend_from_slice(&chunk[..read]);
                Ok(())
            }
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// One GET on a connection of its own.
///
/// # Errors
/// There is no response.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> Result<Response> {
    request(address, &format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await
}

/// One request, written by hand, on a connection of its own.
///
/// # Errors
/// There is no response.
pub async fn request(address: SocketAddr, request: &str) -> Result<Response> {
    let mut connection = Connection::open(address).await?;
    connection.send(request).await?;
    connection.response(request.starts_with("HEAD ")).await
}
