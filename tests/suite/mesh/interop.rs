//! Envoy as the other end of mutual TLS.

use http::Response;
use weir_tests::envoy::{Envoy, Tls};
use weir_tests::mesh::{Authority, Files, Pair, Says};
use weir_tests::origin::full;
use weir_tests::peers::Peer;
use weir_tests::wire::{Answer, Caller, Keeper, Version};
use weir_tests::{Result, Trial, Weir, holds, same, test_with, until};

use super::{CART, PAY, inbound, outbound};

pub fn trials() -> Vec<Trial> {
    let envoy = [Peer::Program("envoy")];
    let mut trials = vec![test_with("mesh::interop::envoy_tells_an_app_what_weir_tells_it", &envoy, the_same_is_told)];
    for (name, version) in [("http1", Version::One), ("http2", Version::Two)] {
        let name = |what: &str| format!("mesh::interop::{what}_{name}");
        trials.extend([
            test_with(&name("weir_calls_envoy"), &envoy, move || weir_calls(version)),
            test_with(&name("weir_is_refused_by_envoy"), &envoy, move || weir_is_refused(version)),
            test_with(&name("weir_refuses_envoy"), &envoy, move || weir_refuses(version)),
            test_with(&name("envoy_calls_weir"), &envoy, move || envoy_calls(version)),
            test_with(&name("envoy_refuses_weir_or_is_refused"), &envoy, move || envoy_is_refused(version)),
        ]);
    }
    trials
}

const OTHER: &str = "spiffe://shop.example/ns/shop/sa/other";
const FORGED: &str = "By=spiffe://shop.example/me;Hash=00;URI=spiffe://shop.example/ns/shop/sa/admin";

/// A trust domain with two members.
struct Shop {
    authority: Authority,
    cart: Pair,
    pay: Pair,
    dir: tempfile::TempDir,
}

impl Shop {
    fn new() -> Result<Self> {
        let authority = Authority::new("shop.example")?;
        let (cart, pay) = (authority.issue(&Says::id(CART))?, authority.issue(&Says::id(PAY))?);
        Ok(Self { authority, cart, pay, dir: tempfile::tempdir()? })
    }

    /// Envoy as `pay`, which lets in nobody but `cart`.
    fn callee(&self) -> Tls<'_> {
        Tls::new(&self.pay, self.authority.root(), CART)
    }

    /// Envoy as `cart`, which calls nobody but `pay`.
    fn caller(&self) -> Tls<'_> {
        Tls::new(&self.cart, self.authority.root(), PAY)
    }

    /// weir as `cart`, which calls nobody but `peer`.
    async fn weir_out(&self, envoy: &Envoy, version: Version, peer: &str) -> Result<Weir> {
        let files = Files::write(&self.dir.path().join("cart"), &self.cart, self.authority.root())?;
        let tls = format!("protocol: {}, tls: {{ mesh: {{ peers: ['{peer}'] }} }}", version.protocol());
        Weir::start(&outbound(&files, envoy.address, &tls)).await
    }

    /// weir as `pay`, in front of an app.
    async fn weir_in(&self, app: &Keeper, mode: &str) -> Result<Weir> {
        let files = Files::write(&self.dir.path().join("pay"), &self.pay, self.authority.root())?;
        Weir::start(&inbound(&files, app.origin.address, &format!("tls: {mode}"))).await
    }
}

/// An app that answers with the body it got.
async fn app() -> Result<Keeper> {
    Keeper::start(|got| Response::new(full(got.body.clone()))).await
}

/// Sends a body of a megabyte, with a forged word about who calls, on a connection of its own.
async fn post(address: std::net::SocketAddr, version: Version) -> Result<Answer> {
    let mut caller = Caller::open(address, version).await?;
    let request = caller.request("POST", "/").header("x-forwarded-client-cert", FORGED).body(full(body()))?;
    caller.exchange(request).await
}

fn body() -> Vec<u8> {
    (0..1_u32 << 20).map(|place| (place % 251) as u8).collect()
}

