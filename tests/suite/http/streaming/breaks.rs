//! What breaks off on one side breaks off on the other, visibly, and is counted as what it was.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::sync::mpsc;
use weir_tests::script::{Peer, Script};
use weir_tests::wire::{Version, fed};
use weir_tests::{Result, Trial, Weir, holds, raw, same, test, two, until, wire};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::streaming::a_caller_who_leaves_ends_the_http1_exchange", || caller_leaves_http1(&BEFORE_OR_IN_THE_BODY)),
        test("http::streaming::a_caller_who_leaves_in_its_upload_to_http1", || caller_leaves_http1(&[When::InItsOwnBody])),
        test("http::streaming::a_caller_who_leaves_ends_the_http2_stream", || caller_leaves_http2(&BEFORE_OR_IN_THE_BODY)),
        test("http::streaming::a_caller_who_leaves_in_its_upload_to_http2", || caller_leaves_http2(&[When::InItsOwnBody])),
        test("http::streaming::a_caller_who_leaves_ends_a_stalled_upload", caller_leaves_stalled_upload),
        test("http::streaming::a_truncated_http1_response", truncated_http1),
        test("http::streaming::a_truncated_http2_response", truncated_http2),
        test("http::streaming::a_truncated_grpc_response_ends_in_a_status", truncated_grpc),
        test("http::streaming::a_truncated_upload_is_not_completed", truncated_upload),
    ]
}

async fn flagged(weir: &Weir, flag: &str, count: f64) -> Result {
    let label = format!("flag=\"{flag}\"");
    let what = format!("{count} requests with flag {flag}");
    let counted = async || weir.metric("weir_request_flags_total", &label).await.is_ok_and(|now| now >= count);
    if let Err(error) = until(&what, counted).await {
        let metrics = weir.admin("/metrics").await?;
        let flags: Vec<_> = metrics.lines().filter(|line| line.starts_with("weir_request_flags_total")).collect();
        return Err(format!("{error}; there is {flags:?}").into());
    }
    same!(weir.metric("weir_request_flags_total", "").await?, count, "no other flag");
    weir.counted("weir_requests_active", "", 0.0).await?;
    Ok(())
}

/// When the caller leaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    BeforeTheHead,
    InTheBody,
    InItsOwnBody,
}

const BEFORE_OR_IN_THE_BODY: [When; 2] = [When::BeforeTheHead, When::InTheBody];

/// More than an end may be behind a request that it belongs to.
const RIGHT_BEHIND: std::time::Duration = std::time::Duration::from_millis(50);

async fn caller_leaves_http1(whens: &[When]) -> Result {
    for from in [Version::One, Version::Two] {
        for &when in whens {
            let script = Script::listen().await?;
            let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
            let mut caller = wire::Caller::open(weir.address("out"), from).await?;
            let (feed, body) = fed();
            let request = if when == When::InItsOwnBody {
                feed.data("first");
                caller.request("POST", "/").body(body)?
            } else {
                caller.request("GET", "/").body(weir_tests::origin::full(""))?
            };
            let pending = tokio::spawn(async move {
                // The response is kept, so that it is the connection's end that tells.
                let response = caller.send(request).await;
                (response, caller)
            });
            let mut peer = script.accept().await?;
            peer.head().await?;
            // An end right behind the request would be that of a caller who waits for the answer.
            tokio::time::sleep(RIGHT_BEHIND).await;
            match when {
                When::BeforeTheHead => pending.abort(),
                When::InItsOwnBody => {
                    peer.until(b"first").await?;
                    pending.abort();
                }
                When::InTheBody => {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").await?;
                    let (mut response, caller) = pending.await?;
                    same!(wire::piece(response.as_mut().map_err(|e| e.to_string())?.body_mut()).await?, "part");
                    drop((response, caller));
                }
            }
            let rest = peer.ended().await.map_err(|error| format!("{from:?}, {when:?}: {error}"))?;
            holds!(!rest.ends_with(b"0\r\n\r\n"), "{from:?}, {when:?}: the upload was ended as if it were whole");
            drop(feed);
            flagged(&weir, "DC", 1.0).await.map_err(|error| format!("{from:?}, {when:?}: {error}"))?;
        }
    }
    Ok(())
}

type Stream = (Request<h2::RecvStream>, h2::server::SendResponse<Bytes>);

