//! Informational responses and the `Expect: 100-continue` handshake, end to end (RFC 9110, sections 10.1.1 and 15.2).

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use weir_tests::peers::Peer;
use weir_tests::script::Script;
use weir_tests::wire::Version;
use weir_tests::{Result, Trial, Weir, holds, raw, same, test, test_with, two, wire};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::interim::early_hints_from_http1", early_hints_from_http1),
        test("http::interim::early_hints_from_http2", early_hints_from_http2),
        test("http::interim::http10_gets_none", http10_gets_none),
        test("http::interim::the_upstreams_100_opens_the_body", continue_opens_the_body),
        test("http::interim::the_upstreams_100_opens_the_body_over_http2", continue_over_http2),
        test("http::interim::a_final_answer_keeps_the_body_back", refusal_keeps_the_body_back),
        test("http::interim::a_final_answer_keeps_the_body_back_over_http2", refusal_over_http2),
        test("http::interim::an_upstream_that_never_says_100", silence_opens_the_body),
        test("http::interim::an_upstream_that_never_says_100_over_http2", silence_over_http2),
        test("http::interim::other_expectations_fail", other_expectations),
        test_with("http::interim::curl_sees_the_refusal_before_it_sends", &[Peer::Program("curl")], curl_sees_the_refusal),
    ]
}

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n";
const DONE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
const PUT: &str = "PUT /up HTTP/1.1\r\nHost: shop\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";

async fn early_hints_from_http1() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
    let mut caller = raw::Connection::open(weir.address("out")).await?;
    let client = two::Client::open(weir.address("out")).await?;

    caller.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await?;
    let mut peer = script.accept().await?;
    // The second time over a connection that was used before.
    for round in 0..2 {
        peer.head().await?;
        // One at a time: each must get through before there is a final response.
        for _ in 0..2 {
            peer.send(HINTS).await?;
            let hints = caller.response(false).await?;
            same!((hints.status, hints.header("link")), (103, Some("</a.css>; rel=preload")));
            same!((hints.header("connection"), hints.header("x-hop")), (None, None));
        }
        peer.send("HTTP/1.1 102 Processing\r\n\r\n").await?;
        same!(caller.response(false).await?.status, 102);
        peer.send(DONE).await?;
        let done = caller.response(false).await?;
        same!((done.status, done.text().as_str()), (200, "done"));
        if round == 0 {
            caller.send("GET /again HTTP/1.1\r\nHost: shop\r\n\r\n").await?;
        }
    }

    let mut response = client.get("/").await?;
    peer.head().await?;
    for _ in 0..2 {
        peer.send(HINTS).await?;
        let hints = two::informational(&mut response).await?.ok_or("the final response came first")?;
        same!((hints.status().as_u16(), hints.headers()["link"].to_str()?), (103, "</a.css>; rel=preload"));
        same!((hints.headers().get("connection"), hints.headers().get("x-hop")), (None, None));
    }
    peer.send(DONE).await?;
    same!(response.await?.status().as_u16(), 200);
    Ok(())
}

/// An HTTP/2 origin that gives the test what it needs to answer.
async fn origin() -> Result<(two::Server, tokio::sync::mpsc::Receiver<Stream>)> {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    let server = two::Server::start(None, move |request, respond| {
        let sender = sender.clone();
        async move { Ok(sender.send((request, respond)).await?) }
    })
    .await?;
    Ok((server, receiver))
}

type Stream = (Request<h2::RecvStream>, h2::server::SendResponse<Bytes>);

fn interim(status: StatusCode) -> Response<()> {
    Response::builder().status(status).header("link", "</a.css>").body(()).expect("a response")
}

async fn early_hints_from_http2() -> Result {
    let (server, mut streams) = origin().await?;
    let weir = Weir::start(&wire::to(server.address, Version::Two)).await?;
    let mut caller = raw::Connection::open(weir.address("out")).await?;
    caller.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await?;
    let (_, mut respond) = streams.recv().await.ok_or("no request")?;
    for _ in 0..2 {
        respond.send_informational(interim(StatusCode::EARLY_HINTS))?;
        let hints = caller.response(false).await?;
        same!((hints.status, hints.header("link")), (103, Some("</a.css>")));
    }
    respond.send_response(Response::new(()), true)?;
    same!(caller.response(false).await?.status, 200);

    let client = two::Client::open(weir.address("out")).await?;
    let mut response = client.get("/").await?;
    let (_, mut respond) = streams.recv().await.ok_or("no request")?;
    for _ in 0..2 {
        respond.send_informational(interim(StatusCode::EARLY_HINTS))?;
        let hints = two::informational(&mut response).await?.ok_or("the final response came first")?;
        same!((hints.status().as_u16(), hints.headers()["link"].to_str()?), (103, "</a.css>"));
    }
    respond.send_response(Response::new(()), true)?;
    same!(response.await?.status().as_u16(), 200);
    Ok(())
}

