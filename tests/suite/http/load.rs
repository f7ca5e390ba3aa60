//! Many requests at once, from tools that other people wrote, and how many connections they cost upstream.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::process::Command;
use tokio::sync::Barrier;
use weir_tests::origin::full;
use weir_tests::peers::Peer;
use weir_tests::wire::{self, Keeper, Version};
use weir_tests::{Origin, Result, Trial, Weir, holds, same, test, test_with, two, until};

pub fn trials() -> Vec<Trial> {
    vec![
        test_with("http::load::h2load", &[Peer::Program("h2load")], h2load),
        test_with("http::load::wrk", &[Peer::Program("wrk")], wrk),
        test("http::load::one_http2_connection_carries_all", one_connection_carries_all),
        test("http::load::streams_beyond_the_peers_limit_open_connections", beyond_the_limit),
        test("http::load::the_limit_holds_on_a_fresh_connection", beyond_the_limit_at_once),
        test("http::load::many_slow_readers_cost_little_and_leave_nothing", many_slow_readers),
    ]
}

/// Hundreds of large answers that nobody reads: each costs a small buffer, and when they are gone the memory is given back.
async fn many_slow_readers() -> Result {
    const MANY: usize = 400;
    const MIB: u64 = 1 << 20;
    let large = Bytes::from(vec![b'x'; 1 << 20]);
    let origin = Origin::start(move |_| {
        let large = large.clone();
        async { Response::new(full(large)) }
    })
    .await?;
    let weir = Weir::start(&wire::to(origin.address, Version::One)).await?;
    let idle = weir.anonymous()?;
    let mut callers = Vec::new();
    for _ in 0..MANY {
        let socket = TcpSocket::new_v4()?;
        // The kernel takes little of it off weir's hands.
        socket.set_recv_buffer_size(4096)?;
        let mut caller = socket.connect(weir.address("out")).await?;
        caller.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
        callers.push(caller);
    }
    until("all are at the origin", async || origin.count() == MANY).await?;
    let before = Cell::new(0);
    until("nothing moves any more", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = weir.anonymous().unwrap_or(0);
        before.replace(now) == now
    })
    .await?;
    let grown = weir.anonymous()?.saturating_sub(idle);
    // 16 MiB in large buffers, and for each of the others one of 16 KiB and what a connection costs.
    holds!(grown < 40 * MIB, "{MANY} slow readers cost {grown} bytes");
    holds!(grown > 4 * MIB, "they were slow: {grown} bytes");
    drop(callers);
    weir.counted("weir_requests_active", "", 0.0).await?;
    let given_back = until("the memory is given back", async || weir.anonymous().is_ok_and(|now| now < idle + grown / 2)).await;
    given_back
        .map_err(|error| format!("{error}: {:?} bytes now, {idle} before all, {grown} more at the most", weir.anonymous()).into())
}

async fn h2load() -> Result {
    let origin = Origin::text("hello").await?;
    for onward in [Version::One, Version::Two] {
        let weir = Weir::start(&wire::to(origin.address, onward).replace("workers: 1", "workers: 2")).await?;
        let url = format!("http://{}/", weir.address("out"));
        let before = origin.count();
        let done = Command::new("h2load").args(["-n", "20000", "-c", "4", "-m", "32", "-T", "30", &url]).output().await?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let summary = "requests: 20000 total, 20000 started, 20000 done, 20000 succeeded, 0 failed, 0 errored, 0 timeout";
        holds!(text.contains(summary), "{onward:?}: {text}");
        same!(origin.count() - before, 20_000, "{onward:?}: each request arrives once");
        until("all are counted", async || weir.metric("weir_requests_total", "2xx").await.is_ok_and(|n| n >= 20_000.0)).await?;
        weir.counted("weir_requests_total", "", 20_000.0).await.map_err(|error| format!("{onward:?}: {error}"))?;
        same!(weir.metric("weir_request_flags_total", "").await?, 0.0, "{onward:?}");
        if onward == Version::Two {
            holds!(weir.metric("weir_upstream_connections_total", "http2").await? <= 4.0, "two workers, few connections");
        }
    }
    Ok(())
}

async fn wrk() -> Result {
    let origin = Origin::text("hello").await?;
    for onward in [Version::One, Version::Two] {
        let weir = Weir::start(&wire::to(origin.address, onward).replace("workers: 1", "workers: 2")).await?;
        let url = format!("http://{}/", weir.address("out"));
        let done = Command::new("wrk").args(["-t", "1", "-c", "16", "-d", "2s", &url]).output().await?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        holds!(
            text.contains(" requests in ") && !text.contains("Socket errors") && !text.contains("Non-2xx"),
            "{onward:?}: {text}"
        );
        // Those that were under way when wrk stopped are the caller's doing; none is anybody else's.
        until("all are over", async || weir.metric("weir_requests_active", "").await.is_ok_and(|n| n == 0.0)).await?;
        let flags = weir.metric("weir_request_flags_total", "").await?;
        same!(flags, weir.metric("weir_request_flags_total", "flag=\"DC\"").await?, "{onward:?}");
        holds!(flags <= 16.0, "{onward:?}: {flags}");
    }
    Ok(())
}

async fn one_connection_carries_all() -> Result {
    let keeper = Keeper::start(|_| Response::new(full("ok"))).await?;
    let weir = Weir::start(&wire::to(keeper.origin.address, Version::Two)).await?;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(two::Client::open(weir.address("out")).await?);
    }
    for _ in 0..4 {
        let mut waiting = Vec::new();
        for client in &clients {
            for _ in 0..16 {
                waiting.push(client.get("/").await?);
            }
        }
        for response in waiting {
            same!(response.await?.status().as_u16(), 200);
        }
    }
    same!(keeper.origin.connections.load(Ordering::Relaxed), 1);
    Ok(())
}

/// An origin that allows ten streams a connection and answers only when thirty requests are there.
async fn thirty(delay: Duration) -> Result<two::Server> {
    let all = Arc::new(Barrier::new(30));
    two::Server::far(Some(10), delay, move |request, mut respond| {
        let all = Arc::clone(&all);
        async move {
            if request.uri().path() == "/all" {
                all.wait().await;
            }
            respond.send_response(Response::new(()), true)?;
            Ok(())
        }
    })
    .await
}

async fn thirty_at_once(weir: &Weir) -> Result {
    let client = two::Client::open(weir.address("out")).await?;
    let mut waiting = Vec::new();
    for _ in 0..30 {
        waiting.push(client.get("/all").await?);
    }
    let answers = async {
        for response in waiting {
            same!(response.await?.status().as_u16(), 200);
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(10), answers).await.map_err(|_| "requests wait for streams that never come free")?
}

async fn beyond_the_limit() -> Result {
    let server = thirty(Duration::ZERO).await?;
    let weir = Weir::start(&wire::to(server.address, Version::Two)).await?;
    // One request first, so that weir knows the limit.
    let client = two::Client::open(weir.address("out")).await?;
    same!(client.get("/first").await?.await?.status().as_u16(), 200);
    thirty_at_once(&weir).await?;
    same!(server.count(), 3);
    Ok(())
}

/// As above, but the first thing the origin sees is thirty requests: its limit is in its SETTINGS, and those are on
/// their way when the requests come.
async fn beyond_the_limit_at_once() -> Result {
    let server = thirty(Duration::from_millis(200)).await?;
    let weir = Weir::start(&wire::to(server.address, Version::Two)).await?;
    thirty_at_once(&weir).await?;
    same!(server.count(), 3);
    Ok(())
}
