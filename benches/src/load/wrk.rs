//! wrk: HTTP/1.1 in a closed loop.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Ask, Found, latencies, whole};
use crate::contestant::which;

/// What wrk is told with `-s`: a body of so many bytes, and figures that a program can read.
const SCRIPT: &str = r#"
local bytes = tonumber(os.getenv("WEIR_BENCH_BODY") or "0")
if bytes > 0 then wrk.method = "POST"; wrk.body = string.rep("x", bytes) end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("figures %d %d %d", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout))
  for i = 1, 1000 do io.write(" ", latency:percentile((i - 0.5) / 10)) end
  io.write("\n")
end
"#;

/// Asks over so many connections for so many seconds. With `fresh`, each request has a connection of its own.
///
/// # Errors
/// wrk is not there or fails.
pub fn run(port: u16, ask: Ask, connections: u32, seconds: u32, fresh: bool, dir: &Path) -> Result<Found> {
    let script = dir.join("wrk.lua");
    std::fs::write(&script, SCRIPT)?;
    let mut wrk = Command::new(which("wrk").context("wrk is not installed; try `weir-bench install`")?);
    wrk.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "-s"]).arg(&script);
    wrk.args(["-H", &format!("Host: {}", ask.host)]).env("WEIR_BENCH_BODY", ask.body.to_string());
    if fresh {
        wrk.args(["-H", "Connection: close"]);
    }
    let output = wrk.arg(format!("http://127.0.0.1:{port}{}", ask.path)).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let Some(figures) = said.lines().find_map(|line| line.strip_prefix("figures ")) else {
        bail!("wrk failed: {said}{}", String::from_utf8_lossy(&output.stderr));
    };
    let figures: Vec<f64> = figures.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [requests, microseconds, errors, percentiles @ ..] = figures.as_slice() else { bail!("wrk said {said}") };
    let mut found =
        Found { answered: whole(requests - errors), errors: whole(*errors), seconds: microseconds / 1e6, latencies: latencies() };
    // A thousand points of the distribution stand for all of it.
    for latency in percentiles {
        found.latencies.record(whole(*latency))?;
    }
    Ok(found)
}
