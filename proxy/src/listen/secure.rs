//! What a caller begins with where mutual TLS is asked for: the mesh's TLS, which is taken off here; the app's own, which is
//! passed on; or nothing of the kind.
//!
//! Decides by the first bytes and by the protocols (ALPN) that a ClientHello offers. In permissive mode only what a member
//! of the mesh offers is taken for the mesh's: anything else may be the app's own.

use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use weir_config::schema::ListenerTls;
use weir_config::snapshot::Speaks;

use super::describe;
use crate::drain::Member;
use crate::error::Fault;
use crate::http::connection::Connection;
use crate::opening::{Hello, Patience, client_hello};
use crate::socket::Socket;
use crate::tcp;
use crate::tls::{Refusal, handshake};

/// A member of the mesh speaks at once. A caller of opaque bytes that says nothing for so long may be waiting for the
/// server to speak first, and so is none.
const SILENCE: Duration = Duration::from_millis(200);

/// A connection that can be served.
pub(super) struct Opened {
    pub(super) connection: Rc<Connection>,
    pub(super) stream: Socket,
    pub(super) begun: BytesMut,
    pub(super) member: Member,
}

/// Finds out what the caller speaks. `None` if there is nothing more to do: it was refused, passed on, or went away.
pub(super) async fn open(
    connection: Rc<Connection>,
    mut stream: Socket,
    mut begun: BytesMut,
    member: Member,
    mode: ListenerTls,
) -> Option<Opened> {
    let counted = &connection.listener.shard.tls;
    match greeting(&connection, &mut stream, &mut begun, &member, mode).await? {
        Hello::Tls { mesh: false, .. } if mode == ListenerTls::Permissive => {
            counted[1].add(1);
            Box::pin(tcp::pass_through(connection, stream, begun, member)).await;
            None
        }
        Hello::Tls { .. } => handshake(connection, stream, begun, member).await,
        Hello::NotTls if mode == ListenerTls::Strict => {
            connection.listener.shard.plaintext_refused.add(1);
            tcp::reset(stream.tcp());
            tcp::refuse(&connection, Fault::Plaintext);
            None
        }
        Hello::NotTls => {
            counted[2].add(1);
            Some(Opened { connection, stream, begun, member })
        }
    }
}

async fn greeting(
    connection: &Connection,
    stream: &mut Socket,
    begun: &mut BytesMut,
    member: &Member,
    mode: ListenerTls,
) -> Option<Hello> {
    let patience = || Patience::new(&connection.worker.alarms, &connection.listener.limits());
    let may_wait = mode == ListenerTls::Permissive && matches!(connection.listener.speaks(), Speaks::Tcp(_));
    if may_wait {
        match tokio::time::timeout(SILENCE, client_hello(stream, begun, member, patience())).await {
            Ok(hello) => return hello,
            Err(_) if begun.is_empty() => return Some(Hello::NotTls),
            Err(_) => {}
        }
    }
    client_hello(stream, begun, member, patience()).await
}

/// Takes the mesh's TLS off.
async fn handshake(connection: Rc<Connection>, stream: Socket, begun: BytesMut, member: Member) -> Option<Opened> {
    let Socket::Plain(stream) = stream else { return None };
    let shard = &connection.listener.shard;
    let identity = connection.worker.shared.identity.current().clone();
    let accepted = match &identity {
        Some(identity) => {
            let limit = connection.listener.limits().header_read;
            handshake::accept(stream, &begun, identity, &member, limit).await?
        }
        None => Err(Refusal::OwnCertificate),
    };
    match accepted.map(|secured| (secured, identity)) {
        Ok((secured, Some(identity))) => {
            shard.tls[0].add(1);
            let peer = secured.peer.verified_by(&identity.id);
            let connection = describe(&connection.worker, &connection.listener, connection.ends, Some(peer));
            Some(Opened { connection, stream: secured.socket, begun: BytesMut::new(), member })
        }
        Ok((_, None)) => None,
        Err(refusal) => {
            shard.handshakes_failed[refusal as usize].add(1);
            tracing::info!(
                listener = %connection.listener.name, peer = %connection.ends.peer, reason = refusal.code(),
                "a caller's TLS handshake failed: {refusal}"
            );
            tcp::refuse(&connection, Fault::CallerTls(refusal));
            None
        }
    }
}
