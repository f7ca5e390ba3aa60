//! `weir wait` and `weir health`: is the weir on this machine ready?

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

/// `GET /ready`; says what is in the way.
fn ask(address: &str) -> Result<(), String> {
    let parsed: SocketAddr = address.parse().map_err(|_| format!("`{address}` is not an address with a port"))?;
    let said = TcpStream::connect_timeout(&parsed, LIMIT).and_then(|mut stream| {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut said = String::new();
        stream.take(64 << 10).read_to_string(&mut said)?;
        Ok(said)
    });
    let said = said.map_err(|error| format!("{address}: {error}"))?;
    if said.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    let body = said.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim());
    Err(if body.is_empty() { format!("{address} answers something else than weir") } else { body.to_owned() })
}
