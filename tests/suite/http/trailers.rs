//! Trailers, and what becomes of an exchange that ends in them.

use http::Response;
use http::header::{HeaderMap, HeaderValue, TE, TRAILER};
use weir_tests::origin::full;
use weir_tests::wire::{Caller, Keeper, PAIRS, Version, between, fed};
use weir_tests::{Result, Trial, Weir, raw, same, test, until, wire};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::trailers::both_ways_over_http2", both_ways_over_http2),
        test("http::trailers::of_http1_requests", of_http1_requests),
        test("http::trailers::of_responses", of_responses),
    ]
}

fn trailers(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_static(value))])
}

/// Answers with `part` and the trailer `x-sum: 9`.
async fn keeper() -> Result<Keeper> {
    Keeper::start(|_| {
        let (feed, body) = fed();
        feed.data("part");
        feed.trailers(trailers("x-sum", "9"));
        Response::builder().header(TRAILER, "x-sum").body(body).expect("a response")
    })
    .await
}

async fn both_ways_over_http2() -> Result {
    let keeper = keeper().await?;
    let (_weir, mut caller) = between(Version::Two, keeper.origin.address, Version::Two).await?;
    for with_data in [true, false] {
        let (feed, body) = fed();
        if with_data {
            feed.data("up");
        }
        feed.trailers(trailers("x-up", "1"));
        let request = caller.request("POST", "/").header(TE, "trailers").header(TRAILER, "x-up").body(body)?;
        let answer = caller.exchange(request).await?;
        same!((answer.text().as_str(), answer.trailers), ("part", Some(trailers("x-sum", "9"))));
        let got = keeper.last()?;
        same!((&got.body[..], got.trailers), (if with_data { &b"up"[..] } else { b"" }, Some(trailers("x-up", "1"))));
    }
    Ok(())
}

async fn of_http1_requests() -> Result {
    let keeper = Keeper::start(|_| Response::new(full("ok"))).await?;
    for onward in [Version::One, Version::Two] {
        let weir = Weir::start(&wire::to(keeper.origin.address, onward)).await?;
        let mut connection = raw::Connection::open(weir.address("out")).await?;
        for declared in ["", "Trailer: X-Sum\r\n", "TE: trailers\r\nConnection: TE\r\nTrailer: X-Sum, X-More\r\n"] {
            let head = format!("POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n{declared}\r\n");
            connection.send(format!("{head}5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n")).await?;
            let response = connection.response(false).await?;
            same!((response.status, response.text().as_str()), (200, "ok"), "{onward:?} {declared:?}");
            let got = keeper.last()?;
            same!(&got.body[..], b"hello", "{onward:?} {declared:?}");
            if onward == Version::Two || declared.contains("X-More") {
                let got = got.trailers.ok_or("no trailers arrived")?;
                same!(
                    (got.get("x-sum"), got.get("x-more")),
                    (Some(&"1".parse()?), Some(&"2".parse()?)),
                    "{onward:?} {declared:?}"
                );
            }
        }
    }
    Ok(())
}

/// With all version pairs, and without any mark of failure: a response that ends in trailers is a complete one.
async fn of_responses() -> Result {
    for (from, onward) in PAIRS {
        let keeper = keeper().await?;
        let (weir, mut caller) = between(from, keeper.origin.address, onward).await?;
        for wants in [true, false, true] {
            let mut request = caller.request("GET", "/").body(full(""))?;
            if wants {
                request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
            }
            let answer = caller.exchange(request).await?;
            same!((answer.status.as_u16(), answer.text().as_str()), (200, "part"), "{from:?} -> {onward:?}");
            // An HTTP/1.1 origin that is not told `TE: trailers` need not send them.
            if wants {
                same!(answer.header("trailer"), Some("x-sum"), "{from:?} -> {onward:?}");
                same!(answer.trailers, Some(trailers("x-sum", "9")), "{from:?} -> {onward:?}");
            }
        }
        // A further caller, so that every record above is finished by now.
        let mut other = Caller::open(weir.address("out"), from).await?;
        same!(other.get("/").await?.text(), "part");
        until("all is counted", async || weir.metric("weir_requests_total", "2xx").await.is_ok_and(|n| n >= 4.0)).await?;
        let flagged = weir.metric("weir_request_flags_total", "").await?;
        let connections = keeper.origin.connections.load(std::sync::atomic::Ordering::Relaxed);
        same!((flagged, connections), (0.0, 1), "{from:?} -> {onward:?}: none failed, and the upstream connection is kept");
    }
    Ok(())
}
