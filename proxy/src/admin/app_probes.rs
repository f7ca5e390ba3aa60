//! The app's own probes, which the kubelet asks of weir because `weir inject` has told it to: weir asks the app, on loopback or
//! at the address that was called, as the kubelet would have.
//!
//! Only what is declared in `WEIR_APP_PROBES` is asked, by paths that nobody else chooses; so many at a time, for this server is
//! open to all who reach the pod.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use weir_deploy::inject::probes::VARIABLE;

use crate::tls::outside::for_probes;

/// How often one probe is made at a time; others are told to come again.
const CONCURRENCY: usize = 8;
/// The most of an answer that is passed on.
const MAX_SAID: usize = 4096;

/// The probes of all apps beside this weir.
pub(super) struct AppProbes {
    probes: Vec<Probe>,
}

struct Probe {
    path: String,
    port: u16,
    limit: Duration,
    kind: Kind,
    /// Of its own, so that nobody who asks for one keeps the kubelet from another.
    places: Semaphore,
}

enum Kind {
    Http { target: Uri, headers: HeaderMap, tls: bool },
    Tcp,
    Grpc { service: String },
}

impl AppProbes {
    /// By the environment.
    ///
    /// # Errors
    /// What in it cannot be understood.
    pub(super) fn from_environment() -> anyhow::Result<Option<Self>> {
        match std::env::var(VARIABLE) {
            Ok(text) => Ok(Some(Self::parse(&text).with_context(|| format!("`{VARIABLE}` is not what `weir inject` writes"))?)),
            Err(_) => Ok(None),
        }
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        let list = value.as_array().context("it is no list")?;
        let probes = list.iter().map(Probe::parse).collect::<anyhow::Result<_>>()?;
        Ok(Self { probes })
    }

    /// The longest that one may take.
    pub(super) fn longest(&self) -> Duration {
        self.probes.iter().map(|probe| probe.limit).max().unwrap_or_default()
    }

    /// Makes the probe that has this path, for somebody who called `local`; `None` if there is none.
    pub(super) async fn make<B>(&self, request: &Request<B>, local: Option<IpAddr>) -> Option<(StatusCode, Bytes)> {
        let probe = self.probes.iter().find(|probe| probe.path == request.uri().path())?;
        let Ok(_place) = probe.places.try_acquire() else {
            return Some((StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(b"too many probes are being made already\n")));
        };
        let made = tokio::time::timeout(probe.limit, Box::pin(probe.make(request.headers(), local))).await;
        Some(match made {
            Ok(Ok(told)) => told,
            Ok(Err(error)) => (StatusCode::BAD_GATEWAY, Bytes::from(format!("the app: {error:#}\n"))),
            Err(_) => (StatusCode::GATEWAY_TIMEOUT, Bytes::from(format!("the app does not answer within {:?}\n", probe.limit))),
        })
    }
}

impl Probe {
    fn parse(value: &Value) -> anyhow::Result<Self> {
        let path = value["path"].as_str().context("a probe without `path`")?;
        let port = value["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let kind = if value["httpGet"].is_object() {
            http_get(&value["httpGet"])?
        } else if value["tcpSocket"].is_object() {
            Kind::Tcp
        } else if value["grpc"].is_object() {
            Kind::Grpc { service: value["grpc"]["service"].as_str().unwrap_or_default().to_owned() }
        } else {
            bail!("{path} is neither `httpGet` nor `tcpSocket` nor `grpc`");
        };
        Ok(Self {
            path: path.to_owned(),
            port: port.with_context(|| format!("{path} has no port"))?,
            limit: Duration::from_secs(value["seconds"].as_u64().unwrap_or(1).clamp(1, 600)),
            kind,
            places: Semaphore::new(CONCURRENCY),
        })
    }

    async fn make(&self, from: &HeaderMap, local: Option<IpAddr>) -> anyhow::Result<(StatusCode, Bytes)> {
        let (stream, address) = connect(self.port, local).await?;
        match &self.kind {
            Kind::Tcp => Ok((StatusCode::OK, Bytes::from_static(b"connected\n"))),
            Kind::Grpc { service } => grpc(stream, service).await,
            Kind::Http { target, headers, tls } => {
                let request = request(target, headers, from, address)?;
                if *tls {
                    let name = ServerName::from(address.ip());
                    let stream = TlsConnector::from(for_probes()?).connect(name, stream).await.context("no TLS")?;
                    http1(stream, request).await
                } else {
                    http1(stream, request).await
                }
            }
        }
    }
}

fn http_get(value: &Value) -> anyhow::Result<Kind> {
    let path = value["path"].as_str().filter(|path| !path.is_empty()).unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut headers = HeaderMap::new();
    for header in value["httpHeaders"].as_array().into_iter().flatten() {
        let (name, value) = (header["name"].as_str().unwrap_or_default(), header["value"].as_str().unwrap_or_default());
        headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    let tls = value["scheme"].as_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    Ok(Kind::Http { target: encoded(&format!("{slash}{path}")).parse()?, headers, tls })
}

/// A path that people wrote, as it goes on the wire: as a kubelet does, with what may not stand there encoded.
fn encoded(path: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'#' | 0..=0x20 | 0x7f.. => {
                _ = write!(out, "%{byte:02X}");
            }
            byte => out.push(char::from(byte)),
        }
    }
    out
}

