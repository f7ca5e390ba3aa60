//! An HTTP/2 connection from a caller: the h2 crate speaks, the flood gate listens first.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use h2::Reason;
use http::{Request, Response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::body::{ResponseBody, Tunnel};
use super::connection::Connection;
use super::h2_gate::{Flood, Inspector};
use super::informational::Caller;
use super::{request, upgrade};
use crate::drain::Member;
use crate::error::Fault;
use crate::h1::spelling::Spelling;
use crate::opening::Patience;
use crate::socket::Socket;
use crate::tunnel;
use crate::tunnel::side::{Side, Stream};
use crate::upstream::body::Source;
use crate::upstream::pump::{SEND_BUFFER, Windows, pump};

/// Streams that the peer reset before they were accepted; h2 gives up beyond it.
const MAX_PENDING_RESETS: usize = 200;
/// Streams that the peer made weir reset (MadeYouReset, CVE-2025-8671); h2 gives up beyond it. It counts over the life
/// of a connection, so it must leave room for honest mistakes.
const MAX_PROVOKED_RESETS: usize = 256;

/// The largest header list there can be, whatever the limits say: a header map holds 24,576 names and panics at one
/// more, and so many names cost more than this.
const MAX_HEADER_LIST: u32 = 768 << 10;

/// After a flood, GOAWAY has this long to leave.
const MAX_LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves the connection to its end. `prefix` was read from the stream already.
pub async fn serve(connection: Rc<Connection>, stream: Socket, prefix: Bytes, member: Member) {
    let limits = connection.listener.limits();
    let flood = Rc::new(Cell::new(None));
    let inspector = Inspector::new(limits.http2.clone(), Instant::now());
    let io = H2Io { stream, prefix, inspector, flood: Rc::clone(&flood) };
    let header_list = u32::try_from(limits.header_bytes.saturating_mul(2)).unwrap_or(u32::MAX).min(MAX_HEADER_LIST);
    let windows = Windows::of(limits.http2.max_concurrent_streams);
    let handshake = h2::server::Builder::new()
        .initial_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .max_concurrent_streams(limits.http2.max_concurrent_streams)
        // Twice the limit, so that weir itself can say 431 and which limit it was.
        .max_header_list_size(header_list)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MAX_PROVOKED_RESETS))
        // WebSocket over HTTP/2 (RFC 8441).
        .enable_connect_protocol()
        .handshake::<_, Bytes>(io);
    let mut http = match until_drained(handshake, &member).await {
        Some(Ok(http)) => http,
        Some(Err(error)) => {
            tracing::debug!(peer = %connection.ends.peer, %error, "HTTP/2 handshake failed");
            return;
        }
        None => return,
    };
    let slots = connection.worker.streams.of();
    let (mut told, mut served) = (false, false);
    // Streams that are being answered; without any, the connection waits only so long.
    let active = Rc::new(());
    let mut patience = Patience::new(&connection.worker.alarms, &limits);
    // A peer that does not read would never let GOAWAY out.
    let mut last_words: Option<Pin<Box<Sleep>>> = None;
    loop {
        let accepted = poll_fn(|cx| {
            member.watch(cx);
            let over = last_words.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
            if member.is_aborted() || over {
                return Poll::Ready(None);
            }
            let mut accepted = http.poll_accept(cx);
            let idle = Rc::strong_count(&active) == 1;
            if !idle {
                patience.restart();
            }
            let bored = accepted.is_pending() && idle && patience.poll(false, cx).is_ready();
            if accepted.is_pending() && (member.may_leave(served) || bored) && !std::mem::replace(&mut told, true) {
                http.graceful_shutdown();
                accepted = http.poll_accept(cx);
            }
            if let Some(found) = flood.take() {
                tracing::warn!(peer = %connection.ends.peer, flood = ?found, "HTTP/2 flood; the connection is closed");
                connection.listener.shard.floods.add(1);
                http.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                let mut sleep = Box::pin(tokio::time::sleep(MAX_LAST_WORDS));
                let _ = sleep.as_mut().poll(cx);
                last_words = Some(sleep);
                return http.poll_accept(cx);
            }
            accepted
        })
        .await;
        match accepted {
            Some(Ok((request, respond))) => {
                served = true;
                // In a slot, for the runtime would make and free a piece of memory as large for each.
                tokio::task::spawn_local(slots.run(one(Rc::clone(&connection), request, respond, Rc::clone(&active))));
            }
            Some(Err(error)) => {
                tracing::debug!(peer = %connection.ends.peer, %error, "HTTP/2 connection ended");
                return;
            }
            None => return,
        }
    }
}

