//! Both sides of a handshake.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use weir_config::snapshot::UpstreamTls;
use weir_config::spiffe::SpiffeId;

use super::follow::Holder;
use super::identity::Identity;
use super::refusal::Refusal;
use super::verify::{Expected, spiffe_id};
use super::{ALPN_H1, ALPN_H2, ALPN_TCP};
use crate::drain::Member;
use crate::socket::Socket;

/// What is to be spoken over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Whatever it is.
    Opaque,
}

impl Offer {
    /// Of these a weir takes the first, another proxy the second.
    fn to_members(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[ALPN_H1, b"http/1.1"],
            Self::Http2 => &[ALPN_H2, b"h2"],
            Self::Opaque => &[ALPN_TCP],
        }
    }

    fn to_outsiders(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[b"http/1.1"],
            Self::Http2 => &[b"h2"],
            Self::Opaque => &[],
        }
    }

    /// Whether what the peer agreed to will do. Silence means HTTP/1.1.
    fn accepts(self, agreed: Option<&[u8]>) -> bool {
        match self {
            Self::Http2 => matches!(agreed, Some(name) if name == ALPN_H2 || name == b"h2"),
            Self::Http1 | Self::Opaque => true,
        }
    }
}

/// A connection whose peer is known.
#[derive(Debug)]
pub struct Secured {
    /// The connection.
    pub socket: Socket,
    /// Who is at the other end.
    pub peer: Peer,
}

/// Who is at the other end, and by which certificate.
#[derive(Debug)]
pub struct Peer {
    /// Who.
    pub id: SpiffeId,
    /// The SHA-256 digest of the certificate, in hexadecimal.
    digest: String,
}

/// Who a caller has shown to be.
#[derive(Debug)]
pub struct Principal {
    /// Who.
    pub id: SpiffeId,
    /// Whether it is of this proxy's own trust domain.
    pub is_own_domain: bool,
}

/// A caller that has shown who it is.
#[derive(Debug)]
pub struct Verified {
    /// Who.
    pub principal: Principal,
    /// What the app is told of it (Envoy `x-forwarded-client-cert`).
    pub header: HeaderValue,
}

impl Peer {
    /// As a caller of the one who has verified it.
    pub fn verified_by(self, own: &SpiffeId) -> Verified {
        let Self { id, digest } = self;
        let header = HeaderValue::from_str(&format!("By={own};Hash={digest};URI={id}"));
        // SPIFFE IDs have no characters that a header may not have.
        let header = header.unwrap_or(HeaderValue::from_static(""));
        let is_own_domain = id.trust_domain() == own.trust_domain();
        Verified { principal: Principal { id, is_own_domain }, header }
    }
}

/// A caller's connection as far as it has come.
pub struct Caller<'c> {
    /// The connection.
    pub stream: TcpStream,
    /// What was read from it already.
    pub begun: &'c [u8],
    /// Its place among the listener's connections.
    pub member: &'c Member,
    /// How long the handshake may take.
    pub limit: Option<Duration>,
}

/// Serves the handshake of a member of the mesh. `None` if the listener's time is up first.
///
/// # Errors
/// Why there is no connection.
pub async fn accept_member(caller: Caller<'_>, identity: &Identity) -> Option<Result<Secured, Refusal>> {
    if !identity.is_valid(SystemTime::now()) {
        return Some(Err(Refusal::OwnCertificate));
    }
    let accepted = accept(caller, identity.server()).await?;
    Some(accepted.and_then(|stream| secured(stream, identity)))
}

/// Serves the handshake of somebody outside the mesh. `None` if the listener's time is up first.
///
/// # Errors
/// Why there is no connection.
pub async fn accept_outsider(caller: Caller<'_>, config: Arc<ServerConfig>) -> Option<Result<Socket, Refusal>> {
    let accepted = accept(caller, config).await?;
    Some(accepted.map(|stream| Socket::Tls(Box::new(stream))))
}

async fn accept(caller: Caller<'_>, config: Arc<ServerConfig>) -> Option<Result<TlsStream<TcpStream>, Refusal>> {
    let Caller { stream, begun, member, limit } = caller;
    let mut broken = None;
    let accepting = TlsAcceptor::from(config).accept_with(stream, |connection| {
        let mut unread = begun;
        while !unread.is_empty() && broken.is_none() {
            let read = connection.read_tls(&mut unread).map_err(|_| Refusal::NotTls);
            let processed = read.and_then(|_| connection.process_new_packets().map_err(|error| Refusal::of_tls(&error)));
            broken = processed.err();
        }
    });
    // What is broken already has no more to come; only the alert leaves.
    let limit = if broken.is_some() { Duration::ZERO } else { limit.unwrap_or(Duration::MAX) };
    let accepted = unless_aborted(tokio::time::timeout(limit, accepting), member).await?;
    Some(match accepted {
        Err(_) => Err(broken.unwrap_or(Refusal::TimedOut)),
        Ok(Err(error)) => Err(Refusal::of(&error)),
        Ok(Ok(stream)) => Ok(TlsStream::Server(stream)),
    })
}

/// Runs a handshake with an endpoint.
///
/// # Errors
/// Why there is no connection.
pub async fn connect(stream: TcpStream, holder: &Holder, tls: &UpstreamTls, offer: Offer) -> Result<Socket, Refusal> {
    // By address no server name is sent: nobody on the way need know whom this is for.
    let address = stream.peer_addr().map_err(|_| Refusal::Gone)?;
    let by_address = ServerName::IpAddress(address.ip().to_canonical().into());
    match tls {
        UpstreamTls::Mesh { peers } => {
            let identity = holder.current().clone().filter(|identity| identity.is_valid(SystemTime::now()));
            let identity = identity.ok_or(Refusal::OwnCertificate)?;
            let expected = peers.clone().map_or(Expected::OwnDomain, Expected::These);
            let stream = call(stream, identity.client(expected, offer.to_members()), by_address, offer).await?;
            let secured = secured(stream, &identity)?;
            tracing::debug!(%address, peer = %secured.peer.id, "TLS connection opened");
            Ok(secured.socket)
        }
        UpstreamTls::Server(server) => {
            let name = match &server.name {
                Some(name) => ServerName::try_from(name.to_string()).map_err(|_| Refusal::WrongName)?,
                None => by_address,
            };
            let mut config = ClientConfig::clone(&*holder.outside.server(server).ok_or(Refusal::OwnCertificate)?);
            config.alpn_protocols = offer.to_outsiders().iter().map(|name| name.to_vec()).collect();
            let stream = call(stream, Arc::new(config), name, offer).await?;
            tracing::debug!(%address, "TLS connection opened");
            Ok(Socket::Tls(Box::new(stream)))
        }
    }
}

async fn call(
    stream: TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    offer: Offer,
) -> Result<TlsStream<TcpStream>, Refusal> {
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| Refusal::of(&error))?;
    if offer.accepts(stream.get_ref().1.alpn_protocol()) { Ok(TlsStream::Client(stream)) } else { Err(Refusal::NoCommonProtocol) }
}

fn secured(stream: TlsStream<TcpStream>, identity: &Identity) -> Result<Secured, Refusal> {
    let peer = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).ok_or(Refusal::NoCertificate)?;
    let digest = identity.digest(peer);
    let peer = Peer { id: spiffe_id(peer)?, digest };
    Ok(Secured { socket: Socket::Tls(Box::new(stream)), peer })
}

async fn unless_aborted<F: Future>(future: F, member: &Member) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        member.watch(cx);
        if member.is_aborted() { Poll::Ready(None) } else { future.as_mut().poll(cx).map(Some) }
    })
    .await
}
