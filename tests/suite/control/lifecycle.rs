//! Leaving without anybody noticing: goodbye first, then patience, and the app's own calls to the last.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;
use weir_tests::quick::Quick;
use weir_tests::raw::{self, Connection};
use weir_tests::weir::binary;
use weir_tests::{Origin, Result, Trial, Weir, holds, same, test, two, until};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        test("control::lifecycle::goodbye_and_patience", goodbye_and_patience),
        test("control::lifecycle::the_apps_own_calls_go_on", the_apps_own_calls_go_on),
        test("control::lifecycle::drain_and_shutdown_by_request", drain_and_shutdown_by_request),
        test("control::lifecycle::the_deadline_counts_from_the_signal", the_deadline_counts_from_the_signal),
        test("control::lifecycle::a_listener_that_comes_during_a_drain", a_listener_that_comes_during_a_drain),
        test("control::lifecycle::who_has_just_connected_is_served", who_has_just_connected_is_served),
        test("control::lifecycle::interrupt_does_not_wait", interrupt_does_not_wait),
        test("control::lifecycle::shutdown_is_heard_while_it_leaves", shutdown_is_heard_while_it_leaves),
        test("control::lifecycle::the_app_is_started_and_its_code_passed_on", the_app_is_started_and_its_code_passed_on),
        test("control::lifecycle::the_app_is_told_after_its_callers", the_app_is_told_after_its_callers),
        test("control::lifecycle::wait_and_health", wait_and_health),
        test("control::lifecycle::descriptors_are_raised", descriptors_are_raised),
    ]
}

/// An app behind `in`, and what it calls behind `out`.
fn both(app: std::net::SocketAddr, other: std::net::SocketAddr, min: &str) -> String {
    format!(
        "workers: 2
shutdown: {{ min: {min}, deadline: 20s }}
listeners:
  - {{ name: in, listen: 127.0.0.1:0, direction: inbound, app: '{app}' }}
  - {{ name: out, listen: 127.0.0.1:0, direction: outbound }}
routes: [{{ name: all, hosts: ['*'], rules: [{{ backends: [{{ cluster: other }}] }}] }}]
clusters: {{ other: {{ endpoints: ['{other}'], protocol: http1 }} }}
"
    )
}

const GET: &str = "GET / HTTP/1.1\r\nhost: app\r\n\r\n";

async fn draining(weir: &Weir) -> Result {
    let asked = async || {
        raw::get(weir.admin, "localhost", "/ready").await.is_ok_and(|r| (r.status, r.text().as_str()) == (503, "draining\n"))
    };
    until("it is draining", asked).await
}

