//! One id and one trace from end to end (F18), and who may say what about a caller.

use http::Response;
use weir_tests::origin::full;
use weir_tests::wire::{self, Caller, Keeper, PAIRS, Version, between};
use weir_tests::{Result, Trial, Weir, holds, raw, same, test};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::correlation::a_given_id_is_kept", a_given_id_is_kept),
        test("http::correlation::a_missing_id_is_made", a_missing_id_is_made),
        test("http::correlation::a_bad_id_is_replaced_and_counted", a_bad_id_is_replaced),
        test("http::correlation::untrusted_peers_have_no_say", untrusted_peers),
        test("http::correlation::two_hops_have_one_id", two_hops),
        test("http::correlation::trace_headers_pass_byte_for_byte", trace_headers_pass),
        test("http::correlation::malformed_trace_headers_are_removed_and_counted", malformed_trace_headers),
        test("http::correlation::forwarding_headers", forwarding_headers),
    ]
}

async fn keeper() -> Result<Keeper> {
    Keeper::start(|_| Response::new(full("ok"))).await
}

async fn a_given_id_is_kept() -> Result {
    let keeper = keeper().await?;
    for (from, onward) in PAIRS {
        let (weir, mut caller) = between(from, keeper.origin.address, onward).await?;
        for id in ["abc", "0190F5FE-7C00-7A00-8ABC-0123456789AB", "a;b=c,d\"e\\/~", &"x".repeat(128)] {
            let request = caller.request("GET", "/").header("X-Request-ID", id).body(full(""))?;
            let answer = caller.exchange(request).await?;
            same!(answer.all("x-request-id"), [id], "{from:?} -> {onward:?}");
            same!(keeper.last()?.all("x-request-id"), [id], "{from:?} -> {onward:?}");
        }
        same!(weir.metric("weir_request_ids_replaced_total", "").await?, 0.0);
    }
    Ok(())
}

/// A UUID of version 7 and variant 10, in lower case.
fn is_uuid7(id: &str) -> bool {
    let parts: Vec<&str> = id.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && id.chars().all(|c| c == '-' || c.is_ascii_digit() || ('a'..='f').contains(&c))
        && parts[2].starts_with('7')
        && parts[3].starts_with(['8', '9', 'a', 'b'])
}

async fn a_missing_id_is_made() -> Result {
    let keeper = keeper().await?;
    let mut ids = std::collections::BTreeSet::new();
    for (from, onward) in PAIRS {
        let (_weir, mut caller) = between(from, keeper.origin.address, onward).await?;
        for _ in 0..25 {
            let answer = caller.get("/").await?;
            let id = answer.header("x-request-id").ok_or("no id")?.to_owned();
            holds!(is_uuid7(&id), "{id}");
            same!(keeper.last()?.all("x-request-id"), [&id]);
            ids.insert(id);
        }
    }
    same!(ids.len(), 100, "every id is another one");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    for id in ids {
        let millis = u128::from_str_radix(&id.replace('-', "")[..12], 16)?;
        holds!(now.abs_diff(millis) < 60_000, "{id} begins with the time");
    }
    Ok(())
}

async fn a_bad_id_is_replaced() -> Result {
    let keeper = keeper().await?;
    let (weir, mut caller) = between(Version::One, keeper.origin.address, Version::One).await?;
    for (count, id) in ["with space", &"x".repeat(129), "t\tab", "\u{fc}ber"].iter().enumerate() {
        let value = http::HeaderValue::from_bytes(id.as_bytes())?;
        let request = caller.request("GET", "/").header("x-request-id", value).body(full(""))?;
        let answer = caller.exchange(request).await?;
        let made = answer.header("x-request-id").ok_or("no id")?.to_owned();
        holds!(is_uuid7(&made), "{id:?} became {made}");
        same!(keeper.last()?.all("x-request-id"), [&made]);
        same!(weir.metric("weir_request_ids_replaced_total", "").await?, (count + 1) as f64, "{id:?}");
    }
    Ok(())
}

