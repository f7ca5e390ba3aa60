//! HTTP/2 to an upstream: few connections, many streams. A further connection is opened only when every other one has
//! as many streams as the peer allows, or as its windows are made for: whoever does not read must not hold up the others.
//! Tunnels, which often do not, have connections of their own.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, HOST, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use weir_config::snapshot::Cluster;

use super::body::Source;
use super::endpoint::Endpoint;
use super::pump::{MAX_HEADER_LIST, SEND_BUFFER, Windows, pump};
use super::{Failure, MAX_UPLOAD_ALONE, Outgoing, Progress, Waiting};
use crate::error::Fault;
use crate::h1::encode::TIMEOUT_MS;
use crate::proxy_protocol::Ends;
use crate::socket::Socket;
use crate::tls::Refusal;
use crate::tls::handshake::Offer;
use crate::tunnel::side::{self, Side};

/// The connections to one endpoint.
#[derive(Default)]
pub struct Pool {
    connections: RefCell<Vec<Rc<Connection>>>,
    opening: RefCell<Vec<Rc<Attempt>>>,
    closed: Cell<bool>,
    /// Until when it is not asked again whether the endpoint takes extended CONNECT.
    no_tunnels_until: Cell<Option<Instant>>,
}

/// What a connection is for; it serves nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Purpose {
    /// Whom the endpoint was told that it is for (PROXY protocol).
    told: Option<Box<Ends>>,
    /// Tunnels rather than requests.
    tunnels: bool,
}

/// How long an endpoint that nobody configured may take to say that it speaks HTTP/2.
const GREETING: Duration = Duration::from_secs(10);
/// The most requests of one connection, whatever the peer allows; windows are made for so many.
const MAX_STREAMS: u32 = 256;
/// How full a connection may become.
#[derive(Debug, Clone, Copy)]
enum Room {
    /// As its windows are made for.
    Usual,
    /// As the peer allows, for want of another.
    Any,
}

/// The most tunnels of one connection. All of them stalled hold less than the connection's window.
const MAX_TUNNELS: usize = 8;
/// What one tunnel may have under way.
const TUNNEL_WINDOW: u32 = 64 << 10;
/// What the h2 crate charges for small frames that nobody reads yet, before it takes them for a flood: enough for a
/// connection full of tunnels that are stalled on messages of ten bytes.
const TUNNEL_FRAME_BUDGET: usize = 16 << 20;
/// An endpoint that does not take extended CONNECT is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(60);

struct Connection {
    sender: SendRequest<Bytes>,
    streams: Cell<usize>,
    /// What it is for.
    purpose: Purpose,
    /// When the last stream ended, if it is swept.
    idle_since: Cell<Instant>,
    /// Whether it has carried a request.
    served: Cell<bool>,
    /// Why it takes no more requests, if it does not.
    ended: Cell<Option<Fault>>,
    /// Told when the peer's SETTINGS are there, and when the connection ends.
    settled: Notify,
}

/// A connection that is being opened; requests that arrive meanwhile wait for it and share its fate.
#[derive(Default)]
struct Attempt {
    purpose: Purpose,
    over: Notify,
    failed: Cell<Option<Fault>>,
}

/// A request on its stream: the stream counts until both the response and the upload are over.
pub struct Exchange {
    _stream: Rc<Stream>,
    upload: Option<JoinHandle<()>>,
    /// The sending half of a tunnel.
    tunnel: Option<SendStream<Bytes>>,
}

impl Exchange {
    /// This side of a tunnel.
    pub(super) fn side(&mut self, receive: Source) -> Option<Side> {
        let send = self.tunnel.take()?;
        Some(Side::Stream(side::Stream::new(send, receive.into_h2())))
    }

