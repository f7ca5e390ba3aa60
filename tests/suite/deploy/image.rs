//! The image, run as a container: an empty root that nobody can write to, no capabilities, a user of its own.

use std::process::Command;
use std::time::Duration;

use weir_tests::container::{Container, image, in_pod, mounted, run};
use weir_tests::peers::Peer;
use weir_tests::pod::{Network, Program};
use weir_tests::{Result, Trial, holds, same, test_with};

use super::pods::APP;

pub(super) fn trials() -> Vec<Trial> {
    let needs = [Peer::Program("podman"), Peer::Program("runc"), Peer::Program("curl"), Peer::Image, Peer::Namespaces];
    vec![
        test_with("deploy::image::it_is_small_and_has_what_weir_needs", &needs, contents),
        test_with("deploy::image::a_container_beside_an_app", &needs, beside),
        test_with("deploy::image::workers_follow_the_quota", &needs, quotas),
    ]
}

/// A container has left within this.
const LEAVES: Duration = Duration::from_secs(15);

fn podman(arguments: &[&str]) -> Result<String> {
    let done = Command::new("podman").args(arguments).output()?;
    let said = String::from_utf8_lossy(&done.stdout).trim().to_owned();
    if done.status.success() { Ok(said) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned().into()) }
}

async fn contents() -> Result {
    let image = image().ok_or("no image")?;
    let size: u64 = podman(&["image", "inspect", "--format", "{{.Size}}", &image])?.parse()?;
    println!("{image}: {:.1} MB", size as f64 / 1e6);
    holds!(size < 25_000_000, "{size} bytes");
    same!(podman(&["image", "inspect", "--format", "{{.Config.User}}", &image])?, "1337:1337");
    // The certificates of public authorities are found.
    let dir = tempfile::tempdir()?;
    std::fs::write(
        dir.path().join("weir.yaml"),
        "listeners: [{ name: a, listen: 127.0.0.1:0, direction: outbound }]
routes: [{ name: a, hosts: ['*'], rules: [{ backends: [{ cluster: a }] }] }]
clusters: { a: { dns: partner.example:443, tls: { server_name: partner.example } } }
",
    )?;
    open(dir.path())?;
    let options = ["--network", "none", &mounted(dir.path(), "/etc/weir")];
    let said = run(&options, &image, &["check", "/etc/weir/weir.yaml"])?;
    holds!(said.contains("weir.yaml"), "{said}");
    let mut weir = Container::start(&options, &image, &["run", "--json", "-c", "/etc/weir/weir.yaml"])?;
    weir.program.wait_for("\"ready\"")?;
    holds!(weir.leave(LEAVES)?.success());
    Ok(())
}

fn open(dir: &std::path::Path) -> Result {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755))?)
}

async fn beside() -> Result {
    let image = image().ok_or("no image")?;
    let network = Network::new()?;
    let host = network.host(2)?;
    let here = in_pod(&host.pod);
    let refused = run(&[&here, "--user", "0"], &image, &["redirect", "install"]).err().map(|error| error.to_string());
    holds!(refused.as_ref().is_some_and(|said| said.contains("CAP_NET_ADMIN")), "{refused:?}");
    run(&[&here, "--user", "0", "--cap-add", "NET_ADMIN"], &image, &["redirect", "install"])?;
    let dir = tempfile::tempdir()?;
    std::fs::write(
        dir.path().join("weir.yaml"),
        "probes: { listen: ['0.0.0.0:15020', '[::]:15020'] }
listeners:
  - { name: inbound, listen: ['0.0.0.0:15006', '[::]:15006'], direction: inbound, original_destination: true }
  - { name: outbound, listen: ['127.0.0.1:15001', '[::1]:15001'], direction: outbound, original_destination: true }
",
    )?;
    open(dir.path())?;
    // As the image says: no arguments.
    let mut weir = Container::start(&[&here, &mounted(dir.path(), "/etc/weir")], &image, &[])?;
    weir.program.wait_for("ready")?;
    let mut app = host.pod.command("python3");
    app.args([APP, "0.0.0.0", "8080"]);
    let mut app = Program::start(app)?;
    app.wait_for("serving")?;
    for _ in 0..20 {
        same!(network.node.run("curl -sS -m 5 http://10.1.0.2:8080/")?, "ok\n");
    }
    let metrics = network.node.run("curl -sS http://10.1.0.2:15020/metrics")?;
    holds!(metrics.contains("weir_downstream_protocols_total{listener=\"inbound\",protocol=\"http1\"} 20"), "{metrics}");
    same!(run(&[&here], &image, &["health"])?, "");
    holds!(weir.leave(LEAVES)?.success(), "{}", weir.program.complaints()?);
    holds!(weir.program.complaints()?.contains("drained"), "{}", weir.program.complaints()?);
    run(&[&here, "--user", "0", "--cap-add", "NET_ADMIN"], &image, &["redirect", "remove"])?;
    same!(network.node.run("curl -sS -m 5 http://10.1.0.2:8080/")?, "ok\n");
    Ok(())
}

async fn quotas() -> Result {
    let image = image().ok_or("no image")?;
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("weir.yaml"), "listeners: [{ name: a, listen: 127.0.0.1:0, direction: outbound }]\n")?;
    open(dir.path())?;
    let cores = std::thread::available_parallelism()?.get();
    for (quota, workers) in [("0.5", 1), ("1", 1), ("2", 2)] {
        let options = ["--network", "none", "--cpus", quota, &mounted(dir.path(), "/etc/weir")];
        let mut weir = Container::start(&options, &image, &["run", "--json", "-c", "/etc/weir/weir.yaml"])?;
        weir.program.wait_for("\"ready\"")?;
        let wanted = format!("\"workers\":{}", workers.min(cores));
        holds!(weir.program.complaints()?.contains(&wanted), "{quota}: {}", weir.program.complaints()?);
        if workers == 1 && cores > 1 {
            holds!(weir.program.complaints()?.contains("quota"), "{quota}: {}", weir.program.complaints()?);
        }
        holds!(weir.leave(LEAVES)?.success());
    }
    Ok(())
}
