//! HTTP/2 to an upstream: few connections, many streams. A further connection is opened only when every other one has
//! as many streams as the peer allows.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Response};
use http_body::Body;
use tokio::sync::Notify;
use weir_config::snapshot::Cluster;

use super::Waiting;
use super::body::{RequestBody, Source};
use super::endpoint::Endpoint;
use super::pump::{CONNECTION_WINDOW, MAX_HEADER_LIST, SEND_BUFFER, STREAM_WINDOW, pump};
use crate::error::Fault;

/// The connections to one endpoint.
#[derive(Default)]
pub struct Pool {
    connections: RefCell<Vec<Rc<Connection>>>,
    opening: RefCell<Option<Rc<Notify>>>,
    closed: Cell<bool>,
}

struct Connection {
    sender: SendRequest<Bytes>,
    streams: Cell<usize>,
    ended: Cell<bool>,
}

/// A stream of a connection, counted until it is dropped.
pub struct Stream(Rc<Connection>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

impl Pool {
    /// Gives the connections up; those with streams live until the streams end.
    pub fn close(&self) {
        self.closed.set(true);
        self.connections.borrow_mut().clear();
    }

    /// A place on a connection with room, the fullest first, so that as few as possible stay open.
    fn place(&self) -> Option<Stream> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.ended.get());
        let room = connections.iter().filter(|c| c.streams.get() < c.sender.current_max_send_streams());
        let connection = room.max_by_key(|c| c.streams.get())?;
        connection.streams.set(connection.streams.get() + 1);
        Some(Stream(Rc::clone(connection)))
    }
}

/// Sends a request and waits for the head of the response.
pub(super) async fn exchange(
    endpoint: &Rc<Endpoint>,
    cluster: &Cluster,
    request: Request<RequestBody>,
    waiting: &Waiting<'_>,
) -> Result<(Response<Source>, Stream), Fault> {
    let (parts, body) = request.into_parts();
    let ends = body.is_end_stream();
    let (stream, mut sender) = ready(endpoint, cluster).await?;
    let (response, send) = sender.send_request(Request::from_parts(parts, ()), ends).map_err(|error| fault(&error))?;
    if !ends {
        tokio::task::spawn_local(pump(body, send));
    }
    let response = wait(response, waiting).await.map_err(|error| fault(&error))?;
    Ok((response.map(Source::h2), stream))
}

/// A connection that takes a request now. One that ended or said GOAWAY refuses before anything is sent, and the next
/// is asked; three times at most, because a peer that refuses fresh connections refuses the request.
async fn ready(endpoint: &Rc<Endpoint>, cluster: &Cluster) -> Result<(Stream, SendRequest<Bytes>), Fault> {
    let mut last = Fault::UpstreamClosed;
    for _ in 0..3 {
        let stream = acquire(endpoint, cluster).await?;
        match stream.0.sender.clone().ready().await {
            Ok(sender) => return Ok((stream, sender)),
            Err(error) => {
                stream.0.ended.set(true);
                last = fault(&error);
            }
        }
    }
    Err(last)
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

/// A place on a connection; opens one if there is none. Requests that arrive meanwhile wait for the same connection.
async fn acquire(endpoint: &Rc<Endpoint>, cluster: &Cluster) -> Result<Stream, Fault> {
    loop {
        if let Some(stream) = endpoint.h2.place() {
            return Ok(stream);
        }
        let opening = endpoint.h2.opening.borrow().clone();
        if let Some(opening) = opening {
            opening.notified().await;
            continue;
        }
        let guard = Opening::begin(endpoint);
        let connection = open(endpoint, cluster).await?;
        connection.streams.set(1);
        if !endpoint.h2.closed.get() {
            endpoint.h2.connections.borrow_mut().push(Rc::clone(&connection));
        }
        drop(guard);
        return Ok(Stream(connection));
    }
}

/// Holds the place of a connection that is being opened, and wakes those who wait for it however it ends.
struct Opening<'e>(&'e Pool);

impl<'e> Opening<'e> {
    fn begin(endpoint: &'e Endpoint) -> Self {
        *endpoint.h2.opening.borrow_mut() = Some(Rc::new(Notify::new()));
        Self(&endpoint.h2)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(notify) = self.0.opening.borrow_mut().take() {
            notify.notify_waiters();
        }
    }
}

async fn open(endpoint: &Rc<Endpoint>, cluster: &Cluster) -> Result<Rc<Connection>, Fault> {
    let opened = super::connect(endpoint.address, cluster.connect_timeout).await;
    let stream = opened.inspect_err(|fault| super::count_failure(endpoint, *fault))?;
    let handshake = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false)
        // Until the peer's SETTINGS arrive; 100 is what RFC 9113 recommends as a least value.
        .initial_max_send_streams(100)
        .handshake(stream);
    let (sender, connection) = handshake.await.map_err(|error| fault(&error))?;
    endpoint.shard.opened[1].add(1);
    endpoint.shard.open.add(1);
    let shard = Arc::clone(&endpoint.shard);
    let state = Rc::new(Connection { sender, streams: Cell::new(0), ended: Cell::new(false) });
    let ended = Rc::downgrade(&state);
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "upstream HTTP/2 connection ended");
        }
        if let Some(state) = ended.upgrade() {
            state.ended.set(true);
        }
        shard.open.sub(1);
    });
    Ok(state)
}

fn fault(error: &h2::Error) -> Fault {
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
