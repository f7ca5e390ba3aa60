//! WebSocket and other tunnels where one side, or both, speak HTTP/2 (RFC 8441; RFC 9113, section 8.5).

use std::net::SocketAddr;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::ext::Protocol;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use sha1::{Digest, Sha1};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use weir_tests::peers::Peer;
use weir_tests::programs::reserve;
use weir_tests::raw::Connection;
use weir_tests::script::{self, Script};
use weir_tests::wire::{Version, to};
use weir_tests::{Result, Trial, Weir, holds, raw, same, test, test_with, until};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::websockets::http2_to_http1", http2_to_http1),
        test("http::websockets::http1_to_http2", || to_http2(Version::One)),
        test("http::websockets::http2_to_http2", || to_http2(Version::Two)),
        test("http::websockets::where_the_upstream_does_not_offer_it", where_the_upstream_does_not_offer_it),
        test("http::websockets::a_handshake_that_was_not_understood", a_handshake_that_was_not_understood),
        test("http::websockets::refusals_are_answers", refusals_are_answers),
        test("http::websockets::an_app_that_never_agreed", an_app_that_never_agreed),
        test("http::websockets::lengths_stay_behind", lengths_stay_behind),
        test("http::websockets::who_does_not_read_keeps_nobody_else_waiting", who_does_not_read_keeps_nobody_else_waiting),
        test("http::websockets::other_protocols", other_protocols),
        test("http::websockets::plain_connect", plain_connect),
        test("http::websockets::a_break_is_no_end", a_break_is_no_end),
        test_with("http::websockets::haproxy_between", &[Peer::Program("haproxy")], haproxy_between),
    ]
}

const UPGRADE: &str = "GET /chat?room=1 HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Both halves of a stream.
struct Stream {
    send: h2::SendStream<Bytes>,
    receive: h2::RecvStream,
    read: Vec<u8>,
}

impl Stream {
    fn new(send: h2::SendStream<Bytes>, receive: h2::RecvStream) -> Self {
        Self { send, receive, read: Vec::new() }
    }

    /// Sends all of it, however slowly the peer reads.
    async fn send(&mut self, bytes: &[u8]) -> Result {
        let mut rest = Bytes::copy_from_slice(bytes);
        while !rest.is_empty() {
            self.send.reserve_capacity(rest.len());
            let room = std::future::poll_fn(|cx| self.send.poll_capacity(cx)).await.ok_or("the stream is over")??;
            self.send.send_data(rest.split_to(room.min(rest.len())), false)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result {
        Ok(self.send.send_data(Bytes::new(), true)?)
    }

    /// The next so many bytes; fewer at the end.
    async fn exactly(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.read.len() < count {
            let Some(data) = self.receive.data().await else { break };
            let data = data?;
            self.receive.flow_control().release_capacity(data.len())?;
            self.read.extend_from_slice(&data);
        }
        let count = count.min(self.read.len());
        Ok(self.read.drain(..count).collect())
    }
}

/// A caller on HTTP/2.
struct Caller(h2::client::SendRequest<Bytes>);

impl Caller {
    /// Connects, and waits until the settings are there.
    async fn open(address: SocketAddr) -> Result<Self> {
        let (sender, connection) = h2::client::handshake(TcpStream::connect(address).await?).await?;
        tokio::spawn(async move { drop(connection.await) });
        until("extended CONNECT is offered", async || sender.is_extended_connect_protocol_enabled()).await?;
        Ok(Self(sender.ready().await?))
    }

    /// CONNECT, extended if there is a protocol.
    async fn connect(&mut self, uri: &str, protocol: Option<&str>) -> Result<(Response<()>, Stream)> {
        let mut request = Request::builder().method(Method::CONNECT).uri(uri).body(())?;
        if let Some(protocol) = protocol {
            request.headers_mut().insert("sec-websocket-version", "13".parse()?);
            request.extensions_mut().insert(Protocol::from(protocol));
        }
        let (response, send) = self.0.send_request(request, false)?;
        let (head, receive) = response.await?.into_parts();
        Ok((Response::from_parts(head, ()), Stream::new(send, receive)))
    }

    async fn websocket(&mut self) -> Result<(Response<()>, Stream)> {
        self.connect("http://shop/chat?room=1", Some("websocket")).await
    }
}

fn accept_of(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize())
}

fn field<'h>(head: &'h str, name: &str) -> &'h str {
    head.lines().filter_map(|line| line.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, v)| v)
}

