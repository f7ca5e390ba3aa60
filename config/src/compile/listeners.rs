use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{ClusterNames, check_name};
use crate::error::{Diagnostics, Path, suggest};
use crate::headers::HeaderOps;
use crate::policy::Timeouts;
use crate::schema::{self, Balance, Config, Direction, ForwardingHeaders, ListenerProtocol, UpstreamProtocol};
use crate::snapshot::{
    Action, AdminAddress, Backend, Cluster, ClusterId, Endpoint, Limits, Listener, ProxyProtocol, Route, RouteId, Rule, RuleId,
    Speaks, Split, Target, Upgrades,
};
use crate::table::{HostTable, RuleTable};
use crate::trust::Trust;
use crate::weights::Weights;

/// A listener while it is compiled.
pub(super) struct Draft {
    pub(super) listener: Listener,
    /// The cluster of its app.
    app: Option<ClusterId>,
}

pub(super) fn compile(config: &Config, clusters: &mut Vec<Cluster>, found: &mut Diagnostics) -> Vec<Draft> {
    let root = Path::ROOT;
    let all = root.key("listeners");
    if config.listeners.is_empty() {
        found.error(&all, "there is no listener").hint = Some("weir would accept nothing; add one".to_owned());
    }
    let mut drafts: Vec<Draft> = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        let path = all.index(index);
        check_name(&listener.name, &path.key("name"), found);
        let addresses = addresses(&listener.listen, &path.key("listen"), found);
        if drafts.iter().any(|d| *d.listener.name == *listener.name) {
            found.error(&path.key("name"), format!("there already is a listener `{}`", listener.name));
        }
        for address in addresses.iter().filter(|address| address.port() != 0) {
            let mut taken = drafts.iter().filter(|d| d.listener.addresses.iter().any(|other| overlap(*other, *address)));
            if let Some(other) = taken.next() {
                let message = format!("`{address}` is already taken by the listener `{}`", other.listener.name);
                found.error(&path.key("listen"), message);
            }
        }
        drafts.push(draft(config, listener, addresses, clusters, &path, found));
    }
    drafts
}

fn draft(
    config: &Config,
    listener: &schema::Listener,
    addresses: Vec<SocketAddr>,
    clusters: &mut Vec<Cluster>,
    path: &Path<'_>,
    found: &mut Diagnostics,
) -> Draft {
    let outbound = listener.direction == Direction::Outbound;
    let trust = match &listener.trusted_peers {
        None if outbound => Trust::any(),
        None => Trust::private(),
        Some(words) => peers(words, &path.key("trusted_peers"), found),
    };
    let proxy_protocol = listener.proxy_protocol.as_ref().map(|proxy| {
        let path = path.key("proxy_protocol");
        let path = path.key("from");
        let from = peers(&proxy.from, &path, found);
        if from.is_nobody() {
            found.error(&path, "this believes nobody").hint =
                Some("name the load balancer's addresses, for example `10.0.0.0/8`".to_owned());
        }
        ProxyProtocol { from, required: proxy.required }
    });
    if listener.protocol == ListenerProtocol::Tcp && proxy_protocol.as_ref().is_some_and(|proxy| !proxy.required) {
        found.error(&path.key("proxy_protocol").key("required"), "opaque TCP cannot do without the header").hint =
            Some("who waits for a server to speak first would wait for ever; leave `required` out".to_owned());
    }
    if let Some(route) = &listener.route {
        only_route(config, listener, route, &path.key("route"), found);
    }
    for (key, present) in
        [("trusted_peers", listener.trusted_peers.is_some()), ("forwarding_headers", listener.forwarding_headers.is_some())]
    {
        if present && matches!(listener.protocol, ListenerProtocol::Tcp | ListenerProtocol::Tls) {
            found.key_error(&path.key(key), format!("what is carried untouched has no headers: `{key}` can have no effect"));
        }
    }
    let default_forwarding = if outbound { ForwardingHeaders::None } else { ForwardingHeaders::XForwarded };
    let limits = Limits {
        header_bytes: usize::try_from(listener.limits.header_bytes.0).unwrap_or(usize::MAX),
        header_count: listener.limits.header_count.into(),
        connections: listener.limits.connections,
        header_read: listener.limits.header_read.0,
        body_read: listener.limits.body_read.0,
        idle: listener.limits.idle.0,
        http2: listener.http2.clone(),
    };
    for (limit, key) in [(limits.header_read, "header_read"), (limits.body_read, "body_read"), (limits.idle, "idle")] {
        if limit.is_some_and(|limit| limit.is_zero()) {
            found.error(&path.key("limits").key(key), "no caller is that fast").hint =
                Some("write `off` for no limit".to_owned());
        }
    }
    if !(1024..=1 << 20).contains(&limits.header_bytes) {
        found.error(&path.key("limits").key("header_bytes"), "the limit of the header block must be between 1KiB and 1MiB");
    }
    let (tls, edge) = super::tls::listener(config, listener, path, found);
    let original = super::original::compile(listener, path, found);
    let app = app_cluster(listener, &addresses, clusters, path, found);
    let own = addresses.first().map_or(0, SocketAddr::port);
    let beyond = || (listener.original_destination).then(|| super::original::cluster(listener, clusters)).flatten();
    Draft {
        app: app.map(|(cluster, _)| cluster).or_else(beyond),
        listener: Listener {
            name: listener.name.as_str().into(),
            port: app.map_or(own, |(_, app)| app.port()),
            addresses: addresses.into(),
            direction: listener.direction,
            trust,
            forwarding: listener.forwarding_headers.unwrap_or(default_forwarding),
            limits,
            hosts: HostTable::default(),
            app_rule: None,
            speaks: if original.is_some() { Speaks::Original } else { Speaks::Http },
            original,
            tls,
            edge,
            proxy_protocol,
            policies: Box::default(),
        },
    }
}

