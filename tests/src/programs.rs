//! Programs of others that run beside weir, and ports for those that cannot tell which one they got.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use crate::Result;

/// A port that nobody else is given while this lives. A peer that sets SO_REUSEPORT may listen on it: this socket is bound
/// and never listens, so that no connection is lost to it.
pub struct Reserved {
    /// The address.
    pub address: SocketAddr,
    _socket: Socket,
}

/// Reserves a port on loopback.
///
/// # Errors
/// What the kernel says.
pub fn reserve() -> Result<Reserved> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    let address = socket.local_addr()?.as_socket().ok_or("no port")?;
    Ok(Reserved { address, _socket: socket })
}

/// A peer that runs until this is dropped.
pub type Running = tokio::process::Child;

/// nginx with one or more `server { ... }`; its files are in `dir`.
///
/// # Errors
/// It does not start.
pub fn nginx(dir: &std::path::Path, servers: &str) -> Result<Running> {
    let path = dir.display();
    let conf = format!(
        "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;
events {{}}
http {{
    access_log off; client_body_temp_path {path}/b; proxy_temp_path {path}/p; fastcgi_temp_path {path}/f;
    uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;
    {servers}
}}"
    );
    let file = dir.join("nginx.conf");
    std::fs::write(&file, conf)?;
    let mut nginx = tokio::process::Command::new("nginx");
    nginx.arg("-c").arg(&file).arg("-e").arg(dir.join("error.log"));
    Ok(nginx.stderr(std::process::Stdio::null()).kill_on_drop(true).spawn()?)
}
