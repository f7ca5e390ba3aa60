//! One immutable, validated, compiled configuration. Built by `compile`, read by everybody, changed by nobody.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::uri::Authority;

use crate::access_log::Format;
use crate::authorize::Policy;
use crate::destinations::DestinationTable;
use crate::headers::HeaderOps;
use crate::policy::{RetryRule, Timeouts};
use crate::schema::{
    Balance, Direction, ForwardingHeaders, PortProtocol, ProxyVersion, RetryBudget, TlsVersion, UpstreamProtocol,
};
use crate::spiffe::PeerPattern;
use crate::table::{HostTable, RuleTable};
use crate::trust::Trust;
pub use crate::upgrades::{SPOKEN, Upgrades};
use crate::weights::Weights;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);
        impl $name {
            /// The place in the snapshot's list.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

id!(
    /// A listener of one snapshot.
    ListenerId
);
id!(
    /// A route of one snapshot.
    RouteId
);
id!(
    /// A rule of one snapshot, over all routes.
    RuleId
);
id!(
    /// A cluster of one snapshot.
    ClusterId
);
id!(
    /// A policy of one snapshot.
    PolicyId
);

/// One immutable, validated, compiled configuration.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What needs a restart to change.
    pub bootstrap: Bootstrap,
    /// Where weir accepts connections.
    pub listeners: Vec<Listener>,
    /// The routes.
    pub routes: Vec<Route>,
    /// The rules of all routes.
    pub rules: Vec<Rule>,
    /// The clusters, those of inbound apps included.
    pub clusters: Vec<Cluster>,
    /// Who may call what.
    pub policies: Vec<Policy>,
    /// The access log, if there is one.
    pub access_log: Option<AccessLog>,
    /// How long weir accepts after it was told to leave.
    pub drain_min: Duration,
    /// How long what is in flight may take when a listener or weir itself leaves.
    pub drain_deadline: Duration,
}

impl Snapshot {
    /// A listener by id.
    pub fn listener(&self, id: ListenerId) -> &Listener {
        &self.listeners[id.index()]
    }
    /// A route by id.
    pub fn route(&self, id: RouteId) -> &Route {
        &self.routes[id.index()]
    }
    /// A rule by id.
    pub fn rule(&self, id: RuleId) -> &Rule {
        &self.rules[id.index()]
    }
    /// A cluster by id.
    pub fn cluster(&self, id: ClusterId) -> &Cluster {
        &self.clusters[id.index()]
    }
    /// A policy by id.
    pub fn policy(&self, id: PolicyId) -> &Policy {
        &self.policies[id.index()]
    }
    /// Whether something of weir itself listens on this port.
    pub fn is_own_port(&self, port: u16) -> bool {
        let admin = match &self.bootstrap.admin {
            Some(AdminAddress::Tcp(address)) => Some(*address),
            Some(AdminAddress::Unix(_)) | None => None,
        };
        let servers = admin.into_iter().chain(self.bootstrap.probes.iter().copied());
        let listeners = self.listeners.iter().flat_map(|listener| listener.addresses.iter().copied());
        servers.chain(listeners).any(|own| own.port() == port)
    }

    /// A listener by name.
    pub fn listener_named(&self, name: &str) -> Option<ListenerId> {
        let place = self.listeners.iter().position(|listener| &*listener.name == name)?;
        u32::try_from(place).ok().map(ListenerId)
    }
}

/// What needs a restart to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// A fixed number of workers; `None` is `auto`.
    pub workers: Option<u16>,
    /// Where the admin server listens; `None` is off.
    pub admin: Option<AdminAddress>,
    /// Where the probes server listens; nowhere if it is off.
    pub probes: Box<[SocketAddr]>,
    /// How names are resolved.
    pub dns: Dns,
    /// Where it is said who this proxy is.
    pub identity: Option<Identity>,
}

/// Where it is said who this proxy is, and whom it believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// In files.
    Files(Files),
    /// By the Workload API at this socket.
    WorkloadApi(PathBuf),
}

/// The files of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The roots of its own trust domain.
    pub trust: PathBuf,
    /// Other trust domains, and their roots.
    pub others: Box<[(Box<str>, PathBuf)]>,
    /// Revoked certificates.
    pub crl: Option<PathBuf>,
}

impl Files {
    /// All of them.
    pub fn paths(&self) -> impl Iterator<Item = &std::path::Path> {
        let others = self.others.iter().map(|(_, path)| path);
        [&self.cert, &self.key, &self.trust].into_iter().chain(others).chain(&self.crl).map(PathBuf::as_path)
    }
}

