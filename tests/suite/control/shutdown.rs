//! Leaving: what is in flight finishes, what is idle is let go, and there is a limit to everything.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use weir_tests::dns::{Dns, Say};
use weir_tests::quick::Quick;
use weir_tests::{Origin, Result, Trial, Weir, holds, raw, same, test, until};

use super::table;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        test("control::shutdown::what_is_in_flight_finishes", what_is_in_flight_finishes),
        test("control::shutdown::idle_connections_do_not_delay_it", idle_connections_do_not_delay_it),
        test("control::shutdown::a_second_signal_ends_at_once", a_second_signal_ends_at_once),
        test("control::shutdown::the_deadline_cuts_what_never_ends", the_deadline_cuts_what_never_ends),
        test("control::shutdown::what_the_kernel_has_accepted_is_served", what_the_kernel_has_accepted_is_served),
        test("control::shutdown::a_name_that_hangs_does_not_delay_it", a_name_that_hangs_does_not_delay_it),
        test("control::shutdown::signals_are_heard_from_the_start", signals_are_heard_from_the_start),
    ]
}

/// Without a time of grace, which has tests of its own.
fn to(top: &str, origin: std::net::SocketAddr) -> String {
    let top = if top.is_empty() { "shutdown: { min: 0s }" } else { top };
    table(
        &format!("workers: 2\nprobes: {{ listen: 127.0.0.1:0 }}\n{top}"),
        "backends: [{ cluster: only }]",
        &format!("only: {{ endpoints: ['{origin}'], protocol: http1 }}"),
    )
}

async fn slow() -> Result<Quick> {
    Quick::slow("worth the wait", Duration::from_secs(1)).await
}

/// A request that is at the origin.
async fn in_flight(weir: &Weir, origin: &Quick) -> Result<raw::Connection> {
    let before = origin.count();
    let mut connection = raw::Connection::open(weir.address("out")).await?;
    connection.send("GET / HTTP/1.1\r\nhost: app\r\n\r\n").await?;
    until("the request is at the origin", async || origin.count() > before).await?;
    Ok(connection)
}

async fn what_is_in_flight_finishes() -> Result {
    let origin = slow().await?;
    let mut weir = Weir::start(&to("", origin.address)).await?;
    let mut connection = in_flight(&weir, &origin).await?;
    let (mut sender, driver) = h2::client::handshake(TcpStream::connect(weir.address("out")).await?).await?;
    let driver = tokio::spawn(driver);
    let streamed = sender.send_request(http::Request::get("http://app/").body(())?, true)?.0;
    until("both requests are at the origin", async || origin.count() == 2).await?;

    weir.signal(libc::SIGTERM);
    let ready = async || raw::get(weir.admin, "localhost", "/ready").await.map(|response| response.status);
    until("it is not ready any more", async || ready().await.is_ok_and(|status| status == 503)).await?;
    same!(raw::get(weir.admin, "localhost", "/live").await?.status, 200);

    let response = connection.response(false).await?;
    same!((response.status, response.text().as_str()), (200, "worth the wait"));
    same!(response.header("connection").map(str::to_lowercase).as_deref(), Some("close"), "it says goodbye");
    same!(connection.rest().await?, b"");
    let mut body = streamed.await?.into_body();
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        text.extend_from_slice(&data?);
    }
    same!(text, b"worth the wait");
    driver.await??;
    until("new connections are refused", async || TcpStream::connect(weir.address("out")).await.is_err()).await?;
    same!(weir.ended(Duration::from_secs(10)).await?, 0);
    Ok(())
}

