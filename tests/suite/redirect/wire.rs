//! What an eavesdropper between two pods sees.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use weir_tests::mesh::{Authority, Files, Says};
use weir_tests::peers::Peer;
use weir_tests::pod::Program;
use weir_tests::{Result, Trial, holds, same, test_with};

use super::{DIRECT, Pair, SIDECAR};

pub fn trials() -> Vec<Trial> {
    let needs = ["tshark", "nginx", "curl", "redis-server", "nft"].map(Peer::Program);
    let needs: Vec<Peer> = needs.into_iter().chain([Peer::Namespaces]).collect();
    vec![test_with("redirect::wire::nothing_can_be_read_between_two_sidecars", &needs, unreadable)]
}

/// What must not be read.
const SECRET: &str = "a-word-that-nobody-else-says";

const ROUTES: &str = "
routes:
  - { name: web, hosts: ['*'], rules: [{ backends: [{ cluster: web }] }] }
  - { name: cache, protocol: tcp, destinations: ['10.96.0.7:*'], rules: [{ backends: [{ cluster: cache }] }] }
  - { name: greeter, protocol: tcp, destinations: ['10.96.0.8:*'], rules: [{ backends: [{ cluster: greeter }] }] }
clusters:
  web: { endpoints: ['10.0.0.2:8080'], TLS }
  cache: { endpoints: ['10.0.0.2:7000'], TLS }
  greeter: { endpoints: ['10.0.0.2:2525'], TLS }
";

/// The configurations of two members of a mesh that accept nobody else.
fn members(dir: &Path) -> Result<(String, String)> {
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755))?;
    let authority = Authority::new("shop.example")?;
    let of = |name: &str| {
        let pair = authority.issue(&Says::id(&format!("spiffe://shop.example/ns/shop/sa/{name}")))?;
        Files::write(&dir.join(name), &pair, authority.root())
    };
    let client = format!("{}{}{}\n", SIDECAR, ROUTES.replace("TLS", "tls: mesh"), of("client")?.yaml());
    let server = SIDECAR.replace("direction: inbound,", "direction: inbound, tls: strict,");
    Ok((client, format!("{server}{}\n", of("server")?.yaml())))
}

async fn unreadable() -> Result {
    let dir = tempfile::tempdir()?;
    let (client, server) = members(dir.path())?;
    let (open, frames) = heard(&ROUTES.replace(", TLS", ""), SIDECAR, SIDECAR).await?;
    holds!(open && frames.plain > 0, "without TLS all can be read: {frames:?}");
    let (open, frames) = heard("", &client, &server).await?;
    holds!(!open, "the word was on the wire");
    holds!(frames.tls > 10, "{frames:?}");
    same!(frames.plain, 0, "payload outside of TLS");
    Ok(())
}

/// Segments with payload, as far as they can be told apart by somebody who takes every connection for TLS.
#[derive(Debug)]
struct Frames {
    tls: usize,
    plain: usize,
}

/// Has the client say the word by HTTP, by Redis, and to a server that speaks first. Gives whether it could be read on the
/// wire, and what was there.
async fn heard(routes: &str, client: &str, server: &str) -> Result<(bool, Frames)> {
    let mut pair = Pair::with_sidecars("", &format!("{client}{routes}"), server)?;
    pair.client.run("ip route add 10.96.0.0/16 via 10.0.0.2")?;
    pair.serve_http(&["8080"])?;
    pair.serve_redis(7000)?;
    pair.serve_greetings("0.0.0.0", 2525)?;
    let capture = pair.dir.path().join("capture");
    let mut tshark = pair.server.command("tshark");
    tshark.args(["-q", "-i", "w0", "-f", "tcp", "-w"]).arg(&capture);
    let mut tshark = Program::start(tshark)?;
    tshark.wait_for("Capture started")?;

    same!(pair.curl(&format!("-d {SECRET} http://10.96.0.9/{SECRET}"))?, "8080 by HTTP/1.1\n");
    same!(pair.client.run(&format!("redis-cli -h 10.96.0.7 set k {SECRET}"))?.trim(), "OK");
    same!(pair.client.run("redis-cli -h 10.96.0.7 get k")?.trim(), SECRET);
    pair.talk("greeted 10.96.0.8 99 3")?;
    // What the kernel has not handed over yet is lost when it is told to leave.
    settled(&capture)?;
    pair.server.run(&format!("kill -INT {}", tshark.id()))?;
    tshark.wait_for_end()?;
    if routes.is_empty() {
        // Whoever is no member hears nothing.
        let refused = pair.client.run(&format!("{DIRECT} curl -sS -m 5 http://10.0.0.2:8080/ 2>&1 || true"))?;
        holds!(!refused.contains("8080 by"), "{refused}");
    }
    let file = capture.display();
    let count = |filter: &str| -> Result<usize> {
        let shown = pair.server.run(&format!(
            "tshark -r {file} -d tcp.port==8080,tls -d tcp.port==7000,tls -d tcp.port==2525,tls -Y '{filter}' 2>/dev/null | wc -l"
        ))?;
        Ok(shown.trim().parse()?)
    };
    let frames = Frames { tls: count("tcp.len > 0 && tls")?, plain: count("tcp.len > 0 && !tls")? };
    let seen = std::fs::read(&capture)?;
    let open = seen.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    Ok((open, frames))
}

/// Waits until a capture has something in it and has not grown for a while.
fn settled(capture: &Path) -> Result {
    let (mut before, mut quiet) = (0, 0);
    for _ in 0..400 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let now = std::fs::metadata(capture)?.len();
        quiet = if now > 1024 && now == before { quiet + 1 } else { 0 };
        if quiet == 20 {
            return Ok(());
        }
        before = now;
    }
    Err("nothing was captured".into())
}
