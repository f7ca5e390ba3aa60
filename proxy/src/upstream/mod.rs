//! To the endpoint and back: pools, connections, one exchange.
//!
//! Decides which connection carries a request; not which endpoint (that is `balance`) nor whether it is tried again
//! elsewhere. A connection that proves closed before anything of the request was written is replaced without a word:
//! nothing was sent, so nothing can happen twice.

pub mod body;
pub mod dialed;
pub mod endpoint;
pub mod h1;
pub mod h2;
pub mod inflow;
pub mod informational;
pub mod pump;
mod undelivered;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use http::request::Parts;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use weir_config::snapshot::Cluster;
use weir_deploy::redirect::options::PRESERVED;

use crate::descriptors::{self, For};
use crate::error::Fault;
use crate::h1::spelling::Spelling;
use crate::proxy_protocol::{self, Ends};
use crate::socket::Socket;
use crate::tls::Refusal;
use crate::tls::handshake::{self, Offer};
use crate::tunnel::side::Side;
use body::{Attempt, Source};
use endpoint::{ComesFrom, Endpoint};
use informational::{HoldGate, Inform};

/// What an exchange holds on to until its response is complete. Dropped without [`Lease::finished`], an HTTP/1
/// connection is not used again.
pub struct Lease {
    load: Load,
    connection: Connection,
}

enum Connection {
    H1(h1::Exchange),
    H2(h2::Exchange),
}

impl Lease {
    /// Whether the connection is HTTP/2's.
    pub fn is_h2(&self) -> bool {
        matches!(self.connection, Connection::H2(_))
    }

    /// The upstream's side of a tunnel, if it agreed to one; `receive` is what the response had for a body.
    pub fn side(&mut self, receive: Source) -> Option<Side> {
        match &mut self.connection {
            Connection::H1(exchange) => Some(Side::Wire(exchange.wire())),
            Connection::H2(exchange) => exchange.side(receive),
        }
    }

    /// The response is complete and was not wanted: as [`Lease::finished`], but what is still being uploaded ends.
    pub fn discarded(self) {
        if let Connection::H1(exchange) = self.connection {
            exchange.finished(&self.load.0);
        }
    }

    /// Opened for a tunnel that there will not be: the connection may serve HTTP, if it is nothing but a connection.
    pub fn unused(self, cluster: &Cluster) {
        if let (Connection::H1(exchange), None, None) = (self.connection, &cluster.tls, cluster.proxy_protocol) {
            exchange.unused(&self.load.0);
        }
    }

    /// The response is complete: the connection may serve the next exchange, unless the request is still being sent.
    pub fn finished(self) {
        match self.connection {
            Connection::H1(exchange) => exchange.finished(&self.load.0),
            Connection::H2(exchange) => exchange.let_upload_go_on(),
        }
    }
}

/// Counts a request in flight at an endpoint.
struct Load(Rc<Endpoint>);

impl Load {
    fn new(endpoint: &Rc<Endpoint>) -> Self {
        endpoint.in_flight.set(endpoint.in_flight.get() + 1);
        Self(Rc::clone(endpoint))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

/// What an upstream answered.
pub struct Answer {
    /// The head, and the body as it arrives.
    pub response: Response<Source>,
    /// How the head was spelled.
    pub spelling: Spelling,
    /// What the exchange holds on to.
    pub lease: Lease,
}

impl Answer {
    fn over_h2(response: Response<Source>, exchange: h2::Exchange, load: Load) -> Self {
        Self { response, spelling: Spelling::default(), lease: Lease { load, connection: Connection::H2(exchange) } }
    }
}

/// Who waits for informational responses.
pub struct Waiting<'c> {
    /// The caller, who gets them.
    pub caller: &'c dyn Inform,
    /// What `100 Continue` opens.
    pub hold: Option<Rc<HoldGate>>,
    /// Whether the caller asked for `100 Continue` and must be told by us (HTTP/2; on HTTP/1 the codec tells it).
    pub tell_continue: bool,
}

impl Waiting<'_> {
    fn arrived(&self, status: http::StatusCode, headers: &http::HeaderMap) {
        if status != http::StatusCode::CONTINUE {
            self.caller.inform(status, headers);
            return;
        }
        if let Some(hold) = &self.hold {
            hold.open();
            if self.tell_continue {
                self.caller.inform(status, headers);
            }
        }
    }
}

