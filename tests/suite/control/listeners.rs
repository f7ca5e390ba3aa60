//! Listeners come, go and move while weir runs.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use weir_tests::load::Load;
use weir_tests::quick::Quick;
use weir_tests::{Result, Trial, Weir, holds, raw, same, test, until};

use super::{config, mistakes, post, run_for, until_rejected, updates};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        test("control::listeners::one_is_added", one_is_added),
        test("control::listeners::connections_at_birth_are_served", connections_at_birth_are_served),
        test("control::listeners::one_is_removed_under_load", one_is_removed_under_load),
        test("control::listeners::one_is_removed_and_brought_back", one_is_removed_and_brought_back),
        test("control::listeners::one_moves", one_moves),
        test("control::listeners::one_gets_another_name", one_gets_another_name),
        test("control::listeners::a_taken_port_rejects_the_whole_file", a_taken_port_rejects_the_whole_file),
        test("control::listeners::a_rejected_move_leaves_the_listener_where_it_was", a_rejected_move),
        test("control::listeners::the_last_descriptors_are_kept_from_callers", last_descriptors),
        test("control::listeners::changes_of_the_bootstrap_wait_for_a_restart", bootstrap_changes_wait),
    ]
}

/// Listeners by name and address, before one route to one origin; `top` as for [`super::table`].
fn with(top: &str, listeners: &[(&str, SocketAddr)], origin: SocketAddr) -> String {
    let listeners: Vec<String> = listeners
        .iter()
        .map(|(name, address)| format!("  - {{ name: {name}, listen: '{address}', direction: outbound }}\n"))
        .collect();
    format!(
        "admin: {{ listen: 127.0.0.1:0 }}\nworkers: 2\n{top}\nlisteners:\n{}routes: [{{ name: all, hosts: ['*'], rules: [{{ backends: \
         [{{ cluster: only }}] }}] }}]\nclusters: {{ only: {{ endpoints: ['{origin}'] }} }}\n",
        listeners.concat()
    )
}

const ANY: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0));

/// An address that was free a moment ago.
async fn free() -> Result<SocketAddr> {
    Ok(tokio::net::TcpListener::bind(ANY).await?.local_addr()?)
}

async fn last_descriptors() -> Result {
    let origin = Quick::text("hello").await?;
    let weir = Weir::start_limited(&with("", &[("out", ANY)], origin.address), 200).await?;
    let mut callers = Vec::new();
    for _ in 0..300 {
        callers.push(TcpStream::connect(weir.address("out")).await?);
    }
    until("callers are refused", async || {
        weir.metric("weir_downstream_connections_refused_total", "").await.is_ok_and(|refused| refused > 50.0)
    })
    .await?;
    holds!(weir.admin("/ready").await.is_ok(), "the admin server answers");
    drop(callers);
    until("others are served again", async || {
        raw::get(weir.address("out"), "app", "/").await.is_ok_and(|answer| answer.status == 200)
    })
    .await
}

