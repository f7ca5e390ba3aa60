//! gRPC with the real Python implementation on both sides of weir.

use std::net::SocketAddr;

use weir_tests::peers::{self, Peer};
use weir_tests::wire::{self, Version};
use weir_tests::{Result, Trial, Weir, holds, same, test_with, until};

pub fn trials() -> Vec<Trial> {
    let needs = [Peer::Python("grpc"), Peer::Python("grpc_status")];
    vec![
        test_with("http::grpc::calls_of_all_kinds", &needs, calls_of_all_kinds),
        test_with("http::grpc::metadata_and_error_details", &needs, metadata_and_error_details),
        test_with("http::grpc::cancelling_and_deadlines", &needs, cancelling_and_deadlines),
        test_with("http::grpc::large_messages", &needs, large_messages),
        test_with("http::grpc::nobody_to_serve", &needs, nobody_to_serve),
    ]
}

/// One group of the client's checks; fails with what the client said.
async fn check(weir: SocketAddr, group: &str) -> Result {
    let mut python = peers::script("grpc_peer.py", &["check", &weir.to_string(), group]);
    let done = tokio::time::timeout(std::time::Duration::from_secs(60), python.output()).await?;
    let done = done?;
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    holds!(done.status.success(), "{group}: {said}");
    holds!(said.contains("all checks passed"), "{group}: {said}");
    Ok(())
}

async fn served(group: &str) -> Result<Weir> {
    let (_server, address) = peers::serve("grpc_peer.py", &["serve"]).await?;
    let weir = Weir::start(&wire::to(address, Version::Two)).await?;
    check(weir.address("out"), group).await?;
    Ok(weir)
}

async fn calls_of_all_kinds() -> Result {
    let weir = served("kinds").await?;
    same!(weir.metric("weir_request_flags_total", "").await?, 0.0);
    until("nothing is in flight", async || weir.metric("weir_requests_active", "").await.is_ok_and(|n| n == 0.0)).await?;
    let fine = weir.metric("weir_grpc_requests_total", "grpc_code=\"0\"").await?;
    same!(fine, weir.metric("weir_grpc_requests_total", "").await?);
    holds!(fine >= 4.0, "{fine}");
    Ok(())
}

async fn metadata_and_error_details() -> Result {
    let weir = served("metadata").await?;
    same!(weir.metric("weir_request_flags_total", "").await?, 0.0);
    until("it is counted", async || weir.metric("weir_grpc_requests_total", "grpc_code=\"9\"").await.is_ok_and(|n| n >= 1.0))
        .await
}

async fn cancelling_and_deadlines() -> Result {
    served("cancel").await.map(drop)
}

async fn large_messages() -> Result {
    served("large").await.map(drop)
}

async fn nobody_to_serve() -> Result {
    let address = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let yaml = format!(
        "listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes:
  - name: some
    hosts: ['*']
    rules: [{{ match: [{{ path: {{ prefix: /weir.test.Echo }} }}], backends: [{{ cluster: app }}] }}]
clusters: {{ app: {{ endpoints: ['{address}'] }} }}
"
    );
    let weir = Weir::start(&yaml).await?;
    check(weir.address("out"), "nobody").await
}
