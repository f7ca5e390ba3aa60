//! `weir demo --mtls`: two services with a sidecar each, and mutual TLS between the sidecars, in one process.
//!
//! `cart` calls its own sidecar in the clear; that one calls `hello`'s sidecar, which asks who it is, lets `cart` pass and
//! nobody else, and tells `hello` who called. Certificates are made for the occasion, in a directory that goes away.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use weir_config::spiffe::SpiffeId;
use weir_control::Applier;

use super::backend::{self, Backend};
use super::{begin, view};
use crate::admin::LogLevel;
use crate::app::App;
use crate::ca::{Authority, write};
use crate::lifecycle::{Leaving, Signals};
use crate::state::Shared;

const CART: &str = "spiffe://demo.example/ns/demo/sa/cart";
const HELLO: &str = "spiffe://demo.example/ns/demo/sa/hello";
/// As long as anybody will look at a demo.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// Runs both until the process is told to leave.
pub(super) async fn run(port: u16, rate: u32, json: bool, level: LogLevel) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (authority, _) = Authority::create("demo.example")?;
    for (name, id) in [("cart", CART), ("hello", HELLO)] {
        member(&authority, &dir.path().join(name), id)?;
    }
    let hello = Backend::start("hello").await?;
    let inner = callee(dir.path(), &hello);
    let mut inner_signals = Signals::of_terminal()?;
    let inner_app = App::start(applier(&inner)?, None, level.clone(), &mut inner_signals).await?;
    let inner_address = address(&inner_app, "hello");
    let outer = caller(dir.path(), port, inner_address);
    let mut signals = Signals::of_terminal()?;
    let app = App::start(applier(&outer)?, None, level, &mut signals).await?;
    let outer_address = address(&app, "cart");
    if !json {
        introduce(outer_address, inner_address, &outer, &inner);
    }
    if rate > 0 {
        tokio::spawn(backend::load(outer_address, rate));
    }
    let screen = tokio::spawn(show(Arc::clone(inner_app.shared()), hello, json));
    let (outer, inner) =
        tokio::join!(app.serve(&[], signals, Leaving::default()), inner_app.serve(&[], inner_signals, Leaving::default()));
    screen.abort();
    outer.and(inner).map(drop)
}

fn applier(text: &str) -> anyhow::Result<Applier> {
    begin("the demo's configuration", text)
}

fn address(app: &App, listener: &str) -> SocketAddr {
    app.address(listener).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))
}

fn member(authority: &Authority, dir: &Path, id: &str) -> anyhow::Result<()> {
    let id = SpiffeId::parse(id).map_err(anyhow::Error::msg)?;
    let issued = authority.issue(&id, LIFE)?;
    std::fs::create_dir_all(dir)?;
    write(&dir.join("tls.key"), &issued.key, true)?;
    write(&dir.join("tls.crt"), &issued.certificate, false)?;
    write(&dir.join("ca.crt"), authority.root(), false)
}

fn identity(dir: &Path, name: &str) -> String {
    let dir = dir.join(name);
    let dir = dir.display();
    format!("identity: {{ files: {{ cert: {dir}/tls.crt, key: {dir}/tls.key, trust: {dir}/ca.crt }} }}")
}

fn caller(dir: &Path, port: u16, callee: SocketAddr) -> String {
    format!(
        "{}
admin: {{ listen: 127.0.0.1:0 }}
listeners:
  - {{ name: cart, listen: 127.0.0.1:{port}, direction: outbound }}
routes:
  - {{ name: hello, hosts: [\"*\"], rules: [{{ backends: [{{ cluster: hello }}] }}] }}
clusters:
  hello: {{ endpoints: [{callee}], tls: {{ mesh: {{ peers: [{HELLO}] }} }} }}
",
        identity(dir, "cart")
    )
}

fn callee(dir: &Path, hello: &Backend) -> String {
    format!(
        "{}
admin: {{ listen: 127.0.0.1:0 }}
listeners:
  - {{ name: hello, listen: 127.0.0.1:0, direction: inbound, app: {}, tls: strict }}
authorization:
  - {{ name: only-cart, action: allow, from: [{{ service_accounts: [demo/cart] }}] }}
",
        identity(dir, "hello"),
        hello.address
    )
}

fn introduce(outer: SocketAddr, inner: SocketAddr, caller: &str, callee: &str) {
    let indented = |text: &str| text.lines().map(|line| format!("  {line}\n")).collect::<String>();
    view::say(&format!(
        "Two services, two sidecars, mutual TLS between them.\n\ncart's sidecar, on {outer}:\n\n{}\nhello's sidecar, on {inner}:\n\n{}\n\
         Try, in another terminal:\n\n  curl -i http://{outer}/     as cart: encrypted on its way, and hello hears who called\n  \
         curl -i http://{inner}/     past cart's sidecar: in the clear, so the connection is reset\n\
         \n(or start it with --rate 50 to have it call itself)  Ctrl-C ends.\n\n",
        indented(caller),
        indented(callee)
    ));
}

/// Shows what came to the callee's sidecar, once a second; to people only if there is news.
async fn show(shared: Arc<Shared>, hello: Backend, as_json: bool) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut last = None;
    loop {
        tick.tick().await;
        let (mut mutual, mut refused) = (0, 0);
        shared.metrics.listeners.visit(|_, shards| {
            mutual = shards.iter().map(|shard| shard.tls[0].get()).sum::<u64>();
            refused = shards.iter().map(|shard| shard.plaintext_refused.get()).sum::<u64>();
        });
        let seen = (hello.count(), mutual, refused);
        if as_json {
            let told = json!({ "requests": seen.0, "mtls_connections": mutual, "refused_in_the_clear": refused, "caller": hello.caller() });
            view::say(&format!("{told}\n"));
        } else if last != Some(seen) && seen != (0, 0, 0) {
            view::say(&format!(
                "requests {}, connections with mutual TLS {mutual}, from {}; refused in the clear {refused}\n",
                seen.0,
                hello.caller().unwrap_or_else(|| "nobody yet".to_owned())
            ));
        }
        last = Some(seen);
    }
}