    /// The response is complete; what is still being uploaded may go on.
    pub fn let_upload_go_on(mut self) {
        if let Some(mut upload) = self.upload.take().filter(|upload| !upload.is_finished()) {
            tokio::task::spawn_local(async move {
                if tokio::time::timeout(MAX_UPLOAD_ALONE, &mut upload).await.is_err() {
                    upload.abort();
                }
            });
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Nobody waits for the answer any more, and the upload may be stalled for ever.
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}

/// A stream of a connection, counted until it is dropped.
pub struct Stream(Rc<Connection>);

impl Stream {
    /// Whether the connection was idle after it had served. With other requests on it, one that dies was not idle: who
    /// knows what the peer had begun.
    fn is_reused(&self) -> bool {
        self.0.served.replace(true) && self.0.streams.get() == 1
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        if self.0.is_swept() && self.0.streams.get() == 0 {
            self.0.idle_since.set(Instant::now());
        }
    }
}

impl Connection {
    /// Whether it is closed when it is idle: whom it was for may be gone.
    fn is_swept(&self) -> bool {
        self.purpose != Purpose::default()
    }

    /// Whether it takes another stream. `Room::Any` is what the peer allows, beyond what the windows are made for.
    fn has(&self, room: Room) -> bool {
        let most = match room {
            _ if self.purpose.tunnels => MAX_TUNNELS,
            Room::Usual => MAX_STREAMS as usize,
            Room::Any => usize::MAX,
        };
        self.streams.get() < self.sender.current_max_send_streams().min(most)
    }
}

impl Pool {
    /// Gives the connections up; those with streams live until the streams end.
    pub fn close(&self) {
        self.closed.set(true);
        self.connections.borrow_mut().clear();
    }

    /// Closes connections that not everybody may use and that have been idle longer than `limit`.
    pub fn sweep(&self, now: Instant, limit: Duration) {
        let keeps = |connection: &Rc<Connection>| {
            !connection.is_swept()
                || connection.streams.get() > 0
                || now.saturating_duration_since(connection.idle_since.get()) < limit
        };
        self.connections.borrow_mut().retain(keeps);
    }

    /// A place on a connection with room, the fullest first, so that as few as possible stay open.
    fn place(&self, purpose: &Purpose, room: Room) -> Option<Stream> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| connection.ended.get().is_none());
        let room = connections.iter().filter(|connection| connection.purpose == *purpose && connection.has(room));
        let connection = room.max_by_key(|c| c.streams.get())?;
        connection.streams.set(connection.streams.get() + 1);
        Some(Stream(Rc::clone(connection)))
    }
}

/// Sends a request and waits for the head of the response.
pub(super) async fn exchange(
    endpoint: &Rc<Endpoint>,
    cluster: &Cluster,
    request: Outgoing<'_>,
    waiting: &Waiting<'_>,
) -> Result<(Response<Source>, Exchange), Failure> {
    let Outgoing { head, body, ends: callers, timeout_ms, .. } = request;
    let ends = body.is_end_stream();
    let (stream, mut sender) = ready(endpoint, cluster, &purpose(cluster, callers, false)).await?;
    let reused = stream.is_reused();
    let sent_at = Instant::now();
    let stream = Rc::new(stream);
    let mut request = Request::from_parts(head.clone(), ());
    tell_timeout(request.headers_mut(), timeout_ms);
    let (response, send) = sender.send_request(request, ends).map_err(|error| Progress::Final.of(fault(&error)))?;
    let upload = (!ends).then(|| {
        let counted = Rc::clone(&stream);
        tokio::task::spawn_local(async move {
            pump(body, send).await;
            drop(counted);
        })
    });
    let exchange = Exchange { _stream: stream, upload, tunnel: None };
    match wait(response, waiting).await {
        Ok(response) => Ok((response.map(Source::h2), exchange)),
        Err(error) => Err(progress(&error, reused && sent_at.elapsed() < super::REUSE_RACE).of(fault(&error))),
    }
}

