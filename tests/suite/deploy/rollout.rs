//! A service of three pods, replaced pod by pod under load, with a sidecar on both sides: nobody notices.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weir_tests::kubelet::Running;
use weir_tests::load::{Load, Tally};
use weir_tests::peers::Peer;
use weir_tests::pod::{Host, Network, within};
use weir_tests::{Result, Trial, holds, same, soak, test_alone_with};

use super::injected;
use super::pods::{APP, pod, secrets};

pub(super) fn trials() -> Vec<Trial> {
    let needs = ["curl", "nft", "setpriv"].map(Peer::Program).into_iter().chain([Peer::Namespaces]);
    let needs: Vec<Peer> = needs.collect();
    vec![
        test_alone_with("deploy::rollout::three_pods_are_replaced_and_nobody_notices", &needs, || rolling(&[], false, LINGER)),
        test_alone_with("deploy::rollout::with_mutual_tls_too", &needs, || rolling(&[], true, LINGER)),
        test_alone_with("deploy::rollout::apps_that_leave_at_once", &needs, || rolling(&[], true, "")),
        test_alone_with("deploy::rollout::and_with_classic_sidecars", &needs, || rolling(&["--classic"], false, "")),
    ]
}

/// Apps stay for two seconds, as every guide has them do.
const LINGER: &str = "lifecycle: { preStop: { sleep: { seconds: 2 } } }";

/// How often all three are replaced.
fn rounds() -> usize {
    if soak() { 20 } else { 1 }
}

/// What the caller's sidecar knows of the service.
fn caller(endpoints: &[u8], tls: bool) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|number| format!("'10.1.0.{number}:8080'")).collect();
    let (identity, tls) = match tls {
        true => (
            "identity: { files: { cert: /etc/weir-identity/tls.crt, key: /etc/weir-identity/tls.key, trust: /etc/weir-identity/ca.crt } }",
            ", tls: mesh",
        ),
        false => ("", ""),
    };
    format!(
        "
admin: {{ listen: 127.0.0.1:15000 }}
probes: {{ listen: 0.0.0.0:15020 }}
{identity}
listeners:
  - {{ name: inbound, listen: 0.0.0.0:15006, direction: inbound, original_destination: true }}
  - {{ name: outbound, listen: 127.0.0.1:15001, direction: outbound, original_destination: true }}
routes: [{{ name: shop, hosts: [shop], rules: [{{ backends: [{{ cluster: shop }}] }}] }}]
clusters: {{ shop: {{ endpoints: [{}]{tls} }} }}
",
        endpoints.join(", ")
    )
}

struct Rollout {
    network: Network,
    client: Running,
    pods: Vec<(u8, Running)>,
    next: u8,
    manifest: String,
    secrets: tempfile::TempDir,
    tls: bool,
}

impl Rollout {
    fn new(options: &[&str], tls: bool, more: &str) -> Result<Self> {
        let network = Network::new()?;
        let dir = secrets(&["app", "client"])?;
        let identity = |name: &str| if tls { format!("weir.proxy/identity-secret: {name}") } else { String::new() };
        let app = pod(&format!("python3, {APP}, 0.0.0.0, '8080', '3'"), more, &identity("app"));
        let config = caller(&[100], tls).trim().replace('\n', "\n      ");
        let quiet = "sleep, infinity";
        let client = pod(quiet, "", &identity("client"))
            .replace("  annotations: { ", &format!("  annotations:\n    weir.proxy/config: |\n      {config}\n    "))
            .replace(" }\nspec:", "\nspec:");
        let client = injected(&client, &[])?;
        let path = dir.path().join("client");
        let client = Running::start(&network, 250, &client, &[("client", &path)])?;
        let manifest = injected(&app, options)?;
        let mut rollout = Self { network, client, pods: Vec::new(), next: 100, manifest, secrets: dir, tls };
        for _ in 0..3 {
            rollout.add()?;
        }
        Ok(rollout)
    }

    /// A pod more, which is told of when it is ready.
    fn add(&mut self) -> Result {
        let path = self.secrets.path().join("app");
        let mut app = Running::start(&self.network, self.next, &self.manifest, &[("app", Path::new(&path))])?;
        app.container("app").wait_for("serving")?;
        app.wait_until_ready(&self.network)?;
        self.pods.push((self.next, app));
        self.next = if self.next == 240 { 100 } else { self.next + 1 };
        self.tell()
    }

