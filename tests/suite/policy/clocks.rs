//! Clocks: what ends because it takes too long, and what does not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use weir_tests::quick::{self, Quick};
use weir_tests::raw::Connection;
use weir_tests::script::Script;
use weir_tests::wire::Version;
use weir_tests::{Result, Trial, Weir, holds, raw, same, test, two, until, wire};

use super::ruled;

pub fn trials() -> Vec<Trial> {
    vec![
        test("policy::clocks::the_whole_request", the_whole_request),
        test("policy::clocks::silence", silence),
        test("policy::clocks::a_reader_that_stops", a_reader_that_stops),
        test("policy::clocks::streams_may_take_their_time", streams_may_take_their_time),
        test("policy::clocks::nothing_ends_unasked", nothing_ends_unasked),
        test("policy::clocks::late_work_is_refused", late_work_is_refused),
        test("policy::clocks::what_is_left_is_told", what_is_left_is_told),
        test("policy::clocks::slow_heads_and_bodies", slow_heads_and_bodies),
        test("policy::clocks::idle_callers_are_let_go", idle_callers_are_let_go),
    ]
}

fn about(start: Instant, millis: u64) -> bool {
    (millis..millis + 1500).contains(&u64::try_from(start.elapsed().as_millis()).unwrap_or(0))
}

async fn the_whole_request() -> Result {
    let slow = Quick::slow("late", Duration::from_secs(60)).await?;
    let weir = Weir::start(&ruled(&[slow.address], "http1", "timeout: { request: 300ms }")).await?;
    let start = Instant::now();
    let response = raw::get(weir.address("out"), "shop", "/").await?;
    same!((response.status, response.header("x-weir-error")), (504, Some("request_timeout")));
    holds!(about(start, 300), "{:?}", start.elapsed());
    until("it is flagged", async || weir.metric("weir_request_flags_total", "UT").await.is_ok_and(|n| n == 1.0)).await?;
    // The body counts: a response that has begun is cut, visibly.
    let script = Script::listen().await?;
    let weir = Weir::start(&ruled(&[script.address], "http1", "timeout: { request: 300ms }")).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
    let mut peer = script.accept().await?;
    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await?;
    holds!(String::from_utf8(connection.rest().await?)?.ends_with("part"));
    until("it is flagged", async || weir.metric("weir_request_flags_total", "UT").await.is_ok_and(|n| n == 1.0)).await
}

async fn silence() -> Result {
    let slow = Quick::slow("late", Duration::from_secs(60)).await?;
    let weir = Weir::start(&ruled(&[slow.address], "http1", "timeout: { idle: 300ms }")).await?;
    let start = Instant::now();
    let response = raw::get(weir.address("out"), "shop", "/").await?;
    same!((response.status, response.header("x-weir-error")), (504, Some("idle_timeout")));
    holds!(about(start, 300), "{:?}", start.elapsed());
    until("it is flagged", async || weir.metric("weir_request_flags_total", "SI").await.is_ok_and(|n| n == 1.0)).await?;
    // A bidirectional gRPC stream lives as long as either side speaks now and then, and ends with its flag when not.
    let server = two::Server::start(None, |request, mut respond| async move {
        let response = Response::builder().header("content-type", "application/grpc").body(())?;
        let mut send = respond.send_response(response, false)?;
        let mut body = request.into_body();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len())?;
            send.send_data(data, false)?;
        }
        Ok(())
    })
    .await?;
    let weir = Weir::start(&ruled(&[server.address], "http2", "timeout: { idle: 700ms }")).await?;
    let client = two::Client::open(weir.address("out")).await?;
    let request = http::Request::post("/a.B/C").header("content-type", "application/grpc").body(())?;
    let (response, mut send) = client.send(request, false).await?;
    let mut body = response.await?.into_body();
    let (start, mut last) = (Instant::now(), Instant::now());
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        last = Instant::now();
        send.send_data(Bytes::from_static(b"ping"), false)?;
        same!(body.data().await.ok_or("no echo")??, "ping");
    }
    holds!(start.elapsed() > Duration::from_secs(2), "it lived through silences shorter than the limit");
    let (_, trailers) = two::collect(&mut body).await?;
    holds!(about(last, 700), "{:?}", last.elapsed());
    same!(trailers.and_then(|trailers| trailers.get("grpc-status").cloned()).ok_or("no status")?, "4");
    until("it is flagged", async || weir.metric("weir_request_flags_total", "SI").await.is_ok_and(|n| n == 1.0)).await
}

/// A caller that takes nothing any more holds its response, and the upstream's, only for so long.
async fn a_reader_that_stops() -> Result {
    let body = "x".repeat(64 << 20);
    let quick = Quick::start("127.0.0.1:0", Duration::ZERO, move |_| quick::ok(&body)).await?;
    let weir = Weir::start(&ruled(&[quick.address], "http1", "timeout: { idle: 500ms }")).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
    let client = two::Client::open(weir.address("out")).await?;
    let response = client.get("/").await?.await?;
    until("both are cut", async || weir.metric("weir_request_flags_total", "SI").await.is_ok_and(|n| n == 2.0)).await?;
    drop((connection, response));
    Ok(())
}

/// Server-sent events and gRPC streams outlive `timeout.request` once their response has begun.
async fn streams_may_take_their_time() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&ruled(&[script.address], "http1", "timeout: { request: 300ms, idle: 1s }")).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send("GET /events HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    peer.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        peer.send("9\r\ndata: x\n\n\r\n").await?;
    }
    peer.send("0\r\n\r\n").await?;
    same!(connection.response(false).await?.text(), "data: x\n\n".repeat(5));
    Ok(())
}

