use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Retry, Timeout};

/// A set of hosts with ordered rules. For a request, weir takes the route with the most specific host (exact, then the
/// longest wildcard, then `*`), and in it the first rule that matches.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A unique name; it appears in logs and metrics.
    #[schemars(example = &"checkout")]
    pub name: String,
    /// The listeners this route belongs to. Default: every outbound listener.
    pub listeners: Option<Vec<String>>,
    /// What the route is for. `http`. `tls`: TLS that is passed through, by the server name (SNI) that it asks for (Gateway
    /// API `TLSRoute`). `tcp`: redirected connections by where they were going (Gateway API `TCPRoute`), unless they speak
    /// HTTP, which goes by its host, or a `tls` route has their server name; on ports that `ports` declares as `tcp` all of
    /// them. Rules of the latter two have `backends` and nothing else. Default `http`.
    #[serde(default)]
    pub protocol: RouteProtocol,
    /// Host names without a port: `checkout`, `*.checkout.local` (one or more labels), or `*` (any host). Not for `tcp`.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// For `protocol: tcp`: addresses or ranges, each with a port or `*` for any: `10.96.0.12:5432`, `10.8.0.0/16:*`,
    /// `[fd00::7]:6379`, `*:9092`. The most specific one counts. Listeners with `original_destination` ask for them.
    pub destinations: Option<Vec<String>>,
    /// The rules, in order; the first match wins.
    #[schemars(length(min = 1))]
    pub rules: Vec<Rule>,
}

/// What a route is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RouteProtocol {
    /// HTTP requests, by host.
    #[default]
    Http,
    /// TLS connections that weir does not end, by server name.
    Tls,
    /// Redirected connections, by destination.
    Tcp,
}

/// What to do with the requests that match. Exactly one of `backends`, `redirect`, `respond`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A name for logs and metrics, unique in the route. Default: `rule-0`, `rule-1`, ... by place.
    pub name: Option<String>,
    /// The requests this rule is for: any one of these. Default: every request.
    #[serde(rename = "match")]
    pub matches: Option<Vec<Match>>,
    /// Where matching requests go, by weight.
    pub backends: Option<Vec<Backend>>,
    /// Answer with a redirect.
    pub redirect: Option<Redirect>,
    /// Answer directly.
    pub respond: Option<Respond>,
    /// Change the path or host before the request goes upstream.
    pub rewrite: Option<Rewrite>,
    /// Change headers of the request and of the response.
    pub headers: Option<Headers>,
    /// How long a request may take.
    pub timeout: Option<Timeout>,
    /// When a request is tried again.
    pub retry: Option<Retry>,
    /// Protocols that a connection, or over HTTP/2 a stream, may switch to (Envoy `upgrade_configs`): names as in the
    /// `Upgrade` header or `:protocol`, and `connect` for tunnels by `CONNECT host:port`. Other upgrades are taken out of an
    /// HTTP/1.1 request, which then goes on without; an HTTP/2 request for one gets 405. Default `[websocket]`.
    pub upgrades: Option<Vec<String>>,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// The path, compared after normalisation (RFC 3986: dot segments, repeated slashes, percent-encoded unreserved
    /// characters, and without `;parameters`). `%2F` stays as it is. The query is no part of it.
    pub path: Option<PathMatch>,
    /// The method, or a list of which one must fit. Case-sensitive, as in HTTP.
    pub method: Option<OneOrMany>,
    /// Header fields by name, but not `host` and `connection`. Several fields of one name are compared as one value joined
    /// with `,`.
    pub headers: Option<BTreeMap<String, ValueMatch>>,
    /// Query parameters by name, percent-decoded; the first of a name counts.
    pub query: Option<BTreeMap<String, ValueMatch>>,
    /// A gRPC service and method. Matches only requests with content type `application/grpc*`.
    pub grpc: Option<GrpcMatch>,
}

