//! HTTP/1 connections of callers: what keeps them, what closes them, and what is forgiven in a response.

use http::Response;
use weir_tests::origin::full;
use weir_tests::raw::Connection;
use weir_tests::script::Script;
use weir_tests::wire::{Caller, Keeper, Version};
use weir_tests::{Recorder, Result, Trial, Weir, holds, raw, same, test, wire};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::connections::pipelined_requests", pipelined_requests),
        test("http::connections::a_small_leftover_is_skipped", a_small_leftover_is_skipped),
        test("http::connections::a_large_leftover_closes", a_large_leftover_closes),
        test("http::connections::an_upload_outlives_its_response", an_upload_outlives_its_response),
        test("http::connections::a_post_without_a_body_says_so", a_post_without_a_body_says_so),
        test("http::connections::reason_phrases_are_kept", reason_phrases_are_kept),
        test("http::connections::sloppy_responses", sloppy_responses),
        test("http::connections::silence_is_cheap", silence_is_cheap),
    ]
}

async fn pipelined_requests() -> Result {
    let keeper =
        Keeper::start(|got| Response::new(full(format!("{}{}", got.head.uri.path(), String::from_utf8_lossy(&got.body)))))
            .await?;
    for onward in [Version::One, Version::Two] {
        let weir = Weir::start(&wire::to(keeper.origin.address, onward)).await?;
        let mut connection = Connection::open(weir.address("out")).await?;
        let post = "POST /b HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n2\r\n-x\r\n0\r\n\r\n";
        let counted = "PUT /c HTTP/1.1\r\nhost: shop\r\ncontent-length: 2\r\n\r\n-y";
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n");
        connection.send(format!("{}{post}\r\n{counted}{}", get("/a"), get("/d"))).await?;
        for text in ["/a", "/b-x", "/c-y", "/d"] {
            same!(connection.response(false).await?.text(), text, "{onward:?}");
        }
    }
    Ok(())
}

const REFUSING: &str = "listeners: [{ name: out, listen: 127.0.0.1:0, direction: outbound }]
routes: [{ name: r, hosts: ['*'], rules: [{ respond: { status: 403, body: no } }] }]
";

async fn a_small_leftover_is_skipped() -> Result {
    let weir = Weir::start(REFUSING).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    let body = "x".repeat(20_000);
    for _ in 0..3 {
        connection.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len())).await?;
        let response = connection.response(false).await?;
        same!((response.status, response.header("connection")), (403, None));
        connection.send(&body).await?;
    }
    Ok(())
}

async fn a_large_leftover_closes() -> Result {
    let weir = Weir::start(REFUSING).await?;
    for framing in ["content-length: 1000000", "transfer-encoding: chunked"] {
        let mut connection = Connection::open(weir.address("out")).await?;
        connection.send(format!("POST / HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n")).await?;
        let response = connection.response(false).await?;
        same!((response.status, response.header("connection")), (403, Some("close")), "{framing}");
        same!(connection.rest().await?, b"", "{framing}");
    }
    Ok(())
}

/// An origin may answer before it has read everything and go on reading; over HTTP/2 that is two independent halves.
async fn an_upload_outlives_its_response() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 6\r\n\r\none").await?;
    let mut peer = script.accept().await?;
    peer.until(b"one").await?;
    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nearly\r\n").await?;
    holds!(connection.line().await?.starts_with("HTTP/1.1 200"));
    connection.send("two").await?;
    peer.until(b"two").await?;
    peer.send("4\r\nlate\r\n0\r\n\r\n").await?;
    while !connection.line().await?.starts_with("late") {}
    Ok(())
}

async fn a_post_without_a_body_says_so() -> Result {
    let recorder = Recorder::start(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
    let weir = Weir::start(&wire::to(recorder.address, Version::One)).await?;
    let mut caller = Caller::open(weir.address("out"), Version::Two).await?;
    for (method, says) in [("POST", true), ("PUT", true), ("GET", false), ("DELETE", false)] {
        caller.exchange(caller.request(method, "/").body(full(""))?).await?;
        let seen = recorder.seen().pop().unwrap_or_default();
        let seen = String::from_utf8_lossy(&seen).into_owned();
        let last = seen.rsplit(method).next().unwrap_or_default();
        same!(last.contains("content-length: 0\r\n"), says, "{method}: {seen}");
        holds!(!last.contains("transfer-encoding"), "{method}: {seen}");
    }
    Ok(())
}

async fn reason_phrases_are_kept() -> Result {
    for (line, kept) in [
        ("HTTP/1.1 200 Quite All Right", "HTTP/1.1 200 Quite All Right"),
        ("HTTP/1.1 299 ", "HTTP/1.1 299 "),
        ("HTTP/1.1 404", "HTTP/1.1 404 Not Found"),
    ] {
        let script = Script::listen().await?;
        let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
        let mut connection = Connection::open(weir.address("out")).await?;
        connection.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
        let mut peer = script.accept().await?;
        peer.head().await?;
        peer.send(format!("{line}\r\nContent-Length: 0\r\n\r\n")).await?;
        same!(connection.line().await?.trim_end_matches("\r\n"), kept);
    }
    Ok(())
}

/// Old origins write what a strict reader of requests would refuse; nothing can be smuggled past anybody in a response.
async fn sloppy_responses() -> Result {
    for (answer, text) in [
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "ok"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2  \r\nok\r\n0  \r\n\r\n", "ok"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "ok"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", "ok"),
        ("HTTP/1.0 200 OK\r\n\r\nto the end", "to the end"),
    ] {
        let script = Script::listen().await?;
        let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
        let mut connection = Connection::open(weir.address("out")).await?;
        connection.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
        let mut peer = script.accept().await?;
        peer.head().await?;
        peer.send(answer).await?;
        drop(peer);
        let response = connection.response(false).await?;
        same!((response.status, response.text().as_str()), (200, text), "{answer:?}");
        holds!(response.head.to_ascii_lowercase().matches("content-length").count() <= 1, "{}", response.head);
    }
    let contradictory = Recorder::start(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!").await?;
    let weir = Weir::start(&wire::to(contradictory.address, Version::One)).await?;
    let response = raw::get(weir.address("out"), "shop", "/").await?;
    same!((response.status, response.header("x-weir-error")), (502, Some("upstream_protocol")));
    Ok(())
}

/// A connection between two requests costs its socket and a small task.
async fn silence_is_cheap() -> Result {
    let weir = Weir::start(REFUSING).await?;
    let mut connections = Vec::new();
    let mut sizes = Vec::new();
    for _ in 0..2 {
        for _ in 0..300 {
            let mut connection = Connection::open(weir.address("out")).await?;
            connection.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
            same!(connection.response(false).await?.status, 403);
            connections.push(connection);
        }
        sizes.push(weir.rss()?);
    }
    // The second 300, so that what is made once is not counted.
    let each = sizes[1].saturating_sub(sizes[0]) / 300;
    holds!(each < 10_000, "{each} bytes for each connection");
    Ok(())
}
