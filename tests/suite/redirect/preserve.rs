//! Callers' own addresses, seen by an app that knows nothing of weir.

use weir_tests::kubelet::Running;
use weir_tests::peers::Peer;
use weir_tests::pod::{Network, Pod, Program};
use weir_tests::weir::binary;
use weir_tests::{Result, Trial, holds, same, test_with};

use super::TALK;

pub fn trials() -> Vec<Trial> {
    let needs = ["nft", "curl", "setpriv"].map(Peer::Program).into_iter().chain([Peer::Namespaces]);
    let needs: Vec<Peer> = needs.collect();
    vec![
        test_with("redirect::preserve::the_app_sees_who_calls", &needs, sees),
        test_with("redirect::preserve::rules_without_the_option_are_told_of", &needs, half),
        test_with("redirect::preserve::rules_and_routes_come_and_go", &needs, rules),
    ]
}

fn weir(pod: &Pod, arguments: &str) -> Result<String> {
    pod.run(&format!("( {} redirect {arguments} ) 2>&1", binary().display()))
}

/// A pod as `weir inject` makes it with the annotation, and an app that tells who called.
async fn sees() -> Result {
    let network = Network::new()?;
    let manifest = format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: app, annotations: {{ weir.proxy/preserve-source: 'true' }} }}
spec:
  containers:
  - {{ name: app, image: 'shop/app:1', command: [python3, {TALK}, who, '::', '8080'] }}
"
    );
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), manifest)?;
    let injected = std::process::Command::new(binary()).arg("inject").arg(file.path()).output()?;
    let manifest = String::from_utf8(injected.stdout)?;
    holds!(manifest.contains("preserve_source: true") && manifest.contains("--uid=none"), "{manifest}");
    let mut app = Running::start(&network, 2, &manifest, &[])?;
    app.container("app").wait_for("serving")?;
    let callers = [network.host(7)?, network.host(8)?];
    for _ in 0..3 {
        for caller in &callers {
            let number = caller.address.octets()[3];
            // HTTP with connections that are kept, and bytes.
            same!(
                caller.pod.run("curl -sS -m 5 http://10.1.0.2:8080/ http://10.1.0.2:8080/")?,
                format!("10.1.0.{number}\n").repeat(2)
            );
            same!(caller.pod.run("curl -sS -m 5 'http://[fd01::2]:8080/'")?, format!("fd01::{number}\n"));
        }
    }
    // By way of weir.
    let metrics = network.node.run("curl -sS http://10.1.0.2:15020/metrics")?;
    holds!(metrics.contains("weir_downstream_protocols_total{listener=\"inbound\",protocol=\"http1\"} 12"), "{metrics}");
    // The app itself still calls others, and itself.
    same!(app.host.pod.run("curl -sS -m 5 http://127.0.0.1:8080/")?, "127.0.0.1\n");
    let server = network.host(9)?;
    let mut other = server.pod.command("python3");
    other.args([TALK, "who", "::", "8080"]);
    let mut other = Program::start(other)?;
    other.wait_for("serving")?;
    same!(app.host.pod.run("curl -sS -m 5 http://10.1.0.9:8080/")?, "10.1.0.2\n");
    let left = app.terminate()?;
    holds!(left.killed.is_empty(), "{left:?}");
    Ok(())
}

/// The listener says so, and the rules do not: the app is reached all the same, by loopback, and weir says why.
async fn half() -> Result {
    let network = Network::new()?;
    let (app, caller) = (network.host(2)?, network.host(7)?);
    let mut talk = app.pod.command("python3");
    talk.args([TALK, "who", "::", "8080"]);
    let mut talk = Program::start(talk)?;
    talk.wait_for("serving")?;
    weir(&app.pod, "install --uid none")?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(
        file.path(),
        "admin: { listen: 127.0.0.1:15000 }
listeners: [{ name: inbound, listen: 0.0.0.0:15006, direction: inbound, original_destination: true, preserve_source: true }]
",
    )?;
    let mut command = app.pod.command("setpriv");
    command.args(["--regid", "1337", "--clear-groups"]).arg(binary()).args(["run", "-c"]).arg(file.path());
    let running = Program::start(command)?;
    app.pod.run(&format!("{} wait", binary().display()))?;
    holds!(caller.pod.run("curl -sS -m 5 http://10.1.0.2:8080/")?.contains("127.0.0.1"));
    holds!(running.complaints()?.contains("are the rules installed with `--preserve-source`?"), "{}", running.complaints()?);
    Ok(())
}

async fn rules() -> Result {
    let pod = Pod::new()?;
    let state = || {
        pod.run("nft list ruleset; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all type local default")
    };
    let before = state()?;
    for _ in 0..2 {
        weir(&pod, "install --preserve-source")?;
        holds!(weir(&pod, "check --preserve-source")?.contains("as these options say"));
        holds!(
            pod.run("ip rule")?.contains("fwmark 0x53b lookup 1339") && pod.run("ip -6 rule")?.contains("fwmark 0x53b"),
            "{}",
            state()?
        );
        same!(pod.run("ip rule")?.matches("0x53b").count(), 1);
        holds!(pod.run("ip route show table 1339")?.contains("local default dev lo"));
    }
    let (installed, check) = (pod.run("nft list ruleset")?, weir(&pod, "check || true")?);
    holds!(check.contains("nobody asked for"), "{check}");
    pod.run("ip route del local default dev lo table 1339")?;
    holds!(weir(&pod, "check --preserve-source || true")?.contains("not led back to weir"));
    weir(&pod, "install --preserve-source")?;
    pod.run("ip rule del priority 1339")?;
    holds!(weir(&pod, "check --preserve-source || true")?.contains("not led back to weir"));
    // What is printed is what is installed.
    weir(&pod, "remove")?;
    pod.run(&format!("{} redirect print --preserve-source | nft -f -", binary().display()))?;
    same!(pod.run("nft list ruleset")?, installed);
    weir(&pod, "install --preserve-source")?;
    // Without the option, nothing of it stays.
    weir(&pod, "install")?;
    holds!(!pod.run("ip rule; ip -6 rule")?.contains("0x53b"), "{}", state()?);
    weir(&pod, "install --preserve-source")?;
    weir(&pod, "remove")?;
    same!(state()?, before);
    // What would not work is refused, and nothing is left of it.
    pod.run("echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter")?;
    weir(&pod, "install")?;
    let standing = state()?;
    holds!(weir(&pod, "install --preserve-source --backend nftables || true")?.contains("rp_filter"));
    same!(state()?, standing, "the rules that were there are there still");
    weir(&pod, "remove")?;
    let refused = weir(&pod, "install --preserve-source --backend nftables || true")?;
    holds!(refused.contains("rp_filter") && refused.contains("no rules were installed"), "{refused}");
    pod.run("echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter")?;
    same!(state()?, before);
    let refused = weir(&pod, "install --preserve-source --backend iptables-nft || true")?;
    holds!(refused.contains("by nftables only"), "{refused}");
    Ok(())
}
