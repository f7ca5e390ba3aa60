//! What arrives is sent on at once, in both directions, and no faster than it is read.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use weir_tests::origin::{Body, full};
use weir_tests::script::Script;
use weir_tests::wire::{PAIRS, Version, between, fed, piece};
use weir_tests::{Origin, Result, Trial, holds, raw, same, test, two, until, wire};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::streaming::responses_arrive_piece_by_piece", responses_piece_by_piece),
        test("http::streaming::requests_arrive_piece_by_piece", requests_piece_by_piece),
        test("http::streaming::both_at_once_over_http2", both_at_once),
        test("http::streaming::early_answers_are_relayed", early_answers),
        test("http::streaming::early_answers_are_relayed_before_a_reset", early_answers_before_a_reset),
        test("http::streaming::an_unfinished_upload_delays_nobody_else", unfinished_upload),
        test("http::streaming::an_unfinished_upload_delays_nobody_else_over_http2", unfinished_upload_over_http2),
        test("http::streaming::a_body_behind_its_head_waits_for_no_acknowledgement", two_writes),
        test("http::streaming::a_slow_reader_slows_the_origin", slow_reader),
        test("http::streaming::a_slow_origin_slows_the_caller", slow_origin),
    ]
}

type Held = (Request<Incoming>, oneshot::Sender<Response<Body>>);

/// An origin that leaves every request to the test.
async fn held() -> Result<(Origin, mpsc::UnboundedReceiver<Held>)> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let origin = Origin::start(move |request| {
        let (answer, answered) = oneshot::channel();
        let _ = sender.send((request, answer));
        async move { answered.await.unwrap_or_else(|_| Response::builder().status(500).body(full("")).expect("a response")) }
    })
    .await?;
    Ok((origin, receiver))
}

async fn next(requests: &mut mpsc::UnboundedReceiver<Held>) -> Result<Held> {
    tokio::time::timeout(Duration::from_secs(10), requests.recv()).await?.ok_or_else(|| "no request".into())
}

async fn responses_piece_by_piece() -> Result {
    for (from, onward) in PAIRS {
        let (origin, mut requests) = held().await?;
        let (_weir, mut caller) = between(from, origin.address, onward).await?;
        let request = caller.request("GET", "/").body(full(""))?;
        let (response, served) = tokio::join!(caller.send(request), async {
            let (_, answer) = next(&mut requests).await?;
            let (feed, body) = fed();
            answer.send(Response::new(body)).map_err(|_| "weir gave up")?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(feed)
        });
        let (mut response, feed) = (response.map_err(|error| format!("{from:?} -> {onward:?}: {error}"))?, served?);
        for text in ["one", "two", "three"] {
            feed.data(text);
            same!(piece(response.body_mut()).await?, text, "{from:?} -> {onward:?}");
        }
        drop(feed);
        holds!(
            response.body_mut().frame().await.is_none_or(|frame| frame.is_ok_and(|f| f.data_ref().is_none_or(Bytes::is_empty)))
        );
    }
    Ok(())
}

