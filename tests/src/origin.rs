//! Origins: servers that stand behind weir.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Result;

/// A body of an origin's response.
pub type Body = BoxBody<Bytes, Infallible>;

/// A body at hand.
pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// An HTTP origin: HTTP/1 and HTTP/2 (prior knowledge) on one port.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many requests it saw.
    pub requests: Arc<AtomicUsize>,
    /// How many connections it accepted.
    pub connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Origin {
    /// Answers each request with what `answer` makes of it.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start<F, Fut>(answer: F) -> Result<Self>
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (requests, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (seen, accepted) = (Arc::clone(&requests), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                let (answer, seen) = (answer.clone(), Arc::clone(&seen));
                let service = hyper::service::service_fn(move |request| {
                    seen.fetch_add(1, Ordering::Relaxed);
                    let answered = answer(request);
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                tokio::spawn(async move {
                    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    builder.http1().preserve_header_case(true).max_headers(500).max_buf_size(1 << 20);
                    builder.http2().max_header_list_size(1 << 20);
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, requests, connections, task })
    }

    /// Answers every request with this text.
    ///
    /// # Errors
    /// No port is free.
    pub async fn text(text: &'static str) -> Result<Self> {
        Self::start(move |_| async move { Response::new(full(text)) }).await
    }

    /// Answers with the request's own head, one `name: value` a line after `METHOD target VERSION`, and its body.
    ///
    /// # Errors
    /// No port is free.
    pub async fn echo() -> Result<Self> {
        Self::start(|request| async move {
            let (head, body) = request.into_parts();
            let mut text = format!("{} {} {:?}\n", head.method, head.uri, head.version).into_bytes();
            for (name, value) in &head.headers {
                text.extend_from_slice(name.as_str().as_bytes());
                text.extend_from_slice(b": ");
                text.extend_from_slice(value.as_bytes());
                text.push(b'\n');
            }
            text.push(b'\n');
            if let Ok(body) = body.collect().await {
                text.extend_from_slice(&body.to_bytes());
            }
            Response::new(full(text))
        })
        .await
    }

    /// How many requests it saw.
    pub fn count(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An origin that keeps every byte it gets, by connection, and answers each head with the same bytes.
pub struct Recorder {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Recorder {
    /// Answers `answer` whenever the end of a head arrives.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(answer: &'static [u8]) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let place = {
                    let mut all = all.lock().expect("the record");
                    all.push(Vec::new());
                    all.len() - 1
                };
                tokio::spawn(record(stream, answer, place, Arc::clone(&all)));
            }
        });
        Ok(Self { address, seen, task })
    }

    /// What arrived, by connection.
    pub fn seen(&self) -> Vec<Vec<u8>> {
        self.seen.lock().expect("the record").clone()
    }

    /// Everything that arrived, in one.
    pub fn all(&self) -> Vec<u8> {
        self.seen().concat()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn record(mut stream: TcpStream, answer: &'static [u8], place: usize, all: Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut heads = 0;
    let mut chunk = vec![0; 65536];
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        let ends = {
            let mut all = all.lock().expect("the record");
            all[place].extend_from_slice(&chunk[..read]);
            all[place].windows(4).filter(|w| w == b"\r\n\r\n").count()
        };
        while heads < ends {
            heads += 1;
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}
