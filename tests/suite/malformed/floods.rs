//! HTTP/2 floods: the peer is sent away, its neighbours do not notice, memory does not grow.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use weir_tests::frames::{self, frame};
use weir_tests::origin::full;
use weir_tests::raw::Connection;
use weir_tests::{Origin, Result, Weir, holds, same, two, until};

use super::memory::{self, LIMIT};

/// How long a flood goes on, over as many connections as it takes.
const FLOOD: Duration = Duration::from_millis(1500);
/// A connection that floods lives no longer than this.
const PATIENCE: Duration = Duration::from_secs(3);
/// A neighbour may always wait this long. Without optimisation weir takes several times as long over the same frames,
/// and shares the processors with the other tests.
const LEAST_BOUND: Duration = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 50 });

pub async fn rapid_resets() -> Result {
    let mut stream = 1;
    flood("resets", Gate::Ours, move || {
        let mut frames = Vec::new();
        for _ in 0..50 {
            frames.extend(frame(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, stream, frames::GET));
            frames.extend(frame(frames::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            stream += 2;
        }
        frames
    })
    .await
}

/// Those whose requests come over one connection, as they do from another sidecar, give up together: that is no flood.
pub async fn many_who_give_up() -> Result {
    const MANY: usize = 200;
    let (waiting, waits) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
    let (seen, let_go) = (Arc::clone(&waiting), Arc::clone(&waits));
    let origin = Origin::start(move |request| {
        let (seen, let_go) = (Arc::clone(&seen), Arc::clone(&let_go));
        async move {
            if request.uri().path() == "/slow" {
                seen.fetch_add(1, Ordering::Relaxed);
                let_go.notified().await;
            }
            Response::new(full("hello"))
        }
    })
    .await?;
    let weir = weir_before(&origin).await?;
    let client = two::Client::open(weir.address("out")).await?;
    let patient = client.get("/slow").await?;
    let mut impatient = Vec::new();
    for _ in 0..MANY {
        impatient.push(client.get("/slow").await?);
    }
    until("all of them wait", async || waiting.load(Ordering::Relaxed) == MANY + 1).await?;
    // Longer than a stream is young.
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(impatient);
    until("weir knows that they gave up", async || {
        weir.metric("weir_requests_active", "").await.is_ok_and(|active| active == 1.0)
    })
    .await?;
    waits.notify_waiters();
    let (body, _) = two::collect(&mut patient.await?.into_body()).await?;
    same!(body, b"hello", "who did not give up");
    same!(client.get("/").await?.await?.status().as_u16(), 200, "the same connection");
    same!(weir.metric("weir_http2_floods_total", "").await?, 0.0);
    Ok(())
}

/// The peer makes weir reset its streams (MadeYouReset, CVE-2025-8671): their windows are opened beyond the largest.
pub async fn provoked_resets() -> Result {
    let mut stream = 1;
    flood("provoked resets", Gate::Either, move || {
        let mut frames = Vec::new();
        for _ in 0..50 {
            frames.extend(frame(frames::HEADERS, frames::END_HEADERS, stream, frames::POST));
            frames.extend(frame(frames::WINDOW_UPDATE, 0, stream, &0x7FFF_FFFF_u32.to_be_bytes()));
            stream += 2;
        }
        frames
    })
    .await
}

/// A header block that never ends (CVE-2024-27316).
pub async fn continuations() -> Result {
    let mut begun = false;
    flood("continuations", Gate::Either, move || {
        let mut frames = Vec::new();
        if !std::mem::replace(&mut begun, true) {
            frames.extend(frame(frames::HEADERS, frames::END_STREAM, 1, frames::GET));
        }
        for _ in 0..50 {
            // A literal field that is not indexed: `x: y`.
            frames.extend(frame(frames::CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'y']));
        }
        frames
    })
    .await
}

pub async fn settings() -> Result {
    // MAX_CONCURRENT_STREAMS: 100.
    let one = frame(frames::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
    flood("settings", Gate::Ours, move || one.repeat(50)).await
}

pub async fn pings() -> Result {
    let one = frame(frames::PING, 0, 0, &[7; 8]);
    flood("pings", Gate::Ours, move || one.repeat(50)).await
}

pub async fn empty_data() -> Result {
    let mut begun = false;
    flood("empty DATA", Gate::Ours, move || {
        let mut frames = Vec::new();
        if !std::mem::replace(&mut begun, true) {
            frames.extend(frame(frames::HEADERS, frames::END_HEADERS, 1, frames::POST));
        }
        frames.extend(frame(frames::DATA, 0, 1, &[]).repeat(50));
        frames
    })
    .await
}

/// A peer that asks for more than it reads, and then floods: GOAWAY cannot reach it, but its connection ends all the same.
pub async fn deaf_peer() -> Result {
    let body = Bytes::from(vec![b'x'; 64 << 20]);
    let origin = Origin::start(move |_| {
        let body = body.clone();
        async move { Response::new(full(body)) }
    })
    .await?;
    let weir = weir_before(&origin).await?;
    let mut stream = TcpStream::connect(weir.address("out")).await?;
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // INITIAL_WINDOW_SIZE, and the connection's window, as large as they may be.
    hello.extend(frame(frames::SETTINGS, 0, 0, &[0, 4, 0x7F, 0xFF, 0xFF, 0xFF]));
    hello.extend(frame(frames::WINDOW_UPDATE, 0, 0, &0x7FFF_0000_u32.to_be_bytes()));
    hello.extend(frame(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, 1, frames::GET));
    stream.write_all(&hello).await?;
    // Until nothing more fits between weir and this peer.
    let sent = async || weir.metric("weir_requests_active", "").await.is_ok_and(|active| active == 1.0);
    until("the response is under way", sent).await?;
    let before = Cell::new(-1);
    until("the response is stuck", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let unread = unread(&stream);
        unread > 0 && before.replace(unread) == unread
    })
    .await?;
    stream.write_all(&frame(frames::PING, 0, 0, &[7; 8]).repeat(300)).await?;
    until("the flood is seen", async || weir.metric("weir_http2_floods_total", "").await.is_ok_and(|floods| floods == 1.0))
        .await?;
    until("the connection is gone", async || {
        weir.metric("weir_downstream_connections_active", "").await.is_ok_and(|open| open == 0.0)
    })
    .await
}

/// How many bytes have arrived and wait to be read.
fn unread(stream: &TcpStream) -> i32 {
    let mut unread = 0;
    // SAFETY: FIONREAD writes one int through the pointer, which is valid for the call.
    unsafe { libc::ioctl(stream.as_raw_fd(), libc::FIONREAD, &raw mut unread) };
    unread
}

async fn weir_before(origin: &Origin) -> Result<Weir> {
    Weir::start(&format!(
        "workers: 1
listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes: [{{ name: all, hosts: ['*'], rules: [{{ backends: [{{ cluster: one }}] }}] }}]
clusters: {{ one: {{ endpoints: ['{}'] }} }}
",
        origin.address
    ))
    .await
}

/// Who ends a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// weir's gate, which counts it.
    Ours,
    /// weir's gate or the limits of the HTTP/2 library, whichever is reached first.
    Either,
}

