//! Responses that break off after they have begun, and callers that go away: no status can tell any more, but the log
//! and the metrics do.

use std::time::Duration;

use http_body_util::BodyExt;
use weir_tests::origin::full;
use weir_tests::raw::Connection;
use weir_tests::wire::{self, Caller, Version};
use weir_tests::{Result, holds, same, until};

use super::bench::Bench;

/// The rules for `/cut/NAME`, with what they have besides their backends.
pub(super) const RULES: [(&str, &str); 5] = [
    ("bad_chunk", ""),
    ("upstream_closed", ""),
    ("upstream_reset", ""),
    ("upstream_protocol", ""),
    ("request_timeout", "timeout: { request: 250ms }"),
];

pub(super) async fn provoke(bench: &mut Bench) -> Result {
    for (code, rule) in [
        ("upstream_closed", "cut_upstream_closed"),
        ("upstream_reset", "cut_upstream_reset"),
        ("upstream_protocol", "cut_upstream_protocol"),
        ("request_timeout", "cut_request_timeout"),
    ] {
        for (version, grpc) in [(Version::One, false), (Version::Two, false), (Version::Two, true)] {
            // A gRPC stream that has begun outlives the rule's limit on requests.
            if grpc && code == "request_timeout" {
                continue;
            }
            let what = format!("{rule} over {version:?}, gRPC {grpc}");
            cut(bench, code, rule, version, grpc).await.map_err(|error| format!("{what}: {error}"))?;
        }
    }
    callers_fault(bench).await?;
    gone(bench).await
}

/// The response has begun, and it is the caller who spoils it: nobody is to blame the upstream for that.
async fn callers_fault(bench: &mut Bench) -> Result {
    let id = bench.fresh_id();
    let mut caller = Connection::open(bench.weir.address("out")).await?;
    let head = "POST /cut/bad_chunk HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n";
    caller.send(format!("{head}x-request-id: {id}\r\n\r\n4\r\npart\r\n")).await?;
    while caller.line().await? != "part\r\n" {}
    caller.send("no chunk\r\n").await?;
    same!(String::from_utf8(caller.rest().await?)?, "", "the caller takes it for whole");
    let upstream = bench.faulty.address.to_string();
    let failed = bench.note("a malformed chunk after the response has begun", id, "bad_chunk");
    failed.status = 200;
    failed.rule = Some(("cut_bad_chunk", "faulty"));
    failed.upstream = Some(upstream);
    Ok(())
}

async fn cut(bench: &mut Bench, code: &'static str, rule: &'static str, version: Version, grpc: bool) -> Result {
    let id = bench.fresh_id();
    let mut caller = Caller::open(bench.weir.address("out"), version).await?;
    let mut request = caller.request("POST", &format!("/cut/{code}")).header("x-request-id", &id);
    if grpc {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
    }
    let response = caller.send(request.body(full(""))?).await?;
    same!((response.status().as_u16(), response.headers().get("x-weir-error")), (200, None));
    let mut body = response.into_body();
    same!(wire::piece(&mut body).await?, "part");
    bench.faulty.cut();
    let end = tokio::time::timeout(Duration::from_secs(10), body.frame()).await?;
    let row = bench.catalogue.row(code).clone();
    if grpc {
        let trailers = end.ok_or("no trailers")??.into_trailers().map_err(|_| "more data")?;
        same!(trailers.get("grpc-status").ok_or("no status")?.to_str()?, row.grpc.to_string());
    } else {
        holds!(matches!(end, Some(Err(_))), "the caller takes it for whole: {end:?}");
    }
    let upstream = bench.faulty.address.to_string();
    let failed = bench.note(format!("{rule} over {version:?}, gRPC {grpc}"), id, code);
    failed.status = 200;
    failed.grpc = grpc.then_some(Some(row.grpc));
    failed.rule = Some((rule, "faulty"));
    failed.upstream = Some(upstream);
    Ok(())
}

/// Callers that leave while their request is at the app.
async fn gone(bench: &mut Bench) -> Result {
    for (version, grpc) in [(Version::One, false), (Version::Two, false), (Version::Two, true)] {
        let (id, before) = (bench.fresh_id(), bench.faulty.count());
        let at_the_app = async || until("the request is at the app", async || bench.faulty.count() > before).await;
        match version {
            Version::One => {
                let mut connection = Connection::open(bench.weir.address("out")).await?;
                let head = format!("GET /downstream_gone HTTP/1.1\r\nhost: shop\r\nx-request-id: {id}\r\n\r\n");
                connection.send(head).await?;
                at_the_app().await?;
                // An end right behind the request would be that of a caller who waits for the answer.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Version::Two => {
                let mut caller = Caller::open(bench.weir.address("out"), version).await?;
                let mut request = caller.request("GET", "/downstream_gone").header("x-request-id", &id);
                if grpc {
                    request = request.header("content-type", "application/grpc").header("te", "trailers");
                }
                let request = request.body(full(""))?;
                tokio::select! {
                    answer = caller.send(request) => return Err(format!("an answer: {answer:?}").into()),
                    there = at_the_app() => there?,
                }
            }
        }
        let failed = bench.note(format!("a caller that goes away over {version:?}, gRPC {grpc}"), id, "downstream_gone");
        failed.status = 0;
        failed.grpc = grpc.then_some(None);
        failed.rule = Some(("downstream_gone", "faulty"));
    }
    Ok(())
}
