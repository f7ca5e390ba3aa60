//! TLS with those outside the mesh: real servers that weir calls, real clients that call it.

use std::path::{Path, PathBuf};

use weir_tests::mesh::{Authority, Pair, Says};
use weir_tests::peers::Peer;
use weir_tests::programs::{self, Reserved, Running};
use weir_tests::raw::{self, Connection};
use weir_tests::{Origin, Result, Trial, Weir, same, test, test_with, until};

pub fn trials() -> Vec<Trial> {
    let nginx = [Peer::Program("nginx")];
    vec![
        test_with("mesh::outside::servers_are_verified_by_name_and_root", &nginx, servers),
        test_with("mesh::outside::a_server_that_asks_for_a_certificate_gets_it", &nginx, client_certificate),
        test_with("mesh::outside::tls_1_2_is_for_who_asks_for_it", &nginx, old_version),
        test_with("mesh::outside::real_callers_at_the_edge", &[Peer::Program("curl")], edge),
        test("mesh::outside::an_edge_serves_nobody_in_the_clear_whenever_opened", late_edge),
        test("mesh::outside::files_that_cannot_be_used_reject_the_configuration", bad_files),
    ]
}

/// A certificate in files.
fn files(dir: &Path, name: &str, pair: &Pair) -> Result<(PathBuf, PathBuf)> {
    let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    std::fs::write(&cert, &pair.cert)?;
    std::fs::write(&key, &pair.key)?;
    Ok((cert, key))
}

/// An nginx that has this certificate and speaks these versions; `more` is for its `server`.
async fn https(dir: &Path, shows: &Pair, versions: &str, more: &str) -> Result<(Running, Reserved)> {
    let reserved = programs::reserve()?;
    let (cert, key) = files(dir, "server", shows)?;
    let server = format!(
        "server {{ listen {} ssl http2 reuseport; ssl_certificate {}; ssl_certificate_key {}; ssl_protocols {versions}; {more}
         location / {{ return 200 \"$ssl_protocol $server_protocol $ssl_client_verify $ssl_server_name\"; }} }}",
        reserved.address,
        cert.display(),
        key.display(),
    );
    let nginx = programs::nginx(dir, &server)?;
    until("nginx listens", async || std::net::TcpStream::connect(reserved.address).is_ok()).await?;
    Ok((nginx, reserved))
}

fn calling(to: &Reserved, tls: &str, more: &str) -> String {
    format!(
        "workers: 1
listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes: [{{ name: all, hosts: ['*'], rules: [{{ name: only, backends: [{{ cluster: partner }}] }}] }}]
clusters: {{ partner: {{ endpoints: ['{}'], tls: {tls}, {more} }} }}
",
        to.address
    )
}

async fn servers() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("partner.example")?;
    let (_nginx, server) = https(dir.path(), &authority.issue(&Says::host("api.partner.example"))?, "TLSv1.3", "").await?;
    let roots = dir.path().join("roots.pem");
    std::fs::write(&roots, authority.root())?;
    let roots = roots.display();
    let stranger = dir.path().join("stranger.pem");
    std::fs::write(&stranger, Authority::new("other.example")?.root())?;
    let stranger = stranger.display();
    let weir = Weir::start(&calling(&server, "{}", "")).await?;
    let ok = |version: &str, name: &str| (200, format!("TLSv1.3 {version} NONE {name}"));
    let refused = |code: &str| (503, code.to_owned());
    for (tls, more, expected) in [
        ("{ insecure: true }".to_owned(), "", ok("HTTP/1.1", "")),
        (format!("{{ roots: {roots}, server_name: api.partner.example }}"), "", ok("HTTP/1.1", "api.partner.example")),
        (
            format!("{{ roots: {roots}, server_name: API.Partner.example }}"),
            "protocol: http2",
            ok("HTTP/2.0", "api.partner.example"),
        ),
        (format!("{{ roots: {roots}, server_name: partner.example }}"), "", refused("upstream_tls_wrong_name")),
        // The address is no name of it.
        (format!("{{ roots: {roots} }}"), "", refused("upstream_tls_wrong_name")),
        (format!("{{ roots: {stranger}, server_name: api.partner.example }}"), "", refused("upstream_tls_unknown_issuer")),
        // The system does not vouch for it.
        ("{ server_name: api.partner.example }".to_owned(), "", refused("upstream_tls_unknown_issuer")),
    ] {
        weir.reload(&calling(&server, &tls, more)).await?;
        let answer = raw::get(weir.address("out"), "anything", "/").await?;
        let said = match answer.header("x-weir-error") {
            Some(code) => (answer.status, code.to_owned()),
            None => (answer.status, answer.text()),
        };
        same!((&tls, said), (&tls, expected));
    }
    Ok(())
}

async fn client_certificate() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("partner.example")?;
    let roots = dir.path().join("roots.pem");
    std::fs::write(&roots, authority.root())?;
    let more = format!("ssl_client_certificate {}; ssl_verify_client on;", roots.display());
    let (_nginx, server) = https(dir.path(), &authority.issue(&Says::host("127.0.0.1"))?, "TLSv1.3", &more).await?;
    let (cert, key) = files(dir.path(), "client", &authority.issue(&Says::host("us.example"))?)?;
    let with = format!("{{ roots: {}, client: {{ cert: {}, key: {} }} }}", roots.display(), cert.display(), key.display());
    let weir = Weir::start(&calling(&server, &with, "")).await?;
    let answer = raw::get(weir.address("out"), "anything", "/").await?;
    same!((answer.status, answer.text().as_str()), (200, "TLSv1.3 HTTP/1.1 SUCCESS "));
    // nginx tells it in HTTP.
    weir.reload(&calling(&server, &format!("{{ roots: {} }}", roots.display()), "")).await?;
    same!(raw::get(weir.address("out"), "anything", "/").await?.status, 400);
    Ok(())
}

