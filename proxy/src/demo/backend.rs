//! The demo's backends, and a caller for those who do not want to curl.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Request ids that are kept for the screen.
const KEPT: usize = 5;

/// A backend that says its version and the request id it saw.
pub(super) struct Backend {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    count: AtomicU64,
    ids: Mutex<VecDeque<String>>,
    caller: Mutex<Option<String>>,
}

impl Backend {
    pub(super) async fn start(name: &'static str) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Arc::<Seen>::default();
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(serve(name, stream, Arc::clone(&shared)));
            }
        });
        Ok(Self { name, address, seen })
    }

    /// How many requests it saw.
    pub(super) fn count(&self) -> u64 {
        self.seen.count.load(Ordering::Relaxed)
    }

    /// Who called last, as far as it was told.
    pub(super) fn caller(&self) -> Option<String> {
        self.seen.caller.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest request ids, newest first.
    pub(super) fn ids(&self) -> Vec<String> {
        self.seen.ids.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Who called, if the sidecar in front tells it.
fn caller(request: &Request<Incoming>) -> Option<String> {
    let told = request.headers().get("x-forwarded-client-cert")?.to_str().ok()?;
    told.split(';').find_map(|part| part.strip_prefix("URI=")).map(str::to_owned)
}

async fn serve(name: &'static str, stream: TcpStream, seen: Arc<Seen>) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or("-").to_owned();
        let caller = caller(&request);
        let to = caller.as_ref().map(|caller| format!(" to {caller}")).unwrap_or_default();
        let body = format!("hello from {name}{to}, request {id}\n");
        if caller.is_some() {
            *seen.caller.lock().unwrap_or_else(PoisonError::into_inner) = caller;
        }
        seen.count.fetch_add(1, Ordering::Relaxed);
        let mut ids = seen.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.push_front(id);
        ids.truncate(KEPT);
        async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body)))) }
    });
    // A connection that breaks is the caller's affair.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Sends `rate` requests a second over one connection, in bursts a tenth of a second apart.
pub(super) async fn load(address: SocketAddr, rate: u32) {
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut stream: Option<TcpStream> = None;
    let mut due = 0.0;
    let mut scratch = vec![0; 4096];
    loop {
        tick.tick().await;
        due += f64::from(rate) / 10.0;
        while due >= 1.0 {
            due -= 1.0;
            if stream.is_none() {
                stream = TcpStream::connect(address).await.ok();
            }
            let Some(open) = &mut stream else { continue };
            let asked = open.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n").await;
            // The backends' answers are far smaller than the buffer, so one read takes one whole.
            if asked.is_err() || !matches!(open.read(&mut scratch).await, Ok(1..)) {
                stream = None;
            }
        }
    }
}
