//! HTTP/1 where it is easy to get wrong: what may come between, what was cut off, who has gone.

use std::time::Duration;

use weir_tests::raw::Connection;
use weir_tests::script::Script;
use weir_tests::wire::{Version, to};
use weir_tests::{Recorder, Result, Trial, Weir, holds, raw, same, test, two};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::edges::no_continue_inside_a_response", no_continue_inside_a_response),
        test("http::edges::a_caller_who_leaves_after_its_body", a_caller_who_leaves_after_its_body),
        test("http::edges::absolute_form_without_a_path", absolute_form_without_a_path),
        test("http::edges::a_banner_is_no_response", a_banner_is_no_response),
        test("http::edges::a_cut_body_without_length_is_a_reset", a_cut_body_without_length_is_a_reset),
        test("http::edges::what_came_before_the_break_arrives", what_came_before_the_break_arrives),
        test("http::edges::a_large_upload_given_up_says_close", a_large_upload_given_up_says_close),
        test("http::edges::head_of_an_open_stream_is_complete", head_of_an_open_stream_is_complete),
    ]
}

/// The upstream answers without asking for the body; the body is asked for later, or never, but not inside the response.
async fn no_continue_inside_a_response() -> Result {
    for with_100 in [false, true] {
        let script = Script::listen().await?;
        let weir = Weir::start(&to(script.address, Version::One)).await?;
        let mut connection = Connection::open(weir.address("out")).await?;
        connection.send("POST / HTTP/1.1\r\nhost: shop\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await?;
        let mut peer = script.accept().await?;
        peer.head().await?;
        let first = if with_100 { "HTTP/1.1 100 Continue\r\n\r\n" } else { "" };
        peer.send(format!("{first}HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabcde")).await?;
        // Longer than weir waits for a `100 Continue` before it asks for the body itself.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        peer.send("fghij").await?;
        let response = connection.response(false).await?;
        let response = if response.status == 100 { connection.response(false).await? } else { response };
        same!((response.status, response.text().as_str()), (200, "abcdefghij"), "with a 100: {with_100}");
    }
    Ok(())
}

async fn a_caller_who_leaves_after_its_body() -> Result {
    let (sender, mut requests) = tokio::sync::mpsc::channel(1);
    let server = two::Server::start(None, move |request, respond| {
        let sender = sender.clone();
        async move { Ok(sender.send((request, respond)).await?) }
    })
    .await?;
    let weir = Weir::start(&to(server.address, Version::Two)).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\n\r\nhello").await?;
    let (request, mut respond) = requests.recv().await.ok_or("no request")?;
    let (body, _) = two::collect(&mut request.into_body()).await?;
    same!(body, b"hello");
    // An end right behind the request would be that of a caller who waits for the answer.
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(connection);
    let reset = tokio::time::timeout(Duration::from_secs(5), std::future::poll_fn(|cx| respond.poll_reset(cx))).await;
    reset.map_err(|_| "the upstream is not told that the caller left")??;
    Ok(())
}

async fn absolute_form_without_a_path() -> Result {
    let recorder = Recorder::start(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
    let weir = Weir::start(&to(recorder.address, Version::One)).await?;
    for (target, goes) in [("http://shop?y=1", "/?y=1"), ("http://shop", "/"), ("http://shop/a?b", "/a?b")] {
        same!(raw::request(weir.address("out"), &format!("GET {target} HTTP/1.1\r\nhost: shop\r\n\r\n")).await?.status, 200);
        let all = String::from_utf8(recorder.all())?;
        holds!(all.contains(&format!("GET {goes} HTTP/1.1\r\n")), "{target}: {all}");
    }
    Ok(())
}

async fn a_banner_is_no_response() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
    let mut peer = script.accept().await?;
    peer.send("SSH-2.0-OpenSSH_9\r\n").await?;
    let response = connection.response(false).await?;
    same!((response.status, response.header("x-weir-error")), (502, Some("upstream_protocol")));
    Ok(())
}

/// To HTTP/1.0 the end of the connection is the end of the body, so an early end must look different.
async fn a_cut_body_without_length_is_a_reset() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send("GET / HTTP/1.0\r\nhost: shop\r\n\r\n").await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n").await?;
    while connection.line().await? != "\r\n" {}
    drop(peer);
    let rest = connection.rest().await;
    holds!(rest.is_err(), "{rest:?} looks complete");
    Ok(())
}

async fn what_came_before_the_break_arrives() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n").await?;
    let all = String::from_utf8(connection.rest().await?)?;
    holds!(all.starts_with("HTTP/1.1 200 OK\r\n") && all.ends_with("5\r\nhello\r\n"), "{all:?}");
    Ok(())
}

async fn a_large_upload_given_up_says_close() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 200000\r\n\r\n0123456789").await?;
    let mut peer = script.accept().await?;
    peer.until(b"0123456789").await?;
    peer.send("HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").await?;
    let response = connection.response(false).await?;
    same!((response.status, response.header("connection")), (413, Some("close")));
    Ok(())
}

async fn head_of_an_open_stream_is_complete() -> Result {
    let server = two::Server::start(None, |_, mut respond| async move {
        let mut stream = respond.send_response(http::Response::new(()), false)?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.send_data(bytes::Bytes::new(), true)?;
        Ok(())
    })
    .await?;
    let weir = Weir::start(&to(server.address, Version::Two)).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    for _ in 0..2 {
        connection.send("HEAD / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
        same!(connection.response(true).await?.status, 200);
    }
    // A further request, so that the records above are finished.
    raw::get(weir.address("out"), "shop", "/").await?;
    same!(weir.metric("weir_request_flags_total", "DC").await?, 0.0);
    Ok(())
}