fn tell_timeout(headers: &mut HeaderMap, timeout_ms: Option<u64>) {
    if let Some(millis) = timeout_ms {
        headers.insert(TIMEOUT_MS, millis.into());
    }
}

/// Asks for another protocol by extended CONNECT (RFC 8441); consent comes back as it looks in HTTP/1.1. `None`, with
/// nothing sent, if the endpoint does not take that.
pub(super) async fn switch(
    endpoint: &Rc<Endpoint>,
    cluster: &Cluster,
    request: &Outgoing<'_>,
    waiting: &Waiting<'_>,
) -> Option<Result<(Response<Source>, Exchange), Failure>> {
    let pool = &endpoint.h2;
    if pool.no_tunnels_until.get().is_some_and(|until| Instant::now() < until) {
        return None;
    }
    let mut extended = extended(request.head)?;
    tell_timeout(extended.headers_mut(), request.timeout_ms);
    let (stream, mut sender) = match ready(endpoint, cluster, &purpose(cluster, request.ends, true)).await {
        Ok(ready) if ready.1.is_extended_connect_protocol_enabled() => ready,
        // Nobody is there, in whatever version.
        Err(failure) if matches!(failure.fault, Fault::ConnectFailed | Fault::UpstreamTls(_)) => return Some(Err(failure)),
        Ok(_) | Err(_) => {
            pool.no_tunnels_until.set(Some(Instant::now() + ASK_AGAIN));
            return None;
        }
    };
    let (reused, sent_at) = (stream.is_reused(), Instant::now());
    let (response, mut send) = match sender.send_request(extended, false) {
        Ok(sent) => sent,
        Err(error) => return Some(Err(Progress::Final.of(fault(&error)))),
    };
    let mut exchange = Exchange { _stream: Rc::new(stream), upload: None, tunnel: None };
    Some(match wait(response, waiting).await {
        Ok(mut response) if response.status().is_success() => {
            exchange.tunnel = Some(send);
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            if let Some(protocol) = request.head.headers.get(UPGRADE) {
                response.headers_mut().insert(UPGRADE, protocol.clone());
            }
            Ok((response.map(Source::h2), exchange))
        }
        Ok(response) => {
            // Nothing more is said on a stream that is no tunnel.
            let _ = send.send_data(Bytes::new(), true);
            Ok((response.map(Source::h2), exchange))
        }
        Err(error) => Err(progress(&error, reused && sent_at.elapsed() < super::REUSE_RACE).of(fault(&error))),
    })
}

fn purpose(cluster: &Cluster, ends: &Ends, tunnels: bool) -> Purpose {
    Purpose { told: super::told(cluster, ends), tunnels }
}

/// An extended CONNECT for what a head in HTTP/1's form asks for. Only for WebSocket: for nothing else is it known that
/// what follows is the same in both versions. weir answers the handshake then, so it must be one.
fn extended(head: &Parts) -> Option<Request<()>> {
    let protocol = head.headers.get(UPGRADE)?.to_str().ok()?;
    if !protocol.eq_ignore_ascii_case("websocket") || !has_key(&head.headers) {
        return None;
    }
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(Authority::try_from(head.headers.get(HOST)?.as_bytes()).ok()?);
    uri.path_and_query = head.uri.path_and_query().cloned();
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    *request.headers_mut() = head.headers.clone();
    // Of a body that is not there, no length either: the peer would hold the tunnel to it.
    for name in [UPGRADE, HOST, SEC_WEBSOCKET_KEY, CONTENT_LENGTH] {
        request.headers_mut().remove(name);
    }
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    Some(request)
}

/// Whether there is one key of sixteen bytes (RFC 6455, section 4.1).
fn has_key(headers: &HeaderMap) -> bool {
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let (key, further) = (keys.next(), keys.next());
    further.is_none() && key.is_some_and(|key| STANDARD.decode(key.as_bytes()).is_ok_and(|key| key.len() == 16))
}

