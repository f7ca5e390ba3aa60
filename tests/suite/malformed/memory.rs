//! Bodies larger than memory: streamed at the pace of the slower side, never collected.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;
use weir_tests::origin::full;
use weir_tests::raw::Connection;
use weir_tests::{Origin, Result, Weir, holds, same};

/// What weir may occupy at its fullest.
pub const LIMIT: u64 = 40 << 20;

const GIB: u64 = 1 << 30;
const BLOCK: usize = 64 << 10;
/// More than this cannot be on its way between the origin and a reader who stopped: four socket buffers, and weir's own.
const UNDER_WAY: u64 = 32 << 20;

/// Keeps tests that measure from running beside each other.
pub async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// The most memory that weir has ever occupied, in bytes.
pub fn peak(weir: &Weir) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", weir.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Fails if weir was ever over the limit.
fn within_limit(weir: &Weir) -> Result {
    let peak = peak(weir)?;
    holds!(peak < LIMIT, "{} KiB at its fullest", peak >> 10);
    Ok(())
}

/// How much is uploaded: a gibibyte, or five with `WEIR_SOAK`.
fn upload_size() -> u64 {
    if weir_tests::soak() { 5 * GIB } else { GIB }
}

async fn weir_before(origin: &Origin) -> Result<Weir> {
    Weir::start(&format!(
        "listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes: [{{ name: all, hosts: ['*'], rules: [{{ backends: [{{ cluster: one }}] }}] }}]
clusters: {{ one: {{ endpoints: ['{}'], protocol: auto }} }}
",
        origin.address
    ))
    .await
}

/// A body of so many zeros, made as it is taken.
struct Zeros {
    left: u64,
    taken: Arc<AtomicU64>,
}

impl Body for Zeros {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static ZEROS: [u8; BLOCK] = [0; BLOCK];
        let length = self.left.min(BLOCK as u64);
        if length == 0 {
            return Poll::Ready(None);
        }
        self.left -= length;
        self.taken.fetch_add(length, Ordering::Relaxed);
        let block = &ZEROS[..usize::try_from(length).unwrap_or(BLOCK)];
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(block)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// An origin that answers with a gibibyte, and counts how much of it was taken.
async fn fountain() -> Result<(Origin, Arc<AtomicU64>)> {
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    let origin = Origin::start(move |_| {
        let taken = Arc::clone(&counter);
        async move { Response::new(Zeros { left: GIB, taken }.boxed()) }
    })
    .await?;
    Ok((origin, taken))
}

/// An origin that throws the body away and answers how long it was, and by which protocol it came.
async fn sink() -> Result<Origin> {
    Origin::start(|request| async move {
        let version = request.version();
        let mut body = request.into_body();
        let mut length = 0;
        while let Some(Ok(frame)) = body.frame().await {
            length += frame.data_ref().map_or(0, Bytes::len);
        }
        Response::new(full(format!("{version:?} {length}")))
    })
    .await
}

/// Somebody who reads a body piece by piece.
trait Reader {
    /// Reads about 64 KiB and says how much it was.
    async fn read(&mut self) -> Result<u64>;
}

/// Reads at most 64 MiB a second, stops for a second, and reads on. What was not read must wait at the origin.
async fn read_slowly(mut reader: impl Reader, taken: &AtomicU64, weir: &Weir) -> Result {
    let mut read = 0;
    for stretch in [Duration::from_secs(2), Duration::from_secs(1)] {
        let (began, before) = (Instant::now(), read);
        while began.elapsed() < stretch {
            read += reader.read().await?;
            // The pace of a slow reader, not a wait for anything.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        holds!(read > before + (4 << 20), "only {} KiB in {stretch:?}", (read - before) >> 10);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ahead = taken.load(Ordering::Relaxed).saturating_sub(read);
        holds!(ahead < UNDER_WAY, "{} MiB are under way to a reader who stopped", ahead >> 20);
        within_limit(weir)?;
    }
    Ok(())
}

struct Http1Reader(TcpStream, Vec<u8>);

impl Reader for Http1Reader {
    async fn read(&mut self) -> Result<u64> {
        match self.0.read(&mut self.1).await? {
            0 => Err("the body ends early".into()),
            read => Ok(read as u64),
        }
    }
}

pub async fn slow_reader_http1() -> Result {
    let _alone = alone().await;
    let (origin, taken) = fountain().await?;
    let weir = weir_before(&origin).await?;
    let mut stream = TcpStream::connect(weir.address("out")).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    read_slowly(Http1Reader(stream, vec![0; BLOCK]), &taken, &weir).await
}

struct Http2Reader(h2::RecvStream);

impl Reader for Http2Reader {
    async fn read(&mut self) -> Result<u64> {
        let mut read = 0;
        while read < BLOCK {
            let data = self.0.data().await.ok_or("the body ends early")??;
            self.0.flow_control().release_capacity(data.len())?;
            read += data.len();
        }
        Ok(read as u64)
    }
}

pub async fn slow_reader_http2() -> Result {
    let _alone = alone().await;
    let (origin, taken) = fountain().await?;
    let weir = weir_before(&origin).await?;
    let stream = TcpStream::connect(weir.address("out")).await?;
    // Windows as browsers have them, so that it is the reader that is slow.
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(6 << 20).initial_connection_window_size(15 << 20);
    let (client, connection) = builder.handshake::<_, Bytes>(stream).await?;
    let driver = tokio::spawn(connection);
    let request = Request::get("http://a/").version(Version::HTTP_2).body(())?;
    let (response, _) = client.ready().await?.send_request(request, true)?;
    let outcome = read_slowly(Http2Reader(response.await?.into_body()), &taken, &weir).await;
    driver.abort();
    outcome
}

pub async fn upload_http1() -> Result {
    let _alone = alone().await;
    let origin = sink().await?;
    let weir = weir_before(&origin).await?;
    let size = upload_size();
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")).await?;
    let block = vec![0; BLOCK];
    for _ in 0..size / BLOCK as u64 {
        connection.send(&block).await?;
    }
    let answer = connection.response(false).await?;
    same!((answer.status, answer.text()), (200, format!("HTTP/1.1 {size}")));
    within_limit(&weir)
}

pub async fn upload_http2() -> Result {
    let _alone = alone().await;
    let origin = sink().await?;
    let weir = weir_before(&origin).await?;
    let size = upload_size();
    let stream = TcpStream::connect(weir.address("out")).await?;
    let (client, connection) = h2::client::handshake(stream).await?;
    let driver = tokio::spawn(connection);
    let request = Request::post("http://a/").version(Version::HTTP_2).body(())?;
    let (response, mut send) = client.ready().await?.send_request(request, false)?;
    let block = Bytes::from(vec![0; BLOCK]);
    let mut left = size;
    while left > 0 {
        send.reserve_capacity(BLOCK);
        let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.ok_or("the stream is closed")??;
        let length = room.min(BLOCK).min(usize::try_from(left)?);
        left -= length as u64;
        send.send_data(block.slice(..length), left == 0)?;
    }
    let (head, mut body) = response.await?.into_parts();
    let answer = body.data().await.ok_or("no body")??;
    same!((head.status.as_u16(), String::from_utf8_lossy(&answer)), (200, format!("HTTP/2.0 {size}").into()));
    driver.abort();
    within_limit(&weir)
}
