//! The app's own probes, which the kubelet asks of weir because `weir inject` has told it to: weir asks the app, on loopback or
//! at the address that was called, as the kubelet would have.
//!
//! Only what is declared in `WEIR_APP_PROBES` is asked, by paths that nobody else chooses; so many at a time, for this server is
//! open to all who reach the pod.

mod grpc;
mod http_get;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::HeaderMap;
use http::{Request, StatusCode};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use weir_deploy::inject::probes::VARIABLE;

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
    Http(http_get::Asked),
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
            Kind::Http(http_get::Asked::parse(&value["httpGet"])?)
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
        match &self.kind {
            Kind::Http(asked) => asked.ask(self.port, from, local).await,
            Kind::Tcp => {
                connect(self.port, local).await?;
                Ok((StatusCode::OK, Bytes::from_static(b"connected\n")))
            }
            Kind::Grpc { service } => grpc::ask(connect(self.port, local).await?.0, service).await,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_inject_writes_is_understood() {
        let text = r#"[{"path":"/app/a/livenessProbe","port":8080,"seconds":3,"httpGet":{"path":"live it?x=1","port":"http","httpHeaders":[{"name":"Host","value":"a"}]}},
            {"path":"/app/b/startupProbe","port":9,"seconds":30,"tcpSocket":{"port":9}},{"path":"/app/c/readinessProbe","port":1,"grpc":{"port":1}}]"#;
        let all = AppProbes::parse(text).unwrap();
        assert_eq!((all.probes.len(), all.longest()), (3, Duration::from_secs(30)));
        for wrong in ["", "{}", "[{}]", r#"[{"path":"/a","port":70000,"tcpSocket":{}}]"#, r#"[{"path":"/a","port":1}]"#] {
            assert!(AppProbes::parse(wrong).is_err(), "{wrong}");
        }
    }
}
