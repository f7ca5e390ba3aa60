use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ListenerTls, OneOrMany};
use crate::units::{Limit, Size};

/// A place where weir accepts connections. HTTP/1.0, HTTP/1.1 and HTTP/2 (cleartext, by prior knowledge) share the
/// port; weir tells them apart by the first bytes. So it does with TLS and with anything else, where connections come by
/// redirection (`original_destination`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// A unique name; it appears in logs and in routes' `listeners`.
    #[schemars(example = &"outbound")]
    pub name: String,
    /// The address and port to accept on, or a list of them. An address of a list whose family this machine does not have
    /// (IPv6, mostly) is left out.
    #[schemars(example = &"127.0.0.1:15001")]
    pub listen: OneOrMany,
    /// `outbound`: what the app calls. `inbound`: what calls the app.
    pub direction: Direction,
    /// `auto`: HTTP, its version told apart by the first bytes; with `original_destination` whatever the first bytes show,
    /// which may be TLS or opaque bytes. `http`: HTTP and nothing else. `tcp`: opaque bytes, carried to `cluster` (on an inbound
    /// listener to the app). `tls`: TLS passed through untouched, to the backends of the route whose `hosts` have the
    /// server name (SNI) of the ClientHello. Default `auto`.
    #[serde(default)]
    pub protocol: ListenerProtocol,
    /// Where an outbound listener with `protocol: tcp` sends its connections, and one with `protocol: tls` those that no
    /// route speaks for. Without it those get the TLS alert `unrecognized_name`.
    #[schemars(example = &"orders-db")]
    pub cluster: Option<String>,
    /// The route of all requests that come here, whatever host they name; others are not for this listener. So a loopback port
    /// can stand for a service, where connections cannot be redirected.
    #[schemars(example = &"checkout")]
    pub route: Option<String>,
    /// The PROXY protocol: who really called, told by a load balancer in front.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Whether callers speak mutual TLS, on an inbound listener: `off`, `permissive` or `strict`; or, for callers from outside
    /// the mesh, the certificate of a server: `{ cert: ..., key: ... }`. Default `off`.
    #[serde(default)]
    pub tls: ListenerTls,
    /// Where the app listens; needed on an inbound listener, which sends everything there that no route speaks for.
    #[schemars(example = &"127.0.0.1:8080")]
    pub app: Option<String>,
    /// Peers whose `x-request-id`, trace context and forwarding headers are believed: addresses, CIDR ranges, or the
    /// words `any`, `none`, `loopback`, `private` (loopback, RFC 1918, RFC 6598, link-local, unique local). Default:
    /// `[any]` outbound (the peer is the app itself), `[private]` inbound.
    pub trusted_peers: Option<Vec<String>>,
    /// Which headers tell the upstream about the caller. Default: `none` outbound (they pass as the app wrote them),
    /// `x-forwarded` inbound. From a trusted peer, existing values are kept and extended; from any other they are
    /// replaced.
    pub forwarding_headers: Option<ForwardingHeaders>,
    /// Take connections that the kernel hands over (`weir redirect`), and know where they were going. Inbound, that is the
    /// app's port, at the address that was called or on loopback; `app` is then for those who call this listener itself.
    /// Outbound, that is where what no route speaks for goes. Default `false`.
    #[serde(default)]
    pub original_destination: bool,
    /// Whether the app sees its callers' own addresses, with `original_destination`, where it listens at the address that was
    /// called. Needs CAP_NET_ADMIN, and the rules of `weir redirect install --preserve-source`; each caller then has connections of
    /// its own to the app. Default `false`: the app sees a loopback address, and `x-forwarded-for` who called.
    #[serde(default)]
    pub preserve_source: bool,
    /// Whether an outbound listener with `original_destination` lets connections go where no route leads (Istio
    /// `outboundTrafficPolicy`, App Mesh `egressFilter`). Default `allow`.
    pub unknown_destinations: Option<UnknownDestinations>,
    /// With `original_destination`: what is spoken on ports of the app, or of those it calls, so that it need not be found
    /// out: `{ 8080: http, 3306: tcp, 9000-9100: tcp }`. Unless said otherwise, ports 25, 587, 3306, 4444, 5432, 6379, 9300 and 11211 are `tcp`,
    /// for there servers speak first or the bytes are of nobody's business (Linkerd `opaque-ports`); all others are `auto`.
    pub ports: Option<BTreeMap<String, PortProtocol>>,
    /// Limits on what a peer may send.
    #[serde(default)]
    pub limits: Limits,
    /// HTTP/2 settings.
    #[serde(default)]
    pub http2: Http2,
}

/// What a listener's callers speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListenerProtocol {
    /// HTTP/1.0, HTTP/1.1 or HTTP/2; of redirected connections what the first bytes show.
    #[default]
    Auto,
    /// HTTP/1.0, HTTP/1.1 or HTTP/2.
    Http,
    /// Whatever it is.
    Tcp,
    /// TLS that weir does not end.
    Tls,
}

/// What happens to connections for which no route speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownDestinations {
    /// They go where they were going.
    #[default]
    Allow,
    /// They are refused: HTTP with 404, others with a reset.
    Deny,
}

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// What the first bytes show.
    #[default]
    Auto,
    /// HTTP.
    Http,
    /// Opaque bytes.
    Tcp,
}

