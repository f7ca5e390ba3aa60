//! Connections that the kernel handed over: where they were going, and what they speak.
//!
//! Decides by what is declared for the port, by what mutual TLS has agreed on, else by the first bytes ([`crate::detect`]).
//! A caller that says nothing may wait for a server that speaks first; so whoever it wants to reach is called meanwhile, and
//! the first of the two to speak decides. What servers of HTTP/2 say at once decides nothing: their callers have yet to begin.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::net::TcpStream;
use weir_config::schema::PortProtocol;
use weir_config::snapshot::Listener;

use crate::detect::{Spoken, is_word, judge};
use crate::drain::Member;
use crate::error::Fault;
use crate::http::admission::permits_opaque;
use crate::http::connection::Connection;
use crate::opening::{Hello, Patience, Unjudged, client_hello, has_said_something, read_or_end};
use crate::policy::attempts::{self, Report};
use crate::proxy_protocol::Ends;
use crate::socket::Socket;
use crate::tcp::{self, Early};
use crate::upstream::dialed;

/// Most apps that speak first do so at once. Nobody is called on their behalf before that. The app itself is: what it costs is
/// next to nothing, and the connection serves HTTP as well.
const GRACE: Duration = Duration::from_millis(1);
/// Where a caller was going nobody answers. If it has not said by now what else it wants, it hears of that.
const SILENCE: Duration = Duration::from_secs(1);
/// Who is silent for so long where only HTTP leads anywhere is told that nothing else does.
const MAX_SILENCE: Duration = Duration::from_secs(60);
/// Nobody who speaks HTTP pauses so long in the middle of a method.
const HALF_A_WORD: Duration = Duration::from_millis(500);

/// Where a connection was going. `None` if it was not handed over, or was going to nobody but the listener itself.
///
/// # Errors
/// It was going to another port of weir's own: the answer would come round to weir for ever.
pub(super) fn ends(stream: &TcpStream, peer: SocketAddr, local: SocketAddr, own: impl Fn(u16) -> bool) -> Result<Ends, Ends> {
    let direct = Ends::direct(peer, local);
    let Some(to) = destination(stream, local).filter(|to| *to != local) else { return Ok(direct) };
    let redirected = Ends { peer, local: to, destination: Some(to) };
    let here = to.ip().is_loopback() || to.ip() == peer.ip() || to.ip() == local.ip();
    match here && own(to.port()) {
        false => Ok(redirected),
        true if to.port() == local.port() => Ok(direct),
        true => Err(redirected),
    }
}

/// `SO_ORIGINAL_DST`, for which connection tracking remembers it. IPv4 may come mapped into IPv6.
fn destination(stream: &TcpStream, local: SocketAddr) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let told = match local.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    let to = told.ok()?.as_socket()?;
    Some(SocketAddr::new(to.ip().to_canonical(), to.port()))
}

/// What is known of a connection before its first bytes are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agreed {
    /// Mutual TLS has agreed on HTTP.
    Http,
    /// Mutual TLS has agreed on opaque bytes, or they were waited for long enough.
    Opaque,
    /// Nothing.
    Nothing,
}

/// What remains to be served: HTTP.
pub(super) type Http = (Rc<Connection>, Socket, BytesMut, Member);

/// Serves a connection to its end, unless it speaks HTTP. `begun` was read from the stream already.
pub(super) async fn serve(
    connection: Rc<Connection>,
    mut stream: Socket,
    mut begun: BytesMut,
    member: Member,
    agreed: Agreed,
) -> Option<Http> {
    let found = match known(&connection, agreed) {
        Some(spoken) => Found { spoken, early: None },
        None => find_out(&connection, &mut stream, &mut begun, &member).await?,
    };
    // Whoever serves it refuses it, each in its own words.
    connection.is_loop.set(is_loop(&connection));
    match found.spoken {
        Spoken::Http => return Some((connection, stream, begun, member)),
        Spoken::Opaque => Box::pin(tcp::go_on(connection, stream, begun, member, None, found.early)).await,
        Spoken::Tls => Box::pin(tls(connection, stream, begun, member, found.early)).await,
    }
    None
}

/// Whether weir itself opened the connection.
fn is_loop(connection: &Connection) -> bool {
    let Some(to) = connection.ends.destination.filter(|_| !connection.listener.is_inbound()) else { return false };
    let is_loop = dialed::is_own(connection.ends.peer, to);
    if is_loop {
        let before = connection.listener.loops.replace(connection.listener.loops.get() + 1);
        if before.is_multiple_of(1000) {
            tracing::error!(
                listener = %connection.listener.name, %to,
                "a connection of weir's own was handed back to it: run weir as the user that `weir redirect install --uid` leaves alone"
            );
        }
    }
    is_loop
}

/// TLS that is for somebody else, which may show for whom.
async fn tls(connection: Rc<Connection>, mut stream: Socket, mut begun: BytesMut, member: Member, early: Option<Early>) {
    let patience = Patience::new(&connection.worker.alarms, &connection.listener.limits());
    let name = match client_hello(&mut stream, &mut begun, &member, patience).await {
        Ok(Hello::Tls { name, .. }) => Some(name.unwrap_or_default()),
        // Half a record is bytes like others.
        Ok(Hello::NotTls) | Err(Unjudged::Ended | Unjudged::Slow) => None,
        Err(Unjudged::Gone) => return,
    };
    tcp::go_on(connection, stream, begun, member, name, early).await;
}

