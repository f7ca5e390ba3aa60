//! Every version towards weir with every version towards the origin: nothing of a message is lost or invented.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, COOKIE, HOST, HeaderValue, SET_COOKIE};
use http::{Method, Request, Response};
use weir_tests::origin::full;
use weir_tests::wire::{Caller, Keeper, PAIRS, Version, between, fed};
use weir_tests::{Recorder, Result, Trial, Weir, holds, raw, same, test, two, wire};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::versions::messages_arrive_whole", messages_arrive_whole),
        test("http::versions::methods", methods),
        test("http::versions::responses_without_a_body", responses_without_a_body),
        test("http::versions::head_does_not_invent_a_length", head_does_not_invent_a_length),
        test("http::versions::cookies_are_joined_for_http1", cookies_are_joined_for_http1),
        test("http::versions::host_and_authority_agree", host_and_authority_agree),
        test("http::versions::options_asterisk", options_asterisk),
        test("http::versions::header_case_is_kept", header_case_is_kept),
    ]
}

async fn messages_arrive_whole() -> Result {
    for (from, onward) in PAIRS {
        let keeper = Keeper::start(|got| {
            let length = got.all("x-length").first().is_some_and(|v| *v == "yes");
            let body = if length {
                full(got.body.clone())
            } else {
                let (feed, body) = fed();
                for part in got.body.chunks(70_000) {
                    feed.data(Bytes::copy_from_slice(part));
                }
                body
            };
            let mut response = Response::builder().status(207).header("x-origin", "a, b").body(body).expect("a response");
            response.headers_mut().append(SET_COOKIE, HeaderValue::from_static("a=1; Path=/"));
            response.headers_mut().append(SET_COOKIE, HeaderValue::from_static("b=2"));
            response
        })
        .await?;
        let (_weir, mut caller) = between(from, keeper.origin.address, onward).await?;
        let large = Bytes::from((0..300_000_u32).map(|i| (i % 251) as u8).collect::<Vec<_>>());
        for (streamed, body) in [(false, large.clone()), (true, large.clone()), (false, Bytes::from("x")), (true, Bytes::new())] {
            let context = format!("{from:?} -> {onward:?}, streamed {streamed}, {} bytes", body.len());
            let builder = caller
                .request("POST", "/a/%C3%BC//b/../c?q=1&q=%20&r")
                .header("x-twice", "1")
                .header("x-twice", "2")
                .header("x-length", if streamed { "no" } else { "yes" });
            let request = if streamed {
                let (feed, stream) = fed();
                for part in body.chunks(100_000) {
                    feed.data(Bytes::copy_from_slice(part));
                }
                builder.body(stream)?
            } else {
                builder.body(full(body.clone()))?
            };
            let answer = caller.exchange(request).await?;
            same!(answer.status.as_u16(), 207, "{context}");
            same!(answer.all("set-cookie"), ["a=1; Path=/", "b=2"], "{context}");
            same!(answer.all("x-origin"), ["a, b"], "{context}");
            holds!(answer.body == body, "{context}: {} bytes back", answer.body.len());
            let got = keeper.last()?;
            same!(got.head.method, Method::POST, "{context}");
            let target = got.head.uri.path_and_query().map(http::uri::PathAndQuery::as_str);
            same!(target, Some("/a/%C3%BC//b/../c?q=1&q=%20&r"), "{context}");
            holds!(got.body == body, "{context}: {} bytes arrived", got.body.len());
            same!(got.all("x-twice"), ["1", "2"], "{context}");
            let length = (!streamed).then(|| body.len().to_string());
            same!(got.all("content-length").first().map(|v| (*v).to_owned()), length, "{context}");
            if !streamed {
                same!(answer.header("content-length"), length.as_deref(), "{context}");
            }
        }
    }
    Ok(())
}