async fn old_version() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("partner.example")?;
    let (_nginx, server) = https(dir.path(), &authority.issue(&Says::host("127.0.0.1"))?, "TLSv1.2", "").await?;
    let weir = Weir::start(&calling(&server, "{ insecure: true }", "")).await?;
    let answer = raw::get(weir.address("out"), "anything", "/").await?;
    same!((answer.status, answer.header("x-weir-error")), (503, Some("upstream_tls_no_common_protocol")));
    weir.reload(&calling(&server, "{ insecure: true, min_version: tls1.2 }", "")).await?;
    same!(raw::get(weir.address("out"), "anything", "/").await?.text(), "TLSv1.2 HTTP/1.1 NONE ");
    Ok(())
}

fn at_the_edge(cert: &Path, key: &Path, app: std::net::SocketAddr, more: &str) -> String {
    format!(
        "workers: 1
listeners: [{{ name: edge, listen: 127.0.0.1:0, direction: inbound, app: '{app}', trusted_peers: [none], tls: {{ cert: {}, key: {}, {more} }} }}]
",
        cert.display(),
        key.display()
    )
}

/// What curl gets, or why it gets nothing.
async fn curl(roots: &Path, address: std::net::SocketAddr, more: &[&str]) -> Result<Result<String, i32>> {
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["-sS", "--max-time", "10", "--cacert"]).arg(roots).args(more);
    curl.args(["--resolve", &format!("shop.example:{}:127.0.0.1", address.port())]);
    let done = curl.arg(format!("https://shop.example:{}/", address.port())).kill_on_drop(true).output().await?;
    let code = done.status.code().unwrap_or(-1);
    Ok(if done.status.success() { Ok(String::from_utf8(done.stdout)?) } else { Err(code) })
}