impl Bootstrap {
    /// The fields in which `other` differs, by their names in the file.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let Self { workers, admin, probes, dns, identity } = self;
        let mut fields = Vec::new();
        if *workers != other.workers {
            fields.push("workers");
        }
        if *admin != other.admin {
            fields.push("admin");
        }
        if *probes != other.probes {
            fields.push("probes");
        }
        if *dns != other.dns {
            fields.push("dns");
        }
        if *identity != other.identity {
            fields.push("identity");
        }
        fields
    }
}

/// Where the admin server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// A loopback address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// How names are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Name servers; empty means those of the system.
    pub servers: Vec<SocketAddr>,
    /// An answer is used at least this long.
    pub min_ttl: Duration,
    /// An answer is used at most this long.
    pub max_ttl: Duration,
}

/// The access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLog {
    /// Where lines go.
    pub sink: LogSink,
    /// How a line looks.
    pub format: Format,
}

/// Where access log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogSink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to.
    File(PathBuf),
}

/// A place where weir accepts connections.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its unique name.
    pub name: Box<str>,
    /// Where it accepts: one address at least.
    pub addresses: Box<[SocketAddr]>,
    /// Which side of the app it serves.
    pub direction: Direction,
    /// Peers that are believed.
    pub trust: Trust,
    /// What the upstream is told about the caller.
    pub forwarding: ForwardingHeaders,
    /// Limits on requests and connections.
    pub limits: Limits,
    /// The routes by host.
    pub hosts: HostTable,
    /// The rule for what no route speaks for: the app's, on an inbound listener.
    pub app_rule: Option<RuleId>,
    /// What its callers speak.
    pub speaks: Speaks,
    /// Whether they speak it over TLS.
    pub tls: CallerTls,
    /// The certificate for callers from outside the mesh.
    pub edge: Option<EdgeTls>,
    /// Who may tell by the PROXY protocol for whom a connection is.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Its policies, in the order of the file.
    pub policies: Box<[PolicyId]>,
    /// The app's port; on an outbound listener its own.
    pub port: u16,
    /// What is known of where redirected connections were going; `None` if it takes none.
    pub original: Option<Original>,
}

/// What becomes of connections by where they were going before the kernel handed them over.
#[derive(Debug, Clone)]
pub struct Original {
    /// What is spoken on ports that are not listed.
    pub protocol: PortProtocol,
    /// What is spoken on ports from the first to the last; the first entry that has a port counts.
    pub ports: Box<[(u16, u16, PortProtocol)]>,
    /// The routes for TLS, by server name.
    pub names: HostTable,
    /// The routes for whatever is spoken, by destination.
    pub destinations: DestinationTable,
}

impl Original {
    /// What is spoken on a port.
    pub fn speaks(&self, port: u16) -> PortProtocol {
        let listed = self.ports.iter().find(|(first, last, _)| (*first..=*last).contains(&port));
        listed.map_or(self.protocol, |(_, _, protocol)| *protocol)
    }
}

/// What a listener's callers speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP.
    #[default]
    Http,
    /// Opaque bytes for this cluster.
    Tcp(ClusterId),
    /// TLS that is passed through by server name.
    Tls,
    /// Whatever [`Listener::original`] says of where the connection was going.
    Original,
}

/// Whether a listener's callers speak TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CallerTls {
    /// They do not.
    #[default]
    Off,
    /// They may, and then it is mutual.
    Permissive,
    /// They must, and it is mutual.
    Strict,
    /// They must, and are from outside the mesh.
    Edge,
}

/// The certificate for callers from outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EdgeTls {
    /// The chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The oldest version they may speak.
    pub min_version: TlsVersion,
}

/// Who may tell by the PROXY protocol for whom a connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// These peers.
    pub from: Trust,
    /// They must.
    pub required: bool,
}

impl Listener {
    /// Whether it takes what calls the app.
    pub fn is_inbound(&self) -> bool {
        self.direction == Direction::Inbound
    }
}

/// Limits of a listener; see [`crate::schema::Limits`] and [`crate::schema::Http2`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a header block.
    pub header_bytes: usize,
    /// Fields of a header block.
    pub header_count: usize,
    /// Open connections over all workers.
    pub connections: u32,
    /// How long the head of a request may take.
    pub header_read: Option<Duration>,
    /// How long the caller may pause in a body.
    pub body_read: Option<Duration>,
    /// How long a connection may have no request.
    pub idle: Option<Duration>,
    /// HTTP/2 settings.
    pub http2: crate::schema::Http2,
}

/// A set of hosts with ordered rules.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its unique name.
    pub name: Box<str>,
    /// Finds the rule of a request.
    pub table: RuleTable,
}

