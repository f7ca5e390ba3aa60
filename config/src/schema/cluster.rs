use schemars::JsonSchema;
use serde::Deserialize;

use super::{ClusterTls, RetryBudget};
use crate::units::Span;

/// A named set of endpoints and how to talk to them. Either `endpoints` or `dns`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// `address:port` or `name:port`; a name stands for every address it resolves to.
    pub endpoints: Option<Vec<Endpoint>>,
    /// One `name:port`, short for `endpoints` with that one name. Names are absolute: no search domains are tried.
    #[schemars(example = &"checkout.shop.svc.cluster.local:8080")]
    pub dns: Option<String>,
    /// What to speak: `http1`, `http2` (cleartext, by prior knowledge), or `auto`: as the caller spoke. Default `auto`.
    #[serde(default)]
    pub protocol: UpstreamProtocol,
    /// How an endpoint is chosen. Default `least_request`.
    #[serde(default)]
    pub balance: Balance,
    /// How long a TCP connection may take to open. Default `1s`.
    #[serde(default = "Cluster::default_connect")]
    pub connect_timeout: Span,
    /// An idle HTTP/1 connection is kept for reuse this long. Set it below the peer's own idle limit. Default `4s`.
    #[serde(default = "Cluster::default_idle")]
    pub idle_timeout: Span,
    /// Begin each connection with a PROXY header that tells the caller's addresses (HAProxy `send-proxy`,
    /// `send-proxy-v2`). A connection then serves one caller only. Default: none.
    pub proxy_protocol: Option<ProxyVersion>,
    /// TLS towards the endpoints: `mesh`, or `{ mesh: { peers: [...] } }`, for members of the mesh; `{}`, or what is known of a
    /// server outside of it. Default: none. In the mesh `protocol: auto` is HTTP/2, so that many requests share few connections.
    pub tls: Option<ClusterTls>,
    /// How many retries the cluster bears.
    #[serde(default)]
    pub retry_budget: RetryBudget,
}

impl Cluster {
    pub(crate) fn default_connect() -> Span {
        Span(std::time::Duration::from_secs(1))
    }
    pub(crate) fn default_idle() -> Span {
        Span(std::time::Duration::from_secs(4))
    }
}

/// An endpoint: `address:port`, or with a weight.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Endpoint {
    /// `address:port` or `name:port`, with weight 1.
    Address(String),
    /// With a weight.
    Weighted(WeightedEndpoint),
}

/// An endpoint with a weight.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightedEndpoint {
    /// `address:port` or `name:port`.
    pub address: String,
    /// Its share against the other endpoints of the cluster. For a name, each of its addresses has this weight.
    /// Default 1.
    #[serde(default = "WeightedEndpoint::default_weight")]
    #[schemars(range(min = 1, max = 10_000))]
    pub weight: u32,
}

impl WeightedEndpoint {
    fn default_weight() -> u32 {
        1
    }
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What weir speaks to an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamProtocol {
    /// As the caller spoke.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 in cleartext, by prior knowledge.
    Http2,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Of two endpoints drawn by weight, the one with fewer requests in flight for its weight.
    #[default]
    LeastRequest,
    /// One after the other, by weight.
    RoundRobin,
}