/// No total limit unless one is set; the longest pause here is far below `idle`.
async fn nothing_ends_unasked() -> Result {
    let wait = if weir_tests::soak() { 20 } else { 4 };
    let slow = Quick::slow("at last", Duration::from_secs(wait)).await?;
    let weir = Weir::start(&wire::to(slow.address, Version::One)).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
    tokio::time::sleep(Duration::from_secs(wait)).await;
    let response = connection.response(false).await?;
    same!((response.status, response.text().as_str()), (200, "at last"));
    Ok(())
}

async fn late_work_is_refused() -> Result {
    let quick = Quick::text("ok").await?;
    let weir = Weir::start(&ruled(&[quick.address], "http1", "")).await?;
    let request = "GET / HTTP/1.1\r\nhost: shop\r\nx-request-timeout-ms: 0\r\n\r\n";
    let response = raw::request(weir.address("out"), request).await?;
    same!((response.status, response.header("x-weir-error")), (504, Some("deadline_exceeded")));
    let client = two::Client::open(weir.address("out")).await?;
    let request =
        http::Request::post("/a.B/C").header("content-type", "application/grpc").header("grpc-timeout", "0m").body(())?;
    let response = client.send(request, true).await?.0.await?;
    same!(response.headers().get("grpc-status").ok_or("no status")?, "4");
    same!(quick.count(), 0, "nothing reached the app");
    until("both are flagged", async || weir.metric("weir_request_flags_total", "DT").await.is_ok_and(|n| n == 2.0)).await
}

async fn what_is_left_is_told() -> Result {
    let (sender, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let quick = Quick::start("127.0.0.1:0", Duration::from_millis(200), move |head| {
        let _ = sender.send(head.to_owned());
        quick::ok("ok")
    })
    .await?;
    let weir = Weir::start(&ruled(&[quick.address], "http1", "timeout: { request: 10s, per_try: 5s }")).await?;
    let mut told = async |lines: &str| -> Result<u64> {
        raw::request(weir.address("out"), &format!("GET / HTTP/1.1\r\nhost: shop\r\n{lines}\r\n")).await?;
        let head = heads.recv().await.ok_or("no head")?;
        let line =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("x-request-timeout-ms: ").map(str::to_owned));
        Ok(line.ok_or(head)?.parse()?)
    };
    let rules = told("").await?;
    holds!((4500..=5000).contains(&rules), "an attempt may take 5 s: {rules}");
    let callers = told("X-Request-Timeout-Ms: 3000\r\n").await?;
    holds!((2500..=3000).contains(&callers), "the caller has 3 s: {callers}");
    let generous = told("x-request-timeout-ms: 60000\r\n").await?;
    holds!((4500..=5000).contains(&generous), "the rule's limit holds: {generous}");
    // The caller's deadline ends the request though no rule has one.
    let slow = Quick::slow("late", Duration::from_secs(60)).await?;
    let weir = Weir::start(&ruled(&[slow.address], "http1", "")).await?;
    let start = Instant::now();
    let request = "GET / HTTP/1.1\r\nhost: shop\r\nx-request-timeout-ms: 300\r\n\r\n";
    let response = raw::request(weir.address("out"), request).await?;
    same!((response.status, response.header("x-weir-error")), (504, Some("request_timeout")));
    holds!(about(start, 300), "{:?}", start.elapsed());
    Ok(())
}

async fn slow_heads_and_bodies() -> Result {
    // Never answers; it is not its turn.
    let script = Script::listen().await?;
    let yaml = ruled(&[script.address], "http1", "")
        .replace("direction: outbound }", "direction: outbound, limits: { header_read: 300ms, body_read: 300ms } }");
    let weir = Weir::start(&yaml).await?;
    for (sent, code) in
        [("GET / HTTP/1.1\r\nhost: sh", "slow_head"), ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nab", "slow_body")]
    {
        let mut connection = Connection::open(weir.address("out")).await?;
        let start = Instant::now();
        connection.send(sent).await?;
        let response = connection.response(false).await?;
        same!(
            (response.status, response.header("x-weir-error"), response.header("connection")),
            (408, Some(code), Some("close"))
        );
        holds!(about(start, 300), "{code}: {:?}", start.elapsed());
        same!(connection.rest().await?, b"", "{code}");
    }
    drop(script.accept().await?);
    // One that keeps going is let finish, and silence between two requests is no head.
    let mut connection = Connection::open(weir.address("out")).await?;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for part in ["GET / HT", "TP/1.1\r\nho", "st: x\r\n\r\n"] {
            connection.send(part).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut peer = script.accept().await?;
        peer.head().await?;
        peer.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await?;
        same!(connection.response(false).await?.status, 200);
    }
    Ok(())
}

async fn idle_callers_are_let_go() -> Result {
    let quick = Quick::text("ok").await?;
    let yaml =
        ruled(&[quick.address], "http1", "").replace("direction: outbound }", "direction: outbound, limits: { idle: 300ms } }");
    let weir = Weir::start(&yaml).await?;
    let mut silent = Connection::open(weir.address("out")).await?;
    same!(silent.rest().await?, b"", "one that never says anything");
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
    same!(connection.response(false).await?.status, 200);
    same!(connection.rest().await?, b"", "one that has had its answer");
    let client = two::Client::open(weir.address("out")).await?;
    same!(client.get("/").await?.await?.status(), 200);
    let gone = async || {
        client.get("/").await.is_err() || weir.metric("weir_downstream_connections_active", "").await.is_ok_and(|n| n == 0.0)
    };
    until("the HTTP/2 connection ends", async || {
        tokio::time::sleep(Duration::from_millis(600)).await;
        gone().await
    })
    .await
}