/// What to do with the requests that match.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name, unique in the route.
    pub name: Box<str>,
    /// The route it belongs to.
    pub route: RouteId,
    /// What to do.
    pub action: Action,
    /// Changes before the request goes upstream.
    pub rewrite: Option<Rewrite>,
    /// Changes of the request's headers.
    pub request_headers: HeaderOps,
    /// Changes of the response's headers.
    pub response_headers: HeaderOps,
    /// How long a request may take.
    pub timeouts: Timeouts,
    /// When it is tried again.
    pub retry: Option<RetryRule>,
    /// What its connections may switch to.
    pub upgrades: Upgrades,
}

/// What to do with a request.
#[derive(Debug, Clone)]
pub enum Action {
    /// Send it to one of several backends.
    Forward(Split),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer directly.
    Respond(Respond),
}

/// Backends and their shares.
#[derive(Debug, Clone)]
pub struct Split {
    /// The backends.
    pub backends: Box<[Backend]>,
    /// Their shares.
    pub weights: Weights,
}

/// A reference to a cluster.
#[derive(Debug, Clone)]
pub struct Backend {
    /// The cluster.
    pub cluster: ClusterId,
    /// Changes of the request's headers, after the rule's.
    pub request_headers: HeaderOps,
    /// Changes of the response's headers, after the rule's.
    pub response_headers: HeaderOps,
}

/// Changes of path and host.
#[derive(Debug, Clone)]
pub struct Rewrite {
    /// A new path.
    pub path: Option<PathRewrite>,
    /// A new host, as a header value and as an authority.
    pub host: Option<(HeaderValue, Authority)>,
}

/// A new path.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    /// The whole path.
    Full(Box<str>),
    /// In place of the prefix that matched.
    Prefix {
        /// The prefixes of the rule's matches, longest first.
        matched: Box<[Box<str>]>,
        /// What stands there instead.
        replacement: Box<str>,
    },
    /// By regular expression.
    Regex {
        /// What to look for.
        pattern: regex::Regex,
        /// What to put there.
        replacement: Box<str>,
    },
}

/// A redirect.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// `http` or `https`; `None` keeps the request's.
    pub scheme: Option<&'static str>,
    /// `None` keeps the request's.
    pub host: Option<Box<str>>,
    /// `None` keeps the request's, or is the scheme's default if the scheme changes.
    pub port: Option<u16>,
    /// `None` keeps the request's.
    pub path: Option<PathRewrite>,
    /// The status.
    pub status: http::StatusCode,
}

/// A direct answer.
#[derive(Debug, Clone)]
pub struct Respond {
    /// The status.
    pub status: http::StatusCode,
    /// The body.
    pub body: Bytes,
}

/// A named set of endpoints and how to talk to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its unique name.
    pub name: Box<str>,
    /// The endpoints as configured; a name stands for all its addresses.
    pub endpoints: Box<[Endpoint]>,
    /// What to speak.
    pub protocol: UpstreamProtocol,
    /// How to choose.
    pub balance: Balance,
    /// How long a connection may take to open.
    pub connect_timeout: Duration,
    /// How long an idle HTTP/1 connection is kept.
    pub idle_timeout: Duration,
    /// How its connections tell who calls.
    pub proxy_protocol: Option<ProxyVersion>,
    /// TLS towards its endpoints.
    pub tls: Option<UpstreamTls>,
    /// How many retries it bears.
    pub retry_budget: RetryBudget,
    /// Whether its endpoints are, beside those configured, where each redirected connection was going.
    pub destination: Option<Destination>,
}

/// Whose address it is that a redirected connection was going to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Somebody else's.
    Elsewhere,
    /// This namespace's own: there the app listens, or on the same port of a loopback address.
    App,
    /// The same, and the app sees the addresses of its callers.
    AppAsCaller,
}

/// TLS towards the endpoints of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamTls {
    /// Mutual TLS.
    Mesh {
        /// Who may answer; `None` is anybody of this proxy's own trust domain.
        peers: Option<Box<[PeerPattern]>>,
    },
    /// With a server outside the mesh.
    Server(ServerTls),
}

impl UpstreamTls {
    /// Whether it is a member of the mesh that answers.
    pub fn is_mesh(&self) -> bool {
        matches!(self, Self::Mesh { .. })
    }
}

/// TLS with a server outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerTls {
    /// The name that it must have; `None` is its address.
    pub name: Option<Box<str>>,
    /// Whose certificates are believed; `None` is the system's roots.
    pub roots: Option<PathBuf>,
    /// What is shown to it: chain and key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The oldest version it may speak.
    pub min_version: TlsVersion,
    /// Whether any server is believed.
    pub insecure: bool,
}

/// An endpoint as configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it is.
    pub target: Target,
    /// Its share.
    pub weight: u32,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// At an address.
    Address(SocketAddr),
    /// At every address of a name.
    Name {
        /// The name, lower case, absolute, without a trailing dot.
        host: Box<str>,
        /// The port.
        port: u16,
    },
}
