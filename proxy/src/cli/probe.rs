//! `weir wait` and `weir health`: is the weir on this machine ready? `weir drain` and `weir shutdown`: it shall go.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::fail;

/// One question takes no longer than this.
const LIMIT: Duration = Duration::from_secs(2);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a weir on this machine is asked: its admin server, or its probes server.
#[derive(Debug, Clone)]
pub(super) enum Contact {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Contact {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:").map(|rest| rest.strip_prefix("//").unwrap_or(rest)) {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => Err("write an absolute path, such as `unix:/run/weir/admin.sock`"),
            };
        }
        // The name that everybody knows; nobody is asked for others.
        let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
        let local = local.map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let address = local.or_else(|| text.parse().ok()).filter(|address| address.port() > 0);
        address.map(Self::Tcp).ok_or("write an IP address and a port, such as `127.0.0.1:15000`, or `unix:/run/weir/admin.sock`")
    }
}

impl fmt::Display for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Asks once.
pub(super) fn health(address: &Contact) -> ExitCode {
    match ask(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&format!("not ready: {why}")),
    }
}

/// Asks until it is ready.
pub(super) fn wait(address: &Contact, limit: Duration) -> ExitCode {
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
pub(super) fn drain(address: &Contact, wait: Duration) -> ExitCode {
    let done = post(address, "/drain");
    // Whoever is to be kept waiting is, whatever became of weir.
    std::thread::sleep(wait);
    done.map_or_else(|why| fail(&why), |()| ExitCode::SUCCESS)
}

/// Has it leave.
pub(super) fn shutdown(address: &Contact) -> ExitCode {
    post(address, "/shutdown").map_or_else(|why| fail(&why), |()| ExitCode::SUCCESS)
}

fn post(address: &Contact, target: &str) -> Result<(), String> {
    match ask_for(address, "POST", target)? {
        (200..=299, _) => Ok(()),
        (status, body) => Err(format!("{address} answers {status}: {}", body.trim())),
    }
}

/// `GET /ready`; says what is in the way.
fn ask(address: &Contact) -> Result<(), String> {
    match get(address, "/ready")? {
        (200, _) => Ok(()),
        (_, body) if body.trim().is_empty() => Err(format!("{address} answers something else than weir")),
        (_, body) => Err(body.trim().to_owned()),
    }
}

/// Asks the admin or probes server for a page; gives status and body.
pub(super) fn get(address: &Contact, target: &str) -> Result<(u16, String), String> {
    ask_for(address, "GET", target)
}

fn ask_for(address: &Contact, method: &str, target: &str) -> Result<(u16, String), String> {
    let question = format!("{method} {target} HTTP/1.1\r\ncontent-length: 0\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let said = match address {
        Contact::Tcp(address) => TcpStream::connect_timeout(address, LIMIT).and_then(|stream| {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
            converse(stream, &question)
        }),
        Contact::Unix(path) => UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
            converse(stream, &question)
        }),
    };
    let said = said.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => format!(
            "{address}: nobody listens there: no weir runs here, or its admin server has another address (`--admin ADDRESS`): {error}"
        ),
        _ => format!("{address}: {error}"),
    })?;
    let status = said.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| format!("{address} answers something else than weir"))?;
    Ok((status, said.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned())))
}

fn converse(mut stream: impl Read + Write, question: &str) -> io::Result<String> {
    stream.write_all(question.as_bytes())?;
    let mut said = String::new();
    stream.take(4 << 20).read_to_string(&mut said)?;
    Ok(said)
}