fn consent(head: &str) -> String {
    let accept = accept_of(field(head, "sec-websocket-key"));
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// The next connection's WebSocket is agreed to; the answer's head ends with `rest`.
async fn consents(script: &Script, rest: &str) -> Result<(script::Peer, String)> {
    let mut peer = script.accept().await?;
    let head = peer.head().await?;
    peer.send(consent(&head).replace("\r\n\r\n", &format!("\r\n{rest}"))).await?;
    Ok((peer, head))
}

const LARGE: usize = 3 << 20;

async fn http2_to_http1() -> Result {
    let script = Script::listen().await?;
    // Also where the cluster is one of HTTP/1 by itself.
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let mut caller = Caller::open(weir.address("out")).await?;
    let (opened, upstream) = tokio::join!(caller.websocket(), consents(&script, "\r\n"));
    let ((response, mut stream), (mut peer, head)) = (opened?, upstream?);
    holds!(head.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{head}");
    for (name, value) in [("host", "shop"), ("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")]
    {
        same!(field(&head, name), value);
    }
    same!(STANDARD.decode(field(&head, "sec-websocket-key"))?.len(), 16);
    same!(response.status(), 200);
    for name in ["sec-websocket-accept", "upgrade", "connection", "content-length"] {
        holds!(!response.headers().contains_key(name), "{name}: {response:?}");
    }
    both_ways(&mut stream, &mut peer).await?;
    // Each direction ends by itself.
    stream.finish()?;
    same!(peer.ended().await?, b"");
    peer.send("last words").await?;
    drop(peer);
    same!(stream.exactly(100).await?, b"last words");
    weir.counted("weir_requests_active", "", 0.0).await?;
    same!(weir.metric("weir_request_flags_total", "").await?, 0.0);
    Ok(())
}

async fn both_ways(stream: &mut Stream, peer: &mut weir_tests::script::Peer) -> Result {
    for turn in 0..100 {
        let (ping, pong) = (format!("ping {turn}\n"), format!("pong {turn}\n"));
        stream.send(ping.as_bytes()).await?;
        same!(peer.until(b"\n").await?, ping);
        peer.send(&pong).await?;
        same!(stream.exactly(pong.len()).await?, pong.into_bytes());
    }
    let large = vec![b'x'; LARGE];
    let (sent, read) = tokio::join!(stream.send(&large), peer.exactly(LARGE));
    sent?;
    same!(read?.len(), LARGE);
    let (sent, read) = tokio::join!(peer.send(&large), stream.exactly(LARGE));
    sent?;
    same!(read?.len(), LARGE);
    Ok(())
}

/// What an upstream on HTTP/2 gets as the first stream, answered with `status`.
async fn accept_h2(listener: &TcpListener, offers: bool, status: StatusCode) -> Result<(Request<()>, Stream)> {
    let mut builder = h2::server::Builder::new();
    if offers {
        builder.enable_connect_protocol();
    }
    let mut connection = builder.handshake(listener.accept().await?.0).await?;
    let (request, mut respond) = connection.accept().await.ok_or("no request")??;
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let (head, receive) = request.into_parts();
    let send = respond.send_response(Response::builder().status(status).header("x-said", "yes").body(())?, false)?;
    Ok((Request::from_parts(head, ()), Stream::new(send, receive)))
}

fn seen_by_upstream(request: &Request<()>) -> Result {
    same!(request.method(), Method::CONNECT);
    same!(request.extensions().get::<Protocol>().map(Protocol::as_str), Some("websocket"));
    same!(request.uri().path_and_query().map(http::uri::PathAndQuery::as_str), Some("/chat?room=1"));
    same!(request.uri().authority().map(http::uri::Authority::as_str), Some("shop"));
    let headers: &HeaderMap = request.headers();
    same!(headers.get("sec-websocket-version").map(http::HeaderValue::as_bytes), Some(&b"13"[..]));
    for name in ["sec-websocket-key", "upgrade", "connection", "host"] {
        holds!(!headers.contains_key(name), "{name}: {request:?}");
    }
    Ok(())
}

async fn to_http2(from: Version) -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let weir = Weir::start(&to(listener.local_addr()?, Version::Two)).await?;
    let mut caller = Caller::open(weir.address("out")).await?;
    let mut wire = Connection::open(weir.address("out")).await?;
    let large = vec![b'x'; LARGE];
    if from == Version::Two {
        let (opened, upstream) = tokio::join!(caller.websocket(), accept_h2(&listener, true, StatusCode::OK));
        let ((response, mut stream), (request, mut peer)) = (opened?, upstream?);
        seen_by_upstream(&request)?;
        same!(response.status(), 200);
        same!(response.headers()["x-said"], "yes");
        let (up, down) = tokio::join!(stream.send(&large), peer.exactly(LARGE));
        up?;
        same!(down?.len(), LARGE);
        let (up, down) = tokio::join!(peer.send(&large), stream.exactly(LARGE));
        up?;
        same!(down?.len(), LARGE);
        peer.finish()?;
        same!(stream.exactly(1).await?, b"");
        stream.send(b"still here").await?;
        same!(peer.exactly(10).await?, b"still here");
        stream.finish()?;
        same!(peer.exactly(1).await?, b"");
    } else {
        // What comes ahead of the answer waits for it.
        wire.send(format!("{UPGRADE}early")).await?;
        let (request, mut peer) = accept_h2(&listener, true, StatusCode::OK).await?;
        seen_by_upstream(&request)?;
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            answer += &wire.line().await?;
        }
        holds!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
        for (name, value) in [
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("x-said", "yes"),
        ] {
            same!(field(&answer, name), value);
        }
        same!(peer.exactly(5).await?, b"early");
        let (up, down) = tokio::join!(wire.send(&large), peer.exactly(LARGE));
        up?;
        same!(down?.len(), LARGE);
        let line = [&large[..], b"\n"].concat();
        let (up, down) = tokio::join!(peer.send(&line), wire.line());
        up?;
        same!(down?.len(), LARGE + 1);
        wire.finish().await?;
        same!(peer.exactly(1).await?, b"");
        peer.send(b"bye").await?;
        peer.finish()?;
        same!(wire.rest().await?, b"bye");
    }
    weir.counted("weir_requests_active", "", 0.0).await?;
    same!(weir.metric("weir_request_flags_total", "").await?, 0.0);
    Ok(())
}

