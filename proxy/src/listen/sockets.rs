//! Listening sockets, on the control thread: bound before a snapshot is published, so that an address that is taken rejects
//! the configuration instead of failing half of it.
//!
//! A copy of every socket stays here, by address: a listener that gets another name, or its name back, takes the sockets
//! over, and nobody who connects meanwhile is turned away.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, ensure};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use weir_config::snapshot::{Listener, Snapshot};

use crate::state::Share;

/// Every socket that weir listens on.
pub struct Sockets {
    bound: Vec<Bound>,
    /// Addresses that listeners left a moment ago; workers close their sockets in their own time.
    left: Vec<SocketAddr>,
    workers: usize,
}

/// The sockets of one listener.
struct Bound {
    name: Box<str>,
    configured: Box<[SocketAddr]>,
    /// Where that is in fact, of those addresses that this machine has.
    addresses: Vec<SocketAddr>,
    /// For each worker one for each address.
    sockets: Vec<Vec<TcpListener>>,
}

/// What a snapshot changes, worked out and bound, but not in force.
pub struct Change {
    /// What is listened on from now on.
    next: Vec<Next>,
}

enum Next {
    /// As it is, by its place in the present list.
    Kept(usize),
    /// The sockets at this place, under another name.
    Renamed(usize, Box<str>),
    /// Fresh sockets.
    Fresh(Bound),
}

/// What workers are told of a change.
pub struct Told {
    /// Listeners that are new or elsewhere.
    pub add: Vec<Box<str>>,
    /// Listeners that are gone or were elsewhere.
    pub remove: Vec<Box<str>>,
    /// For each worker its sockets of the listeners in `add`.
    pub shares: Vec<Share>,
}

/// How long an address that weir itself just left may stay taken.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

impl Sockets {
    /// None yet.
    pub fn new(workers: usize) -> Self {
        Self { bound: Vec::new(), left: Vec::new(), workers }
    }

    /// Gives the sockets of these listeners up.
    pub fn close(&mut self, names: &[Box<str>]) {
        self.bound.retain(|bound| !names.contains(&bound.name));
    }

    /// Where a listener is bound in fact.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.bound.iter().find(|bound| *bound.name == *name)?.addresses.first().copied()
    }

    /// Binds what a snapshot has new. Nothing changes for what listens now.
    ///
    /// # Errors
    /// Which listener cannot be bound, and why.
    pub async fn prepare(&self, snapshot: &Snapshot) -> anyhow::Result<Change> {
        let mut next = Vec::with_capacity(snapshot.listeners.len());
        for listener in &snapshot.listeners {
            let any_port = listener.addresses.iter().any(|address| address.port() == 0);
            let same = |bound: &Bound| bound.configured == listener.addresses && (!any_port || bound.name == listener.name);
            next.push(match self.bound.iter().position(same) {
                Some(place) if self.bound[place].name == listener.name => Next::Kept(place),
                Some(place) => Next::Renamed(place, listener.name.clone()),
                None => Next::Fresh(self.bind(listener).await?),
            });
        }
        Ok(Change { next })
    }

    async fn bind(&self, listener: &Listener) -> anyhow::Result<Bound> {
        let (mut addresses, mut sockets) = (Vec::new(), (0..self.workers).map(|_| Vec::new()).collect::<Vec<_>>());
        for address in &listener.addresses {
            let bound = match self.bind_one(*address, listener.addresses.len() > 1).await {
                Err(error) if listener.addresses.len() > 1 && is_absent(&error) => {
                    tracing::warn!(listener = %listener.name, %address, %error, "not listened on: this machine does not have it");
                    continue;
                }
                bound => bound.with_context(|| format!("the listener `{}` cannot listen on {address}", listener.name))?,
            };
            addresses.push(bound.first().map_or(Ok(*address), TcpListener::local_addr)?);
            for (share, socket) in sockets.iter_mut().zip(bound) {
                share.push(socket);
            }
        }
        ensure!(!addresses.is_empty(), "the listener `{}` cannot listen: this machine has none of its addresses", listener.name);
        Ok(Bound { name: listener.name.clone(), configured: listener.addresses.clone(), addresses, sockets })
    }

    async fn bind_one(&self, address: SocketAddr, only: bool) -> io::Result<Vec<TcpListener>> {
        let patience = if self.left.contains(&address) { PATIENCE } else { Duration::ZERO };
        let until = tokio::time::Instant::now() + patience;
        loop {
            match bind(address, only, self.workers) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(PAUSE).await;
                }
                bound => return bound,
            }
        }
    }

    /// Puts a change in force here, and says what the workers must be told.
    pub fn commit(&mut self, change: Change) -> Told {
        let mut told = Told { add: Vec::new(), remove: Vec::new(), shares: (0..self.workers).map(|_| Vec::new()).collect() };
        let mut before: Vec<Option<Bound>> = std::mem::take(&mut self.bound).into_iter().map(Some).collect();
        self.left.clear();
        for next in change.next {
            let (bound, is_new) = match next {
                Next::Kept(place) => (before[place].take(), false),
                Next::Renamed(place, name) => {
                    let bound = before[place].take();
                    told.remove.extend(bound.iter().map(|bound| bound.name.clone()));
                    (bound.map(|bound| Bound { name, ..bound }), true)
                }
                Next::Fresh(bound) => (Some(bound), true),
            };
            let Some(bound) = bound else { continue };
            if is_new {
                for address in &bound.addresses {
                    tracing::info!(listener = %bound.name, %address, "listening");
                }
                told.share(&bound);
            }
            self.bound.push(bound);
        }
        for gone in before.into_iter().flatten() {
            let address = weir_config::explain::listed(&gone.addresses);
            tracing::info!(listener = %gone.name, address, "removed; its connections finish what is in flight");
            self.left.extend(gone.configured);
            told.remove.push(gone.name);
        }
        told
    }
}

impl Told {
    fn share(&mut self, bound: &Bound) {
        self.add.push(bound.name.clone());
        for (share, sockets) in self.shares.iter_mut().zip(&bound.sockets) {
            let copied = sockets.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>();
            match copied {
                Ok(sockets) => share.push((bound.name.clone(), sockets)),
                Err(error) => tracing::error!(listener = %bound.name, %error, "a worker gets no socket (out of descriptors?)"),
            }
        }
    }
}

/// Whether the machine does not have an address, or its family.
pub fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// A peer that is silent for 30 s is asked, and given up after three questions without an answer, 10 s apart.
fn keep_alive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)).with_retries(3)
}

/// Binds one socket for each worker to the same address. Port 0 becomes a free port, the same for all. `only` an address's own
/// family: by itself `[::]` takes IPv4 too, but not from another address of the same list.
///
/// # Errors
/// Why the address cannot be bound.
pub fn bind(address: SocketAddr, only: bool, workers: usize) -> io::Result<Vec<TcpListener>> {
    // SO_REUSEPORT would happily share the port with a stranger of the same user; without it, one is noticed. This
    // socket never listens, so no connection can arrive at it and be lost.
    if address.port() != 0 {
        drop(bound(address, only, false)?);
    }
    let first = bound(address, only, workers > 1)?;
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(bound(address, only, true)?);
    }
    for socket in &sockets {
        socket.listen(BACKLOG)?;
    }
    Ok(sockets.into_iter().map(Into::into).collect())
}

fn bound(address: SocketAddr, only: bool, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if only && address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier process in TIME_WAIT do not keep the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit it: a peer that vanished without a word is noticed, at no cost for each connection.
    socket.set_tcp_keepalive(&keep_alive())?;
    socket.bind(&address.into())?;
    Ok(socket)
}
