//! h2load: HTTP/2 in a closed loop, many streams on few connections.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{Ask, Found, latencies};
use crate::contestant::which;
use crate::origin::MESSAGE;

/// Asks with so many streams on each of so many connections. With `grpc`, calls with a small message.
///
/// # Errors
/// h2load is not there or fails.
pub fn run(port: u16, ask: Ask, (connections, streams): (u32, u32), seconds: u32, grpc: bool, dir: &Path) -> Result<Found> {
    let log = dir.join("h2load.log");
    let _ = std::fs::remove_file(&log);
    let mut h2load = Command::new(which("h2load").context("h2load is not installed; try `weir-bench install`")?);
    h2load.args(["-t1", "-c", &connections.to_string(), "-m", &streams.to_string(), "-D", &seconds.to_string()]);
    h2load.args(["-w20", "-W24"]).arg(format!("--log-file={}", log.display()));
    h2load.args(["-H", &format!(":authority: {}", ask.host)]);
    if grpc {
        let message = dir.join("message");
        std::fs::write(&message, MESSAGE)?;
        h2load.arg("-d").arg(message).args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
    }
    let began = Instant::now();
    let output = h2load.arg(format!("http://127.0.0.1:{port}{}", ask.path)).output()?;
    let took = began.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stdout);
    let Some(counted) = said.lines().find_map(|line| line.strip_prefix("requests: ")) else {
        bail!("h2load failed: {said}{}", String::from_utf8_lossy(&output.stderr));
    };
    let count = |what: &str| {
        let field = counted.split(", ").find_map(|field| field.strip_suffix(what));
        field.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let statuses = said.lines().find_map(|line| line.strip_prefix("status codes: ")).unwrap_or("");
    let answered = statuses.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    // What was on its way when the time was over is nobody's error.
    let errors = (count(" succeeded") + count(" failed")).saturating_sub(answered) + count(" timeout");
    let mut found = Found { answered, errors, seconds: took, latencies: latencies() };
    let lines = std::fs::read_to_string(&log).unwrap_or_default();
    for line in lines.lines() {
        if let [_, "200", latency] = line.split('\t').collect::<Vec<_>>()[..] {
            found.latencies.record(latency.trim().parse()?)?;
        }
    }
    Ok(found)
}
