//! HTTP/1.0 callers: served, never in chunks, kept alive only when they ask (F27).

use http::Response;
use tokio::process::Command;
use weir_tests::origin::full;
use weir_tests::peers::Peer;
use weir_tests::wire::{Keeper, Version, fed};
use weir_tests::{Origin, Recorder, Result, Trial, Weir, holds, programs, raw, same, test, test_with, until, wire};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::old::without_a_length_the_connection_ends_the_body", close_delimited),
        test("http::old::keep_alive_when_asked", keep_alive_when_asked),
        test("http::old::a_request_without_host_arrives_with_one", without_host),
        test_with("http::old::curl", &[Peer::Program("curl")], curl),
        test_with("http::old::ab", &[Peer::Program("ab")], ab),
        test_with("http::old::nginx_in_front", &[Peer::Program("nginx")], nginx_in_front),
    ]
}

async fn unknown_length() -> Result<Origin> {
    Origin::start(|_| async {
        let (feed, body) = fed();
        feed.data("one ");
        feed.data("two");
        Response::new(body)
    })
    .await
}

async fn close_delimited() -> Result {
    let origin = unknown_length().await?;
    for onward in [Version::One, Version::Two] {
        let weir = Weir::start(&wire::to(origin.address, onward)).await?;
        for line in ["", "Connection: keep-alive\r\n", "TE: trailers\r\n"] {
            let mut connection = raw::Connection::open(weir.address("out")).await?;
            connection.send(format!("GET / HTTP/1.0\r\nHost: shop\r\n{line}\r\n")).await?;
            let response = connection.response(false).await?;
            same!(response.header("transfer-encoding"), None, "{onward:?}, {line:?}");
            same!(response.text(), "one two", "{onward:?}, {line:?}");
            // The body went up to the end of the connection.
            same!(connection.rest().await?, b"");
        }
        // The same for HTTP/1.1 is in chunks, on a connection that stays.
        let mut connection = raw::Connection::open(weir.address("out")).await?;
        for _ in 0..2 {
            connection.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await?;
            let response = connection.response(false).await?;
            same!((response.header("transfer-encoding"), response.text().as_str()), (Some("chunked"), "one two"), "{onward:?}");
        }
    }
    Ok(())
}

async fn keep_alive_when_asked() -> Result {
    let origin = Origin::text("hello").await?;
    let weir = Weir::start(&wire::to(origin.address, Version::One)).await?;
    let mut closes = raw::Connection::open(weir.address("out")).await?;
    closes.send("GET / HTTP/1.0\r\nHost: shop\r\n\r\n").await?;
    let response = closes.response(false).await?;
    same!((response.text().as_str(), response.header("connection")), ("hello", None));
    same!(closes.rest().await?, b"", "closed unasked");
    let mut stays = raw::Connection::open(weir.address("out")).await?;
    for _ in 0..3 {
        stays.send("GET / HTTP/1.0\r\nHost: shop\r\nConnection: Keep-Alive\r\n\r\n").await?;
        let response = stays.response(false).await?;
        same!((response.text().as_str(), response.header("content-length")), ("hello", Some("5")));
        let said = response.header("connection").map(str::to_ascii_lowercase);
        same!(said.as_deref(), Some("keep-alive"));
    }
    // The origin is spoken to in HTTP/1.1, whatever the caller speaks.
    let recorder = Recorder::start(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
    let weir = Weir::start(&wire::to(recorder.address, Version::One)).await?;
    raw::request(weir.address("out"), "GET /v HTTP/1.0\r\nHost: shop\r\n\r\n").await?;
    holds!(recorder.all().starts_with(b"GET /v HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&recorder.all()));
    Ok(())
}

/// What leaves as HTTP/1.1 or HTTP/2 must have a host, or a strict origin refuses it.
async fn without_host() -> Result {
    let keeper = Keeper::start(|_| Response::new(full("ok"))).await?;
    for onward in [Version::One, Version::Two] {
        let weir = Weir::start(&wire::to(keeper.origin.address, onward)).await?;
        let response = raw::request(weir.address("out"), "GET / HTTP/1.0\r\n\r\n").await?;
        same!((response.status, response.text().as_str()), (200, "ok"), "{onward:?}");
        let got = keeper.last()?;
        let host = got.all("host").first().map(|host| (*host).to_owned());
        let host = host.or_else(|| got.head.uri.authority().map(ToString::to_string));
        holds!(host.as_ref().is_some_and(|host| !host.is_empty()), "{onward:?}: {host:?}");
    }
    Ok(())
}

async fn curl() -> Result {
    let origin = unknown_length().await?;
    let weir = Weir::start(&wire::to(origin.address, Version::One)).await?;
    let url = format!("http://{}/", weir.address("out"));
    let done = Command::new("curl").args(["-0", "-sS", "-i", "--max-time", "10", "-H", "Host: shop", &url]).output().await?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    holds!(done.status.success() && text.ends_with("\r\n\r\none two"), "{text} {}", String::from_utf8_lossy(&done.stderr));
    holds!(!text.to_ascii_lowercase().contains("transfer-encoding"), "{text}");
    Ok(())
}

async fn ab() -> Result {
    let origin = Origin::text("hello").await?;
    let weir = Weir::start(&wire::to(origin.address, Version::One)).await?;
    let url = format!("http://{}/", weir.address("out"));
    let done = Command::new("ab").args(["-k", "-n", "1000", "-c", "10", "-H", "Host: shop", &url]).output().await?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let number = |label: &str| -> Option<u32> {
        text.lines().find_map(|line| line.strip_prefix(label)?.trim().split(' ').next()?.parse().ok())
    };
    let numbers = (number("Complete requests:"), number("Failed requests:"), number("Keep-Alive requests:"));
    same!(numbers, (Some(1000), Some(0), Some(1000)), "{text}");
    holds!(!text.contains("Non-2xx"), "{text}");
    Ok(())
}

/// nginx speaks HTTP/1.0 to what it proxies to unless it is told otherwise.
async fn nginx_in_front() -> Result {
    let origin = unknown_length().await?;
    let weir = Weir::start(&wire::to(origin.address, Version::One)).await?;
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("nginx.sock");
    let location = format!("proxy_pass http://{}; proxy_http_version 1.0;", weir.address("out"));
    let server = format!("server {{ listen unix:{}; location / {{ {location} }} }}", socket.display());
    let _running = programs::nginx(dir.path(), &server)?;
    let ask = async || -> Result<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::UnixStream::connect(&socket).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    };
    until("nginx listens", async || tokio::net::UnixStream::connect(&socket).await.is_ok()).await?;
    for _ in 0..20 {
        let text = ask().await?;
        holds!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        holds!(text.contains("one two"), "{text}");
    }
    same!(origin.count(), 20);
    Ok(())
}
