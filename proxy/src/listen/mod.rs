//! From the kernel's backlog to a served connection.
//!
//! Each worker accepts on its own `SO_REUSEPORT` socket. The kernel spreads connections by hash, which goes uneven with
//! few, long-lived ones; so a worker that is ahead hands a fresh connection to a less loaded worker.

mod original;
mod secure;
pub mod sockets;

use std::cell::{Cell, OnceCell};
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::error::TrySendError;
use weir_config::snapshot::{CallerTls, Speaks};

use crate::descriptors::{self, For};
use crate::drain::Member;
use crate::error::{BadRequest, Fault};
use crate::http::connection::{self, Connection};
use crate::http::forwarding::{Caller, Claim};
use crate::opening::{self, Patience, Told};
use crate::proxy_protocol::Ends;
use crate::socket::Socket;
use crate::state::listener::ListenerState;
use crate::state::{Message, Worker};
use crate::tcp;
use crate::tls::handshake::Verified;
use original::Agreed;
use secure::Opened;

/// Accepts until the listener is stopped.
pub async fn accept(worker: Rc<Worker>, state: Rc<ListenerState>, socket: TcpListener) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = state.stopped() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if descriptors::is_kept(&stream, For::Caller) => {
                state.shard.refused.add(1);
                tell(&worker, &state, &io::Error::from_raw_os_error(libc::EMFILE), "connections are closed at once");
            }
            Ok((stream, _)) => place(&worker, &state, stream),
            Err(error) => pause(&worker, &state, &error).await,
        }
    }
    // Connections that the kernel has accepted already would be reset with the socket. The kernel itself is asked: the
    // reactor may not have looked since they arrived.
    let Ok(socket) = socket.into_std() else { return };
    while let Ok((stream, _)) = socket.accept() {
        if stream.set_nonblocking(true).is_ok() {
            adopt(&worker, &state, stream);
        }
    }
}

/// An accept that failed: the connection's fault is forgotten, the process's is waited out.
async fn pause(worker: &Worker, state: &ListenerState, error: &io::Error) {
    let of_one_connection = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    );
    if of_one_connection {
        return;
    }
    tell(worker, state, error, "cannot accept; trying again every 50 ms");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Says what went wrong with accepting, once in a hundred times.
fn tell(worker: &Worker, state: &ListenerState, error: &io::Error, what: &str) {
    if worker.shared.metrics.accept_errors.fetch_add(1, Ordering::Relaxed).is_multiple_of(100) {
        tracing::error!(listener = %state.name, %error, "{what} (out of descriptors? raise the limit with `ulimit -n`)");
    }
}

/// Serves a fresh connection here, or hands it to a worker with fewer.
fn place(worker: &Rc<Worker>, state: &Rc<ListenerState>, stream: TcpStream) {
    let loads = &worker.shared.loads;
    if loads.len() > 1 && !state.is_stopped() {
        let mut other = usize::try_from(worker.draw() % (loads.len() as u64 - 1)).unwrap_or(0);
        other += usize::from(other >= worker.id);
        if loads[worker.id].load(Ordering::Relaxed) > loads[other].load(Ordering::Relaxed) + 1 {
            hand_over(worker, state, stream, other);
            return;
        }
    }
    serve(worker, state, stream);
}

fn hand_over(worker: &Rc<Worker>, state: &Rc<ListenerState>, stream: TcpStream, other: usize) {
    let Ok(stream) = stream.into_std() else { return };
    match worker.shared.mailboxes[other].try_send(Message::Connection(state.name.clone(), stream)) {
        Ok(()) => {
            worker.shared.metrics.handed_over.fetch_add(1, Ordering::Relaxed);
        }
        Err(TrySendError::Full(message) | TrySendError::Closed(message)) => {
            if let Message::Connection(_, stream) = message {
                adopt(worker, state, stream);
            }
        }
    }
}

/// Serves a connection that another worker accepted.
pub fn adopt(worker: &Rc<Worker>, state: &Rc<ListenerState>, stream: std::net::TcpStream) {
    match TcpStream::from_std(stream) {
        Ok(stream) => serve(worker, state, stream),
        Err(error) => tracing::error!(%error, "connection lost on its way between workers"),
    }
}

fn serve(worker: &Rc<Worker>, state: &Rc<ListenerState>, stream: TcpStream) {
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
        // Gone already.
        return;
    };
    if !state.admit() {
        state.shard.refused.add(1);
        return;
    }
    let _ = stream.set_nodelay(true);
    let open = Open::new(worker, state);
    let ends = match state.speaks() {
        Speaks::Original => original::ends(&stream, peer, local, |port| state.is_own_port(port)),
        Speaks::Http | Speaks::Tcp(_) | Speaks::Tls => Ok(Ends::direct(peer, local)),
    };
    let ends = match ends {
        Ok(ends) => ends,
        Err(ends) => {
            tcp::reset(&stream);
            return tcp::refuse(&describe(worker, state, ends, Shown::IN_THE_CLEAR), Fault::OwnPort);
        }
    };
    let stream = Socket::Plain(stream);
    let member = state.connections.join();
    match state.proxy_protocol(peer.ip()) {
        // By itself, though `converse` would do: what an idle connection costs is above all its future.
        None if state.speaks() == Speaks::Http && state.tls() == CallerTls::Off => {
            let connection = describe(worker, state, ends, Shown::IN_THE_CLEAR);
            tokio::task::spawn_local(async move {
                connection::serve(connection, stream, BytesMut::new(), member).await;
                drop(open);
            });
        }
        None => {
            let connection = describe(worker, state, ends, Shown::IN_THE_CLEAR);
            tokio::task::spawn_local(async move {
                converse(connection, stream, BytesMut::new(), member).await;
                drop(open);
            });
        }
        Some(required) => {
            let (worker, state) = (Rc::clone(worker), Rc::clone(state));
            tokio::task::spawn_local(async move {
                introduced(&worker, &state, ends, stream, required, member).await;
                drop(open);
            });
        }
    }
}

