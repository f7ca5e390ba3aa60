//! How weir comes to stand beside a service: manifests, pods, and how both leave.

mod dev;
mod files;
mod image;
mod inject;
mod pods;
mod rollout;
mod webhook;

use std::process::{Command, Stdio};

use weir_tests::weir::binary;
use weir_tests::{Result, Trial};

pub fn trials() -> Vec<Trial> {
    [dev::trials(), files::trials(), image::trials(), inject::trials(), pods::trials(), rollout::trials(), webhook::trials()]
        .into_iter()
        .flatten()
        .collect()
}

/// What `weir` prints and complains of, and whether it is content.
struct Said {
    ok: bool,
    out: String,
    err: String,
}

/// Runs `weir` on a text.
fn weir(arguments: &[&str], input: &str) -> Result<Said> {
    use std::io::Write;
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let done = child.wait_with_output()?;
    // A text that is refused is not read to its end.
    let _ = writer.join();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { ok: done.status.success(), out: text(&done.stdout), err: text(&done.stderr) })
}

/// A pod with a sidecar, as `weir inject` makes it.
fn injected(manifest: &str, options: &[&str]) -> Result<String> {
    let said = weir(&[&["inject"], options].concat(), manifest)?;
    if said.ok { Ok(said.out) } else { Err(said.err.into()) }
}
