//! TLS that is passed through, routed by the server name of its ClientHello.

use std::path::Path;

use tempfile::TempDir;
use tokio::process::Command;
use weir_tests::peers::Peer;
use weir_tests::programs::{Reserved, Running, nginx, reserve};
use weir_tests::raw::Connection;
use weir_tests::script::Script;
use weir_tests::{Result, Trial, Weir, holds, same, test, test_with, until};

pub(super) fn trials() -> Vec<Trial> {
    let peers = [Peer::Program("nginx"), Peer::Program("curl"), Peer::Program("openssl")];
    vec![
        test_with("control::passthrough::each_name_finds_its_server", &peers, each_name_finds_its_server),
        test_with("control::passthrough::an_app_may_end_its_own_tls", &peers, an_app_may_end_its_own_tls),
        test("control::passthrough::a_hello_in_pieces_arrives_whole", a_hello_in_pieces_arrives_whole),
        test("control::passthrough::what_is_not_tls_is_refused", what_is_not_tls_is_refused),
        test("control::passthrough::explained", explained),
    ]
}

/// Two servers with TLS of their own, each saying its number.
async fn servers(dir: &Path) -> Result<(Running, [Reserved; 2])> {
    let (key, cert) = (dir.join("key.pem"), dir.join("cert.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]);
    let made = openssl.args(["-subj", "/CN=test", "-keyout"]).arg(&key).arg("-out").arg(&cert).output().await?;
    holds!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let ports = [reserve()?, reserve()?];
    let server = |number: usize| {
        format!(
            "server {{ listen {} reuseport ssl; ssl_certificate {}; ssl_certificate_key {};
               location / {{ return 200 'server {number} for $ssl_server_name'; }} }}\n",
            ports[number].address,
            cert.display(),
            key.display()
        )
    };
    let running = nginx(dir, &format!("{}{}", server(0), server(1)))?;
    for port in &ports {
        until("nginx listens", async || tokio::net::TcpStream::connect(port.address).await.is_ok()).await?;
    }
    Ok((running, ports))
}

fn table(listener: &str, one: std::net::SocketAddr, two: std::net::SocketAddr, log: &TempDir) -> String {
    format!(
        "workers: 1
access_log: {{ path: '{}/access.log' }}
listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound, protocol: tls{listener} }}]
routes:
  - {{ name: one, listeners: [out], hosts: [one.test], rules: [{{ backends: [{{ cluster: one }}] }}] }}
  - {{ name: two, listeners: [out], hosts: ['*.two.test'], rules: [{{ name: all, backends: [{{ cluster: two }}] }}] }}
clusters: {{ one: {{ endpoints: ['{one}'] }}, two: {{ endpoints: ['{two}'] }} }}
",
        log.path().display()
    )
}

/// What curl gets for a name: the text, or its complaint.
async fn ask(weir: &Weir, listener: &str, name: &str) -> Result<String> {
    let address = weir.address(listener);
    let mut curl = Command::new("curl");
    curl.args(["-sSk", "--max-time", "9", "--connect-to", &format!("{name}:443:{}:{}", address.ip(), address.port())]);
    let told = curl.arg(format!("https://{name}/")).output().await?;
    Ok(format!("{}{}", String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr)))
}

async fn each_name_finds_its_server() -> Result {
    let (dir, log) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (_running, [one, two]) = servers(dir.path()).await?;
    let weir = Weir::start(&table("", one.address, two.address, &log)).await?;
    same!(ask(&weir, "out", "one.test").await?, "server 0 for one.test");
    same!(ask(&weir, "out", "a.b.two.test").await?, "server 1 for a.b.two.test");
    let refused = ask(&weir, "out", "three.test").await?;
    holds!(refused.contains("unrecognized name"), "{refused}");
    until("the log has the three", async || {
        let text = std::fs::read_to_string(log.path().join("access.log")).unwrap_or_default();
        let has = |words: &[&str]| text.lines().any(|line| words.iter().all(|word| line.contains(word)));
        has(&["\"authority\":\"one.test\"", "\"upstream_cluster\":\"one\"", "\"route_name\":\"one\""])
            && has(&["\"authority\":\"a.b.two.test\"", "\"rule_name\":\"all\"", "\"response_flags\":\"-\""])
            && has(&["\"authority\":\"three.test\"", "\"response_flags\":\"NR\""])
    })
    .await?;
    same!(weir.metric("weir_downstream_protocols_total", "tls").await?, 3.0);
    // With somewhere to send the rest, and that while it runs.
    weir.reload(&table(", cluster: two", one.address, two.address, &log)).await?;
    same!(ask(&weir, "out", "three.test").await?, "server 1 for three.test");
    same!(ask(&weir, "out", "one.test").await?, "server 0 for one.test");
    Ok(())
}