const TRACES: [(&str, &str); 12] = [
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
    ("tracestate", "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE"),
    ("baggage", "userId=alice,isProduction=false"),
    ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90"),
    ("x-b3-traceid", "80F198EE56343BA864FE8B2A57D3EFF7"),
    ("x-b3-spanid", "e457b5a2e4d86bd1"),
    ("x-b3-parentspanid", "05e3ac9a4f6e3b90"),
    ("x-b3-sampled", "0"),
    ("x-b3-flags", "0"),
    ("x-amzn-trace-id", "Self=1-67891234-12456789abcdef012345678;Root=1-67891233-abcdef012345678912345678;Sampled=0;A=b"),
    ("x-ot-span-context", "opaque"),
    ("grpc-trace-bin", "AAA="),
];

async fn untrusted_peers() -> Result {
    let keeper = keeper().await?;
    let yaml = wire::to(keeper.origin.address, Version::One)
        .replace("direction: outbound", "direction: outbound, trusted_peers: [none]");
    let weir = Weir::start(&yaml).await?;
    let mut caller = Caller::open(weir.address("out"), Version::One).await?;
    let mut request = caller.request("GET", "/").header("x-request-id", "mine").header("x-forwarded-for", "192.0.2.9");
    for (name, value) in TRACES {
        request = request.header(name, value);
    }
    let answer = caller.exchange(request.body(full(""))?).await?;
    let made = answer.header("x-request-id").ok_or("no id")?.to_owned();
    holds!(is_uuid7(&made), "{made}");
    let got = keeper.last()?;
    same!(got.all("x-request-id"), [&made]);
    for (name, _) in TRACES[..10].iter().chain(&[("x-forwarded-for", "")]) {
        same!(got.all(name), Vec::<&str>::new(), "{name}");
    }
    // Not an offence, so not counted as one.
    same!(weir.metric("weir_request_ids_replaced_total", "").await?, 0.0);
    Ok(())
}

async fn two_hops() -> Result {
    let keeper = keeper().await?;
    for (first, second) in PAIRS {
        let inner = Weir::start(&wire::to(keeper.origin.address, second)).await?;
        let (_outer, mut caller) = between(first, inner.address("out"), second).await?;
        let mut request = caller.request("GET", "/");
        for (name, value) in TRACES {
            request = request.header(name, value);
        }
        let answer = caller.exchange(request.body(full(""))?).await?;
        let got = keeper.last()?;
        same!(answer.all("x-request-id").len(), 1);
        same!(answer.all("x-request-id"), got.all("x-request-id"));
        for (name, value) in TRACES {
            same!(got.all(name), [value], "{name}");
        }
    }
    Ok(())
}

async fn trace_headers_pass() -> Result {
    let keeper = keeper().await?;
    let (weir, mut caller) = between(Version::Two, keeper.origin.address, Version::One).await?;
    // Each alone, and families that a caller may not know in full.
    for (name, value) in TRACES {
        if name.starts_with("x-b3-") && name != "x-b3-sampled" && name != "x-b3-flags" {
            continue;
        }
        let request = caller.request("GET", "/").header(name, value).body(full(""))?;
        caller.exchange(request).await?;
        same!(keeper.last()?.all(name), [value], "{name}");
    }
    let cases = [
        ("traceparent", "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-will-be-like"),
        ("b3", "0"),
        ("b3", "d"),
        ("b3", "e457b5a2e4d86bd1-e457b5a2e4d86bd1"),
        ("x-amzn-trace-id", "Root=1-67891233-abcdef012345678912345678"),
    ];
    for (name, value) in cases {
        let request = caller.request("GET", "/").header(name, value).body(full(""))?;
        caller.exchange(request).await?;
        same!(keeper.last()?.all(name), [value], "{name}");
    }
    // Without any, none is invented.
    caller.get("/").await?;
    let got = keeper.last()?;
    for (name, _) in TRACES {
        same!(got.all(name), Vec::<&str>::new(), "{name}");
    }
    same!(weir.metric("weir_trace_headers_ignored_total", "").await?, 0.0);
    Ok(())
}

