//! The own clients of Redis and PostgreSQL, for whatever address the server is reached at.

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::{Result, holds, peers};

/// One of Redis's clients for the server at this address. It ends with the value.
pub fn redis(program: &str, server: SocketAddr) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", &server.ip().to_string(), "-p", &server.port().to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What a client says to this command, with this on its standard input.
///
/// # Errors
/// The client fails.
pub async fn run(mut client: Command, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let done = feed(client.args(arguments), input).await?;
    holds!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(done.stdout)
}

/// What Redis answers to this command.
///
/// # Errors
/// redis-cli fails.
pub async fn ask_redis(server: SocketAddr, command: &[&str]) -> Result<String> {
    Ok(String::from_utf8(run(redis("redis-cli", server), command, b"").await?)?.trim_end().to_owned())
}

/// psql for the server at this address, which prints nothing but rows. It ends with the value.
pub fn psql(server: SocketAddr) -> Command {
    let mut command = Command::new(peers::program("psql").unwrap_or_default());
    command.args(["-h", &server.ip().to_string(), "-p", &server.port().to_string(), "-U", "postgres", "-d", "postgres"]);
    command.args(["-X", "-q", "-A", "-t"]);
    command.kill_on_drop(true);
    command
}

/// What one statement prints, with this on psql's standard input; or what psql says is wrong.
///
/// # Errors
/// psql does not run.
pub async fn sql(server: SocketAddr, statement: &str, input: &str) -> Result<Result<String, String>> {
    let done = feed(psql(server).args(["-c", statement]), input.as_bytes()).await?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(if done.status.success() { Ok(said(&done.stdout)) } else { Err(said(&done.stderr)) })
}

/// Runs a program with this on its standard input.
///
/// # Errors
/// It does not start.
pub async fn feed(command: &mut Command, input: &[u8]) -> Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    // It may end before it has read everything.
    let feed = async move { drop(stdin.write_all(input).await) };
    let ((), done) = tokio::join!(feed, child.wait_with_output());
    Ok(done?)
}
