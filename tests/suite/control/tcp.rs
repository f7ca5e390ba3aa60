//! Opaque TCP listeners.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir_tests::raw::Connection;
use weir_tests::script::Script;
use weir_tests::{Result, Trial, Weir, holds, same, test, until};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        test("control::tcp::bytes_both_ways", bytes_both_ways),
        test("control::tcp::bulk_and_trickle_arrive_as_they_left", bulk_and_trickle_arrive_as_they_left),
        test("control::tcp::whoever_speaks_first", whoever_speaks_first),
        test("control::tcp::a_half_close_is_passed_on", a_half_close_is_passed_on),
        test("control::tcp::a_reset_is_passed_on_at_once", a_reset_is_passed_on_at_once),
        test("control::tcp::a_reset_is_no_end_for_who_still_sends", a_reset_is_no_end_for_who_still_sends),
        test("control::tcp::nobody_there_is_a_reset", nobody_there_is_a_reset),
        test("control::tcp::tunnels_survive_swaps", tunnels_survive_swaps),
    ]
}

/// A configuration with one worker and the opaque listener `db` before these endpoints.
pub(super) fn to(endpoints: &[std::net::SocketAddr]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("'{address}'")).collect();
    format!(
        "workers: 1
listeners: [{{ name: db, listen: 127.0.0.1:0, direction: outbound, protocol: tcp, cluster: db }}]
clusters: {{ db: {{ endpoints: [{}] }} }}
",
        endpoints.join(", ")
    )
}

async fn bytes_both_ways() -> Result {
    let script = Script::listen().await?;
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("access.log");
    let weir = Weir::start(&format!("access_log: {{ path: '{}' }}\n{}", log.display(), to(&[script.address]))).await?;
    let mut connection = Connection::open(weir.address("db")).await?;
    // Nothing of it is HTTP, and much of it looks as if it were.
    connection.send(b"PRI * HTTP/2.0\r\n\r\nGET / HTTP/1.1\r\n\0\xff\n").await?;
    let mut peer = script.accept().await?;
    peer.until(b"\0\xff\n").await?;
    let large = "x".repeat(3 << 20) + "\n";
    let (sent, read) = tokio::join!(peer.send(&large), connection.line());
    sent?;
    same!(read?.len(), large.len());
    // Counted while it lasts.
    weir.counted("weir_tcp_bytes_total", "received", large.len() as f64).await?;
    drop((connection, peer));
    until("the connection is in the log", async || {
        let line = std::fs::read_to_string(&log).unwrap_or_default();
        line.contains("\"protocol\":\"TCP\"")
            && line.contains("\"upstream_cluster\":\"db\"")
            && line.contains("\"response_flags\":\"-\"")
    })
    .await
}

/// Bulk takes another way through weir than single messages do; a stream that goes back and forth between the two keeps
/// its order.
async fn bulk_and_trickle_arrive_as_they_left() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(&[script.address])).await?;
    let mut connection = Connection::open(weir.address("db")).await?;
    let mut peer = script.accept().await?;
    let mut random = fastrand::Rng::with_seed(7);
    for turn in 0..12 {
        let bulk: Vec<u8> = (0..2 << 20).map(|_| random.u8(..)).collect();
        let (sent, arrived) = tokio::join!(connection.send(&bulk), peer.exactly(bulk.len()));
        sent?;
        holds!(arrived? == bulk, "turn {turn}");
        let (sent, arrived) = tokio::join!(peer.send(&bulk), connection.exactly(bulk.len()));
        sent?;
        holds!(arrived? == bulk, "turn {turn}, back");
        for _ in 0..20 {
            let little: Vec<u8> = (0..random.usize(1..300)).map(|_| random.u8(..)).collect();
            connection.send(&little).await?;
            same!(peer.exactly(little.len()).await?, little);
            peer.send(&little).await?;
            same!(connection.exactly(little.len()).await?, little);
        }
    }
    // The end of bulk is not lost, and neither is what comes after it the other way.
    let bulk: Vec<u8> = (0..8 << 20).map(|_| random.u8(..)).collect();
    let (sent, arrived) = tokio::join!(
        async {
            connection.send(&bulk).await?;
            connection.finish().await
        },
        peer.ended()
    );
    sent?;
    holds!(arrived? == bulk);
    peer.send("thanks\n").await?;
    drop(peer);
    same!(connection.rest().await?, b"thanks\n");
    Ok(())
}

