//! Mutual TLS: who is let in, who is spoken to, and what becomes of both when certificates change.

mod authorization;
mod brokers;
mod interop;
mod openssl;
mod outside;
mod pair;
mod refusals;
mod rotation;
mod workload;

use std::path::Path;

use weir_tests::mesh::{Authority, Files, Says};
use weir_tests::{Result, Trial};

pub fn trials() -> Vec<Trial> {
    [
        authorization::trials(),
        brokers::trials(),
        interop::trials(),
        openssl::trials(),
        outside::trials(),
        pair::trials(),
        refusals::trials(),
        rotation::trials(),
        workload::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const CART: &str = "spiffe://shop.example/ns/shop/sa/cart";
const PAY: &str = "spiffe://shop.example/ns/shop/sa/pay";

/// The files of a member of a mesh.
fn member(authority: &Authority, dir: &Path, id: &str) -> Result<Files> {
    Files::write(dir, &authority.issue(&Says::id(id))?, authority.root())
}

/// A sidecar in front of an app.
fn inbound(files: &Files, app: std::net::SocketAddr, more: &str) -> String {
    format!(
        "{}\nworkers: 1\nlisteners: [{{ name: in, listen: 127.0.0.1:0, direction: inbound, app: '{app}', {more} }}]\n",
        files.yaml()
    )
}

/// A sidecar behind an app, with one cluster.
fn outbound(files: &Files, endpoint: std::net::SocketAddr, more: &str) -> String {
    format!(
        "{}
workers: 1
listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes: [{{ name: all, hosts: ['*'], rules: [{{ name: only, backends: [{{ cluster: app }}] }}] }}]
clusters: {{ app: {{ endpoints: ['{endpoint}'], {more} }} }}
",
        files.yaml()
    )
}

/// The same for opaque bytes.
fn outbound_tcp(files: &Files, endpoint: std::net::SocketAddr, more: &str) -> String {
    format!(
        "{}
workers: 1
listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound, protocol: tcp, cluster: app }}]
clusters: {{ app: {{ endpoints: ['{endpoint}'], {more} }} }}
",
        files.yaml()
    )
}
