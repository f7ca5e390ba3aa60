//! An HTTP/1 connection from a caller: hyper speaks, the gate listens first.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::connection::Connection;
use super::gate::{H1Io, H1Shared, InFlight};
use super::h1_gate::{Inspector, Place};
use super::informational::Caller;
use super::request;
use crate::drain::Member;
use crate::error::Fault;
use crate::respond;
use crate::upstream::body::Source;

/// hyper's read and write buffers.
const MAX_BUFFER: usize = 128 << 10;
/// After a refusal, this much is read and thrown away so that the refusal is not lost in a reset.
const MAX_LINGER_BYTES: usize = 256 << 10;
const MAX_LINGER: Duration = Duration::from_secs(1);
/// A refusal and the lingering after it take no longer than this.
const MAX_GOODBYE: Duration = Duration::from_secs(5);

/// Serves the connection to its end. `prefix` was read from the stream already.
pub async fn serve(connection: Rc<Connection>, stream: TcpStream, prefix: Bytes, member: Member) {
    let limits = connection.listener.limits();
    let shared = H1Shared::new(stream);
    let inspector = Inspector::new(limits.header_bytes, limits.header_count);
    let io = TokioIo::new(H1Io::new(Rc::clone(&shared), inspector, prefix));
    let service = {
        let (connection, shared) = (Rc::clone(&connection), Rc::clone(&shared));
        service_fn(move |request: Request<Incoming>| {
            // Not inside the future: hyper looks for the caller's end of stream before it first polls that, and the gate
            // must know by then that there is a request to answer.
            let in_flight = shared.begin();
            one(Rc::clone(&connection), Rc::clone(&shared), in_flight, request)
        })
    };
    {
        let mut http = pin!(
            Builder::new()
                .preserve_header_case(true)
                .max_headers(limits.header_count.max(100))
                .max_buf_size(MAX_BUFFER.max(limits.header_bytes + 4096))
                .serve_connection(io, service)
        );
        let mut told = false;
        poll_fn(|cx| {
            member.watch(cx);
            loop {
                if member.is_aborted() {
                    return Poll::Ready(());
                }
                if let Poll::Ready(result) = http.as_mut().poll(cx) {
                    if let Err(error) = result {
                        tracing::debug!(peer = %connection.peer, %error, "HTTP/1 connection ended");
                    }
                    return Poll::Ready(());
                }
                // After a poll: told before its first one, hyper would close without reading what was sent already.
                if told || !member.is_draining() {
                    return Poll::Pending;
                }
                told = true;
                http.as_mut().graceful_shutdown();
            }
        })
        .await;
    }
    if !member.is_aborted() {
        // A peer that does not read would keep the refusal, and with it the connection, for ever.
        let _ = tokio::time::timeout(MAX_GOODBYE, goodbye(&connection, &shared)).await;
    }
}

/// One request, from hyper and back.
async fn one(
    connection: Rc<Connection>,
    shared: Rc<H1Shared>,
    in_flight: InFlight,
    request: Request<Incoming>,
) -> Result<http::Response<super::body::ResponseBody>, Infallible> {
    let caller = if request.version() == Version::HTTP_10 { Caller::Old } else { Caller::H1(shared) };
    let mut response = request::handle(&connection, request.map(Source::h1), caller).await;
    if response.body().fault().is_some_and(Fault::closes_connection) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| body.occupying(in_flight)))
}

/// Says the refusal, if there is one, and closes so that it arrives.
async fn goodbye(connection: &Rc<Connection>, shared: &H1Shared) {
    if let Some((bad, place)) = shared.refusal() {
        connection.listener.shard.malformed.add(1);
        if place == Place::Head {
            tracing::debug!(peer = %connection.peer, reason = bad.code(), "request refused");
            let id = request::log_refusal(connection, bad);
            let bytes = respond::raw(bad, &id);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                match poll_fn(|cx| shared.poll_write(cx, rest)).await {
                    Ok(written) if written > 0 => rest = &rest[written..],
                    _ => return,
                }
            }
        }
    }
    if poll_fn(|cx| shared.poll_shutdown(cx)).await.is_err() {
        return;
    }
    if shared.refusal().is_some() || shared.is_mid_message() {
        // Closing with unread bytes makes the kernel send a reset, which can overtake what was just written.
        let _ = tokio::time::timeout(MAX_LINGER, linger(shared)).await;
    }
}

async fn linger(shared: &H1Shared) {
    let mut read = 0;
    let discard = |cx: &mut Context<'_>| -> Poll<usize> { Poll::Ready(ready!(shared.poll_discard(cx)).unwrap_or(0)) };
    while read < MAX_LINGER_BYTES {
        match poll_fn(discard).await {
            0 => return,
            some => read += some,
        }
    }
}
