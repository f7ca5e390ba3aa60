//! The failure matrix: every error of the catalogue is provoked in a running weir, and the caller, the access log, the
//! metrics and `explain` say the same of it. What is expected is read from the catalogue that weir prints.

mod bench;
mod faulty;
mod modes;
mod refused;
mod severed;

use std::collections::BTreeSet;

use weir_tests::{Result, Trial, holds, same, test};

pub fn trials() -> Vec<Trial> {
    vec![test("failures::all_sides_agree", all_sides_agree)]
}

/// What cannot be provoked from outside, and why.
const OUT_OF_REACH: [(&str, &str); 6] = [
    ("loop", "only redirection makes one: `redirect::flow` provokes it"),
    (
        "own_port",
        "the connection is reset before there is a request, and only the kernel makes one: `redirect::flow` provokes it",
    ),
    ("plaintext", "it needs a listener with mutual TLS: `mesh` provokes it"),
    ("bad_proxy_header", "the connection is closed before there is a request: `control::proxy_protocol` provokes it"),
    ("not_tls", "the connection is reset before there is a request: `control::passthrough` provokes it"),
    (
        "bad_body",
        "HTTP/1 bodies that are malformed have codes of their own, and one that ends early is a caller that went away; the \
         h2 crate resets a stream whose body is not as long as it said, which is a caller that went away as well",
    ),
];

async fn all_sides_agree() -> Result {
    let places = modes::Places::take().await?;
    let mut bench = bench::Bench::start(|faulty| places.yaml(faulty)).await?;
    modes::provoke(&mut bench, &places).await?;
    severed::provoke(&mut bench).await?;
    refused::provoke(&mut bench).await?;
    bench.settle().await?;

    let all: BTreeSet<&str> = bench.catalogue.codes().collect();
    let provoked = bench.provoked();
    let excused: BTreeSet<&str> = OUT_OF_REACH.iter().map(|(code, _)| *code).collect();
    same!(provoked.intersection(&excused).count(), 0, "what is provoked needs no excuse");
    let missing: Vec<_> = all.difference(&provoked).filter(|code| !excused.contains(*code)).collect();
    holds!(missing.is_empty(), "neither provoked nor excused: {missing:?}");
    holds!(excused.is_subset(&all), "excuses for what does not exist: {excused:?}");
    Ok(())
}
