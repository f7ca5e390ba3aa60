//! An issuer that sidecars renew from: the SPIFFE Workload API over a Unix socket, for the processes of one machine.
//!
//! Who asks is known by its user, which the kernel tells; what it is asked cannot be made up. Each gets a certificate at
//! once and a new one whenever half the life of the last has passed. The authority's files are read anew each time, so a new
//! root is taken without a restart.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use weir_config::spiffe::SpiffeId;

use super::Authority;
use crate::tls::workload::{FETCH, Svid, Svids};

/// Processes that may be connected at a time.
const CONNECTIONS: usize = 1024;
/// Calls that each may have open.
const CALLS: u32 = 16;

/// Whom a user's processes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The user; `None` is any.
    pub user: Option<u32>,
    /// The path of the SPIFFE ID.
    pub path: String,
}

impl Grant {
    /// From `1000=/ns/shop/sa/cart`, or `*=/ns/shop/sa/cart` for any user.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let example = "for example `1000=/ns/shop/sa/cart`, or `*=...` for any user";
        let (user, path) = text.split_once('=').ok_or_else(|| format!("write USER=PATH, {example}"))?;
        let user = match user {
            "*" => None,
            number => Some(number.parse().map_err(|_| format!("`{number}` is not the number of a user; {example}"))?),
        };
        if !path.starts_with('/') {
            return Err(format!("`{path}` is not the path of an ID; {example}"));
        }
        SpiffeId::parse(&format!("spiffe://x{path}")).map_err(|why| format!("`{path}`: {why}; {example}"))?;
        Ok(Self { user, path: path.to_owned() })
    }
}

/// What is issued.
pub struct Issuer {
    /// The authority's directory.
    pub dir: PathBuf,
    /// How long certificates are valid.
    pub ttl: Duration,
    /// Who may have which; the first that fits.
    pub grants: Vec<Grant>,
}

