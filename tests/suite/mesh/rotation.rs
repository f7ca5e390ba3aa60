//! Certificates and roots that change while requests are served.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use weir_tests::echo::{self, Echo};
use weir_tests::load::{Load, Running};
use weir_tests::mesh::{Authority, Files, Says};
use weir_tests::raw::Connection;
use weir_tests::{Origin, Result, Trial, Weir, same, soak, test, until};

use super::{CART, PAY, inbound, outbound};

pub fn trials() -> Vec<Trial> {
    vec![
        test("mesh::certificates_change_under_load", certificates),
        test("mesh::roots_change_under_load", roots),
        test("mesh::long_streams_outlive_certificates", streams),
        test("mesh::a_listener_goes_from_plain_to_strict_under_load", migration),
    ]
}

/// How often an identity was taken.
pub(super) async fn taken(weir: &Weir) -> f64 {
    weir.metric("weir_identity_updates_total", "taken").await.unwrap_or(0.0)
}

/// Writes a new certificate, the key first and by itself, and waits until it is in use.
async fn renew(weir: &Weir, files: &Files, authority: &Authority, id: &str) -> Result {
    let before = taken(weir).await;
    let pair = authority.issue(&Says::id(id))?;
    std::fs::write(files.dir.join("tls.key"), &pair.key)?;
    tokio::task::yield_now().await;
    std::fs::write(files.dir.join("tls.crt"), &pair.cert)?;
    until("the new certificate is in use", async || taken(weir).await > before).await
}

/// Two sidecars, and an app that says hello.
struct Sidecars {
    cart: Files,
    pay: Files,
    callee: Weir,
    caller: Weir,
    _app: Origin,
    _dir: tempfile::TempDir,
}

impl Sidecars {
    async fn start(authority: &Authority) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let cart = super::member(authority, &dir.path().join("cart"), CART)?;
        let pay = super::member(authority, &dir.path().join("pay"), PAY)?;
        let app = Origin::text("hello").await?;
        let callee = Weir::start(&inbound(&pay, app.address, "tls: strict")).await?;
        // Connections that go idle are soon closed, so that new ones are opened all the time.
        let outer = outbound(&cart, callee.address("in"), "tls: mesh, protocol: http1, idle_timeout: 20ms");
        let caller = Weir::start(&outer).await?;
        Ok(Self { cart, pay, callee, caller, _app: app, _dir: dir })
    }
}

/// Requests through a caller's sidecar, all of which must be served.
pub(super) fn under_load(caller: &Weir) -> Running {
    let load = Load::new(caller.address("out"), 8).pausing(Duration::from_millis(30));
    load.start(|_, answer| if answer.status == 200 { Ok(()) } else { Err(answer.head.clone()) })
}

async fn certificates() -> Result {
    let rotations = if soak() { 1000 } else { 10 };
    let authority = Authority::new("shop.example")?;
    let Sidecars { cart, pay, callee, caller, .. } = &Sidecars::start(&authority).await?;
    let running = under_load(caller);
    for _ in 0..rotations {
        renew(callee, pay, &authority, PAY).await?;
        renew(caller, cart, &authority, CART).await?;
    }
    running.stop().await.faultless()
}

/// A tunnel over HTTP/1.1 and an upload over HTTP/2 that go on while certificates are replaced, and the root with them.
async fn streams() -> Result {
    let dir = tempfile::tempdir()?;
    let (old, new) = (Authority::new("shop.example")?, Authority::new("shop.example")?);
    let cart = super::member(&old, &dir.path().join("cart"), CART)?;
    let pay = super::member(&old, &dir.path().join("pay"), PAY)?;
    let (echo, collects) = (Echo::upgraded().await?, Origin::echo().await?);
    let yaml = |app, tls: &str| (inbound(&pay, app, "tls: strict"), format!("tls: mesh, protocol: {tls}"));
    let (inner, outer) = yaml(echo.address, "http1");
    let callee = Weir::start(&inner).await?;
    let caller = Weir::start(&outbound(&cart, callee.address("in"), &outer)).await?;
    let mut tunnel = echo::upgrade(caller.address("out")).await?;
    let (inner, outer) = yaml(collects.address, "http2");
    let second_callee = Weir::start(&inner).await?;
    let second_caller = Weir::start(&outbound(&cart, second_callee.address("in"), &outer)).await?;
    let mut upload = Connection::open(second_caller.address("out")).await?;
    upload.send("POST / HTTP/1.1\r\nhost: pay\r\ntransfer-encoding: chunked\r\n\r\n").await?;

    // In the end nobody believes the root by which both were let in.
    for round in 0..3 {
        let authority = if round == 2 { &new } else { &old };
        for (weirs, files, id) in [([&callee, &second_callee], &pay, PAY), ([&caller, &second_caller], &cart, CART)] {
            let before = [taken(weirs[0]).await, taken(weirs[1]).await];
            Files::write(&files.dir, &authority.issue(&Says::id(id))?, authority.root())?;
            for (weir, before) in weirs.iter().zip(before) {
                until("the new certificate is in use", async || taken(weir).await > before).await?;
            }
            tunnel.send("still here").await?;
            same!(tunnel.exactly(10).await?, b"still here");
            upload.send("a\r\nstill here\r\n").await?;
        }
    }
    upload.send("0\r\n\r\n").await?;
    let answer = upload.response(false).await?;
    same!(answer.status, 200);
    assert!(answer.text().ends_with(&"still here".repeat(6)), "{}", answer.text());
    Ok(())
}