    fn tell(&self) -> Result {
        let numbers: Vec<u8> = self.pods.iter().map(|(number, _)| *number).collect();
        self.client.configure(&caller(&numbers, self.tls))
    }

    /// The oldest leaves; others hear of it a second later.
    fn remove(&mut self) -> Result<(String, Vec<String>)> {
        let (_, mut oldest) = self.pods.remove(0);
        let left = std::thread::scope(|scope| {
            let leaving = scope.spawn(|| oldest.terminate().map_err(|error| error.to_string()));
            std::thread::sleep(Duration::from_secs(1));
            self.tell().map_err(|error| error.to_string())?;
            leaving.join().map_err(|_| "a thread failed".to_owned())?
        })?;
        Ok((oldest.said()?, left.killed))
    }
}

const GET: &str = "GET / HTTP/1.1\r\nhost: shop\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\n\r\norder";

/// Five hundred requests a second, until told; the second tally is that of POSTs.
fn load(client: &Host, stop: Arc<AtomicBool>) -> Result<std::thread::JoinHandle<Result<[Tally; 2]>>> {
    let to = SocketAddr::from(([10, 96, 0, 10], 80));
    within(&client.pod, move || async move {
        let running = [GET, POST].map(|request| {
            let load = Load { request: request.to_owned(), ..Load::new(to, 32) };
            load.pausing(Duration::from_millis(100)).start(|_, _| Ok(()))
        });
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let [gets, posts] = running;
        [gets.stop().await, posts.stop().await]
    })
}

/// How many POSTs the app of a pod that has left was given.
fn posts(said: &str) -> Result<usize> {
    let line = said.lines().find_map(|line| line.strip_prefix("served ")?.strip_suffix(" posts"));
    Ok(line.ok_or(format!("the app has not said how many: {said}"))?.parse()?)
}

async fn rolling(options: &'static [&'static str], tls: bool, more: &'static str) -> Result {
    let mut rollout = Rollout::new(options, tls, more)?;
    let stop = Arc::new(AtomicBool::new(false));
    let began = std::time::Instant::now();
    let running = load(&rollout.client.host, Arc::clone(&stop))?;
    let (mut reports, mut executed) = (Vec::new(), 0);
    let mut left = |said: &str| -> Result {
        executed += posts(said)?;
        let report = said.lines().find(|line| line.contains("drained"));
        reports.push(report.ok_or(format!("no report: {said}"))?.to_owned());
        Ok(())
    };
    let rolled = (|| -> Result {
        for _ in 0..rounds() * 3 {
            rollout.add()?;
            let (said, killed) = rollout.remove()?;
            holds!(killed.is_empty(), "{killed:?}: {said}");
            left(&said)?;
        }
        Ok(())
    })();
    stop.store(true, Ordering::Relaxed);
    let [gets, posts] = running.join().map_err(|_| "the load failed")??;
    rolled?;
    let (served, failed) = (gets.served + posts.served, [gets.failed.clone(), posts.failed.clone()].concat());
    let rate = served as f64 / began.elapsed().as_secs_f64();
    println!("{served} requests at {rate:.0}/s, {} failed", failed.len());
    // What an app closes without having read it is nobody's to do again, unless doing it twice is no harm.
    let unread = if more.is_empty() { rounds() * 3 * 5 } else { 0 };
    let is_well = gets.failed.is_empty() && posts.failed.len() <= unread;
    holds!(is_well, "{} failed: {:?}\n{}", failed.len(), failed.first(), rollout.client.said()?);
    // All is answered: what remains can leave, and says what it was given.
    std::thread::scope(|scope| {
        let leaving = rollout.pods.iter_mut().map(|(_, pod)| scope.spawn(|| pod.terminate().map_err(|error| error.to_string())));
        let leaving: Vec<_> = leaving.collect();
        leaving.into_iter().try_for_each(|one| one.join().map_err(|_| "a thread failed".to_owned())?.map(drop))
    })?;
    for (_, pod) in &rollout.pods {
        left(&pod.said()?)?;
    }
    // Answered means executed, and once: what was asked again had not been begun.
    same!(executed, posts.served, "POSTs executed and answered");
    // Five hundred where nothing else runs; a busy machine has less for them.
    holds!(rate > if soak() { 500.0 } else { 250.0 }, "{rate} requests a second");
    holds!(reports.iter().all(|report| report.contains("\"cut\":0") && report.contains("longest")), "{reports:?}");
    Ok(())
}