async fn origin() -> Result<(two::Server, mpsc::Receiver<Stream>)> {
    let (sender, receiver) = mpsc::channel(16);
    let server = two::Server::start(None, move |request, respond| {
        let sender = sender.clone();
        async move { Ok(sender.send((request, respond)).await?) }
    })
    .await?;
    Ok((server, receiver))
}

async fn is_reset(what: &str, reset: impl Future<Output = Result<h2::Reason, h2::Error>>) -> Result {
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), reset).await;
    ended.map_err(|_| format!("{what}: the stream upstream stays open"))?.map_err(|error| format!("{what}: {error}"))?;
    Ok(())
}

async fn caller_leaves_http2(whens: &[When]) -> Result {
    for from in [Version::One, Version::Two] {
        for &when in whens {
            let (server, mut streams) = origin().await?;
            let weir = Weir::start(&wire::to(server.address, Version::Two)).await?;
            let mut caller = wire::Caller::open(weir.address("out"), from).await?;
            let (feed, body) = fed();
            let request = if when == When::InItsOwnBody {
                feed.data("first");
                caller.request("POST", "/").body(body)?
            } else {
                caller.request("GET", "/").body(weir_tests::origin::full(""))?
            };
            let pending = tokio::spawn(async move {
                let response = caller.send(request).await;
                (response, caller)
            });
            let (mut request, mut respond) = streams.recv().await.ok_or("no request")?;
            let context = format!("{from:?}, {when:?}");
            tokio::time::sleep(RIGHT_BEHIND).await;
            match when {
                When::BeforeTheHead => {
                    pending.abort();
                    is_reset(&context, std::future::poll_fn(|cx| respond.poll_reset(cx))).await?;
                }
                When::InItsOwnBody => {
                    same!(request.body_mut().data().await.ok_or("no data")??, "first");
                    pending.abort();
                    is_reset(&context, std::future::poll_fn(|cx| respond.poll_reset(cx))).await?;
                }
                When::InTheBody => {
                    let mut send = respond.send_response(Response::new(()), false)?;
                    send.send_data("part".into(), false)?;
                    let (mut response, caller) = pending.await?;
                    same!(wire::piece(response.as_mut().map_err(|e| e.to_string())?.body_mut()).await?, "part");
                    drop((response, caller));
                    is_reset(&context, std::future::poll_fn(|cx| send.poll_reset(cx))).await?;
                }
            }
            drop(feed);
            flagged(&weir, "DC", 1.0).await.map_err(|error| format!("{context}: {error}"))?;
            same!(server.count(), 1, "{context}");
        }
    }
    Ok(())
}

/// The upstream has no window left, so weir waits to send; it must notice all the same.
async fn caller_leaves_stalled_upload() -> Result {
    let (server, mut streams) = origin().await?;
    let weir = Weir::start(&wire::to(server.address, Version::Two)).await?;
    let client = two::Client::open(weir.address("out")).await?;
    let (response, mut body) = client.send(Request::post("/").body(())?, false).await?;
    // More than the window of 64 KiB that the origin never opens again.
    body.send_data(vec![b'x'; 200_000].into(), false)?;
    let (mut request, mut respond) = streams.recv().await.ok_or("no request")?;
    let mut read = 0;
    while read < 65_535 {
        read += request.body_mut().data().await.ok_or("no data")??.len();
    }
    body.send_reset(h2::Reason::CANCEL);
    drop(response);
    is_reset("stalled", std::future::poll_fn(|cx| respond.poll_reset(cx))).await?;
    Ok(())
}

/// Closes a connection, politely or not.
fn cut(peer: Peer, reset: bool) -> Result {
    if reset {
        return peer.reset();
    }
    drop(peer);
    Ok(())
}

async fn truncated_http1() -> Result {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n5\r\nha",
    ] {
        for reset in [false, true] {
            let context = format!("{answer:?}, reset {reset}");
            let script = Script::listen().await?;
            let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
            // HTTP/1.1: neither a whole length nor a last chunk, and the connection ends.
            let mut caller = raw::Connection::open(weir.address("out")).await?;
            caller.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await?;
            let mut peer = script.accept().await?;
            peer.head().await?;
            peer.send(answer).await?;
            while caller.line().await? != "\r\n" {}
            cut(peer, reset)?;
            let rest = caller.rest().await.unwrap_or_default();
            holds!(rest.len() < 100 && !rest.ends_with(b"0\r\n\r\n"), "{context}: {:?}", String::from_utf8_lossy(&rest));
            // HTTP/2: a reset, not the end of the stream.
            let client = two::Client::open(weir.address("out")).await?;
            let response = client.get("/").await?;
            let mut peer = script.accept().await?;
            peer.head().await?;
            peer.send(answer).await?;
            let mut response = response.await?;
            cut(peer, reset)?;
            let ended = two::collect(response.body_mut()).await;
            holds!(ended.as_ref().is_err_and(h2::Error::is_reset), "{context}: {ended:?}");
            flagged(&weir, if reset { "UR" } else { "UC" }, 2.0).await.map_err(|error| format!("{context}: {error}"))?;
        }
    }
    Ok(())
}

