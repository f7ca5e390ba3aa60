//! A SPIFFE agent: serves the Workload API over a Unix socket, to the letter of its public protocol.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Result;
use crate::mesh::Pair;

/// A running agent. Its calls end with it.
pub struct Agent {
    gives: watch::Sender<Option<Bytes>>,
    /// Calls that were refused, for there was nothing to give.
    pub refused: Arc<AtomicUsize>,
    /// Calls that did not carry the header that the protocol asks for.
    pub improper: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Agent {
    /// One that knows nobody yet.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub fn start(socket: &Path) -> Result<Self> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket)?;
        let (gives, given) = watch::channel(None);
        let (refused, improper) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&refused), Arc::clone(&improper));
        let task = tokio::spawn(async move {
            let mut calls = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (given, counts) = (given.clone(), counts.clone());
                calls.spawn(async move { drop(serve(stream, given, counts).await) });
                while calls.try_join_next().is_some() {}
            }
        });
        Ok(Self { gives, refused, improper, task })
    }

    /// Gives this message to everybody who has called and will call.
    pub fn give(&self, message: Vec<u8>) {
        self.gives.send_replace(Some(message.into()));
    }

    /// How its socket is written in a configuration.
    pub fn yaml(socket: &Path) -> String {
        format!("identity: {{ workload_api: 'unix:{}' }}", socket.display())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Counts = (Arc<AtomicUsize>, Arc<AtomicUsize>);

async fn serve(stream: UnixStream, given: watch::Receiver<Option<Bytes>>, counts: Counts) -> Result {
    let mut connection = h2::server::handshake(stream).await?;
    let mut streams = JoinSet::new();
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        let proper = request.headers().get("workload.spiffe.io").is_some_and(|value| value == "true")
            && request.uri().path() == "/SpiffeWorkloadAPI/FetchX509SVID";
        if !proper {
            counts.1.fetch_add(1, Ordering::Relaxed);
        }
        let (given, refused) = (given.clone(), Arc::clone(&counts.0));
        streams.spawn(async move { drop(answer(respond, given, proper, &refused).await) });
    }
    Ok(())
}

async fn answer(
    mut respond: h2::server::SendResponse<Bytes>,
    mut given: watch::Receiver<Option<Bytes>>,
    proper: bool,
    refused: &AtomicUsize,
) -> Result {
    let ok = Response::builder().header("content-type", "application/grpc");
    // INVALID_ARGUMENT without the header, PERMISSION_DENIED for a process that is not registered.
    let first = given.borrow_and_update().clone();
    if !proper || first.is_none() {
        refused.fetch_add(1, Ordering::Relaxed);
        respond.send_response(ok.header("grpc-status", if proper { "7" } else { "3" }).body(())?, true)?;
        return Ok(());
    }
    let mut stream = respond.send_response(ok.body(())?, false)?;
    loop {
        let Some(message) = given.borrow_and_update().clone() else { break };
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
        framed.extend_from_slice(&message);
        // In two pieces, as nobody promises that a message comes in one.
        let rest = framed.split_off(framed.len() / 2);
        stream.send_data(framed.into(), false)?;
        stream.send_data(rest.into(), false)?;
        if given.changed().await.is_err() {
            break;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("14"));
    stream.send_trailers(trailers)?;
    Ok(())
}

/// `X509SVIDResponse` with one SVID.
///
/// # Errors
/// The pair is no PEM.
pub fn svid(id: &str, pair: &Pair, bundle: &str, federated: &[(&str, &str)]) -> Result<Vec<u8>> {
    let PrivateKeyDer::Pkcs8(key) = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())? else {
        return Err("the key is not PKCS #8".into());
    };
    let mut svid = Vec::new();
    field(&mut svid, 1, id.as_bytes());
    field(&mut svid, 2, &der(&pair.cert)?);
    field(&mut svid, 3, key.secret_pkcs8_der());
    field(&mut svid, 4, &der(bundle)?);
    let mut response = Vec::new();
    field(&mut response, 1, &svid);
    for (domain, roots) in federated {
        let mut entry = Vec::new();
        field(&mut entry, 1, domain.as_bytes());
        field(&mut entry, 2, &der(roots)?);
        field(&mut response, 3, &entry);
    }
    Ok(response)
}

/// Certificates, one after the other.
fn der(pem: &str) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        all.extend_from_slice(&certificate?);
    }
    Ok(all)
}

/// A field with a length (Protocol Buffers, wire type 2).
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

/// Where an agent's socket may be.
pub fn socket(dir: &Path) -> PathBuf {
    dir.join("agent.sock")
}