/// A request as it is to leave.
pub struct Outgoing<'r> {
    /// Method, target, headers, in the form that the protocol wants.
    pub head: &'r Parts,
    /// The body.
    pub body: Attempt,
    /// How the head was spelled, for HTTP/1.
    pub spelling: &'r Spelling,
    /// HTTP/2 rather than HTTP/1.
    pub http2: bool,
    /// Whether an idle connection will do.
    pub reuse: bool,
    /// Whether it asks for another protocol. Its head is in HTTP/1's form whatever the protocol.
    pub upgrade: bool,
    /// In how many milliseconds an answer is wanted, to be told to the upstream.
    pub timeout_ms: Option<u64>,
    /// For whom it is; told to endpoints that want to know.
    pub ends: &'r Ends,
}

/// Why there is no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What is said of it.
    pub fault: Fault,
    /// How far it came.
    pub progress: Progress,
}

/// How far a request came that has no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There was no connection.
    NotConnected,
    /// Nothing of it was written.
    Unsent,
    /// The peer says that it was not processed, or its kernel has refused all of it.
    Refused,
    /// Written to a reused connection, which died at once and without a byte of a response.
    Stale,
    /// Written; the peer may have processed it.
    Sent,
    /// Given up for a reason that another attempt would meet too.
    Final,
}

impl Progress {
    fn of(self, fault: Fault) -> Failure {
        Failure { fault, progress: self }
    }
}

/// An upload that outlives its response may go on for so long, on both sides of weir.
pub const MAX_UPLOAD_ALONE: Duration = Duration::from_secs(300);

/// A reused connection that dies within this time after a request was written to it was closed for being idle; one that
/// dies later was closed over the request, which must not be sent again without being asked for.
const REUSE_RACE: Duration = Duration::from_secs(1);

/// Sends a request to an endpoint and waits for the head of the response.
///
/// # Errors
/// Why there is no response.
pub async fn exchange(
    endpoint: &Rc<Endpoint>,
    cluster: &Cluster,
    request: Outgoing<'_>,
    waiting: &Waiting<'_>,
) -> Result<Answer, Failure> {
    let load = Load::new(endpoint);
    if request.http2 && request.upgrade {
        // Boxed, for it is rare and would make every request larger.
        if let Some(switched) = Box::pin(h2::switch(endpoint, cluster, &request, waiting)).await {
            let (response, exchange) = switched?;
            return Ok(Answer::over_h2(response, exchange, load));
        }
    } else if request.http2 {
        let (response, exchange) = h2::exchange(endpoint, cluster, request, waiting).await?;
        return Ok(Answer::over_h2(response, exchange, load));
    }
    let h1::Answer { response, spelling, exchange } = h1::exchange(endpoint, cluster, request, waiting).await?;
    Ok(Answer { response, spelling, lease: Lease { load, connection: Connection::H1(exchange) } })
}

/// An idle upstream that vanished without a word is noticed within half a minute. It is asked three times before [`GIVE_UP`],
/// where the kernel gives up on what it asks too, however often it was.
const KEEP_ALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(3);
/// What was sent and is not acknowledged for so long will not be, where the peer takes all that is sent: the peers of HTTP/2 always
/// read, and a small request fits into the kernel of who does not. Anywhere else somebody may pause longer than that, which the
/// kernel does not tell from silence.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Has the kernel give up on a peer that acknowledges nothing, or not.
fn give_up(socket: &TcpStream, gives_up: bool) {
    let _ = SockRef::from(socket).set_tcp_user_timeout(gives_up.then_some(GIVE_UP));
}

/// Whom a connection is for, if the cluster's connections begin with that.
fn told(cluster: &Cluster, ends: &Ends) -> Option<Box<Ends>> {
    cluster.proxy_protocol.map(|_| Box::new(*ends))
}

