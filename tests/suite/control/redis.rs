//! Redis and its own clients through an opaque TCP listener.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
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

/// A client of the server at this address. It ends with the value.
fn client(program: &str, server: SocketAddr) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", &server.ip().to_string(), "-p", &server.port().to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What a client says to this command, with this on its standard input.
async fn run(mut client: Command, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut child = client.args(arguments).stdin(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    let feed = async move { stdin.write_all(input).await };
    let (fed, done) = tokio::join!(feed, child.wait_with_output());
    let done = done?;
    fed?;
    holds!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(done.stdout)
}

/// What Redis answers to this command.
async fn ask(server: SocketAddr, command: &[&str]) -> Result<String> {
    Ok(String::from_utf8(run(client("redis-cli", server), command, b"").await?)?.trim_end().to_owned())
}

async fn values_small_and_large() -> Result {
    let redis = Service::redis().await?;
    let weir = Weir::start(&to(&[redis.address])).await?;
    let db = weir.address("db");
    same!(ask(db, &["set", "greeting", "hello"]).await?, "OK");
    same!(ask(db, &["get", "greeting"]).await?, "hello");
    same!(ask(db, &["get", "nothing"]).await?, "");
    holds!(ask(db, &["incr", "greeting"]).await?.starts_with("ERR "), "an error is an answer");
    // Every byte there is, and far more than any buffer holds.
    let large: Vec<u8> = (0..16_u32 << 20).map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    same!(run(client("redis-cli", db), &["-x", "set", "large"], &large).await?, b"OK\n");
    let mut back = run(client("redis-cli", db), &["get", "large"], b"").await?;
    same!(back.pop(), Some(b'\n'), "redis-cli ends the line");
    holds!(back == large, "{} bytes came back, and not those of {}", back.len(), large.len());
    Ok(())
}

async fn pipelines() -> Result {
    let redis = Service::redis().await?;
    let weir = Weir::start(&to(&[redis.address])).await?;
    // One connection, nothing awaited: all requests first, then all answers.
    let commands: String = (0..50_000).map(|number| format!("SET key:{number} value-{number}\r\n")).collect();
    let said = String::from_utf8(run(client("redis-cli", weir.address("db")), &["--pipe"], commands.as_bytes()).await?)?;
    holds!(said.contains("errors: 0, replies: 50000"), "{said}");
    same!(ask(redis.address, &["dbsize"]).await?, "50000");
    same!(ask(redis.address, &["get", "key:49999"]).await?, "value-49999");
    // Twenty connections with sixteen requests each on the way.
    let arguments = ["-n", "20000", "-c", "20", "-P", "16", "-t", "incr", "--csv"];
    let said = String::from_utf8(run(client("redis-benchmark", weir.address("db")), &arguments, b"").await?)?;
    holds!(said.contains("\"INCR\""), "{said}");
    same!(ask(redis.address, &["get", "counter:__rand_int__"]).await?, "20000");
    weir.counted("weir_downstream_connections_active", "db", 0.0).await
}

/// A field of `INFO clients`, asked without weir.
async fn clients(redis: &Service, field: &str) -> Option<u32> {
    let info = ask(redis.address, &["info", "clients"]).await.ok()?;
    info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok())
}

async fn who_waits_is_told() -> Result {
    let redis = Service::redis().await?;
    let weir = Weir::start(&to(&[redis.address])).await?;
    let db = weir.address("db");
    let mut subscriber = client("redis-cli", db).args(["subscribe", "news"]).spawn()?;
    let mut lines = BufReader::new(subscriber.stdout.take().ok_or("no stdout")?).lines();
    for wanted in ["subscribe", "news", "1"] {
        same!(lines.next_line().await?.as_deref(), Some(wanted));
    }
    let taker = client("redis-cli", db).args(["blpop", "jobs", "0"]).spawn()?;
    let mut forsaken = client("redis-cli", db).args(["blpop", "never", "0"]).spawn()?;
    until("two wait", async || clients(&redis, "blocked_clients").await == Some(2)).await?;
    // Who waits does so through a change of the configuration, too.
    weir.reload(&to(&[redis.address]).replace("] }", "], connect_timeout: 700ms }")).await?;
    same!(ask(db, &["publish", "news", "it rains"]).await?, "1");
    for wanted in ["message", "news", "it rains"] {
        same!(lines.next_line().await?.as_deref(), Some(wanted));
    }
    same!(ask(db, &["lpush", "jobs", "sweep"]).await?, "1");
    let done = tokio::time::timeout(std::time::Duration::from_secs(10), taker.wait_with_output()).await??;
    same!(String::from_utf8_lossy(&done.stdout), "jobs\nsweep\n");
    // A client that is killed is gone for Redis as well: it waits for nobody.
    forsaken.kill().await?;
    until("nobody waits", async || clients(&redis, "blocked_clients").await == Some(0)).await?;
    subscriber.kill().await?;
    weir.counted("weir_downstream_connections_active", "db", 0.0).await
}
