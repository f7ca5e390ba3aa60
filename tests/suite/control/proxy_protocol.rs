//! The PROXY protocol, taken from whom it may be taken and told on.

use std::net::SocketAddr;
use std::process::Stdio;

use http::Response;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use weir_tests::origin::full;
use weir_tests::peers::Peer;
use weir_tests::programs::{nginx, reserve};
use weir_tests::raw::{Connection, get};
use weir_tests::script::Script;
use weir_tests::wire::{Caller, Keeper, Version};
use weir_tests::{Result, Trial, Weir, holds, same, test, test_with, until};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        test("control::proxy_protocol::who_calls_is_told", who_calls_is_told),
        test("control::proxy_protocol::nobody_else_is_believed", nobody_else_is_believed),
        test("control::proxy_protocol::without_a_header_nothing_is_served", without_a_header_nothing_is_served),
        test("control::proxy_protocol::unless_it_need_not_be_there", unless_it_need_not_be_there),
        test("control::proxy_protocol::opaque_bytes_follow_it", opaque_bytes_follow_it),
        test("control::proxy_protocol::a_connection_is_for_one_caller_http1", || each_for_one_caller(Version::One)),
        test("control::proxy_protocol::a_connection_is_for_one_caller_http2", || each_for_one_caller(Version::Two)),
        test_with("control::proxy_protocol::nginx_understands", &[Peer::Program("nginx")], nginx_understands),
        test_with("control::proxy_protocol::haproxy_is_understood", &[Peer::Program("haproxy")], haproxy_is_understood),
        test_with("control::proxy_protocol::curl_over_http2", &[Peer::Program("curl")], curl_over_http2),
    ]
}

/// weir beside an app, with an access log; `believed` is the inside of `proxy_protocol`.
struct Beside {
    weir: Weir,
    app: Keeper,
    dir: TempDir,
}

impl Beside {
    async fn start(believed: &str) -> Result<Self> {
        let app = Keeper::start(|_| Response::new(full("hello"))).await?;
        let dir = tempfile::tempdir()?;
        let yaml = format!(
            "workers: 1
access_log: {{ path: '{}/access.log' }}
listeners:
  - {{ name: in, listen: 127.0.0.1:0, direction: inbound, app: '{}', proxy_protocol: {{ {believed} }} }}
",
            dir.path().display(),
            app.origin.address
        );
        Ok(Self { weir: Weir::start(&yaml).await?, app, dir })
    }

    /// The caller of each line of the log, once there are so many.
    async fn callers(&self, count: usize) -> Result<Vec<String>> {
        let lines = log_lines(&self.dir, count).await?;
        Ok(lines.iter().map(|line| line["downstream_remote_address"].as_str().unwrap_or_default().to_owned()).collect())
    }
}