/// Floods weir over one connection after another while a neighbour on the same worker makes requests.
async fn flood<F>(name: &str, gate: Gate, more: F) -> Result
where
    F: FnMut() -> Vec<u8> + Clone + Send + 'static,
{
    let _alone = memory::alone().await;
    let origin = Origin::text("hello").await?;
    let weir = weir_before(&origin).await?;
    let mut neighbour = Connection::open(weir.address("out")).await?;
    p99(&mut neighbour, Duration::from_millis(200)).await?;
    let baseline = p99(&mut neighbour, FLOOD).await?;
    // The flood's own work is kept off the neighbour's thread: what is measured is weir.
    let address = weir.address("out");
    let flooding: tokio::task::JoinHandle<Result<Vec<frames::End>>> = tokio::spawn(async move {
        let began = Instant::now();
        let mut ends = Vec::new();
        while began.elapsed() < FLOOD {
            ends.push(frames::flood(address, more.clone(), PATIENCE).await?);
        }
        Ok(ends)
    });
    let flooded = p99(&mut neighbour, FLOOD).await?;
    let ends = flooding.await??;
    for end in &ends {
        holds!(end.closed, "{name}: a connection survives its flood");
        holds!(matches!(end.goaway, None | Some(frames::ENHANCE_YOUR_CALM)), "{name}: {end:?}");
    }
    holds!(ends.iter().any(|end| end.goaway.is_some()), "{name}: never told why: {ends:?}");
    let bound = (baseline * 5).max(LEAST_BOUND);
    holds!(flooded <= bound, "{name}: the neighbour's p99 goes from {baseline:?} to {flooded:?}");
    let counted = weir.metric("weir_http2_floods_total", "").await?;
    if gate == Gate::Ours {
        same!(counted, f64::from(u32::try_from(ends.len())?), "{name}: floods counted");
    }
    let peak = memory::peak(&weir)?;
    holds!(peak < LIMIT, "{name}: {} MB after {} connections", peak >> 20, ends.len());
    // Nothing that the flood began goes on.
    until("no request is active", async || weir.metric("weir_requests_active", "").await.is_ok_and(|active| active == 0.0))
        .await?;
    until("only the neighbour is left", async || {
        weir.metric("weir_downstream_connections_active", "").await.is_ok_and(|open| open <= 1.0)
    })
    .await
}

/// Makes requests one after another for so long; all must succeed.
async fn p99(connection: &mut Connection, duration: Duration) -> Result<Duration> {
    let began = Instant::now();
    let mut times = Vec::new();
    while began.elapsed() < duration {
        let sent = Instant::now();
        connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
        let answer = connection.response(false).await?;
        times.push(sent.elapsed());
        same!((answer.status, answer.text().as_str()), (200, "hello"), "the neighbour's request {}", times.len());
    }
    times.sort_unstable();
    Ok(times[times.len() * 99 / 100])
}
