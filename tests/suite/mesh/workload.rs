//! An identity that an agent gives: awaited, renewed under load, kept when the agent is gone.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::process::{Child, Command};
use weir_tests::mesh::{self, Authority, Says};
use weir_tests::weir::binary;
use weir_tests::workload::{Agent, socket, svid};
use weir_tests::{Origin, Result, Trial, Weir, same, soak, test, until};

use super::rotation::{taken, under_load};
use super::{CART, PAY};

pub fn trials() -> Vec<Trial> {
    vec![
        test("mesh::workload::an_agent_is_awaited_and_its_word_renewed_under_load", renewed),
        test("mesh::workload::what_an_agent_gave_last_serves_on_without_it", gone),
        test("mesh::workload::what_cannot_be_used_changes_nothing", useless),
        test("mesh::workload::an_issuer_renews_what_it_issued", issuer),
    ]
}

const OTHER: &str = "spiffe://other.example/ns/shop/sa/cart";

fn inbound(socket: &Path, app: std::net::SocketAddr) -> String {
    format!(
        "{}\nworkers: 1\nlisteners: [{{ name: in, listen: 127.0.0.1:0, direction: inbound, app: '{app}', tls: strict }}]\n",
        Agent::yaml(socket)
    )
}

fn word(authority: &Authority, id: &str) -> Result<Vec<u8>> {
    svid(id, &authority.issue(&Says::id(id))?, authority.root(), &[])
}

async fn renewed() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("shop.example")?;
    let socket = socket(dir.path());
    // Nobody is there yet.
    let app = Origin::text("hello").await?;
    let yaml = inbound(&socket, app.address);
    let starting = tokio::spawn(async move { Weir::start(&yaml).await });
    let agent = Agent::start(&socket)?;
    until("the agent is called", async || agent.refused.load(Ordering::Relaxed) > 0).await?;
    assert!(!starting.is_finished(), "without an identity nobody can be spoken to");
    agent.give(word(&authority, PAY)?);
    let callee = starting.await??;
    same!(agent.improper.load(Ordering::Relaxed), 0);

    let cart = super::member(&authority, &dir.path().join("cart"), CART)?;
    let outer = super::outbound(&cart, callee.address("in"), "tls: mesh, protocol: http1, idle_timeout: 20ms");
    let caller = Weir::start(&outer).await?;
    let running = under_load(&caller);
    let (rounds, pause) = if soak() { (60, Duration::from_secs(1)) } else { (20, Duration::ZERO) };
    for _ in 0..rounds {
        let before = taken(&callee).await;
        agent.give(word(&authority, PAY)?);
        until("the new certificate is in use", async || taken(&callee).await > before).await?;
        tokio::time::sleep(pause).await;
    }
    running.stop().await.faultless()
}

async fn gone() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("shop.example")?;
    let foreign = Authority::new("other.example")?;
    let socket = socket(dir.path());
    let agent = Agent::start(&socket)?;
    agent.give(word(&authority, PAY)?);
    let app = Origin::text("hello").await?;
    let callee = Weir::start(&inbound(&socket, app.address)).await?;
    let address = callee.address("in");
    let cart = authority.issue(&Says::id(CART))?;
    let other = foreign.issue(&Says::id(OTHER))?;
    let serves = async |pair| -> Result<bool> {
        let Ok(mut stream) = mesh::call(address, Some(pair), &["http/1.1"]).await else { return Ok(false) };
        Ok(mesh::ask(&mut stream).await.is_ok_and(|answer| answer.ends_with("hello")))
    };
    assert!(serves(&cart).await?);
    drop(agent);
    until("its absence is told", async || callee.admin("/certs").await.is_ok_and(|page| page.contains("the Workload API at")))
        .await?;
    assert!(serves(&cart).await? && !serves(&other).await?);
    // It comes back, and has news: a federated trust domain.
    let agent = Agent::start(&socket)?;
    let pair = authority.issue(&Says::id(PAY))?;
    agent.give(svid(
        PAY,
        &pair,
        authority.root(),
        &[("spiffe://other.example", foreign.root()), ("shop.example", authority.root())],
    )?);
    until("the federated domain is believed", async || serves(&other).await.unwrap_or(false)).await?;
    assert!(serves(&cart).await?);
    Ok(())
}

