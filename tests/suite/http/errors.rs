//! Answers that weir makes itself: the right status, a stable code, one line for people, and a status for gRPC callers.

use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Request, Response};
use weir_tests::nowhere::{Refusing, Silent};
use weir_tests::origin::full;
use weir_tests::script::Script;
use weir_tests::wire::{self, Caller, Keeper, Version};
use weir_tests::{Recorder, Result, Trial, Weir, holds, raw, same, test, two, until};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::errors::nowhere_to_go", nowhere_to_go),
        test("http::errors::connect_refused", connect_refused),
        test("http::errors::connect_timeout", connect_timeout),
        test("http::errors::connect_timeouts_do_not_queue", connect_timeouts_do_not_queue),
        test("http::errors::upstream_closes_or_resets", upstream_closes_or_resets),
        test("http::errors::upstream_http2_closes_or_resets", upstream_http2_closes_or_resets),
        test("http::errors::upstream_sends_garbage", upstream_sends_garbage),
        test("http::errors::upstream_sends_a_huge_head", upstream_sends_a_huge_head),
        test("http::errors::refusals_have_an_id", refusals_have_an_id),
        test("http::errors::connect_is_not_allowed", connect_is_not_allowed),
        test("http::errors::the_mark_is_weirs_alone", the_mark_is_weirs_alone),
        test("http::errors::the_mark_is_weirs_alone_in_trailers", the_mark_in_trailers),
        test("http::errors::the_mark_is_weirs_alone_in_hints", the_mark_in_hints),
    ]
}

/// What is expected of a fault.
struct Fault {
    status: u16,
    code: &'static str,
    grpc: u16,
    flag: &'static str,
}

/// Asks over both versions, with and without gRPC, and checks all that is common to weir's own answers.
async fn fails(weir: &Weir, target: &str, fault: &Fault) -> Result {
    let flag = format!("flag=\"{}\"", fault.flag);
    let before = weir.metric("weir_request_flags_total", &flag).await?;
    for from in [Version::One, Version::Two] {
        for grpc in [false, true] {
            // A connection for each, since an upstream's fault may end it.
            let mut caller = Caller::open(weir.address("out"), from).await?;
            let mut request = caller.request("POST", target).header("x-request-id", "the-id");
            if grpc {
                request = request.header("content-type", "application/grpc+proto").header("te", "trailers");
            }
            let answer = caller.exchange(request.body(full(""))?).await?;
            same!(answer.all("x-request-id"), ["the-id"]);
            answer
                .is_weirs(fault.code, fault.status, grpc.then_some(fault.grpc))
                .map_err(|error| format!("{from:?}, gRPC {grpc}: {error}\n{answer:?}"))?;
        }
    }
    weir.counted("weir_request_flags_total", &flag, before + 4.0).await
}

async fn nowhere_to_go() -> Result {
    let weir = Weir::start(
        "listeners: [{ name: out, listen: 127.0.0.1:0, direction: outbound }]
routes:
  - { name: shop, hosts: [shop], rules: [{ match: [{ path: { exact: /only } }], respond: { status: 200 } }] }
",
    )
    .await?;
    let fault = Fault { status: 404, code: "no_rule", grpc: 12, flag: "NR" };
    fails(&weir, "/other", &fault).await?;
    let client = two::Client::open(weir.address("out")).await?;
    let response = client.send(Request::get("http://nobody/").body(())?, true).await?.0.await?;
    same!((response.status().as_u16(), response.headers()["x-weir-error"].to_str()?), (404, "no_route"));
    let response = raw::get(weir.address("out"), "nobody", "/").await?;
    same!((response.status, response.header("x-weir-error")), (404, Some("no_route")));
    holds!(response.header("x-request-id").is_some_and(|id| id.len() == 36));
    weir.counted("weir_request_flags_total", "NR", 6.0).await
}

async fn connect_refused() -> Result {
    let refusing = Refusing::take()?;
    for version in [Version::One, Version::Two] {
        let weir = Weir::start(&wire::to(refusing.address, version)).await?;
        fails(&weir, "/", &Fault { status: 503, code: "connect_failed", grpc: 14, flag: "UF" }).await?;
        same!(weir.metric("weir_upstream_connect_failures_total", "error").await?, 4.0);
    }
    Ok(())
}

