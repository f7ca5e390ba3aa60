//! Which listeners a route belongs to, and under what it is found there: hosts, server names, destinations.

use super::listeners::Draft;
use crate::destinations::{Destination, DestinationTable};
use crate::error::{Diagnostics, Path, suggest};
use crate::path;
use crate::schema::{self, Config, Direction, ListenerProtocol, RouteProtocol};
use crate::snapshot::RouteId;
use crate::table::{HostPattern, HostTable};

/// Files the route in every listener it belongs to.
pub(super) fn file(
    config: &Config,
    route: &schema::Route,
    id: RouteId,
    listeners: &mut [Draft],
    path: &Path<'_>,
    found: &mut Diagnostics,
) {
    if let Some(named) = &route.listeners {
        check_named(config, route, named, path, found);
    }
    if route.protocol != RouteProtocol::Http {
        let word = if route.protocol == RouteProtocol::Tls { "tls" } else { "tcp" };
        only_backends(route, &format!("a route with `protocol: {word}` leads bytes that nobody looks into"), path, found);
    }
    let of_all = |listener: &schema::Listener| listener.route.as_ref() == Some(&route.name);
    if route.listeners.is_none()
        && !config.listeners.iter().any(|listener| is_default(route.protocol, listener) || of_all(listener))
    {
        let message = match route.protocol {
            RouteProtocol::Http => {
                "this route belongs to no listener: without `listeners` a route is for outbound HTTP, and no listener has it"
            }
            RouteProtocol::Tls | RouteProtocol::Tcp => {
                "this route belongs to no listener: without `listeners` it is for outbound listeners with `original_destination`, \
                 and there is none"
            }
        };
        found.error(path, message).hint = Some("name the listeners, for example `listeners: [inbound]`".to_owned());
    }
    if route.protocol == RouteProtocol::Http {
        let theirs = config.listeners.iter().zip(&mut *listeners).filter(|(listener, _)| of_all(listener));
        for (_, draft) in theirs {
            draft.listener.hosts.insert(HostPattern::Any, id);
        }
    }
    let mine = |listener: &schema::Listener| match &route.listeners {
        _ if of_all(listener) => false,
        Some(named) => named.contains(&listener.name),
        None => is_default(route.protocol, listener),
    };
    let mut mine: Vec<&mut Draft> =
        config.listeners.iter().zip(listeners).filter(|(listener, _)| mine(listener)).map(|(_, draft)| draft).collect();
    if route.protocol == RouteProtocol::Tcp {
        file_destinations(config, route, id, &mut mine, path, found);
    } else {
        file_hosts(config, route, id, &mut mine, path, found);
    }
}

/// Whether a route that names no listener belongs to this one.
fn is_default(protocol: RouteProtocol, listener: &schema::Listener) -> bool {
    listener.direction == Direction::Outbound
        && listener.route.is_none()
        && match (protocol, listener.protocol) {
            (RouteProtocol::Http, ListenerProtocol::Auto | ListenerProtocol::Http) => true,
            (RouteProtocol::Tls, ListenerProtocol::Auto) => listener.original_destination,
            (RouteProtocol::Tcp, ListenerProtocol::Auto | ListenerProtocol::Tcp) => listener.original_destination,
            (RouteProtocol::Tls, ListenerProtocol::Tls) => true,
            (RouteProtocol::Http, ListenerProtocol::Tcp | ListenerProtocol::Tls)
            | (RouteProtocol::Tls, ListenerProtocol::Http | ListenerProtocol::Tcp)
            | (RouteProtocol::Tcp, ListenerProtocol::Http | ListenerProtocol::Tls) => false,
        }
}