/// Whether a listener may be for one route alone.
fn only_route(config: &Config, listener: &schema::Listener, name: &str, path: &Path<'_>, found: &mut Diagnostics) {
    let is_http = matches!(listener.protocol, ListenerProtocol::Auto | ListenerProtocol::Http);
    if listener.direction != Direction::Outbound || !is_http || listener.original_destination {
        found.key_error(path, "only an outbound listener for HTTP that callers name themselves can be for one route").hint =
            Some("opaque TCP goes to a `cluster`; inbound, name the listener in the route's `listeners`".to_owned());
        return;
    }
    match config.routes.iter().find(|route| route.name == name) {
        Some(route) if route.protocol == schema::RouteProtocol::Http => {}
        Some(_) => {
            found.error(path, format!("the route `{name}` is not for HTTP"));
        }
        None => {
            let known = config.routes.iter().map(|route| route.name.as_str());
            found.error(path, format!("there is no route `{name}`")).hint = Some(suggest(name, known));
        }
    }
}

fn peers(words: &[String], path: &Path<'_>, found: &mut Diagnostics) -> Trust {
    Trust::parse(words).unwrap_or_else(|place| {
        not_addresses(&words[place], &path.index(place), found);
        Trust::any()
    })
}

pub(super) fn not_addresses(word: &str, path: &Path<'_>, found: &mut Diagnostics) {
    found.error(path, format!("`{word}` is not an address or range")).hint =
        Some("for example `10.0.0.0/8`; or one of `any`, `none`, `loopback`, `private`".to_owned());
}

