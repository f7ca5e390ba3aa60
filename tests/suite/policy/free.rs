//! What is tried again without being asked for, because it was not processed; and what is not, because it may have been.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use weir_tests::quick::Quick;
use weir_tests::raw::Connection;
use weir_tests::script::Script;
use weir_tests::{Result, Trial, Weir, holds, raw, same, test, test_alone, two};

use super::ruled;

pub fn trials() -> Vec<Trial> {
    vec![
        test("policy::free::a_failed_connect_moves_on", a_failed_connect_moves_on),
        test("policy::free::a_refused_stream_is_sent_again", a_refused_stream_is_sent_again),
        test("policy::free::what_goaway_left_out_is_sent_again", what_goaway_left_out_is_sent_again),
        test("policy::free::what_never_reached_an_app_is_sent_elsewhere", what_never_reached_an_app_is_sent_elsewhere),
        test("policy::free::no_app_speaks_for_weir", no_app_speaks_for_weir),
        test("policy::free::what_an_app_works_on_is_not_sent_elsewhere", what_an_app_works_on_is_not_sent_elsewhere),
        test("policy::free::a_fresh_connection_that_dies_is_an_error", a_fresh_connection_that_dies_is_an_error),
        test("policy::free::a_request_that_was_worked_on_is_not_repeated", a_request_that_was_worked_on_is_not_repeated),
        test("policy::free::a_request_that_was_heard_is_not_repeated", a_request_that_was_heard_is_not_repeated),
        test_alone("policy::free::the_idle_edge", the_idle_edge),
    ]
}

/// A port that nobody listens on.
async fn nobody() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

async fn a_failed_connect_moves_on() -> Result {
    let good = Quick::text("ok").await?;
    let dead = [nobody().await?, nobody().await?];
    let weir = Weir::start(&ruled(&[dead[0], dead[1], good.address], "http1", "")).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    for method in ["GET", "POST"].into_iter().cycle().take(30) {
        connection.send(format!("{method} / HTTP/1.1\r\nhost: shop\r\ncontent-length: 0\r\n\r\n")).await?;
        same!(connection.response(false).await?.status, 200, "{method}");
    }
    same!(good.count(), 30);
    holds!(weir.metric("weir_upstream_retries_total", "move").await? > 0.0);
    let alone = Weir::start(&ruled(&dead, "http1", "")).await?;
    let response = raw::get(alone.address("out"), "shop", "/").await?;
    same!((response.status, response.header("x-weir-error")), (503, Some("connect_failed")));
    Ok(())
}

/// A weir beside an app, and where it is called.
async fn beside(app: SocketAddr) -> Result<Weir> {
    Weir::start(&format!("listeners: [{{ name: in, listen: 127.0.0.1:0, direction: inbound, app: '{app}' }}]\n")).await
}

/// The app of one pod is gone, and the weir beside it says so: whoever calls goes to the other pod, whatever the method.
async fn what_never_reached_an_app_is_sent_elsewhere() -> Result {
    let app = Quick::text("ok").await?;
    let (alive, left) = (beside(app.address).await?, beside(nobody().await?).await?);
    for protocol in ["http1", "auto"] {
        let front = Weir::start(&ruled(&[left.address("in"), alive.address("in")], protocol, "")).await?;
        let before = app.count();
        let mut connection = Connection::open(front.address("out")).await?;
        for method in ["GET", "POST", "PATCH"].into_iter().cycle().take(30) {
            connection.send(format!("{method} / HTTP/1.1\r\nhost: shop\r\ncontent-length: 4\r\n\r\nbody")).await?;
            let response = connection.response(false).await?;
            same!((response.status, response.header("x-weir-unprocessed")), (200, None), "{method} {protocol}");
        }
        same!(app.count() - before, 30, "none of them twice");
        holds!(front.metric("weir_upstream_retries_total", "move").await? > 0.0);
        // With nowhere else to go, the reason comes through.
        let alone = Weir::start(&ruled(&[left.address("in")], protocol, "")).await?;
        let response = raw::get(alone.address("out"), "shop", "/").await?;
        same!((response.status, response.header("x-weir-unprocessed")), (503, None));
        holds!(response.text().contains("connect_failed"), "{}", response.text());
    }
    // Who calls without a weir of its own is told, too.
    let direct = raw::get(left.address("in"), "shop", "/").await?;
    same!(
        (direct.status, direct.header("x-weir-unprocessed"), direct.header("x-weir-error")),
        (503, Some("true"), Some("connect_failed"))
    );
    Ok(())
}