async fn connect_timeout() -> Result {
    let silent = Silent::fill().await?;
    for version in [Version::One, Version::Two] {
        let yaml = wire::to(silent.address, version).replace("protocol:", "connect_timeout: 100ms, protocol:");
        let weir = Weir::start(&yaml).await?;
        fails(&weir, "/", &Fault { status: 504, code: "connect_timeout", grpc: 14, flag: "UF" }).await?;
        same!(weir.metric("weir_upstream_connect_failures_total", "timeout").await?, 4.0);
    }
    Ok(())
}

/// Requests that wait for the same HTTP/2 connection share its failure; one after the other, the tenth would wait ten
/// times `connect_timeout`.
async fn connect_timeouts_do_not_queue() -> Result {
    let silent = Silent::fill().await?;
    for version in [Version::One, Version::Two] {
        let yaml = wire::to(silent.address, version).replace("protocol:", "connect_timeout: 500ms, protocol:");
        let weir = Weir::start(&yaml).await?;
        let client = two::Client::open(weir.address("out")).await?;
        let start = Instant::now();
        let mut waiting = Vec::new();
        for _ in 0..10 {
            waiting.push(client.get("/").await?);
        }
        for response in waiting {
            same!(response.await?.status().as_u16(), 504);
        }
        holds!(start.elapsed() < Duration::from_millis(2000), "{version:?}: {:?} for ten at once", start.elapsed());
    }
    Ok(())
}

async fn upstream_closes_or_resets() -> Result {
    for reset in [false, true] {
        let script = Script::listen().await?;
        let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
        let serving = tokio::spawn(async move {
            loop {
                let mut peer = script.accept().await?;
                peer.head().await?;
                if reset {
                    peer.reset()?;
                }
            }
            #[allow(unreachable_code, reason = "gives the block its type")]
            Result::<()>::Ok(())
        });
        let (code, flag) = if reset { ("upstream_reset", "UR") } else { ("upstream_closed", "UC") };
        fails(&weir, "/", &Fault { status: 503, code, grpc: 14, flag }).await?;
        serving.abort();
    }
    Ok(())
}

async fn upstream_http2_closes_or_resets() -> Result {
    let server = two::Server::start(None, |_, mut respond| async move {
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
        Ok(())
    })
    .await?;
    let weir = Weir::start(&wire::to(server.address, Version::Two)).await?;
    fails(&weir, "/", &Fault { status: 503, code: "upstream_reset", grpc: 14, flag: "UR" }).await?;
    // Accepts and closes.
    let script = Script::listen().await?;
    let weir = Weir::start(&wire::to(script.address, Version::Two)).await?;
    let serving = tokio::spawn(async move { while script.accept().await.is_ok() {} });
    fails(&weir, "/", &Fault { status: 503, code: "upstream_closed", grpc: 14, flag: "UC" }).await?;
    serving.abort();
    Ok(())
}

async fn upstream_sends_garbage() -> Result {
    let fault = Fault { status: 502, code: "upstream_protocol", grpc: 13, flag: "UPE" };
    for garbage in [
        &b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..],
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ] {
        let recorder = Recorder::start(garbage).await?;
        let weir = Weir::start(&wire::to(recorder.address, Version::One)).await?;
        fails(&weir, "/", &fault).await.map_err(|error| format!("{:?}: {error}", String::from_utf8_lossy(garbage)))?;
    }
    // HTTP/1 where HTTP/2 is expected.
    let recorder = Recorder::start(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await?;
    let weir = Weir::start(&wire::to(recorder.address, Version::Two)).await?;
    fails(&weir, "/", &fault).await.map_err(|error| format!("HTTP/1 for HTTP/2: {error}"))?;
    Ok(())
}