/// Who may say, by the PROXY protocol (versions 1 and 2), for whom a connection is (Envoy `proxy_protocol` listener filter).
/// The addresses it tells take the place of the connection's own: in the log, in forwarding headers, for `trusted_peers`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Peers whose PROXY header is believed: addresses, CIDR ranges, or the words of `trusted_peers`. For any other peer
    /// the header is no header but the first bytes of a malformed request.
    pub from: Vec<String>,
    /// Whether a connection from these peers without the header is refused. Default true.
    #[serde(default = "ProxyProtocol::default_required")]
    pub required: bool,
}

impl ProxyProtocol {
    fn default_required() -> bool {
        true
    }
}

/// Which side of the app a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// What the app calls.
    Outbound,
    /// What calls the app.
    Inbound,
}

/// Which headers tell the upstream about the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardingHeaders {
    /// None are added.
    None,
    /// `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// Both kinds.
    Both,
}

/// Limits on what a peer may send.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The largest header block of a request: request line, names, values, separators. Over it: 431. Default `64KiB`.
    #[serde(default = "Limits::default_header_bytes")]
    pub header_bytes: Size,
    /// The most header fields of a request. Over it: 431. Default 200.
    #[serde(default = "Limits::default_header_count")]
    #[schemars(range(min = 10, max = 1000))]
    pub header_count: u16,
    /// The most connections that this listener keeps open over all workers; further ones are closed at once and
    /// counted. So are those for which the process has no descriptors: of those that it may have, the last 64 are kept for
    /// the admin and probes servers. Default 100000.
    #[serde(default = "Limits::default_connections")]
    #[schemars(range(min = 1))]
    pub connections: u32,
    /// How long the head of a request may take, from its first byte. Over it: 408 and close. Default `10s`.
    #[serde(default = "Limits::default_header_read")]
    pub header_read: Limit,
    /// How long a caller may pause in the middle of a request's body before the response begins; after that, and for gRPC
    /// from the start, the rule's `timeout.idle` counts. Over it: 408 and close. Default `60s`.
    #[serde(default = "Limits::default_body_read")]
    pub body_read: Limit,
    /// How long a connection may stay open without a request. Default `1h`.
    #[serde(default = "Limits::default_idle")]
    pub idle: Limit,
}

impl Limits {
    fn default_header_bytes() -> Size {
        Size(64 << 10)
    }
    fn default_header_count() -> u16 {
        200
    }
    fn default_connections() -> u32 {
        100_000
    }
    fn default_header_read() -> Limit {
        Limit(Some(std::time::Duration::from_secs(10)))
    }
    fn default_body_read() -> Limit {
        Limit(Some(std::time::Duration::from_secs(60)))
    }
    fn default_idle() -> Limit {
        Limit(Some(std::time::Duration::from_secs(3600)))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: Self::default_header_bytes(),
            header_count: Self::default_header_count(),
            connections: Self::default_connections(),
            header_read: Self::default_header_read(),
            body_read: Self::default_body_read(),
            idle: Self::default_idle(),
        }
    }
}

/// HTTP/2 settings of a listener. The flood limits are rates over one second for each connection; a peer over one of
/// them gets GOAWAY with ENHANCE_YOUR_CALM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Http2 {
    /// Requests in flight on one connection. So many share 32 MiB for what nobody reads yet, 128 KiB each by default; each
    /// has at least 64 KiB, where more than 512 are allowed, and at most 256 KiB. Default 256.
    #[serde(default = "Http2::default_streams")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_concurrent_streams: u32,
    /// Requests a second that are reset as soon as they are made, that is within some ten milliseconds (rapid reset,
    /// CVE-2023-44487). Later ones may be ten times `max_concurrent_streams`. Default 100.
    #[serde(default = "Http2::default_resets")]
    #[schemars(range(min = 1))]
    pub resets_per_second: u32,
    /// PING frames a second. Default 100.
    #[serde(default = "Http2::default_pings")]
    #[schemars(range(min = 1))]
    pub pings_per_second: u32,
    /// SETTINGS frames a second. Default 50.
    #[serde(default = "Http2::default_settings")]
    #[schemars(range(min = 1))]
    pub settings_per_second: u32,
    /// DATA frames without payload and without END_STREAM a second. Default 100.
    #[serde(default = "Http2::default_empty")]
    #[schemars(range(min = 1))]
    pub empty_frames_per_second: u32,
    /// CONTINUATION frames a second (CVE-2024-27316). Default 50.
    #[serde(default = "Http2::default_continuations")]
    #[schemars(range(min = 1))]
    pub continuations_per_second: u32,
}

impl Http2 {
    fn default_streams() -> u32 {
        256
    }
    fn default_resets() -> u32 {
        100
    }
    fn default_pings() -> u32 {
        100
    }
    fn default_settings() -> u32 {
        50
    }
    fn default_empty() -> u32 {
        100
    }
    fn default_continuations() -> u32 {
        50
    }
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            max_concurrent_streams: Self::default_streams(),
            resets_per_second: Self::default_resets(),
            pings_per_second: Self::default_pings(),
            settings_per_second: Self::default_settings(),
            empty_frames_per_second: Self::default_empty(),
            continuations_per_second: Self::default_continuations(),
        }
    }
}