async fn where_the_upstream_does_not_offer_it() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let weir = Weir::start(&to(listener.local_addr()?, Version::Two)).await?;
    let mut caller = Caller::open(weir.address("out")).await?;
    let upstream = async {
        // Its settings do not have it; then an HTTP/1 connection comes.
        let mut first = h2::server::handshake(listener.accept().await?.0).await?;
        let first = tokio::spawn(async move { first.accept().await.is_some() });
        let (mut stream, _) = listener.accept().await?;
        let head = read_head(&mut stream).await?;
        tokio::io::AsyncWriteExt::write_all(&mut stream, format!("{}hello", consent(&head)).as_bytes()).await?;
        holds!(!first.is_finished(), "the connection is kept for other requests");
        weir_tests::Result::<_>::Ok(stream)
    };
    let (opened, upstream) = tokio::join!(caller.websocket(), upstream);
    let ((response, mut stream), _upstream) = (opened?, upstream?);
    same!(response.status(), 200);
    same!(stream.exactly(5).await?, b"hello");
    Ok(())
}

async fn read_head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::io::AsyncReadExt::read_u8(stream).await?);
    }
    Ok(String::from_utf8(head)?)
}

async fn a_handshake_that_was_not_understood() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let mut caller = Caller::open(weir.address("out")).await?;
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    for answer in [format!("{switch}\r\n"), format!("{switch}Sec-WebSocket-Accept: {}\r\n\r\n", accept_of("another"))] {
        let upstream = async {
            let mut peer = script.accept().await?;
            peer.head().await?;
            peer.send(&answer).await?;
            peer.ended().await
        };
        let (opened, ended) = tokio::join!(caller.websocket(), upstream);
        same!(ended?, b"", "nothing is sent into it");
        let (response, _) = opened?;
        same!((response.status().as_u16(), response.headers()["x-weir-error"].as_bytes()), (502, &b"upstream_protocol"[..]));
    }
    Ok(())
}

async fn refusals_are_answers() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let mut caller = Caller::open(weir.address("out")).await?;
    let upstream = async {
        let mut peer = script.accept().await?;
        peer.head().await?;
        peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await?;
        peer.ended().await
    };
    let (opened, ended) = tokio::join!(caller.websocket(), upstream);
    same!(ended?, b"", "the connection is not used again");
    let (response, mut stream) = opened?;
    same!((response.status().as_u16(), stream.exactly(100).await?), (403, b"no".to_vec()));
    // And over HTTP/2.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let weir = Weir::start(&to(listener.local_addr()?, Version::Two)).await?;
    let mut wire = Connection::open(weir.address("out")).await?;
    wire.send(UPGRADE).await?;
    let (_, mut peer) = accept_h2(&listener, true, StatusCode::FORBIDDEN).await?;
    peer.send(b"no").await?;
    peer.finish()?;
    same!(peer.exactly(1).await?, b"", "nothing came behind the request");
    let response = wire.response(false).await?;
    same!((response.status, response.text().as_str()), (403, "no"));
    Ok(())
}

