//! An `httpGet` probe, made as a kubelet makes it: it goes where the app sends it, as long as that is the app.

use std::net::IpAddr;
use std::pin::pin;

use anyhow::{Context, bail};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use url::Url;

use super::{MAX_SAID, connect};
use crate::tls::outside::for_probes;

/// As often an app may send whoever asks somewhere else (Kubernetes, `pkg/probe/http`).
const MOST_REDIRECTS: usize = 10;

/// What is asked.
pub(super) struct Asked {
    path: String,
    headers: HeaderMap,
    tls: bool,
}

impl Asked {
    /// By the `httpGet` of a probe.
    ///
    /// # Errors
    /// What in it cannot be understood.
    pub(super) fn parse(value: &Value) -> anyhow::Result<Self> {
        let path = value["path"].as_str().filter(|path| !path.is_empty()).unwrap_or("/");
        let slash = if path.starts_with('/') { "" } else { "/" };
        let mut headers = HeaderMap::new();
        for header in value["httpHeaders"].as_array().into_iter().flatten() {
            let (name, value) = (header["name"].as_str().unwrap_or_default(), header["value"].as_str().unwrap_or_default());
            headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        let tls = value["scheme"].as_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let asked = Self { path: encoded(&format!("{slash}{path}")), headers, tls };
        asked.first("127.0.0.1".parse()?, 80)?;
        Ok(asked)
    }

    /// Where it is asked first, of an app that is known to others by this address.
    fn first(&self, host: IpAddr, port: u16) -> anyhow::Result<Url> {
        let scheme = if self.tls { "https" } else { "http" };
        let base = Url::parse(&format!("{scheme}://{}", std::net::SocketAddr::new(host, port)))?;
        // A path that begins like an authority is a path.
        let whole = format!("{}{}", base.as_str().trim_end_matches('/'), self.path);
        Url::parse(&whole).with_context(|| format!("`{}` is no path", self.path))
    }

    /// Asks the app on this port, on behalf of somebody with headers `from` who called `local`.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn ask(&self, port: u16, from: &HeaderMap, local: Option<IpAddr>) -> anyhow::Result<(StatusCode, Bytes)> {
        let host = local.unwrap_or(IpAddr::from([127, 0, 0, 1]));
        let mut place = self.first(host, port)?;
        let mut said_host = self.headers.get(HOST).cloned();
        for _ in 0..=MOST_REDIRECTS {
            let request = self.request(&place, said_host.as_ref(), from)?;
            let (response, said) = once(&place, request, local).await?;
            let status = response.status();
            // 300, 304 and others send nobody anywhere.
            let sends = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
            match next(&place, response.headers()).filter(|_| sends) {
                Some((next, absolute)) => {
                    place = next;
                    said_host = said_host.filter(|_| !absolute);
                }
                // Kubelets take all of 200 to 399 for a yes; where the app sends browsers is no business of theirs.
                None if status.is_redirection() => return Ok((StatusCode::OK, said)),
                None => return Ok((status, said)),
            }
        }
        bail!("it sends whoever asks from one place to another, {MOST_REDIRECTS} times and more")
    }

    fn request(&self, place: &Url, host: Option<&HeaderValue>, from: &HeaderMap) -> anyhow::Result<Request<Empty<Bytes>>> {
        let target = &place[url::Position::BeforePath..url::Position::AfterQuery];
        let mut request = Request::get(target).body(Empty::new())?;
        let made = request.headers_mut();
        if let Some(agent) = from.get(USER_AGENT) {
            made.insert(USER_AGENT, agent.clone());
        }
        for name in self.headers.keys() {
            made.remove(name);
        }
        for (name, value) in &self.headers {
            made.append(name, value.clone());
        }
        let authority = &place[url::Position::BeforeHost..url::Position::AfterPort];
        made.insert(HOST, host.cloned().map_or_else(|| HeaderValue::try_from(authority), Ok)?);
        Ok(request)
    }
}

