//! Over HTTP/2 many share a connection. One who does not read is in nobody's way but his own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use weir_tests::two::{self, Server};
use weir_tests::wire::{self, Version};
use weir_tests::{Result, Trial, Weir, holds, same, test, until};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::streaming::callers_that_do_not_read_hold_up_nobody", callers_that_do_not_read),
        test("http::streaming::a_caller_that_does_not_read_small_messages_holds_up_nobody", small_messages),
        test("http::streaming::more_streams_than_usual_where_there_is_but_one_connection", one_connection),
        test("http::streaming::uploads_that_are_not_read_hold_up_nobody", uploads_that_are_not_read),
    ]
}

/// More than would fill a window of four megabytes.
const STALLED: usize = 20;
/// Small, so that the kernel holds little of what is not read.
const KERNEL_BUFFER: u32 = 8 << 10;

/// An origin that answers `/FRAME` without end, in frames of so many bytes, and anything else with `ok`. Beside it, how
/// many answers have come to a stop.
async fn origin() -> Result<(Server, Arc<AtomicUsize>)> {
    let stopped = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&stopped);
    let server = Server::start(None, move |request, mut respond| {
        let count = Arc::clone(&count);
        async move {
            let size = request.uri().path().trim_start_matches('/').parse().ok();
            let mut send = respond.send_response(Response::new(()), false)?;
            let Some(size) = size else {
                send.send_data("ok".into(), true)?;
                return Ok(());
            };
            // Until whoever asked is gone.
            flow(&mut send, size, &count).await
        }
    })
    .await?;
    Ok((server, stopped))
}

/// What stands at this place of an answer.
fn byte(place: usize) -> u8 {
    (place % 251) as u8
}

/// Sends frames of so many bytes, and one of many more now and then. Counts among the stopped once the other side
/// has taken nothing for a while.
async fn flow(send: &mut h2::SendStream<Bytes>, size: usize, stopped: &AtomicUsize) -> Result {
    let (mut sent, mut flows) = (0, true);
    for number in 1.. {
        let size = if number % 1000 == 0 { 5 * size.max(1 << 10) } else { size };
        send.reserve_capacity(size);
        while send.capacity() < size {
            let mut more = std::pin::pin!(std::future::poll_fn(|cx| send.poll_capacity(cx)));
            let more = match tokio::time::timeout(Duration::from_millis(500), &mut more).await {
                Ok(more) => more,
                Err(_) => {
                    stopped.fetch_add(usize::from(std::mem::take(&mut flows)), Ordering::Relaxed);
                    more.await
                }
            };
            more.ok_or("the stream is gone")??;
        }
        send.send_data((sent..sent + size).map(byte).collect(), false)?;
        sent += size;
    }
    Ok(())
}

/// Connects with a small buffer.
async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(KERNEL_BUFFER)?;
    Ok(socket.connect(address).await?)
}

/// Whether others are served, in time, over the connection that the stalled ones have.
async fn serves_others(weir: &Weir, server: &Server, what: &str) -> Result {
    for from in [Version::One, Version::Two] {
        let mut caller = wire::Caller::open(weir.address("out"), from).await?;
        let request = caller.request("GET", "/small").body(weir_tests::origin::full(""))?;
        let response = tokio::time::timeout(Duration::from_secs(5), caller.send(request)).await;
        let response = response.map_err(|_| format!("{what}: {from:?} waits for those who do not read"))??;
        let body = http_body_util::BodyExt::collect(response.into_body());
        let body = tokio::time::timeout(Duration::from_secs(5), body).await;
        same!(body.map_err(|_| format!("{what}: {from:?} waits for its body"))??.to_bytes(), "ok", "{what}: {from:?}");
    }
    same!(server.count(), 1, "{what}: connections");
    Ok(())
}