async fn methods() -> Result {
    for (from, onward) in PAIRS {
        let keeper = Keeper::start(|got| {
            let mut response = Response::new(full("hello"));
            if got.head.method == Method::OPTIONS {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, BREW"));
            }
            response
        })
        .await?;
        let (_weir, mut caller) = between(from, keeper.origin.address, onward).await?;
        for method in ["GET", "HEAD", "OPTIONS", "DELETE", "PATCH", "BREW", "M-SEARCH", "brew"] {
            let context = format!("{method}, {from:?} -> {onward:?}");
            let request = caller.request(method, "/").body(full(""))?;
            let answer = caller.exchange(request).await.map_err(|error| format!("{context}: {error}"))?;
            same!(answer.status.as_u16(), 200, "{context}");
            same!(keeper.last()?.head.method.as_str(), method, "{context}");
            same!(answer.header("content-length"), Some("5"), "{context}");
            same!(answer.text(), if method == "HEAD" { "" } else { "hello" }, "{context}");
            if method == "OPTIONS" {
                same!(answer.header("allow"), Some("GET, BREW"), "{context}");
            }
        }
    }
    Ok(())
}

async fn responses_without_a_body() -> Result {
    for (from, onward) in PAIRS {
        let keeper = Keeper::start(|got| {
            let status = got.head.uri.path().trim_start_matches('/').parse::<u16>().unwrap_or(500);
            let mut response = Response::builder().status(status);
            if status == 304 {
                response = response.header("etag", "\"v1\"");
            }
            response.body(full("")).expect("a response")
        })
        .await?;
        let (_weir, mut caller) = between(from, keeper.origin.address, onward).await?;
        for status in [204, 304, 205, 200] {
            let context = format!("{status}, {from:?} -> {onward:?}");
            let answer = caller.get(&format!("/{status}")).await?;
            same!(answer.status.as_u16(), status, "{context}");
            same!(answer.body.len(), 0, "{context}");
            same!(answer.header("transfer-encoding"), None, "{context}");
            if status == 204 {
                same!(answer.header("content-length"), None, "{context}");
            }
            if status == 304 {
                same!(answer.header("etag"), Some("\"v1\""), "{context}");
            }
        }
    }
    Ok(())
}