/// What is spoken, if nobody needs to look. On a port that is declared to speak HTTP nothing else is, whatever a member of the mesh
/// would agree on: opaque bytes pass by all rules for HTTP.
fn known(connection: &Connection, agreed: Agreed) -> Option<Spoken> {
    let speaks = |listener: &Listener| {
        let port = connection.ends.destination.map_or(listener.port, |to| to.port());
        listener.original.as_ref().map_or(PortProtocol::Http, |original| original.speaks(port))
    };
    match (agreed, connection.listener.with_config(speaks)) {
        (Agreed::Http, _) | (_, PortProtocol::Http) => Some(Spoken::Http),
        (Agreed::Opaque, _) => Some(Spoken::Opaque),
        // Who calls an outbound listener itself can say where it wants to go in HTTP only.
        _ if connection.ends.destination.is_none() && !connection.listener.is_inbound() => Some(Spoken::Http),
        (Agreed::Nothing, PortProtocol::Tcp) => Some(Spoken::Opaque),
        (Agreed::Nothing, PortProtocol::Auto) => None,
    }
}

/// What was found out, and whom it was found out with.
struct Found {
    spoken: Spoken,
    early: Option<Early>,
}

/// Looks at the first bytes of whoever speaks first. `None` if there is nobody to serve.
async fn find_out(connection: &Rc<Connection>, stream: &mut Socket, begun: &mut BytesMut, member: &Member) -> Option<Found> {
    let mut patience = Patience::new(&connection.worker.alarms, &connection.listener.limits());
    if !connection.listener.is_inbound() || has_said_something(stream.tcp()) {
        let at_once = read_or_end(stream, begun, member, &mut patience, judge);
        if let Ok(judged) = tokio::time::timeout(GRACE, at_once).await {
            return settle(judged, None);
        }
    }
    if begun.is_empty() && is_loop(connection) {
        return settle(Ok(Spoken::Opaque), None);
    }
    if !begun.is_empty() {
        return settle(read(stream, begun, member, &mut patience).await, None);
    }
    let permitted = permits_opaque(connection, &connection.listener.current(&connection.worker));
    let Some(target) = tcp::target(connection, None).filter(|_| permitted) else {
        return settle(read_alone(connection, stream, begun, member, &mut patience).await, None);
    };
    let current = connection.listener.current(&connection.worker);
    let cluster = current.prepared.cluster(&connection.worker, target.cluster);
    let mut report = Report::default();
    let (mut opened, mut awaits_caller) = (None, false);
    let judged = {
        let mut reading = pin!(read(stream, begun, member, &mut patience));
        let mut opening = pin!(attempts::open(&cluster, &connection.worker, &connection.ends, &mut report));
        let mut silence = pin!(tokio::time::sleep(SILENCE));
        let judged = poll_fn(|cx| {
            if let Poll::Ready(judged) = reading.as_mut().poll(cx) {
                return Poll::Ready(judged);
            }
            if opened.is_none()
                && let Poll::Ready(outcome) = opening.as_mut().poll(cx)
            {
                let now = tokio::time::Instant::now();
                silence.as_mut().reset(now + SILENCE);
                opened = Some(outcome);
            }
            match &opened {
                None => Poll::Pending,
                Some(Ok(_)) if awaits_caller => Poll::Pending,
                Some(Ok((_, upstream))) => {
                    match ready!(upstream.poll_said(cx)) {
                        Ok(is_http2) => awaits_caller = is_http2,
                        // Nobody sees this error a second time.
                        Err(_) => opened = Some(Err(Fault::UpstreamReset)),
                    }
                    if awaits_caller { Poll::Pending } else { Poll::Ready(Ok(Spoken::Opaque)) }
                }
                Some(Err(_)) => silence.as_mut().poll(cx).map(|()| Ok(Spoken::Opaque)),
            }
        })
        .await;
        if opened.is_none() && judged != Ok(Spoken::Http) && judged != Err(Unjudged::Gone) {
            opened = Some(opening.await);
        }
        judged
    };
    if judged == Ok(Spoken::Http) {
        // What says nothing is there for HTTP too.
        if let Some(Ok((lease, _))) = opened.filter(|_| !awaits_caller) {
            lease.unused(&cluster.config());
        }
        return settle(judged, None);
    }
    settle(judged, opened.map(|opened| Early { target, opened, report }))
}

/// Reads until it is clear what is spoken. A word that nothing follows is none of HTTP's: `ruok`, which waits for its answer.
async fn read(stream: &mut Socket, begun: &mut BytesMut, member: &Member, patience: &mut Patience) -> Result<Spoken, Unjudged> {
    let judged = read_or_end(stream, begun, member, &mut patience.hasty(HALF_A_WORD), judge).await;
    if judged == Err(Unjudged::Slow) && !is_word(begun) {
        return read_or_end(stream, begun, member, patience, judge).await;
    }
    judged
}

/// Reads for a caller on whose behalf nobody may be called. One that waits for a server to speak first would wait for as long as a
/// connection may that a client of HTTP has opened in advance.
async fn read_alone(
    connection: &Connection,
    stream: &mut Socket,
    begun: &mut BytesMut,
    member: &Member,
    patience: &mut Patience,
) -> Result<Spoken, Unjudged> {
    let limit = connection.listener.limits().idle.map_or(MAX_SILENCE, |idle| idle.min(MAX_SILENCE));
    match tokio::time::timeout(limit, read(stream, begun, member, &mut patience.tireless())).await {
        Ok(judged) => judged,
        Err(_) if begun.is_empty() => Ok(Spoken::Opaque),
        Err(_) => read(stream, begun, member, patience).await,
    }
}

/// What is served. What does not tell is opaque, though nothing of it came: a caller that only listens is served too.
fn settle(judged: Result<Spoken, Unjudged>, early: Option<Early>) -> Option<Found> {
    match judged {
        Ok(spoken) => Some(Found { spoken, early }),
        Err(Unjudged::Ended | Unjudged::Slow) => Some(Found { spoken: Spoken::Opaque, early }),
        Err(Unjudged::Gone) => None,
    }
}
