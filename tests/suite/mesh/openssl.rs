//! What OpenSSL and a scanner see of a strict listener.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tokio::process::Command;
use weir_tests::clients::feed;
use weir_tests::mesh::{Authority, Files, Pair, Says, Server};
use weir_tests::peers::Peer;
use weir_tests::session::Session;
use weir_tests::{Origin, Result, Trial, Weir, holds, same, test_with};

use super::{CART, PAY, inbound, member};

pub fn trials() -> Vec<Trial> {
    let openssl = [Peer::Program("openssl")];
    let post_quantum = [Peer::OpensslGroup("X25519MLKEM768")];
    vec![
        test_with("mesh::openssl::old_versions_and_weak_suites_are_refused", &openssl, versions_and_suites),
        test_with("mesh::openssl::keys_are_agreed_in_good_groups", &openssl, groups),
        test_with("mesh::openssl::keys_are_agreed_against_quantum_computers", &post_quantum, quantum),
        test_with("mesh::openssl::there_is_nothing_to_resume_with", &openssl, no_tickets),
        test_with("mesh::openssl::keys_change_within_a_connection", &openssl, key_update),
        test_with("mesh::openssl::a_scanner_finds_nothing", &[Peer::Python("sslyze")], scanned),
    ]
}

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: pay\r\nconnection: close\r\n\r\n";

/// weir in front of an app, and who may call.
struct Scene {
    weir: Weir,
    app: Origin,
    authority: Authority,
    pay: Pair,
    cart: Files,
    dir: tempfile::TempDir,
}

impl Scene {
    async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let authority = Authority::new("shop.example")?;
        let cart = member(&authority, &dir.path().join("cart"), CART)?;
        let pay = authority.issue(&Says::id(PAY))?;
        let files = Files::write(&dir.path().join("pay"), &pay, authority.root())?;
        let app = Origin::text("served").await?;
        let weir = Weir::start(&inbound(&files, app.address, "tls: strict")).await?;
        Ok(Self { weir, app, authority, pay, cart, dir })
    }

    /// openssl s_client as `cart`.
    fn client(&self, to: SocketAddr) -> Command {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-connect", &to.to_string(), "-CAfile"]).arg(self.cart.dir.join("ca.crt"));
        client.arg("-cert").arg(self.cart.dir.join("tls.crt")).arg("-key").arg(self.cart.dir.join("tls.key"));
        client.kill_on_drop(true);
        client
    }

    /// All that s_client says when it sends a request, with these arguments more.
    async fn ask(&self, to: SocketAddr, arguments: &[&str]) -> Result<String> {
        said(self.client(to).args(arguments)).await
    }

    fn address(&self) -> SocketAddr {
        self.weir.address("in")
    }

    /// How many were refused for this reason.
    async fn refused(&self, why: &str, count: usize) -> Result {
        self.weir.counted("weir_downstream_tls_refused_total", &format!("\"{why}\""), count as f64).await
    }
}

async fn said(client: &mut Command) -> Result<String> {
    let done =
        tokio::time::timeout(std::time::Duration::from_secs(20), feed(client.arg("-ign_eof"), REQUEST.as_bytes())).await??;
    Ok([done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat())
}

async fn versions_and_suites() -> Result {
    let scene = Scene::start().await?;
    let good = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];
    for suite in good {
        let said = scene.ask(scene.address(), &["-ciphersuites", suite]).await?;
        holds!(said.contains(&format!("New, TLSv1.3, Cipher is {suite}")), "{said}");
        holds!(
            said.contains("Verify return code: 0 (ok)") && said.ends_with("served") || said.contains("\r\n\r\nserved"),
            "{said}"
        );
    }
    // Whatever OpenSSL itself would not do by default is allowed, so that it is weir who refuses.
    let any = ["-cipher", "ALL:@SECLEVEL=0"];
    let bad: [&[&str]; 5] = [
        &["-tls1_2"],
        &["-tls1_1"],
        &["-tls1"],
        &["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"],
        &["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_8_SHA256"],
    ];
    for (place, arguments) in bad.into_iter().enumerate() {
        let said = scene.ask(scene.address(), &[arguments, &any].concat()).await?;
        // Handshake_failure and protocol_version, and they are the peer's.
        holds!(said.contains("SSL alert number 40") || said.contains("SSL alert number 70"), "{arguments:?}: {said}");
        scene.refused("no_common_protocol", place + 1).await?;
    }
    let mut nobody = Command::new("openssl");
    let said = said(nobody.args(["s_client", "-connect", &scene.address().to_string()]).kill_on_drop(true)).await?;
    // Certificate_required.
    holds!(said.contains("SSL alert number 116"), "{said}");
    scene.refused("no_certificate", 1).await?;
    same!(scene.app.count(), good.len());
    Ok(())
}

async fn groups() -> Result {
    let scene = Scene::start().await?;
    // Of the last, OpenSSL sends the share that weir does not take, and is asked for the other.
    let good = ["X25519", "P-256", "P-384", "X448:P-384"];
    for group in good {
        let said = scene.ask(scene.address(), &["-groups", group]).await?;
        holds!(said.contains("\r\n\r\nserved"), "{group}: {said}");
    }
    for (place, group) in ["P-521", "X448", "ffdhe2048"].into_iter().enumerate() {
        let said = scene.ask(scene.address(), &["-groups", group]).await?;
        holds!(said.contains("SSL alert number 40"), "{group}: {said}");
        scene.refused("no_common_protocol", place + 1).await?;
    }
    same!(scene.app.count(), good.len());
    Ok(())
}

