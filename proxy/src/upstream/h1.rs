//! HTTP/1.1 to an upstream: idle connections, last in first out, so that the surplus ages and closes.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use weir_config::snapshot::Cluster;

use super::Waiting;
use super::body::{RequestBody, Source};
use super::endpoint::Endpoint;
use super::informational::Inbox;
use crate::error::Fault;

/// The largest head of a response, as for requests by default.
const MAX_RESPONSE_HEAD: usize = 64 << 10;
/// hyper's read buffer; twice a usual socket read halves the cost of large bodies, more does not help.
const MAX_BUFFER: usize = 128 << 10;
/// The most idle connections that are kept to one endpoint by one worker.
const MAX_IDLE: usize = 1024;

/// A connection between two exchanges.
pub struct Idle {
    sender: SendRequest<RequestBody>,
    inbox: Arc<Inbox>,
    since: Instant,
}

/// The idle connections to one endpoint.
#[derive(Default)]
pub struct Pool {
    idle: RefCell<Vec<Idle>>,
    closed: Cell<bool>,
}

impl Pool {
    fn take(&self) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        while let Some(connection) = idle.pop() {
            if !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next exchange.
    pub fn put(&self, mut connection: Idle) {
        let mut idle = self.idle.borrow_mut();
        if self.closed.get() || idle.len() >= MAX_IDLE || connection.sender.is_closed() {
            return;
        }
        connection.since = Instant::now();
        idle.push(connection);
    }

    /// Closes what has been idle longer than `limit`, or was closed by the peer.
    pub fn sweep(&self, now: Instant, limit: Duration) {
        self.idle.borrow_mut().retain(|idle| !idle.sender.is_closed() && now.duration_since(idle.since) < limit);
    }

    /// Closes what is idle, and what comes back from now on.
    pub fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
    }
}

/// Sends a request and waits for the head of the response.
pub(super) async fn exchange(
    endpoint: &Rc<Endpoint>,
    cluster: &Cluster,
    mut request: Request<RequestBody>,
    waiting: &Waiting<'_>,
) -> Result<(Response<Source>, Idle), Fault> {
    loop {
        let (mut connection, reused) = match endpoint.h1.take() {
            Some(connection) => (connection, true),
            None => (open(endpoint, cluster).await?, false),
        };
        if !connection.sender.is_ready() && connection.sender.ready().await.is_err() {
            if reused {
                continue;
            }
            return Err(Fault::UpstreamClosed);
        }
        connection.inbox.subscribe(&mut request);
        match send(&mut connection, request, waiting).await {
            Ok(mut response) => {
                if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
                    return Err(Fault::UpstreamProtocol);
                }
                unambiguous(response.headers_mut())?;
                return Ok((response.map(Source::h1), connection));
            }
            Err(mut error) => match error.take_message() {
                // Nothing was written: the peer had closed the idle connection. Another one will do.
                Some(unsent) if reused => request = unsent,
                _ => return Err(fault(error.error())),
            },
        }
    }
}

/// The framing of a response has one meaning (RFC 9112, section 6.3): Transfer-Encoding overrides Content-Length, and
/// must be `chunked` alone, because that is all that is undone here.
fn unambiguous(headers: &mut HeaderMap) -> Result<(), Fault> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            headers.remove(CONTENT_LENGTH);
            Ok(())
        }
        (Some(_), _) => Err(Fault::UpstreamProtocol),
    }
}

async fn open(endpoint: &Rc<Endpoint>, cluster: &Cluster) -> Result<Idle, Fault> {
    let opened = super::connect(endpoint.address, cluster.connect_timeout).await;
    let stream = opened.inspect_err(|fault| super::count_failure(endpoint, *fault))?;
    // No `max_headers`: up to its own 100 fields hyper parses on the stack, above it two buffers are made for each
    // response. 100 is Envoy's limit too.
    let handshake = Builder::new()
        .preserve_header_case(true)
        .max_buf_size(MAX_BUFFER)
        .max_header_size(MAX_RESPONSE_HEAD)
        .handshake(TokioIo::new(HalfDeaf(stream)));
    let (sender, connection) = handshake.await.map_err(|error| fault(&error))?;
    endpoint.shard.opened[0].add(1);
    endpoint.shard.open.add(1);
    let shard = Arc::clone(&endpoint.shard);
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "upstream HTTP/1 connection ended");
        }
        shard.open.sub(1);
    });
    Ok(Idle { sender, inbox: Arc::default(), since: Instant::now() })
}

/// Waits for the response, and passes informational ones on meanwhile.
async fn send(
    connection: &mut Idle,
    request: Request<RequestBody>,
    waiting: &Waiting<'_>,
) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
    let mut response = pin!(connection.sender.try_send_request(request));
    let inbox = &connection.inbox;
    let mut subscribed = false;
    poll_fn(|cx| {
        let polled = response.as_mut().poll(cx);
        for (status, headers) in inbox.take() {
            subscribed = false;
            waiting.arrived(status, &headers);
        }
        if polled.is_pending() && !subscribed {
            inbox.wake(cx.waker());
            subscribed = true;
            // One may have arrived between the look and the wish to be woken; both happen on this thread, so not here.
        }
        polled
    })
    .await
}

/// A socket whose reading side alone decides what became of an exchange. A peer that answers early and closes resets what
/// is still being sent to it; its answer is there to be read all the same, and hyper would drop it at the failed write.
struct HalfDeaf(TcpStream);

impl AsyncRead for HalfDeaf {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for HalfDeaf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes).map(|written| Ok(written.unwrap_or(bytes.len())))
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let all = || bytes.iter().map(|slice| slice.len()).sum();
        Pin::new(&mut self.0).poll_write_vectored(cx, bytes).map(|written| Ok(written.unwrap_or_else(|_| all())))
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn fault(error: &hyper::Error) -> Fault {
    if error.is_user() || error.is_body_write_aborted() {
        return Fault::BadBody;
    }
    if error.is_parse() || error.is_parse_too_large() {
        return Fault::UpstreamProtocol;
    }
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match io.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe) => Fault::UpstreamReset,
        _ => Fault::UpstreamClosed,
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} idle)", self.idle.borrow().len())
    }
}