/// F01 (c, d): for `min`, new connections are served and told to go elsewhere; idle ones do not delay anything.
async fn goodbye_and_patience() -> Result {
    let (app, other) = (Origin::text("app").await?, Quick::text("other").await?);
    let mut weir = Weir::start(&both(app.address, other.address, "2s")).await?;
    let mut idle = Connection::open(weir.address("in")).await?;
    idle.send(GET).await?;
    same!(idle.response(false).await?.header("connection"), None);
    let client = two::Client::open(weir.address("in")).await?;
    same!(client.get("/").await?.await?.status(), 200);
    let told = Instant::now();
    weir.signal(libc::SIGTERM);
    draining(&weir).await?;
    same!(idle.rest().await?, b"", "an idle connection is let go");
    holds!(client.get("/").await.is_err() || told.elapsed() < Duration::from_secs(1));
    while told.elapsed() < Duration::from_millis(1500) {
        let mut fresh = Connection::open(weir.address("in")).await?;
        fresh.send(GET).await?;
        let response = fresh.response(false).await?;
        same!((response.status, response.header("connection")), (200, Some("close")));
        let client = two::Client::open(weir.address("in")).await?;
        same!(client.get("/").await?.await?.status(), 200, "HTTP/2 too");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    same!(weir.ended(Duration::from_secs(10)).await?, 0);
    let took = told.elapsed();
    holds!(took > Duration::from_secs(2) && took < Duration::from_secs(4), "{took:?}");
    let report = weir.said("drained").ok_or("no report")?;
    holds!(report["accepted"].as_u64().is_some_and(|accepted| accepted >= 10) && report["cut"] == 0, "{report}");
    Ok(())
}

/// F01 (b): while requests to the app are in flight, and for `min` anyway, the app may call others as before.
async fn the_apps_own_calls_go_on() -> Result {
    let (app, other) = (Quick::slow("app", Duration::from_secs(4)).await?, Quick::text("other").await?);
    let mut weir = Weir::start(&both(app.address, other.address, "1s")).await?;
    let mut caller = Connection::open(weir.address("in")).await?;
    caller.send(GET).await?;
    until("the request is at the app", async || app.count() == 1).await?;
    let mut kept = Connection::open(weir.address("out")).await?;
    weir.signal(libc::SIGTERM);
    draining(&weir).await?;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        kept.send(GET).await?;
        let response = kept.response(false).await?;
        same!((response.status, response.header("connection")), (200, None), "the app's own connection is not hurried");
        same!(raw::get(weir.address("out"), "other", "/").await?.text(), "other", "nor is a new one refused");
    }
    let response = caller.response(false).await?;
    same!((response.text().as_str(), response.header("connection")), ("app", Some("close")));
    same!(weir.ended(Duration::from_secs(5)).await?, 0);
    Ok(())
}