async fn idle_connections_do_not_delay_it() -> Result {
    let origin = Quick::text("here").await?;
    let mut weir = Weir::start(&to("", origin.address)).await?;
    let mut idle = Vec::new();
    for _ in 0..10 {
        let mut connection = raw::Connection::open(weir.address("out")).await?;
        connection.send("GET / HTTP/1.1\r\nhost: app\r\n\r\n").await?;
        same!(connection.response(false).await?.status, 200);
        idle.push(connection);
    }
    // These have not said a word, and one has begun to.
    for said in ["", "", "", "GET / HT"] {
        let mut connection = raw::Connection::open(weir.address("out")).await?;
        connection.send(said).await?;
        if said.is_empty() {
            idle.push(connection);
        }
    }
    let (mut sender, driver) = h2::client::handshake(TcpStream::connect(weir.address("out")).await?).await?;
    let driver = tokio::spawn(driver);
    let _ = sender.send_request(http::Request::get("http://app/").body(())?, true)?.0.await?;
    // A scrape that hangs does not delay it either.
    let mut scrape = raw::Connection::open(weir.admin).await?;
    scrape.send("GET /metrics HTTP/1.1\r\n").await?;

    let told = Instant::now();
    weir.signal(libc::SIGTERM);
    for connection in &mut idle {
        same!(connection.rest().await?, b"", "closed in order");
    }
    driver.await??;
    same!(weir.ended(Duration::from_secs(10)).await?, 0);
    holds!(told.elapsed() < Duration::from_secs(4), "it took {:?}", told.elapsed());
    Ok(())
}

async fn a_second_signal_ends_at_once() -> Result {
    let origin = Quick::slow("too late", Duration::from_secs(60)).await?;
    let mut weir = Weir::start(&to("", origin.address)).await?;
    let _connection = in_flight(&weir, &origin).await?;
    weir.signal(libc::SIGTERM);
    until("the first signal is heard", async || {
        weir.log().iter().any(|line| line["message"].as_str().is_some_and(|said| said.starts_with("draining")))
    })
    .await?;
    holds!(weir.ended(Duration::from_millis(300)).await.is_err(), "it waits for what is in flight");
    let told = Instant::now();
    weir.signal(libc::SIGTERM);
    same!(weir.ended(Duration::from_secs(10)).await?, 0);
    holds!(told.elapsed() < Duration::from_secs(1), "it took {:?}", told.elapsed());
    Ok(())
}

async fn the_deadline_cuts_what_never_ends() -> Result {
    let origin = Origin::start(|_| async {
        let mut response = http::Response::new(weir_tests::origin::full("begun"));
        // Promised and never sent: the response does not end.
        response.headers_mut().insert("content-length", http::HeaderValue::from_static("1000000"));
        *response.body_mut() = http_body_util::BodyExt::boxed(Never { begun: false });
        response
    })
    .await?;
    let mut weir = Weir::start(&to("shutdown: { min: 0s, deadline: 1s }", origin.address)).await?;
    let mut connection = raw::Connection::open(weir.address("out")).await?;
    connection.send("GET / HTTP/1.1\r\nhost: app\r\n\r\n").await?;
    while connection.line().await? != "\r\n" {}
    let told = Instant::now();
    weir.signal(libc::SIGTERM);
    same!(weir.ended(Duration::from_secs(10)).await?, 0);
    let took = told.elapsed();
    holds!(took >= Duration::from_millis(900), "the stream had a second, and was cut after {took:?}");
    holds!(took < Duration::from_secs(4), "it took {took:?}");
    let cut = weir.log().iter().any(|line| line["cut"] == 1);
    holds!(cut, "the log says what was cut: {:?}", weir.log());
    Ok(())
}