/// How often Envoy has counted this about TLS on its side.
async fn ssl(envoy: &Envoy, side: &str, what: &str) -> Result<u64> {
    envoy.counter(&format!("{side}.ssl.{what}")).await
}

async fn weir_calls(version: Version) -> Result {
    let shop = Shop::new()?;
    // The last is none that weir guesses: it is asked for another share.
    for group in ["X25519MLKEM768", "X25519", "P-256"] {
        let app = app().await?;
        let envoy = Envoy::server(&Tls { group, ..shop.callee() }, app.origin.address).await?;
        let weir = shop.weir_out(&envoy, version, PAY).await?;
        let answer = post(weir.address("out"), version).await?;
        same!((group, answer.status.as_u16(), answer.body == body()), (group, 200, true), "{}", answer.text());
        let got = app.last()?;
        let told = got.all("x-forwarded-client-cert").join(",");
        holds!(told.starts_with(&format!("By={PAY};Hash=")) && told.ends_with(&format!(";URI={CART}")), "{told}");
        for what in ["handshake", "versions.TLSv1.3", &format!("curves.{group}")] {
            same!(ssl(&envoy, "listener.in", what).await?, 1, "{group} {what}");
        }
        let number = if version == Version::One { 1 } else { 2 };
        same!(envoy.counter(&format!("http.in.downstream_cx_http{number}_total")).await?, 1);
    }
    Ok(())
}

async fn weir_is_refused(version: Version) -> Result {
    let (shop, stranger) = (Shop::new()?, Authority::new("shop.example")?);
    let good = shop.callee();
    for (counted, code, tls) in [
        ("fail_verify_san", "upstream_tls_refused_by_peer", Tls { expects: OTHER, ..good.clone() }),
        ("fail_verify_error", "upstream_tls_refused_by_peer", Tls { trust: stranger.root(), ..good.clone() }),
        ("connection_error", "upstream_tls_no_common_protocol", Tls { version: "TLSv1_2", group: "P-256", ..good.clone() }),
    ] {
        let app = app().await?;
        let envoy = Envoy::server(&tls, app.origin.address).await?;
        let weir = shop.weir_out(&envoy, version, PAY).await?;
        // In TLS 1.3 the server judges when the client is done, so the word races with the request.
        for _ in 0..20 {
            post(weir.address("out"), version).await?.is_weirs(code, 503, None).map_err(|error| format!("{counted}: {error}"))?;
        }
        // Envoy counts after it has told weir.
        let told = async || ssl(&envoy, "listener.in", counted).await.is_ok_and(|count| count >= 20);
        until(&format!("Envoy counts 20 times {counted}"), told).await?;
        same!((envoy.counter("http.in.downstream_rq_total").await?, app.origin.count()), (0, 0), "{counted}");
    }
    Ok(())
}

async fn weir_refuses(version: Version) -> Result {
    let (shop, stranger, foreign) = (Shop::new()?, Authority::new("shop.example")?, Authority::new("other.example")?);
    let strange = stranger.issue(&Says::id(PAY))?;
    let abroad = foreign.issue(&Says::id("spiffe://other.example/ns/shop/sa/pay"))?;
    for (why, shows, peer) in
        [("unexpected_peer", &shop.pay, OTHER), ("unknown_issuer", &strange, PAY), ("unknown_trust_domain", &abroad, PAY)]
    {
        let app = app().await?;
        let envoy = Envoy::server(&Tls { shows: Some(shows), ..shop.callee() }, app.origin.address).await?;
        let weir = shop.weir_out(&envoy, version, peer).await?;
        post(weir.address("out"), version).await?.is_weirs(&format!("upstream_tls_{why}"), 503, None)?;
        same!(envoy.counter("http.in.downstream_rq_total").await?, 0, "{why}");
        same!((ssl(&envoy, "listener.in", "handshake").await?, app.origin.count()), (0, 0), "{why}");
    }
    Ok(())
}