async fn upstream_sends_a_huge_head() -> Result {
    let keeper = Keeper::start(|got| {
        let sizes: Vec<usize> = got.head.uri.path()[1..].split('x').filter_map(|size| size.parse().ok()).collect();
        let mut response = Response::new(full(""));
        for place in 0..sizes[0] {
            let name = format!("x-large-{place}").parse::<http::HeaderName>().expect("a name");
            response.headers_mut().insert(name, "v".repeat(sizes[1]).parse().expect("a value"));
        }
        response
    })
    .await?;
    let fault = Fault { status: 502, code: "upstream_protocol", grpc: 13, flag: "UPE" };
    for (version, fits, over) in [
        (Version::One, ["/6x10000", "/95x10"], ["/7x10000", "/101x10"]),
        (Version::Two, ["/6x10000", "/190x10"], ["/14x10000", "/1x140000"]),
    ] {
        let weir = Weir::start(&wire::to(keeper.origin.address, version)).await?;
        for target in fits {
            let mut caller = Caller::open(weir.address("out"), Version::Two).await?;
            let answer = caller.get(target).await.map_err(|error| format!("{target} from {version:?}: {error}"))?;
            same!(answer.status.as_u16(), 200, "{target} from {version:?}: {}", answer.text());
        }
        for target in over {
            fails(&weir, target, &fault).await.map_err(|error| format!("{target} from {version:?}: {error}"))?;
        }
    }
    Ok(())
}

/// The line in the log and the answer that the caller reports can be brought together, even if there was no request.
async fn refusals_have_an_id() -> Result {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("access.log");
    let keeper = Keeper::start(|_| Response::new(full("ok"))).await?;
    let yaml = wire::to(keeper.origin.address, Version::One);
    let weir = Weir::start(&format!("access_log: {{ path: '{}' }}\n{yaml}", file.display())).await?;
    let refused = raw::request(weir.address("out"), "GET / HTTP/1.1\r\nHost: shop\r\nContent-Length: x\r\n\r\n").await?;
    same!((refused.status, refused.header("x-weir-error")), (400, Some("bad_content_length")));
    until("the line is written", async || std::fs::read(&file).is_ok_and(|bytes| bytes.ends_with(b"\n"))).await?;
    let line: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    same!(refused.header("x-request-id"), line["request_id"].as_str());
    Ok(())
}

async fn connect_is_not_allowed() -> Result {
    let keeper = Keeper::start(|_| Response::new(full("ok"))).await?;
    let weir = Weir::start(&wire::to(keeper.origin.address, Version::One)).await?;
    let request = "CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\n";
    let mut connection = raw::Connection::open(weir.address("out")).await?;
    connection.send(request).await?;
    let refused = connection.response(false).await?;
    same!((refused.status, refused.header("x-weir-error")), (405, Some("connect_refused")));
    holds!(refused.header("allow").is_some_and(|allow| allow.contains("GET") && !allow.contains("CONNECT")));
    let client = two::Client::open(weir.address("out")).await?;
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "shop:443".parse()?;
    let (response, _tunnel) = client.send(request, false).await?;
    let refused = response.await?;
    same!((refused.status().as_u16(), refused.headers()["x-weir-error"].to_str()?), (405, "connect_refused"));
    same!(keeper.origin.count(), 0);
    Ok(())
}

/// What an app says in weir's name is removed.
async fn the_mark_is_weirs_alone() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
    let mut caller = raw::Connection::open(weir.address("out")).await?;
    caller.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    peer.send("HTTP/1.1 503 No\r\nX-Weir-Error: forged\r\nX-Weir-Error: again\r\nContent-Length: 0\r\n\r\n").await?;
    let answer = caller.response(false).await?;
    same!((answer.status, answer.header("x-weir-error")), (503, None));
    Ok(())
}

async fn the_mark_in_hints() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
    let mut caller = raw::Connection::open(weir.address("out")).await?;
    caller.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    peer.send("HTTP/1.1 103 Early Hints\r\nX-Weir-Error: forged\r\n\r\n").await?;
    same!(caller.response(false).await?.header("x-weir-error"), None);
    Ok(())
}

async fn the_mark_in_trailers() -> Result {
    let keeper = Keeper::start(|_| {
        let (feed, body) = wire::fed();
        feed.data("x");
        feed.trailers(HeaderMap::from_iter([("x-weir-error".parse().expect("a name"), "forged".parse().expect("a value"))]));
        Response::new(body)
    })
    .await?;
    let weir = Weir::start(&wire::to(keeper.origin.address, Version::Two)).await?;
    let answer = Caller::open(weir.address("out"), Version::Two).await?.get("/").await?;
    holds!(answer.trailers.is_none_or(|trailers| !trailers.contains_key("x-weir-error")), "in trailers");
    Ok(())
}
