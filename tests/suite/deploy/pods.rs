//! Pods as `weir inject` makes them, run as a kubelet runs them.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use weir_tests::kubelet::Running;
use weir_tests::mesh::{Authority, Files, Says};
use weir_tests::peers::Peer;
use weir_tests::pod::{Network, Program};
use weir_tests::{Result, Trial, holds, same, test_with};

use super::injected;

pub(super) fn trials() -> Vec<Trial> {
    let needs = ["curl", "nft", "setpriv"].map(Peer::Program).into_iter().chain([Peer::Namespaces]);
    let needs: Vec<Peer> = needs.collect();
    let grpc: Vec<Peer> = needs.iter().copied().chain([Peer::Python("grpc")]).collect();
    vec![
        test_with("deploy::pods::an_app_that_knows_of_nothing", &needs, an_app),
        test_with("deploy::pods::a_classic_sidecar_holds_the_app_until_it_is_ready", &needs, classic),
        test_with("deploy::pods::kubelets_probe_apps_behind_strict_mutual_tls", &grpc, probes),
        test_with("deploy::pods::a_job_ends_when_its_app_does", &needs, job),
        test_with("deploy::pods::the_app_calls_others_to_its_last_moment", &needs, last_moment),
    ]
}

pub(super) const APP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/app_peer.py");

/// A pod with one container; `more` is more of the container.
pub(super) fn pod(command: &str, more: &str, annotations: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: app
  annotations: {{ {annotations} }}
spec:
  containers:
  - name: app
    image: shop/app:1
    command: [{command}]
    {more}
"
    )
}

fn serves(port: u16, more: &str, annotations: &str) -> String {
    pod(&format!("python3, {APP}, 0.0.0.0, '{port}'"), more, annotations)
}

async fn an_app() -> Result {
    let network = Network::new()?;
    let hook = "lifecycle: { preStop: { httpGet: { path: /bye, port: 8080 } } }";
    let manifest = injected(&serves(8080, hook, ""), &[])?;
    let mut app = Running::start(&network, 2, &manifest, &[])?;
    app.wait_until_ready(&network)?;
    app.container("app").wait_for("serving")?;
    same!(network.node.run("curl -sS -m 5 http://10.1.0.2:8080/")?, "ok\n");
    same!(network.node.run("curl -sS -m 5 'http://[fd01::2]:8080/'")?, "ok\n");
    // By way of weir, both of them.
    let metrics = network.node.run("curl -sS http://10.1.0.2:15020/metrics")?;
    holds!(metrics.contains("weir_downstream_protocols_total{listener=\"inbound\",protocol=\"http1\"} 2"), "{metrics}");
    let left = app.terminate()?;
    holds!(left.killed.is_empty() && left.took < Duration::from_secs(4), "{left:?}");
    holds!(app.said()?.contains("\"cut\":0"), "{}", app.said()?);
    holds!(app.said()?.contains("asked to say goodbye"), "{}", app.said()?);
    Ok(())
}

async fn classic() -> Result {
    let network = Network::new()?;
    // The app does nothing but call, and ends when it cannot.
    let once = pod("curl, -sS, -m, '5', 'http://10.1.0.9:8080/'", "", "");
    let manifest = injected(&once, &["--classic"])?;
    let server = network.host(9)?;
    let mut python = server.pod.command("python3");
    python.args([APP, "0.0.0.0", "8080"]);
    let mut served = Program::start(python)?;
    served.wait_for("serving")?;
    let mut app = Running::start(&network, 2, &manifest, &[])?;
    let ended = app.container("app").wait(Duration::from_secs(10))?;
    holds!(ended.success(), "{}", app.said()?);
    let metrics = network.node.run("curl -sS http://10.1.0.2:15020/metrics")?;
    holds!(metrics.contains("weir_downstream_protocols_total{listener=\"outbound\",protocol=\"http1\"} 1"), "{metrics}");
    // The app is gone: nobody is waited for longer than callers may need.
    let left = app.terminate()?;
    holds!(left.killed.is_empty() && left.took < Duration::from_secs(8), "{left:?}");
    Ok(())
}

/// Secrets of workloads of one trust domain, as a directory for each.
pub(super) fn secrets(names: &[&str]) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
    let authority = Authority::new("shop.example")?;
    for name in names {
        let pair = authority.issue(&Says::id(&format!("spiffe://shop.example/ns/shop/sa/{name}")))?;
        Files::write(&dir.path().join(name), &pair, authority.root())?;
    }
    Ok(dir)
}

