//! What a rule's `retry` asks for, and what it does not get.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use weir_tests::quick::{self, Quick};
use weir_tests::raw::Connection;
use weir_tests::{Result, Trial, Weir, holds, raw, same, test, two, until};

use super::ruled;

pub fn trials() -> Vec<Trial> {
    vec![
        test("policy::retries::a_gateway_error_is_tried_elsewhere", a_gateway_error_is_tried_elsewhere),
        test("policy::retries::a_post_is_not_unless_it_may_be_repeated", a_post_is_not_unless_it_may_be_repeated),
        test("policy::retries::a_small_body_is_sent_again", a_small_body_is_sent_again),
        test("policy::retries::a_large_body_is_not_and_the_log_says_so", a_large_body_is_not_and_the_log_says_so),
        test("policy::retries::a_body_under_way_is_sent_whole", a_body_under_way_is_sent_whole),
        test("policy::retries::attempts_end", attempts_end),
        test("policy::retries::grpc_without_a_message", grpc_without_a_message),
        test("policy::retries::retry_after", retry_after),
        test("policy::retries::resets_and_slow_tries", resets_and_slow_tries),
        test("policy::retries::codes_and_headers", codes_and_headers),
    ]
}

type Heads = Arc<Mutex<Vec<String>>>;

/// An origin that remembers the heads it was sent and answers all with this.
async fn origin(answer: &'static str) -> Result<(Quick, Heads)> {
    let heads = Heads::default();
    let seen = Arc::clone(&heads);
    let quick = Quick::start("127.0.0.1:0", Duration::ZERO, move |head| {
        seen.lock().unwrap().push(head.to_owned());
        answer.into()
    });
    Ok((quick.await?, heads))
}

const FAILING: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