/// The cluster that stands for an inbound listener's app, and where that is.
fn app_cluster(
    listener: &schema::Listener,
    own: &[SocketAddr],
    clusters: &mut Vec<Cluster>,
    path: &Path<'_>,
    found: &mut Diagnostics,
) -> Option<(ClusterId, SocketAddr)> {
    let app = match (&listener.app, listener.direction) {
        (Some(app), Direction::Inbound) => app,
        (None, Direction::Outbound) => return None,
        (Some(_), Direction::Outbound) => {
            found.key_error(&path.key("app"), "only an inbound listener has an `app`").hint =
                Some("an outbound listener sends requests where its routes say".to_owned());
            return None;
        }
        (None, Direction::Inbound) => {
            if !listener.original_destination {
                found.error(path, "an inbound listener needs `app`").hint =
                    Some("where the app listens, for example `app: 127.0.0.1:8080`; or `original_destination: true`".to_owned());
            }
            return None;
        }
    };
    let app_path = path.key("app");
    let address = socket_address(app, &app_path, found)?;
    if own.iter().any(|own| overlap(*own, address)) {
        found.error(&app_path, "the app's address is the listener's own").hint =
            Some("requests would go round for ever".to_owned());
    }
    let id = ClusterId(u32::try_from(clusters.len()).ok()?);
    clusters.push(Cluster {
        name: format!("{}:app", listener.name).into(),
        endpoints: Box::new([Endpoint { target: Target::Address(address), weight: 1 }]),
        protocol: UpstreamProtocol::Auto,
        balance: Balance::LeastRequest,
        connect_timeout: schema::Cluster::default_connect().0,
        idle_timeout: schema::Cluster::default_idle().0,
        proxy_protocol: None,
        tls: None,
        retry_budget: schema::RetryBudget::default(),
        destination: listener.original_destination.then(|| super::original::app(listener)),
    });
    Some((id, address))
}

/// Gives each listener that does not speak HTTP its cluster.
pub(super) fn add_opaque(config: &Config, drafts: &mut [Draft], clusters: &ClusterNames, found: &mut Diagnostics) {
    let root = Path::ROOT;
    let all = root.key("listeners");
    for ((index, listener), draft) in config.listeners.iter().enumerate().zip(drafts) {
        let path = all.index(index);
        let cluster = opaque_cluster(listener, draft.app, clusters, &path, found);
        match (listener.protocol, cluster) {
            _ if listener.original_destination => {}
            (ListenerProtocol::Auto | ListenerProtocol::Http, _) | (ListenerProtocol::Tcp, None) => {}
            (ListenerProtocol::Tcp, Some(cluster)) => draft.listener.speaks = Speaks::Tcp(cluster),
            (ListenerProtocol::Tls, cluster) => {
                let is_named = |route: &schema::Route| route.listeners.iter().flatten().any(|name| *name == listener.name);
                if cluster.is_none() && listener.cluster.is_none() && !config.routes.iter().any(is_named) {
                    found.error(&path, "nothing says where this listener's connections go").hint = Some(format!(
                        "add `listeners: [{0}]` to a route that has server names for `hosts`, or give it a `cluster`",
                        listener.name
                    ));
                }
                draft.listener.speaks = Speaks::Tls;
                draft.app = cluster;
            }
        }
    }
}

/// Where a listener sends what no route speaks for.
fn opaque_cluster(
    listener: &schema::Listener,
    app: Option<ClusterId>,
    clusters: &ClusterNames,
    path: &Path<'_>,
    found: &mut Diagnostics,
) -> Option<ClusterId> {
    let here = path.key("cluster");
    let Some(name) = &listener.cluster else {
        let leads_itself = listener.protocol == ListenerProtocol::Tcp && !listener.original_destination;
        if leads_itself && listener.direction == Direction::Outbound {
            found.error(path, "a listener with `protocol: tcp` needs `cluster`").hint =
                Some("where its connections go, for example `cluster: orders-db`".to_owned());
        }
        return app;
    };
    if listener.original_destination {
        found.key_error(&here, "where redirected connections go, routes with `protocol: tcp` say").hint =
            Some("or they go where they were going".to_owned());
        return None;
    }
    if matches!(listener.protocol, ListenerProtocol::Auto | ListenerProtocol::Http) {
        found.key_error(&here, "only a listener with `protocol: tcp` or `tls` names a cluster").hint =
            Some("HTTP goes where the routes say; or add `protocol: tcp`".to_owned());
        return None;
    }
    if listener.direction == Direction::Inbound {
        found.key_error(&here, "an inbound listener sends to its `app` what no route speaks for");
        return app;
    }
    let known = clusters.get(name).copied();
    if known.is_none() {
        found.error(&here, format!("there is no cluster `{name}`")).hint =
            Some(suggest(name, clusters.keys().map(String::as_str)));
    }
    known
}