/// F22: callers must show who they are, and the kubelet cannot.
async fn probes() -> Result {
    let network = Network::new()?;
    let dir = secrets(&["app"])?;
    let port = |more: &str| format!("ports: [{{ name: http, containerPort: 8080 }}]\n    {more}");
    let probes = "readinessProbe: { httpGet: { path: /ready, port: http } }
    livenessProbe: { tcpSocket: { port: 8080 } }
    startupProbe: { grpc: { port: 8081 } }
    lifecycle: { preStop: { httpGet: { path: /bye, port: 8082 } } }";
    let manifest = injected(&serves(8080, &port(probes), "weir.proxy/identity-secret: app"), &[])?;
    let strict = manifest.replace("tls: permissive", "tls: strict");
    holds!(strict != manifest, "{manifest}");
    let mut app = Running::start(&network, 2, &strict, &[("app", &dir.path().join("app"))])?;
    app.container("app").wait_for("serving")?;
    app.wait_until_ready(&network)?;
    let refused = network.node.run("curl -s -m 5 http://10.1.0.2:8080/ || echo refused")?;
    same!(refused, "refused\n", "in the clear nobody comes in");
    same!(app.probed(&network, "app", "readinessProbe")?, (200, "ok\n".to_owned()));
    same!(app.probed(&network, "app", "livenessProbe")?, (200, "connected\n".to_owned()));
    let (status, said) = app.probed(&network, "app", "startupProbe")?;
    holds!(status == 502 && said.contains("nobody listens on port 8081"), "{status} {said}");
    // Nobody chooses what is asked.
    for path in ["/app/app/other", "/app/app/readinessProbe/..", "/app", "/clusters"] {
        same!(
            network.node.run(&format!("curl -s --path-as-is -o /dev/null -w '%{{http_code}}' http://10.1.0.2:15020{path}"))?,
            "404"
        );
    }
    // A health service speaks up.
    let health = app.host.pod.command("python3");
    let mut health = health;
    health.args([concat!(env!("CARGO_MANIFEST_DIR"), "/peers/health_peer.py"), "8081"]);
    let mut health = Program::start(health)?;
    health.wait_for("serving")?;
    same!(app.probed(&network, "app", "startupProbe")?, (200, "serving\n".to_owned()));
    health.signal(libc::SIGUSR1);
    health.wait_for("not serving")?;
    same!(app.probed(&network, "app", "startupProbe")?.0, 503);
    // An app that hangs is a probe that fails, in the time that the probe has.
    app.container("app").signal(libc::SIGSTOP);
    let began = Instant::now();
    same!(app.probed(&network, "app", "readinessProbe")?.0, 504);
    holds!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    app.container("app").signal(libc::SIGKILL);
    Ok(())
}

async fn job() -> Result {
    let network = Network::new()?;
    for code in [0, 3] {
        let work = format!("sh, -c, 'curl -sS -m 5 http://127.0.0.1:15000/ready && exit {code}'");
        let mut job = Running::start(&network, 2, &injected(&pod(&work, "", ""), &[])?, &[])?;
        let (codes, left) = job.finish(Duration::from_secs(10))?;
        same!(codes[0].code(), Some(code));
        holds!(left.killed.is_empty() && left.took < Duration::from_secs(1), "{left:?}");
    }
    Ok(())
}

/// F01 (b): what the app calls after it was told to leave arrives, with either kind of sidecar.
async fn last_moment() -> Result {
    let network = Network::new()?;
    let server = network.host(9)?;
    let mut python = server.pod.command("python3");
    python.args([APP, "0.0.0.0", "8080"]);
    let mut served = Program::start(python)?;
    served.wait_for("serving")?;
    for options in [&[][..], &["--classic"]] {
        // It listens, as most apps do, and goes on calling for three seconds after SIGTERM.
        let calls = format!("python3, {APP}, calls, 'http://10.1.0.9:8080/'");
        let mut app = Running::start(&network, 2, &injected(&pod(&calls, "", ""), options)?, &[])?;
        app.container("app").wait_for("200")?;
        let left = app.terminate()?;
        holds!(left.killed.is_empty(), "{options:?}: {left:?}");
        let said = app.container("app").output()?;
        let (good, all) = (said.lines().filter(|line| *line == "200").count(), said.lines().count());
        holds!(all > 20 && good == all, "{options:?}: {good} of {all}:\n{said}\n{}", app.said()?);
    }
    Ok(())
}