/// Old, both, new: first what is believed, then who one is, then what is not believed any more.
async fn roots() -> Result {
    let (old, new) = (Authority::new("shop.example")?, Authority::new("shop.example")?);
    let Sidecars { cart, pay, callee, caller, .. } = &Sidecars::start(&old).await?;
    let running = under_load(caller);
    let both = format!("{}{}", old.root(), new.root());
    for trust in [both.as_str(), new.root()] {
        for (weir, files) in [(caller, cart), (callee, pay)] {
            let before = taken(weir).await;
            std::fs::write(files.dir.join("ca.crt"), trust)?;
            until("the roots are believed", async || taken(weir).await > before).await?;
        }
        if trust == both {
            renew(caller, cart, &new, CART).await?;
            renew(callee, pay, &new, PAY).await?;
            // Connections of the old certificate's are replaced.
            let sent = running.sent();
            until("more requests", async || running.sent() > sent + 100).await?;
        }
    }
    let sent = running.sent();
    until("more requests", async || running.sent() > sent + 100).await?;
    running.stop().await.faultless()
}

async fn from_elsewhere(to: std::net::SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 9], 0).into())?;
    Ok(socket.connect(to).await?)
}

/// What `weir advise strict` says of a listener, and whether it succeeds.
fn advised(weir: &Weir) -> Result<(bool, String)> {
    let admin = weir.admin.to_string();
    let done = std::process::Command::new(weir_tests::weir::binary())
        .args(["advise", "strict", "--admin", &admin, "--within", "1s"])
        .output()?;
    let said = String::from_utf8(done.stdout)?;
    let said = said.lines().filter(|line| !line.starts_with('(')).collect::<Vec<_>>().join("\n");
    Ok((done.status.success(), said))
}

/// Plaintext, permissive, the caller's TLS, strict: nobody notices.
async fn migration() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("shop.example")?;
    let cart = super::member(&authority, &dir.path().join("cart"), CART)?;
    let pay = super::member(&authority, &dir.path().join("pay"), PAY)?;
    let app = Origin::text("hello").await?;
    let admin = "admin: { listen: 127.0.0.1:0 }\n";
    let inner = |tls: &str, address: &str| {
        let yaml = inbound(&pay, app.address, &format!("tls: {tls}"));
        format!("{admin}{}", yaml.replace("listen: 127.0.0.1:0, direction", &format!("listen: '{address}', direction")))
    };
    let callee = Weir::start(&inner("off", "127.0.0.1:0")).await?;
    let address = callee.address("in");
    let outer = |tls: &str| format!("{admin}{}", outbound(&cart, address, tls));
    let caller = Weir::start(&outer("protocol: http1")).await?;
    let running = Load::new(caller.address("out"), 8)
        .pausing(Duration::from_millis(2))
        .start(|_, answer| if answer.status == 200 { Ok(()) } else { Err(answer.head.clone()) });
    let more = async || {
        let sent = running.sent();
        until("more requests", async || running.sent() > sent + 100).await
    };
    more().await?;
    same!(
        advised(&callee)?,
        (false, "in: not yet: callers cannot speak mutual TLS here; make it `tls: permissive` first".to_owned())
    );
    // One from elsewhere, who connects before anybody could speak mutual TLS, and stays.
    let mut plain = from_elsewhere(address).await?;
    callee.reload(&inner("permissive", "127.0.0.1:0")).await?;
    more().await?;
    plain.write_all(b"GET / HTTP/1.1\r\nhost: pay\r\n\r\n").await?;
    let mut answer = [0; 12];
    plain.read_exact(&mut answer).await?;
    same!(&answer, b"HTTP/1.1 200");
    let (safe, said) = advised(&callee)?;
    assert!(!safe && said.contains("not safe: these callers would be refused\n  127.0.0.1 "), "{said}");
    assert!(said.contains("\n  127.0.0.9        in the clear    1 connection, 1 open"), "{said}");
    caller.reload(&outer("tls: mesh")).await?;
    more().await?;
    // Once the sidecar speaks it, only the other is in the way; and nobody, once it has left.
    until("one is in the way", async || advised(&callee).is_ok_and(|(_, said)| said.contains("this caller"))).await?;
    assert!(advised(&callee)?.1.contains("127.0.0.9"));
    drop(plain);
    until("the way is clear", async || advised(&callee).is_ok_and(|(safe, _)| safe)).await?;
    let (_, said) = advised(&callee)?;
    assert!(said.starts_with("in: safe: ") && said.ends_with("by mutual TLS, and no others"), "{said}");
    // One who has not noticed is served until then, and no longer.
    let mut late = Connection::open(address).await?;
    late.send("GET / HTTP/1.1\r\nhost: pay\r\n\r\n").await?;
    same!(late.response(false).await?.status, 200);
    let before = callee.metric("weir_downstream_tls_total", "plain").await?;
    callee.reload(&inner("strict", "127.0.0.1:0")).await?;
    late.send("GET / HTTP/1.1\r\nhost: pay\r\n\r\n").await?;
    let refused = late.response(false).await?;
    same!(
        (refused.status, refused.header("x-weir-error"), refused.header("connection")),
        (403, Some("plaintext"), Some("close"))
    );
    more().await?;
    assert!(callee.metric("weir_downstream_tls_total", "mtls").await? > 0.0);
    assert!(callee.metric("weir_downstream_tls_total", "plain").await? == before);
    running.stop().await.faultless()
}
