//! Updates of the configuration, discovery, balancing, admin, the command line, and leaving.

mod admin;
mod agreement;
mod balance;
mod cli;
mod dns;
mod explain;
mod file;
mod lifecycle;
mod listeners;
mod passthrough;
mod postgres;
mod proxy_protocol;
mod redis;
mod rolling;
mod shutdown;
mod split;
mod swaps;
mod tcp;
mod tunnels;
mod workers;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use weir_tests::{Result, Trial, Weir, raw};

pub fn trials() -> Vec<Trial> {
    [
        split::trials(),
        swaps::trials(),
        file::trials(),
        listeners::trials(),
        dns::trials(),
        balance::trials(),
        workers::trials(),
        admin::trials(),
        cli::trials(),
        shutdown::trials(),
        lifecycle::trials(),
        tcp::trials(),
        proxy_protocol::trials(),
        passthrough::trials(),
        tunnels::trials(),
        redis::trials(),
        postgres::trials(),
        explain::trials(),
        agreement::trials(),
        rolling::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The listener that most tests have.
const OUT: &str = "{ name: out, listen: 127.0.0.1:0, direction: outbound }";

/// A configuration with the listener `out` and one route for every host. `top` is more at the top level, a field a line;
/// `rule` is the inside of its only rule and `clusters` of the clusters, both in flow style.
fn table(top: &str, rule: &str, clusters: &str) -> String {
    format!(
        "admin: {{ listen: 127.0.0.1:0 }}
{top}
listeners: [{OUT}]
routes: [{{ name: all, hosts: ['*'], rules: [{{ name: only, {rule} }}] }}]
clusters: {{ {clusters} }}
"
    )
}

/// A configuration that sends everything to one origin and says `version` in the header `x-version`.
fn version(number: u64, origin: SocketAddr) -> String {
    let headers = format!("headers: {{ response: {{ set: {{ x-version: '{number}' }} }} }}");
    table("", &format!("backends: [{{ cluster: only }}], {headers}"), &format!("only: {{ endpoints: ['{origin}'] }}"))
}

/// A POST to a page of the admin server.
async fn post(weir: &Weir, path: &str) -> Result<raw::Response> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    raw::request(weir.admin, &head).await
}

/// What became of the newest configuration, as `/config` says.
async fn config(weir: &Weir) -> Result<Value> {
    Ok(serde_json::from_str(&weir.admin("/config").await?)?)
}

/// The mistakes that `/config` lists, in one text.
async fn mistakes(weir: &Weir) -> Result<String> {
    let page = config(weir).await?;
    let lines = page["newest"]["mistakes"].as_array().ok_or("no mistakes")?;
    Ok(lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n"))
}

/// How many configurations were offered that ended so: `published`, `rejected` or `unchanged`.
async fn updates(weir: &Weir, result: &str) -> Result<u64> {
    Ok(weir.metric("weir_config_updates_total", &format!("result=\"{result}\"")).await? as u64)
}

/// Waits until the newest configuration was rejected, or no longer is.
async fn until_rejected(weir: &Weir, rejected: bool) -> Result {
    let wanted = f64::from(u8::from(rejected));
    let what = if rejected { "the configuration is rejected" } else { "the configuration is no longer rejected" };
    weir_tests::until(what, async || weir.metric("weir_config_rejected", "").await.is_ok_and(|value| value == wanted)).await
}

/// Lets load run on. The one place where time itself is what a test needs, and not an event.
async fn run_for(time: Duration) {
    tokio::time::sleep(time).await;
}
