//! What callers can make more of has a bound: series and connections.

use weir_tests::raw::{self, Connection};
use weir_tests::{Origin, Result, Weir, same, until};

/// How many requests are written at once.
const BATCH: usize = 100;

/// Whatever hosts callers invent, the metrics keep their size, whether a route takes them or none does.
pub async fn hosts_make_no_series() -> Result {
    let origin = Origin::text("hello").await?;
    let weir = Weir::start(&format!(
        "listeners:
  - {{ name: any, listen: 127.0.0.1:0, direction: outbound }}
  - {{ name: few, listen: 127.0.0.1:0, direction: outbound }}
routes:
  - {{ name: any, listeners: [any], hosts: ['*'], rules: [{{ backends: [{{ cluster: one }}] }}] }}
  - {{ name: few, listeners: [few], hosts: [known], rules: [{{ backends: [{{ cluster: one }}] }}] }}
clusters: {{ one: {{ endpoints: ['{}'] }} }}
",
        origin.address
    ))
    .await?;
    let lines = async || -> Result<usize> { Ok(weir.admin("/metrics").await?.lines().count()) };
    let (any, few) = (weir.address("any"), weir.address("few"));
    // One of each kind, so that their series are there; by turns, until every worker has served each.
    for _ in 0..20 {
        same!(raw::get(any, "warm", "/").await?.status, 200);
        same!(raw::get(few, "known", "/").await?.status, 200);
        same!(raw::get(few, "unknown", "/").await?.status, 404);
    }
    let before = lines().await?;
    tokio::try_join!(ask_hosts(any, 200), ask_hosts(few, 404))?;
    same!(lines().await?, before);
    same!(weir.metric("weir_metrics_dropped_series_total", "").await?, 0.0);
    until("all are counted", async || weir.metric("weir_requests_total", "").await.is_ok_and(|n| n >= 20_000.0)).await
}

/// 10,000 hosts over one connection, each answered with this status.
async fn ask_hosts(address: std::net::SocketAddr, status: u16) -> Result {
    let mut connection = Connection::open(address).await?;
    for batch in 0..10_000 / BATCH {
        let host = |n: usize| format!("host-{}.example", batch * BATCH + n);
        let requests = (0..BATCH).map(|n| format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", host(n)));
        connection.send(requests.collect::<String>()).await?;
        for n in 0..BATCH {
            same!(connection.response(false).await?.status, status, "{}", host(n));
        }
    }
    Ok(())
}

/// The connection over the limit is closed and counted; a place that is given up can be taken.
pub async fn connections() -> Result {
    let weir = Weir::start(
        "workers: 2
listeners: [{ name: out, listen: 127.0.0.1:0, direction: outbound, limits: { connections: 5 } }]
routes: [{ name: all, hosts: ['*'], rules: [{ respond: { status: 200, body: here } }] }]
",
    )
    .await?;
    let out = weir.address("out");
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut connection = Connection::open(out).await?;
        connection.send(get).await?;
        same!(connection.response(false).await?.status, 200);
        open.push(connection);
    }
    let refused = async || weir.metric("weir_downstream_connections_refused_total", "out").await;
    same!(refused().await?, 0.0);
    for count in 1..=3 {
        same!(Connection::open(out).await?.rest().await?, b"", "the sixth connection");
        same!(refused().await?, f64::from(count));
    }
    same!(weir.metric("weir_downstream_connections_active", "out").await?, 5.0);
    for connection in &mut open {
        connection.send(get).await?;
        same!(connection.response(false).await?.status, 200, "the five still serve");
    }
    drop(open.pop());
    until("a place is free", async || {
        let Ok(mut connection) = Connection::open(out).await else { return false };
        connection.send(get).await.is_ok() && connection.response(false).await.is_ok_and(|answer| answer.status == 200)
    })
    .await
}
