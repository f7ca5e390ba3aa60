//! Real servers that keep data or pass it on: Redis, PostgreSQL and NATS, each with a directory and an address of its own.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::mesh::Files;
use crate::{Result, peers, until};

/// A server. It is told to stop with the value, and waited for, so that it leaves nothing behind.
pub struct Service {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Service {
    /// An empty Redis that keeps nothing on disk.
    ///
    /// # Errors
    /// It does not start.
    pub async fn redis() -> Result<Self> {
        let address = own_address();
        let plain = |command: &mut Command| {
            command.args(["--port", &address.port().to_string()]);
        };
        Self::redis_on(address, plain).await
    }

    /// The same with mutual TLS of its own.
    ///
    /// # Errors
    /// It does not start.
    pub async fn redis_with_tls(files: &Files) -> Result<Self> {
        let address = own_address();
        let [cert, key, ca] = ["tls.crt", "tls.key", "ca.crt"].map(|name| files.dir.join(name));
        let tls = |command: &mut Command| {
            command.args(["--port", "0", "--tls-port", &address.port().to_string(), "--tls-cert-file"]).arg(cert);
            command.arg("--tls-key-file").arg(key).arg("--tls-ca-cert-file").arg(ca);
        };
        Self::redis_on(address, tls).await
    }

    async fn redis_on(address: SocketAddr, ports: impl FnOnce(&mut Command)) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut command = Command::new(program("redis-server")?);
        command.args(["--bind", &address.ip().to_string(), "--protected-mode", "no"]);
        command.args(["--save", "", "--appendonly", "no", "--logfile", "log", "--dir"]).arg(dir.path());
        ports(&mut command);
        Self::start(command, address, dir).await
    }

    /// A fresh PostgreSQL, superuser and database `postgres`, without a password.
    ///
    /// # Errors
    /// It does not start.
    pub async fn postgres() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let address = own_address();
        let data = dir.path().join("data");
        // SAFETY: geteuid has no effects.
        let root = unsafe { libc::geteuid() } == 0;
        if root {
            std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY))?;
        }
        let mut init = unprivileged("initdb", root, dir.path())?;
        init.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D"]).arg(&data);
        let done = tokio::task::spawn_blocking(move || init.output()).await??;
        if !done.status.success() {
            return Err(format!("initdb: {}", String::from_utf8_lossy(&done.stderr)).into());
        }
        let mut command = unprivileged("postgres", root, dir.path())?;
        command.args(["-p", &address.port().to_string(), "-D"]).arg(&data);
        let listen = format!("listen_addresses={}", address.ip());
        // No data outlives a test, so nothing is worth waiting for a disk.
        for setting in [&listen, "unix_socket_directories=", "fsync=off", "shared_buffers=16MB", "max_connections=20"] {
            command.args(["-c", setting]);
        }
        Self::start(command, address, dir).await
    }

    /// A NATS server, which takes a payload of a megabyte at most.
    ///
    /// # Errors
    /// It does not start.
    pub async fn nats() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let address = own_address();
        let mut command = Command::new(program("nats-server")?);
        command.args(["--addr", &address.ip().to_string(), "--port", &address.port().to_string()]);
        Self::start(command, address, dir).await
    }

    /// Starts a server and waits until it accepts.
    async fn start(mut command: Command, address: SocketAddr, dir: tempfile::TempDir) -> Result<Self> {
        let log = std::fs::File::create(dir.path().join("output"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let service = Self { address, child: command.spawn()?, _dir: dir };
        until("the server accepts", async || tokio::net::TcpStream::connect(address).await.is_ok()).await?;
        Ok(service)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // SAFETY: kill has no memory effects; the pid is of a child that has not been waited for.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGINT) };
        for _ in 0..2000 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nobody else takes: these servers cannot take port 0 and say what they got. Ports are given out by the
/// kernel for 127.0.0.1 only, and the rest of 127/8 is large enough for an address of every process.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 64 | (high & 63), middle, low], NEXT.fetch_add(1, Ordering::Relaxed)))
}

fn program(name: &str) -> Result<std::path::PathBuf> {
    peers::program(name).ok_or_else(|| format!("no {name}").into())
}

/// The user and the group that own nothing.
const NOBODY: u32 = 65_534;

/// PostgreSQL refuses to run as root, so root runs it as nobody.
fn unprivileged(name: &str, root: bool, dir: &Path) -> Result<Command> {
    let mut command = Command::new(program(name)?);
    command.current_dir(dir);
    if root {
        command.uid(NOBODY).gid(NOBODY);
    }
    Ok(command)
}
