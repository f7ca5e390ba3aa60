//! HTTP/1.1 to an upstream: idle connections, last in first out, so that the surplus ages and closes.
//!
//! An exchange belongs to the request's own task: nothing runs for a connection that nobody uses. Only an upload that
//! goes on after the head of the response has a task of its own.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{Method, Response, StatusCode};
use http_body::Body;
use tokio::task::JoinHandle;
use weir_config::snapshot::Cluster;

use super::body::{Attempt, Source};
use super::endpoint::Endpoint;
use super::undelivered::is_undelivered;
use super::{Failure, Outgoing, Progress, Waiting};
use crate::error::Fault;
use crate::h1::encode::{self, Addition};
use crate::h1::response::{self, LIMITS, ResponseHead};
use crate::h1::send::{SendError, Sender};
use crate::h1::spare;
use crate::h1::spelling::Spelling;
use crate::h1::wire::Wire;
use crate::observe::metrics::ClusterShard;
use crate::proxy_protocol::Ends;
use crate::tls::Refusal;
use crate::tls::handshake::Offer;

/// The most idle connections that are kept to one endpoint by one worker.
const MAX_IDLE: usize = 1024;

/// A connection, between two exchanges or in one.
pub struct Connection {
    wire: Rc<Wire>,
    since: Instant,
    /// Whom the endpoint was told that it is for. It serves nobody else then.
    told: Option<Box<Ends>>,
    /// Whether the kernel gives up on a peer that acknowledges nothing.
    gives_up: Cell<bool>,
    _open: Open,
}

impl Connection {
    /// The peer may pause in what comes now, or may not.
    fn bear_pauses(&self, bears: bool) {
        if self.gives_up.replace(!bears) == bears {
            self.wire.with_tcp(|tcp| super::give_up(tcp, !bears));
        }
    }
}

/// A request that is not larger fits into any peer's kernel, whether or not somebody reads it.
const SMALL: u64 = 32 << 10;

/// Counts an open connection.
struct Open(Arc<ClusterShard>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.sub(1);
    }
}

/// The idle connections to one endpoint.
#[derive(Default)]
pub struct Pool {
    idle: RefCell<Vec<Connection>>,
    closed: Cell<bool>,
}

impl Pool {
    fn take(&self, told: Option<&Ends>) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(place) = idle.iter().rposition(|idle| idle.told.as_deref() == told) {
            let connection = idle.remove(place);
            if connection.wire.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    fn put(&self, mut connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        if self.closed.get() || idle.len() >= MAX_IDLE {
            return;
        }
        connection.since = Instant::now();
        idle.push(connection);
    }

    /// Closes what has been idle longer than `limit`, or was closed by the peer.
    pub fn sweep(&self, now: Instant, limit: Duration) {
        self.idle.borrow_mut().retain(|idle| idle.wire.is_usable() && now.duration_since(idle.since) < limit);
    }

    /// Closes what is idle, and what comes back from now on.
    pub fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
    }
}

/// A connection whose response is being read. Dropped before the response is complete, it closes.
pub struct Exchange {
    connection: Connection,
    keep_alive: bool,
    upload: Option<Upload>,
}

/// What is left of a request after the head of its response.
struct Upload {
    task: JoinHandle<()>,
    complete: Rc<Cell<bool>>,
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Nobody waits for the answer any more, and the upload may be stalled for ever.
        self.task.abort();
    }
}

impl Exchange {
    /// A connection that carries opaque bytes.
    pub(super) fn tunnel(connection: Connection) -> Self {
        Self { connection, keep_alive: false, upload: None }
    }

    /// Nothing was sent or received: the connection may serve an exchange.
    pub(super) fn unused(self, endpoint: &Endpoint) {
        endpoint.h1.put(self.connection);
    }

    /// The socket.
    pub(super) fn wire(&self) -> Rc<Wire> {
        Rc::clone(&self.connection.wire)
    }

