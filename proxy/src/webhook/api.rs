//! As much of the Kubernetes API as the webhook needs: objects are read, made, and patched, one call at a time.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::outside::trusting;

/// A call takes no longer than this.
const LIMIT: Duration = Duration::from_secs(10);
/// The largest answer that is taken.
const MAX_BODY: usize = 4 << 20;

/// An API server, and who asks it.
pub(super) struct Api {
    base: Uri,
    account: PathBuf,
}

impl Api {
    /// `base` is its URL; `account` the directory of a service account, with `token` and `ca.crt`.
    ///
    /// # Errors
    /// The URL is none.
    pub(super) fn new(base: &str, account: PathBuf) -> anyhow::Result<Self> {
        let base: Uri = base.parse().with_context(|| format!("`{base}` is no URL"))?;
        let is_loopback = matches!(base.host(), Some("127.0.0.1" | "localhost" | "[::1]"));
        match base.scheme_str() {
            Some("https") => {}
            // As `kubectl proxy` offers it.
            Some("http") if is_loopback => {}
            _ => bail!("`{base}` must be https, or http on loopback: a token is sent there"),
        }
        Ok(Self { base, account })
    }

    /// One call. Gives the status and the object.
    pub(super) async fn call(&self, method: Method, path: &str, kind: &str, body: &Value) -> anyhow::Result<(StatusCode, Value)> {
        let called = tokio::time::timeout(LIMIT, Box::pin(self.call_at_leisure(method, path, kind, body))).await;
        called.unwrap_or_else(|_| bail!("no answer within {LIMIT:?}")).with_context(|| format!("the API server at {}", self.base))
    }

    async fn call_at_leisure(&self, method: Method, path: &str, kind: &str, body: &Value) -> anyhow::Result<(StatusCode, Value)> {
        let host = self.base.host().context("its URL has no host")?;
        let is_tls = self.base.scheme_str() == Some("https");
        let port = self.base.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let authority = self.base.authority().map_or(host, http::uri::Authority::as_str);
        let mut request = Request::builder().method(method).uri(path).header(HOST, authority).header(CONTENT_TYPE, kind);
        if is_tls {
            // Tokens are renewed; the file has the newest.
            let token = read(&self.account.join("token"))?;
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = request.body(Full::new(body))?;
        let stream = TcpStream::connect((bare, port)).await.context("no connection")?;
        if !is_tls {
            return exchange(stream, request).await;
        }
        let config = trusting(&read(&self.account.join("ca.crt"))?)?;
        let name = ServerName::try_from(bare.to_owned()).context("its name is none")?;
        let stream = TlsConnector::from(Arc::clone(&config)).connect(name, stream).await.context("no TLS")?;
        Box::pin(exchange(stream, request)).await
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Value)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let asked = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(anyhow::Error::from_boxed)?;
        Ok((status, serde_json::from_slice(&body.to_bytes()).unwrap_or_default()))
    };
    let mut asked = pin!(asked);
    tokio::select! {
        biased;
        told = &mut asked => told,
        // The answer may have come with the end.
        _ = connection => asked.await,
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
