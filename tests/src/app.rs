//! An app as it should be: HTTP/1 and HTTP/2 on one port, and when it is told to leave it accepts no more, finishes what
//! is in flight and lets go what is idle.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::origin::{Body, full};
use crate::{Result, wire};

/// What a caller may expect in an answer.
pub const ANSWER: &str = "at your service";
/// How long an answer takes, so that something is in flight at any time.
const WORK: Duration = Duration::from_millis(5);
/// Whoever has just connected when the app leaves has so long to say what for.
const FRESH: Duration = Duration::from_millis(300);

/// A running app. Dies with the value: all at once, like a process that is killed.
pub struct App {
    /// Where it listens.
    pub address: SocketAddr,
    served: Arc<AtomicUsize>,
    leaving: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl App {
    /// Starts at an address, whose port may be 0.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn start(address: &str) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let served = Arc::<AtomicUsize>::default();
        let (leaving, told) = watch::channel(false);
        let task = tokio::spawn(accept(listener, told, Arc::clone(&served)));
        Ok(Self { address, served, leaving, task })
    }

    /// How many requests it answered.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// Leaves in order, and gives the address that is free then.
    ///
    /// # Errors
    /// It does not come to an end.
    pub async fn leave(mut self) -> Result<SocketAddr> {
        self.leaving.send_replace(true);
        tokio::time::timeout(Duration::from_secs(10), &mut self.task).await.map_err(|_| "the app does not come to an end")??;
        Ok(self.address)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, mut leaving: watch::Receiver<bool>, served: Arc<AtomicUsize>) {
    let mut open = JoinSet::new();
    let told = leaving.clone();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => drop(open.spawn(serve(stream, told.clone(), Arc::clone(&served)))),
            Ok(()) = leaving.changed() => break,
        }
        while open.try_join_next().is_some() {}
    }
    // Those that the kernel has accepted already would be reset with the socket.
    if let Ok(listener) = listener.into_std() {
        while let Ok((stream, _)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                open.spawn(serve(stream, told.clone(), Arc::clone(&served)));
            }
        }
    }
    while open.join_next().await.is_some() {}
}

async fn serve(stream: TcpStream, mut leaving: watch::Receiver<bool>, served: Arc<AtomicUsize>) {
    let _ = stream.set_nodelay(true);
    let here = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&here);
    let service = service_fn(move |request| {
        count.fetch_add(1, Ordering::Relaxed);
        served.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(answer(request).await) }
    });
    let builder = Builder::new(TokioExecutor::new());
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let goodbye = async {
        let _ = leaving.wait_for(|leaving| *leaving).await;
        if here.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(FRESH).await;
        }
    };
    tokio::select! {
        _ = connection.as_mut() => return,
        () = goodbye => connection.as_mut().graceful_shutdown(),
    }
    // One that breaks is the caller's affair.
    let _ = connection.await;
}

async fn answer(request: Request<Incoming>) -> Response<Body> {
    tokio::time::sleep(WORK).await;
    let grpc = request.headers().get("content-type").is_some_and(|kind| kind == "application/grpc");
    if !grpc {
        return Response::new(full(ANSWER));
    }
    let (feed, body) = wire::fed();
    feed.data(ANSWER);
    feed.trailers(HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]));
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}