/// The app's own weir loses its patience: that is no word of nothing having reached the app.
async fn what_an_app_works_on_is_not_sent_elsewhere() -> Result {
    let app = Quick::slow("late", Duration::from_secs(3)).await?;
    let yaml = format!(
        "listeners: [{{ name: in, listen: 127.0.0.1:0, direction: inbound, app: '{0}' }}]
routes: [{{ name: a, listeners: [in], hosts: ['*'], rules: [{{ backends: [{{ cluster: app }}], timeout: {{ request: 300ms }} }}] }}]
clusters: {{ app: {{ endpoints: ['{0}'] }} }}
",
        app.address
    );
    let (one, two) = (Weir::start(&yaml).await?, Weir::start(&yaml).await?);
    let front = Weir::start(&ruled(&[one.address("in"), two.address("in")], "http1", "")).await?;
    let response = raw::request(front.address("out"), "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await?;
    same!((response.status, app.count()), (504, 1));
    let direct = raw::request(one.address("in"), "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await?;
    same!((direct.status, direct.header("x-weir-unprocessed")), (504, None));
    Ok(())
}

/// What an app says of the kind is not passed on, and has nothing sent twice.
async fn no_app_speaks_for_weir() -> Result {
    let answer = |_: &str| {
        b"HTTP/1.1 503 Busy\r\nx-weir-unprocessed: true\r\nx-weir-error: connect_failed\r\ncontent-length: 0\r\n\r\n".to_vec()
    };
    let app = Quick::start("127.0.0.1:0", Duration::ZERO, answer).await?;
    let one = beside(app.address).await?;
    let front = Weir::start(&ruled(&[one.address("in")], "http1", "")).await?;
    let response = raw::request(front.address("out"), "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await?;
    same!((response.status, response.header("x-weir-unprocessed"), response.header("x-weir-error")), (503, None, None));
    same!(app.count(), 1);
    Ok(())
}

async fn a_refused_stream_is_sent_again() -> Result {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let server = two::Server::start(None, move |request, mut respond| {
        let count = Arc::clone(&count);
        async move {
            if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                return Ok(());
            }
            let (body, _) = two::collect(&mut request.into_body()).await?;
            respond.send_response(Response::new(()), false)?.send_data(body.into(), true)?;
            Ok(())
        }
    })
    .await?;
    let weir = Weir::start(&ruled(&[server.address], "http2", "")).await?;
    for _ in 0..3 {
        let response = raw::request(weir.address("out"), "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc").await?;
        same!((response.status, response.text().as_str()), (200, "abc"));
    }
    same!(seen.load(Ordering::Relaxed), 6);
    Ok(())
}

/// A server that says GOAWAY has not processed the streams after the one it names.
async fn what_goaway_left_out_is_sent_again() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let connections = Arc::new(AtomicUsize::new(0));
    let accepted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if accepted.fetch_add(1, Ordering::Relaxed) > 0 {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let _ = respond.send_response(Response::new(()), true);
                }
                continue;
            }
            // SETTINGS, and once a request is there, GOAWAY before it.
            let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
            let mut seen = Vec::new();
            while !seen.windows(9).any(|frame| frame[3] == 1 && frame[5..9] == [0, 0, 0, 1]) {
                if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let _ = stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut seen).await;
        }
    });
    let weir = Weir::start(&ruled(&[address], "http2", "")).await?;
    let response = raw::request(weir.address("out"), "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await?;
    same!((response.status, connections.load(Ordering::Relaxed)), (200, 2));
    Ok(())
}

async fn a_fresh_connection_that_dies_is_an_error() -> Result {
    for reset in [false, true] {
        for method in ["GET", "POST"] {
            let script = Script::listen().await?;
            let weir = Weir::start(&ruled(&[script.address], "http1", "")).await?;
            let mut connection = Connection::open(weir.address("out")).await?;
            connection.send(format!("{method} / HTTP/1.1\r\nhost: shop\r\ncontent-length: 0\r\n\r\n")).await?;
            let mut peer = script.accept().await?;
            peer.head().await?;
            if reset {
                peer.reset()?;
            } else {
                drop(peer);
            }
            let response = connection.response(false).await?;
            let code = if reset { "upstream_reset" } else { "upstream_closed" };
            same!((response.status, response.header("x-weir-error")), (503, Some(code)), "{method}");
            let again = tokio::time::timeout(Duration::from_millis(200), script.accept()).await;
            holds!(again.is_err(), "{method} was sent again");
        }
    }
    Ok(())
}

/// Idle connections die at once or not at all: one that dies later was closed over the request.
async fn a_request_that_was_worked_on_is_not_repeated() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&ruled(&[script.address], "http1", "")).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    let request = "POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 0\r\n\r\n";
    connection.send(request).await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    same!(connection.response(false).await?.status, 200);
    connection.send(request).await?;
    peer.head().await?;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    drop(peer);
    let response = connection.response(false).await?;
    same!((response.status, response.header("x-weir-error")), (503, Some("upstream_closed")));
    Ok(())
}