/// Requests that arrived before the signal are served, though weir had not looked at them yet.
async fn what_the_kernel_has_accepted_is_served() -> Result {
    let origin = Quick::text("here").await?;
    for _ in 0..5 {
        // Two listeners: none may be forgotten over the other.
        let mut weir = Weir::start(&format!(
            "workers: 2
shutdown: {{ min: 0s }}
listeners:
  - {{ name: out, listen: 127.0.0.1:0, direction: outbound }}
  - {{ name: second, listen: 127.0.0.1:0, direction: outbound }}
routes: [{{ name: all, hosts: ['*'], rules: [{{ backends: [{{ cluster: only }}] }}] }}]
clusters: {{ only: {{ endpoints: ['{}'] }} }}
",
            origin.address
        ))
        .await?;
        weir.signal(libc::SIGSTOP);
        let mut waiting = Vec::new();
        for listener in ["out", "second"].into_iter().cycle().take(40) {
            let mut connection = raw::Connection::open(weir.address(listener)).await?;
            connection.send("GET / HTTP/1.1\r\nhost: app\r\n\r\n").await?;
            waiting.push(connection);
        }
        weir.signal(libc::SIGTERM);
        weir.signal(libc::SIGCONT);
        let mut lost = Vec::new();
        for (number, connection) in waiting.iter_mut().enumerate() {
            match connection.response(false).await {
                Ok(response) => same!(response.status, 200),
                Err(error) => lost.push((number, error.to_string())),
            }
        }
        holds!(lost.is_empty(), "{} of 40 requests were lost: {lost:?}; {:#?}", lost.len(), weir.log());
        same!(weir.ended(Duration::from_secs(10)).await?, 0);
    }
    Ok(())
}

/// A configuration on its way, whose names hang, is nobody's loss when weir leaves.
async fn a_name_that_hangs_does_not_delay_it() -> Result {
    let (origin, dns) = (Quick::text("here").await?, Dns::start().await?);
    dns.say("hangs.test", Say::Nothing);
    let server = format!("shutdown: {{ min: 0s }}\ndns: {{ servers: ['{}'] }}", dns.address);
    let mut weir = Weir::start(&to(&server, origin.address)).await?;
    weir.write(&to(&server, origin.address).replace(&format!("'{}'", origin.address), "'hangs.test:1'"))?;
    until("the name is asked for", async || !dns.asked().is_empty()).await?;
    let told = Instant::now();
    weir.signal(libc::SIGTERM);
    same!(weir.ended(Duration::from_secs(10)).await?, 0);
    holds!(told.elapsed() < Duration::from_secs(2), "it took {:?}", told.elapsed());
    Ok(())
}

/// A signal that comes while weir starts is neither its death nor forgotten.
async fn signals_are_heard_from_the_start() -> Result {
    let dns = Dns::start().await?;
    dns.say("hangs.test", Say::Nothing);
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("weir.yaml");
    let top = format!("shutdown: {{ min: 0s }}\ndns: {{ servers: ['{}'] }}", dns.address);
    let cluster = "only: { endpoints: ['hangs.test:1'] }";
    std::fs::write(&file, table(&top, "backends: [{ cluster: only }]", cluster))?;
    let mut weir = tokio::process::Command::new(weir_tests::weir::binary());
    weir.args(["run", "--json", "-c"]).arg(&file).stderr(std::process::Stdio::piped()).kill_on_drop(true);
    let mut weir = weir.spawn()?;
    until("it waits for a name", async || !dns.asked().is_empty()).await?;
    let told = Instant::now();
    for signal in [libc::SIGHUP, libc::SIGTERM] {
        // SAFETY: kill has no memory effects; the pid is of a child that has not been waited for.
        same!(unsafe { libc::kill(i32::try_from(weir.id().ok_or("no pid")?)?, signal) }, 0);
    }
    let mut said = String::new();
    weir.stderr.take().ok_or("no stderr")?.read_to_string(&mut said).await?;
    same!(weir.wait().await?.code(), Some(0));
    holds!(said.contains("\"drained\""), "{said}");
    holds!(told.elapsed() < Duration::from_secs(2), "it took {:?}", told.elapsed());
    Ok(())
}

/// A body that begins and never goes on.
struct Never {
    begun: bool,
}

impl http_body::Body for Never {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        if std::mem::replace(&mut self.begun, true) {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(bytes::Bytes::from_static(b"begun")))))
    }
}
