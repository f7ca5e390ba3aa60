//! Addresses where nobody answers.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::Result;

/// An address that refuses connections. It is held, so that nobody else comes to listen there.
pub struct Refusing {
    /// The address.
    pub address: SocketAddr,
    _held: TcpSocket,
}

impl Refusing {
    /// Takes one.
    ///
    /// # Errors
    /// No port is free.
    pub fn take() -> Result<Self> {
        let held = TcpSocket::new_v4()?;
        held.bind("127.0.0.1:0".parse()?)?;
        Ok(Self { address: held.local_addr()?, _held: held })
    }
}

/// An address where nobody answers a SYN: a listener whose queue is full.
pub struct Silent {
    /// The address.
    pub address: SocketAddr,
    _full: (TcpListener, Vec<TcpStream>),
}

impl Silent {
    /// Fills one.
    ///
    /// # Errors
    /// The queue does not fill.
    pub async fn fill() -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind("127.0.0.1:0".parse()?)?;
        let address = socket.local_addr()?;
        let listener = socket.listen(0)?;
        let mut queued = Vec::new();
        for _ in 0..100 {
            match tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
                Ok(stream) => queued.push(stream?),
                Err(_) => return Ok(Self { address, _full: (listener, queued) }),
            }
        }
        Err("the listener's queue does not fill".into())
    }
}
