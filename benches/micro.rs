//! What the pure parts of the request path cost, in nanoseconds. `cargo bench -p weir-benches`.

use std::fmt::Write as _;

use divan::{Bencher, black_box};
use http::{HeaderMap, HeaderValue, Method};
use weir_config::snapshot::ListenerId;
use weir_config::weights::Weights;
use weir_config::{Decision, Facts, Snapshot, decide};

fn main() {
    divan::main();
}

const SIZES: [usize; 4] = [1, 10, 1_000, 10_000];

/// As many routes, each with a host of its own.
fn many_routes(count: usize) -> Snapshot {
    let mut text = head();
    for n in 0..count {
        let _ = writeln!(
            text,
            "  - {{ name: r{n}, hosts: [service-{n}.shop.svc.cluster.local], rules: [{{ backends: [{{ cluster: c }}] }}] }}"
        );
    }
    load(&text)
}

/// One route with as many rules, each with a path prefix of its own.
fn many_rules(count: usize) -> Snapshot {
    let mut text = head();
    text.push_str("  - name: r\n    hosts: [\"*\"]\n    rules:\n");
    for n in 0..count {
        let _ = writeln!(
            text,
            "      - {{ match: [{{ path: {{ prefix: /api/v1/service-{n} }}, method: GET }}], backends: [{{ cluster: c }}] }}"
        );
    }
    load(&text)
}

/// One route with as many rules, each for one value of a header.
fn many_headers(count: usize) -> Snapshot {
    let mut text = head();
    text.push_str("  - name: r\n    hosts: [\"*\"]\n    rules:\n");
    for n in 0..count {
        let _ = writeln!(text, "      - {{ match: [{{ headers: {{ x-tenant: tenant-{n} }} }}], backends: [{{ cluster: c }}] }}");
    }
    load(&text)
}

fn head() -> String {
    "listeners: [{ name: o, listen: 127.0.0.1:1, direction: outbound }]\nclusters: { c: { endpoints: [127.0.0.1:2] } }\nroutes:\n"
        .to_owned()
}

fn load(text: &str) -> Snapshot {
    match weir_config::load(text) {
        Ok((_, snapshot)) => snapshot,
        Err(mistakes) => unreachable!("{}", mistakes[0]),
    }
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [("user-agent", "wrk"), ("accept", "*/*"), ("x-tenant", "tenant-0"), ("cookie", "a=b")] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

/// Benches `decide` for the last route or rule of the table.
fn lookup(bencher: Bencher<'_, '_>, snapshot: &Snapshot, host: &str, path: &str, headers: &HeaderMap) {
    let facts = Facts { method: &Method::GET, host, path, query: None, headers };
    assert!(matches!(decide(snapshot, ListenerId(0), &facts, 0, &mut ()), Decision::Forward { .. }));
    bencher.bench_local(|| decide(black_box(snapshot), ListenerId(0), black_box(&facts), 7, &mut ()));
}

#[divan::bench(args = SIZES)]
fn decide_by_host(bencher: Bencher<'_, '_>, count: usize) {
    let host = format!("service-{}.shop.svc.cluster.local", count - 1);
    lookup(bencher, &many_routes(count), &host, "/api/v1/items/17", &headers());
}

#[divan::bench(args = SIZES)]
fn decide_by_path(bencher: Bencher<'_, '_>, count: usize) {
    let path = format!("/api/v1/service-{}/items/17", count - 1);
    lookup(bencher, &many_rules(count), "shop", &path, &headers());
}

#[divan::bench(args = SIZES)]
fn decide_by_header(bencher: Bencher<'_, '_>, count: usize) {
    let mut headers = headers();
    headers.insert("x-tenant", HeaderValue::from_str(&format!("tenant-{}", count - 1)).unwrap_or(HeaderValue::from_static("")));
    lookup(bencher, &many_headers(count), "shop", "/", &headers);
}

#[divan::bench]
fn weighted_pick(bencher: Bencher<'_, '_>) {
    let Some(weights) = Weights::new([95, 5]) else { return };
    let mut random = fastrand::Rng::with_seed(1);
    bencher.bench_local(|| black_box(&weights).pick(random.u64(..)));
}

#[divan::bench]
fn correlation(bencher: Bencher<'_, '_>) {
    use weir::http::correlation;
    let headers = headers();
    let mut random = fastrand::Rng::with_seed(1);
    let mut room = bytes::BytesMut::new();
    bencher.bench_local(|| {
        let mut headers = headers.clone();
        correlation::ensure(&mut headers, false, true, || correlation::fresh_id(1, random.u128(..), &mut room))
    });
}

#[divan::bench]
fn http1_head(bencher: Bencher<'_, '_>) {
    use weir::h1::{Limits, request};
    let text = "GET /api/v1/items/17?q=1 HTTP/1.1\r\nHost: shop.svc.cluster.local\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n";
    let limits = Limits { header_bytes: 65536, header_count: 200 };
    bencher.bench_local(|| {
        let mut input = bytes::BytesMut::from(black_box(text));
        let head = request::Scanner::default().next(&mut input, limits).ok().flatten()?;
        request::read(&head, limits).ok()
    });
}

/// A small body, read once and kept to be sent again, then sent again.
#[divan::bench]
fn replay_body(bencher: Bencher<'_, '_>) {
    use std::cell::Cell;
    use std::pin::Pin;
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};

    use http_body::Body;
    use weir::upstream::body::{RequestBody, Source};
    let in_all = Rc::<Cell<usize>>::default();
    let bytes = bytes::Bytes::from(vec![b'x'; 1024]);
    bencher.bench_local(|| {
        let body = RequestBody::new(Source::Full(black_box(&bytes).clone()), &in_all, None);
        for _ in 0..2 {
            let mut attempt = body.attempt();
            let mut next = || Pin::new(&mut attempt).poll_frame(&mut Context::from_waker(Waker::noop()));
            while let Poll::Ready(Some(_)) = next() {}
        }
        body.settle();
        body
    });
}

/// What one request leaves in the metrics.
#[divan::bench]
fn metrics_record(bencher: Bencher<'_, '_>) {
    use std::sync::Arc;
    use std::time::Instant;

    use weir::observe::Record;
    use weir::observe::metrics::RuleShard;
    let series = Arc::<RuleShard>::default();
    bencher.bench_local(|| {
        let mut record = Record::start(Instant::now());
        record.belongs_to(&series);
        record.head(http::StatusCode::OK);
        record.bytes_out = 30;
        record.complete();
    });
}
