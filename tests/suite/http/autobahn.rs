//! WebSocket conformance: the cases of the Autobahn test suite end through weir as they end without it.
//!
//! Many of them are about violations and about who closes how, which is where a tunnel that cuts, delays or resets shows.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use weir_tests::peers::{self, Peer};
use weir_tests::wire::{self, Version};
use weir_tests::{Result, Trial, holds, same, soak, test_with};

use Version::{One, Two};

/// Weirs on the way from the client to the server, by what each speaks to the next.
const WAYS: [(&str, &[Version]); 2] = [("one_weir", &[One]), ("two_weirs", &[Two, One])];

/// What runs together: a name, the cases, and how many they are.
type Group = (&'static str, &'static str, usize);

/// Everything but performance and compression, and of compression enough to see that it is agreed on.
const SHORT: Group = ("sections_1_to_10", "1.* 2.* 3.* 4.* 5.* 6.* 7.* 10.* 12.1.1 13.1.1", 249);

/// Limits and performance (9), compression (12, 13): minutes all in all.
const LONG: [Group; 13] = [
    ("section_9", "9.*", 54),
    ("section_12_1", "12.1.*", 18),
    ("section_12_2", "12.2.*", 18),
    ("section_12_3", "12.3.*", 18),
    ("section_12_4", "12.4.*", 18),
    ("section_12_5", "12.5.*", 18),
    ("section_13_1", "13.1.*", 18),
    ("section_13_2", "13.2.*", 18),
    ("section_13_3", "13.3.*", 18),
    ("section_13_4", "13.4.*", 18),
    ("section_13_5", "13.5.*", 18),
    ("section_13_6", "13.6.*", 18),
    ("section_13_7", "13.7.*", 18),
];

pub fn trials() -> Vec<Trial> {
    let needs = [Peer::Python("kosoku"), Peer::Python("wsproto")];
    let long: &[_] = if soak() { &LONG } else { &[] };
    let mut trials = Vec::new();
    for (way, hops) in WAYS {
        for &(name, which, count) in std::iter::once(&SHORT).chain(long) {
            let name = format!("http::autobahn::through_{way}_{name}");
            trials.push(test_with(&name, &needs, move || as_without_weir(hops, which, count)));
        }
    }
    trials
}

/// What became of each case, by its number.
async fn cases(server: SocketAddr, which: &str) -> Result<BTreeMap<String, Value>> {
    let url = format!("ws://{server}");
    let arguments: Vec<&str> = ["cases", &url].into_iter().chain(which.split(' ')).collect();
    let done = peers::script("websocket_peer.py", &arguments).output().await?;
    holds!(done.status.success(), "{url}: {} {}", done.status, String::from_utf8_lossy(&done.stderr));
    Ok(serde_json::from_slice(&done.stdout)?)
}

async fn as_without_weir(hops: &[Version], which: &str, count: usize) -> Result {
    let (_server, address) = peers::serve("websocket_peer.py", &["serve"]).await?;
    let (weirs, first) = wire::chain(hops, address).await?;
    let (direct, through) = tokio::try_join!(cases(address, which), cases(first, which))?;
    // Two empty or broken runs would be the same as well.
    same!(direct.len(), count, "{which}");
    let failed: Vec<_> = direct.iter().filter(|(_, outcome)| outcome["passed"] != true).collect();
    holds!(failed.is_empty(), "the server alone fails: {failed:?}");
    same!(through.keys().collect::<Vec<_>>(), direct.keys().collect::<Vec<_>>());
    let differ: Vec<String> = direct
        .iter()
        .filter(|(case, outcome)| through[*case] != **outcome)
        .map(|(case, outcome)| format!("{case}:\n    through {}\n    direct  {outcome}", through[case]))
        .collect();
    holds!(differ.is_empty(), "{} of {count} cases differ:\n{}", differ.len(), differ.join("\n"));
    let mut over_http2 = 0.0;
    for weir in &weirs {
        weir.counted("weir_requests_active", "", 0.0).await?;
        // 101 over HTTP/1, 200 over HTTP/2.
        let carried = weir.metric("weir_requests_total", "1xx").await? + weir.metric("weir_requests_total", "2xx").await?;
        holds!(carried >= count as f64, "every case was a tunnel through weir");
        over_http2 += weir.metric("weir_downstream_protocols_total", "http2").await?;
    }
    same!(over_http2 > 0.0, hops.contains(&Two), "between two weirs it is a stream (RFC 8441)");
    Ok(())
}
