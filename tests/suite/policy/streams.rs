//! Streams at their real lengths, in real time, through the real binary, without a word about time in its configuration.
//! They take five minutes, so they run in the long form only. The same lengths under a clock that the test moves are
//! proven beside the worker, and the same clocks set short in [`super::clocks`].

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use weir_tests::quick::Quick;
use weir_tests::raw::Connection;
use weir_tests::script::Script;
use weir_tests::wire::{self, Version};
use weir_tests::{Result, Trial, Weir, holds, same, soak, test, two};

pub fn trials() -> Vec<Trial> {
    vec![
        test("policy::streams::events_for_five_minutes", events_for_five_minutes).with_ignored_flag(!soak()),
        test("policy::streams::a_silent_stream", a_silent_stream).with_ignored_flag(!soak()),
        test("policy::streams::a_slow_answer", a_slow_answer).with_ignored_flag(!soak()),
    ]
}

async fn events_for_five_minutes() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
    let mut caller = Connection::open(weir.address("out")).await?;
    caller.send("GET /events HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    peer.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    while caller.line().await? != "\r\n" {}
    for number in 0..30 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        peer.send("9\r\ndata: x\n\n\r\n").await?;
        for line in ["9\r\n", "data: x\n", "\n", "\r\n"] {
            same!(caller.line().await?, line, "event {number}");
        }
    }
    peer.send("0\r\n\r\n").await?;
    same!((caller.line().await?, caller.line().await?), ("0\r\n".to_owned(), "\r\n".to_owned()));
    weir.counted("weir_requests_total", "2xx", 1.0).await?;
    same!(weir.metric("weir_request_flags_total", "").await?, 0.0);
    Ok(())
}

async fn a_silent_stream() -> Result {
    let server = two::Server::start(None, |request, mut respond| async move {
        let head = Response::builder().header("content-type", "application/grpc").body(())?;
        let mut send = respond.send_response(head, false)?;
        send.send_data(Bytes::from_static(b"hello"), false)?;
        // Until somebody ends it.
        let _ = two::collect(&mut request.into_body()).await;
        Ok(())
    })
    .await?;
    let weir = Weir::start(&wire::to(server.address, Version::Two)).await?;
    let client = two::Client::open(weir.address("out")).await?;
    let request = http::Request::post("/a.B/C").header("content-type", "application/grpc").header("te", "trailers").body(())?;
    let (response, _up) = client.send(request, false).await?;
    let mut body = response.await?.into_body();
    same!(body.data().await.ok_or("no data")??, "hello");
    let start = Instant::now();
    let early = tokio::time::timeout(Duration::from_secs(299), body.data()).await;
    holds!(early.is_err(), "ended after {:?}", start.elapsed());
    let (rest, trailers) = tokio::time::timeout(Duration::from_secs(10), two::collect(&mut body)).await??;
    let took = start.elapsed();
    holds!(took > Duration::from_secs(299) && took < Duration::from_secs(302), "{took:?}");
    same!((rest.len(), trailers.ok_or("no trailers")?["grpc-status"].to_str()?), (0, "4"));
    weir.counted("weir_request_flags_total", "SI", 1.0).await
}

async fn a_slow_answer() -> Result {
    let slow = Quick::slow("at last", Duration::from_secs(20)).await?;
    let weir = Weir::start(&wire::to(slow.address, Version::One)).await?;
    let mut caller = Connection::open(weir.address("out")).await?;
    caller.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
    // Reading has a limit of its own.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let response = caller.response(false).await?;
    same!((response.status, response.text().as_str()), (200, "at last"));
    Ok(())
}