/// Gives each listener that has somewhere to send what no route speaks for, above all an app, the rule that does.
pub(super) fn add_app_rules(drafts: &mut [Draft], clusters: &[Cluster], routes: &mut Vec<Route>, rules: &mut Vec<Rule>) {
    for draft in drafts {
        let Some(app) = draft.app.filter(|_| !matches!(draft.listener.speaks, Speaks::Tcp(_))) else { continue };
        let (Ok(route), Ok(rule)) = (u32::try_from(routes.len()), u32::try_from(rules.len())) else { return };
        let Some(weights) = Weights::new([1]) else { return };
        let name: Box<str> = clusters[app.index()].name.clone();
        routes.push(Route { name, table: RuleTable::default() });
        let backend = Backend { cluster: app, request_headers: HeaderOps::default(), response_headers: HeaderOps::default() };
        rules.push(Rule {
            name: match (draft.listener.is_inbound(), &draft.listener.original) {
                (true, _) => "app".into(),
                (false, None) => "otherwise".into(),
                (false, Some(_)) => "passthrough".into(),
            },
            route: RouteId(route),
            action: Action::Forward(Split { backends: Box::new([backend]), weights }),
            rewrite: None,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            timeouts: Timeouts { request: None, per_try: None, idle: Some(super::policy::DEFAULT_IDLE) },
            retry: None,
            upgrades: Upgrades { any: draft.listener.original.is_some(), ..Upgrades::default() },
        });
        draft.listener.app_rule = Some(RuleId(rule));
    }
}

pub(super) fn admin_address(config: &Config, found: &mut Diagnostics) -> Option<AdminAddress> {
    let root = Path::ROOT;
    let admin = root.key("admin");
    let path = admin.key("listen");
    let text = config.admin.listen.as_str();
    if text == "off" {
        return None;
    }
    if let Some(socket) = text.strip_prefix("unix:") {
        if !socket.starts_with('/') {
            found.error(&path, "the socket's path must be absolute").hint =
                Some("for example `unix:/run/weir/admin.sock`".to_owned());
        }
        return Some(AdminAddress::Unix(socket.into()));
    }
    let address = socket_address(text, &path, found)?;
    if !address.ip().is_loopback() {
        found.error(&path, format!("the admin server may not listen on {}", address.ip())).hint = Some(format!(
            "it shows and changes everything; write `127.0.0.1:{}` or `unix:/run/weir/admin.sock`, and use `probes` for scrapers",
            address.port()
        ));
    }
    Some(AdminAddress::Tcp(address))
}

/// The addresses that a listener accepts on; one at least, though none may be right.
pub(super) fn addresses(listen: &schema::OneOrMany, path: &Path<'_>, found: &mut Diagnostics) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    match listen {
        schema::OneOrMany::One(text) => addresses.extend(socket_address(text, path, found)),
        schema::OneOrMany::Many(texts) => {
            for (place, text) in texts.iter().enumerate() {
                let here = path.index(place);
                let Some(address) = socket_address(text, &here, found) else { continue };
                if addresses.iter().any(|other| overlap(*other, address)) {
                    found.error(&here, format!("`{text}` is taken by another address of this list"));
                }
                addresses.push(address);
            }
            if texts.is_empty() {
                found.error(path, "this listener accepts nowhere").hint = Some("for example `127.0.0.1:15001`".to_owned());
            }
        }
    }
    if addresses.is_empty() {
        addresses.push(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0));
    }
    addresses
}

pub(super) fn socket_address(text: &str, path: &Path<'_>, found: &mut Diagnostics) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let hint = if let Some(port) = text.strip_prefix(':').or(text.strip_prefix("*:")).and_then(|p| p.parse::<u16>().ok()) {
        format!("for every address write `0.0.0.0:{port}` or `[::]:{port}`")
    } else if let Some(port) = text.strip_prefix("localhost:") {
        format!("write `127.0.0.1:{port}`")
    } else if text.parse::<IpAddr>().is_ok() {
        format!("add the port: `{text}:8080`")
    } else {
        "write `address:port`, for example `127.0.0.1:15001`".to_owned()
    };
    found.error(path, format!("`{text}` is not an address with a port")).hint = Some(hint);
    None
}

/// Whether two listeners cannot both be bound. A wildcard takes its port on every address of its family.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port()
        && (a.ip() == b.ip() || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified())))
}