async fn useless() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("shop.example")?;
    let socket = socket(dir.path());
    let agent = Agent::start(&socket)?;
    agent.give(word(&authority, PAY)?);
    let app = Origin::text("hello").await?;
    let callee = Weir::start(&inbound(&socket, app.address)).await?;
    let (one, another) = (authority.issue(&Says::id(PAY))?, authority.issue(&Says::id(PAY))?);
    let mixed = mesh::Pair { cert: one.cert, key: another.key };
    let nothing: &[(&str, &str)] = &[];
    for (message, why) in [
        (Vec::new(), "there is no SVID in the message"),
        (vec![0xff; 40], "the message cannot be read"),
        (svid(PAY, &mixed, authority.root(), nothing)?, "does not fit"),
        (svid("cart", &another_pair(&authority)?, authority.root(), nothing)?, "is no SPIFFE ID"),
        (svid(PAY, &another_pair(&authority)?, "", nothing)?, "there is no certificate in it"),
    ] {
        agent.give(message);
        until(why, async || callee.admin("/certs").await.is_ok_and(|page| page.contains(why))).await?;
    }
    same!(taken(&callee).await, 1.0);
    let cart = authority.issue(&Says::id(CART))?;
    let answer = mesh::ask(&mut mesh::call(callee.address("in"), Some(&cart), &["http/1.1"]).await?).await?;
    assert!(answer.ends_with("hello"), "{answer}");
    Ok(())
}

fn another_pair(authority: &Authority) -> Result<mesh::Pair> {
    authority.issue(&Says::id(PAY))
}

/// `weir ca serve`, until it is dropped.
fn issue(dir: &Path, socket: &Path, allow: &str, ttl: &str) -> Result<Child> {
    let mut command = Command::new(binary());
    command.args(["ca", "serve", "--allow", allow, "--ttl", ttl, "--dir"]).arg(dir.join("ca"));
    command.arg("--socket").arg(socket).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    Ok(command.spawn()?)
}

async fn weir(dir: &Path, arguments: &[&str]) -> Result {
    let done = Command::new(binary()).args(arguments).current_dir(dir).output().await?;
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// A sidecar without a file: known by its user, served through several lives of its certificates, refused when it is nobody.
async fn issuer() -> Result {
    let dir = tempfile::tempdir()?;
    weir(dir.path(), &["ca", "init", "shop.example"]).await?;
    weir(dir.path(), &["ca", "issue", "/ns/shop/sa/cart"]).await?;
    let socket = socket(dir.path());
    // SAFETY: getuid has no memory effects and cannot fail.
    let own = unsafe { libc::getuid() };
    let mut nobody = issue(dir.path(), &socket, &format!("{}=/ns/shop/sa/pay", own + 1), "2s")?;
    let app = Origin::text("hello").await?;
    let yaml = inbound(&socket, app.address);
    let starting = tokio::spawn(async move { Weir::start(&yaml).await });
    until("the issuer is there", async || socket.exists()).await?;
    // To its end: the next one would refuse a socket that is still served.
    nobody.kill().await?;
    let _issuer = issue(dir.path(), &socket, &format!("{own}=/ns/shop/sa/pay"), "2s")?;
    let callee = starting.await??;
    let files = mesh::Files { dir: dir.path().join("tls") };
    let outer = super::outbound(&files, callee.address("in"), "tls: mesh, protocol: http1, idle_timeout: 20ms");
    let caller = Weir::start(&outer).await?;
    let running = under_load(&caller);
    // Half a life is a second: this is two lives and a half.
    let before = taken(&callee).await;
    until("five renewals", async || taken(&callee).await >= before + 5.0).await?;
    running.stop().await.faultless()?;
    let certs: serde_json::Value = serde_json::from_str(&callee.admin("/certs").await?)?;
    same!((certs["identity"].as_str(), certs["valid"].as_bool()), (Some(PAY), Some(true)));
    Ok(())
}
