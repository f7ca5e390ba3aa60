//! The first bytes of a connection: read until they tell what must be known before anybody serves it.
//!
//! Bounded in bytes by whoever judges them, and in time by the listener's limits. What was read stays in the buffer, for
//! whoever serves the connection.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustls::server::Acceptor;
use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use weir_config::snapshot::Limits;

use crate::clock::{Alarm, Alarms};
use crate::drain::Member;
use crate::error::Fault;
use crate::proxy_protocol::{self, Ends, Greeting};
use crate::socket::Socket;
use crate::tls;

/// How long a connection waits for a request, and for the rest of its head.
pub struct Patience {
    alarm: Alarm,
    idle: Option<Duration>,
    head: Option<Duration>,
    idle_since: Option<Instant>,
    head_since: Option<Instant>,
    /// Whether a request has come.
    served: bool,
}

impl Patience {
    /// For a connection that has not said anything yet.
    pub fn new(alarms: &Rc<Alarms>, limits: &Limits) -> Self {
        let alarm = Alarm::of(alarms);
        Self { alarm, idle: limits.idle, head: limits.header_read, idle_since: None, head_since: None, served: false }
    }

    /// The same, without an end to silence.
    pub fn tireless(&self) -> Self {
        let alarm = self.alarm.another();
        Self { alarm, idle: None, head: self.head, idle_since: None, head_since: None, served: self.served }
    }

    /// The same, in no more time than this for what is begun.
    pub fn hasty(&self, head: Duration) -> Self {
        let head = Some(self.head.map_or(head, |limit| limit.min(head)));
        let alarm = self.alarm.another();
        Self { alarm, idle: self.idle, head, idle_since: self.idle_since, head_since: None, served: self.served }
    }

    /// A request is there; the next one has its own time.
    pub fn restart(&mut self) {
        self.idle_since = None;
        self.head_since = None;
        self.served = true;
    }

    /// Whether a request has come.
    pub fn has_served(&self) -> bool {
        self.served
    }

    /// Ready at this moment.
    pub fn until(&mut self, moment: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.alarm.poll(moment, cx)
    }

    /// Ready when nothing more is waited for: `None` between two requests, a fault inside a head.
    pub fn poll(&mut self, begun: bool, cx: &mut Context<'_>) -> Poll<Option<Fault>> {
        let (limit, since) = if begun { (self.head, &mut self.head_since) } else { (self.idle, &mut self.idle_since) };
        let Some(limit) = limit else { return Poll::Pending };
        let since = *since.get_or_insert_with(Instant::now);
        self.alarm.poll(since + limit, cx).map(|()| begun.then_some(Fault::SlowHead))
    }
}

/// Why bytes were not judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unjudged {
    /// The caller sends no more; what it sent does not tell.
    Ended,
    /// It took too long over what it had begun.
    Slow,
    /// There is nobody to serve: it never began, went away, or weir is leaving.
    Gone,
}

/// Reads until `judge` has seen enough. `None` if the caller went away first, or takes too long.
pub async fn read_until<T>(
    stream: &mut Socket,
    begun: &mut BytesMut,
    member: &Member,
    patience: &mut Patience,
    judge: impl FnMut(&[u8]) -> Option<T>,
) -> Option<T> {
    // Nothing is answered here: whoever sends part of a preface would not understand it.
    read_or_end(stream, begun, member, patience, judge).await.ok()
}

/// Reads until `judge` has seen enough.
///
/// # Errors
/// Why it has not.
pub async fn read_or_end<T>(
    stream: &mut Socket,
    begun: &mut BytesMut,
    member: &Member,
    patience: &mut Patience,
    mut judge: impl FnMut(&[u8]) -> Option<T>,
) -> Result<T, Unjudged> {
    poll_fn(|cx| {
        member.watch(cx);
        loop {
            if member.is_aborted() {
                return Poll::Ready(Err(Unjudged::Gone));
            }
            if !begun.is_empty()
                && let Some(judgement) = judge(begun)
            {
                return Poll::Ready(Ok(judgement));
            }
            // A scratch buffer, so that a connection that says nothing holds no memory.
            let mut scratch = [MaybeUninit::uninit(); 8192];
            let mut buf = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                Poll::Pending if member.may_leave(false) && begun.is_empty() && !has_said_something(stream.tcp()) => {
                    return patience.until(member.fresh_until(), cx).map(|()| Err(Unjudged::Gone));
                }
                Poll::Pending => {
                    let late = |fault: Option<Fault>| Err(fault.map_or(Unjudged::Gone, |_| Unjudged::Slow));
                    return patience.poll(!begun.is_empty(), cx).map(late);
                }
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => begun.extend_from_slice(buf.filled()),
                Poll::Ready(Ok(())) => return Poll::Ready(Err(Unjudged::Ended)),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Unjudged::Gone)),
            }
        }
    })
    .await
}

