//! HTTP/1.1 and HTTP/2 through one interface: callers, bodies fed by hand, an origin that keeps what it got.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::origin::{Body, full};
use crate::{Origin, Result, Weir, holds, same};

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    One,
    /// HTTP/2 by prior knowledge.
    Two,
}

use Version::{One, Two};

/// Every version towards weir with every version towards the origin.
pub const PAIRS: [(Version, Version); 4] = [(One, One), (One, Two), (Two, One), (Two, Two)];

impl Version {
    /// The value of a cluster's `protocol`.
    pub fn protocol(self) -> &'static str {
        match self {
            One => "http1",
            Two => "http2",
        }
    }
}

/// A configuration with one outbound listener `out`, one worker, and one cluster that everything goes to.
pub fn to(address: SocketAddr, version: Version) -> String {
    format!(
        "workers: 1
listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes: [{{ name: all, hosts: ['*'], rules: [{{ name: only, backends: [{{ cluster: app }}] }}] }}]
clusters: {{ app: {{ endpoints: ['{address}'], protocol: {} }} }}
",
        version.protocol()
    )
}

/// weir with the configuration of [`to`], and a caller connected to it.
///
/// # Errors
/// weir does not start.
pub async fn between(from: Version, origin: SocketAddr, version: Version) -> Result<(Weir, Caller)> {
    let weir = Weir::start(&to(origin, version)).await?;
    let caller = Caller::open(weir.address("out"), from).await?;
    Ok((weir, caller))
}

/// One weir after the other, and where the first listens. Each has the configuration of [`to`]; `hops` says what each
/// speaks to the next, and the last one to the origin.
///
/// # Errors
/// One of them does not start.
pub async fn chain(hops: &[Version], origin: SocketAddr) -> Result<(Vec<Weir>, SocketAddr)> {
    let (mut weirs, mut next) = (Vec::new(), origin);
    for version in hops.iter().rev() {
        let weir = Weir::start(&to(next, *version)).await?;
        next = weir.address("out");
        weirs.push(weir);
    }
    weirs.reverse();
    Ok((weirs, next))
}

/// A connection to weir. Closes with the value.
pub struct Caller {
    version: Version,
    sender: Sender,
    driver: tokio::task::JoinHandle<()>,
}

enum Sender {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Caller {
    /// Connects.
    ///
    /// # Errors
    /// No connection opens.
    pub async fn open(address: SocketAddr, version: Version) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        let (sender, driver) = match version {
            One => {
                let (sender, connection) = http1::handshake(io).await?;
                (Sender::One(sender), tokio::spawn(async move { drop(connection.await) }))
            }
            Two => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.max_header_list_size(1 << 20);
                let (sender, connection) = builder.handshake(io).await?;
                (Sender::Two(sender), tokio::spawn(async move { drop(connection.await) }))
            }
        };
        Ok(Self { version, sender, driver })
    }

    /// The beginning of a request to host `shop`.
    pub fn request(&self, method: &str, target: &str) -> http::request::Builder {
        let builder = Request::builder().method(method);
        match self.version {
            One => builder.uri(target).header(HOST, "shop"),
            Two => builder.uri(format!("http://shop{target}")),
        }
    }

    /// Sends a request and waits for the head of the response.
    ///
    /// # Errors
    /// There is no response.
    pub async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await.map_err(told)?;
                sender.send_request(request).await.map_err(told)
            }
            Sender::Two(sender) => {
                sender.ready().await.map_err(told)?;
                sender.send_request(request).await.map_err(told)
            }
        }
    }

    /// Sends a request and reads the response to its end.
    ///
    /// # Errors
    /// There is no response, or it breaks off.
    pub async fn exchange(&mut self, request: Request<Body>) -> Result<Answer> {
        Answer::read(self.send(request).await?).await
    }

    /// One GET.
    ///
    /// # Errors
    /// There is no response, or it breaks off.
    pub async fn get(&mut self, target: &str) -> Result<Answer> {
        let request = self.request("GET", target).body(full(""))?;
        self.exchange(request).await
    }
}

/// hyper's errors say little without their causes.
fn told(error: hyper::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}").into(),
        None => error.into(),
    }
}