/// One string or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Any of these.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The strings.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// A condition on the path; exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct PathMatch {
    /// The whole path.
    pub exact: Option<String>,
    /// A prefix by segments: `/v2` matches `/v2` and `/v2/x`, not `/v2x` (Gateway API `PathPrefix`).
    pub prefix: Option<String>,
    /// A prefix by characters: `/v2` matches `/v2x` too (Envoy `prefix`).
    pub string_prefix: Option<String>,
    /// A regular expression for the whole path (Rust `regex` syntax, anchored at both ends).
    pub regex: Option<String>,
}

/// A condition on a value: a string (exactly this), or a test.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ValueMatch {
    /// Exactly this value.
    Exact(String),
    /// A test.
    Test(ValueTest),
}

/// A test of a value; exactly one of the fields besides `not`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 2))]
pub struct ValueTest {
    /// Exactly this value.
    pub exact: Option<String>,
    /// The value starts with this.
    pub prefix: Option<String>,
    /// The value ends with this.
    pub suffix: Option<String>,
    /// The value has this in it.
    pub contains: Option<String>,
    /// A regular expression found in the value (anchor it with `^` and `$` for the whole value).
    pub regex: Option<String>,
    /// The value is a whole number in this range.
    pub range: Option<Range>,
    /// `true`: the name is there, whatever its value. `false`: it is not.
    pub present: Option<bool>,
    /// Invert the test. A missing value fails every test, so it passes every inverted one.
    #[serde(default)]
    pub not: bool,
}

/// A range of whole numbers: `start` is in it, `end` is not (Envoy `Int64Range`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// The first number in the range.
    pub start: i64,
    /// The first number past the range.
    pub end: i64,
}

/// A gRPC service and method.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrpcMatch {
    /// The full service name, with its package.
    #[schemars(example = &"shop.v1.Checkout")]
    pub service: Option<String>,
    /// The method's name.
    #[schemars(example = &"Pay")]
    pub method: Option<String>,
}

/// A weighted reference to a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// The cluster's name.
    pub cluster: String,
    /// Its share: `weight / sum of weights`. 0 takes no traffic. Default 1.
    #[serde(default = "Backend::default_weight")]
    #[schemars(range(max = 1_000_000))]
    pub weight: u32,
    /// Changes of headers for this backend, after those of the rule.
    pub headers: Option<Headers>,
}

impl Backend {
    fn default_weight() -> u32 {
        1
    }
}

/// A redirect (Gateway API `HTTPRequestRedirectFilter`). What is not given stays as the request had it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host to send the caller to.
    pub host: Option<String>,
    /// The port. Default: that of the scheme if the scheme is given, else the request's.
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// A new path.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308. Default 302.
    pub status: Option<u16>,
}

/// A direct answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// The status, 200 to 599.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// The body, at most 4 KiB. Default: none. `content-type` is `text/plain; charset=utf-8` unless
    /// `headers.response.set` says otherwise.
    #[serde(default)]
    pub body: String,
}

/// Changes of path and host before the request goes upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// A new path.
    pub path: Option<PathRewrite>,
    /// The `Host` (`:authority`) that the upstream sees.
    pub host: Option<String>,
}

/// A new path; exactly one of the fields. The query stays. Works on the normalised path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct PathRewrite {
    /// The whole path.
    pub full: Option<String>,
    /// In place of the prefix that matched; every `match` of the rule must have `path: { prefix }`.
    pub prefix: Option<String>,
    /// By regular expression.
    pub regex: Option<RegexRewrite>,
}

/// A substitution by regular expression; every match in the path is replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegexRewrite {
    /// What to look for.
    pub pattern: String,
    /// What to put there; `$1` or `${name}` is a group of the pattern.
    pub replace: String,
}

/// Changes of headers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Headers {
    /// On the request, before it goes upstream.
    pub request: Option<HeaderChanges>,
    /// On the response, before it goes to the caller.
    pub response: Option<HeaderChanges>,
}

/// Changes of one message's headers: first `remove`, then `set`, then `add`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderChanges {
    /// Give the header this one value.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Add a value, keeping those that are there.
    #[serde(default)]
    pub add: BTreeMap<String, String>,
    /// Take the header away.
    #[serde(default)]
    pub remove: Vec<String>,
}
