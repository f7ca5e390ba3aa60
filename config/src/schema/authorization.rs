use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{PathMatch, ValueMatch};

/// Who may call what (Istio `AuthorizationPolicy`). Of the policies of a listener, those that deny are looked at first: one
/// that holds refuses the call. If there are any that allow, one of them must hold. Without any that allow, what is not
/// denied is allowed.
///
/// Policies are part of the route table: they change while weir runs, the next request is judged by the new ones, and a
/// connection of opaque TCP that they no longer allow is cut.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// A unique name. It appears in the log, and never in what a caller is told.
    #[schemars(example = &"only-checkout-pays")]
    pub name: String,
    /// The listeners it is for. Default: every inbound listener.
    pub listeners: Option<Vec<String>>,
    /// What it does when it holds.
    pub action: PolicyAction,
    /// Not enforced: what would change if it were is counted, and told by the log. Default false.
    #[serde(default)]
    pub dry_run: bool,
    /// The callers it is about: any one of these. Default: every caller.
    pub from: Option<Vec<CallerMatch>>,
    /// What they ask for: any one of these. Default: everything.
    pub to: Option<Vec<CallMatch>>,
}

/// What a policy does when it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyAction {
    /// The call may be made, unless another policy denies it.
    Allow,
    /// The call is refused: 403, PERMISSION_DENIED for gRPC, a reset for opaque TCP.
    Deny,
    /// The access log's line names it, also where an app might read the request so that it holds; nothing else happens.
    Audit,
}

/// Conditions on a caller. All that are given must hold; each holds if any one of its list fits, and one that begins with
/// `not_` if none does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallerMatch {
    /// Who calls, as mutual TLS has shown it: a SPIFFE ID, `spiffe://prod/ns/shop/*` for all below a path, `spiffe://prod` for
    /// all of a trust domain, `*` for anybody that is known. A caller in the clear is nobody.
    pub principals: Option<Vec<String>>,
    /// Not these. A caller in the clear is none of them.
    pub not_principals: Option<Vec<String>>,
    /// Kubernetes namespaces: `shop` is every caller `/ns/shop/sa/...` of this proxy's own trust domain.
    pub namespaces: Option<Vec<String>>,
    /// Not these.
    pub not_namespaces: Option<Vec<String>>,
    /// Kubernetes service accounts as `namespace/name`: `shop/cart` is `/ns/shop/sa/cart` of this proxy's own trust domain.
    pub service_accounts: Option<Vec<String>>,
    /// Not these.
    pub not_service_accounts: Option<Vec<String>>,
    /// Where the connection comes from: addresses, CIDR ranges, or the words of `trusted_peers`. Behind a balancer that tells
    /// it by the PROXY protocol, what the balancer tells.
    pub addresses: Option<Vec<String>>,
    /// Not from these.
    pub not_addresses: Option<Vec<String>>,
}

/// Conditions on what is asked for. All that are given must hold; each holds if any one of its list fits, and one that begins
/// with `not_` if none does.
///
/// Where the app may read a request in more than one way (an encoded slash in the path, a header field that came twice), a
/// policy that denies holds if any way fits, and one that allows only if every way does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallMatch {
    /// The app's ports; on an outbound listener the listener's own.
    pub ports: Option<Vec<u16>>,
    /// Not these.
    pub not_ports: Option<Vec<u16>>,
    /// Host names without a port, as in a route's `hosts`. Where TLS is passed through by its server name, that name.
    pub hosts: Option<Vec<String>>,
    /// Not these.
    pub not_hosts: Option<Vec<String>>,
    /// Methods. A gRPC call is a `POST`.
    pub methods: Option<Vec<String>>,
    /// Not these.
    pub not_methods: Option<Vec<String>>,
    /// Paths, compared as in a rule's `match`. A gRPC method is the path `/package.Service/Method`.
    pub paths: Option<Vec<PathMatch>>,
    /// Not these.
    pub not_paths: Option<Vec<PathMatch>>,
    /// Header fields by name; all must hold.
    pub headers: Option<BTreeMap<String, ValueMatch>>,
}