async fn truncated_http2() -> Result {
    for dies in [false, true] {
        let (server, mut streams) = origin().await?;
        let weir = Weir::start(&wire::to(server.address, Version::Two)).await?;
        let mut caller = raw::Connection::open(weir.address("out")).await?;
        caller.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await?;
        let client = two::Client::open(weir.address("out")).await?;
        let response = client.get("/").await?;
        let mut sends = Vec::new();
        for _ in 0..2 {
            let (_, mut respond) = streams.recv().await.ok_or("no request")?;
            let mut send = respond.send_response(Response::new(()), false)?;
            send.send_data("part".into(), false)?;
            sends.push(send);
        }
        while caller.line().await? != "\r\n" {}
        let mut response = response.await?;
        if dies {
            server.die();
        } else {
            sends.iter_mut().for_each(|send| send.send_reset(h2::Reason::INTERNAL_ERROR));
        }
        let rest = caller.rest().await.unwrap_or_default();
        holds!(!rest.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&rest));
        let ended = two::collect(response.body_mut()).await;
        holds!(ended.as_ref().is_err_and(h2::Error::is_reset), "{ended:?}");
        flagged(&weir, if dies { "UC" } else { "UR" }, 2.0).await.map_err(|error| format!("dies {dies}: {error}"))?;
    }
    Ok(())
}

async fn truncated_grpc() -> Result {
    for dies in [false, true] {
        let (server, mut streams) = origin().await?;
        let weir = Weir::start(&wire::to(server.address, Version::Two)).await?;
        let client = two::Client::open(weir.address("out")).await?;
        let request = Request::post("/shop.Cart/Watch").header("content-type", "application/grpc").header("te", "trailers");
        let (response, _body) = client.send(request.body(())?, false).await?;
        let (_, mut respond) = streams.recv().await.ok_or("no request")?;
        let mut send = respond.send_response(Response::builder().header("content-type", "application/grpc").body(())?, false)?;
        send.send_data(vec![0, 0, 0, 0, 1, b'x'].into(), false)?;
        let mut response = response.await?;
        // The break comes after the message has come through: before, it may overtake it in the origin.
        let message = response.body_mut().data().await.ok_or("no message")??;
        same!(&message[..], [0, 0, 0, 0, 1, b'x']);
        if dies {
            server.die();
        } else {
            send.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        let (rest, trailers) = two::collect(response.body_mut()).await?;
        same!(rest.len(), 0);
        let trailers: HeaderMap = trailers.ok_or("no trailers")?;
        same!(trailers.get("grpc-status").map(http::HeaderValue::as_bytes), Some(&b"14"[..]));
        holds!(trailers.get("grpc-message").is_some_and(|message| !message.is_empty()));
        flagged(&weir, if dies { "UC" } else { "UR" }, 1.0).await?;
        weir.counted("weir_grpc_requests_total", "grpc_code=\"14\"", 1.0).await?;
    }
    Ok(())
}

/// A caller whose connection ends in the middle of a chunked upload: the upstream must not take it for the whole.
async fn truncated_upload() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
    for framing in ["Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n", "Content-Length: 100\r\n\r\npart"] {
        let mut caller = raw::Connection::open(weir.address("out")).await?;
        caller.send(format!("POST / HTTP/1.1\r\nHost: shop\r\n{framing}")).await?;
        let mut peer = script.accept().await?;
        peer.until(b"part").await?;
        // Half closed: the caller still reads.
        caller.finish().await?;
        let rest = peer.ended().await?;
        holds!(!rest.ends_with(b"0\r\n\r\n"), "{framing:?}: {:?}", String::from_utf8_lossy(&rest));
    }
    Ok(())
}
