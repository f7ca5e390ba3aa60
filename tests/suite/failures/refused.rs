//! What is refused before a rule is asked, or because of how it is written: over HTTP/1 by hand, over HTTP/2 frame by
//! frame.

use weir_tests::frames::{self, END_HEADERS, END_STREAM, HEADERS, Verdict};
use weir_tests::raw::{self, Connection};
use weir_tests::{Result, holds, same, until};

use super::bench::Bench;

/// Requests that are malformed, each in its own way; `{}` is where more header fields may stand.
const MALFORMED: [(&str, &str); 13] = [
    ("bad_syntax", "GET / HTTP/1.1\r\nhost: shop\r\nBad Name: x\r\n\r\n"),
    ("bad_line_end", "GET / HTTP/1.1\r\nhost: shop\nx: y\r\n\r\n"),
    ("folded_header", "GET / HTTP/1.1\r\nhost: shop\r\nx: y\r\n z\r\n\r\n"),
    ("both_lengths", "POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"),
    ("bad_content_length", "POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: x\r\n\r\n"),
    ("bad_transfer_encoding", "POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked, chunked\r\n\r\n"),
    ("unknown_transfer_coding", "POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: gzip, chunked\r\n\r\n"),
    ("bad_host", "GET / HTTP/1.1\r\nx: y\r\n\r\n"),
    ("bad_target", "GET shop HTTP/1.1\r\nhost: shop\r\n\r\n"),
    ("encoded_nul", "GET /%00 HTTP/1.1\r\nhost: shop\r\n\r\n"),
    (
        "upgrade_with_body",
        "GET / HTTP/1.1\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 2\r\n\r\nhi",
    ),
    ("bad_version", "GET / HTTP/3.0\r\nhost: shop\r\n\r\n"),
    ("bad_chunk", "POST /bad_chunk HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\nno chunk\r\n"),
];

pub(super) async fn provoke(bench: &mut Bench) -> Result {
    for (code, bytes) in MALFORMED {
        refused(bench, code, bytes).await?;
    }
    let long = format!("GET / HTTP/1.1\r\nhost: shop\r\nx: {}\r\n\r\n", "y".repeat(70_000));
    refused(bench, "header_bytes", &long).await?;
    let many = format!("GET / HTTP/1.1\r\nhost: shop\r\n{}\r\n", "x: y\r\n".repeat(201));
    refused(bench, "header_count", &many).await?;
    refused(bench, "slow_head", "GET / HTTP/1.1\r\nhost: sh").await?;
    refused(bench, "connect_refused", "CONNECT shop:443 HTTP/1.1\r\nhost: shop:443\r\n\r\n").await?;
    pseudo_headers(bench).await?;
    let malformed = bench.count(|row| row.flag == "DPE" && !matches!(row.status, 408 | 405 | 417));
    bench.weir.counted("weir_malformed_requests_total", "listener=\"out\"", malformed as f64).await?;
    the_limit_of_connections(bench).await
}

async fn refused(bench: &mut Bench, code: &'static str, bytes: &str) -> Result {
    let answer = raw::request(bench.weir.address("out"), bytes).await.map_err(|error| format!("{code}: {error}"))?;
    let row = bench.catalogue.row(code);
    same!((answer.status, answer.header("x-weir-error")), (row.status, Some(code)), "{bytes:?}");
    holds!(answer.text().starts_with(&format!("{code}: ")), "{}", answer.text());
    let id = answer.header("x-request-id").ok_or("no id")?.to_owned();
    let upstream = bench.faulty.address.to_string();
    let failed = bench.note(code, id, code);
    match code {
        "connect_refused" => failed.rule = Some((code, "faulty")),
        "bad_chunk" => (failed.rule, failed.upstream) = (Some((code, "faulty")), Some(upstream)),
        _ => {}
    }
    Ok(())
}

/// A request over HTTP/2 that names no host.
async fn pseudo_headers(bench: &mut Bench) -> Result {
    let id = bench.fresh_id();
    // GET, http, / from the static table.
    let block = [&[0x82, 0x86, 0x84][..], &frames::field(b"x-request-id", id.as_bytes())].concat();
    let head = frames::frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
    let Verdict::Response(answer) = frames::ask(bench.weir.address("out"), &head).await? else {
        return Err("no response to a request without a host".into());
    };
    // `:status: 400` of the static table.
    same!(answer.first(), Some(&0x8c), "{answer:?}");
    same!(bench.catalogue.row("bad_pseudo_header").status, 400);
    bench.note("no host over HTTP/2", id, "bad_pseudo_header");
    Ok(())
}

/// No answer tells a caller that there are too many; the counter does.
async fn the_limit_of_connections(bench: &Bench) -> Result {
    let weir = &bench.weir;
    let first = Connection::open(weir.address("narrow")).await?;
    let open = async || weir.metric("weir_downstream_connections_active", "narrow").await.is_ok_and(|open| open == 1.0);
    until("the first is accepted", open).await?;
    let mut second = Connection::open(weir.address("narrow")).await?;
    holds!(second.rest().await.map_or(true, |rest| rest.is_empty()), "the second one was told something");
    weir.counted("weir_downstream_connections_refused_total", "narrow", 1.0).await?;
    drop(first);
    Ok(())
}
