//! `HTTP_PROXY=`: pip installs a package from an index whose name only weir knows where to find.

use std::net::SocketAddr;
use std::path::Path;

use tokio::process::Command;
use weir_tests::peers::{self, Peer};
use weir_tests::{Result, Trial, Weir, holds, same, test_with};

use super::tunnels::tunnelling;

pub fn trials() -> Vec<Trial> {
    let pip = Peer::Python("pip");
    vec![
        test_with("http::proxied::pip_in_absolute_form", &[pip], pip_in_absolute_form),
        test_with("http::proxied::pip_through_connect", &[pip, Peer::Program("openssl")], pip_through_connect),
    ]
}

/// Nobody resolves this.
const INDEX: &str = "index.invalid";

/// Has pip install the package and reads from Python what it has brought.
async fn install(weir: SocketAddr, scheme: &str, option: [&str; 2]) -> Result {
    let dir = tempfile::tempdir()?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check", "--retries", "0"]);
    pip.arg("--target").arg(dir.path()).args(option).args(["--index-url", &format!("{scheme}://{INDEX}/simple/"), "weir-parcel"]);
    // The proxy comes from the environment, and nothing else does.
    for (name, _) in std::env::vars_os() {
        let plain = name.to_string_lossy().to_lowercase();
        if plain.starts_with("pip_") || plain.ends_with("_proxy") || plain.ends_with("_ca_bundle") {
            pip.env_remove(name);
        }
    }
    let proxy = format!("http://{weir}");
    pip.env("HTTP_PROXY", &proxy).env("HTTPS_PROXY", &proxy).env("PIP_CONFIG_FILE", "/dev/null").kill_on_drop(true);
    let done = pip.output().await?;
    holds!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mut python = Command::new("python3");
    python.args(["-c", "import weir_parcel; print(len(weir_parcel.DATA))"]).env("PYTHONPATH", dir.path());
    same!(String::from_utf8(python.output().await?.stdout)?, format!("{}\n", 3 << 20));
    Ok(())
}

async fn pip_in_absolute_form() -> Result {
    let (_index, address) = peers::serve("index_peer.py", &[]).await?;
    let weir = Weir::start(&tunnelling(address)).await?;
    install(weir.address("out"), "http", ["--trusted-host", INDEX]).await?;
    // The page and the wheel, each a request that weir has seen.
    weir.counted("weir_requests_total", "2xx", 2.0).await
}

/// A certificate for the index, and its key.
async fn certificate(dir: &Path) -> Result<[String; 2]> {
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| dir.join(name).display().to_string());
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]);
    openssl.args(["-subj", &format!("/CN={INDEX}"), "-addext", &format!("subjectAltName=DNS:{INDEX}")]);
    let done = openssl.args(["-keyout", &key, "-out", &certificate]).output().await?;
    holds!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok([certificate, key])
}

async fn pip_through_connect() -> Result {
    let dir = tempfile::tempdir()?;
    let [certificate, key] = certificate(dir.path()).await?;
    let (_index, address) = peers::serve("index_peer.py", &[&certificate, &key]).await?;
    let weir = Weir::start(&tunnelling(address)).await?;
    install(weir.address("out"), "https", ["--cert", &certificate]).await?;
    // All of it is in one tunnel, and weir has seen nothing but that.
    weir.counted("weir_requests_total", "", 1.0).await
}