/// An informational response says that the request has arrived.
async fn a_request_that_was_heard_is_not_repeated() -> Result {
    let script = Script::listen().await?;
    let weir = Weir::start(&ruled(&[script.address], "http1", "")).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    let request = "POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 0\r\n\r\n";
    connection.send(request).await?;
    let mut peer = script.accept().await?;
    peer.head().await?;
    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    same!(connection.response(false).await?.status, 200);
    connection.send(request).await?;
    peer.head().await?;
    peer.send("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await?;
    same!(connection.response(true).await?.status, 103);
    drop(peer);
    let response = connection.response(false).await?;
    same!((response.status, response.header("x-weir-error")), (503, Some("upstream_closed")));
    Ok(())
}

/// How long the origin of the idle edge keeps a silent connection.
const EDGE: Duration = Duration::from_millis(1000);

/// An origin that closes what was silent for [`EDGE`], and counts each request by its id.
async fn edgy() -> Result<(SocketAddr, Arc<Mutex<HashMap<String, u32>>>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let counts = Arc::new(Mutex::new(HashMap::<String, u32>::new()));
    let seen = Arc::clone(&counts);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let mut buffer = Vec::new();
                loop {
                    match tokio::time::timeout(EDGE, stream.read_buf(&mut buffer)).await {
                        Ok(Ok(read)) if read > 0 => {}
                        _ => return,
                    }
                    while let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                        let head = String::from_utf8_lossy(&buffer[..end + 4]).into_owned();
                        buffer.drain(..end + 4);
                        let id = head.lines().find_map(|line| line.strip_prefix("id: ")).unwrap_or_default().to_owned();
                        *seen.lock().unwrap().entry(id).or_default() += 1;
                        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    Ok((address, counts))
}

/// A host and a cluster for each caller, so that nobody else uses its connection while it waits.
fn one_each(callers: u64, address: SocketAddr) -> String {
    let mut yaml = "workers: 1\nlisteners: [{ name: out, listen: 127.0.0.1:0, direction: outbound }]\nroutes:\n".to_owned();
    for caller in 0..callers {
        yaml += &format!("  - {{ name: r{caller}, hosts: [h{caller}], rules: [{{ backends: [{{ cluster: c{caller} }}] }}] }}\n");
    }
    yaml += "clusters:\n";
    for caller in 0..callers {
        // The pool keeps connections longer than the app does, which is the mistake that hurts. That all callers begin at
        // once is not what this is about, so a connect may take its time.
        let limits = "connect_timeout: 10s, idle_timeout: 60s";
        yaml += &format!("  c{caller}: {{ endpoints: ['{address}'], protocol: http1, {limits} }}\n");
    }
    yaml
}

/// F03: requests that come just as the app gives the connection up, POST included. None fails, none is seen twice.
async fn the_idle_edge() -> Result {
    let (address, counts) = edgy().await?;
    let (callers, rounds) = if weir_tests::soak() { (500, 200) } else { (150, 4) };
    let weir = Weir::start(&one_each(callers, address)).await?;
    let mut tasks: tokio::task::JoinSet<Result> = tokio::task::JoinSet::new();
    for caller in 0..callers {
        let out = weir.address("out");
        tasks.spawn(async move {
            let mut connection = Connection::open(out).await?;
            for round in 0..rounds {
                let method = if (caller + round) % 2 == 0 { "POST" } else { "GET" };
                let id = format!("{caller}-{round}");
                connection
                    .send(format!("{method} / HTTP/1.1\r\nhost: h{caller}\r\nid: {id}\r\ncontent-length: 0\r\n\r\n"))
                    .await?;
                let response = connection.response(false).await?;
                same!(response.status, 200, "{id}: {}", response.text());
                // From 0.999 s to 1.001 s after the answer, each caller at its own moment.
                let micros = (caller * 7919 + round * 104_729) % 2000;
                tokio::time::sleep(EDGE - Duration::from_millis(1) + Duration::from_micros(micros)).await;
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let counts = std::mem::take(&mut *counts.lock().unwrap());
    let twice: Vec<_> = counts.iter().filter(|(_, times)| **times > 1).collect();
    holds!(twice.is_empty(), "{twice:?} were seen more than once");
    same!(counts.len() as u64, callers * rounds);
    if weir_tests::soak() {
        let met = weir.metric("weir_upstream_retries_total", "replay").await?;
        let opened = weir.metric("weir_upstream_connections_total", "").await?;
        println!("the idle edge: {} requests, {opened} connections, {met} requests met one that died", callers * rounds);
        // In the short form, on a busy machine, all may come late.
        holds!(met > 0.0, "no request met a dying connection, so this proves nothing");
    }
    Ok(())
}