async fn post(weir: &Weir, path: &str) -> Result<u16> {
    Ok(raw::request(weir.admin, &format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n")).await?.status)
}

async fn drain_and_shutdown_by_request() -> Result {
    let (app, other) = (Quick::text("app").await?, Quick::text("other").await?);
    let mut weir = Weir::start(&both(app.address, other.address, "5s")).await?;
    for path in ["/drain", "/shutdown"] {
        same!(raw::get(weir.admin, "localhost", path).await?.status, 405, "GET {path} changes nothing");
    }
    same!(post(&weir, "/drain").await?, 202);
    draining(&weir).await?;
    // It stays, and serves, until it is told that the app is gone.
    let response = raw::request(weir.address("in"), GET).await?;
    same!((response.status, response.header("connection")), (200, Some("close")));
    same!(raw::get(weir.address("out"), "other", "/").await?.status, 200);
    let told = Instant::now();
    same!(post(&weir, "/shutdown").await?, 202);
    same!(weir.ended(Duration::from_secs(5)).await?, 0);
    holds!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
    Ok(())
}

/// Who waits for an app that is said to be gone, or for callers who are not needed any more, is told so.
async fn shutdown_is_heard_while_it_leaves() -> Result {
    let (app, other) = (Quick::text("app").await?, Quick::text("other").await?);
    for (means, min) in [("drain", "9s"), ("wait", "9s"), ("wait", "0s")] {
        let mut weir = Weir::start_with(&both(app.address, other.address, min), &[("WEIR_ON_SIGTERM", means)]).await?;
        weir.signal(libc::SIGTERM);
        draining(&weir).await?;
        same!(post(&weir, "/drain").await?, 202, "it does already");
        same!(raw::get(weir.address("out"), "other", "/").await?.status, 200);
        same!(post(&weir, "/shutdown").await?, 202);
        // With `wait`, this process has sockets beside weir all the time.
        same!(weir.ended(Duration::from_secs(5)).await?, 0, "{means} {min}");
    }
    Ok(())
}

/// A drain by request may last; what is in flight when the signal comes has all of the deadline.
async fn the_deadline_counts_from_the_signal() -> Result {
    let (app, other) = (Quick::slow("app", Duration::from_millis(1200)).await?, Quick::text("other").await?);
    let yaml = both(app.address, other.address, "0s").replace("deadline: 20s", "deadline: 2s");
    let mut weir = Weir::start(&yaml).await?;
    same!(post(&weir, "/drain").await?, 202);
    draining(&weir).await?;
    // Longer than the deadline, were it counted from here.
    tokio::time::sleep(Duration::from_millis(2200)).await;
    let mut connection = Connection::open(weir.address("in")).await?;
    connection.send(GET).await?;
    until("the request is at the app", async || app.count() == 1).await?;
    weir.signal(libc::SIGTERM);
    same!(connection.response(false).await?.text(), "app");
    same!(weir.ended(Duration::from_secs(5)).await?, 0);
    Ok(())
}

/// The table may still change while weir leaves; who comes by a new listener is told to go elsewhere like everybody.
async fn a_listener_that_comes_during_a_drain() -> Result {
    let (app, other) = (Quick::text("app").await?, Quick::text("other").await?);
    let yaml = both(app.address, other.address, "0s");
    let mut weir = Weir::start(&yaml).await?;
    same!(post(&weir, "/drain").await?, 202);
    draining(&weir).await?;
    let more = format!("  - {{ name: late, listen: 127.0.0.1:0, direction: inbound, app: '{}' }}\nroutes:", app.address);
    weir.reload(&yaml.replace("routes:", &more)).await?;
    let late = weir.fresh_address("late").await.ok_or("the listener is not there")?;
    let mut connection = Connection::open(late).await?;
    connection.send(GET).await?;
    let response = connection.response(false).await?;
    same!((response.text().as_str(), response.header("connection")), ("app", Some("close")));
    weir.signal(libc::SIGTERM);
    same!(weir.ended(Duration::from_secs(5)).await?, 0);
    Ok(())
}

/// A connection without a request yet is not idle when it is a moment old: its request is on the way.
async fn who_has_just_connected_is_served() -> Result {
    let (app, other) = (Quick::text("app").await?, Quick::text("other").await?);
    let mut weir = Weir::start(&both(app.address, other.address, "0s")).await?;
    let mut fresh = Connection::open(weir.address("in")).await?;
    until("it is accepted", async || weir.metric("weir_downstream_connections_active", "in").await.is_ok_and(|n| n == 1.0))
        .await?;
    weir.signal(libc::SIGINT);
    draining(&weir).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    fresh.send(GET).await?;
    let response = fresh.response(false).await?;
    same!((response.text().as_str(), response.header("connection")), ("app", Some("close")));
    same!(weir.ended(Duration::from_secs(5)).await?, 0);
    Ok(())
}

async fn interrupt_does_not_wait() -> Result {
    let (app, other) = (Quick::text("app").await?, Quick::text("other").await?);
    let mut weir = Weir::start(&both(app.address, other.address, "5s")).await?;
    let told = Instant::now();
    weir.signal(libc::SIGINT);
    same!(weir.ended(Duration::from_secs(5)).await?, 0);
    holds!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
    Ok(())
}

struct Wrapped {
    weir: tokio::process::Child,
    file: tempfile::NamedTempFile,
}

/// `weir run -c FILE -- sh -c SCRIPT`, with an admin server at `admin`.
async fn wrapped(admin: u16, min: &str, script: &str) -> Result<Wrapped> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(
        file.path(),
        format!(
            "workers: 1
admin: {{ listen: 127.0.0.1:{admin} }}
shutdown: {{ min: {min}, deadline: 20s }}
listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes: [{{ name: r, hosts: ['*'], rules: [{{ respond: {{ status: 200 }} }}] }}]
"
        ),
    )?;
    let mut command = Command::new(binary());
    command.args(["run", "-c"]).arg(file.path()).args(["--", "sh", "-c", script]);
    let weir = command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
    Ok(Wrapped { weir, file })
}

/// A port that was free a moment ago.
async fn free_port() -> Result<u16> {
    Ok(tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}

async fn the_app_is_started_and_its_code_passed_on() -> Result {
    for (script, code) in [("exit 7", 7), ("true", 0), ("kill -9 $$", 137)] {
        let port = free_port().await?;
        // The app finds weir ready when it starts.
        let ready = format!("{} health --address 127.0.0.1:{port} || exit 99; {script}", binary().display());
        let mut wrapped = wrapped(port, "5s", &ready).await?;
        let start = Instant::now();
        let status = tokio::time::timeout(Duration::from_secs(10), wrapped.weir.wait()).await??;
        same!(status.code(), Some(code), "{script}: {:?}", status.signal());
        holds!(start.elapsed() < Duration::from_secs(4), "the app is gone, so there is nothing to wait for");
        drop(wrapped.file);
    }
    Ok(())
}

async fn the_app_is_told_after_its_callers() -> Result {
    let script = "trap 'echo told; exit 3' TERM; echo up; while :; do sleep 0.05; done";
    let mut wrapped = wrapped(free_port().await?, "1s", script).await?;
    let mut said = tokio::io::BufReader::new(wrapped.weir.stdout.take().ok_or("no output")?);
    let mut line = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut said, &mut line).await?;
    same!(line, "up\n");
    let pid = i32::try_from(wrapped.weir.id().ok_or("no process")?)?;
    let told = Instant::now();
    // SAFETY: a signal to a process of our own.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    line.clear();
    tokio::io::AsyncBufReadExt::read_line(&mut said, &mut line).await?;
    same!(line, "told\n");
    holds!(told.elapsed() > Duration::from_millis(900), "callers come first: {:?}", told.elapsed());
    let status = tokio::time::timeout(Duration::from_secs(5), wrapped.weir.wait()).await??;
    same!(status.code(), Some(3));
    Ok(())
}

async fn wait_and_health() -> Result {
    let port = free_port().await?;
    let address = format!("127.0.0.1:{port}");
    let ask = async |arguments: &[&str]| Command::new(binary()).args(arguments).args(["--address", &address]).output().await;
    let done = ask(&["health"]).await?;
    same!(done.status.code(), Some(1));
    holds!(String::from_utf8_lossy(&done.stderr).contains("not ready: 127.0.0.1:"), "{done:?}");
    let start = Instant::now();
    for patience in ["1", "200ms"] {
        same!(ask(&["wait", "--timeout", patience]).await?.status.code(), Some(1));
    }
    holds!(start.elapsed() >= Duration::from_secs(1));
    let waiting = tokio::spawn(Command::new(binary()).args(["wait", "--address", &address]).output());
    let mut wrapped = wrapped(port, "5s", "while :; do sleep 0.1; done").await?;
    same!(tokio::time::timeout(Duration::from_secs(10), waiting).await???.status.code(), Some(0));
    same!(ask(&["health"]).await?.status.code(), Some(0));
    let by = async |address: &str| Command::new(binary()).args(["wait", "--timeout", "60", "--address", address]).output().await;
    same!(by(&format!("localhost:{port}")).await?.status.code(), Some(0));
    // What can never become ready is not waited for.
    for wrong in ["15000", "weir:15000", "http://127.0.0.1:15000", "unix:admin.sock", "127.0.0.1:0"] {
        let done = by(wrong).await?;
        let said = String::from_utf8_lossy(&done.stderr);
        holds!(done.status.code() == Some(2) && said.contains("write an"), "{wrong}: {said}");
    }
    // Whoever is killed leaves its app behind.
    same!(ask(&["shutdown"]).await?.status.code(), Some(0));
    tokio::time::timeout(Duration::from_secs(20), wrapped.weir.wait()).await??;
    Ok(())
}

async fn descriptors_are_raised() -> Result {
    let quick = Quick::text("x").await?;
    let weir = Weir::start(&both(quick.address, quick.address, "0s")).await?;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", weir.pid()))?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).ok_or("no limit")?;
    let numbers: Vec<&str> = line.split_whitespace().filter(|word| word.parse::<u64>().is_ok()).collect();
    same!(numbers[0], numbers[1], "{line}");
    Ok(())
}