async fn refuses(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// A connection that has served a request and waits for the next.
async fn kept(address: SocketAddr) -> Result<raw::Connection> {
    let mut connection = raw::Connection::open(address).await?;
    again(&mut connection).await?;
    Ok(connection)
}

async fn again(connection: &mut raw::Connection) -> Result {
    connection.send("GET / HTTP/1.1\r\nhost: app\r\n\r\n").await?;
    same!(connection.response(false).await?.status, 200);
    Ok(())
}

async fn one_is_added() -> Result {
    let origin = Quick::text("here").await?;
    let mut weir = Weir::start(&with("", &[("out", ANY)], origin.address)).await?;
    let mut stays = kept(weir.address("out")).await?;
    weir.reload(&with("", &[("out", ANY), ("second", ANY)], origin.address)).await?;
    let second = weir.fresh_address("second").await.ok_or("the second listener is not in the log")?;
    // The generation is acknowledged, so the listener accepts: no waiting here. Many, so that both workers' sockets do.
    for _ in 0..50 {
        same!(raw::get(second, "app", "/").await?.text(), "here");
    }
    again(&mut stays).await?;
    same!(config(&weir).await?["listeners"].as_array().map(Vec::len), Some(2));
    Ok(())
}

/// Whoever connects in the very moment that a listener comes to be is served, whichever worker gets the connection.
async fn connections_at_birth_are_served() -> Result {
    let (origin, port) = (Quick::text("here").await?, free().await?);
    let (with_it, without) =
        (with("", &[("out", ANY), ("second", port)], origin.address), with("", &[("out", ANY)], origin.address));
    let weir = Weir::start(&without).await?;
    for _ in 0..10 {
        let mut early = tokio::task::JoinSet::new();
        for _ in 0..30 {
            early.spawn(async move {
                let mut connection = loop {
                    match raw::Connection::open(port).await {
                        Ok(connection) => break connection,
                        Err(_) => tokio::time::sleep(Duration::from_micros(500)).await,
                    }
                };
                again(&mut connection).await.map(|()| connection)
            });
        }
        weir.reload(&with_it).await?;
        let mut kept = Vec::new();
        while let Some(ended) = early.join_next().await {
            kept.push(ended??);
        }
        weir.reload(&without).await?;
        for connection in &mut kept {
            same!(connection.rest().await?, b"");
        }
        until("new connections are refused", async || refuses(port).await).await?;
    }
    Ok(())
}

async fn one_is_removed_under_load() -> Result {
    const TAKES: Duration = Duration::from_millis(700);
    let (quick, slow) = (Quick::text("here").await?, Quick::slow("slow", TAKES).await?);
    let text = |listeners: &[(&str, SocketAddr)]| {
        with("", listeners, quick.address)
            .replace("rules: [{", "rules: [{ match: [{ path: { exact: /slow } }], backends: [{ cluster: slow }] }, {")
            .replace("clusters: {", &format!("clusters: {{ slow: {{ endpoints: ['{}'], protocol: http1 }},", slow.address))
    };
    let weir = Weir::start(&text(&[("out", ANY), ("going", ANY)])).await?;
    let (out, going) = (weir.address("out"), weir.address("going"));
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(kept(going).await?);
    }
    let mut stays = kept(out).await?;
    let load = Load::new(out, 4).start(|_, _| Ok(()));
    let mut in_flight = Vec::new();
    for _ in 0..8 {
        let mut connection = raw::Connection::open(going).await?;
        connection.send("GET /slow HTTP/1.1\r\nhost: app\r\n\r\n").await?;
        in_flight.push(connection);
    }
    // And one over HTTP/2.
    let (mut sender, driver) = h2::client::handshake(TcpStream::connect(going).await?).await?;
    let driver = tokio::spawn(driver);
    let streamed = sender.send_request(http::Request::get("http://app/slow").body(())?, true)?.0;
    until("all slow requests are at the origin", async || slow.count() == 9).await?;
    weir.reload(&text(&[("out", ANY)])).await?;
    for connection in &mut in_flight {
        let response = connection.response(false).await?;
        same!((response.status, response.text().as_str()), (200, "slow"), "what was in flight finishes");
        let said = response.header("connection").map(str::to_lowercase);
        same!(said.as_deref(), Some("close"), "and says goodbye");
        same!(connection.rest().await?, b"", "and is closed in order");
    }
    let mut body = streamed.await?.into_body();
    same!(body.data().await.ok_or("no body")??, "slow");
    drop((body, sender));
    // The driver ends when the connection does, in good order.
    driver.await??;
    for connection in &mut idle {
        same!(connection.rest().await?, b"", "idle connections are closed in order, not reset");
    }
    until("new connections are refused", async || refuses(going).await).await?;
    run_for(Duration::from_millis(300)).await;
    load.stop().await.faultless()?;
    again(&mut stays).await?;
    holds!(weir.metric("weir_downstream_connections_active", "listener=\"going\"").await? == 0.0);
    Ok(())
}

/// The port is free again as soon as the new generation is acknowledged: what comes right after can have it.
async fn one_is_removed_and_brought_back() -> Result {
    let (origin, port) = (Quick::text("here").await?, free().await?);
    let both = with("", &[("out", ANY), ("second", port)], origin.address);
    let weir = Weir::start(&both).await?;
    let mut old = kept(port).await?;
    for _ in 0..5 {
        weir.reload(&with("", &[("out", ANY)], origin.address)).await?;
        weir.write(&both)?;
        post(&weir, "/reload").await?;
        until("it accepts again", async || raw::get(port, "app", "/").await.is_ok_and(|response| response.status == 200)).await?;
        same!(mistakes(&weir).await?, "");
    }
    same!(old.rest().await?, b"");
    Ok(())
}

async fn one_moves() -> Result {
    let (origin, first, second) = (Quick::text("here").await?, free().await?, free().await?);
    let weir = Weir::start(&with("", &[("out", ANY), ("mover", first)], origin.address)).await?;
    let (mut stays, mut leaves) = (kept(weir.address("out")).await?, kept(first).await?);
    weir.reload(&with("", &[("out", ANY), ("mover", second)], origin.address)).await?;
    for _ in 0..20 {
        same!(raw::get(second, "app", "/").await?.text(), "here");
    }
    until("the old place refuses", async || refuses(first).await).await?;
    same!(leaves.rest().await?, b"");
    again(&mut stays).await?;
    weir.reload(&with("", &[("out", ANY), ("mover", first)], origin.address)).await?;
    same!(raw::get(first, "app", "/").await?.text(), "here");
    until("the second place refuses", async || refuses(second).await).await?;
    again(&mut stays).await
}

