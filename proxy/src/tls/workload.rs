//! The SPIFFE Workload API: an agent on this machine (SPIRE's, for one) that streams who this proxy is and whom it may believe.
//!
//! gRPC over a Unix socket: one call, `FetchX509SVID`, whose answers each replace what was there. When the stream ends or the
//! agent is gone, the call is made again after a while, and what was given last stays in use: a certificate is valid until it
//! expires, whoever has gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use prost::Message;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivatePkcs8KeyDer};
use tokio::net::UnixStream;
use weir_config::spiffe::SpiffeId;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::follow::Holder;
use super::identity::Parts;

/// The first pause before the agent is called again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// The largest message that is taken.
const MAX_MESSAGE: usize = 4 << 20;

/// The one call that is made.
pub const FETCH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";

/// `X509SVIDResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct Svids {
    /// The identities; the first is the one to use.
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<Svid>,
    /// Revoked certificates.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub crl: Vec<Bytes>,
    /// The roots of other trust domains, by name.
    #[prost(map = "string, bytes", tag = "3")]
    pub federated_bundles: std::collections::HashMap<String, Vec<u8>>,
}

/// `X509SVID`.
#[derive(Clone, PartialEq, Message)]
pub struct Svid {
    /// Whom it names.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// The chain, leaf first, one certificate after the other in DER.
    #[prost(bytes = "bytes", tag = "2")]
    pub x509_svid: Bytes,
    /// Its key in PKCS #8.
    #[prost(bytes = "bytes", tag = "3")]
    pub x509_svid_key: Bytes,
    /// The roots of its trust domain in DER.
    #[prost(bytes = "bytes", tag = "4")]
    pub bundle: Bytes,
}

/// Takes whatever the agent gives; never ends.
pub async fn follow(socket: PathBuf, holder: Arc<Holder>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let taken = holder.status().taken;
        let Err(error) = call(&socket, &holder).await;
        let why = format!("the Workload API at {}: {error:#}", socket.display());
        tracing::warn!(error = why, "no identities come any more; what was given last stays in use");
        holder.record(|status| status.error = Some(why));
        if holder.status().taken > taken {
            pause = FIRST_PAUSE;
        }
        // Not all proxies of a machine at once.
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

enum Never {}

async fn call(socket: &Path, holder: &Holder) -> anyhow::Result<Never> {
    let stream = UnixStream::connect(socket).await.context("no connection")?;
    let (client, connection) = h2::client::handshake(stream).await.context("it does not speak HTTP/2")?;
    tokio::select! {
        // The answers first: the agent may close the connection after the last.
        biased;
        ended = answers(client, holder) => ended,
        closed = connection => {
            closed.context("the connection broke")?;
            bail!("the agent closed the connection")
        }
    }
}

async fn answers(client: h2::client::SendRequest<Bytes>, holder: &Holder) -> anyhow::Result<Never> {
    let request = Request::post(format!("http://localhost{FETCH}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        // Without it the agent refuses: it shows that no browser was tricked into calling (Workload Endpoint, section 4).
        .header("workload.spiffe.io", "true")
        .body(())?;
    let mut client = client.ready().await?;
    let (response, mut sent) = client.send_request(request, false)?;
    // An empty message: not compressed, no bytes.
    sent.send_data(Bytes::from_static(&[0; 5]), true)?;
    let response = response.await?;
    check_status(&response)?;
    let mut body = response.into_body();
    let mut unread = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        unread.extend_from_slice(&piece);
        while let Some(message) = next_message(&mut unread)? {
            if let Err(error) = holder.offer(parts(&message)) {
                tracing::error!(error = format!("{error:#}"), "the new identity cannot be used; what was in force stays in use");
            }
        }
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    bail!("the stream ended ({})", grpc_status(&trailers))
}

fn check_status(response: &Response<h2::RecvStream>) -> anyhow::Result<()> {
    if response.status() != http::StatusCode::OK {
        bail!("it answered {}", response.status());
    }
    if response.headers().contains_key("grpc-status") {
        bail!("it refused ({})", grpc_status(response.headers()));
    }
    Ok(())
}

/// For people: the code, and what it means here.
fn grpc_status(headers: &HeaderMap) -> String {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("none");
    let hint = match text("grpc-status") {
        "7" => "; no identity is registered for this process, or not yet",
        _ => "",
    };
    format!("gRPC status {}: {}{hint}", text("grpc-status"), text("grpc-message"))
}

/// Takes one message out of what was read, if it is all there (gRPC over HTTP/2, Length-Prefixed-Message).
fn next_message(unread: &mut BytesMut) -> anyhow::Result<Option<Bytes>> {
    let Some(prefix) = unread.first_chunk::<5>() else { return Ok(None) };
    let [compressed, length @ ..] = *prefix;
    let length = usize::try_from(u32::from_be_bytes(length))?;
    if compressed != 0 {
        bail!("a message is compressed, which was not asked for");
    }
    if length > MAX_MESSAGE {
        bail!("a message has {length} bytes; at most {MAX_MESSAGE} are taken");
    }
    if unread.len() < 5 + length {
        return Ok(None);
    }
    unread.advance(5);
    Ok(Some(unread.split_to(length).freeze()))
}

/// What an identity is made of. The first SVID is the one to use (SPIFFE Workload API, section 5.3).
///
/// # Errors
/// What is missing, or cannot be read.
pub fn parts(message: &Bytes) -> anyhow::Result<Parts> {
    let Svids { svids, crl, federated_bundles } = Svids::decode(message.clone()).context("the message cannot be read")?;
    let svid = svids.into_iter().next().context("there is no SVID in the message")?;
    let id = SpiffeId::parse(&svid.spiffe_id).map_err(|why| anyhow::anyhow!("`{}` is no SPIFFE ID: {why}", svid.spiffe_id))?;
    let mut others = Vec::new();
    for (domain, bundle) in federated_bundles {
        let name = domain.strip_prefix("spiffe://").unwrap_or(&domain);
        let roots = certificates(&bundle).with_context(|| format!("the roots of `{name}`"))?;
        // Some agents list the own trust domain too.
        if name != id.trust_domain() {
            others.push((name.into(), roots));
        }
    }
    Ok(Parts {
        chain: certificates(&svid.x509_svid).context("`x509_svid`")?,
        key: PrivatePkcs8KeyDer::from(svid.x509_svid_key.to_vec()).into(),
        roots: certificates(&svid.bundle).context("`bundle`")?,
        others,
        crls: crl.into_iter().map(|list| CertificateRevocationListDer::from(list.to_vec())).collect(),
    })
}

/// Certificates that stand one after the other.
fn certificates(mut der: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der).map_err(|_| anyhow::anyhow!("it has something that is no certificate"))?;
        found.push(CertificateDer::from(der[..der.len() - rest.len()].to_vec()));
        der = rest;
    }
    Ok(found)
}
