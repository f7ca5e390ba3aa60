//! A quick origin at an address of the test's choosing: HTTP/1 without request bodies, answered byte for byte.
//!
//! It costs next to nothing, so a load test measures weir and not its neighbour; it takes any loopback address, so that
//! several origins can share a port as the addresses of one name do; and it dies like a process: all at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Result;

/// An origin whose answers are bytes.
pub struct Quick {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many requests it saw.
    pub requests: Arc<AtomicUsize>,
    /// How many connections it accepted.
    pub connections: Arc<AtomicUsize>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Quick {
    /// Answers each head with the bytes that `answer` makes of it, `after` a while.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn start<F>(address: &str, after: Duration, answer: F) -> Result<Self>
    where
        F: Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (requests, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (seen, accepted, answer) = (Arc::clone(&requests), Arc::clone(&connections), Arc::new(answer));
        let accepting = tokio::spawn(async move {
            // Held here, so that connections end with the listener.
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                open.spawn(async move {
                    // A connection that breaks is the caller's affair.
                    let _ = serve(stream, after, &seen, &*answer).await;
                });
                while open.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, requests, connections, accepting })
    }

    /// Answers every request with this text, at once, on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port is free.
    pub async fn text(text: &'static str) -> Result<Self> {
        Self::text_at("127.0.0.1:0", text).await
    }

    /// Answers every request with this text, at once.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn text_at(address: &str, text: &'static str) -> Result<Self> {
        Self::start(address, Duration::ZERO, move |_| ok(text)).await
    }

    /// Answers every request with this text, after a while.
    ///
    /// # Errors
    /// No port is free.
    pub async fn slow(text: &'static str, after: Duration) -> Result<Self> {
        Self::start("127.0.0.1:0", after, move |_| ok(text)).await
    }

    /// How many requests it saw.
    pub fn count(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// How many connections it accepted.
    pub fn accepted(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Quick {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A 200 with this body.
pub fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// The value of a header in a head that was read as text; names in any case.
pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

async fn serve(mut stream: TcpStream, after: Duration, seen: &AtomicUsize, answer: &(dyn Fn(&str) -> Vec<u8> + Sync)) -> Result {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    loop {
        while let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end + 4]).into_owned();
            buffer.drain(..end + 4);
            seen.fetch_add(1, Ordering::Relaxed);
            if !after.is_zero() {
                tokio::time::sleep(after).await;
            }
            stream.write_all(&answer(&head)).await?;
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}
