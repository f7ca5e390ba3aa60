//! Connections that become tunnels: upgrades and CONNECT.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::process::Command;
use weir_tests::echo::{SWITCH, UPGRADE};
use weir_tests::peers::Peer;
use weir_tests::quick::Quick;
use weir_tests::raw::Connection;
use weir_tests::script::Script;
use weir_tests::wire::{Caller, Version, to};
use weir_tests::{Result, Trial, Weir, holds, raw, same, test, test_with, until};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::tunnels::a_websocket_both_ways", a_websocket_both_ways),
        test("http::tunnels::a_refused_upgrade_is_an_answer", a_refused_upgrade_is_an_answer),
        test("http::tunnels::nothing_goes_before_the_101", nothing_goes_before_the_101),
        test("http::tunnels::other_protocols_are_not_offered", other_protocols_are_not_offered),
        test("http::tunnels::each_side_ends_by_itself", each_side_ends_by_itself),
        test("http::tunnels::a_reset_is_passed_on_at_once", a_reset_is_passed_on_at_once),
        test("http::tunnels::they_outlive_clocks_and_swaps", they_outlive_clocks_and_swaps),
        test("http::tunnels::connect_where_a_rule_allows_it", connect_where_a_rule_allows_it),
        test_with("http::tunnels::curl_through_the_proxy", &[Peer::Program("curl")], curl_through_the_proxy),
    ]
}

/// A caller and an upstream that have agreed to switch.
async fn switched(weir: &Weir, script: &Script) -> Result<(Connection, weir_tests::script::Peer)> {
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send(UPGRADE).await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    peer.send(SWITCH).await?;
    while connection.line().await? != "\r\n" {}
    Ok((connection, peer))
}

async fn a_websocket_both_ways() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send(UPGRADE).await?;
    let mut peer = script.accept().await?;
    let head = peer.head().await?;
    for line in ["Upgrade: WebSocket", "connection: upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="] {
        holds!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
    // Bytes right behind the 101 are part of the tunnel.
    peer.send(format!("{SWITCH}first")).await?;
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        answer += &connection.line().await?;
    }
    holds!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
    for line in ["Upgrade: websocket", "connection: upgrade", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="] {
        holds!(answer.contains(&format!("\r\n{line}\r\n")), "{line}: {answer}");
    }
    holds!(!answer.to_ascii_lowercase().contains("content-length") && !answer.contains("transfer-encoding"), "{answer}");
    for turn in 0..200 {
        connection.send(format!("ping {turn}\n")).await?;
        peer.until(format!("ping {turn}\n").as_bytes()).await?;
        peer.send(format!("pong {turn}\n")).await?;
        let line = connection.line().await?;
        same!(line.trim_start_matches("first"), format!("pong {turn}\n"));
    }
    drop(connection);
    peer.ended().await?;
    drop(peer);
    weir.counted("weir_requests_active", "", 0.0).await?;
    same!(weir.metric("weir_request_flags_total", "").await?, 0.0, "a tunnel that is closed has not failed");
    same!(weir.metric("weir_requests_total", "1xx").await?, 1.0);
    Ok(())
}

async fn a_refused_upgrade_is_an_answer() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send(UPGRADE).await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await?;
    let response = connection.response(false).await?;
    same!((response.status, response.text().as_str()), (403, "no"));
    // The caller's connection is still one of HTTP, and the upstream's is not used again.
    connection.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await?;
    same!(peer.ended().await?, b"");
    let mut next = script.accept().await?;
    next.head().await?;
    next.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
    same!(connection.response(false).await?.status, 200);
    Ok(())
}

/// CVE-2026-2833 and its family: what a caller sends right behind an upgrade belongs to nobody until it is agreed.
async fn nothing_goes_before_the_101() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let smuggled = "GET /admin HTTP/1.1\r\nHost: shop\r\n\r\n";
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send(format!("{UPGRADE}{smuggled}")).await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    let early = tokio::time::timeout(Duration::from_millis(200), peer.until(b"\r\n")).await;
    holds!(early.is_err(), "before the 101 came {early:?}");
    // Refused, it is the next request, on a connection of its own.
    peer.send("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n").await?;
    same!(connection.response(false).await?.status, 404);
    same!(peer.ended().await?, b"");
    let mut next = script.accept().await?;
    holds!(next.head().await?.starts_with("GET /admin HTTP/1.1\r\n"));
    // Agreed, it is the first of the tunnel.
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send(format!("{UPGRADE}{smuggled}")).await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    peer.send(SWITCH).await?;
    same!(peer.until(b"\r\n\r\n").await?, smuggled);
    Ok(())
}