async fn requests_piece_by_piece() -> Result {
    for (from, onward) in PAIRS {
        let (origin, mut requests) = held().await?;
        let (_weir, mut caller) = between(from, origin.address, onward).await?;
        let (feed, body) = fed();
        let request = caller.request("POST", "/").body(body)?;
        let (response, served) = tokio::join!(caller.send(request), async {
            let (mut request, answer) = next(&mut requests).await?;
            for text in ["one", "two", "three"] {
                feed.data(text);
                same!(piece(request.body_mut()).await?, text, "{from:?} -> {onward:?}");
            }
            drop(feed);
            same!(request.into_body().collect().await?.to_bytes(), "", "{from:?} -> {onward:?}");
            answer.send(Response::new(full("ok"))).map_err(|_| "weir gave up")?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
        served?;
        same!(response?.status().as_u16(), 200, "{from:?} -> {onward:?}");
    }
    Ok(())
}

async fn both_at_once() -> Result {
    let (origin, mut requests) = held().await?;
    let (_weir, mut caller) = between(Version::Two, origin.address, Version::Two).await?;
    let (up, body) = fed();
    let request = caller.request("POST", "/").body(body)?;
    let (response, served) = tokio::join!(caller.send(request), async {
        let (request, answer) = next(&mut requests).await?;
        let (down, body) = fed();
        answer.send(Response::new(body)).map_err(|_| "weir gave up")?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((request.into_body(), down))
    });
    let (mut response, (mut request, down)) = (response?, served?);
    for turn in 0..50 {
        let text = format!("turn {turn}");
        up.data(text.clone());
        let arrived = piece(&mut request).await?;
        same!(arrived, text);
        down.data(arrived);
        same!(piece(response.body_mut()).await?, text);
    }
    drop(up);
    same!(request.collect().await?.to_bytes(), "");
    down.data("last");
    drop(down);
    same!(response.into_body().collect().await?.to_bytes(), "last");
    Ok(())
}

async fn early_answers() -> Result {
    for (from, onward) in PAIRS {
        let (origin, mut requests) = held().await?;
        let (weir, mut caller) = between(from, origin.address, onward).await?;
        let (feed, body) = fed();
        feed.data(vec![b'x'; 100_000]);
        let request = caller.request("POST", "/").body(body)?;
        // The unread request is kept, so that the origin does not close.
        let (answer, served) = tokio::join!(caller.exchange(request), async {
            let (request, answer) = next(&mut requests).await?;
            answer.send(too_much()).map_err(|_| "weir gave up")?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(request)
        });
        let (answer, unread) = (answer.map_err(|error| format!("{from:?} -> {onward:?}: {error}"))?, served?);
        same!((answer.status.as_u16(), answer.text().as_str()), (413, "too much"), "{from:?} -> {onward:?}");
        until("the request is done with", async || weir.metric("weir_requests_active", "").await.is_ok_and(|n| n == 0.0)).await?;
        same!(weir.metric("weir_request_flags_total", "").await?, 0.0, "{from:?} -> {onward:?}");
        drop((feed, unread));
    }
    Ok(())
}

fn too_much() -> Response<Body> {
    Response::builder().status(413).body(full("too much")).expect("a response")
}

/// An origin that answers and closes with the request unread resets its connection, and the reset can overtake the
/// writing side of weir. The answer is there to be read all the same. Many times, because it is a race.
async fn early_answers_before_a_reset() -> Result {
    let origin = Origin::start(|_| async { too_much() }).await?;
    for from in [Version::One, Version::Two] {
        let (weir, _) = between(from, origin.address, Version::One).await?;
        for attempt in 0..100 {
            let mut caller = wire::Caller::open(weir.address("out"), from).await?;
            let request = caller.request("POST", "/").body(full(vec![b'x'; 300_000]))?;
            let answer = caller.exchange(request).await.map_err(|error| format!("{from:?}, {attempt}: {error}"))?;
            same!((answer.status.as_u16(), answer.text().as_str()), (413, "too much"), "{from:?}, attempt {attempt}");
        }
    }
    Ok(())
}

/// An origin may answer before it has read the request, and read on. Until it has, its connection is not free.
async fn unfinished_upload() -> Result {
    let script = Script::listen().await?;
    let (weir, _) = between(Version::One, script.address, Version::One).await?;
    let mut uploader = raw::Connection::open(weir.address("out")).await?;
    uploader.send("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\nfirst").await?;
    let mut peer = script.accept().await?;
    peer.until(b"first").await?;
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
    same!(uploader.response(false).await?.text(), "ok");
    // The caller has its answer and has not sent the rest of its request.
    let other = tokio::spawn(raw::get(weir.address("out"), "shop", "/other"));
    let mut second = script.accept().await.map_err(|error| format!("the other request waits for the upload: {error}"))?;
    holds!(second.head().await?.starts_with("GET /other "));
    second.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother").await?;
    same!(other.await??.text(), "other");
    Ok(())
}

/// The stream of an unfinished upload counts against the peer's limit, though its response is complete.
async fn unfinished_upload_over_http2() -> Result {
    let server = two::Server::start(Some(1), |request, mut respond| async move {
        respond.send_response(Response::new(()), true)?;
        if request.method() == http::Method::POST {
            let mut body = request.into_body();
            while body.data().await.is_some() {}
        }
        Ok(())
    })
    .await?;
    let weir = weir_tests::Weir::start(&wire::to(server.address, Version::Two)).await?;
    let client = two::Client::open(weir.address("out")).await?;
    same!(client.get("/so-that-the-limit-is-known").await?.await?.status().as_u16(), 200);
    let (response, mut upload) = client.send(Request::post("/").body(())?, false).await?;
    upload.send_data("first".into(), false)?;
    same!(response.await?.status().as_u16(), 200);
    for _ in 0..3 {
        let other = tokio::time::timeout(Duration::from_secs(5), client.get("/other").await?).await;
        same!(other.map_err(|_| "the other request waits for the upload")??.status().as_u16(), 200);
    }
    drop(upload);
    Ok(())
}

/// An origin that writes head and body one after the other, as many do, and whose kernel holds the body back until the head is
/// acknowledged; and a caller that does the same. The median, for machines are busy.
async fn two_writes() -> Result {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let origin: tokio::task::JoinHandle<Option<()>> = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.ok()?;
        let mut said = Vec::new();
        loop {
            while !said.ends_with(b"hello") {
                stream.read_buf(&mut said).await.ok().filter(|read| *read > 0)?;
            }
            said.clear();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await.ok()?;
            stream.write_all(b"ok").await.ok()?;
        }
    });
    let weir = weir_tests::Weir::start(&wire::to(address, Version::One)).await?;
    let mut caller = tokio::net::TcpStream::connect(weir.address("out")).await?;
    let mut took = Vec::new();
    for _ in 0..31 {
        let asked = std::time::Instant::now();
        caller.write_all(b"POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\n\r\n").await?;
        caller.write_all(b"hello").await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") {
            holds!(caller.read_buf(&mut answer).await? > 0, "{}", answer.escape_ascii());
        }
        took.push(asked.elapsed());
    }
    took.sort_unstable();
    holds!(took[15] < Duration::from_millis(20), "{took:?}");
    origin.abort();
    Ok(())
}