async fn an_app_may_end_its_own_tls() -> Result {
    let dir = tempfile::tempdir()?;
    let (_running, [app, _]) = servers(dir.path()).await?;
    let listener = format!("{{ name: in, listen: 127.0.0.1:0, direction: inbound, protocol: tls, app: '{}' }}", app.address);
    let weir = Weir::start(&format!("workers: 1\nlisteners: [{listener}]\n")).await?;
    same!(ask(&weir, "in", "whatever.test").await?, "server 0 for whatever.test");
    Ok(())
}

/// A ClientHello for `name`, cut into records of so many bytes.
fn hello(name: &str, record: usize) -> Vec<u8> {
    let of = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    let sni = [&of(name.len() + 3)[..], &[0], &of(name.len()), name.as_bytes()].concat();
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &of(body.len()), body].concat();
    let extensions = [
        // Padding first, so that the name stands far behind (GREASE and key shares do that in life).
        extension(21, &[0; 2000]),
        extension(0, &sni),
        extension(10, &[0, 2, 0, 29]),
        extension(13, &[0, 2, 8, 4]),
        extension(43, &[2, 3, 4]),
    ]
    .concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &of(extensions.len()), &extensions].concat();
    let message = [&[1, 0][..], &of(body.len()), &body].concat();
    message.chunks(record).flat_map(|part| [&[22, 3, 1][..], &of(part.len()), part].concat()).collect()
}

async fn a_hello_in_pieces_arrives_whole() -> Result {
    let (script, log) = (Script::listen().await?, tempfile::tempdir()?);
    let nowhere = reserve()?.address;
    let format = "%REQUESTED_SERVER_NAME% %UPSTREAM_CLUSTER% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %RESPONSE_FLAGS%";
    let yaml = table("", script.address, nowhere, &log).replace("access.log' }", &format!("access.log', format: '{format}' }}"));
    let weir = Weir::start(&yaml).await?;
    for (record, piece) in [(4000, 4000), (4000, 7), (300, 500), (1, 4000)] {
        let bytes = hello("one.test", record);
        let mut connection = Connection::open(weir.address("out")).await?;
        for piece in bytes.chunks(piece) {
            connection.send(piece).await?;
        }
        connection.send("what follows\n").await?;
        let mut peer = script.accept().await?;
        let mut expected = bytes;
        expected.extend_from_slice(b"what follows\n");
        same!(peer.exactly(expected.len()).await?, expected);
        peer.send("answer\n").await?;
        same!(connection.line().await?, "answer\n");
    }
    until("the log has them", async || {
        let text = std::fs::read_to_string(log.path().join("access.log")).unwrap_or_default();
        text.lines().filter(|line| *line == "one.test one 1 -").count() == 4
    })
    .await
}

async fn what_is_not_tls_is_refused() -> Result {
    let (script, log) = (Script::listen().await?, tempfile::tempdir()?);
    let weir = Weir::start(&table(", cluster: one", script.address, script.address, &log)).await?;
    let mut connection = Connection::open(weir.address("out")).await?;
    connection.send("GET / HTTP/1.1\r\nHost: one.test\r\n\r\n").await?;
    holds!(connection.rest().await.is_err(), "a reset");
    weir.counted("weir_malformed_requests_total", "out", 1.0).await?;
    until("the log says why", async || {
        std::fs::read_to_string(log.path().join("access.log")).unwrap_or_default().contains("\"not_tls\"")
    })
    .await
}

async fn explained() -> Result {
    let (script, log) = (Script::listen().await?, tempfile::tempdir()?);
    let weir = Weir::start(&table("", script.address, script.address, &log)).await?;
    let asked = weir.admin("/explain?url=https%3A%2F%2Fx.two.test%2F&listener=out").await?;
    for words in ["server name", "x.two.test", "two", &script.address.to_string()] {
        holds!(asked.contains(words), "{words}: {asked}");
    }
    let asked = weir.admin("/explain?url=https%3A%2F%2Fthree.test%2F&listener=out").await?;
    holds!(asked.contains("unrecognized_name"), "{asked}");
    Ok(())
}