    /// The response is complete: the connection may serve the next exchange, unless the request is still being sent.
    pub(super) fn finished(self, endpoint: &Endpoint) {
        if self.keep_alive && self.upload.is_none_or(|upload| upload.complete.get()) {
            endpoint.h1.put(self.connection);
        }
    }
}

/// What an upstream answered.
pub struct Answer {
    pub(super) response: Response<Source>,
    pub(super) spelling: Spelling,
    pub(super) exchange: Exchange,
}

/// Sends a request and waits for the head of the response.
pub(super) async fn exchange(
    endpoint: &Rc<Endpoint>,
    cluster: &Cluster,
    request: Outgoing<'_>,
    waiting: &Waiting<'_>,
) -> Result<Answer, Failure> {
    let Outgoing { head, body, spelling, reuse, upgrade, ends, timeout_ms, http2: _ } = request;
    let told = cluster.proxy_protocol.map(|_| ends);
    let mut bytes = spare::bytes();
    let size = body.size_hint();
    let coding = encode::request(&mut bytes, head, spelling, &size, Addition { upgrade, timeout_ms });
    let may_pause = upgrade || size.upper().is_none_or(|most| most.saturating_add(bytes.len() as u64) > SMALL);
    let sender = Sender::new(bytes, body, coding);
    let mut conversation =
        Conversation { sender, sending: Sending::UnderWay, sent_at: None, reused: false, heard: false, upgrade };
    loop {
        let idle = if reuse { endpoint.h1.take(told) } else { None };
        conversation.reused = idle.is_some();
        let connection = match idle {
            Some(connection) => connection,
            None => open(endpoint, cluster, ends, Offer::Http1).await.map_err(|fault| Progress::NotConnected.of(fault))?,
        };
        connection.bear_pauses(may_pause);
        match poll_fn(|cx| conversation.poll(&connection.wire, &head.method, waiting, cx)).await {
            Ok(answer) => return Ok(conversation.answered(connection, answer)),
            // The peer had closed the idle connection. Another one will do.
            Err(Failure { progress: Progress::Unsent, .. }) if conversation.reused => {}
            Err(failure) => return Err(failure),
        }
    }
}

/// One exchange up to the head of the response.
struct Conversation {
    sender: Sender<Attempt>,
    sending: Sending,
    /// When writing began, on a reused connection.
    sent_at: Option<Instant>,
    reused: bool,
    /// The peer has said something about this request.
    heard: bool,
    /// Another protocol was asked for.
    upgrade: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    UnderWay,
    Complete,
    /// The peer takes no more of it. It may have answered early, so what it says counts all the same.
    Refused(Fault),
}

impl Conversation {
    fn poll(
        &mut self,
        wire: &Wire,
        method: &Method,
        waiting: &Waiting<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, Failure>> {
        if self.sending == Sending::UnderWay {
            self.send(wire, cx)?;
        }
        loop {
            match wire.with_unread(|unread| response::next(unread, method)) {
                Ok(Some(head)) if head.response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    let asked = if self.upgrade { Ok(head) } else { Err(Progress::Final.of(Fault::UpstreamProtocol)) };
                    return Poll::Ready(asked);
                }
                Ok(Some(head)) if head.response.status().is_informational() => {
                    self.heard = true;
                    waiting.arrived(head.response.status(), head.response.headers());
                    continue;
                }
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Err(response::NotHttp) => return Poll::Ready(Err(Progress::Final.of(Fault::UpstreamProtocol))),
                Ok(None) => {}
            }
            let (gone, closed) = match ready!(wire.poll_fill(cx)) {
                Ok(0) => (Fault::UpstreamClosed, true),
                Ok(_) => continue,
                Err(error) => (fault(&error), false),
            };
            // A write that met a reset takes what the read would have said of it.
            let (fault, closed) = if let Sending::Refused(fault) = self.sending { (fault, false) } else { (gone, closed) };
            return Poll::Ready(Err(self.died(wire, closed).of(fault)));
        }
    }

