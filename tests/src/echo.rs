//! An origin that gives back what it gets, byte for byte, and how a tunnel to it begins.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::raw::Connection;
use crate::{Result, same};

/// The request that asks for a WebSocket.
pub const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
/// The answer that agrees.
pub const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// An origin that echoes. Its connections end with it.
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Echo {
    /// Echoes from the first byte on.
    ///
    /// # Errors
    /// No port is free.
    pub async fn opaque() -> Result<Self> {
        Self::start(false).await
    }

    /// Agrees to an upgrade and echoes from then on.
    ///
    /// # Errors
    /// No port is free.
    pub async fn upgraded() -> Result<Self> {
        Self::start(true).await
    }

    async fn start(upgraded: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            // Held here, so that connections end with the listener.
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that breaks is the caller's affair.
                open.spawn(async move { drop(echo(stream, upgraded).await) });
                while open.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn echo(mut stream: TcpStream, upgraded: bool) -> Result {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    if upgraded {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        buffer.drain(..end);
        stream.write_all(SWITCH.as_bytes()).await?;
    }
    loop {
        stream.write_all(&buffer).await?;
        buffer.clear();
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// A connection to a listener for HTTP that has become a tunnel.
///
/// # Errors
/// The upgrade is refused.
pub async fn upgrade(address: SocketAddr) -> Result<Connection> {
    let mut connection = Connection::open(address).await?;
    connection.send(UPGRADE).await?;
    same!(connection.response(false).await?.status, 101);
    Ok(connection)
}