/// Serves a connection that begins with who it is for.
async fn introduced(
    worker: &Rc<Worker>,
    state: &Rc<ListenerState>,
    ends: Ends,
    mut stream: Socket,
    required: bool,
    member: Member,
) {
    let mut begun = BytesMut::new();
    let patience = Patience::new(&worker.alarms, &state.limits());
    // Boxed, for it is over before the connection is served.
    let told = Box::pin(opening::proxy_header(&mut stream, &mut begun, &member, patience)).await;
    let ends = match told {
        None => return,
        // Where the connection was going is the kernel's to say.
        Some(Told::Ends(told)) => Ends { destination: ends.destination, ..told },
        Some(Told::Nothing) => ends,
        Some(Told::Absent) if !required => ends,
        Some(Told::Absent | Told::Malformed) => {
            state.shard.malformed.add(1);
            state.unintroduced.set(state.unintroduced.get() + 1);
            if state.unintroduced.get() % 1000 == 1 {
                tracing::warn!(
                    listener = %state.name, peer = %ends.peer,
                    "a connection without a valid PROXY header was closed; does the balancer send it? (`proxy_protocol`)"
                );
            }
            return tcp::refuse(&describe(worker, state, ends, Shown::IN_THE_CLEAR), Fault::BadRequest(BadRequest::ProxyHeader));
        }
    };
    converse(describe(worker, state, ends, Shown::IN_THE_CLEAR), stream, begun, member).await;
}

/// Serves a connection whose caller's address is known.
async fn converse(connection: Rc<Connection>, stream: Socket, begun: BytesMut, member: Member) {
    let (connection, stream, begun, member, agreed) = match connection.listener.tls() {
        CallerTls::Off => (connection, stream, begun, member, Agreed::Nothing),
        // Boxed, for it is over before the connection is served.
        mode => match Box::pin(secure::open(connection, stream, begun, member, mode)).await {
            Some(Opened { connection, stream, begun, member, agreed }) => (connection, stream, begun, member, agreed),
            None => return,
        },
    };
    let http = match connection.listener.speaks() {
        Speaks::Http => Some((connection, stream, begun, member)),
        Speaks::Tcp(cluster) => return Box::pin(tcp::serve(connection, stream, begun, member, cluster)).await,
        Speaks::Tls => return Box::pin(tcp::pass_through(connection, stream, begun, member)).await,
        Speaks::Original => Box::pin(original::serve(connection, stream, begun, member, agreed)).await,
    };
    if let Some((connection, stream, begun, member)) = http {
        connection::serve(connection, stream, begun, member).await;
    }
}

/// What a caller has shown by TLS.
enum Shown {
    /// Who it is.
    Member(Verified),
    /// Nothing.
    Nothing {
        /// What comes is encrypted all the same.
        encrypted: bool,
    },
}

impl Shown {
    const IN_THE_CLEAR: Self = Self::Nothing { encrypted: false };
}

fn describe(worker: &Rc<Worker>, state: &Rc<ListenerState>, ends: Ends, shown: Shown) -> Rc<Connection> {
    let (certificate, encrypted, principal) = match shown {
        Shown::Member(Verified { principal, header }) => (Claim::Verified(header), false, Some(Rc::new(principal))),
        Shown::Nothing { encrypted } if matches!(state.tls(), CallerTls::Off | CallerTls::Edge) => (Claim::Kept, encrypted, None),
        Shown::Nothing { encrypted } => (Claim::Removed, encrypted, None),
    };
    let peer = ends.peer.ip();
    let caller = Caller::new(peer, state.trusts(peer.to_canonical()), encrypted, certificate);
    Rc::new(Connection {
        worker: Rc::clone(worker),
        listener: Rc::clone(state),
        ends,
        caller,
        peer: principal,
        noted: OnceCell::new(),
        is_loop: Cell::new(false),
    })
}

/// Counts an open connection.
struct Open {
    worker: Rc<Worker>,
    state: Rc<ListenerState>,
}

impl Open {
    fn new(worker: &Rc<Worker>, state: &Rc<ListenerState>) -> Self {
        state.shard.accepted.add(1);
        state.shard.open.add(1);
        worker.shared.loads[worker.id].fetch_add(1, Ordering::Relaxed);
        Self { worker: Rc::clone(worker), state: Rc::clone(state) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.state.shard.open.sub(1);
        self.state.total.fetch_sub(1, Ordering::Relaxed);
        self.worker.shared.loads[self.worker.id].fetch_sub(1, Ordering::Relaxed);
    }
}