    /// The connection ended before the head of the response was there; `closed` in order.
    fn died(&self, wire: &Wire, closed: bool) -> Progress {
        let at_once = self.sent_at.is_none_or(|at| at.elapsed() < super::REUSE_RACE);
        if !self.reused || self.heard || !wire.is_empty() || !at_once {
            return Progress::Sent;
        }
        // TLS has bytes of its own between those of the request.
        let refused =
            closed && wire.is_plain() && wire.with_tcp(|tcp| is_undelivered(tcp, wire.written(), self.sender.written()));
        if refused { Progress::Refused } else { Progress::Stale }
    }

    fn send(&mut self, wire: &Wire, cx: &mut Context<'_>) -> Result<(), Failure> {
        match self.sender.poll(wire, cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.sending = Sending::Complete,
            Poll::Ready(Err(SendError::Io(error))) if self.sender.is_unsent() => return Err(Progress::Unsent.of(fault(&error))),
            Poll::Ready(Err(SendError::Io(error))) => self.sending = Sending::Refused(fault(&error)),
            Poll::Ready(Err(SendError::Body(error))) => return Err(Progress::Final.of(error.callers_fault())),
            Poll::Ready(Err(SendError::Length)) => return Err(Progress::Final.of(Fault::BadBody)),
        }
        if self.reused && self.sent_at.is_none() {
            self.sent_at = Some(Instant::now());
        }
        Ok(())
    }

    /// The head of the response is there.
    fn answered(self, connection: Connection, head: ResponseHead) -> Answer {
        let body = connection.wire.begin(false, |decoder| decoder.begin_response(head.framing, LIMITS));
        let upload = (self.sending == Sending::UnderWay).then(|| upload(self.sender, Rc::clone(&connection.wire)));
        Answer {
            response: head.response.map(|()| Source::h1(body)),
            spelling: head.spelling,
            exchange: Exchange {
                connection,
                // What a caller sends after an upgrade that was refused could be taken for part of it.
                keep_alive: head.keep_alive && !self.upgrade && !matches!(self.sending, Sending::Refused(_)),
                upload,
            },
        }
    }
}

/// Sends the rest of a request while its response comes in already.
fn upload(mut sender: Sender<Attempt>, wire: Rc<Wire>) -> Upload {
    let complete = Rc::new(Cell::new(false));
    let told = Rc::clone(&complete);
    let task = tokio::task::spawn_local(async move {
        match poll_fn(|cx| sender.poll(&wire, cx)).await {
            Ok(()) => told.set(true),
            Err(SendError::Io(_)) => {}
            // The peer must not take for whole what is not.
            Err(SendError::Body(_) | SendError::Length) => drop(poll_fn(|cx| wire.poll_shutdown(cx)).await),
        }
    });
    Upload { task, complete }
}

pub(super) async fn open(endpoint: &Rc<Endpoint>, cluster: &Cluster, ends: &Ends, offer: Offer) -> Result<Connection, Fault> {
    let told = super::told(cluster, ends);
    let opened = super::connect(endpoint, cluster, told.as_deref(), offer).await;
    let stream = opened.inspect_err(|fault| super::count_failure(endpoint, *fault))?;
    endpoint.shard.opened[0].add(1);
    endpoint.shard.open.add(1);
    let open = Open(Arc::clone(&endpoint.shard));
    let wire = Wire::new(stream, BytesMut::new());
    Ok(Connection { wire, since: Instant::now(), told, gives_up: Cell::new(false), _open: open })
}

fn fault(error: &io::Error) -> Fault {
    if let Some(refusal) = Refusal::after_handshake(error) {
        return Fault::UpstreamTls(refusal);
    }
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Fault::UpstreamReset,
        _ => Fault::UpstreamClosed,
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} idle)", self.idle.borrow().len())
    }
}
