//! Who is not believed, from both sides: each for its own reason, and nothing reaches the app.

use rcgen::ExtendedKeyUsagePurpose;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_tests::mesh::{self, Authority, Files, Pair, Says, Server};
use weir_tests::origin::full;
use weir_tests::raw::Connection;
use weir_tests::wire::{Caller, Version};
use weir_tests::{Origin, Result, Trial, Weir, holds, same, test, until};

use super::{CART, PAY, inbound, member, outbound};

pub fn trials() -> Vec<Trial> {
    vec![
        test("mesh::callers_that_are_not_believed_reach_nothing", callers),
        test("mesh::servers_that_are_not_believed_get_nothing", servers),
        test("mesh::a_caller_that_is_refused_says_so", refused),
        test("mesh::what_is_no_handshake_is_refused", no_handshakes),
        test("mesh::an_expired_certificate_of_ones_own_is_said_and_mends_itself", own_expired),
    ]
}

/// Certificates and why they are refused.
fn wrong(authority: &Authority, revoked: u64) -> Result<Vec<(&'static str, Pair)>> {
    let stranger = Authority::new("shop.example")?;
    let foreign = Authority::new("other.example")?;
    let says = || Says::id(CART);
    let with = |change: &dyn Fn(&mut Says)| {
        let mut says = says();
        change(&mut says);
        authority.issue(&says)
    };
    Ok(vec![
        ("expired", with(&|says| (says.from, says.to) = (-7200, -3600))?),
        ("not_yet_valid", with(&|says| (says.from, says.to) = (3600, 7200))?),
        ("revoked", with(&|says| says.serial = revoked)?),
        ("unknown_issuer", stranger.issue(&says())?),
        ("unknown_issuer", mesh::self_signed(&says())?),
        ("unknown_trust_domain", foreign.issue(&Says::id("spiffe://other.example/ns/shop/sa/cart"))?),
        ("no_spiffe_id", with(&|says| says.uris.clear())?),
        ("no_spiffe_id", with(&|says| says.uris.push("spiffe://shop.example/ns/shop/sa/pay".to_owned()))?),
        ("no_spiffe_id", with(&|says| says.uris = vec!["https://shop.example/ns/shop/sa/cart".to_owned()])?),
        ("no_spiffe_id", with(&|says| says.uris = vec!["spiffe://shop.example".to_owned()])?),
        ("no_spiffe_id", with(&|says| says.uris = vec!["spiffe://shop.example/ns/shop/../sa/cart".to_owned()])?),
        ("no_spiffe_id", with(&|says| says.uris = vec!["spiffe://shop.example/ns/shop/sa/cart\0.evil.example".to_owned()])?),
        ("bad_certificate", with(&|says| says.is_ca = true)?),
        ("bad_certificate", with(&|says| says.usages = vec![ExtendedKeyUsagePurpose::CodeSigning])?),
    ])
}

const REVOKED: u64 = 4711;

/// The files of a member that knows of a revoked certificate.
fn cautious(authority: &Authority, dir: &std::path::Path, id: &str) -> Result<(Files, String)> {
    let files = member(authority, dir, id)?;
    let list = dir.join("crl.pem");
    std::fs::write(&list, authority.revoke(REVOKED)?)?;
    let yaml = files.yaml();
    let with_list = yaml.replace(" } }", &format!(" }}, crl: {} }}", list.display()));
    assert_ne!(yaml, with_list);
    Ok((files, with_list))
}

async fn callers() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("shop.example")?;
    let (pay, with_list) = cautious(&authority, &dir.path().join("pay"), PAY)?;
    let app = Origin::text("secret").await?;
    let config = inbound(&pay, app.address, "tls: strict").replace(&pay.yaml(), &with_list);
    let callee = Weir::start(&config).await?;
    let address = callee.address("in");

    let good = authority.issue(&Says::id(CART))?;
    let answer = mesh::ask(&mut mesh::call(address, Some(&good), &["http/1.1"]).await?).await?;
    assert!(answer.ends_with("secret"), "{answer}");

    let mut wrongs: Vec<(&str, Option<Pair>)> =
        wrong(&authority, REVOKED)?.into_iter().map(|(why, pair)| (why, Some(pair))).collect();
    wrongs.push(("no_certificate", None));
    for (place, (why, pair)) in wrongs.iter().enumerate() {
        let before = callee.metric("weir_downstream_tls_refused_total", &format!("\"{why}\"")).await.unwrap_or(0.0);
        // In TLS 1.3 the caller is done before it is judged.
        if let Ok(mut stream) = mesh::call(address, pair.as_ref(), &["http/1.1"]).await {
            let answer = mesh::ask(&mut stream).await;
            assert!(answer.is_err(), "{place} {why}: {answer:?}");
        }
        let label = format!("\"{why}\"");
        until(&format!("{place} {why} is counted"), async || {
            callee.metric("weir_downstream_tls_refused_total", &label).await.is_ok_and(|now| now == before + 1.0)
        })
        .await?;
    }
    same!(app.count(), 1);
    Ok(())
}