/// Calls the app where it listens: on loopback, or at the address of the pod. Calls from loopback pass the rules of redirection
/// (`weir_deploy::redirect::plan`).
async fn connect(port: u16, local: Option<IpAddr>) -> anyhow::Result<(TcpStream, SocketAddr)> {
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    let mut refused = None;
    for (address, from) in
        [Some((v4, v4)), Some((v6, v6)), local.map(|ip| (ip, if ip.is_ipv4() { v4 } else { v6 }))].into_iter().flatten()
    {
        let to = SocketAddr::new(address, port);
        let dial = async {
            let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.bind(SocketAddr::new(from, 0))?;
            socket.connect(to).await
        };
        match dial.await {
            Ok(stream) => return Ok((stream, to)),
            // The first reason is the one that people look for.
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match refused {
        Some(error) => Err(error).with_context(|| format!("nobody listens on port {port}")),
        None => bail!("it has no address"),
    }
}

fn request(target: &Uri, headers: &HeaderMap, from: &HeaderMap, address: SocketAddr) -> anyhow::Result<Request<Empty<Bytes>>> {
    let mut request = Request::get(target.clone()).body(Empty::new())?;
    let made = request.headers_mut();
    made.insert(HOST, HeaderValue::try_from(address.to_string())?);
    if let Some(agent) = from.get(USER_AGENT) {
        made.insert(USER_AGENT, agent.clone());
    }
    for name in headers.keys() {
        made.remove(name);
    }
    for (name, value) in headers {
        made.append(name, value.clone());
    }
    Ok(request)
}

async fn http1<S>(stream: S, request: Request<Empty<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let asked = async {
        let response = sender.send_request(request).await.context("it does not answer")?;
        let status = response.status();
        let mut body = response.into_body();
        let mut said = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Some(data) = frame?.into_data().ok() else { continue };
            said.put(data.slice(..data.len().min(MAX_SAID - said.len())));
            if said.len() >= MAX_SAID {
                break;
            }
        }
        Ok((status, said.freeze()))
    };
    let told = tokio::select! {
        biased;
        told = asked => told,
        _ = connection => bail!("it closes the connection without an answer"),
    };
    // The kubelet takes all of 200 to 399 for a yes. Where it were to be sent to is not where it called.
    told.map(|(status, said)| if status.is_redirection() { (StatusCode::OK, said) } else { (status, said) })
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

async fn grpc(stream: TcpStream, service: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let (client, connection) = h2::client::handshake(stream).await.context("it does not speak HTTP/2")?;
    tokio::select! {
        biased;
        told = check(client, service) => told,
        _ = connection => bail!("it closes the connection without an answer"),
    }
}

async fn check(client: h2::client::SendRequest<Bytes>, service: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let request = Request::post("http://localhost/grpc.health.v1.Health/Check")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let message = HealthRequest { service: service.to_owned() }.encode_to_vec();
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len())?);
    framed.put_slice(&message);
    let mut client = client.ready().await?;
    let (response, mut sent) = client.send_request(request, false)?;
    sent.send_data(framed.freeze(), true)?;
    let response = response.await?;
    let refused = |headers: &HeaderMap| match headers.get("grpc-status").map(HeaderValue::as_bytes) {
        None | Some(b"0") => None,
        Some(code) => Some(format!(
            "gRPC status {}: {}",
            String::from_utf8_lossy(code),
            headers.get("grpc-message").map_or_else(String::new, |said| String::from_utf8_lossy(said.as_bytes()).into_owned())
        )),
    };
    if let Some(why) = refused(response.headers()) {
        bail!("{why}");
    }
    ensure!(response.status() == StatusCode::OK, "it answers {} to a gRPC call", response.status());
    let mut body = response.into_body();
    let mut said = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        said.extend_from_slice(&piece);
        ensure!(said.len() <= MAX_SAID, "its answer is too long for one about health");
    }
    if let Some(why) = body.trailers().await?.and_then(|trailers| refused(&trailers)) {
        bail!("{why}");
    }
    let message = said.get(5..).context("its answer is empty")?;
    match HealthResponse::decode(message)?.status {
        SERVING => Ok((StatusCode::OK, Bytes::from_static(b"serving\n"))),
        status => Ok((StatusCode::SERVICE_UNAVAILABLE, Bytes::from(format!("the app says that it does not serve ({status})\n")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_inject_writes_is_understood() {
        let text = r#"[{"path":"/app/a/livenessProbe","port":8080,"seconds":3,"httpGet":{"path":"live it?x=1","port":"http","httpHeaders":[{"name":"Host","value":"a"}]}},
            {"path":"/app/b/startupProbe","port":9,"seconds":30,"tcpSocket":{"port":9}},{"path":"/app/c/readinessProbe","port":1,"grpc":{"port":1}}]"#;
        let all = AppProbes::parse(text).unwrap();
        assert_eq!((all.probes.len(), all.longest()), (3, Duration::from_secs(30)));
        let Kind::Http { target, tls: false, .. } = &all.probes[0].kind else { panic!("not HTTP") };
        assert_eq!(target, "/live%20it?x=1");
        for wrong in ["", "{}", "[{}]", r#"[{"path":"/a","port":70000,"tcpSocket":{}}]"#, r#"[{"path":"/a","port":1}]"#] {
            assert!(AppProbes::parse(wrong).is_err(), "{wrong}");
        }
    }
}