async fn edge() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("shop.example")?;
    let roots = dir.path().join("roots.pem");
    std::fs::write(&roots, authority.root())?;
    let (cert, key) = files(dir.path(), "edge", &authority.issue(&Says::host("shop.example"))?)?;
    let app = Origin::echo().await?;
    let weir = Weir::start(&at_the_edge(&cert, &key, app.address, "")).await?;
    let address = weir.address("edge");
    for (version, line) in [("--http1.1", "GET / HTTP/1.1\n"), ("--http2", "GET / HTTP/2.0\n")] {
        let said =
            curl(&roots, address, &[version, "-H", "x-forwarded-proto: http"]).await?.map_err(|code| format!("curl: {code}"))?;
        assert!(said.to_ascii_lowercase().contains("x-forwarded-proto: https\n"), "{said}");
        assert!(said.starts_with(line) || version == "--http2", "{said}");
    }
    // 35: no TLS connection. Nothing older than 1.3, unless it is allowed.
    same!(curl(&roots, address, &["--tls-max", "1.2"]).await?.err(), Some(35));
    weir.reload(&at_the_edge(&cert, &key, app.address, "min_version: tls1.2")).await?;
    assert!(curl(&roots, address, &["--tls-max", "1.2"]).await?.is_ok());
    same!(curl(&roots, address, &["--tls-max", "1.1"]).await?.err(), Some(35));
    // In the clear nothing is served.
    let mut plain = Connection::open(address).await?;
    plain.send("GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n").await?;
    assert!(plain.rest().await.is_err(), "a reset is expected");
    // A renewed certificate, of another authority, is shown without a restart.
    let other = Authority::new("other.example")?;
    let renewed = dir.path().join("renewed.pem");
    std::fs::write(&renewed, other.root())?;
    same!(curl(&renewed, address, &[]).await?.err(), Some(60));
    files(dir.path(), "edge", &other.issue(&Says::host("shop.example"))?)?;
    until("the renewed certificate", async || curl(&renewed, address, &[]).await.is_ok_and(|got| got.is_ok())).await?;
    Ok(())
}

/// A connection that was there before the certificate was gets no further answer but that.
async fn late_edge() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("shop.example")?;
    let (cert, key) = files(dir.path(), "edge", &authority.issue(&Says::host("shop.example"))?)?;
    let app = Origin::text("app").await?;
    let with = at_the_edge(&cert, &key, app.address, "");
    let without = with.split(", tls:").next().unwrap_or_default().to_owned() + " }]\n";
    let weir = Weir::start(&without).await?;
    let mut early = Connection::open(weir.address("edge")).await?;
    early.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
    same!(early.response(false).await?.status, 200);
    weir.reload(&with).await?;
    early.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
    let answer = early.response(false).await?;
    same!((answer.status, answer.header("x-weir-error")), (403, Some("plaintext")));
    same!(app.count(), 1);
    Ok(())
}

/// What served before goes on.
async fn bad_files() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("shop.example")?;
    let (cert, key) = files(dir.path(), "edge", &authority.issue(&Says::host("shop.example"))?)?;
    let (_, other_key) = files(dir.path(), "other", &authority.issue(&Says::host("shop.example"))?)?;
    let app = Origin::text("app").await?;
    let weir = Weir::start(&at_the_edge(&cert, &key, app.address, "")).await?;
    let generation = weir.generation().await?;
    for (cert, key, why) in [
        (dir.path().join("none.crt"), key.clone(), "the `tls` of listener `edge`: cannot read"),
        (cert.clone(), other_key, "the `tls` of listener `edge`: `key` does not fit `cert`"),
        (key.clone(), key.clone(), "the `tls` of listener `edge`: `cert`: there is no certificate in it"),
        (cert.clone(), cert.clone(), "the `tls` of listener `edge`: `key`: there is no private key in it"),
    ] {
        weir.write(&at_the_edge(&cert, &key, app.address, ""))?;
        until(why, async || weir.admin("/config").await.is_ok_and(|page| page.contains(why))).await?;
    }
    same!(weir.generation().await?, generation);
    Ok(())
}