/// How far a request came that got an error for an answer.
fn progress(error: &h2::Error, stale: bool) -> Progress {
    if error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM)) {
        // Of the streams that a GOAWAY ends, the peer has processed none (RFC 9113, section 6.8).
        Progress::Refused
    } else if stale && error.is_io() {
        Progress::Stale
    } else {
        Progress::Sent
    }
}

/// A connection that takes a request now. One that ended or said GOAWAY refuses before anything is sent, and the next
/// is asked; three times at most, because a peer that refuses fresh connections refuses the request.
async fn ready(endpoint: &Rc<Endpoint>, cluster: &Cluster, purpose: &Purpose) -> Result<(Stream, SendRequest<Bytes>), Failure> {
    let mut last = Fault::UpstreamClosed;
    for _ in 0..3 {
        let stream = acquire(endpoint, cluster, purpose).await.map_err(|fault| Progress::NotConnected.of(fault))?;
        match stream.0.sender.clone().ready().await {
            Ok(sender) => return Ok((stream, sender)),
            Err(error) => {
                last = fault(&error);
                stream.0.ended.set(Some(last));
            }
        }
    }
    Err(Progress::Unsent.of(last))
}

async fn wait(mut response: ResponseFuture, waiting: &Waiting<'_>) -> Result<Response<h2::RecvStream>, h2::Error> {
    poll_fn(|cx| {
        while let Poll::Ready(Some(informational)) = response.poll_informational(cx) {
            let informational = informational?;
            waiting.arrived(informational.status(), informational.headers());
        }
        Pin::new(&mut response).poll(cx)
    })
    .await
}

/// A place on a connection; opens one if there is none, and makes do with those there are if that fails. Requests that arrive meanwhile wait for the same connection, and
/// fail with it: were each to try for itself, they would time out one after the other.
async fn acquire(endpoint: &Rc<Endpoint>, cluster: &Cluster, purpose: &Purpose) -> Result<Stream, Fault> {
    let pool = &endpoint.h2;
    loop {
        if let Some(stream) = pool.place(purpose, Room::Usual) {
            return Ok(stream);
        }
        let opening = pool.opening.borrow().iter().find(|attempt| attempt.purpose == *purpose).cloned();
        if let Some(attempt) = opening {
            attempt.over.notified().await;
            match attempt.failed.get() {
                Some(fault) => return pool.place(purpose, Room::Any).ok_or(fault),
                None => continue,
            }
        }
        let guard = Opening::begin(pool, purpose.clone());
        let opened = open(endpoint, cluster, purpose.clone()).await;
        let connection = match opened {
            Ok(connection) => connection,
            Err(fault) => {
                guard.attempt.failed.set(Some(fault));
                return pool.place(purpose, Room::Any).ok_or(fault);
            }
        };
        connection.streams.set(1);
        if !pool.closed.get() {
            pool.connections.borrow_mut().push(Rc::clone(&connection));
        }
        drop(guard);
        return Ok(Stream(connection));
    }
}

/// Holds the place of a connection that is being opened, and wakes those who wait for it however it ends. Whoever opens
/// it may be cancelled; then one of those who wait tries next.
struct Opening<'e> {
    pool: &'e Pool,
    attempt: Rc<Attempt>,
}

impl<'e> Opening<'e> {
    fn begin(pool: &'e Pool, purpose: Purpose) -> Self {
        let attempt = Rc::new(Attempt { purpose, ..Attempt::default() });
        pool.opening.borrow_mut().push(Rc::clone(&attempt));
        Self { pool, attempt }
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.pool.opening.borrow_mut().retain(|attempt| !Rc::ptr_eq(attempt, &self.attempt));
        self.attempt.over.notify_waiters();
    }
}