async fn envoy_calls(version: Version) -> Result {
    let shop = Shop::new()?;
    let [usual, of_mesh] = match version {
        Version::One => ["http/1.1", "weir-http/1.1"],
        Version::Two => ["h2", "weir-h2"],
    };
    for (mode, alpn, group) in
        [("strict", usual, "X25519MLKEM768"), ("strict", of_mesh, "P-384"), ("permissive", of_mesh, "X25519")]
    {
        let app = app().await?;
        let weir = shop.weir_in(&app, mode).await?;
        let envoy = Envoy::client(&Tls { alpn, group, ..shop.caller() }, weir.address("in"), version).await?;
        for _ in 0..3 {
            let answer = post(envoy.address, version).await?;
            same!((answer.status.as_u16(), answer.body == body()), (200, true), "{mode} {alpn}: {}", answer.text());
            same!(answer.all("x-sent"), [FORGED], "Envoy sends on what the caller says");
            let got = app.last()?;
            let told = got.all("x-forwarded-client-cert").join(",");
            holds!(told.starts_with(&format!("By={PAY};Hash=")) && told.ends_with(&format!(";URI={CART}")), "{told}");
            let spoken = if version == Version::One { http::Version::HTTP_11 } else { http::Version::HTTP_2 };
            same!(got.head.version, spoken);
        }
        // Envoy would resume, if it had anything to resume with.
        let mut seen = Vec::new();
        for what in ["handshake", "versions.TLSv1.3", &format!("curves.{group}"), "session_reused"] {
            seen.push(ssl(&envoy, "cluster.up", what).await?);
        }
        same!((mode, seen), (mode, vec![3, 3, 3, 0]));
        same!(weir.metric("weir_downstream_tls_total", "mtls").await?, 3.0);
    }
    Ok(())
}

async fn envoy_is_refused(version: Version) -> Result {
    let (shop, stranger, foreign) = (Shop::new()?, Authority::new("shop.example")?, Authority::new("other.example")?);
    let strange = stranger.issue(&Says::id(CART))?;
    let abroad = foreign.issue(&Says::id("spiffe://other.example/ns/shop/sa/cart"))?;
    let good = shop.caller();
    for (why, tls) in [
        ("refused_by_peer", Tls { expects: OTHER, ..good.clone() }),
        ("refused_by_peer", Tls { trust: stranger.root(), ..good.clone() }),
        ("unknown_issuer", Tls { shows: Some(&strange), ..good.clone() }),
        ("unknown_trust_domain", Tls { shows: Some(&abroad), ..good.clone() }),
        ("no_certificate", Tls { shows: None, ..good.clone() }),
        ("no_common_protocol", Tls { version: "TLSv1_2", group: "P-256", ..good.clone() }),
        ("no_common_protocol", Tls { alpn: "h3", ..good.clone() }),
    ] {
        let app = app().await?;
        let weir = shop.weir_in(&app, "strict").await?;
        let envoy = Envoy::client(&tls, weir.address("in"), version).await?;
        let answer = post(envoy.address, version).await?;
        same!(answer.status.as_u16(), 503, "{why}");
        weir.counted("weir_downstream_tls_refused_total", &format!("\"{why}\""), 1.0).await?;
        same!(weir.series("weir_downstream_tls_refused_total").await?.len(), 1, "{why} is the only reason");
        same!((weir.metric("weir_downstream_tls_total", "mtls").await?, app.origin.count()), (0.0, 0), "{why}");
    }
    Ok(())
}

/// Who calls whom is written as Envoy writes it, the digest of the certificate included.
async fn the_same_is_told() -> Result {
    let (shop, app, version) = (Shop::new()?, app().await?, Version::One);
    let weir = shop.weir_in(&app, "strict").await?;
    let caller = Envoy::client(&shop.caller(), weir.address("in"), version).await?;
    same!(post(caller.address, version).await?.status.as_u16(), 200);
    let by_weir = app.last()?.all("x-forwarded-client-cert").join(",");

    let callee = Envoy::server(&shop.callee(), app.origin.address).await?;
    let weir = shop.weir_out(&callee, version, PAY).await?;
    same!(post(weir.address("out"), version).await?.status.as_u16(), 200);
    same!(by_weir, app.last()?.all("x-forwarded-client-cert").join(","));
    Ok(())
}