fn check_named(config: &Config, route: &schema::Route, named: &[String], path: &Path<'_>, found: &mut Diagnostics) {
    let here = path.key("listeners");
    for (place, name) in named.iter().enumerate() {
        let place = here.index(place);
        let Some(listener) = config.listeners.iter().find(|listener| listener.name == *name) else {
            let known = config.listeners.iter().map(|listener| listener.name.as_str());
            found.error(&place, format!("there is no listener `{name}`")).hint = Some(suggest(name, known));
            continue;
        };
        if let Some(only) = listener.route.as_ref().filter(|only| **only != route.name) {
            found.error(&place, format!("the listener `{name}` is for the route `{only}` alone")).hint =
                Some("leave out its `route`, and give each route its `hosts`".to_owned());
        }
        match (route.protocol, listener.protocol) {
            (RouteProtocol::Tcp, _) if !listener.original_destination => {
                found.error(&place, format!("the listener `{name}` does not know where its connections were going")).hint =
                    Some("only one with `original_destination: true` does".to_owned());
            }
            (RouteProtocol::Tls, ListenerProtocol::Auto | ListenerProtocol::Http) if !listener.original_destination => {
                found.error(&place, format!("the listener `{name}` speaks HTTP")).hint =
                    Some("TLS is passed through by listeners with `protocol: tls` or `original_destination: true`".to_owned());
            }
            (RouteProtocol::Http | RouteProtocol::Tls, ListenerProtocol::Tcp) => {
                found.error(&place, format!("the listener `{name}` carries opaque TCP, which has no hosts")).hint =
                    Some("name where it goes in the listener's own `cluster`".to_owned());
            }
            (RouteProtocol::Http, ListenerProtocol::Tls) => {
                only_backends(route, &format!("the listener `{name}` passes TLS through"), path, found);
            }
            (RouteProtocol::Tcp, _) | (RouteProtocol::Http | RouteProtocol::Tls, _) => {}
        }
    }
    if named.is_empty() {
        found.error(&here, "an empty list puts the route on no listener").hint =
            Some("leave `listeners` out for every outbound listener".to_owned());
    }
}

fn file_hosts(
    config: &Config,
    route: &schema::Route,
    id: RouteId,
    mine: &mut [&mut Draft],
    path: &Path<'_>,
    found: &mut Diagnostics,
) {
    let hosts_path = path.key("hosts");
    if route.destinations.is_some() {
        found.key_error(&path.key("destinations"), "only a route with `protocol: tcp` has destinations");
    }
    if route.hosts.is_empty() {
        found.error(path, "a route without `hosts` takes no request").hint =
            Some("write `hosts: [\"*\"]` for any host".to_owned());
    }
    for (place, host) in route.hosts.iter().enumerate() {
        let host_path = hosts_path.index(place);
        let Some(pattern) = host_pattern(host, &host_path, found) else { continue };
        let taken = mine.iter_mut().filter_map(|draft| {
            let other = hosts_of(draft, route.protocol)?.insert(pattern.clone(), id)?;
            Some((other, draft.listener.name.clone()))
        });
        if let Some((other, listener)) = taken.last() {
            let mistake = if other == id {
                format!("the host `{host}` is listed twice")
            } else {
                let other = &config.routes[other.index()].name;
                format!("the host `{host}` already belongs to the route `{other}` on the listener `{listener}`")
            };
            found.error(&host_path, mistake).hint = Some("put the rules of one host into one route".to_owned());
        }
    }
}

/// The table in which a listener looks for routes of this kind.
fn hosts_of(draft: &mut Draft, protocol: RouteProtocol) -> Option<&mut HostTable> {
    match (&mut draft.listener.original, protocol) {
        (_, RouteProtocol::Tcp) => None,
        (Some(original), RouteProtocol::Tls) => Some(&mut original.names),
        (None, RouteProtocol::Tls) | (_, RouteProtocol::Http) => Some(&mut draft.listener.hosts),
    }
}

