//! Attempts: retries, budgets, clocks, deadlines.

mod clocks;
mod free;
mod load;
mod retries;
mod streams;

use std::net::SocketAddr;

use weir_tests::Trial;

pub fn trials() -> Vec<Trial> {
    [retries::trials(), free::trials(), clocks::trials(), streams::trials(), load::trials()].into_iter().flatten().collect()
}

/// A configuration with one rule, to which `policy` is added, and one cluster of these endpoints.
fn ruled(endpoints: &[SocketAddr], protocol: &str, policy: &str) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|endpoint| format!("'{endpoint}'")).collect();
    format!(
        "workers: 1
listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes: [{{ name: all, hosts: ['*'], rules: [{{ name: only, backends: [{{ cluster: app }}], {policy} }}] }}]
clusters: {{ app: {{ endpoints: [{}], protocol: {protocol} }} }}
",
        endpoints.join(", ")
    )
}