/// Opens a connection, tells for whom it is, and has the peer show who it is if the cluster wants to know.
async fn connect(endpoint: &Endpoint, cluster: &Cluster, told: Option<&Ends>, offer: Offer) -> Result<Socket, Fault> {
    let address = endpoint.address;
    let until = tokio::time::Instant::now() + cluster.connect_timeout;
    let opened = async {
        let mut stream = dial(endpoint).await?;
        if descriptors::is_kept(&stream, For::Upstream) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        if let Some((version, ends)) = cluster.proxy_protocol.zip(told) {
            stream.write_all(&proxy_protocol::header(version, ends)?).await?;
        }
        Ok::<_, io::Error>(stream)
    };
    let stream = match tokio::time::timeout_at(until, opened).await {
        Ok(Ok(stream)) => {
            // Small writes must not wait for acknowledgements; a socket that refuses is no worse than before.
            let _ = stream.set_nodelay(true);
            let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEP_ALIVE);
            if offer == Offer::Http2 {
                give_up(&stream, true);
            }
            stream
        }
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "connection not opened");
            return Err(Fault::ConnectFailed);
        }
        Err(_) => {
            // Whoever refuses does so at once, if the refusal finds its way back.
            if let Some(ComesFrom::Caller(caller)) = endpoint.from {
                tracing::warn!(
                    %address, %caller,
                    "no answer to a call of the app from its caller's address: are the rules installed with `--preserve-source`? \
                     It is called by loopback now, as if weir were the caller"
                );
            }
            return Err(Fault::ConnectTimeout);
        }
    };
    let Some(tls) = &cluster.tls else { return Ok(Socket::Plain(stream)) };
    // Boxed, for a handshake is rare and its state large.
    let secured = Box::pin(handshake::connect(stream, &endpoint.tls, tls, offer));
    let secured = tokio::time::timeout_at(until, secured).await.unwrap_or(Err(Refusal::TimedOut));
    match &secured {
        Ok(_) => endpoint.shard.handshakes.add(1),
        Err(refusal) => {
            endpoint.shard.handshakes_failed[*refusal as usize].add(1);
            tracing::warn!(cluster = %cluster.name, %address, reason = refusal.code(), "no TLS connection: {refusal}");
        }
    }
    secured.map_err(Fault::UpstreamTls)
}

/// Whether somebody takes connections at the endpoint: one is opened, and closed.
pub async fn answers(endpoint: &Endpoint) -> bool {
    dial(endpoint).await.is_ok()
}

async fn dial(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let Some(from) = endpoint.from else {
        let stream = TcpStream::connect(endpoint.address).await?;
        dialed::note(stream.local_addr()?, endpoint.address);
        return Ok(stream);
    };
    let (ComesFrom::Own(ip) | ComesFrom::Caller(ip)) = from;
    let socket = if ip.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if matches!(from, ComesFrom::Caller(_)) {
        in_the_name_of(&SockRef::from(&socket), ip).inspect_err(|error| {
            tracing::error!(%error, "the app cannot be called from its callers' addresses: `preserve_source` needs CAP_NET_ADMIN");
        })?;
    }
    port_by_connecting(&socket);
    socket.bind(SocketAddr::new(ip, 0))?;
    socket.connect(endpoint.address).await
}

/// Has the kernel choose the port when it knows where the socket goes, so that one port serves many destinations and may be used
/// again soon after. Chosen with the address alone (`IP_BIND_ADDRESS_NO_PORT`, Linux 4.2, is not known) it serves one connection
/// a minute, and there are 28,232 of them.
fn port_by_connecting(socket: &TcpSocket) {
    let on: libc::c_int = 1;
    let Ok(length) = libc::socklen_t::try_from(size_of_val(&on)) else { return };
    // SAFETY: the descriptor is open as long as `socket` is, and the kernel reads `length` bytes, which `on` has. The option is
    // the same for IPv6. Where it is refused, all is as it was.
    unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, (&raw const on).cast(), length);
    }
}

/// Lets a socket have an address of somebody else, and marks it, so that the rules of redirection lead the answers back.
fn in_the_name_of(socket: &SockRef<'_>, ip: IpAddr) -> io::Result<()> {
    if ip.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }?;
    socket.set_mark(PRESERVED)
}

/// Opens a connection for a tunnel.
///
/// # Errors
/// Why there is none.
pub async fn open(endpoint: &Rc<Endpoint>, cluster: &Cluster, ends: &Ends) -> Result<(Lease, Side), Fault> {
    let load = Load::new(endpoint);
    let exchange = h1::Exchange::tunnel(h1::open(endpoint, cluster, ends, Offer::Opaque).await?);
    let side = Side::Wire(exchange.wire());
    Ok((Lease { load, connection: Connection::H1(exchange) }, side))
}

/// Counts a failed connect.
fn count_failure(endpoint: &Endpoint, fault: Fault) {
    if fault == Fault::ConnectTimeout {
        endpoint.shard.timed_out.add(1);
    } else {
        endpoint.shard.failed.add(1);
    }
}