async fn callers_that_do_not_read() -> Result {
    let (server, stopped) = origin().await?;
    let weir = Weir::start(&wire::to(server.address, Version::Two)).await?;
    let mut callers = JoinSet::new();
    for _ in 0..STALLED {
        let stream = connect(weir.address("out")).await?;
        callers.spawn(async move {
            let mut stream = stream;
            stream.write_all(b"GET /16384 HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
            std::future::pending::<Result>().await
        });
    }
    until("callers on HTTP/1 stall", async || stopped.load(Ordering::Relaxed) == STALLED).await?;
    serves_others(&weir, &server, "HTTP/1").await?;
    let client = two::Client::open(weir.address("out")).await?;
    let mut unread = Vec::new();
    for _ in 0..STALLED {
        unread.push(client.get("/16384").await?);
    }
    until("streams stall", async || stopped.load(Ordering::Relaxed) == 2 * STALLED).await?;
    serves_others(&weir, &server, "HTTP/2").await?;
    same!(weir.metric("weir_request_flags_total", "").await?, 0.0);
    Ok(())
}

/// Frames of one byte are twenty times their size where they are kept one by one, and a connection has to end where
/// there are too many.
async fn small_messages() -> Result {
    let (server, stopped) = origin().await?;
    let weir = Weir::start(&wire::to(server.address, Version::Two)).await?;
    serves_others(&weir, &server, "before").await?;
    let before = weir.rss()?;
    let stream = connect(weir.address("out")).await?;
    let mut builder = h2::client::Builder::new();
    // This end is not what is tried here.
    builder.initial_window_size(0).data_frame_budget(1 << 30);
    let (mut client, mut connection) = builder.handshake::<_, Bytes>(stream).await?;
    let (open, mut opened) = tokio::sync::oneshot::channel();
    let driver = tokio::spawn(async move {
        tokio::select! {
            _ = &mut connection => return,
            Ok(()) = &mut opened => drop(connection.set_initial_window_size(1 << 20)),
        }
        drop(connection.await);
    });
    let (response, _) = client.send_request(Request::get("http://shop/1").body(())?, true)?;
    let mut body = response.await?.into_body();
    until("the stream stalls", async || stopped.load(Ordering::Relaxed) == 1).await?;
    serves_others(&weir, &server, "beside").await?;
    let grown = weir.rss()?.saturating_sub(before);
    holds!(grown < 8 << 20, "weir grew by {grown} bytes");
    // None of it is lost, and it goes on.
    open.send(()).map_err(|()| "the connection is gone")?;
    let mut read = 0;
    while read < 300 << 10 {
        let data = tokio::time::timeout(Duration::from_secs(5), body.data())
            .await
            .map_err(|_| format!("nothing after {read}"))?
            .ok_or("the stream ended")??;
        holds!(data.iter().enumerate().all(|(place, found)| *found == byte(read + place)), "at {read}");
        body.flow_control().release_capacity(data.len())?;
        read += data.len();
    }
    driver.abort();
    Ok(())
}

async fn uploads_that_are_not_read() -> Result {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(KERNEL_BUFFER)?;
    socket.bind("127.0.0.1:0".parse()?)?;
    let listener = socket.listen(64)?;
    // The first connections are those of uploads, which nobody reads; what comes after is answered.
    let address = listener.local_addr()?;
    let origin = tokio::spawn(async move {
        let mut unread = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            if unread.len() < STALLED {
                unread.push(stream);
                continue;
            }
            let mut stream = stream;
            let mut said = Vec::new();
            while !said.windows(5).any(|part| part == b"small") && stream.read_buf(&mut said).await.is_ok_and(|read| read > 0) {}
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            unread.push(stream);
        }
    });
    let weir = Weir::start(&wire::to(address, Version::One)).await?;
    let client = two::Client::open(weir.address("out")).await?;
    let stopped = Arc::<AtomicUsize>::default();
    let mut uploads = JoinSet::new();
    for _ in 0..STALLED {
        let (response, mut send) = client.send(Request::post("/").body(())?, false).await?;
        let stopped = Arc::clone(&stopped);
        uploads.spawn(async move {
            let _response = response;
            flow(&mut send, 16 << 10, &stopped).await
        });
    }
    until("uploads stall", async || stopped.load(Ordering::Relaxed) == STALLED).await?;
    let (response, mut send) = client.send(Request::post("/").body(())?, false).await?;
    send.send_data("small".into(), true)?;
    let response = tokio::time::timeout(Duration::from_secs(5), response).await;
    let response = response.map_err(|_| "an upload waits for those that are not read")??;
    let (body, _) = two::collect(&mut response.into_body()).await?;
    same!(body, b"ok");
    origin.abort();
    Ok(())
}

/// The peer sets no limit, and takes no second connection.
async fn one_connection() -> Result {
    const MANY: usize = 300;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let waiting = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&waiting);
    let origin: tokio::task::JoinHandle<Result> = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        drop(listener);
        let mut connection = h2::server::handshake(stream).await?;
        let mut asked = Vec::new();
        while let Some(request) = connection.accept().await {
            asked.push(request?);
            count.store(asked.len(), Ordering::Relaxed);
        }
        Ok(())
    });
    let weir = Weir::start(&wire::to(address, Version::Two)).await?;
    let mut callers = JoinSet::new();
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(weir.address("out")).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
        callers.spawn(async move { drop(stream.read_u8().await) });
    }
    until("all of them are at the origin", async || waiting.load(Ordering::Relaxed) == MANY).await?;
    origin.abort();
    Ok(())
}