/// A 2xx is consent where it answers an extended CONNECT. An app that takes the request for a plain GET has not consented.
async fn an_app_that_never_agreed() -> Result {
    let app = weir_tests::quick::Quick::text("a page").await?;
    let inner = Weir::start(&to(app.address, Version::One)).await?;
    let outer = Weir::start(&to(inner.address("out"), Version::Two)).await?;
    let mut caller = Caller::open(inner.address("out")).await?;
    let (response, _) = caller.websocket().await?;
    same!((response.status().as_u16(), response.headers()["x-weir-error"].as_bytes()), (502, &b"upstream_protocol"[..]));
    let mut wire = Connection::open(outer.address("out")).await?;
    wire.send(UPGRADE).await?;
    same!(wire.response(false).await?.status, 502);
    // To a caller on HTTP/1 a page is a page.
    let mut wire = Connection::open(inner.address("out")).await?;
    wire.send(UPGRADE).await?;
    same!(wire.response(false).await?.text(), "a page");
    // Nor does weir's own answer open a tunnel.
    let own = to(app.address, Version::One).replace("backends: [{ cluster: app }]", "respond: { status: 200 }");
    holds!(own.contains("respond"), "{own}");
    let weir = Weir::start(&own).await?;
    let mut caller = Caller::open(weir.address("out")).await?;
    for (uri, protocol) in [("http://shop/", Some("websocket")), ("shop:443", None)] {
        let (response, _) = caller.connect(uri, protocol).await?;
        same!(response.status(), 405, "{protocol:?}");
    }
    // A switch to nothing, or to something else, is none.
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    for upgrade in ["", "Upgrade: foo\r\n"] {
        let mut wire = Connection::open(weir.address("out")).await?;
        wire.send(UPGRADE).await?;
        let mut peer = script.accept().await?;
        peer.head().await?;
        peer.send(format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}Connection: Upgrade\r\n\r\n")).await?;
        same!(wire.response(false).await?.status, 502, "{upgrade:?}");
    }
    Ok(())
}

/// `Content-Length: 0` says nothing in HTTP/1's handshake; on a stream it would forbid every byte.
async fn lengths_stay_behind() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let weir = Weir::start(&to(listener.local_addr()?, Version::Two)).await?;
    let mut wire = Connection::open(weir.address("out")).await?;
    wire.send(UPGRADE.replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\nhello")).await?;
    let (request, mut peer) = accept_h2(&listener, true, StatusCode::OK).await?;
    holds!(!request.headers().contains_key("content-length"), "{request:?}");
    same!(peer.exactly(5).await?, b"hello");
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let mut caller = Caller::open(weir.address("out")).await?;
    let (opened, upstream) = tokio::join!(caller.websocket(), consents(&script, "Content-Length: 0\r\n\r\nhello"));
    let ((_, mut stream), (_peer, _)) = (opened?, upstream?);
    same!(stream.exactly(5).await?, b"hello");
    Ok(())
}

/// Serves every stream: a tunnel gets small messages until its caller reads no more, a request gets its answer.
async fn flood(listener: TcpListener) -> Result {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut connection = h2::server::Builder::new().enable_connect_protocol().handshake::<_, Bytes>(stream).await.ok()?;
            let mut tunnels = 0;
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let is_tunnel = request.method() == Method::CONNECT;
                let mut send = respond.send_response(Response::new(()), false).ok()?;
                if !is_tunnel {
                    send.send_data(Bytes::from_static(b"ok"), true).ok()?;
                    continue;
                }
                // Very small ones for some: they keep this process busy.
                let length = if tunnels % 8 == 0 { 20 } else { 500 };
                tunnels += 1;
                tokio::spawn(async move {
                    let _up = request;
                    loop {
                        send.reserve_capacity(length);
                        match std::future::poll_fn(|cx| send.poll_capacity(cx)).await {
                            Some(Ok(room)) => send.send_data(Bytes::from(vec![b'x'; room.min(length)]), false).ok()?,
                            _ => return Some(()),
                        }
                    }
                });
            }
            Some(())
        });
    }
}

async fn who_does_not_read_keeps_nobody_else_waiting() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let weir = Weir::start(&to(listener.local_addr()?, Version::Two)).await?;
    let upstream = tokio::spawn(flood(listener));
    let mut stalled = Vec::new();
    for number in 0..40 {
        let mut wire = Connection::open(weir.address("out")).await?;
        wire.send(UPGRADE).await?;
        while wire.line().await? != "\r\n" {}
        stalled.push(wire);
        // Requests in between, and tunnels that are read.
        same!(raw::get(weir.address("out"), "shop", "/").await?.text(), "ok", "after {number}");
    }
    for wire in &mut stalled {
        same!(wire.exactly(200_000).await?.len(), 200_000);
    }
    same!(weir.metric("weir_request_flags_total", "").await?, 0.0);
    upstream.abort();
    Ok(())
}