async fn http10_gets_none() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
    let mut caller = raw::Connection::open(weir.address("out")).await?;
    caller.send("POST / HTTP/1.0\r\nHost: shop\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi").await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    peer.until(b"hi").await?;
    peer.send(format!("HTTP/1.1 100 Continue\r\n\r\n{HINTS}{DONE}")).await?;
    let done = caller.response(false).await?;
    same!((done.status, done.text().as_str()), (200, "done"));
    Ok(())
}

async fn continue_opens_the_body() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
    let mut caller = raw::Connection::open(weir.address("out")).await?;
    caller.send(PUT).await?;
    let mut peer = script.accept().await?;
    for round in 0..2 {
        let head = peer.head().await?;
        holds!(head.to_ascii_lowercase().contains("\r\nexpect: 100-continue\r\n"), "{head}");
        // What comes first shows that nobody said 100 before the upstream did.
        peer.send(HINTS).await?;
        same!(caller.response(false).await?.status, 103);
        peer.send("HTTP/1.1 100 Continue\r\n\r\n").await?;
        same!(caller.response(false).await?.status, 100);
        caller.send("hello").await?;
        peer.until(b"hello").await?;
        peer.send(DONE).await?;
        let done = caller.response(false).await?;
        same!((done.status, done.text().as_str()), (200, "done"));
        if round == 0 {
            caller.send(PUT).await?;
        }
    }
    Ok(())
}

fn put() -> Result<Request<()>> {
    Ok(Request::put("/up").header("expect", "100-continue").body(())?)
}

async fn continue_over_http2() -> Result {
    let (server, mut streams) = origin().await?;
    let weir = Weir::start(&wire::to(server.address, Version::Two)).await?;
    let client = two::Client::open(weir.address("out")).await?;
    let (mut response, mut body) = client.send(put()?, false).await?;
    let (mut request, mut respond) = streams.recv().await.ok_or("no request")?;
    same!(request.headers().get("expect").map(http::HeaderValue::as_bytes), Some(&b"100-continue"[..]));
    respond.send_informational(interim(StatusCode::EARLY_HINTS))?;
    same!(two::informational(&mut response).await?.map(|r| r.status().as_u16()), Some(103));
    respond.send_informational(interim(StatusCode::CONTINUE))?;
    same!(two::informational(&mut response).await?.map(|r| r.status().as_u16()), Some(100));
    body.send_data("hello".into(), true)?;
    same!(two::collect(request.body_mut()).await?.0, b"hello");
    respond.send_response(Response::new(()), true)?;
    same!(response.await?.status().as_u16(), 200);

    // And with versions that differ: HTTP/1.1 towards the upstream.
    let script = Script::listen().await?;
    let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
    let client = two::Client::open(weir.address("out")).await?;
    let (mut response, mut body) = client.send(put()?, false).await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    peer.send("HTTP/1.1 100 Continue\r\n\r\n").await?;
    same!(two::informational(&mut response).await?.map(|r| r.status().as_u16()), Some(100));
    body.send_data("hello".into(), true)?;
    peer.until(b"hello").await?;
    peer.send(DONE).await?;
    same!(response.await?.status().as_u16(), 200);
    Ok(())
}

async fn refusal_keeps_the_body_back() -> Result {
    for (status, close) in [(401, "Connection: close\r\n"), (417, "Connection: close\r\n"), (401, "")] {
        let script = Script::listen().await?;
        let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
        let mut caller = raw::Connection::open(weir.address("out")).await?;
        caller.send(PUT).await?;
        let mut peer = script.accept().await?;
        peer.head().await?;
        peer.send(format!("HTTP/1.1 {status} No\r\n{close}Content-Length: 2\r\n\r\nno")).await?;
        let refusal = caller.response(false).await?;
        same!((refusal.status, refusal.text().as_str(), refusal.header("x-weir-error")), (status, "no", None));
        // Until the caller has sent its body after all or given up, the upstream connection cannot serve anybody else.
        let next = tokio::spawn(raw::get(weir.address("out"), "shop", "/next"));
        let other = script.accept().await;
        let mut other = other.map_err(|error| format!("{status} {close:?}: the next waits for the refused one: {error}"))?;
        other.head().await?;
        other.send(DONE).await?;
        same!(next.await??.text(), "done");
        drop(caller);
        let rest = peer.ended().await.map_err(|error| format!("{status} {close:?}: {error}"))?;
        same!(rest, b"", "{status} {close:?}");
    }
    Ok(())
}

