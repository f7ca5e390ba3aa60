//! Who may call what, through the real binary. The table's verdicts are asked of `explain` too: it must not tell another tale
//! than what is served.

mod table;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use weir_tests::echo::Echo;
use weir_tests::explained::Explainer;
use weir_tests::mesh::{self, Authority, Pair, Says};
use weir_tests::raw::Connection;
use weir_tests::{Origin, Result, Trial, Weir, holds, same, test, until};

use super::{CART, PAY, member};
use table::{Case, GROUPS};

pub fn trials() -> Vec<Trial> {
    vec![
        test("mesh::policies_decide_as_the_table_says", whole_table),
        test("mesh::a_port_of_http_speaks_nothing_else", declared),
        test("mesh::refusals_do_not_tell_which_policy_it_was", quiet),
        test("mesh::new_policies_cut_opaque_connections_that_they_no_longer_allow", cut),
    ]
}

const OTHER: &str = "spiffe://other.example/ns/shop/sa/cart";

/// Everybody who calls.
struct Cast {
    cart: Pair,
    billing: Pair,
    other: Pair,
    identity: String,
}

impl Cast {
    fn new(dir: &Path) -> Result<Self> {
        let (authority, foreign) = (Authority::new("shop.example")?, Authority::new("other.example")?);
        let files = member(&authority, dir, PAY)?;
        let roots = dir.join("other.crt");
        std::fs::write(&roots, foreign.root())?;
        let identity = files.yaml().replace(" } }", &format!(" }}, trust_domains: {{ other.example: {} }} }}", roots.display()));
        Ok(Self {
            cart: authority.issue(&Says::id(CART))?,
            billing: authority.issue(&Says::id("spiffe://shop.example/ns/finance/sa/billing"))?,
            other: foreign.issue(&Says::id(OTHER))?,
            identity,
        })
    }

    /// What a caller shows, and as whom.
    fn of(&self, name: &str) -> Result<(Option<&Pair>, Option<&'static str>)> {
        match name {
            "cart" => Ok((Some(&self.cart), Some(CART))),
            "billing" => Ok((Some(&self.billing), Some("spiffe://shop.example/ns/finance/sa/billing"))),
            "other" => Ok((Some(&self.other), Some(OTHER))),
            "nobody" => Ok((None, None)),
            _ => Err(format!("who is {name}?").into()),
        }
    }
}

fn config(cast: &Cast, app: SocketAddr, log: &Path, policies: &str) -> String {
    format!(
        "{}
workers: 1
access_log: {{ path: {} }}
listeners:
  - {{ name: in, listen: 127.0.0.1:0, direction: inbound, app: '{app}', tls: permissive, trusted_peers: [none] }}
  - {{ name: tcp, listen: 127.0.0.1:0, direction: inbound, app: '{app}', protocol: tcp, tls: permissive }}
authorization: {}
",
        cast.identity,
        log.display(),
        policies.replace("APP_PORT", &app.port().to_string()),
    )
}

