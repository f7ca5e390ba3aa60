//! An HTTP/1 origin that does exactly what its test says, byte for byte.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Result;

const LIMIT: Duration = Duration::from_secs(10);

/// An origin whose connections the test serves itself.
pub struct Script {
    /// Where it listens.
    pub address: SocketAddr,
    listener: TcpListener,
}

impl Script {
    /// Listens.
    ///
    /// # Errors
    /// No port is free.
    pub async fn listen() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        Ok(Self { address: listener.local_addr()?, listener })
    }

    /// The next connection.
    ///
    /// # Errors
    /// None comes within ten seconds.
    pub async fn accept(&self) -> Result<Peer> {
        let (stream, _) = tokio::time::timeout(LIMIT, self.listener.accept()).await.map_err(|_| "no connection came")??;
        stream.set_nodelay(true)?;
        Ok(Peer { stream, buffer: Vec::new() })
    }
}

/// A connection from weir.
pub struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Peer {
    /// The next request head.
    ///
    /// # Errors
    /// It does not arrive whole within ten seconds.
    pub async fn head(&mut self) -> Result<String> {
        self.until(b"\r\n\r\n").await
    }

    /// Everything up to and with these bytes.
    ///
    /// # Errors
    /// They do not arrive within ten seconds.
    pub async fn until(&mut self, end: &[u8]) -> Result<String> {
        let mut seen = 0;
        loop {
            // Only what is new, and as much before it as may be the beginning of the end.
            if let Some(at) = self.buffer[seen..].windows(end.len()).position(|window| window == end) {
                let head: Vec<u8> = self.buffer.drain(..seen + at + end.len()).collect();
                return Ok(String::from_utf8_lossy(&head).into_owned());
            }
            seen = self.buffer.len().saturating_sub(end.len() - 1);
            let mut chunk = [0; 16384];
            match tokio::time::timeout(LIMIT, self.stream.read(&mut chunk)).await?? {
                0 => return Err(format!("closed after {:?}", String::from_utf8_lossy(&self.buffer)).into()),
                read => self.buffer.extend_from_slice(&chunk[..read]),
            }
        }
    }

    /// The next so many bytes.
    ///
    /// # Errors
    /// They do not arrive within ten seconds.
    pub async fn exactly(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < count {
            if tokio::time::timeout(LIMIT, self.stream.read_buf(&mut self.buffer)).await?? == 0 {
                return Err(format!("closed after {} of {count} bytes", self.buffer.len()).into());
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result {
        Ok(self.stream.write_all(bytes.as_ref()).await?)
    }

    /// Reads until weir closes or resets the connection, and gives what had not been read.
    ///
    /// # Errors
    /// It stays open for ten seconds.
    pub async fn ended(&mut self) -> Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.buffer);
        let read = self.stream.read_to_end(&mut rest);
        // A reset is an end as well.
        let _ = tokio::time::timeout(LIMIT, read).await.map_err(|_| "weir keeps the connection open")?;
        Ok(rest)
    }

    /// Closes with a reset.
    ///
    /// # Errors
    /// The socket refuses.
    pub fn reset(self) -> Result {
        Ok(self.stream.set_zero_linger()?)
    }
}