fn file_destinations(
    config: &Config,
    route: &schema::Route,
    id: RouteId,
    mine: &mut [&mut Draft],
    path: &Path<'_>,
    found: &mut Diagnostics,
) {
    let here = path.key("destinations");
    if !route.hosts.is_empty() {
        found.key_error(&path.key("hosts"), "bytes that nobody looks into have no host").hint =
            Some("write `destinations`, or `protocol: tls` for server names".to_owned());
    }
    let destinations = route.destinations.as_deref().unwrap_or_default();
    if destinations.is_empty() {
        found.error(path, "a route with `protocol: tcp` needs `destinations`").hint =
            Some("for example `destinations: [\"10.96.0.12:5432\"]`".to_owned());
    }
    for (place, text) in destinations.iter().enumerate() {
        let here = here.index(place);
        let Some(destination) = Destination::parse(text) else {
            found.error(&here, format!("`{text}` is not a destination")).hint = Some(
                "write `10.96.0.12:5432`, `10.8.0.0/16:*`, `[fd00::7]:6379` or `*:9092`; names have no meaning here".to_owned(),
            );
            continue;
        };
        let tables = mine.iter_mut().filter_map(|draft| Some(&mut draft.listener.original.as_mut()?.destinations));
        let taken = tables.filter_map(|table: &mut DestinationTable| table.insert(destination, id)).last();
        if let Some(other) = taken {
            let mistake = if other == id {
                format!("the destination `{text}` is listed twice")
            } else {
                format!("the destination `{text}` already belongs to the route `{}`", config.routes[other.index()].name)
            };
            found.error(&here, mistake).hint = Some("a destination belongs to one route of a listener".to_owned());
        }
    }
}

/// What is carried untouched can be led somewhere, and that is all.
fn only_backends(route: &schema::Route, why: &str, path: &Path<'_>, found: &mut Diagnostics) {
    let rules = path.key("rules");
    for (place, rule) in route.rules.iter().enumerate() {
        let here = rules.index(place);
        let keys = [
            ("match", rule.matches.is_some()),
            ("redirect", rule.redirect.is_some()),
            ("respond", rule.respond.is_some()),
            ("rewrite", rule.rewrite.is_some()),
            ("headers", rule.headers.is_some()),
            ("timeout", rule.timeout.is_some()),
            ("retry", rule.retry.is_some()),
            ("upgrades", rule.upgrades.is_some()),
        ];
        for (key, _) in keys.iter().filter(|(_, present)| *present) {
            found.key_error(&here.key(key), format!("{why}: `{key}` can have no effect")).hint =
                Some("only `backends` can; for HTTP write a route of its own".to_owned());
        }
        for (number, _) in rule.backends.iter().flatten().enumerate().filter(|(_, backend)| backend.headers.is_some()) {
            let here = here.key("backends");
            let here = here.index(number);
            found.key_error(&here.key("headers"), format!("{why}: `headers` can have no effect"));
        }
    }
}

pub(super) fn host_pattern(text: &str, at: &Path<'_>, found: &mut Diagnostics) -> Option<HostPattern> {
    if text == "*" {
        return Some(HostPattern::Any);
    }
    let lower = text.to_ascii_lowercase();
    let complaint = if lower.contains("://") || lower.contains('/') {
        Some("a host has no scheme and no path".to_owned())
    } else if path::strip_port(&lower) != lower {
        Some(format!("write `{}`; the port of a request's host is ignored", path::strip_port(&lower)))
    } else if lower.strip_prefix("*.").unwrap_or(&lower).contains('*') {
        Some("a wildcard stands for whole labels at the front: `*.example.local`".to_owned())
    } else if lower.is_empty() || lower.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control()) {
        Some("for example `checkout.shop.svc.cluster.local`".to_owned())
    } else {
        None
    };
    if let Some(hint) = complaint {
        found.error(at, format!("`{text}` is not a host")).hint = Some(hint);
        return None;
    }
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    Some(match name.strip_prefix('*') {
        Some(suffix) => HostPattern::Wildcard(suffix.into()),
        None => HostPattern::Exact(name.into()),
    })
}
