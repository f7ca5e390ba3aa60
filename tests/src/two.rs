//! HTTP/2 by hand: what hyper hides (informational responses, resets, stream limits).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::Result;

/// A client connection. Closes with the value.
pub struct Client {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// No connection opens.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, driver })
    }

    /// Sends the head of a request to host `shop`.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn send(&self, mut request: Request<()>, ends: bool) -> Result<(ResponseFuture, SendStream<Bytes>)> {
        if request.uri().authority().is_none() {
            *request.uri_mut() = format!("http://shop{}", request.uri()).parse()?;
        }
        let mut sender = self.sender.clone().ready().await?;
        Ok(sender.send_request(request, ends)?)
    }

    /// Sends a request without a body.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn get(&self, target: &str) -> Result<ResponseFuture> {
        Ok(self.send(Request::get(target).body(())?, true).await?.0)
    }
}

/// The next informational response, or `None` if the final one comes first.
///
/// # Errors
/// There is no response.
pub async fn informational(response: &mut ResponseFuture) -> Result<Option<Response<()>>> {
    let next = std::future::poll_fn(|cx| response.poll_informational(cx));
    Ok(tokio::time::timeout(Duration::from_secs(10), next).await?.transpose()?)
}

/// Reads a body to its end, with the trailers.
///
/// # Errors
/// The stream was reset.
pub async fn collect(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok((all, body.trailers().await?))
}

/// An HTTP/2 origin. Its connections end with it.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many connections it accepted.
    pub connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    /// Gives each request to `serve`. Advertises `streams` as the limit of concurrent streams, if given.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start<F, Fut>(streams: Option<u32>, serve: F) -> Result<Self>
    where
        F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result> + Send + 'static,
    {
        Self::far(streams, Duration::ZERO, serve).await
    }

    /// As [`Server::start`], as far away as `delay` says: so long its SETTINGS are on their way.
    ///
    /// # Errors
    /// No port is free.
    pub async fn far<F, Fut>(streams: Option<u32>, delay: Duration, serve: F) -> Result<Self>
    where
        F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                let serve = serve.clone();
                open.spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    if let Some(streams) = streams {
                        builder.max_concurrent_streams(streams);
                    }
                    tokio::time::sleep(delay).await;
                    let Ok(mut connection) = builder.handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(serve(request, respond));
                    }
                });
            }
        });
        Ok(Self { address, connections, task })
    }

    /// How many connections it accepted.
    pub fn count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Closes every connection without a word.
    pub fn die(&self) {
        self.task.abort();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
