//! What the demo shows: the split, latencies and request ids, every second.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::backend::Backend;
use crate::observe::metrics::BOUNDS_US;
use crate::state::Shared;

/// Says what runs and what to try.
pub(super) fn introduce(address: SocketAddr, configuration: &str) {
    say(&format!(
        "weir listens on {address} and sends 90 % of requests to v1, 10 % to v2. Its whole configuration:\n\n{}\n\
         Try, in another terminal:\n\n  curl -i http://{address}/\n  for i in $(seq 100); do curl -s http://{address}/; done | cut -c1-13 | sort | uniq -c\n\
         \n(or start it with --rate 50 to have it call itself)  Ctrl-C ends.\n\n",
        configuration.lines().map(|line| format!("  {line}\n")).collect::<String>()
    ));
}

/// What has been seen so far.
struct Sample {
    counts: Vec<u64>,
    buckets: Vec<u64>,
    failed: u64,
}

fn sample(shared: &Shared, backends: &[Backend]) -> Sample {
    let mut buckets = vec![0; BOUNDS_US.len() + 1];
    let mut failed = 0;
    shared.metrics.rules.visit(|_, shards| {
        for shard in shards {
            for (sum, cell) in buckets.iter_mut().zip(&shard.duration.buckets) {
                *sum += cell.get();
            }
            failed += shard.classes[5].get() + shard.classes[0].get();
        }
    });
    Sample { counts: backends.iter().map(Backend::count).collect(), buckets, failed }
}

/// The upper bound of the bucket that a share of all durations lies below, in milliseconds.
fn quantile(buckets: &[u64], share: f64) -> Option<f64> {
    let total: u64 = buckets.iter().sum();
    let wanted = (total as f64 * share).ceil() as u64;
    let mut below = 0;
    let place = buckets.iter().position(|count| {
        below += count;
        below >= wanted.max(1)
    })?;
    BOUNDS_US.get(place).map(|us| *us as f64 / 1000.0)
}

/// Shows what happens until it is dropped.
pub(super) async fn run(shared: Arc<Shared>, backends: [Backend; 2], as_json: bool) {
    let live = std::io::stdout().is_terminal() && !as_json;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut shown = 0;
    let mut last = 0;
    loop {
        tick.tick().await;
        let now = sample(&shared, &backends);
        let total: u64 = now.counts.iter().sum();
        if as_json {
            say(&format!("{}\n", machine(&now, &backends)));
            continue;
        }
        // Without a terminal to redraw, only news is worth a line.
        if !live && total == last {
            continue;
        }
        last = total;
        let text = human(&now, &backends, live);
        if live && shown > 0 {
            say(&format!("\x1b[{shown}A\x1b[J"));
        }
        shown = text.lines().count();
        say(&text);
    }
}

fn machine(now: &Sample, backends: &[Backend]) -> serde_json::Value {
    let split = backends
        .iter()
        .zip(&now.counts)
        .map(|(backend, count)| json!({ "backend": backend.name, "requests": count, "request_ids": backend.ids() }));
    json!({
        "requests": now.counts.iter().sum::<u64>(),
        "failed": now.failed,
        "p50_ms": quantile(&now.buckets, 0.5),
        "p99_ms": quantile(&now.buckets, 0.99),
        "split": split.collect::<Vec<_>>(),
    })
}

fn human(now: &Sample, backends: &[Backend], colours: bool) -> String {
    let total: u64 = now.counts.iter().sum();
    let (bold, dim, plain) = if colours { ("\x1b[1m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    let bound = |share| quantile(&now.buckets, share).map_or("-".to_owned(), |ms| format!("<= {ms} ms"));
    let mut out = format!("{bold}{total} requests{plain}  p50 {}  p99 {}  failed {}\n", bound(0.5), bound(0.99), now.failed);
    for (backend, count) in backends.iter().zip(&now.counts) {
        let share = if total == 0 { 0.0 } else { *count as f64 / total as f64 };
        let filled = (share * 40.0).round() as usize;
        let bar = format!("{}{}", "#".repeat(filled), ".".repeat(40 - filled));
        out.push_str(&format!("  {}  {bar}  {:5.1} %  {count}\n", backend.name, share * 100.0));
    }
    for backend in backends {
        for id in backend.ids().iter().take(2) {
            out.push_str(&format!("  {dim}{}  x-request-id {id}{plain}\n", backend.name));
        }
    }
    out
}

/// Writes to standard output; a closed one is no reason to stop serving.
pub(super) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