async fn other_protocols() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let mut caller = Caller::open(weir.address("out")).await?;
    let (response, _) = caller.connect("http://shop/", Some("foo")).await?;
    same!((response.status().as_u16(), response.headers()["x-weir-error"].as_bytes()), (405, &b"connect_refused"[..]));
    let weir = Weir::start(&to(script.address, Version::Two).replace("name: only,", "name: only, upgrades: [foo],")).await?;
    let mut caller = Caller::open(weir.address("out")).await?;
    let upstream = async {
        let mut peer = script.accept().await?;
        let head = peer.head().await?;
        peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\nfoo!").await?;
        weir_tests::Result::<_>::Ok((peer, head))
    };
    let (opened, upstream) = tokio::join!(caller.connect("http://shop/", Some("foo")), upstream);
    let ((response, mut stream), (_peer, head)) = (opened?, upstream?);
    same!((response.status().as_u16(), field(&head, "upgrade"), field(&head, "sec-websocket-key")), (200, "foo", ""));
    same!(stream.exactly(4).await?, b"foo!");
    Ok(())
}

/// CONNECT without a protocol: a tunnel to an endpoint of the rule's cluster, where the rule allows it.
async fn plain_connect() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let mut caller = Caller::open(weir.address("out")).await?;
    let (response, _) = caller.connect("shop:443", None).await?;
    same!((response.status().as_u16(), response.headers()["x-weir-error"].as_bytes()), (405, &b"connect_refused"[..]));
    let weir = Weir::start(&to(script.address, Version::One).replace("name: only,", "name: only, upgrades: [connect],")).await?;
    let mut caller = Caller::open(weir.address("out")).await?;
    let (response, mut stream) = caller.connect("shop:443", None).await?;
    same!(response.status(), 200);
    let mut peer = script.accept().await?;
    both_ways(&mut stream, &mut peer).await
}

async fn a_break_is_no_end() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One).replace("name: only,", "name: only, upgrades: [connect],")).await?;
    let mut caller = Caller::open(weir.address("out")).await?;
    let (_, mut stream) = caller.connect("shop:443", None).await?;
    let mut peer = script.accept().await?;
    stream.send(b"a\n").await?;
    peer.until(b"\n").await?;
    peer.reset()?;
    let broken = stream.exactly(1).await;
    holds!(broken.is_err(), "{broken:?}");
    weir.counted("weir_request_flags_total", "UR", 1.0).await?;
    // And the other way round.
    let (_, mut stream) = caller.connect("shop:443", None).await?;
    let mut peer = script.accept().await?;
    stream.send(b"a\n").await?;
    peer.until(b"\n").await?;
    stream.send.send_reset(h2::Reason::CANCEL);
    holds!(peer.exactly(1).await.is_err());
    weir.counted("weir_request_flags_total", "DC", 1.0).await
}

/// HAProxy turns a WebSocket over HTTP/1 into one over HTTP/2, and weir turns it back.
async fn haproxy_between() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let (dir, port) = (tempfile::tempdir()?, reserve()?);
    let conf = format!(
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 9s\n  timeout server 9s\nlisten l\n  bind {}\n  \
         server s {} proto h2 ws h2\n",
        port.address,
        weir.address("out")
    );
    let file = dir.path().join("haproxy.cfg");
    std::fs::write(&file, conf)?;
    let mut haproxy = Command::new("haproxy");
    let _running = haproxy.arg("-db").arg("-f").arg(&file).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
    until("haproxy listens", async || raw::Connection::open(port.address).await.is_ok()).await?;
    let mut connection = Connection::open(port.address).await?;
    connection.send(UPGRADE).await?;
    let mut peer = script.accept().await?;
    let head = peer.head().await?;
    holds!(head.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{head}");
    peer.send(consent(&head)).await?;
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        answer += &connection.line().await?;
    }
    holds!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    same!(field(&answer, "sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    for turn in 0..20 {
        connection.send(format!("ping {turn}\n")).await?;
        same!(peer.until(b"\n").await?, format!("ping {turn}\n"));
        peer.send(format!("pong {turn}\n")).await?;
        same!(connection.line().await?, format!("pong {turn}\n"));
    }
    Ok(())
}
