//! One accepted connection: which protocol it speaks, and what its requests need to know of it.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use bytes::BytesMut;

use super::forwarding::Caller;
use super::h2_gate::PREFACE;
use super::{h1, h2};
use crate::drain::Member;
use crate::observe::callers::{Noted, Speaks};
use crate::opening::{Patience, read_until};
use crate::proxy_protocol::Ends;
use crate::socket::Socket;
use crate::state::Worker;
use crate::state::listener::ListenerState;
use crate::tls::handshake::Principal;

/// What the requests of a connection need to know of it.
pub struct Connection {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// The listener that accepted it.
    pub listener: Rc<ListenerState>,
    /// The caller's address, and where it was accepted.
    pub ends: Ends,
    /// The caller, for forwarding headers and trust.
    pub caller: Caller,
    /// Who the caller is, if mutual TLS has shown it.
    pub peer: Option<Rc<Principal>>,
    /// Remembers that it does without mutual TLS, for as long as it is open.
    pub noted: OnceCell<Noted>,
    /// Whether weir itself opened it, and had it handed back.
    pub is_loop: Cell<bool>,
}

impl Connection {
    /// Remembers, until it closes, that its caller does without mutual TLS.
    pub fn note(&self, speaks: Speaks) {
        self.noted.get_or_init(|| self.worker.shared.callers.note(&self.listener.name, self.ends.peer.ip(), speaks));
    }
}

/// Serves a connection to its end. `begun` was read from the stream already.
pub async fn serve(connection: Rc<Connection>, mut stream: Socket, mut begun: BytesMut, member: Member) {
    let mut patience = Patience::new(&connection.worker.alarms, &connection.listener.limits());
    let Some(protocol) = read_until(&mut stream, &mut begun, &member, &mut patience, classify).await else {
        return;
    };
    let counted = &connection.listener.shard.protocols;
    match protocol {
        Protocol::Http1 => {
            counted[0].add(1);
            h1::serve(connection, stream, begun, member).await;
        }
        Protocol::Http2 => {
            counted[1].add(1);
            h2::serve(connection, stream, begun.freeze(), member).await;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
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