/// Where this answer sends whoever asked `place`, and whether it says so in full. `None` if nowhere, or to another host.
fn next(place: &Url, answer: &HeaderMap) -> Option<(Url, bool)> {
    let location = answer.get(LOCATION)?.to_str().ok()?;
    let next = place.join(location).ok()?;
    let same = next.host() == place.host() && matches!(next.scheme(), "http" | "https");
    same.then(|| (next, Url::parse(location).is_ok()))
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

async fn once(place: &Url, request: Request<Empty<Bytes>>, local: Option<IpAddr>) -> anyhow::Result<(Response<()>, Bytes)> {
    let port = place.port_or_known_default().context("no port")?;
    let (stream, address) = connect(port, local).await?;
    if place.scheme() == "https" {
        let stream = TlsConnector::from(for_probes()?).connect(ServerName::from(address.ip()), stream).await.context("no TLS")?;
        Box::pin(http1(stream, request)).await
    } else {
        Box::pin(http1(stream, request)).await
    }
}

async fn http1<S>(stream: S, request: Request<Empty<Bytes>>) -> anyhow::Result<(Response<()>, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let asked = async {
        let response = sender.send_request(request).await.context("it does not answer")?;
        let (head, body) = response.into_parts();
        Ok((Response::from_parts(head, ()), read(body).await?))
    };
    let mut asked = pin!(asked);
    tokio::select! {
        biased;
        told = &mut asked => told,
        // The answer may have come with the end.
        _ = connection => asked.await,
    }
}

/// The beginning of a body.
async fn read(mut body: Incoming) -> anyhow::Result<Bytes> {
    let mut said = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Some(data) = frame?.into_data().ok() else { continue };
        said.put(data.slice(..data.len().min(MAX_SAID - said.len())));
        if said.len() >= MAX_SAID {
            break;
        }
    }
    Ok(said.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Asked {
        Asked::parse(&serde_json::from_str(text).unwrap()).unwrap()
    }

    #[test]
    fn paths_are_what_people_wrote() {
        let pod = "10.1.0.2".parse().unwrap();
        for (path, wire) in
            [("", "/"), ("live it?x=1", "/live%20it?x=1"), ("//other:80/a", "//other:80/a"), ("/a{b}", "/a%7Bb%7D")]
        {
            let asked = asked(&format!(r#"{{"path":"{path}"}}"#));
            let first = asked.first(pod, 8080).unwrap();
            let request = asked.request(&first, None, &HeaderMap::new()).unwrap();
            assert_eq!((request.uri().to_string().as_str(), request.headers()[HOST].to_str().unwrap()), (wire, "10.1.0.2:8080"));
        }
        let v6 = asked(r#"{"scheme":"HTTPS"}"#).first("fd01::2".parse().unwrap(), 443).unwrap();
        assert_eq!(v6.as_str(), "https://[fd01::2]/");
    }

    #[test]
    fn an_app_may_send_whoever_asks_to_itself_only() {
        let place = Url::parse("http://10.1.0.2:8080/ready/now?x=1").unwrap();
        for (location, to) in [
            ("/login", Some(("http://10.1.0.2:8080/login", false))),
            ("later", Some(("http://10.1.0.2:8080/ready/later", false))),
            ("?y=2", Some(("http://10.1.0.2:8080/ready/now?y=2", false))),
            ("https://10.1.0.2/", Some(("https://10.1.0.2/", true))),
            ("http://10.1.0.2:9090/", Some(("http://10.1.0.2:9090/", true))),
            ("//shop.example/", None),
            ("https://shop.example/login", None),
            ("ftp://10.1.0.2/", None),
            ("http://[", None),
        ] {
            let answer = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static(location))]);
            let next = next(&place, &answer);
            assert_eq!(next.as_ref().map(|(next, absolute)| (next.as_str(), *absolute)), to, "{location}");
        }
        assert_eq!(next(&place, &HeaderMap::new()), None);
    }

    /// An app that answers each path with the status and the place that stand there.
    async fn app(answers: &'static [(&str, &str)]) -> u16 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 1024];
                let read = stream.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let (_, answer) = answers.iter().find(|(at, _)| *at == path).copied().unwrap_or(("", "404 Not Found"));
                let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: {}\r\n\r\n{path}", path.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        port
    }

    #[tokio::test]
    async fn the_last_answer_counts() {
        let port = app(&[
            ("/ready", "302 Found\r\nlocation: /really"),
            ("/really", "503 Service Unavailable"),
            ("/login", "302 Found\r\nlocation: https://shop.example/"),
            ("/new", "307 Temporary Redirect"),
            ("/same", "304 Not Modified\r\nlocation: /really"),
            ("/round", "301 Moved Permanently\r\nlocation: /round"),
        ])
        .await;
        for (path, status) in [("/ready", 503), ("/really", 503), ("/login", 200), ("/new", 200), ("/same", 200), ("/gone", 404)]
        {
            let asked = asked(&format!(r#"{{"path":"{path}"}}"#));
            let (answer, _) = asked.ask(port, &HeaderMap::new(), None).await.unwrap();
            assert_eq!(answer.as_u16(), status, "{path}");
        }
        let (_, said) = asked(r#"{"path":"/ready"}"#).ask(port, &HeaderMap::new(), None).await.unwrap();
        assert_eq!(said, "/really");
        assert!(asked(r#"{"path":"/round"}"#).ask(port, &HeaderMap::new(), None).await.is_err());
    }
}