async fn a_gateway_error_is_tried_elsewhere() -> Result {
    let (bad, _) = origin(FAILING).await?;
    let (good, heads) = origin("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
    let weir = Weir::start(&ruled(&[bad.address, good.address], "http1", "retry: {}")).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    let mut retried = 0;
    for _ in 0..40 {
        connection.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
        let response = connection.response(false).await?;
        same!((response.status, response.text().as_str()), (200, "ok"));
        if let Some(attempts) = response.header("x-weir-attempts") {
            same!(attempts, "2");
            retried += 1;
        }
    }
    // Both are idle each time, so about every second request began at the bad one.
    holds!((5..=35).contains(&retried), "{retried} of 40");
    same!(bad.count(), retried, "each retry went to the other endpoint");
    let told = heads.lock().unwrap().iter().filter(|head| head.contains("x-weir-attempt: 2")).count();
    same!(told, retried, "the upstream is told that it is a second attempt");
    same!(weir.metric("weir_upstream_retries_total", "retry").await?, retried as f64);
    // What was discarded did not cost a connection each time.
    holds!(bad.accepted() <= 2, "{} connections", bad.accepted());
    Ok(())
}

async fn a_post_is_not_unless_it_may_be_repeated() -> Result {
    for (policy, retried) in [("retry: {}", false), ("retry: { idempotent: true }", true)] {
        let (bad, _) = origin(FAILING).await?;
        let weir = Weir::start(&ruled(&[bad.address], "http1", policy)).await?;
        let response = raw::request(weir.address("out"), "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await?;
        same!((response.status, response.text().as_str(), bad.count()), (503, "busy", 1 + usize::from(retried)), "{policy}");
        let denied = weir.metric("weir_upstream_retries_denied_total", if retried { "attempts" } else { "method" }).await?;
        same!(denied, 1.0, "{policy}");
    }
    Ok(())
}

/// Answers 503 to every first request and 200 with the body to every second one.
async fn moody() -> Result<(two::Server, Arc<AtomicUsize>)> {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let server = two::Server::start(None, move |request, mut respond| {
        let count = Arc::clone(&count);
        async move {
            let (body, trailers) = two::collect(&mut request.into_body()).await?;
            let status = if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { 503 } else { 200 };
            let mut send = respond.send_response(Response::builder().status(status).body(())?, false)?;
            send.send_data(Bytes::from(body), trailers.is_none())?;
            if let Some(trailers) = trailers {
                send.send_trailers(trailers)?;
            }
            Ok(())
        }
    });
    Ok((server.await?, seen))
}

async fn a_small_body_is_sent_again() -> Result {
    let (server, seen) = moody().await?;
    let weir = Weir::start(&ruled(&[server.address], "http2", "retry: {}")).await?;
    for (framing, body, size) in [
        ("content-length: 5", "hello".to_owned(), 5),
        ("transfer-encoding: chunked", "5\r\nhello\r\n3\r\nyou\r\n0\r\nx-sum: 8\r\n\r\n".to_owned(), 8),
        ("content-length: 60000", "x".repeat(60_000), 60_000),
    ] {
        let before = seen.load(Ordering::Relaxed);
        let mut connection = Connection::open(weir.address("out")).await?;
        connection.send(format!("PUT / HTTP/1.1\r\nhost: a\r\nte: trailers\r\n{framing}\r\n\r\n{body}")).await?;
        let response = connection.response(false).await?;
        same!((response.status, response.header("x-weir-attempts")), (200, Some("2")), "{framing}");
        same!((response.body.len(), seen.load(Ordering::Relaxed) - before), (size, 2), "{framing}");
    }
    Ok(())
}

async fn a_large_body_is_not_and_the_log_says_so() -> Result {
    let (server, seen) = moody().await?;
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("access.log");
    let yaml = format!("access_log: {{ path: '{}' }}\n", log.display()) + &ruled(&[server.address], "http2", "retry: {}");
    let weir = Weir::start(&yaml).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send(format!("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 70000\r\n\r\n{}", "x".repeat(70_000))).await?;
    let response = connection.response(false).await?;
    same!((response.status, response.body.len(), seen.load(Ordering::Relaxed)), (503, 70_000, 1));
    let said = async || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("\"retry_denied\":\"body\""));
    until("the log says why there was no retry", said).await?;
    same!(weir.metric("weir_upstream_retries_denied_total", "body").await?, 1.0);
    Ok(())
}

/// The upstream answers 503 while the body still comes in. What comes during the wait is for the next attempt.
async fn a_body_under_way_is_sent_whole() -> Result {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let server = two::Server::start(None, move |request, mut respond| {
        let count = Arc::clone(&count);
        async move {
            let mut body = request.into_body();
            if count.fetch_add(1, Ordering::Relaxed) == 0 {
                let first = body.data().await.ok_or("no body")??;
                body.flow_control().release_capacity(first.len())?;
                let busy = Response::builder().status(503).header("retry-after", "1").body(())?;
                respond.send_response(busy, true)?;
                // It goes on reading, as if it still cared.
                let _ = two::collect(&mut body).await;
                return Ok(());
            }
            let (body, _) = two::collect(&mut body).await?;
            respond.send_response(Response::new(()), false)?.send_data(body.into(), true)?;
            Ok(())
        }
    })
    .await?;
    let weir = Weir::start(&ruled(&[server.address], "http2", "retry: {}")).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send("PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await?;
    until("the first attempt is at the upstream", async || seen.load(Ordering::Relaxed) == 1).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    connection.send(format!("{:x}\r\n{}\r\n0\r\n\r\n", 100_000, "x".repeat(100_000))).await?;
    let response = connection.response(false).await?;
    same!((response.status, response.header("x-weir-attempts"), response.body.len()), (200, Some("2"), 100_005));
    holds!(response.body.starts_with(b"hellox"));
    Ok(())
}

async fn attempts_end() -> Result {
    let (bad, _) = origin(FAILING).await?;
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("access.log");
    let policy = "retry: { attempts: 3, backoff: { base: 1ms, max: 2ms } }";
    let yaml = format!("access_log: {{ path: '{}' }}\n", log.display()) + &ruled(&[bad.address], "http1", policy);
    let weir = Weir::start(&yaml).await?;
    let response = raw::get(weir.address("out"), "shop", "/").await?;
    same!((response.status, response.header("x-weir-attempts"), response.text().as_str()), (503, Some("4"), "busy"));
    same!(response.header("x-weir-error"), None, "it is the app's own answer");
    same!(bad.count(), 4);
    let said = async || {
        std::fs::read_to_string(&log)
            .is_ok_and(|log| log.contains("\"upstream_request_attempt_count\":4") && log.contains("\"response_flags\":\"URX\""))
    };
    until("the log has the attempts and the flag", said).await?;
    until("it is counted", async || weir.metric("weir_request_flags_total", "URX").await.is_ok_and(|n| n == 1.0)).await
}

/// UNAVAILABLE alone is tried again when the rule says so; after a message it is not, because that has been delivered.
async fn grpc_without_a_message() -> Result {
    for (with_message, expected) in [(false, 2), (true, 1)] {
        let seen = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&seen);
        let server = two::Server::start(None, move |request, mut respond| {
            let count = Arc::clone(&count);
            async move {
                two::collect(&mut request.into_body()).await?;
                count.fetch_add(1, Ordering::Relaxed);
                let mut response = Response::builder().header("content-type", "application/grpc");
                if !with_message {
                    response = response.header("grpc-status", "14");
                }
                let mut send = respond.send_response(response.body(())?, !with_message)?;
                if with_message {
                    send.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), false)?;
                    send.send_trailers(HeaderMap::from_iter([(
                        http::HeaderName::from_static("grpc-status"),
                        HeaderValue::from_static("14"),
                    )]))?;
                }
                Ok(())
            }
        })
        .await?;
        for (policy, expected) in [("retry: { on: [unavailable] }", expected), ("retry: { on: [5xx] }", 1)] {
            seen.store(0, Ordering::Relaxed);
            let weir = Weir::start(&ruled(&[server.address], "http2", policy)).await?;
            let client = two::Client::open(weir.address("out")).await?;
            let request = http::Request::post("/shop.Pay/Pay").header("content-type", "application/grpc").body(())?;
            let (response, mut send) = client.send(request, false).await?;
            send.send_data(Bytes::from_static(b"\0\0\0\0\x01y"), true)?;
            let mut response = response.await?;
            let status = response.headers().get("grpc-status").cloned();
            let (_, trailers) = two::collect(response.body_mut()).await?;
            let status = status.or_else(|| trailers?.get("grpc-status").cloned());
            same!(status, Some(HeaderValue::from_static("14")));
            same!(seen.load(Ordering::Relaxed), expected, "{policy}, with a message: {with_message}");
        }
    }
    Ok(())
}

