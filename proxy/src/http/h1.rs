//! An HTTP/1 connection from a caller: one request after the other, each answered before the next is looked at.
//!
//! Decides when the connection stays and when it closes, and closes so that what was said last arrives.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::Response;
use http_body::{Body, SizeHint};
use socket2::SockRef;

use super::body::ResponseBody;
use super::connection::Connection;
use super::informational::Caller;
use super::{logged, request};
use crate::drain::Member;
use crate::error::Fault;
use crate::h1::encode::{self, Coding, Recipient};
use crate::h1::request::{RequestHead, Scanner, read};
use crate::h1::send::{SendError, Sender};
use crate::h1::spare;
use crate::h1::wire::Wire;
use crate::h1::{Framing, Limits};
use crate::opening::{Patience, has_said_something};
use crate::socket::Socket;
use crate::tunnel::side::Side;
use crate::upstream::MAX_UPLOAD_ALONE;
use crate::upstream::body::Source;
use crate::{respond, tunnel};

/// What is left of a body that nobody wanted is read, up to so much, so that the connection can stay.
const MAX_LEFTOVER: u64 = 64 << 10;
/// It is waited for no longer than this.
const MAX_LEFTOVER_WAIT: Duration = Duration::from_secs(5);
/// After a refusal, this much is read and thrown away so that the refusal is not lost in a reset.
const MAX_LINGER_BYTES: usize = 256 << 10;
const MAX_LINGER: Duration = Duration::from_secs(1);
/// A refusal and the lingering after it take no longer than this: a peer that does not read would keep it for ever.
const MAX_GOODBYE: Duration = Duration::from_secs(5);

/// Serves the connection to its end. `begun` was read from the stream already.
pub async fn serve(connection: Rc<Connection>, stream: Socket, begun: BytesMut, member: Member) {
    let configured = connection.listener.limits();
    let limits = Limits { header_bytes: configured.header_bytes, header_count: configured.header_count };
    let mut patience = Patience::new(&connection.worker.alarms, &configured);
    let wire = Wire::new(stream, begun);
    let mut scanner = Scanner::default();
    let member = Rc::new(member);
    let slots = connection.worker.slots.of();
    let end = loop {
        let head = match poll_fn(|cx| next(&wire, &mut scanner, limits, &member, &mut patience, cx)).await {
            Ok(Some(head)) => head,
            Ok(None) => break End::Quiet,
            Err(fault) => break End::Refused(fault),
        };
        patience.restart();
        // In a slot, so that a connection between two requests is small.
        let turn = turn(Rc::clone(&connection), Rc::clone(&wire), head, limits, Rc::clone(&member));
        let after = slots.run(turn).await;
        match after {
            After::Next => {}
            After::End(end) => break end,
            After::Tunnel(opened) => {
                Box::pin(tunnel(&connection, &wire, *opened, &member)).await;
                break End::Gone;
            }
        }
    };
    finish(&connection, &wire, end).await;
}

/// What follows a request.
enum After {
    /// The next one.
    Next,
    /// Nothing.
    End(End),
    /// A tunnel.
    Tunnel(Box<Opened>),
}

/// A tunnel that the upstream agreed to.
struct Opened {
    response: Response<ResponseBody>,
    upstream: Side,
    recipient: Recipient,
}

/// Ends the connection so that what was said last arrives.
async fn finish(connection: &Rc<Connection>, wire: &Wire, end: End) {
    if wire.is_malformed() || matches!(end, End::Refused(Fault::BadRequest(_))) {
        connection.listener.shard.malformed.add(1);
    }
    match end {
        End::Gone => {}
        // A reset is all that tells a caller of HTTP/1.0 that a body is not whole.
        End::Reset => drop(wire.with_tcp(|stream| SockRef::from(stream).set_linger(Some(Duration::ZERO)))),
        End::Quiet | End::Refused(_) => {
            // Boxed, for a connection does without it nearly all its life.
            let _ = Box::pin(tokio::time::timeout(MAX_GOODBYE, goodbye(connection, wire, &end))).await;
        }
    }
}

/// One request and its response.
async fn turn(connection: Rc<Connection>, wire: Rc<Wire>, head: RequestHead, limits: Limits, member: Rc<Member>) -> After {
    let recipient = Recipient::of(&head);
    let framing = head.framing;
    let Some(mut response) = handle(&connection, &wire, head, limits, &member).await else { return After::End(End::Gone) };
    if let Some(found) = response.body_mut().take_tunnel() {
        return After::Tunnel(Box::new(Opened { response, upstream: found.upstream, recipient }));
    }
    answer(&wire, response, framing, recipient, &member).await.map_or(After::Next, After::End)
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nobody is there, or nothing more is to be said.
    Gone,
    /// Everything is said.
    Quiet,
    /// What was said last is not whole, and nothing else tells.
    Reset,
    /// Something came that is no request.
    Refused(Fault),
}