/// A response, whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The trailers, if there were any.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// Reads a response to its end.
    ///
    /// # Errors
    /// It breaks off.
    pub async fn read(response: Response<Incoming>) -> Result<Self> {
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(told)?;
        let trailers = body.trailers().cloned();
        Ok(Self { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
    }

    /// The values of a header, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?")).collect()
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Checks all that is common to weir's own errors: this code, and for gRPC callers the status in a trailers-only
    /// response.
    ///
    /// # Errors
    /// What is different.
    pub fn is_weirs(&self, code: &str, status: u16, grpc: Option<u16>) -> Result {
        same!(self.all("x-weir-error"), [code]);
        if let Some(grpc) = grpc {
            same!(self.status.as_u16(), 200);
            same!((self.header("content-type"), self.body.len()), (Some("application/grpc"), 0));
            same!(self.header("grpc-status"), Some(&*grpc.to_string()));
            holds!(self.header("grpc-message").is_some_and(|message| message.len() > 10));
            same!(self.trailers, None, "trailers-only: all is in the head");
            return Ok(());
        }
        same!(self.status.as_u16(), status);
        let text = self.text();
        holds!(text.starts_with(&format!("{code}: ")) && text.ends_with('\n') && text.lines().count() == 1, "{text:?}");
        same!(self.header("content-length"), Some(&*text.len().to_string()));
        same!(self.header("content-type"), Some("text/plain; charset=utf-8"));
        same!(self.header("grpc-status"), None);
        Ok(())
    }
}

/// What feeds a body. Dropped, it ends the body.
pub struct Feed(mpsc::UnboundedSender<Frame<Bytes>>);

impl Feed {
    /// Sends data. False if nobody wants it any more.
    pub fn data(&self, bytes: impl Into<Bytes>) -> bool {
        self.0.send(Frame::data(bytes.into())).is_ok()
    }

    /// Sends trailers and ends the body.
    pub fn trailers(self, trailers: HeaderMap) {
        let _ = self.0.send(Frame::trailers(trailers));
    }

    /// Waits until nobody wants the body any more.
    pub async fn unwanted(&self) {
        self.0.closed().await;
    }
}

/// A body without a length, and what feeds it.
pub fn fed() -> (Feed, Body) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Feed(sender), Fed(receiver).boxed())
}

struct Fed(mpsc::UnboundedReceiver<Frame<Bytes>>);

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// The next piece of data of a response.
///
/// # Errors
/// The response ends, breaks off, or says nothing for ten seconds.
pub async fn piece(body: &mut Incoming) -> Result<Bytes> {
    let frame = tokio::time::timeout(std::time::Duration::from_secs(10), body.frame()).await?;
    frame.ok_or("the body ended")??.into_data().map_err(|_| "trailers".into())
}

/// A request as an origin got it.
#[derive(Debug, Clone)]
pub struct Got {
    /// Its head.
    pub head: http::request::Parts,
    /// Its body.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: Option<HeaderMap>,
}

impl Got {
    /// The values of a header, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.head.headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?")).collect()
    }
}

/// An origin of either version that keeps the requests it got.
pub struct Keeper {
    /// The origin.
    pub origin: Origin,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Keeper {
    /// Answers each request with what `answer` makes of it.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(answer: impl Fn(&Got) -> Response<Body> + Clone + Send + Sync + 'static) -> Result<Self> {
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&got);
        let origin = Origin::start(move |request: Request<Incoming>| {
            let (answer, kept) = (answer.clone(), Arc::clone(&kept));
            async move {
                let (head, body) = request.into_parts();
                let Ok(body) = body.collect().await else {
                    return Response::builder().status(400).body(full("broken body")).expect("a response");
                };
                let got = Got { head, trailers: body.trailers().cloned(), body: body.to_bytes() };
                let mut response = answer(&got);
                // Over HTTP/2, hyper's server would send the body all the same.
                if got.head.method == http::Method::HEAD {
                    if let Some(length) = http_body::Body::size_hint(response.body()).exact() {
                        response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
                    }
                    *response.body_mut() = full("");
                }
                kept.lock().expect("the record").push(got);
                response
            }
        })
        .await?;
        Ok(Self { origin, got })
    }

    /// The newest request.
    ///
    /// # Errors
    /// There was none.
    pub fn last(&self) -> Result<Got> {
        self.got.lock().expect("the record").last().cloned().ok_or_else(|| "no request arrived".into())
    }
}