/// Serves until the process is told to leave.
///
/// # Errors
/// The authority or the socket cannot be used.
pub async fn serve(issuer: Issuer, socket: &Path) -> anyhow::Result<()> {
    Authority::open(&issuer.dir)?;
    let listener = bind(socket).await?;
    let issuer = Arc::new(issuer);
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut connections = JoinSet::new();
    tracing::info!(socket = %socket.display(), "issuing");
    loop {
        let accept = async {
            let place = Arc::clone(&free).acquire_owned().await.map_err(std::io::Error::other)?;
            listener.accept().await.map(|(stream, _)| (stream, place))
        };
        let accepted = tokio::select! {
            _ = terminate.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let issuer = Arc::clone(&issuer);
                connections.spawn(async move {
                    if let Err(error) = converse(stream, &issuer).await {
                        tracing::debug!(error = format!("{error:#}"), "a connection broke");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    let _ = std::fs::remove_file(socket);
    Ok(())
}

/// A socket that nobody serves any more is replaced; whatever else is there is not.
async fn bind(socket: &Path) -> anyhow::Result<UnixListener> {
    if let Ok(found) = std::fs::symlink_metadata(socket) {
        if !found.file_type().is_socket() {
            bail!("{} is there already, and is no socket; give another --socket", socket.display());
        }
        if UnixStream::connect(socket).await.is_ok() {
            bail!("{} is served already", socket.display());
        }
        std::fs::remove_file(socket).with_context(|| format!("cannot replace {}", socket.display()))?;
    }
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    // Everybody may ask; what is answered depends on who asks.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

async fn converse(stream: UnixStream, issuer: &Arc<Issuer>) -> anyhow::Result<()> {
    let user = stream.peer_cred()?.uid();
    let mut connection = h2::server::Builder::new().max_concurrent_streams(CALLS).handshake(stream).await?;
    let mut calls = JoinSet::new();
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        let issuer = Arc::clone(issuer);
        calls.spawn(async move {
            if let Err(error) = answer(&request, respond, user, &issuer).await {
                tracing::debug!(user, error = format!("{error:#}"), "a call broke");
            }
        });
        while calls.try_join_next().is_some() {}
    }
    Ok(())
}

async fn answer<B>(request: &Request<B>, mut respond: SendResponse<Bytes>, user: u32, issuer: &Issuer) -> anyhow::Result<()> {
    let proper = request.headers().get("workload.spiffe.io").is_some_and(|value| value == "true");
    let grant = issuer.grants.iter().find(|grant| grant.user.is_none_or(|granted| granted == user));
    let grant = match grant {
        // UNIMPLEMENTED, INVALID_ARGUMENT, PERMISSION_DENIED.
        _ if request.uri().path() != FETCH => return refuse(respond, "12", "only FetchX509SVID is served"),
        _ if !proper => return refuse(respond, "3", "the header workload.spiffe.io is missing"),
        None => return refuse(respond, "7", &format!("user {user} has no identity here (--allow)")),
        Some(grant) => grant,
    };
    let mut stream = respond.send_response(Response::builder().header("content-type", "application/grpc").body(())?, false)?;
    loop {
        let message = match issuer.word(&grant.path) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "nothing can be issued");
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("14"));
                stream.send_trailers(trailers)?;
                return Ok(());
            }
        };
        tracing::info!(user, path = grant.path, "issued");
        stream.send_data(message, false)?;
        tokio::select! {
            () = pass(half(issuer.ttl)) => {}
            reason = std::future::poll_fn(|cx| stream.poll_reset(cx)) => {
                reason?;
                return Ok(());
            }
        }
    }
}

/// How far apart the clock is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Waits so long by the clock that certificates are judged by. A machine that slept, or whose clock was set, must not find its
/// certificates expired before anybody has looked: timers stand still meanwhile.
async fn pass(time: Duration) {
    let began = SystemTime::now();
    while let Ok(passed) = began.elapsed()
        && let Some(left) = time.checked_sub(passed).filter(|left| !left.is_zero())
    {
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

/// Half of a life, more or less: those that began together must not come back together.
fn half(life: Duration) -> Duration {
    life.mul_f64(0.45 + fastrand::f64() / 10.0)
}

fn refuse(mut respond: SendResponse<Bytes>, status: &str, why: &str) -> anyhow::Result<()> {
    tracing::warn!(status, "refused: {why}");
    let response = Response::builder().header("content-type", "application/grpc");
    let response = response.header("grpc-status", status).header("grpc-message", why).body(())?;
    respond.send_response(response, true)?;
    Ok(())
}

impl Issuer {
    /// One message of the stream: a new certificate.
    fn word(&self, path: &str) -> anyhow::Result<Bytes> {
        let authority = Authority::open(&self.dir)?;
        let id = format!("spiffe://{}{path}", authority.trust_domain);
        let id = SpiffeId::parse(&id).map_err(|why| anyhow::anyhow!("`{id}` is not a SPIFFE ID: {why}"))?;
        let issued = authority.issue(&id, self.ttl)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(issued.key.as_bytes())?;
        let svid = Svid {
            spiffe_id: id.to_string(),
            x509_svid: der(&issued.certificate)?,
            x509_svid_key: Bytes::copy_from_slice(key.secret_pkcs8_der()),
            bundle: der(authority.root())?,
        };
        let svids = Svids { svids: vec![svid], ..Svids::default() };
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(u32::try_from(svids.encoded_len())?);
        svids.encode(&mut framed)?;
        Ok(framed.freeze())
    }
}

/// Certificates, one after the other.
fn der(pem: &str) -> anyhow::Result<Bytes> {
    let mut all = BytesMut::new();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        all.extend_from_slice(&certificate?);
    }
    Ok(all.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants() {
        assert_eq!(Grant::parse("1000=/ns/a/sa/b"), Ok(Grant { user: Some(1000), path: "/ns/a/sa/b".into() }));
        assert_eq!(Grant::parse("*=/x"), Ok(Grant { user: None, path: "/x".into() }));
        for wrong in ["1000", "cart=/x", "1000=x", "1000=/x/", "1000=/../x", "-1=/x"] {
            assert!(Grant::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn renewal_is_about_half_way() {
        let life = Duration::from_secs(3600);
        for _ in 0..100 {
            assert!((1620..=1980).contains(&half(life).as_secs()));
        }
    }
}
