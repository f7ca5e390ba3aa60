//! Rolling restarts: what stands behind weir, and weir itself, is replaced one after the other, and no caller notices.

use std::net::SocketAddr;
use std::time::Duration;

use weir_tests::app::App;
use weir_tests::load::Tally;
use weir_tests::mixed::Mixed;
use weir_tests::{Result, Trial, Weir, holds, same, soak, test_alone, until};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        test_alone("control::rolling::apps_restart", apps_restart),
        test_alone("control::rolling::weirs_restart", weirs_restart),
        test_alone("control::rolling::weirs_are_killed", weirs_are_killed),
    ]
}

fn rounds() -> usize {
    if soak() { 20 } else { 1 }
}

/// The sidecar of the callers, which stays. Calls by POST may be repeated where their rule says so; a POST that meets the
/// moment in which a listening socket closes is lost in the kernel, and no proxy may guess that it was.
fn front(endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|endpoint| format!("'{endpoint}'")).collect();
    let retry = "attempts: 2, on: [connect-failure, refused-stream, reset, gateway-error, unavailable]";
    format!(
        "workers: 2
listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes:
  - name: shop
    hosts: [shop]
    rules:
      - name: calls
        match: [{{ grpc: {{ service: shop.Cart }} }}]
        backends: [{{ cluster: shop }}]
        retry: {{ {retry}, idempotent: true }}
      - {{ name: pages, backends: [{{ cluster: shop }}], retry: {{ {retry} }} }}
clusters: {{ shop: {{ endpoints: [{}] }} }}
",
        endpoints.join(", ")
    )
}

/// Three apps, told to leave one after the other, and started again where they were.
async fn apps_restart() -> Result {
    // Addresses that no other test uses, so that their ports are free when they come back.
    let mut apps = Vec::new();
    for address in ["127.0.71.1:0", "127.0.71.2:0", "127.0.71.3:0"] {
        apps.push(App::start(address).await?);
    }
    let weir = Weir::start(&front(&[apps[0].address, apps[1].address, apps[2].address])).await?;
    let traffic = Mixed::start(weir.address("out"));
    traffic.more(300).await?;
    for _ in 0..rounds() {
        for _ in 0..apps.len() {
            let app = apps.remove(0);
            holds!(app.served() > 50, "it took its share: {}", app.served());
            let address = app.leave().await?;
            traffic.more(100).await?;
            let app = App::start(&address.to_string()).await?;
            until("it has its share again", async || app.served() > 50).await?;
            apps.push(app);
        }
    }
    let tally = traffic.stop().await;
    told(&tally)
}

fn told(tally: &Tally) -> Result {
    if soak() {
        println!("{} rounds: {} requests served, {} failed", rounds(), tally.served, tally.failed.len());
    }
    tally.faultless()
}

/// An app and its sidecar.
struct Pod {
    app: App,
    weir: Weir,
    yaml: String,
}

impl Pod {
    async fn start(address: &str) -> Result<Self> {
        let app = App::start(&format!("{address}:0")).await?;
        // Found by asking for any; it stays with the address, which is this pod's alone.
        let port = tokio::net::TcpListener::bind(format!("{address}:0")).await?.local_addr()?.port();
        let yaml = format!(
            "workers: 1
shutdown: {{ min: 300ms }}
listeners: [{{ name: in, listen: '{address}:{port}', direction: inbound, app: '{}' }}]
",
            app.address
        );
        Ok(Self { weir: Weir::start(&yaml).await?, app, yaml })
    }
}

/// Two pods behind the callers' sidecar, whose own sidecars get the signal one after the other and are started again.
async fn roll(addresses: [&str; 2], signal: i32) -> Result {
    let mut pods = vec![Pod::start(addresses[0]).await?, Pod::start(addresses[1]).await?];
    let front = Weir::start(&front(&[pods[0].weir.address("in"), pods[1].weir.address("in")])).await?;
    let traffic = Mixed::start(front.address("out"));
    traffic.more(300).await?;
    for _ in 0..rounds() {
        for pod in &mut pods {
            pod.weir.signal(signal);
            // A killed process has no exit code.
            let code = pod.weir.ended(Duration::from_secs(10)).await.ok();
            same!(code, (signal == libc::SIGTERM).then_some(0));
            traffic.more(100).await?;
            let before = pod.app.served();
            pod.weir = Weir::start(&pod.yaml).await?;
            until("it has its share again", async || pod.app.served() > before + 50).await?;
        }
    }
    let tally = traffic.stop().await;
    told(&tally)
}

async fn weirs_restart() -> Result {
    roll(["127.0.72.1", "127.0.72.2"], libc::SIGTERM).await
}

/// In the middle of what it does: what was in flight is tried again elsewhere, because a rule allows it.
async fn weirs_are_killed() -> Result {
    roll(["127.0.73.1", "127.0.73.2"], libc::SIGKILL).await
}