async fn malformed_trace_headers() -> Result {
    let keeper = keeper().await?;
    let (weir, mut caller) = between(Version::One, keeper.origin.address, Version::Two).await?;
    let cases = [
        ("traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01"),
        ("traceparent", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"),
        ("traceparent", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("traceparent", "nonsense"),
        ("b3", "80f198ee56343ba8"),
        ("b3", "x"),
        ("x-b3-traceid", "80f198ee56343ba864fe8b2a57d3eff7"),
        ("x-amzn-trace-id", "Root=1-xyz"),
    ];
    for (count, (name, value)) in cases.into_iter().enumerate() {
        let request = caller.request("GET", "/").header(name, value).header("tracestate", "a=b").body(full(""))?;
        same!(caller.exchange(request).await?.status.as_u16(), 200);
        same!(keeper.last()?.all(name), Vec::<&str>::new(), "{name}: {value}");
        // A state without its parent says nothing.
        let state: &[&str] = if name == "traceparent" { &[] } else { &["a=b"] };
        same!(keeper.last()?.all("tracestate"), state, "{name}: {value}");
        same!(weir.metric("weir_trace_headers_ignored_total", "").await?, (count + 1) as f64, "{name}: {value}");
    }
    Ok(())
}

async fn forwarding_headers() -> Result {
    let keeper = keeper().await?;
    let app = keeper.origin.address;
    let weir = Weir::start(&format!(
        "listeners:
  - {{ name: near, listen: 127.0.0.1:0, direction: inbound, app: '{app}' }}
  - {{ name: far, listen: 127.0.0.1:0, direction: inbound, app: '{app}', trusted_peers: [none] }}
  - {{ name: both, listen: 127.0.0.1:0, direction: inbound, app: '{app}', forwarding_headers: both }}
  - {{ name: off, listen: 127.0.0.1:0, direction: inbound, app: '{app}', forwarding_headers: none }}
  - {{ name: out, listen: 127.0.0.1:0, direction: outbound }}
routes: [{{ name: all, hosts: ['*'], rules: [{{ backends: [{{ cluster: app }}] }}] }}]
clusters: {{ app: {{ endpoints: ['{app}'] }} }}
"
    ))
    .await?;
    let claims = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\nX-Forwarded-Proto: https\r\n\
                  X-Forwarded-Host: outside\r\nForwarded: for=192.0.2.3\r\n";
    let ask = async |listener: &str, lines: &str| -> Result<Vec<String>> {
        let request = format!("GET / HTTP/1.1\r\nHost: shop:80\r\nConnection: close\r\n{lines}\r\n");
        same!(raw::request(weir.address(listener), &request).await?.status, 200, "{listener}");
        let got = keeper.last()?;
        let names = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"];
        Ok(names.map(|name| got.all(name).join(" | ")).to_vec())
    };
    same!(ask("near", "").await?, ["127.0.0.1", "http", "shop:80", ""]);
    same!(ask("near", claims).await?, ["192.0.2.1, 192.0.2.2, 127.0.0.1", "https", "outside", "for=192.0.2.3"]);
    same!(ask("far", claims).await?, ["127.0.0.1", "http", "shop:80", ""]);
    let own = "for=127.0.0.1;host=\"shop:80\";proto=http";
    same!(ask("both", "").await?, ["127.0.0.1", "http", "shop:80", own]);
    let appended = format!("for=192.0.2.3, {own}");
    same!(ask("both", claims).await?, ["192.0.2.1, 192.0.2.2, 127.0.0.1", "https", "outside", &appended]);
    let untouched = ["192.0.2.1 | 192.0.2.2", "https", "outside", "for=192.0.2.3"];
    same!(ask("off", claims).await?, untouched);
    same!(ask("out", claims).await?, untouched);
    same!(ask("out", "").await?, ["", "", "", ""]);
    // Over HTTP/2 the host is the authority.
    let mut caller = Caller::open(weir.address("near"), Version::Two).await?;
    caller.get("/").await?;
    same!(keeper.last()?.all("x-forwarded-host"), ["shop"]);
    Ok(())
}