async fn servers() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("shop.example")?;
    let (cart, with_list) = cautious(&authority, &dir.path().join("cart"), CART)?;
    let good = authority.issue(&Says::id(PAY))?;
    let mut servers =
        vec![("", good.clone(), "tls: mesh"), ("", good.clone(), "tls: { mesh: { peers: ['spiffe://shop.example'] } }")];
    servers.push(("unexpected_peer", good, "tls: { mesh: { peers: ['spiffe://shop.example/ns/shop/sa/paying'] } }"));
    servers.extend(wrong(&authority, REVOKED)?.into_iter().map(|(why, pair)| (why, pair, "tls: mesh")));
    for (place, (why, pair, tls)) in servers.iter().enumerate() {
        let server = Server::start(pair, authority.root(), "secret").await?;
        let config = outbound(&cart, server.address, &format!("protocol: http1, {tls}")).replace(&cart.yaml(), &with_list);
        let caller = Weir::start(&config).await?;
        let mut connection = Connection::open(caller.address("out")).await?;
        connection.send("GET / HTTP/1.1\r\nhost: pay\r\n\r\n").await?;
        let answer = connection.response(false).await?;
        if why.is_empty() {
            same!((place, answer.status, answer.text()), (place, 200, "secret".to_owned()));
        } else {
            let code = format!("upstream_tls_{why}");
            same!((place, answer.status, answer.header("x-weir-error")), (place, 503, Some(code.as_str())));
        }
        let result = format!("\"{}\"", if why.is_empty() { "ok" } else { why });
        assert!(caller.metric("weir_upstream_tls_handshakes_total", &result).await? >= 1.0, "{result}");
    }
    Ok(())
}

/// In TLS 1.3 the callee judges when the caller is done, so its word races with the request.
async fn refused() -> Result {
    let dir = tempfile::tempdir()?;
    let (authority, stranger) = (Authority::new("shop.example")?, Authority::new("shop.example")?);
    let pay = member(&authority, &dir.path().join("pay"), PAY)?;
    let cart = Files::write(&dir.path().join("cart"), &stranger.issue(&Says::id(CART))?, authority.root())?;
    let app = Origin::text("secret").await?;
    let callee = Weir::start(&inbound(&pay, app.address, "tls: strict")).await?;
    for version in [Version::One, Version::Two] {
        let tls = format!("tls: mesh, protocol: {}", version.protocol());
        let caller = Weir::start(&outbound(&cart, callee.address("in"), &tls)).await?;
        for round in 0..50 {
            let mut connection = Caller::open(caller.address("out"), version).await?;
            let body = if round % 2 == 0 { String::new() } else { "x".repeat(1 << 20) };
            let request = connection.request("POST", "/").body(full(body))?;
            let answer = connection.exchange(request).await?;
            answer
                .is_weirs("upstream_tls_refused_by_peer", 503, None)
                .map_err(|error| format!("{version:?} {round}: {error}"))?;
        }
    }
    same!(app.count(), 0);
    same!(callee.series("weir_downstream_tls_refused_total").await?.len(), 1, "for nothing but their root");
    holds!(callee.metric("weir_downstream_tls_refused_total", "\"unknown_issuer\"").await? >= 100.0);
    Ok(())
}

async fn no_handshakes() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("shop.example")?;
    let pay = member(&authority, &dir.path().join("pay"), PAY)?;
    let app = Origin::text("secret").await?;
    let callee = Weir::start(&inbound(&pay, app.address, "tls: strict, limits: { header_read: 300ms }")).await?;
    for (why, bytes) in [
        ("plaintext", &b"GET / HTTP/1.1\r\nhost: pay\r\n\r\n"[..]),
        ("plaintext", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        // A record that is no handshake message.
        ("not_tls", b"\x16\x03\x01\x00\x05\xff\x00\x00\x01\x00"),
    ] {
        let before = callee.metric("weir_downstream_tls_refused_total", &format!("\"{why}\"")).await.unwrap_or(0.0);
        let mut stream = TcpStream::connect(callee.address("in")).await?;
        stream.write_all(bytes).await?;
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        assert!(!heard.starts_with(b"HTTP"), "{why}: {heard:?}");
        let label = format!("\"{why}\"");
        until(why, async || {
            callee.metric("weir_downstream_tls_refused_total", &label).await.is_ok_and(|now| now == before + 1.0)
        })
        .await?;
    }
    // A handshake that stops half way is given up.
    let mut stalled = TcpStream::connect(callee.address("in")).await?;
    stalled.write_all(b"\x16\x03\x01\x02\x00\x01").await?;
    same!(stalled.read(&mut [0; 16]).await.unwrap_or(0), 0);
    same!(app.count(), 0);
    Ok(())
}

async fn own_expired() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("shop.example")?;
    let cart_dir = dir.path().join("cart");
    let mut says = Says::id(CART);
    (says.from, says.to) = (-7200, -3600);
    let cart = Files::write(&cart_dir, &authority.issue(&says)?, authority.root())?;
    let server = Server::start(&authority.issue(&Says::id(PAY))?, authority.root(), "secret").await?;
    let caller = Weir::start(&outbound(&cart, server.address, "protocol: http1, tls: mesh")).await?;
    let mut connection = Connection::open(caller.address("out")).await?;
    connection.send("GET / HTTP/1.1\r\nhost: pay\r\n\r\n").await?;
    let answer = connection.response(false).await?;
    same!((answer.status, answer.header("x-weir-error")), (503, Some("upstream_tls_own_certificate")));
    member(&authority, &cart_dir, CART)?;
    for _ in 0..2000 {
        connection.send("GET / HTTP/1.1\r\nhost: pay\r\n\r\n").await?;
        if connection.response(false).await?.status == 200 {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    Err("the new certificate is not in use after ten seconds".into())
}
