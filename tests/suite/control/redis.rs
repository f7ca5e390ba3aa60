//! Redis and its own clients through an opaque TCP listener.

use tokio::io::{AsyncBufReadExt, BufReader};
use weir_tests::clients::{ask_redis, redis, run};
use weir_tests::peers::Peer;
use weir_tests::service::Service;
use weir_tests::{Result, Trial, Weir, holds, same, test_with, until};

use super::tcp::to;

pub(super) fn trials() -> Vec<Trial> {
    let needs = [Peer::Program("redis-server"), Peer::Program("redis-cli"), Peer::Program("redis-benchmark")];
    vec![
        test_with("control::redis::values_small_and_large", &needs, values_small_and_large),
        test_with("control::redis::pipelines", &needs, pipelines),
        test_with("control::redis::who_waits_is_told", &needs, who_waits_is_told),
    ]
}

async fn values_small_and_large() -> Result {
    let server = Service::redis().await?;
    let weir = Weir::start(&to(&[server.address])).await?;
    let db = weir.address("db");
    same!(ask_redis(db, &["set", "greeting", "hello"]).await?, "OK");
    same!(ask_redis(db, &["get", "greeting"]).await?, "hello");
    same!(ask_redis(db, &["get", "nothing"]).await?, "");
    holds!(ask_redis(db, &["incr", "greeting"]).await?.starts_with("ERR "), "an error is an answer");
    // Every byte there is, and far more than any buffer holds.
    let large: Vec<u8> = (0..16_u32 << 20).map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    same!(run(redis("redis-cli", db), &["-x", "set", "large"], &large).await?, b"OK\n");
    let mut back = run(redis("redis-cli", db), &["get", "large"], b"").await?;
    same!(back.pop(), Some(b'\n'), "redis-cli ends the line");
    holds!(back == large, "{} bytes came back, and not those of {}", back.len(), large.len());
    Ok(())
}

async fn pipelines() -> Result {
    let server = Service::redis().await?;
    let weir = Weir::start(&to(&[server.address])).await?;
    // One connection, nothing awaited: all requests first, then all answers.
    let commands: String = (0..50_000).map(|number| format!("SET key:{number} value-{number}\r\n")).collect();
    let said = String::from_utf8(run(redis("redis-cli", weir.address("db")), &["--pipe"], commands.as_bytes()).await?)?;
    holds!(said.contains("errors: 0, replies: 50000"), "{said}");
    same!(ask_redis(server.address, &["dbsize"]).await?, "50000");
    same!(ask_redis(server.address, &["get", "key:49999"]).await?, "value-49999");
    // Twenty connections with sixteen requests each on the way.
    let arguments = ["-n", "20000", "-c", "20", "-P", "16", "-t", "incr", "--csv"];
    let said = String::from_utf8(run(redis("redis-benchmark", weir.address("db")), &arguments, b"").await?)?;
    holds!(said.contains("\"INCR\""), "{said}");
    same!(ask_redis(server.address, &["get", "counter:__rand_int__"]).await?, "20000");
    weir.counted("weir_downstream_connections_active", "db", 0.0).await
}

/// A field of `INFO clients`, asked without weir.
async fn clients(server: &Service, field: &str) -> Option<u32> {
    let info = ask_redis(server.address, &["info", "clients"]).await.ok()?;
    info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok())
}

async fn who_waits_is_told() -> Result {
    let server = Service::redis().await?;
    let weir = Weir::start(&to(&[server.address])).await?;
    let db = weir.address("db");
    let mut subscriber = redis("redis-cli", db).args(["subscribe", "news"]).spawn()?;
    let mut lines = BufReader::new(subscriber.stdout.take().ok_or("no stdout")?).lines();
    for wanted in ["subscribe", "news", "1"] {
        same!(lines.next_line().await?.as_deref(), Some(wanted));
    }
    let taker = redis("redis-cli", db).args(["blpop", "jobs", "0"]).spawn()?;
    let mut forsaken = redis("redis-cli", db).args(["blpop", "never", "0"]).spawn()?;
    until("two wait", async || clients(&server, "blocked_clients").await == Some(2)).await?;
    // Who waits does so through a change of the configuration, too.
    weir.reload(&to(&[server.address]).replace("] }", "], connect_timeout: 700ms }")).await?;
    same!(ask_redis(db, &["publish", "news", "it rains"]).await?, "1");
    for wanted in ["message", "news", "it rains"] {
        same!(lines.next_line().await?.as_deref(), Some(wanted));
    }
    same!(ask_redis(db, &["lpush", "jobs", "sweep"]).await?, "1");
    let done = tokio::time::timeout(std::time::Duration::from_secs(10), taker.wait_with_output()).await??;
    same!(String::from_utf8_lossy(&done.stdout), "jobs\nsweep\n");
    // A client that is killed is gone for Redis as well: it waits for nobody.
    forsaken.kill().await?;
    until("nobody waits", async || clients(&server, "blocked_clients").await == Some(0)).await?;
    subscriber.kill().await?;
    weir.counted("weir_downstream_connections_active", "db", 0.0).await
}
