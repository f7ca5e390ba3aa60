//! One address, and what must outlive a snapshot: its connections and its load.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{h1, h2};
use crate::observe::metrics::ClusterShard;
use crate::tls::follow::Holder;

/// Where connections come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ComesFrom {
    /// An address of this machine.
    Own(IpAddr),
    /// An address of somebody else, in whose name the call is made.
    Caller(IpAddr),
}

/// One address.
pub struct Endpoint {
    /// The address.
    pub address: SocketAddr,
    /// The address that its connections come from, if that is not for the kernel to choose.
    pub from: Option<ComesFrom>,
    /// Requests in flight from this worker.
    pub in_flight: Cell<u32>,
    /// Idle HTTP/1 connections.
    pub h1: h1::Pool,
    /// HTTP/2 connections.
    pub h2: h2::Pool,
    /// The cluster's numbers.
    pub shard: Arc<ClusterShard>,
    /// What handshakes need, where TLS is spoken.
    pub tls: Arc<Holder>,
}

impl Endpoint {
    /// An address nobody has called yet.
    pub fn new(address: SocketAddr, from: Option<ComesFrom>, shard: &Arc<ClusterShard>, tls: &Arc<Holder>) -> Self {
        let (shard, tls) = (Arc::clone(shard), Arc::clone(tls));
        Self { address, from, in_flight: Cell::new(0), h1: h1::Pool::default(), h2: h2::Pool::default(), shard, tls }
    }

    /// Takes no new requests: idle connections close now, busy ones when their requests are done.
    pub fn retire(&self) {
        self.h1.close();
        self.h2.close();
    }
}