/// A body that counts what is taken of it.
struct Counted {
    left: usize,
    taken: Arc<AtomicUsize>,
}

const BLOCK: usize = 64 << 10;
const BLOCKS: usize = 1024;

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static DATA: [u8; BLOCK] = [b'.'; BLOCK];
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.taken.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&DATA)))))
    }
}

fn counted() -> (Arc<AtomicUsize>, Body) {
    let taken = Arc::<AtomicUsize>::default();
    (Arc::clone(&taken), Counted { left: BLOCKS, taken }.boxed())
}

/// Waits until a sender has come to rest, that is, does not move for as long as it would need for many blocks.
async fn at_rest(taken: &AtomicUsize) -> usize {
    loop {
        let before = taken.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(400)).await;
        if before > 0 && before == taken.load(Ordering::Relaxed) {
            return before;
        }
    }
}

/// What may be under way: the kernel's buffers of two connections, which grow to some ten megabytes, and weir's windows.
const UNDER_WAY: usize = (24 << 20) / BLOCK;

async fn slow_reader() -> Result {
    for (from, onward) in PAIRS {
        let (origin, mut requests) = held().await?;
        let (weir, mut caller) = between(from, origin.address, onward).await?;
        let before = weir.rss()?;
        let request = caller.request("GET", "/").body(full(""))?;
        let (taken, body) = counted();
        let (response, served) = tokio::join!(caller.send(request), async {
            let (_, answer) = next(&mut requests).await?;
            answer.send(Response::new(body)).map_err(|_| "weir gave up")?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
        served?;
        let mut response = response?;
        let blocks = at_rest(&taken).await;
        holds!(blocks < UNDER_WAY, "{from:?} -> {onward:?}: {blocks} blocks went out unread");
        let grown = weir.rss()?.saturating_sub(before);
        holds!(grown < 16 << 20, "{from:?} -> {onward:?}: weir grew by {grown} bytes");
        let mut read = 0;
        while let Some(frame) = response.body_mut().frame().await {
            read += frame?.data_ref().map_or(0, Bytes::len);
        }
        same!(read, BLOCK * BLOCKS, "{from:?} -> {onward:?}");
    }
    Ok(())
}

async fn slow_origin() -> Result {
    for (from, onward) in PAIRS {
        let (origin, mut requests) = held().await?;
        let (weir, mut caller) = between(from, origin.address, onward).await?;
        let before = weir.rss()?;
        let (taken, body) = counted();
        let request = caller.request("POST", "/").body(body)?;
        let (response, served) = tokio::join!(caller.send(request), async {
            let (mut request, answer) = next(&mut requests).await?;
            let blocks = at_rest(&taken).await;
            holds!(blocks < UNDER_WAY, "{from:?} -> {onward:?}: {blocks} blocks came in unread");
            let grown = weir.rss()?.saturating_sub(before);
            holds!(grown < 16 << 20, "{from:?} -> {onward:?}: weir grew by {grown} bytes");
            let mut read = 0;
            while let Some(frame) = request.body_mut().frame().await {
                read += frame?.data_ref().map_or(0, Bytes::len);
            }
            answer.send(Response::new(full(read.to_string()))).map_err(|_| "weir gave up")?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
        served?;
        same!(response?.into_body().collect().await?.to_bytes(), (BLOCK * BLOCKS).to_string(), "{from:?} -> {onward:?}");
    }
    Ok(())
}
