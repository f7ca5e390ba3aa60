//! The admin and probes servers: who may ask for what.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir_tests::peers::Peer;
use weir_tests::quick::Quick;
use weir_tests::{Origin, Result, Trial, Weir, holds, raw, same, test, test_with, until};

use super::{post, table, version};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        test("control::admin::pages_answer_and_only_posts_change", pages_answer_and_only_posts_change),
        test("control::admin::it_answers_this_machine_only", it_answers_this_machine_only),
        test("control::admin::a_unix_socket", a_unix_socket),
        test("control::admin::probes_know_three_pages", probes_know_three_pages),
        test("control::admin::the_level_of_the_log_changes", the_level_of_the_log_changes),
        test("control::admin::a_level_that_does_not_exist_is_refused", a_level_that_does_not_exist_is_refused),
        test("control::admin::unknown_hosts_make_no_series", unknown_hosts_make_no_series),
        test_with("control::admin::promtool_likes_the_metrics", &[Peer::Program("promtool")], promtool_likes_the_metrics),
    ]
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> Result<raw::Response> {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    raw::request(address, &head).await
}

async fn pages_answer_and_only_posts_change() -> Result {
    let origin = Quick::text("here").await?;
    let weir = Weir::start(&version(1, origin.address)).await?;
    for page in ["/", "/help", "/ready", "/live", "/metrics", "/config", "/clusters", "/log"] {
        same!(ask(weir.admin, "GET", page).await?.status, 200, "{page}");
        let refused = ask(weir.admin, "DELETE", page).await?;
        same!(refused.status, 405, "{page}");
        holds!(refused.header("allow").is_some_and(|allow| allow.contains("GET")), "{}", refused.head);
    }
    for page in ["/config", "/clusters"] {
        let _: serde_json::Value = serde_json::from_str(&weir.admin(page).await?)?;
    }
    let refused = ask(weir.admin, "GET", "/reload").await?;
    same!((refused.status, refused.header("allow")), (405, Some("POST")));
    same!(ask(weir.admin, "POST", "/metrics").await?.status, 405);
    same!(ask(weir.admin, "GET", "/nothing").await?.status, 404);
    same!(ask(weir.admin, "HEAD", "/ready").await?.status, 200);
    same!(super::updates(&weir, "unchanged").await?, 0, "nothing was reloaded");
    same!(post(&weir, "/reload").await?.status, 202);
    until("the file was read", async || super::updates(&weir, "unchanged").await.is_ok_and(|count| count == 1)).await
}

/// A web page in a browser on this machine can send requests here: by a name of its own that points to 127.0.0.1, or
/// across origins.
async fn it_answers_this_machine_only() -> Result {
    let origin = Quick::text("here").await?;
    let weir = Weir::start(&version(1, origin.address)).await?;
    let port = weir.admin.port();
    let status = async |method: &str, headers: &str| -> Result<u16> {
        let path = if method == "POST" { "/reload" } else { "/config" };
        let head = format!("{method} {path} HTTP/1.1\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n");
        Ok(raw::request(weir.admin, &head).await?.status)
    };
    for method in ["GET", "POST"] {
        let good = if method == "POST" { 202 } else { 200 };
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"] {
            same!(status(method, &format!("host: {host}:{port}\r\n")).await?, good, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.2", "", "evil.example:80"] {
            same!(status(method, &format!("host: {host}\r\n")).await?, 403, "{method} {host:?}");
        }
        let none = status(method, "").await?;
        holds!([400, 403].contains(&none), "{method} without Host: {none}");
        for origin in ["http://evil.example", "https://localhost.evil.example", "null", "http://127.0.0.1@evil.example"] {
            same!(status(method, &format!("host: localhost\r\norigin: {origin}\r\n")).await?, 403, "{method} {origin}");
        }
        same!(status(method, &format!("host: localhost\r\norigin: http://localhost:{port}\r\n")).await?, good);
    }
    let two = "host: localhost\r\nhost: evil.example\r\n";
    holds!([400, 403].contains(&status("POST", two).await?), "the first of two hosts does not speak for both");
    same!(super::updates(&weir, "published").await?, 1);
    Ok(())
}

