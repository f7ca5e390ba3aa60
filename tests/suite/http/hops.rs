//! Headers that belong to one connection end there (RFC 9110, section 7.6.1), in both directions, and nobody can use
//! them to strip what the next hop relies on.

use http::Response;
use weir_tests::origin::full;
use weir_tests::wire::{Caller, Keeper, Version};
use weir_tests::{Recorder, Result, Trial, Weir, holds, raw, same, test, wire};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::hops::requests_lose_what_is_of_the_connection", requests),
        test("http::hops::every_connection_field_counts", every_connection_field_counts),
        test("http::hops::connection_headers_without_connection", connection_headers_without_connection),
        test("http::hops::connection_cannot_strip_what_is_protected", protected),
        test("http::hops::te_is_trailers_or_nothing", te),
        test("http::hops::responses_lose_what_is_of_the_connection", responses),
        test("http::hops::responses_with_lone_connection_headers", lone_response_headers),
    ]
}

/// Sends a request with these header lines to an origin of each version and gives what arrived.
async fn arrives(lines: &str) -> Result<Vec<(Version, wire::Got)>> {
    let keeper = Keeper::start(|_| Response::new(full("ok"))).await?;
    let mut all = Vec::new();
    for onward in [Version::One, Version::Two] {
        let weir = Weir::start(&wire::to(keeper.origin.address, onward)).await?;
        let response = raw::request(weir.address("out"), &format!("GET / HTTP/1.1\r\nhost: shop\r\n{lines}\r\n")).await?;
        same!((response.status, response.text().as_str()), (200, "ok"), "{onward:?}: {lines}");
        all.push((onward, keeper.last()?));
    }
    Ok(all)
}

async fn requests() -> Result {
    let lines = "Connection: keep-alive, X-Private , ,x-Other\r\nKeep-Alive: timeout=5\r\nX-Private: 1\r\nX-Other: 2\r\n\
                 Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nX-Public: 3\r\n";
    for (onward, got) in arrives(lines).await? {
        for name in ["connection", "keep-alive", "x-private", "x-other", "proxy-connection", "upgrade", "http2-settings"] {
            same!(got.all(name), Vec::<&str>::new(), "{name} to {onward:?}");
        }
        same!(got.all("x-public"), ["3"], "{onward:?}");
    }
    Ok(())
}

/// A list may be spread over several fields (RFC 9110, section 5.3).
async fn every_connection_field_counts() -> Result {
    let lines = "Connection: x-one\r\nConnection: x-two\r\nX-One: 1\r\nX-Two: 2\r\n";
    for (onward, got) in arrives(lines).await? {
        same!((got.all("x-one"), got.all("x-two")), (vec![], vec![]), "{onward:?}");
    }
    Ok(())
}

/// Some senders leave `Connection` out. HTTP/2 forbids these headers, so a message with one of them would be refused.
async fn connection_headers_without_connection() -> Result {
    for line in ["Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"] {
        for (onward, got) in arrives(&format!("{line}\r\n")).await? {
            let name = line.split(':').next().unwrap_or("");
            same!(got.all(name), Vec::<&str>::new(), "{line} to {onward:?}");
        }
    }
    Ok(())
}

async fn protected() -> Result {
    let lines = "Connection: close, host, authorization, Cookie, x-forwarded-for, x-request-id\r\nAuthorization: secret\r\n\
                 Cookie: a=1\r\nX-Forwarded-For: 192.0.2.1\r\nX-Request-Id: mine\r\n";
    for (onward, got) in arrives(lines).await? {
        same!(got.all("authorization"), ["secret"], "{onward:?}");
        same!(got.all("cookie"), ["a=1"], "{onward:?}");
        same!(got.all("x-forwarded-for"), ["192.0.2.1"], "{onward:?}");
        same!(got.all("x-request-id"), ["mine"], "{onward:?}");
        match onward {
            Version::One => same!(got.all("host"), ["shop"]),
            Version::Two => same!(got.head.uri.authority().map(http::uri::Authority::as_str), Some("shop")),
        }
    }
    Ok(())
}

async fn te() -> Result {
    for (lines, wanted) in [
        ("TE: trailers\r\n", vec!["trailers"]),
        ("TE: trailers\r\nConnection: TE\r\n", vec!["trailers"]),
        ("TE: gzip;q=0.5, Trailers\r\nConnection: TE\r\n", vec!["trailers"]),
        ("TE: gzip\r\nConnection: TE\r\n", vec![]),
        ("TE: gzip\r\nTE: trailers\r\nConnection: TE\r\n", vec!["trailers"]),
        ("TE: trailers\r\nTE: gzip\r\nConnection: TE\r\n", vec!["trailers"]),
    ] {
        for (onward, got) in arrives(lines).await? {
            same!(got.all("te"), wanted, "{lines:?} to {onward:?}");
        }
    }
    Ok(())
}

async fn responses() -> Result {
    let recorder = Recorder::start(
        b"HTTP/1.1 200 OK\r\nConnection: X-Secret, keep-alive\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\n\
          Proxy-Connection: close\r\nUpgrade: h2c\r\nX-Open: 2\r\nContent-Length: 2\r\n\r\nok",
    )
    .await?;
    let weir = Weir::start(&wire::to(recorder.address, Version::One)).await?;
    for from in [Version::One, Version::Two] {
        let mut caller = Caller::open(weir.address("out"), from).await?;
        let answer = caller.get("/").await?;
        same!((answer.status.as_u16(), answer.text().as_str()), (200, "ok"), "{from:?}");
        for name in ["x-secret", "keep-alive", "proxy-connection", "upgrade"] {
            same!(answer.header(name), None, "{name} to {from:?}");
        }
        same!(answer.header("x-open"), Some("2"), "{from:?}");
    }
    holds!(recorder.seen().len() == 1, "the connection is kept: {}", recorder.seen().len());
    Ok(())
}

/// As [`connection_headers_without_connection`], on the way back: over HTTP/2 such a response could not be sent at all.
async fn lone_response_headers() -> Result {
    for (name, answer) in [
        ("keep-alive", &b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok"[..]),
        ("proxy-connection", b"HTTP/1.1 200 OK\r\nProxy-Connection: close\r\nContent-Length: 2\r\n\r\nok"),
        ("upgrade", b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok"),
    ] {
        let recorder = Recorder::start(answer).await?;
        let weir = Weir::start(&wire::to(recorder.address, Version::One)).await?;
        for from in [Version::One, Version::Two] {
            let mut caller = Caller::open(weir.address("out"), from).await?;
            let answer = caller.get("/").await.map_err(|error| format!("{name} to {from:?}: {error}"))?;
            same!((answer.text().as_str(), answer.header(name)), ("ok", None), "{name} to {from:?}");
        }
    }
    Ok(())
}
