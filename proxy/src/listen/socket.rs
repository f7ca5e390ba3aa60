//! Listening sockets, bound on the control thread before a snapshot is published: an address that is taken rejects the
//! configuration instead of failing half of it.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Binds one socket for each worker to the same address. Port 0 becomes a free port, the same for all.
///
/// # Errors
/// Why the address cannot be bound.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    // SO_REUSEPORT would happily share the port with a stranger of the same user; without it, one is noticed.
    if address.port() != 0 {
        drop(one(address, false)?);
    }
    let first = one(address, workers > 1)?;
    let bound = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(one(bound, true)?);
    }
    Ok(sockets)
}

fn one(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process in TIME_WAIT do not keep the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
