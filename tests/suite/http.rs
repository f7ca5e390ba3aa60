//! HTTP semantics, through weir, with real peers.

mod access_log;
mod autobahn;
mod connections;
mod correlation;
mod edges;
mod errors;
mod framing;
mod grpc;
mod hops;
mod interim;
mod load;
mod old;
mod proxied;
mod streaming;
mod trailers;
mod tunnels;
mod versions;
mod websockets;

use weir_tests::Trial;

pub fn trials() -> Vec<Trial> {
    [
        versions::trials(),
        hops::trials(),
        old::trials(),
        interim::trials(),
        trailers::trials(),
        tunnels::trials(),
        websockets::trials(),
        autobahn::trials(),
        proxied::trials(),
        streaming::trials(),
        errors::trials(),
        framing::trials(),
        connections::trials(),
        edges::trials(),
        correlation::trials(),
        grpc::trials(),
        load::trials(),
        access_log::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
