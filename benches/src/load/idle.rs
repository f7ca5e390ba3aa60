//! Connections that have been used and now wait.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::Ask;

/// Many connections cost many descriptors.
///
/// # Errors
/// There cannot be so many.
pub fn allow(connections: u64) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    if limit.current.is_some_and(|limit| limit < connections + 500) {
        bail!("{connections} connections need more descriptors than `ulimit -Hn` allows");
    }
    Ok(())
}

/// Connections that are open.
pub struct Held {
    _connections: Vec<TcpStream>,
    _runtime: tokio::runtime::Runtime,
}

/// Opens so many connections, each of which makes one request and then says nothing.
///
/// # Errors
/// One does not open or is not answered.
pub fn hold(port: u16, connections: usize) -> Result<Held> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let opened = runtime.block_on(async {
        let mut opened = Vec::with_capacity(connections);
        for number in 0..connections {
            let one = tokio::time::timeout(Duration::from_secs(10), open(port));
            opened.push(one.await.map_err(anyhow::Error::from).flatten().with_context(|| format!("connection {number}"))?);
        }
        anyhow::Ok(opened)
    })?;
    Ok(Held { _connections: opened, _runtime: runtime })
}

async fn open(port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: service.mesh.local\r\n\r\n").await?;
    let mut seen = Vec::new();
    while !seen.ends_with(b"Enough.\n") {
        if stream.read_buf(&mut seen).await? == 0 {
            bail!("closed");
        }
    }
    Ok(stream)
}

/// Opens so many connections at once, each of which asks for a body and reads it to its end; gives how many failed.
///
/// # Errors
/// No connections can be made at all.
pub fn burst(port: u16, ask: Ask, connections: usize) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut open = Vec::with_capacity(connections);
        for number in 0..connections {
            open.push(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await.with_context(|| format!("{number}"))?);
        }
        let tasks: Vec<_> = open.into_iter().map(|stream| tokio::task::spawn_local(fetch(stream, ask))).collect();
        let mut failed = 0;
        for task in tasks {
            failed += u64::from(!matches!(tokio::time::timeout(Duration::from_secs(60), task).await, Ok(Ok(Ok(())))));
        }
        Ok(failed)
    })
}

async fn fetch(mut stream: TcpStream, ask: Ask) -> Result<()> {
    let head = format!(
        "{} {} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        ask.method(),
        ask.path,
        ask.host,
        ask.body
    );
    stream.write_all(head.as_bytes()).await?;
    let chunk = [b'x'; 16 * 1024];
    let mut left = ask.body;
    while left > 0 {
        let piece = left.min(chunk.len());
        stream.write_all(&chunk[..piece]).await?;
        left -= piece;
    }
    let mut chunk = [0; 16 * 1024];
    let mut first = [0; 12];
    stream.read_exact(&mut first).await?;
    anyhow::ensure!(&first == b"HTTP/1.1 200", "not 200");
    while stream.read(&mut chunk).await? > 0 {}
    Ok(())
}