/// A resource whose length nobody knows has none in the answer to HEAD either; zero would be a lie. And a known length
/// beside 304 is the resource's, so it stays.
async fn head_does_not_invent_a_length() -> Result {
    let chunked = Recorder::start(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    let close = Recorder::start(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    let unchanged = Recorder::start(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"v\"\r\n\r\n").await?;
    for from in [Version::One, Version::Two] {
        for origin in [&chunked, &close] {
            let (_weir, mut caller) = between(from, origin.address, Version::One).await?;
            let request = caller.request("HEAD", "/").body(full(""))?;
            let answer = caller.exchange(request).await?;
            same!((answer.status.as_u16(), answer.header("content-length")), (200, None), "{from:?}");
        }
        let (_weir, mut caller) = between(from, unchanged.address, Version::One).await?;
        let answer = caller.get("/").await?;
        same!((answer.status.as_u16(), answer.header("etag"), answer.body.len()), (304, Some("\"v\""), 0), "{from:?}");
        let length = answer.header("content-length");
        holds!(matches!(length, Some("5") | None), "{from:?}: {length:?}");
    }
    Ok(())
}

async fn cookies_are_joined_for_http1() -> Result {
    let keeper = Keeper::start(|_| Response::new(full(""))).await?;
    for (onward, wanted) in [(Version::One, vec!["a=1; b=2; c=3; d=4"]), (Version::Two, vec!["a=1", "b=2; c=3", "d=4"])] {
        let weir = Weir::start(&wire::to(keeper.origin.address, onward)).await?;
        let client = two::Client::open(weir.address("out")).await?;
        let mut request = Request::get("/").body(())?;
        for part in ["a=1", "b=2; c=3", "d=4"] {
            request.headers_mut().append(COOKIE, HeaderValue::from_static(part));
        }
        same!(client.send(request, true).await?.0.await?.status().as_u16(), 200);
        same!(keeper.last()?.all("cookie"), wanted, "{onward:?}");
    }
    Ok(())
}

async fn host_and_authority_agree() -> Result {
    let keeper = Keeper::start(|_| Response::new(full(""))).await?;
    for onward in [Version::One, Version::Two] {
        let weir = Weir::start(&wire::to(keeper.origin.address, onward)).await?;
        let out = weir.address("out");
        let check = |context: &str| -> Result {
            let got = keeper.last()?;
            match onward {
                Version::One => same!(got.all("host"), ["shop.local:8080"], "{context}"),
                Version::Two => {
                    let authority = got.head.uri.authority().map(http::uri::Authority::as_str);
                    same!((authority, got.all("host")), (Some("shop.local:8080"), vec![]), "{context}");
                    same!(got.head.uri.scheme_str(), Some("http"), "{context}");
                }
            }
            Ok(())
        };
        same!(raw::get(out, "shop.local:8080", "/x").await?.status, 200);
        check("h1, origin form")?;
        let absolute = "GET http://shop.local:8080/x?y HTTP/1.1\r\nhost: shop.local:8080\r\nconnection: close\r\n\r\n";
        same!(raw::request(out, absolute).await?.status, 200);
        check("h1, absolute form")?;
        same!(keeper.last()?.head.uri.path_and_query().map(http::uri::PathAndQuery::as_str), Some("/x?y"));
        let client = two::Client::open(out).await?;
        let plain = Request::get("http://shop.local:8080/x").body(())?;
        same!(client.send(plain, true).await?.0.await?.status().as_u16(), 200);
        check("h2, authority")?;
        let both = Request::get("http://shop.local:8080/x").header(HOST, "shop.local:8080").body(())?;
        same!(client.send(both, true).await?.0.await?.status().as_u16(), 200);
        check("h2, authority and host")?;
        let differ = Request::get("http://shop.local:8080/x").header(HOST, "other").body(())?;
        let refused = client.send(differ, true).await?.0.await?;
        same!(
            (refused.status().as_u16(), refused.headers().get("x-weir-error")),
            (400, Some(&HeaderValue::from_static("bad_host")))
        );
    }
    Ok(())
}

async fn options_asterisk() -> Result {
    let keeper = Keeper::start(|_| Response::new(full(""))).await?;
    for onward in [Version::One, Version::Two] {
        let weir = Weir::start(&wire::to(keeper.origin.address, onward)).await?;
        let asked = raw::request(weir.address("out"), "OPTIONS * HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").await?;
        same!(asked.status, 200, "{onward:?}: {}", asked.text());
        same!(keeper.last()?.head.uri.path(), "*", "{onward:?}");
    }
    Ok(())
}

/// HTTP/1 names have no case, yet programs that compare them byte for byte exist (F20).
async fn header_case_is_kept() -> Result {
    let answer = b"HTTP/1.1 200 OK\r\nX-AnSwEr: MiXeD\r\nLocation: /Else\r\nContent-Length: 2\r\nx-low: y\r\n\r\nok";
    let recorder = Recorder::start(answer).await?;
    let weir = Weir::start(&wire::to(recorder.address, Version::One)).await?;
    let request = "GET /CaSe HTTP/1.1\r\nHoSt: shop\r\nX-CuStOm: VaLuE\r\nAUTHORIZATION: b\r\nx-low: z\r\n\r\n";
    let mut connection = raw::Connection::open(weir.address("out")).await?;
    // Twice, so that a connection that is used again is held to the same.
    for _ in 0..2 {
        connection.send(request).await?;
        let response = connection.response(false).await?;
        for line in ["X-AnSwEr: MiXeD", "Location: /Else", "Content-Length: 2", "x-low: y"] {
            holds!(response.head.contains(&format!("\r\n{line}\r\n")), "{line}: {}", response.head);
        }
    }
    let seen = String::from_utf8(recorder.all())?;
    for line in ["GET /CaSe HTTP/1.1\r\n", "HoSt: shop\r\n", "X-CuStOm: VaLuE\r\n", "AUTHORIZATION: b\r\n", "x-low: z\r\n"] {
        same!(seen.matches(line).count(), 2, "{line}: {seen}");
    }
    // What comes from HTTP/2 has no other case than the lower one, and arrives that way.
    let mut caller = Caller::open(weir.address("out"), Version::Two).await?;
    let request = caller.request("GET", "/").header("x-custom", "VaLuE").body(full(""))?;
    let answer = caller.exchange(request).await?;
    same!((answer.header("x-answer"), answer.header(CONTENT_LENGTH.as_str())), (Some("MiXeD"), Some("2")));
    Ok(())
}