async fn a_unix_socket() -> Result {
    let (origin, dir) = (Quick::text("here").await?, tempfile::tempdir()?);
    let socket = dir.path().join("admin.sock");
    let text = version(1, origin.address).replace("127.0.0.1:0 }\n", &format!("'unix:{}' }}\n", socket.display()));
    let text = text.replacen("admin: { listen: 127.0.0.1:0 }", &format!("admin: {{ listen: 'unix:{}' }}", socket.display()), 1);
    let ask = async |path: &str| -> Result<String> {
        let mut stream = tokio::net::UnixStream::connect(&socket).await?;
        // curl's own default: whatever name the caller made up.
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: anything\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let weir = Weir::start(&text).await?;
    holds!(ask("/ready").await?.starts_with("HTTP/1.1 200"), "{}", ask("/ready").await?);
    holds!(ask("/metrics").await?.contains("weir_config_generation 1\n"));
    drop(weir);
    holds!(socket.exists(), "it was killed, so its socket is left behind");
    let weir = Weir::start(&text).await?;
    holds!(ask("/config").await?.starts_with("HTTP/1.1 200"), "the next process takes the socket over");
    same!(raw::get(weir.address("out"), "app", "/").await?.text(), "here");
    let mut second = tokio::process::Command::new(weir_tests::weir::binary());
    let second = second.args(["run", "-c"]).arg(&weir.file).kill_on_drop(true).output();
    let second = tokio::time::timeout(Duration::from_secs(20), second).await??;
    same!(second.status.code(), Some(1), "a second weir does not take the socket of a living one");
    let said = String::from_utf8_lossy(&second.stderr);
    holds!(said.contains("admin.sock"), "{said}");
    // Commands find it there too.
    let door = format!("unix:{}", socket.display());
    let explain = ["explain", "--admin", &door, "--url", "http://app/", "--listener", "out"];
    for arguments in
        [&["health", "--address", &door][..], &["wait", "--address", &door], &explain, &["drain", "--address", &door]]
    {
        let done = tokio::process::Command::new(weir_tests::weir::binary()).args(arguments).output().await?;
        holds!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    holds!(ask("/ready").await?.starts_with("HTTP/1.1 503"), "it was told to drain");
    Ok(())
}

async fn probes_know_three_pages() -> Result {
    let origin = Quick::text("here").await?;
    let weir = Weir::start(&format!("probes: {{ listen: 127.0.0.1:0 }}\n{}", version(1, origin.address))).await?;
    let line = weir.said("probes listening").ok_or("the probes server is not in the log")?;
    let probes: SocketAddr = line["address"].as_str().ok_or("no address")?.parse()?;
    for page in ["/ready", "/live", "/metrics"] {
        same!(ask(probes, "GET", page).await?.status, 200, "{page}");
        same!(ask(probes, "POST", page).await?.status, 405, "{page}");
    }
    // A kubelet sends the pod's address.
    let kubelet = "GET /ready HTTP/1.1\r\nhost: 10.1.2.3:15020\r\nconnection: close\r\n\r\n";
    same!(raw::request(probes, kubelet).await?.status, 200);
    for page in ["/", "/help", "/config", "/clusters", "/log", "/reload", "/log?level=debug", "/../config", "/nothing"] {
        for method in ["GET", "POST"] {
            same!(ask(probes, method, page).await?.status, 404, "{method} {page}");
        }
    }
    Ok(())
}

async fn the_level_of_the_log_changes() -> Result {
    let origin = Quick::text("here").await?;
    let weir = Weir::start(&version(1, origin.address)).await?;
    same!(weir.admin("/log").await?, "info\n");
    let debug = post(&weir, "/log?level=debug").await?;
    same!((debug.status, debug.text().as_str()), (200, "debug\n"));
    same!(weir.admin("/log").await?, "debug\n");
    // A connection that breaks the protocol is worth a line at that level.
    let mut rude = raw::Connection::open(weir.address("out")).await?;
    rude.send("GET / NONSENSE\r\n\r\n").await?;
    let _ = rude.rest().await;
    until("a line of level debug appears", async || weir.log().iter().any(|line| line["level"] == "DEBUG")).await?;
    same!(post(&weir, "/log?level=weir=trace,warn").await?.status, 200);
    Ok(())
}

/// A word that is no level must not silence the log.
async fn a_level_that_does_not_exist_is_refused() -> Result {
    let origin = Quick::text("here").await?;
    let weir = Weir::start(&version(1, origin.address)).await?;
    for bad in ["/log", "/log?level=", "/log?level=weir=loud", "/log?level=loud", "/log?level=debug%20", "/log?other=debug"] {
        same!(post(&weir, bad).await?.status, 400, "{bad}");
        same!(weir.admin("/log").await?, "info\n", "{bad}");
    }
    Ok(())
}

async fn unknown_hosts_make_no_series() -> Result {
    let origin = Quick::text("here").await?;
    let weir = Weir::start(&version(1, origin.address).replace("['*']", "['app', '*.app']")).await?;
    let mut connection = raw::Connection::open(weir.address("out")).await?;
    let mut series = Vec::new();
    for place in 0..600 {
        for (host, status) in [(format!("host-{place}"), 404), (format!("{place}.app"), 200)] {
            connection.send(format!("GET /{place} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await?;
            same!(connection.response(false).await?.status, status);
        }
        if place % 200 == 199 {
            series.push(weir.admin("/metrics").await?.lines().count());
        }
    }
    same!(series[0], series[2], "the number of series grows with hosts and paths");
    Ok(())
}

async fn promtool_likes_the_metrics() -> Result {
    let origin = Origin::text("here").await?;
    let text = table(
        "probes: { listen: 127.0.0.1:0 }",
        "backends: [{ cluster: one }, { cluster: gone, weight: 1 }]",
        &format!("one: {{ endpoints: ['{}'] }}, gone: {{ endpoints: ['127.0.0.1:1'] }}", origin.address),
    );
    let weir = Weir::start(&text).await?;
    let out = weir.address("out");
    for _ in 0..40 {
        let status = raw::get(out, "app", "/").await?.status;
        holds!([200, 503].contains(&status), "{status}");
    }
    let grpc = "POST /shop.v1.Checkout/Pay HTTP/1.1\r\nhost: app\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    raw::request(out, grpc).await?;
    raw::request(out, "GET / HTTP/1.1\r\nconnection: close\r\n\r\n").await?;
    let (mut sender, connection) = h2::client::handshake(tokio::net::TcpStream::connect(out).await?).await?;
    let driver = tokio::spawn(connection);
    let _ = sender.send_request(http::Request::get("http://app/").body(())?, true)?.0.await?;
    driver.abort();
    weir.write("listeners: 5\n")?;
    super::until_rejected(&weir, true).await?;

    let metrics = weir.admin("/metrics").await?;
    let mut promtool = tokio::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    promtool.stdin.take().ok_or("no stdin")?.write_all(metrics.as_bytes()).await?;
    let output = tokio::time::timeout(Duration::from_secs(20), promtool.wait_with_output()).await??;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    holds!(output.status.success() && said.trim().is_empty(), "{said}");
    Ok(())
}
