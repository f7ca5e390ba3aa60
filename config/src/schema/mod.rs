//! What YAML may say: the types, their documentation and defaults. The JSON Schema and the configuration reference are
//! generated from here; a field without a doc comment is a field nobody can look up.
//!
//! Types are plain: no positions, no cross references resolved. `compile` judges them.

mod authorization;
mod cluster;
mod identity;
mod listener;
mod policy;
mod route;
mod tls;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

pub use authorization::{CallMatch, CallerMatch, Policy, PolicyAction};
pub use cluster::{Balance, Cluster, Endpoint, ProxyVersion, UpstreamProtocol, WeightedEndpoint};
pub use identity::{Identity, IdentityFiles};
pub use listener::{
    Direction, ForwardingHeaders, Http2, Limits, Listener, ListenerProtocol, PortProtocol, ProxyProtocol, UnknownDestinations,
};
pub use policy::{Backoff, Retry, RetryBudget, RetryOn, Timeout};
pub use route::{
    Backend, GrpcMatch, HeaderChanges, Headers, Match, OneOrMany, PathMatch, PathRewrite, Range, Redirect, RegexRewrite, Respond,
    Rewrite, Route, RouteProtocol, Rule, ValueMatch, ValueTest,
};

pub use tls::{ClientCertificate, ClusterTls, ClusterTlsSettings, EdgeTls, ListenerTls, Mesh, MeshWord, TlsMode, TlsVersion};

use crate::units::Span;

/// A weir configuration: the bootstrap (who listens where) and the route table (`routes`, `clusters`), which swaps
/// while weir runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How many worker threads serve traffic: `auto`, or a number. `auto` is the least of the CPU quota of the cgroup
    /// (rounded up), the CPUs this process may run on, and 2. Changing it needs a restart.
    #[serde(default)]
    pub workers: Workers,
    /// The admin server: metrics, the running configuration, clusters, log level. Loopback or a Unix socket only.
    /// Changing it needs a restart.
    #[serde(default)]
    pub admin: Admin,
    /// The probes server, for kubelets and scrapers: `/ready`, `/live`, `/metrics`, and those of the app's
    /// probes that `weir inject` had asked of weir; nothing else. Off unless set.
    /// Changing it needs a restart.
    pub probes: Option<Probes>,
    /// Where the access log goes and how a line looks. Off unless set.
    pub access_log: Option<AccessLog>,
    /// How names of endpoints are resolved. Changing it needs a restart.
    #[serde(default)]
    pub dns: Dns,
    /// Who this proxy is in the mesh; needed for mutual TLS. Changing which files they are needs a restart, changing what
    /// is in them does not.
    pub identity: Option<Identity>,
    /// How weir leaves.
    #[serde(default)]
    pub shutdown: Shutdown,
    /// Where weir accepts connections.
    pub listeners: Vec<Listener>,
    /// Which requests go where: sets of hosts with ordered rules.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Named sets of endpoints, and how to talk to them.
    #[serde(default)]
    pub clusters: BTreeMap<String, Cluster>,
    /// Who may call what.
    #[serde(default)]
    pub authorization: Vec<Policy>,
}

/// How many worker threads serve traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Workers {
    /// A fixed number.
    Fixed(#[schemars(range(min = 1, max = 256))] u16),
    /// Derived from the machine.
    Named(Auto),
}

/// The word `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Auto {
    /// Derived from the machine.
    Auto,
}

impl Default for Workers {
    fn default() -> Self {
        Self::Named(Auto::Auto)
    }
}

/// The admin server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// A loopback address with a port, `unix:/path/to/socket`, or `off`. Default `127.0.0.1:15000`.
    #[serde(default = "Admin::default_listen")]
    #[schemars(example = &"127.0.0.1:15000")]
    pub listen: String,
}

impl Admin {
    fn default_listen() -> String {
        "127.0.0.1:15000".to_owned()
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: Self::default_listen() }
    }
}

/// The probes server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probes {
    /// An address with a port, usually `0.0.0.0:15020`, or a list of them. An address of a list whose family this machine
    /// does not have (IPv6, mostly) is left out.
    #[schemars(example = &"0.0.0.0:15020")]
    pub listen: OneOrMany,
}

/// The access log: one line per request, written off the request path through a bounded queue. Lines that do not fit
/// are dropped and counted in `weir_access_log_dropped_total`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// `stdout`, `stderr` or a file's path. A file is opened again on SIGHUP, so it can be rotated. Default `stdout`.
    #[serde(default = "AccessLog::default_path")]
    pub path: String,
    /// A text format in Envoy's notation, for example `%REQ(:METHOD)% %RESPONSE_CODE%`. Without it every line is a
    /// JSON object.
    pub format: Option<String>,
}

impl AccessLog {
    fn default_path() -> String {
        "stdout".to_owned()
    }
}

/// How names of endpoints are resolved.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Name servers as `address:port`. Default: those of `/etc/resolv.conf`.
    #[serde(default)]
    pub servers: Vec<String>,
    /// An answer is used at least this long, whatever its TTL says. Default `1s`.
    #[serde(default = "Dns::default_min")]
    pub min_ttl: Span,
    /// An answer is used at most this long before it is asked again. Default `30s`.
    #[serde(default = "Dns::default_max")]
    pub max_ttl: Span,
}

impl Dns {
    fn default_min() -> Span {
        Span(std::time::Duration::from_secs(1))
    }
    fn default_max() -> Span {
        Span(std::time::Duration::from_secs(30))
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self { servers: Vec::new(), min_ttl: Self::default_min(), max_ttl: Self::default_max() }
    }
}

/// How weir leaves. After SIGTERM it says goodbye to whoever calls the app (`Connection: close`, GOAWAY) and still accepts
/// for `min`, because others take a while to notice that the app is leaving; what the app itself calls stays open meanwhile.
/// Then what is in flight finishes, until `deadline`. SIGINT does without `min`; a second signal ends everything at once.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// How long weir accepts connections after SIGTERM, or after `POST /drain`. Default `5s`.
    #[serde(default = "Shutdown::default_min")]
    pub min: Span,
    /// How long all of it may take, from the signal on, or from when a listener was removed; connections that are left
    /// then are closed. Keep it below the grace period of the platform (Kubernetes and ECS: 30 s). Default `25s`.
    #[serde(default = "Shutdown::default_deadline")]
    pub deadline: Span,
}

impl Shutdown {
    fn default_min() -> Span {
        Span(std::time::Duration::from_secs(5))
    }
    fn default_deadline() -> Span {
        Span(std::time::Duration::from_secs(25))
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { min: Self::default_min(), deadline: Self::default_deadline() }
    }
}

/// The JSON Schema of a configuration file (draft 2020-12).
pub fn json_schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Config);
    schema.insert("title".to_owned(), "weir configuration".into());
    schema.into()
}