/// Envoy shows the same of BoringSSL, on machines whose OpenSSL is older than 3.5.
async fn quantum() -> Result {
    let scene = Scene::start().await?;
    // By itself, and among those that OpenSSL offers by default.
    for arguments in [&["-groups", "X25519MLKEM768"][..], &[]] {
        let said = scene.ask(scene.address(), arguments).await?;
        holds!(said.contains("Negotiated TLS1.3 group: X25519MLKEM768") && said.contains("\r\n\r\nserved"), "{said}");
    }
    Ok(())
}

async fn no_tickets() -> Result {
    let scene = Scene::start().await?;
    let other = Server::start(&scene.pay, scene.authority.root(), "served").await?;
    // That one gives tickets, so they are seen where they are given.
    for (name, address, given) in [("other", other.address, true), ("weir", scene.address(), false)] {
        let file = scene.dir.path().join(name);
        let out = file.display().to_string();
        let said = scene.ask(address, &["-msg", "-sess_out", &out]).await?;
        holds!(said.contains("Finished") && said.contains("\r\n\r\nserved"), "{name}: {said}");
        holds!(said.contains("New, TLSv1.3") && said.contains("Compression: NONE"), "{name}: {said}");
        same!((name, said.contains("NewSessionTicket")), (name, given));
        same!((name, is_filled(&file)), (name, given));
    }
    Ok(())
}

fn is_filled(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|data| data.len() > 0)
}

async fn key_update() -> Result {
    let scene = Scene::start().await?;
    let mut client = scene.client(scene.address());
    client.arg("-msg");
    let mut session = Session::open(client)?;
    session.prints("Verify return code: 0 (ok)").await?;
    for _ in 0..3 {
        // Its own key changes, and weir is asked to change its own.
        session.say("K").await?;
    }
    session.prints(">>> TLS 1.3, Handshake [length 0005], KeyUpdate").await?;
    session.say("GET / HTTP/1.1\r\nhost: pay\r\nconnection: close\r\n\r").await?;
    session.prints("<<< TLS 1.3, Handshake [length 0005], KeyUpdate").await?;
    session.prints("served").await?;
    same!(scene.app.count(), 1);
    Ok(())
}

/// The names of the things in a list of a scan.
fn names(list: &Value, name: &str) -> Vec<String> {
    let name = |item: &Value| item.pointer(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    let mut names: Vec<String> = list.as_array().into_iter().flatten().map(name).collect();
    names.sort();
    names
}

async fn scanned() -> Result {
    let scene = Scene::start().await?;
    let mut sslyze = Command::new("python3");
    sslyze.args(["-m", "sslyze", "--json_out=-", "--mozilla_config", "disable"]);
    sslyze.args(["--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3", "--compression", "--early_data"]);
    sslyze.args(["--reneg", "--heartbleed", "--openssl_ccs", "--robot", "--elliptic_curves"]);
    sslyze.arg("--cert").arg(scene.cart.dir.join("tls.crt")).arg("--key").arg(scene.cart.dir.join("tls.key"));
    let done = sslyze.arg(scene.address().to_string()).kill_on_drop(true).output().await?;
    let report: Value = serde_json::from_slice(&done.stdout).map_err(|error| {
        format!("{error}: {} {}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
    })?;
    let scan = &report["server_scan_results"][0];
    same!(scan["scan_status"], "COMPLETED");
    let result = |name: &str| -> Result<&Value> {
        let part = &scan["scan_result"][name];
        same!((name, &part["status"]), (name, &Value::from("COMPLETED")));
        Ok(&part["result"])
    };
    for version in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2"] {
        let suites = result(&format!("{version}_cipher_suites"))?;
        same!((version, names(&suites["accepted_cipher_suites"], "/cipher_suite/name")), (version, Vec::new()));
        holds!(suites["rejected_cipher_suites"].as_array().is_some_and(|tried| tried.len() >= 7), "{version}: {suites}");
    }
    same!(
        names(&result("tls_1_3_cipher_suites")?["accepted_cipher_suites"], "/cipher_suite/name"),
        ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
    );
    let curves = names(&result("elliptic_curves")?["supported_curves"], "/name");
    let expected = ["X25519", "secp256r1", "secp384r1"];
    holds!(expected.iter().all(|curve| curves.iter().any(|name| name == curve)), "{curves:?}");
    holds!(curves.iter().all(|name| expected.contains(&name.as_str()) || name == "X25519MLKEM768"), "{curves:?}");
    for (part, field) in [
        ("tls_compression", "supports_compression"),
        ("tls_1_3_early_data", "supports_early_data"),
        ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos"),
        ("heartbleed", "is_vulnerable_to_heartbleed"),
        ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection"),
    ] {
        same!((part, &result(part)?[field]), (part, &Value::from(false)));
    }
    same!(result("robot")?["robot_result"], "NOT_VULNERABLE_RSA_NOT_SUPPORTED");
    // A scan leaves nothing behind, and weir serves as before.
    let said = scene.ask(scene.address(), &[]).await?;
    holds!(said.contains("\r\n\r\nserved"), "{said}");
    scene.weir.counted("weir_downstream_connections_active", "in", 0.0).await
}