async fn refusal_over_http2() -> Result {
    let (server, mut streams) = origin().await?;
    let weir = Weir::start(&wire::to(server.address, Version::Two)).await?;
    let client = two::Client::open(weir.address("out")).await?;
    let (mut response, _body) = client.send(put()?, false).await?;
    let (mut request, mut respond) = streams.recv().await.ok_or("no request")?;
    respond.send_response(Response::builder().status(401).body(())?, true)?;
    holds!(two::informational(&mut response).await?.is_none(), "nothing comes before the refusal");
    same!(response.await?.status().as_u16(), 401);
    // The upload is given up, with nothing of it sent.
    let seen = tokio::time::timeout(Duration::from_secs(10), two::collect(request.body_mut())).await;
    holds!(!matches!(seen, Ok(Ok((ref body, _))) if !body.is_empty()), "{seen:?}");

    // To HTTP/1.1. The caller leaves its stream half open; nobody else may have to wait for it.
    let script = Script::listen().await?;
    let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
    let client = two::Client::open(weir.address("out")).await?;
    let (response, _open) = client.send(put()?, false).await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    peer.send("HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno").await?;
    let mut response = response.await?;
    same!((response.status().as_u16(), two::collect(response.body_mut()).await?.0), (401, b"no".to_vec()));
    let next = client.get("/next").await?;
    let mut other = script.accept().await.map_err(|error| format!("the next request waits for the refused one: {error}"))?;
    other.head().await?;
    other.send(DONE).await?;
    same!(next.await?.status().as_u16(), 200);
    Ok(())
}

/// Not at once, and not never: after about a second.
fn after_a_second(start: Instant) -> bool {
    (Duration::from_millis(800)..Duration::from_secs(5)).contains(&start.elapsed())
}

async fn silence_opens_the_body() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
    let mut caller = raw::Connection::open(weir.address("out")).await?;
    let start = Instant::now();
    caller.send(PUT).await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    same!(caller.response(false).await?.status, 100);
    holds!(after_a_second(start), "after {:?}", start.elapsed());
    caller.send("hello").await?;
    peer.until(b"hello").await?;
    peer.send(DONE).await?;
    same!(caller.response(false).await?.text(), "done");

    // A caller that did not wait has its body held as long, and then delivered.
    let start = Instant::now();
    caller.send(format!("{PUT}HELLO")).await?;
    peer.until(b"HELLO").await?;
    holds!(after_a_second(start), "after {:?}", start.elapsed());
    peer.send(DONE).await?;
    let mut answer = caller.response(false).await?;
    if answer.status == 100 {
        answer = caller.response(false).await?;
    }
    same!(answer.text(), "done");
    Ok(())
}

async fn silence_over_http2() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
    let client = two::Client::open(weir.address("out")).await?;
    // A caller that does not wait.
    let start = Instant::now();
    let (response, mut body) = client.send(put()?, false).await?;
    body.send_data("hello".into(), true)?;
    let mut peer = script.accept().await?;
    // In chunks, for there is no length.
    peer.until(b"hello").await?;
    holds!(after_a_second(start), "after {:?}", start.elapsed());
    peer.until(b"0\r\n\r\n").await?;
    peer.send(DONE).await?;
    same!(response.await?.status().as_u16(), 200);
    // And one that does: as over HTTP/1.1, it must be told to go ahead.
    let start = Instant::now();
    let (mut response, mut body) = client.send(put()?, false).await?;
    peer.head().await?;
    let told = two::informational(&mut response).await.map_err(|error| format!("never told to continue: {error}"))?;
    same!(told.map(|r| r.status().as_u16()), Some(100));
    holds!(after_a_second(start), "after {:?}", start.elapsed());
    body.send_data("hello".into(), true)?;
    peer.until(b"0\r\n\r\n").await?;
    peer.send(DONE).await?;
    same!(response.await?.status().as_u16(), 200);
    Ok(())
}

async fn other_expectations() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
    let request = "PUT / HTTP/1.1\r\nHost: shop\r\nExpect: tea\r\nContent-Length: 5\r\n\r\n";
    let refused = raw::request(weir.address("out"), request).await?;
    same!((refused.status, refused.header("x-weir-error")), (417, Some("bad_expectation")));
    let client = two::Client::open(weir.address("out")).await?;
    let request = Request::put("/").header("expect", "tea").body(())?;
    let refused = client.send(request, true).await?.0.await?;
    same!((refused.status().as_u16(), refused.headers()["x-weir-error"].to_str()?), (417, "bad_expectation"));
    // Its case does not matter.
    let mut caller = raw::Connection::open(weir.address("out")).await?;
    caller.send(PUT.replace("100-continue", "100-Continue")).await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    peer.send("HTTP/1.1 100 Continue\r\n\r\n").await?;
    same!(caller.response(false).await?.status, 100);
    Ok(())
}

async fn curl_sees_the_refusal() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&wire::to(script.address, Version::One)).await?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("upload");
    std::fs::write(&file, vec![b'x'; 4 << 20])?;
    let url = format!("http://{}/up", weir.address("out"));
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["-sS", "--max-time", "20", "--expect100-timeout", "20", "-w", "%{http_code} %{size_upload}", "-o"]);
    curl.arg("/dev/null").arg("-T").arg(&file).args(["-H", "Expect: 100-continue", &url]).kill_on_drop(true);
    let (done, served) = tokio::join!(curl.output(), async {
        let mut peer = script.accept().await?;
        peer.head().await?;
        peer.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await?;
        peer.ended().await
    });
    same!(String::from_utf8_lossy(&done?.stdout).into_owned(), "401 0");
    same!(served?, b"");
    Ok(())
}
