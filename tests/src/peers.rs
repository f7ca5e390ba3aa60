//! Programs and Python packages that a machine may have.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::Result;

/// A peer that some tests need.
#[derive(Debug, Clone, Copy)]
pub enum Peer {
    /// A program on the path.
    Program(&'static str),
    /// A Python module.
    Python(&'static str),
    /// An `openssl` that knows a group for key agreement.
    OpensslGroup(&'static str),
    /// Network namespaces of our own.
    Namespaces,
    /// What `deploy_peer.py has` knows: helm, kubectl, and readers of other files that people apply.
    Deployer(&'static str),
    /// weir's image, and an engine that runs it.
    Image,
}

impl Peer {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Program(name) | Self::Python(name) | Self::OpensslGroup(name) | Self::Deployer(name) => name,
            Self::Namespaces => "network namespaces",
            Self::Image => "image in WEIR_IMAGE that can be run here",
        }
    }

    /// Whether the machine has it.
    pub fn is_there(&self) -> bool {
        match self {
            Self::Program(name) => program(name).is_some(),
            Self::Python(module) => std::process::Command::new("python3")
                .args(["-c", &format!("import {module}")])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success()),
            Self::Namespaces => crate::pod::Pod::is_possible(),
            Self::Deployer(name) => std::process::Command::new("python3")
                .args([concat!(env!("CARGO_MANIFEST_DIR"), "/peers/deploy_peer.py"), "has", name])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success()),
            Self::Image => crate::container::is_possible(),
            // Before 3.5 there is no such list, and no group that would be asked for.
            Self::OpensslGroup(group) => std::process::Command::new("openssl")
                .args(["list", "-tls-groups"])
                .output()
                .is_ok_and(|told| String::from_utf8_lossy(&told.stdout).split([':', '\n']).any(|name| name.trim() == *group)),
        }
    }
}

/// Where a program is: on the path, where Debian keeps servers, or where it keeps those of PostgreSQL.
pub fn program(name: &str) -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain([PathBuf::from("/usr/sbin")])
        .chain(versions.map(|version| version.path().join("bin")))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// A script from `tests/peers`, not started yet. It ends with the value.
pub fn script(name: &str, arguments: &[&str]) -> Command {
    let mut python = Command::new("python3");
    python.arg(format!("{}/peers/{name}", env!("CARGO_MANIFEST_DIR"))).args(arguments);
    python.stdin(Stdio::null()).kill_on_drop(true);
    python
}

/// A script from `tests/peers` that serves on 127.0.0.1 and says on which port, and the address.
///
/// # Errors
/// It says no port.
pub async fn serve(name: &str, arguments: &[&str]) -> Result<(Child, SocketAddr)> {
    let mut child = script(name, arguments).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    let port: u16 = lines.next_line().await?.ok_or("the server says no port")?.trim().parse()?;
    Ok((child, SocketAddr::from(([127, 0, 0, 1], port))))
}