async fn log_lines(dir: &TempDir, count: usize) -> Result<Vec<Value>> {
    let read = || -> Vec<Value> {
        let text = std::fs::read_to_string(dir.path().join("access.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    until(&format!("the log has {count} lines"), async || read().len() >= count).await?;
    Ok(read())
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: app\r\n\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

async fn who_calls_is_told() -> Result {
    let beside = Beside::start("from: [loopback]").await?;
    let v4 = [V2, &[0x21, 0x11, 0, 12, 198, 51, 100, 7, 192, 0, 2, 1, 0x9c, 0x40, 0, 80]].concat();
    // With a field that weir does not know (a TLV), as balancers send.
    let mut v6 = [V2, &[0x21, 0x21, 0, 36 + 5]].concat();
    v6.extend_from_slice(&"2001:db8::7".parse::<std::net::Ipv6Addr>()?.octets());
    v6.extend_from_slice(&"2001:db8::1".parse::<std::net::Ipv6Addr>()?.octets());
    v6.extend_from_slice(&[0x9c, 0x40, 0, 80, 0xea, 0, 2, 1, 2]);
    let health_check = [V2, &[0x20, 0, 0, 0]].concat();
    let mut expected = Vec::new();
    for (header, caller) in [
        (&b"PROXY TCP4 198.51.100.7 192.0.2.1 40000 80\r\n"[..], Some("198.51.100.7:40000")),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 80\r\n", Some("[2001:db8::7]:40000")),
        (&v4, Some("198.51.100.7:40000")),
        (&v6, Some("[2001:db8::7]:40000")),
        (b"PROXY UNKNOWN\r\n", None),
        (&health_check, None),
    ] {
        // In one piece with the request, and byte by byte.
        for bytes in [1, header.len() + REQUEST.len()] {
            let mut connection = Connection::open(beside.weir.address("in")).await?;
            let local = connection.local()?.to_string();
            for piece in [header, REQUEST].concat().chunks(bytes) {
                connection.send(piece).await?;
            }
            same!(connection.response(false).await?.status, 200);
            let caller = caller.map_or(local, str::to_owned);
            let told: SocketAddr = caller.parse()?;
            same!(beside.app.last()?.all("x-forwarded-for"), [told.ip().to_string()]);
            expected.push(caller);
        }
    }
    same!(beside.callers(expected.len()).await?, expected);
    Ok(())
}

async fn nobody_else_is_believed() -> Result {
    let beside = Beside::start("from: [10.0.0.0/8]").await?;
    let mut connection = Connection::open(beside.weir.address("in")).await?;
    connection.send(b"PROXY TCP4 198.51.100.7 192.0.2.1 40000 80\r\n").await?;
    connection.send(REQUEST).await?;
    // A request line that ends in `80`.
    same!(connection.response(false).await?.status, 505);
    same!(get(beside.weir.address("in"), "app", "/").await?.status, 200);
    same!(beside.app.last()?.all("x-forwarded-for"), ["127.0.0.1"]);
    Ok(())
}

async fn without_a_header_nothing_is_served() -> Result {
    let beside = Beside::start("from: [loopback]").await?;
    for refused in [REQUEST, b"PROXY TCP4 nonsense\r\n", b"PROXY UNKNOWN\r\nPROXY UNKNOWN\r\n\r\n"] {
        let mut connection = Connection::open(beside.weir.address("in")).await?;
        connection.send(refused).await?;
        // A second header is a malformed request, which is answered.
        let rest = connection.rest().await.unwrap_or_default();
        holds!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&rest));
    }
    same!(beside.app.origin.count(), 0);
    beside.weir.counted("weir_malformed_requests_total", "in", 3.0).await?;
    let lines = log_lines(&beside.dir, 3).await?;
    holds!(lines.iter().all(|line| line["response_flags"] == "DPE"), "{lines:?}");
    same!(lines[0]["response_code_details"], "bad_proxy_header");
    holds!(beside.weir.log().iter().any(|line| line.to_string().contains("without a valid PROXY header")));
    Ok(())
}

async fn unless_it_need_not_be_there() -> Result {
    let beside = Beside::start("from: [loopback], required: false").await?;
    same!(get(beside.weir.address("in"), "app", "/").await?.status, 200);
    let mut connection = Connection::open(beside.weir.address("in")).await?;
    connection.send(b"PROXY TCP4 198.51.100.7 192.0.2.1 40000 80\r\n").await?;
    connection.send(REQUEST).await?;
    same!(connection.response(false).await?.status, 200);
    same!(beside.app.last()?.all("x-forwarded-for"), ["198.51.100.7"]);
    Ok(())
}

/// A caller, two weirs and a server, each telling the next who calls.
async fn opaque_bytes_follow_it() -> Result {
    let script = Script::listen().await?;
    let opaque = |more: &str, to: SocketAddr, version: &str| {
        format!(
            "workers: 1
listeners: [{{ name: db, listen: 127.0.0.1:0, direction: outbound, protocol: tcp, cluster: db{more} }}]
clusters: {{ db: {{ endpoints: ['{to}'], proxy_protocol: {version} }} }}
"
        )
    };
    let second = Weir::start(&opaque(", proxy_protocol: { from: [loopback] }", script.address, "v1")).await?;
    let first = Weir::start(&opaque("", second.address("db"), "v2")).await?;
    let mut connection = Connection::open(first.address("db")).await?;
    connection.send("first words\n").await?;
    let mut peer = script.accept().await?;
    let expected =
        format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nfirst words\n", connection.local()?.port(), first.address("db").port());
    same!(peer.until(b"words\n").await?, expected);
    peer.send("and back\n").await?;
    same!(connection.line().await?, "and back\n");
    Ok(())
}

async fn each_for_one_caller(version: Version) -> Result {
    let beside = Beside::start("from: [loopback]").await?;
    let yaml = format!(
        "workers: 1
listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes: [{{ name: all, hosts: ['*'], rules: [{{ backends: [{{ cluster: c }}] }}] }}]
clusters: {{ c: {{ endpoints: ['{}'], proxy_protocol: v2, idle_timeout: 1s }} }}
",
        beside.weir.address("in")
    );
    let weir = Weir::start(&yaml).await?;
    let mut one = Caller::open(weir.address("out"), version).await?;
    let mut two = Caller::open(weir.address("out"), version).await?;
    for _ in 0..3 {
        same!(one.get("/").await?.status, 200);
        same!(two.get("/").await?.status, 200);
    }
    let callers = beside.callers(6).await?;
    holds!(callers[0] != callers[1], "{callers:?}");
    same!(callers[2..4], callers[..2]);
    same!(callers[4..], callers[..2]);
    same!(beside.weir.metric("weir_downstream_connections_total", "in").await?, 2.0);
    // Whom they were for is gone; so are they, soon.
    drop((one, two));
    beside.weir.counted("weir_downstream_connections_active", "in", 0.0).await
}

async fn nginx_understands() -> Result {
    let (dir, port) = (tempfile::tempdir()?, reserve()?);
    let listen = format!("listen {} reuseport proxy_protocol;", port.address);
    let answer = "return 200 '$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_port';";
    let _running = nginx(dir.path(), &format!("server {{ {listen} location / {{ {answer} }} }}"))?;
    until("nginx listens", async || tokio::net::TcpStream::connect(port.address).await.is_ok()).await?;
    for version in ["v1", "v2"] {
        let yaml = format!(
            "workers: 1
listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes: [{{ name: all, hosts: ['*'], rules: [{{ backends: [{{ cluster: c }}] }}] }}]
clusters: {{ c: {{ endpoints: ['{}'], proxy_protocol: {version} }} }}
",
            port.address
        );
        let weir = Weir::start(&yaml).await?;
        let mut connection = Connection::open(weir.address("out")).await?;
        for _ in 0..3 {
            connection.send(REQUEST).await?;
            let expected = format!("{} {}", connection.local()?, weir.address("out").port());
            same!(connection.response(false).await?.text(), expected);
        }
    }
    Ok(())
}

async fn haproxy_is_understood() -> Result {
    let beside = Beside::start("from: [loopback]").await?;
    for (number, version) in ["send-proxy", "send-proxy-v2"].into_iter().enumerate() {
        let (dir, port) = (tempfile::tempdir()?, reserve()?);
        let conf = format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 9s\n  timeout server 9s\nlisten l\n  bind {}\n  \
             server s {} {version}\n",
            port.address,
            beside.weir.address("in")
        );
        let file = dir.path().join("haproxy.cfg");
        std::fs::write(&file, conf)?;
        let mut haproxy = Command::new("haproxy");
        let _running = haproxy.arg("-db").arg("-f").arg(&file).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
        until("haproxy listens", async || Connection::open(port.address).await.is_ok()).await?;
        let mut connection = Connection::open(port.address).await?;
        connection.send(REQUEST).await?;
        same!(connection.response(false).await?.status, 200);
        same!(beside.callers(number + 1).await?[number], connection.local()?.to_string());
    }
    Ok(())
}

async fn curl_over_http2() -> Result {
    let beside = Beside::start("from: [loopback]").await?;
    let url = format!("http://{}/", beside.weir.address("in"));
    let curl = ["-sS", "--max-time", "9", "--haproxy-protocol", "--http2-prior-knowledge", "-w", "%{http_version} %{local_port}"];
    let told = Command::new("curl").args(curl).arg(&url).output().await?;
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    holds!(text.starts_with("hello2 "), "{text} {}", String::from_utf8_lossy(&told.stderr));
    let port = text.rsplit(' ').next().unwrap_or_default();
    same!(beside.callers(1).await?, [format!("127.0.0.1:{port}")]);
    Ok(())
}