/// Opens a connection and waits for the peer's SETTINGS: until they are there, nobody knows how many streams it takes.
async fn open(endpoint: &Rc<Endpoint>, cluster: &Cluster, purpose: Purpose) -> Result<Rc<Connection>, Fault> {
    // One limit for all of it: a peer that accepts and says nothing is as bad as one that does not accept. But where it was
    // going is nobody's choice, and a caller of its own would wait.
    let limit = if cluster.destination.is_some() { cluster.connect_timeout.max(GREETING) } else { cluster.connect_timeout };
    let limit = tokio::time::Instant::now() + limit;
    let opened = super::connect(endpoint, cluster, purpose.told.as_deref(), Offer::Http2).await;
    let stream = opened.inspect_err(|fault| super::count_failure(endpoint, *fault))?;
    let windows = Windows::of(MAX_STREAMS);
    let mut builder = h2::client::Builder::new();
    if purpose.tunnels {
        builder.initial_window_size(TUNNEL_WINDOW).data_frame_budget(TUNNEL_FRAME_BUDGET);
    } else {
        builder.initial_window_size(windows.stream);
    }
    let handshake = builder
        .initial_connection_window_size(windows.connection)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false)
        .initial_max_send_streams(0)
        .handshake(stream);
    let (sender, connection) = handshake.await.map_err(|error| fault(&error))?;
    let state = Rc::new(Connection {
        sender,
        streams: Cell::new(0),
        purpose,
        idle_since: Cell::new(Instant::now()),
        served: Cell::new(false),
        ended: Cell::new(None),
        settled: Notify::new(),
    });
    tokio::task::spawn_local(drive(connection, Rc::clone(&state), endpoint));
    let settled = async {
        // Without a limit of the peer's, h2 says so with its largest number.
        while state.ended.get().is_none() && state.sender.current_max_send_streams() == 0 {
            state.settled.notified().await;
        }
    };
    let in_time = tokio::time::timeout_at(limit, settled).await;
    match (in_time, state.ended.get()) {
        (_, Some(fault)) => Err(fault),
        (Err(_), None) => {
            state.ended.set(Some(Fault::ConnectTimeout));
            super::count_failure(endpoint, Fault::ConnectTimeout);
            Err(Fault::ConnectTimeout)
        }
        (Ok(()), None) => Ok(state),
    }
}

/// Drives a connection to its end.
fn drive(
    mut connection: h2::client::Connection<Socket, Bytes>,
    state: Rc<Connection>,
    endpoint: &Endpoint,
) -> impl Future<Output = ()> + use<> {
    endpoint.shard.opened[1].add(1);
    endpoint.shard.open.add(1);
    let shard = Arc::clone(&endpoint.shard);
    // The connection ends when the last sender is gone, so its own task may not hold one.
    let state = Rc::downgrade(&state);
    let mut settled = false;
    async move {
        let ended = poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            if !settled && let Some(state) = state.upgrade() {
                settled = state.sender.current_max_send_streams() > 0;
                if settled {
                    state.settled.notify_waiters();
                }
            }
            polled
        })
        .await;
        if let Err(error) = &ended {
            tracing::debug!(%error, "upstream HTTP/2 connection ended");
        }
        if let Some(state) = state.upgrade() {
            state.ended.set(Some(ended.map_or_else(|error| fault(&error), |()| Fault::UpstreamClosed)));
            state.settled.notify_waiters();
        }
        shard.open.sub(1);
    }
}

fn fault(error: &h2::Error) -> Fault {
    if let Some(refusal) = error.get_io().and_then(Refusal::after_handshake) {
        return Fault::UpstreamTls(refusal);
    }
    match error.reason() {
        Some(h2::Reason::PROTOCOL_ERROR | h2::Reason::FRAME_SIZE_ERROR | h2::Reason::COMPRESSION_ERROR) => {
            Fault::UpstreamProtocol
        }
        _ if error.is_reset() && error.is_remote() => Fault::UpstreamReset,
        _ => Fault::UpstreamClosed,
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} connections)", self.connections.borrow().len())
    }
}