async fn other_protocols_are_not_offered() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    for upgrade in ["foo", "h2c", "websocket, foo"] {
        let mut connection = Connection::open(weir.address("out")).await?;
        connection.send(UPGRADE.replace("WebSocket\r\n", &format!("{upgrade}\r\n"))).await?;
        let mut peer = script.accept().await?;
        let head = peer.head().await?.to_ascii_lowercase();
        holds!(!head.contains("\r\nupgrade:") && !head.contains("\r\nconnection:"), "{upgrade}: {head}");
        // An upstream that switches all the same is at fault.
        peer.send(SWITCH).await?;
        let response = connection.response(false).await?;
        same!((response.status, response.header("x-weir-error")), (502, Some("upstream_protocol")));
    }
    let weir = Weir::start(&to(script.address, Version::One).replace("name: only,", "name: only, upgrades: [foo],")).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send(UPGRADE.replace("WebSocket", "Foo")).await?;
    let mut peer = script.accept().await?;
    holds!(peer.head().await?.contains("\r\nUpgrade: Foo\r\n"));
    peer.send(SWITCH.replace("websocket", "foo")).await?;
    holds!(connection.line().await?.starts_with("HTTP/1.1 101 "));
    Ok(())
}

async fn each_side_ends_by_itself() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let (mut connection, mut peer) = switched(&weir, &script).await?;
    connection.send("last words").await?;
    connection.finish().await?;
    same!(peer.ended().await?, b"last words");
    peer.send("and an answer").await?;
    drop(peer);
    same!(connection.rest().await?, b"and an answer");
    weir.counted("weir_requests_active", "", 0.0).await
}

async fn a_reset_is_passed_on_at_once() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(script.address, Version::One)).await?;
    let (connection, mut peer) = switched(&weir, &script).await?;
    connection.reset()?;
    peer.ended().await?;
    let (mut connection, peer) = switched(&weir, &script).await?;
    peer.reset()?;
    let rest = connection.rest().await;
    holds!(rest.as_ref().is_err_and(|error| error.to_string().contains("reset")), "{rest:?}");
    weir.counted("weir_requests_active", "", 0.0).await
}

async fn they_outlive_clocks_and_swaps() -> Result {
    let script = Script::listen().await?;
    let yaml = to(script.address, Version::One).replace("name: only,", "name: only, timeout: { request: 300ms, idle: 300ms },");
    let weir = Weir::start(&yaml).await?;
    let mut tunnels = Vec::new();
    for _ in 0..20 {
        tunnels.push(switched(&weir, &script).await?);
    }
    for turn in 0..10 {
        weir.reload(&format!("{yaml}# {turn}\n").replace("300ms", &format!("{}ms", 301 + turn))).await?;
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    for (connection, peer) in &mut tunnels {
        connection.send("still\n").await?;
        peer.until(b"still\n").await?;
        peer.send("here\n").await?;
        same!(connection.line().await?, "here\n");
    }
    same!(weir.metric("weir_requests_active", "").await?, 20.0);
    Ok(())
}

/// A configuration that lets callers CONNECT, and sends everything to one place.
pub(super) fn tunnelling(address: SocketAddr) -> String {
    to(address, Version::One).replace("name: only,", "name: only, upgrades: [connect],")
}

async fn connect_where_a_rule_allows_it() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&tunnelling(script.address)).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send("CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\n\x16\x03\x01").await?;
    let mut peer = script.accept().await?;
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        answer += &connection.line().await?;
    }
    holds!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    holds!(!answer.contains("content-length") && !answer.contains("connection"), "{answer}");
    peer.until(b"\x16\x03\x01").await?;
    peer.send("any bytes\n").await?;
    same!(connection.line().await?, "any bytes\n");
    drop(peer);
    same!(connection.rest().await?, b"");
    // Nobody there: an error, as for any request. And over HTTP/2 it is not offered.
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let weir = Weir::start(&tunnelling(dead)).await?;
    let response = raw::request(weir.address("out"), "CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\n").await?;
    same!((response.status, response.header("x-weir-error")), (503, Some("connect_failed")));
    let caller = Caller::open(weir.address("out"), Version::Two).await?;
    drop(caller);
    until("nothing is left", async || weir.metric("weir_requests_active", "").await.is_ok_and(|n| n == 0.0)).await
}

/// `HTTP_PROXY=`: plain requests in absolute form, and tunnels.
async fn curl_through_the_proxy() -> Result {
    let quick = Quick::text("through").await?;
    let weir = Weir::start(&tunnelling(quick.address)).await?;
    let proxy = format!("http://{}", weir.address("out"));
    for tunnel in [false, true] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "10", "-x", &proxy, "http://shop.internal/a?b"]);
        if tunnel {
            curl.arg("-p");
        }
        let done = curl.output().await?;
        same!(String::from_utf8_lossy(&done.stdout), "through", "{}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}
