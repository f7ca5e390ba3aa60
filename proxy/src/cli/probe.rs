//! `weir wait` and `weir health`: is the weir on this machine ready? `weir drain` and `weir shutdown`: it shall go.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::fail;

/// One question takes no longer than this.
const LIMIT: Duration = Duration::from_secs(2);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// Asks once.
pub(super) fn health(address: &str) -> ExitCode {
    match ask(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&format!("not ready: {why}")),
    }
}

/// Asks until it is ready.
pub(super) fn wait(address: &str, limit: Duration) -> ExitCode {
    let start = Instant::now();
    loop {
        match ask(address) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(why) if start.elapsed() >= limit => return fail(&format!("not ready after {limit:?}: {why}")),
            Err(_) => std::thread::sleep(PAUSE.min(limit)),
        }
    }
}

/// Has it say goodbye, and waits.
pub(super) fn drain(address: &str, wait: Duration) -> ExitCode {
    let done = post(address, "/drain");
    // Whoever is to be kept waiting is, whatever became of weir.
    std::thread::sleep(wait);
    done.map_or_else(|why| fail(&why), |()| ExitCode::SUCCESS)
}

/// Has it leave.
pub(super) fn shutdown(address: &str) -> ExitCode {
    post(address, "/shutdown").map_or_else(|why| fail(&why), |()| ExitCode::SUCCESS)
}

fn post(address: &str, target: &str) -> Result<(), String> {
    match ask_for(address, "POST", target)? {
        (200..=299, _) => Ok(()),
        (status, body) => Err(format!("{address} answers {status}: {}", body.trim())),
    }
}

/// `GET /ready`; says what is in the way.
fn ask(address: &str) -> Result<(), String> {
    match get(address, "/ready")? {
        (200, _) => Ok(()),
        (_, body) if body.trim().is_empty() => Err(format!("{address} answers something else than weir")),
        (_, body) => Err(body.trim().to_owned()),
    }
}

/// Asks the admin or probes server for a page; gives status and body.
pub(super) fn get(address: &str, target: &str) -> Result<(u16, String), String> {
    ask_for(address, "GET", target)
}

fn ask_for(address: &str, method: &str, target: &str) -> Result<(u16, String), String> {
    let parsed: SocketAddr = address.parse().map_err(|_| format!("`{address}` is not an address with a port"))?;
    let said = TcpStream::connect_timeout(&parsed, LIMIT).and_then(|mut stream| {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.write_all(
            format!("{method} {target} HTTP/1.1\r\ncontent-length: 0\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes(),
        )?;
        let mut said = String::new();
        stream.take(4 << 20).read_to_string(&mut said)?;
        Ok(said)
    });
    let said = said.map_err(|error| format!("{address}: {error}"))?;
    let status = said.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| format!("{address} answers something else than weir"))?;
    Ok((status, said.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned())))
}