/// MySQL, SMTP: the server greets, and the client says nothing before.
async fn whoever_speaks_first() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(&[script.address])).await?;
    let mut connection = Connection::open(weir.address("db")).await?;
    let mut peer = script.accept().await?;
    peer.send("220 ready\n").await?;
    same!(connection.line().await?, "220 ready\n");
    Ok(())
}

async fn a_half_close_is_passed_on() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(&[script.address])).await?;
    let mut connection = Connection::open(weir.address("db")).await?;
    connection.send("all there is").await?;
    connection.finish().await?;
    let mut peer = script.accept().await?;
    same!(peer.ended().await?, b"all there is");
    peer.send("and the answer").await?;
    drop(peer);
    same!(connection.rest().await?, b"and the answer");
    weir.counted("weir_downstream_connections_active", "db", 0.0).await
}

/// A process that was killed, a host that came back: who waits on the other side learns it now, not when it gives up.
async fn a_reset_is_passed_on_at_once() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(&[script.address])).await?;
    for by_the_caller in [true, false] {
        let mut connection = Connection::open(weir.address("db")).await?;
        let mut peer = script.accept().await?;
        connection.send("begin\n").await?;
        peer.until(b"begin\n").await?;
        if by_the_caller {
            connection.reset()?;
            peer.ended().await?;
        } else {
            peer.reset()?;
            let rest = connection.rest().await;
            holds!(rest.as_ref().is_err_and(|error| error.to_string().contains("reset")), "{rest:?}");
        }
    }
    weir.counted("weir_downstream_connections_active", "db", 0.0).await
}

/// The kernel tells of a reset once: if a write is told, the next read finds nothing but an end.
async fn a_reset_is_no_end_for_who_still_sends() -> Result {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let weir = Weir::start(&to(&[server.local_addr()?])).await?;
    let crashes = tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            let mut some = vec![0; 300_000];
            let _ = stream.read_exact(&mut some).await;
            let _ = stream.write_all(&[b'a'; 1000]).await;
            // What it has not read, it never will.
            drop(stream);
        }
    });
    for _ in 0..200 {
        let mut caller = tokio::net::TcpStream::connect(weir.address("db")).await?;
        let told = async {
            caller.write_all(&vec![0; 3_000_000]).await?;
            caller.read_to_end(&mut Vec::new()).await
        };
        let told = tokio::time::timeout(Duration::from_secs(10), told).await?;
        holds!(told.is_err(), "an answer that was cut off looks whole: {told:?}");
    }
    crashes.abort();
    Ok(())
}

async fn nobody_there_is_a_reset() -> Result {
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let weir = Weir::start(&to(&[dead])).await?;
    let start = Instant::now();
    // The reset may come as early as while the connection opens.
    let rest = match Connection::open(weir.address("db")).await {
        Ok(mut connection) => connection.rest().await,
        Err(error) => Err(error),
    };
    holds!(rest.is_err(), "{rest:?} looks like a service with nothing to say");
    holds!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    weir.counted("weir_tcp_failed_total", "db", 1.0).await?;
    // With another endpoint, nobody notices.
    let script = Script::listen().await?;
    let weir = Weir::start(&to(&[dead, script.address])).await?;
    for _ in 0..10 {
        let mut connection = Connection::open(weir.address("db")).await?;
        let mut peer = script.accept().await?;
        peer.send("hello\n").await?;
        same!(connection.line().await?, "hello\n");
    }
    Ok(())
}

async fn tunnels_survive_swaps() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&to(&[script.address])).await?;
    let mut tunnels = Vec::new();
    for _ in 0..30 {
        let connection = Connection::open(weir.address("db")).await?;
        tunnels.push((connection, script.accept().await?));
    }
    for turn in 1..=20 {
        weir.reload(&to(&[script.address]).replace("] }", &format!("], connect_timeout: {turn}00ms }}"))).await?;
    }
    for (connection, peer) in &mut tunnels {
        connection.send("still\n").await?;
        peer.until(b"still\n").await?;
        peer.send("here\n").await?;
        same!(connection.line().await?, "here\n");
    }
    Ok(())
}