/// What came back: the head and body, or nothing.
async fn call(cast: &Cast, case: &Case, to: SocketAddr) -> Result<String> {
    let (shows, _) = cast.of(case.caller())?;
    let socket = TcpSocket::new_v4()?;
    socket.bind((case.address(), 0).into())?;
    let mut stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    let request = case.request();
    let mut answer = Vec::new();
    // A reset is an answer too.
    match shows {
        Some(_) => {
            let mut stream = mesh::secure(stream, shows, &[if case.is_tcp() { "weir-tcp" } else { "weir-http/1.1" }]).await?;
            let _ = stream.write_all(request.as_bytes()).await;
            let _ = stream.read_to_end(&mut answer).await;
        }
        None => {
            let _ = stream.write_all(request.as_bytes()).await;
            let _ = stream.read_to_end(&mut answer).await;
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// What `explain` says.
async fn explained(cast: &Cast, case: &Case, explainer: &mut Explainer) -> Result<String> {
    let (_, principal) = cast.of(case.caller())?;
    let (method, path, host, mut headers) = case.parts();
    headers.push(format!("host: {host}"));
    let (listener, address) = (if case.is_tcp() { "tcp" } else { "in" }, case.address().to_string());
    let mut query = vec![("method", method), ("url", path), ("listener", listener), ("address", &address)];
    query.extend(principal.map(|id| ("from", id)));
    query.extend(headers.iter().map(|line| ("header", line.as_str())));
    let explained = explainer.ask_with(query.into_iter()).await?;
    Ok(explained.value("Authorization", "verdict").unwrap_or("allowed").to_owned())
}

/// The lines of the access log.
fn lines(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

async fn whole_table() -> Result {
    let dir = tempfile::tempdir()?;
    let cast = Cast::new(dir.path())?;
    let log = dir.path().join("access.log");
    let app = Origin::text("reached").await?;
    let weir = Weir::start(&config(&cast, app.address, &log, "[]")).await?;
    let mut explainer = Explainer::open(weir.admin).await?;
    let (mut reached, mut wrong, mut cases) = (0, Vec::new(), Vec::new());
    for group in GROUPS {
        if group.policies != "[]" {
            weir.reload(&config(&cast, app.address, &log, group.policies)).await?;
        }
        for case in group.cases {
            cases.push(case);
            let told = explained(&cast, case, &mut explainer).await?;
            if told != case.verdict {
                wrong.push(format!("{}: {case:?}: explained as {told}", group.name));
            }
            let answer = call(&cast, case, weir.address(if case.is_tcp() { "tcp" } else { "in" })).await?;
            let refused = case.verdict.starts_with("denied");
            let as_told = match (refused, case.is_tcp()) {
                (false, _) => answer.starts_with("HTTP/1.1 200") && answer.ends_with("reached"),
                (true, true) => answer.is_empty(),
                (true, false) => answer.starts_with("HTTP/1.1 403") && answer.contains("x-weir-error: denied\r\n"),
            };
            reached += usize::from(!refused);
            if !as_told || app.count() != reached {
                wrong.push(format!("{}: {case:?}: reached {} of {reached}, got {answer}", group.name, app.count()));
                reached = app.count();
            }
        }
    }
    until("a line for each in the log", async || lines(&log).len() == cases.len()).await?;
    for (case, line) in cases.iter().zip(lines(&log)) {
        let logged = line["authorization"].as_str().unwrap_or("allowed");
        if logged != case.verdict {
            wrong.push(format!("{case:?}: logged as {logged}"));
        }
        same!(line["downstream_peer"].as_str(), cast.of(case.caller())?.1);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let counted = weir.series("weir_authorization_total").await?;
    for verdict in ["denied", "would_deny", "audited"] {
        let counted = counted.iter().filter(|(labels, _)| labels.contains(&format!("\"{verdict}\"")));
        let expected = cases.iter().filter(|case| match verdict {
            "denied" => case.verdict.starts_with("denied"),
            "would_deny" => case.verdict.contains("dry run: denied"),
            _ => case.verdict.contains("audited"),
        });
        let expected = expected.count();
        same!((verdict, counted.map(|(_, value)| value).sum::<f64>()), (verdict, expected as f64));
    }
    Ok(())
}

/// A gRPC caller gets its status, everybody the same words, and no page, header or body the policy's name.
async fn quiet() -> Result {
    let dir = tempfile::tempdir()?;
    let cast = Cast::new(dir.path())?;
    let app = Origin::text("reached").await?;
    let policies = "[{ name: secret-rule, listeners: [in], action: deny, to: [{ paths: [{ prefix: /a }] }] }]";
    let yaml = config(&cast, app.address, &dir.path().join("log"), policies);
    let weir = Weir::start(&yaml).await?;
    let mut connection = Connection::open(weir.address("in")).await?;
    connection.send("GET /a HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    let answer = connection.response(false).await?;
    same!((answer.status, answer.header("x-weir-error")), (403, Some("denied")));
    assert!(!answer.text().contains("secret") && !format!("{answer:?}").contains("secret"), "{answer:?}");
    // The connection goes on: nothing is wrong with it.
    connection.send("POST /a HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n").await?;
    let answer = connection.response(false).await?;
    same!((answer.status, answer.header("grpc-status")), (200, Some("7")));
    connection.send("GET /b HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    same!(connection.response(false).await?.text(), "reached");
    // A websocket is a request before it is anything else.
    connection.send("GET /a HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await?;
    same!(connection.response(false).await?.status, 403);
    same!(app.count(), 1);
    Ok(())
}

/// One connection stays, for it is still allowed; the other is cut and the log says by which policy.
async fn cut() -> Result {
    let dir = tempfile::tempdir()?;
    let cast = Cast::new(dir.path())?;
    let log = dir.path().join("access.log");
    let app = Echo::opaque().await?;
    let weir = Weir::start(&config(&cast, app.address, &log, "[]")).await?;
    let open = async |from: Ipv4Addr| -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((IpAddr::from(from), 0).into())?;
        let mut stream = socket.connect(weir.address("tcp")).await?;
        stream.write_all(b"hello").await?;
        let mut back = [0; 5];
        stream.read_exact(&mut back).await?;
        Ok(stream)
    };
    let mut stays = open(Ipv4Addr::new(127, 0, 0, 4)).await?;
    let mut goes = open(Ipv4Addr::new(127, 0, 0, 5)).await?;
    let policies = "[{ name: not-from-five, action: deny, from: [{ addresses: [127.0.0.5] }] }]";
    weir.reload(&config(&cast, app.address, &log, policies)).await?;
    let mut rest = Vec::new();
    let ended = goes.read_to_end(&mut rest).await;
    assert!(rest.is_empty() && ended.is_err(), "it must not look as if it had ended: {ended:?}");
    stays.write_all(b"still").await?;
    let mut back = [0; 5];
    stays.read_exact(&mut back).await?;
    same!(&back, b"still");
    until("the line", async || lines(&log).len() == 1).await?;
    let line = lines(&log).remove(0);
    same!(line["authorization"].as_str(), Some("denied by not-from-five"));
    same!((line["response_flags"].as_str(), line["response_code_details"].as_str()), (Some("UAEX"), Some("denied")));
    Ok(())
}

/// A member agrees on opaque bytes with a port that is declared to speak HTTP: what it says of its caller is not the app's to believe.
async fn declared() -> Result {
    let dir = tempfile::tempdir()?;
    let cast = Cast::new(dir.path())?;
    let app = Origin::echo().await?;
    for (ports, believed) in [("1-65535: tcp", true), ("1-65535: http", false)] {
        let weir = Weir::start(&format!(
            "{}
listeners:
  - {{ name: in, listen: 127.0.0.1:0, direction: inbound, original_destination: true, app: '{}', tls: strict, ports: {{ {ports} }} }}
",
            cast.identity, app.address
        ))
        .await?;
        let mut stream = mesh::call(weir.address("in"), Some(&cast.cart), &["weir-tcp"]).await?;
        let forged = "GET / HTTP/1.1\r\nhost: app\r\nx-forwarded-client-cert: URI=forged\r\nconnection: close\r\n\r\n";
        stream.write_all(forged.as_bytes()).await?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        holds!(answer.contains("HTTP/1.1 200"), "{ports}: {answer}");
        same!(answer.contains("URI=forged"), believed, "{ports}: {answer}");
    }
    Ok(())
}