/// The next request; `None` if there is none.
fn next(
    wire: &Wire,
    scanner: &mut Scanner,
    limits: Limits,
    member: &Member,
    patience: &mut Patience,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<RequestHead>, Fault>> {
    member.watch(cx);
    loop {
        if member.is_aborted() {
            return Poll::Ready(Ok(None));
        }
        if let Some(head) = wire.with_unread(|unread| scanner.next(unread, limits)).map_err(Fault::BadRequest)? {
            return Poll::Ready(read(&head, limits).map(Some).map_err(Fault::BadRequest));
        }
        match wire.poll_fill(cx) {
            // What the caller sent already is answered; silence ends the connection.
            Poll::Pending if member.may_leave(patience.has_served()) && wire.is_empty() && !wire.with_tcp(has_said_something) => {
                return Poll::Ready(Ok(None));
            }
            Poll::Pending => return patience.poll(!wire.is_empty(), cx).map(|fault| fault.map_or(Ok(None), Err)),
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(None)),
            Poll::Ready(Ok(_)) => {}
        }
    }
}

/// The response to a request; `None` if the caller went away first.
async fn handle(
    connection: &Rc<Connection>,
    wire: &Rc<Wire>,
    head: RequestHead,
    limits: Limits,
    member: &Member,
) -> Option<Response<ResponseBody>> {
    let body = wire.begin(head.expects_continue, |decoder| decoder.begin_request(head.framing, limits));
    let caller = if head.is_old() { Caller::Old } else { Caller::H1(Rc::clone(wire)) };
    let mut handling = pin!(request::handle(connection, head.head, Source::h1(body), &head.spelling, caller));
    poll_fn(|cx| {
        member.watch(cx);
        if let Poll::Ready(response) = handling.as_mut().poll(cx) {
            return Poll::Ready(Some(response));
        }
        // A caller that went away wants no answer: the request is dropped, and with it the upstream's.
        let gone = member.is_aborted() || wire.poll_gone(cx).is_ready();
        if gone || matches!(wire.poll_queued(cx), Poll::Ready(Err(_))) { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

/// Sends the response, and decides whether the connection stays.
async fn answer(
    wire: &Wire,
    response: Response<ResponseBody>,
    framing: Framing,
    recipient: Recipient,
    member: &Member,
) -> Option<End> {
    let (mut sender, coding, keep_alive) = begin(wire, response, framing, recipient, member);
    let sent = poll_fn(|cx| {
        member.watch(cx);
        match sender.poll(wire, cx) {
            Poll::Ready(sent) => Poll::Ready(Some(sent)),
            Poll::Pending if member.is_aborted() || wire.poll_gone(cx).is_ready() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    match sent {
        Some(Ok(())) => {}
        Some(Err(SendError::Length)) => {
            sender.body_mut().fail(Fault::UpstreamProtocol);
            return Some(End::Quiet);
        }
        // The caller must not take for whole what is not, so the connection ends before the message does; where the end of
        // the connection is the end of the message, in a reset.
        Some(Err(SendError::Body(_))) if coding == Coding::UntilClose => return Some(End::Reset),
        Some(Err(SendError::Body(_))) => return Some(End::Quiet),
        Some(Err(SendError::Io(_))) | None => return Some(End::Gone),
    }
    drop(sender);
    let stays = keep_alive && coding != Coding::UntilClose;
    if stays && framing == Framing::None {
        return None;
    }
    // Boxed, for most requests have no body, and it would make every one larger.
    Box::pin(settle(wire, framing, stays, member)).await
}

/// Begins to answer. Gives what sends the response, how its body leaves, and whether the connection may stay.
fn begin(
    wire: &Wire,
    mut response: Response<ResponseBody>,
    framing: Framing,
    mut recipient: Recipient,
    member: &Member,
) -> (Sender<ResponseBody>, Coding, bool) {
    let refused = response.body().fault().is_some_and(Fault::closes_connection);
    // An upload whose response is complete is given up, or goes on alone; a large one is not worth waiting for.
    let outlived = response.body().is_end_stream() && !wire.is_done() && is_large(wire);
    recipient.keep_alive &= !refused && !outlived && !member.is_draining() && !is_stuck(wire, framing);
    wire.answer();
    let spelling = response.body_mut().take_spelling();
    let mut bytes = spare::bytes();
    let coding = encode::response(&mut bytes, &response, &spelling, &response.body().size_hint(), recipient);
    let (head, mut body) = response.into_parts();
    spare::give_headers(head.headers);
    if coding == Coding::None {
        body.without_content();
    }
    (Sender::new(bytes, body, coding), coding, recipient.keep_alive)
}

/// Says that the connection is a tunnel now, and carries what goes through it.
async fn tunnel(connection: &Connection, wire: &Rc<Wire>, opened: Opened, member: &Member) {
    let Opened { mut response, upstream, mut recipient } = opened;
    wire.answer();
    recipient.switches = true;
    let spelling = response.body_mut().take_spelling();
    let mut bytes = spare::bytes();
    encode::response(&mut bytes, &response, &spelling, &SizeHint::with_exact(0), recipient);
    let sent = tokio::time::timeout(MAX_GOODBYE, write_all(wire, &bytes)).await;
    if sent.is_ok_and(|sent| sent.is_ok()) {
        let caller = Side::Wire(Rc::clone(wire));
        let carried = tunnel::carry(&caller, &upstream, Some(member), connection.worker.tools(), &|_, _| {}).await;
        response.into_body().carried(carried);
    }
}

async fn write_all(wire: &Wire, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match poll_fn(|cx| wire.poll_write(cx, &[IoSlice::new(rest)])).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => rest = &rest[written..],
        }
    }
    Ok(())
}

/// What follows a response: the rest of the request's body is waited for, or the connection closes.
async fn settle(wire: &Wire, framing: Framing, stays: bool, member: &Member) -> Option<End> {
    if !stays && poll_fn(|cx| wire.poll_shutdown(cx)).await.is_err() {
        return Some(End::Gone);
    }
    // An upload may outlive its response.
    let released = poll_fn(|cx| {
        member.watch(cx);
        if member.is_aborted() { Poll::Ready(false) } else { wire.poll_released(cx).map(|()| true) }
    });
    if !tokio::time::timeout(MAX_UPLOAD_ALONE, released).await.is_ok_and(|released| released) {
        return Some(End::Gone);
    }
    if !stays || is_stuck(wire, framing) {
        return Some(End::Quiet);
    }
    let leftover = tokio::time::timeout(MAX_LEFTOVER_WAIT, poll_fn(|cx| wire.poll_skip(cx)));
    if wire.is_done() || leftover.await.is_ok_and(|skipped| skipped.is_ok()) { None } else { Some(End::Quiet) }
}

/// Whether the request's body is in the way of the next request: the caller still waits to be asked for it, it is
/// malformed, or nobody reads it and it is large or of unknown length.
fn is_stuck(wire: &Wire, framing: Framing) -> bool {
    if framing == Framing::None || wire.is_done() {
        return false;
    }
    wire.awaits_continue() || wire.is_malformed() || (wire.is_abandoned() && is_large(wire))
}

/// Whether more of the body may be to come than is worth reading for nothing.
fn is_large(wire: &Wire) -> bool {
    wire.remaining().is_none_or(|remaining| remaining > MAX_LEFTOVER)
}

/// Says the refusal, if there is one, and closes so that it arrives.
async fn goodbye(connection: &Rc<Connection>, wire: &Wire, end: &End) {
    if let End::Refused(fault) = *end {
        tracing::debug!(peer = %connection.ends.peer, reason = fault.code(), "request refused");
        let id = logged::log_refusal(connection, fault);
        let bytes = respond::raw(fault, &id);
        if write_all(wire, &bytes).await.is_err() {
            return;
        }
    }
    let is_mid_message = matches!(end, End::Refused(_)) || !wire.is_done() || !wire.is_empty();
    if poll_fn(|cx| wire.poll_shutdown(cx)).await.is_ok() && is_mid_message {
        // Closing with unread bytes makes the kernel send a reset, which can overtake what was just written.
        let _ = tokio::time::timeout(MAX_LINGER, linger(wire)).await;
    }
}

async fn linger(wire: &Wire) {
    let mut read = 0;
    let discard = |cx: &mut Context<'_>| -> Poll<usize> { Poll::Ready(ready!(wire.poll_discard(cx)).unwrap_or(0)) };
    while read < MAX_LINGER_BYTES {
        match poll_fn(discard).await {
            0 => return,
            some => read += some,
        }
    }
}