/// A listener that keeps its address and changes its name keeps accepting.
async fn one_gets_another_name() -> Result {
    let (origin, port) = (Quick::text("here").await?, free().await?);
    let weir = Weir::start(&with("", &[("old-name", port)], origin.address)).await?;
    same!(raw::get(port, "app", "/").await?.text(), "here");
    weir.write(&with("", &[("new-name", port)], origin.address))?;
    until("something became of it", async || {
        weir.generation().await.is_ok_and(|now| now > 1) || updates(&weir, "rejected").await.is_ok_and(|count| count > 0)
    })
    .await?;
    same!(mistakes(&weir).await?, "");
    same!(raw::get(port, "app", "/").await?.text(), "here");
    Ok(())
}

async fn a_taken_port_rejects_the_whole_file() -> Result {
    let (origin, other) = (Quick::text("here").await?, Quick::text("other").await?);
    let stranger = tokio::net::TcpListener::bind(ANY).await?;
    let (taken, untaken) = (stranger.local_addr()?, free().await?);
    let weir = Weir::start(&with("", &[("out", ANY)], origin.address)).await?;
    let mut stays = kept(weir.address("out")).await?;
    // The file also has another origin and a listener that could be had: neither may be taken over.
    let listeners = [("out", ANY), ("free", untaken), ("unlucky", taken)];
    let text = with("", &listeners, other.address);
    weir.write(&text)?;
    until_rejected(&weir, true).await?;
    let said = mistakes(&weir).await?;
    for word in ["`unlucky`", &taken.to_string(), "in use"] {
        holds!(said.contains(word), "{said} does not say {word}");
    }
    same!(weir.generation().await?, 1);
    same!(raw::get(weir.address("out"), "app", "/").await?.text(), "here");
    holds!(refuses(untaken).await, "nothing of a rejected file is done");
    again(&mut stays).await?;

    drop(stranger);
    same!(post(&weir, "/reload").await?.status, 202);
    until("the same file is good when the port is free", async || weir.generation().await.is_ok_and(|now| now == 2)).await?;
    for address in [weir.address("out"), untaken, taken] {
        same!(raw::get(address, "app", "/").await?.text(), "other");
    }
    same!(weir.metric("weir_config_rejected", "").await?, 0.0);
    again(&mut stays).await
}

/// A file that moves a listener and is rejected for another reason after the new place was bound: the old place still
/// serves, and later files are judged by where the listener is, not by where it would have been.
async fn a_rejected_move() -> Result {
    let (origin, other) = (Quick::text("here").await?, Quick::text("other").await?);
    let (first, second) = (free().await?, free().await?);
    let weir = Weir::start(&with("", &[("mover", first)], origin.address)).await?;
    let unopenable = "access_log: { path: /proc/no/such/directory }";
    weir.write(&with(unopenable, &[("mover", second)], origin.address))?;
    until_rejected(&weir, true).await?;
    holds!(mistakes(&weir).await?.contains("access log"), "{}", mistakes(&weir).await?);
    same!(raw::get(first, "app", "/").await?.text(), "here");
    holds!(refuses(second).await, "the new place was given up");

    weir.write(&with("", &[("mover", first)], other.address))?;
    until("a later file is judged", async || {
        let published = weir.generation().await.is_ok_and(|now| now > 1);
        published || mistakes(&weir).await.is_ok_and(|said| !said.contains("access log"))
    })
    .await?;
    same!(mistakes(&weir).await?, "", "the listener is where it always was");
    same!(raw::get(first, "app", "/").await?.text(), "other");
    weir.reload(&with("", &[("mover", second)], other.address)).await?;
    same!(raw::get(second, "app", "/").await?.text(), "other");
    until("the first place refuses", async || refuses(first).await).await
}

async fn bootstrap_changes_wait() -> Result {
    let (origin, other) = (Quick::text("here").await?, Quick::text("other").await?);
    let weir = Weir::start(&with("", &[("out", ANY)], origin.address)).await?;
    let more = "probes: { listen: 127.0.0.1:0 }\ndns: { min_ttl: 2s }";
    let changed = with(more, &[("out", ANY)], other.address)
        .replace("workers: 2", "workers: 1")
        .replace("admin: { listen: 127.0.0.1:0 }", "admin: { listen: '[::1]:0' }");
    weir.reload(&changed).await?;
    let waits = config(&weir).await?["newest"]["needs_restart"].to_string();
    for field in ["workers", "admin", "probes", "dns"] {
        holds!(waits.contains(&format!("\"{field}\"")), "{waits} does not name {field}");
    }
    same!(weir.metric("weir_config_restart_fields", "").await?, 4.0);
    same!(weir.metric("weir_workers", "").await?, 2.0);
    same!(raw::get(weir.address("out"), "app", "/").await?.text(), "other", "the rest of the file applies");
    weir.reload(&with("", &[("out", ANY)], other.address)).await?;
    same!(weir.metric("weir_config_restart_fields", "").await?, 0.0);
    Ok(())
}