async fn retry_after() -> Result {
    for (seconds, attempts) in [("1", 2), ("30", 1)] {
        let answer = format!("HTTP/1.1 503 Busy\r\nretry-after: {seconds}\r\ncontent-length: 0\r\n\r\n");
        let quick = Quick::start("127.0.0.1:0", Duration::ZERO, move |_| answer.clone().into_bytes()).await?;
        let weir = Weir::start(&ruled(&[quick.address], "http1", "retry: {}")).await?;
        let start = Instant::now();
        let response = raw::get(weir.address("out"), "shop", "/").await?;
        same!((response.status, response.header("retry-after"), quick.count()), (503, Some(seconds), attempts));
        holds!((start.elapsed() >= Duration::from_secs(1)) == (attempts == 2), "{:?}", start.elapsed());
    }
    Ok(())
}

async fn resets_and_slow_tries() -> Result {
    // The first answer takes for ever, the second none.
    let slow = Quick::start("127.0.0.1:0", Duration::from_secs(60), |_| quick::ok("late")).await?;
    let fast = Quick::text("ok").await?;
    let policy = "timeout: { per_try: 200ms }, retry: { on: [reset] }";
    let weir = Weir::start(&ruled(&[slow.address, fast.address], "http1", policy)).await?;
    for _ in 0..6 {
        let response = raw::get(weir.address("out"), "shop", "/").await?;
        same!((response.status, response.text().as_str()), (200, "ok"));
    }
    holds!(slow.count() > 0, "the slow one was never tried first");
    let alone = Weir::start(&ruled(&[slow.address], "http1", policy)).await?;
    let response = raw::get(alone.address("out"), "shop", "/").await?;
    same!((response.status, response.header("x-weir-error")), (504, Some("per_try_timeout")));
    for flag in ["UT", "URX"] {
        until(flag, async || alone.metric("weir_request_flags_total", flag).await.is_ok_and(|n| n == 1.0)).await?;
    }
    Ok(())
}

async fn codes_and_headers() -> Result {
    for (answer, policy, attempts) in [
        ("HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", "retry: { codes: [404] }", 2),
        ("HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", "retry: { codes: [429] }", 1),
        ("HTTP/1.1 200 OK\r\nx-again: please\r\ncontent-length: 0\r\n\r\n", "retry: { headers: { x-again: please } }", 2),
        ("HTTP/1.1 200 OK\r\nx-again: no\r\ncontent-length: 0\r\n\r\n", "retry: { headers: { x-again: please } }", 1),
        ("HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\n\r\n", "retry: { on: [retriable-4xx] }", 2),
        ("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", "retry: { on: [gateway-error] }", 1),
        ("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", "retry: { on: [5xx], attempts: 2 }", 3),
    ] {
        let (quick, _) = origin(answer).await?;
        let weir = Weir::start(&ruled(&[quick.address], "http1", policy)).await?;
        raw::get(weir.address("out"), "shop", "/").await?;
        same!(quick.count(), attempts, "{policy}: {answer}");
    }
    Ok(())
}