/// Runs the handshake unless the listener drains meanwhile.
async fn until_drained<F: Future>(future: F, member: &Member) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        member.watch(cx);
        // After a poll: what the caller sent already may be waiting to be read.
        match future.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if member.may_leave(false) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// One request, from its stream and back.
async fn one(
    connection: Rc<Connection>,
    request: Request<h2::RecvStream>,
    respond: h2::server::SendResponse<Bytes>,
    _active: Rc<()>,
) {
    let respond = Rc::new(RefCell::new(respond));
    let unspelled = Spelling::default();
    let response = {
        let caller = Caller::H2(Rc::clone(&respond));
        let (mut head, body) = request.into_parts();
        upgrade::from_extended(&mut head);
        let mut handling = pin!(request::handle(&connection, Box::new(head), Source::h2(body), &unspelled, caller));
        poll_fn(|cx| {
            // A caller that resets its stream wants no answer: the request is dropped, and with it the upstream's.
            if respond.borrow_mut().poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            handling.as_mut().poll(cx).map(Some)
        })
        .await
    };
    let Some(response) = response else { return };
    let (parts, body) = response.into_parts();
    let mut body = body.ending_in_status();
    if let Some(found) = body.take_tunnel() {
        // Boxed, for most streams are none.
        return Box::pin(tunnel(&connection, &respond, parts, body, *found)).await;
    }
    let ends = body.is_end_stream();
    let sent = respond.borrow_mut().send_response(Response::from_parts(parts, ()), ends);
    match sent {
        Ok(_) if ends => {}
        Ok(send) => pump(body, send).await,
        Err(error) => {
            tracing::debug!(peer = %connection.ends.peer, %error, "response not sent");
            let gone = error.is_io() || error.is_go_away() || error.is_reset();
            body.fail(if gone { Fault::DownstreamGone } else { Fault::UpstreamProtocol });
            respond.borrow_mut().send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// Says that the stream is a tunnel now, and carries what goes through it.
async fn tunnel(
    connection: &Connection,
    respond: &RefCell<h2::server::SendResponse<Bytes>>,
    head: http::response::Parts,
    mut body: ResponseBody,
    tunnel: Tunnel,
) {
    let sent = respond.borrow_mut().send_response(Response::from_parts(head, ()), false);
    let Ok(send) = sent else { return body.fail(Fault::DownstreamGone) };
    let caller = Side::Stream(Stream::new(send, tunnel.caller.into_h2()));
    let carried = tunnel::carry(&caller, &tunnel.upstream, None, connection.worker.tools(), &|_, _| {}).await;
    body.carried(carried);
}

/// The socket, with the flood gate in front of the h2 crate.
struct H2Io {
    stream: Socket,
    prefix: Bytes,
    inspector: Inspector,
    flood: Rc<Cell<Option<Flood>>>,
}

impl AsyncRead for H2Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.prefix.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        } else {
            let length = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..length]);
            self.prefix.advance(length);
        }
        if let Err(flood) = self.inspector.inspect(&buf.filled()[before..], Instant::now) {
            self.flood.set(Some(flood));
            // Nothing of the flood gets through, and h2 stops reading, so that the connection's task can end it.
            buf.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
