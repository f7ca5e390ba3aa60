//! HTTP/2 heads that would be something else as HTTP/1: more than one request, or a body of another length.

use weir_tests::frames::{self, Verdict, field, frame};
use weir_tests::{Result, holds};

use super::framing::{Bench, fence};

type Field = (&'static [u8], &'static [u8]);

/// The pseudo-headers of a good request, by their names.
const GOOD: [Field; 4] = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/bad")];

/// The same without `:authority`, which a `Host` may stand for.
const NO_AUTHORITY: [Field; 3] = [GOOD[0], GOOD[1], GOOD[3]];

/// `:status: 200`, in the static table.
const OK: u8 = 0x88;

/// One that is malformed: its fields, and its DATA.
struct Case(&'static str, Vec<Field>, &'static [u8]);

/// A good request with further fields.
fn with(name: &'static str, fields: &[Field]) -> Case {
    Case(name, GOOD.iter().chain(fields).copied().collect(), b"abc")
}

/// A good request with another value for a pseudo-header, or without it.
fn instead(name: &'static str, pseudo: &[u8], value: Option<&'static [u8]>) -> Case {
    let other = |(key, good): &Field| match value {
        _ if *key != pseudo => Some((*key, *good)),
        value => value.map(|value| (*key, value)),
    };
    Case(name, GOOD.iter().filter_map(other).collect(), b"abc")
}

fn cases() -> Vec<Case> {
    vec![
        with("CR LF in a value", &[(b"x", b"y\r\ntransfer-encoding: chunked")]),
        with("the end of a head in a value", &[(b"x", b"y\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")]),
        with("LF in a value", &[(b"x", b"y\nz: z")]),
        with("CR in a value", &[(b"x", b"y\rz")]),
        with("NUL in a value", &[(b"x", b"y\0z")]),
        with("CR LF in a name", &[(b"x: y\r\nz", b"z")]),
        with("colon in a name", &[(b"transfer-encoding: chunked\r\nx", b"y")]),
        with("blank in a name", &[(b"x y", b"z")]),
        with("blank after a name", &[(b"transfer-encoding ", b"chunked")]),
        with("capital in a name", &[(b"X", b"y")]),
        with("no name", &[(b"", b"y")]),
        with("NUL in a name", &[(b"x\0", b"y")]),
        with("Transfer-Encoding", &[(b"transfer-encoding", b"chunked")]),
        with("Transfer-Encoding: identity", &[(b"transfer-encoding", b"identity")]),
        with("Connection", &[(b"connection", b"close")]),
        with("Keep-Alive", &[(b"keep-alive", b"timeout=5")]),
        with("Proxy-Connection", &[(b"proxy-connection", b"keep-alive")]),
        with("Upgrade", &[(b"upgrade", b"websocket")]),
        with("TE: gzip", &[(b"te", b"gzip")]),
        with("content-length too long", &[(b"content-length", b"300")]),
        with("content-length too short", &[(b"content-length", b"1")]),
        with("content-length of 0", &[(b"content-length", b"0")]),
        with("two content-length", &[(b"content-length", b"3"), (b"content-length", b"0")]),
        with("content-length list", &[(b"content-length", b"3, 0")]),
        with("content-length with plus", &[(b"content-length", b"+3")]),
        with("empty content-length", &[(b"content-length", b"")]),
        with("another host", &[(b"host", b"b")]),
        with("two hosts", &[(b"host", b"a"), (b"host", b"b")]),
        with(":path twice", &[(b":path", b"/bad")]),
        with(":method twice", &[(b":method", b"GET")]),
        with(":authority twice", &[(b":authority", b"b")]),
        with("unknown pseudo-header", &[(b":x", b"y")]),
        with(":status", &[(b":status", b"200")]),
        Case("pseudo-header after a field", [&[(&b"x"[..], &b"y"[..])], &GOOD[..]].concat(), b"abc"),
        instead("no :method", b":method", None),
        instead("no :scheme", b":scheme", None),
        instead("no :path", b":path", None),
        instead("no host at all", b":authority", None),
        Case("a bad Host instead of :authority", [&NO_AUTHORITY[..], &[(b"host", b"u@a")]].concat(), b"abc"),
        Case("two Host instead of :authority", [&NO_AUTHORITY[..], &[(b"host", b"a"), (b"host", b"b")]].concat(), b"abc"),
        instead("empty :path", b":path", Some(b"")),
        instead(":path without slash", b":path", Some(b"bad")),
        instead("asterisk", b":path", Some(b"*")),
        instead("blank in :path", b":path", Some(b"/b ad")),
        instead("a second request in :path", b":path", Some(b"/bad HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled")),
        instead("LF in :path", b":path", Some(b"/bad\nx: y")),
        instead("NUL in :path", b":path", Some(b"/bad\0")),
        instead("%00 in :path", b":path", Some(b"/bad%00")),
        instead("empty :method", b":method", Some(b"")),
        instead("blank in :method", b":method", Some(b"GET /smuggled HTTP/1.1")),
        instead("CR LF in :method", b":method", Some(b"GET /smuggled HTTP/1.1\r\nx:")),
        instead("empty :authority", b":authority", Some(b"")),
        instead("user in :authority", b":authority", Some(b"u@a")),
        instead("path in :authority", b":authority", Some(b"a/b")),
        instead("blank in :authority", b":authority", Some(b"a b")),
        instead("CR LF in :authority", b":authority", Some(b"a\r\nx: y")),
        instead("word for a port in :authority", b":authority", Some(b"a:b")),
        instead("CR LF in :scheme", b":scheme", Some(b"http\r\nx: y")),
    ]
}

/// None of them becomes a request upstream, and none is answered 200.
pub async fn heads() -> Result {
    let bench = Bench::start().await?;
    let out = bench.weir.address("out");
    let ask = async |fields: &[Field], data: &[u8]| {
        let block: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
        let head = frame(frames::HEADERS, frames::END_HEADERS, 1, &block);
        frames::ask(out, &[head, frame(frames::DATA, frames::END_STREAM, 1, data)].concat()).await
    };
    let further: &[Field] = &[(b"content-length", b"3"), (b"te", b"trailers")];
    for good in [[&GOOD[..], further].concat(), [&NO_AUTHORITY[..], &[(b"host", b"a")]].concat()] {
        let verdict = ask(&good, b"abc").await?;
        holds!(matches!(&verdict, Verdict::Response(block) if block.first() == Some(&OK)), "what is good passes: {verdict:?}");
    }
    let mut failures = Vec::new();
    for Case(name, fields, data) in cases() {
        let mark = bench.witness.mark();
        match ask(&fields, data).await {
            Ok(Verdict::Response(block)) if block.first() == Some(&OK) => failures.push(format!("{name}: 200")),
            Ok(_) => {}
            Err(error) => failures.push(format!("{name}: {error}")),
        }
        let seen = bench.witness.requests_since(mark);
        if !seen.is_empty() {
            failures.push(format!("{name}: upstream: {seen:?}"));
        }
        if let Err(error) = fence(&bench).await {
            failures.push(format!("{name}: {error}"));
        }
    }
    failures.extend(bench.witness.surprises());
    holds!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    bench.weir.counted("weir_requests_active", "", 0.0).await
}