/// Whether bytes wait in the kernel. A fresh socket reads as pending until the reactor has looked at it, so a drain must
/// ask the kernel before it takes silence for an answer.
pub fn has_said_something(stream: &TcpStream) -> bool {
    let mut one = [MaybeUninit::uninit(); 1];
    matches!(SockRef::from(stream).peek(&mut one), Ok(1))
}

/// What a PROXY header said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// For whom the connection is.
    Ends(Ends),
    /// That the proxy speaks for itself, or does not know.
    Nothing,
    /// Nothing that can be understood.
    Malformed,
    /// There was no header.
    Absent,
}

/// Reads a PROXY header. `None` if the caller went away first, or takes too long.
pub async fn proxy_header(stream: &mut Socket, begun: &mut BytesMut, member: &Member, mut patience: Patience) -> Option<Told> {
    let judge = |begun: &[u8]| match proxy_protocol::parse(begun) {
        Greeting::Incomplete => None,
        decided => Some(decided),
    };
    Some(match read_until(stream, begun, member, &mut patience, judge).await? {
        Greeting::Incomplete | Greeting::Malformed => Told::Malformed,
        Greeting::Absent => Told::Absent,
        Greeting::Header { ends, length } => {
            begun.advance(length);
            ends.map_or(Told::Nothing, Told::Ends)
        }
    })
}

/// What a ClientHello shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// It is one.
    Tls {
        /// The server name; `None` if it has none, or is of a kind that rustls does not read.
        name: Option<String>,
        /// Whether a member of the mesh says it, and not the app's own client.
        mesh: bool,
    },
    /// It is not one.
    NotTls,
}

/// Reads a ClientHello, which stays in the buffer.
///
/// # Errors
/// Why there is none.
pub async fn client_hello(
    stream: &mut Socket,
    begun: &mut BytesMut,
    member: &Member,
    mut patience: Patience,
) -> Result<Hello, Unjudged> {
    let (mut acceptor, mut fed) = (Acceptor::default(), 0);
    read_or_end(stream, begun, member, &mut patience, |begun| judge_hello(&mut acceptor, &mut fed, begun)).await
}

/// What bytes show that come in these pieces; `None` if more must come. For fuzzers.
pub fn hello_of(pieces: &[&[u8]]) -> Option<Hello> {
    let (mut acceptor, mut fed, mut begun) = (Acceptor::default(), 0, Vec::new());
    pieces.iter().find_map(|piece| {
        begun.extend_from_slice(piece);
        judge_hello(&mut acceptor, &mut fed, &begun)
    })
}

/// A TLS record that carries a handshake begins so: its type, and the first byte of a version.
const HANDSHAKE: [u8; 2] = [22, 3];

/// A ClientHello of a kind that rustls does not read.
const UNREADABLE: Hello = Hello::Tls { name: None, mesh: false };

/// rustls bounds the size of a message itself, and gives up beyond it.
fn judge_hello(acceptor: &mut Acceptor, fed: &mut usize, begun: &[u8]) -> Option<Hello> {
    let known = begun.len().min(HANDSHAKE.len());
    if begun[..known] != HANDSHAKE[..known] {
        return Some(Hello::NotTls);
    }
    while *fed < begun.len() {
        match acceptor.read_tls(&mut &begun[*fed..]) {
            Ok(0) | Err(_) => return Some(UNREADABLE),
            Ok(read) => *fed += read,
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let mesh = hello.alpn().is_some_and(|mut offered| offered.any(tls::is_of_mesh));
                return Some(Hello::Tls { name: hello.server_name().map(str::to_owned), mesh });
            }
            Err((error, _)) => {
                tracing::debug!(%error, "ClientHello not read");
                return Some(UNREADABLE);
            }
        }
    }
    None
}
