//! What a caller begins with where mutual TLS is asked for: the mesh's TLS, which is taken off here; the app's own, which is
//! passed on; or nothing of the kind.
//!
//! Decides by the first bytes and by the protocols (ALPN) that a ClientHello offers. In permissive mode only what a member
//! of the mesh offers is taken for the mesh's: anything else may be the app's own.

use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use weir_config::snapshot::{CallerTls, Speaks};

use super::original::Agreed;
use super::{Shown, describe};
use crate::drain::Member;
use crate::error::Fault;
use crate::http::connection::Connection;
use crate::observe::callers;
use crate::opening::{Hello, Patience, Unjudged, client_hello};
use crate::socket::Socket;
use crate::tcp;
use crate::tls::handshake::{self, Caller};
use crate::tls::{self, Refusal};

/// A member of the mesh speaks at once. A caller of opaque bytes that says nothing for so long may be waiting for the
/// server to speak first, and so is none.
const SILENCE: Duration = Duration::from_millis(200);

/// A connection that can be served.
pub(super) struct Opened {
    pub(super) connection: Rc<Connection>,
    pub(super) stream: Socket,
    pub(super) begun: BytesMut,
    pub(super) member: Member,
    /// What mutual TLS has agreed on.
    pub(super) agreed: Agreed,
}

/// Finds out what the caller speaks. `None` if there is nothing more to do: it was refused, passed on, or went away.
pub(super) async fn open(
    connection: Rc<Connection>,
    mut stream: Socket,
    mut begun: BytesMut,
    member: Member,
    mode: CallerTls,
) -> Option<Opened> {
    let counted = &connection.listener.shard.tls;
    let (hello, agreed) = greeting(&connection, &mut stream, &mut begun, &member, mode).await?;
    match hello {
        Hello::Tls { mesh: false, .. } if mode == CallerTls::Permissive => {
            counted[1].add(1);
            connection.note(callers::Speaks::OwnTls);
            // Opaque bytes like any others: where they go, no server name decides.
            if matches!(connection.listener.speaks(), Speaks::Tcp(_) | Speaks::Original) {
                return Some(Opened { connection, stream, begun, member, agreed });
            }
            Box::pin(tcp::pass_through(connection, stream, begun, member)).await;
            None
        }
        Hello::Tls { .. } => handshake(connection, stream, begun, member, mode).await,
        Hello::NotTls if mode != CallerTls::Permissive => {
            connection.listener.shard.plaintext_refused.add(1);
            tcp::reset(stream.tcp());
            tcp::refuse(&connection, Fault::Plaintext);
            None
        }
        Hello::NotTls => {
            counted[2].add(1);
            connection.note(callers::Speaks::Plaintext);
            Some(Opened { connection, stream, begun, member, agreed })
        }
    }
}

/// What the caller begins with, and what of it need not be looked at again.
async fn greeting(
    connection: &Connection,
    stream: &mut Socket,
    begun: &mut BytesMut,
    member: &Member,
    mode: CallerTls,
) -> Option<(Hello, Agreed)> {
    let patience = || Patience::new(&connection.worker.alarms, &connection.listener.limits());
    let may_wait = mode == CallerTls::Permissive && matches!(connection.listener.speaks(), Speaks::Tcp(_) | Speaks::Original);
    if !may_wait {
        return client_hello(stream, begun, member, patience()).await.ok().map(|hello| (hello, Agreed::Nothing));
    }
    let at_once = tokio::time::timeout(SILENCE, client_hello(stream, begun, member, patience())).await;
    let greeted = match at_once {
        Ok(greeted) => greeted,
        Err(_) if begun.is_empty() => Ok(Hello::NotTls),
        Err(_) => client_hello(stream, begun, member, patience()).await,
    };
    match greeted {
        Ok(hello) => Some((hello, Agreed::Nothing)),
        // The app may know what to do with half a record, and answers who only listens.
        Err(Unjudged::Ended) => Some((Hello::NotTls, Agreed::Nothing)),
        Err(Unjudged::Slow) => Some((Hello::NotTls, Agreed::Opaque)),
        Err(Unjudged::Gone) => None,
    }
}

/// Takes TLS off.
async fn handshake(
    connection: Rc<Connection>,
    stream: Socket,
    begun: BytesMut,
    member: Member,
    mode: CallerTls,
) -> Option<Opened> {
    let Socket::Plain(stream) = stream else { return None };
    let shard = &connection.listener.shard;
    let limit = connection.listener.limits().header_read;
    let caller = Caller { stream, begun: &begun, member: &member, limit };
    let accepted = if mode == CallerTls::Edge {
        shake_with_outsider(&connection, caller).await?
    } else {
        shake_with_member(&connection, caller).await?
    };
    match accepted {
        Ok((stream, shown)) => {
            shard.tls[usize::from(mode == CallerTls::Edge)].add(1);
            let connection = describe(&connection.worker, &connection.listener, connection.ends, shown);
            let agreed = agreed(&stream);
            Some(Opened { connection, stream, begun: BytesMut::new(), member, agreed })
        }
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

/// What a member of the mesh says it will speak.
fn agreed(stream: &Socket) -> Agreed {
    match stream.protocol() {
        Some(name) if name == tls::ALPN_TCP => Agreed::Opaque,
        Some(name) if tls::is_of_mesh(name) => Agreed::Http,
        Some(_) | None => Agreed::Nothing,
    }
}

type Accepted = Result<(Socket, Shown), Refusal>;

async fn shake_with_member(connection: &Connection, caller: Caller<'_>) -> Option<Accepted> {
    let Some(identity) = connection.worker.shared.tls.current().clone() else { return Some(Err(Refusal::OwnCertificate)) };
    let accepted = handshake::accept_member(caller, &identity).await?;
    Some(accepted.map(|secured| (secured.socket, Shown::Member(secured.peer.verified_by(&identity.id)))))
}

async fn shake_with_outsider(connection: &Connection, caller: Caller<'_>) -> Option<Accepted> {
    let edge = connection.listener.edge().and_then(|edge| connection.worker.shared.tls.outside.edge(&edge));
    let Some(config) = edge else { return Some(Err(Refusal::OwnCertificate)) };
    let accepted = handshake::accept_outsider(caller, config).await?;
    Some(accepted.map(|socket| (socket, Shown::Nothing { encrypted: true })))
}
