//! One accepted connection: which protocol it speaks, and what its requests need to know of it.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::forwarding::Caller;
use super::h1::Patience;
use super::h2_gate::PREFACE;
use super::{h1, h2};
use crate::drain::Member;
use crate::state::Worker;
use crate::state::listener::ListenerState;

/// What the requests of a connection need to know of it.
pub struct Connection {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// The listener that accepted it.
    pub listener: Rc<ListenerState>,
    /// The caller's address.
    pub peer: SocketAddr,
    /// The address it was accepted on.
    pub local: SocketAddr,
    /// The caller, for forwarding headers and trust.
    pub caller: Caller,
}

/// Serves a connection to its end.
pub async fn serve(connection: Rc<Connection>, mut stream: TcpStream, member: Member) {
    let mut patience = Patience::new(&connection.worker.alarms, &connection.listener.limits());
    let Some((protocol, prefix)) = detect(&mut stream, &member, &mut patience).await else {
        return;
    };
    let counted = &connection.listener.shard.protocols;
    match protocol {
        Protocol::Http1 => {
            counted[0].add(1);
            h1::serve(connection, stream, prefix, member).await;
        }
        Protocol::Http2 => {
            counted[1].add(1);
            h2::serve(connection, stream, prefix, member).await;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// Reads until the first bytes tell the protocol. `None` if the caller went away first.
async fn detect(stream: &mut TcpStream, member: &Member, patience: &mut Patience) -> Option<(Protocol, Bytes)> {
    let mut seen = BytesMut::new();
    poll_fn(|cx| {
        member.watch(cx);
        loop {
            if member.is_aborted() {
                return Poll::Ready(None);
            }
            // A scratch buffer, so that a connection that says nothing holds no memory.
            let mut scratch = [MaybeUninit::uninit(); 8192];
            let mut buf = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                Poll::Pending if member.may_leave(false) && seen.is_empty() && !has_said_something(stream) => {
                    return patience.until(member.fresh_until(), cx).map(|()| None);
                }
                // A caller that sends part of a preface would get no answer that it understands.
                Poll::Pending => return patience.poll(!seen.is_empty(), cx).map(|_| None),
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => seen.extend_from_slice(buf.filled()),
                Poll::Ready(_) => return Poll::Ready(None),
            }
            if let Some(protocol) = classify(&seen) {
                return Poll::Ready(Some((protocol, seen.split().freeze())));
            }
        }
    })
    .await
}

/// Whether bytes wait in the kernel. A fresh socket reads as pending until the reactor has looked at it, so a drain must
/// ask the kernel before it takes silence for an answer.
pub(super) fn has_said_something(stream: &TcpStream) -> bool {
    let mut one = [MaybeUninit::uninit(); 1];
    matches!(SockRef::from(stream).peek(&mut one), Ok(1))
}

/// The protocol that a stream begins with, once enough of it is there.
fn classify(seen: &[u8]) -> Option<Protocol> {
    let known = seen.len().min(PREFACE.len());
    match (seen[..known] == PREFACE[..known], known == PREFACE.len()) {
        (false, _) => Some(Protocol::Http1),
        (true, true) => Some(Protocol::Http2),
        (true, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_of_the_preface_waits_and_anything_else_is_http1() {
        for length in 0..PREFACE.len() {
            assert_eq!(classify(&PREFACE[..length]), None, "{length}");
            let mut other = PREFACE[..=length].to_vec();
            other[length] ^= 1;
            assert_eq!(classify(&other), Some(Protocol::Http1), "{length}");
        }
        assert_eq!(classify(PREFACE), Some(Protocol::Http2));
        assert_eq!(classify(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"), Some(Protocol::Http2));
        assert_eq!(classify(b"PROPFIND"), Some(Protocol::Http1));
    }
}
