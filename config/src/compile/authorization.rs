use http::Method;

use super::listeners::{Draft, not_addresses};
use super::{check_name, filing, matches};
use crate::authorize::{CallTest, CallerTest, OneOf, PathRule, Policy, Principal};
use crate::error::{Diagnostics, Path, suggest};
use crate::schema::{self, CallMatch, CallerMatch, Config, Direction, ListenerProtocol, PolicyAction};
use crate::snapshot::{CallerTls, PolicyId};
use crate::spiffe::PeerPattern;
use crate::trust::Trust;

pub(super) fn compile(config: &Config, listeners: &mut [Draft], found: &mut Diagnostics) -> Vec<Policy> {
    let root = Path::ROOT;
    let all = root.key("authorization");
    let mut policies: Vec<Policy> = Vec::with_capacity(config.authorization.len());
    for ((index, policy), id) in config.authorization.iter().enumerate().zip(0_u32..) {
        let path = all.index(index);
        let name_path = path.key("name");
        check_name(&policy.name, &name_path, found);
        if policies.iter().any(|other| *other.name == *policy.name) {
            found.error(&name_path, format!("there already is a policy `{}`", policy.name));
        }
        check_audit(config, policy, &path, found);
        let compiled = Policy {
            name: policy.name.as_str().into(),
            action: policy.action,
            dry_run: policy.dry_run,
            from: entries(policy.from.as_deref(), &path.key("from"), found, caller),
            to: entries(policy.to.as_deref(), &path.key("to"), found, call),
        };
        for place in places(config, policy, &path, found) {
            check_sense((&config.listeners[place], listeners[place].listener.tls), policy, &compiled, &path, found);
            let mut own = std::mem::take(&mut listeners[place].listener.policies).into_vec();
            own.push(PolicyId(id));
            listeners[place].listener.policies = own.into();
        }
        policies.push(compiled);
    }
    policies
}

fn check_audit(config: &Config, policy: &schema::Policy, path: &Path<'_>, found: &mut Diagnostics) {
    if policy.action != PolicyAction::Audit {
        return;
    }
    if config.access_log.is_none() {
        found.error(&path.key("action"), "`audit` writes into the access log, and there is none").hint =
            Some("add `access_log: {}`".to_owned());
    }
    if policy.dry_run {
        found.key_error(&path.key("dry_run"), "`audit` enforces nothing, so it cannot be on trial");
    }
}

/// The listeners of a policy, by their places.
fn places(config: &Config, policy: &schema::Policy, path: &Path<'_>, found: &mut Diagnostics) -> Vec<usize> {
    let all = || config.listeners.iter().enumerate();
    let Some(named) = &policy.listeners else {
        let inbound: Vec<usize> =
            all().filter(|(_, listener)| listener.direction == Direction::Inbound).map(|(place, _)| place).collect();
        if inbound.is_empty() {
            found
                .error(path, "this policy belongs to no listener: without `listeners` it is for inbound ones, and there is none")
                .hint = Some("name the listeners, for example `listeners: [outbound]`".to_owned());
        }
        return inbound;
    };
    let here = path.key("listeners");
    if named.is_empty() {
        found.error(&here, "an empty list puts the policy on no listener").hint =
            Some("leave `listeners` out for every inbound listener".to_owned());
    }
    let mut places = Vec::new();
    for (number, name) in named.iter().enumerate() {
        match all().find(|(_, listener)| listener.name == *name) {
            Some((place, _)) if places.contains(&place) => {
                found.error(&here.index(number), format!("the listener `{name}` is named twice"));
            }
            Some((place, _)) => places.push(place),
            None => {
                let known = config.listeners.iter().map(|listener| listener.name.as_str());
                found.error(&here.index(number), format!("there is no listener `{name}`")).hint = Some(suggest(name, known));
            }
        }
    }
    places
}

/// A policy that could never hold on a listener, or would always, is a mistake and not a rule.
fn check_sense(
    (listener, tls): (&schema::Listener, CallerTls),
    policy: &schema::Policy,
    compiled: &Policy,
    path: &Path<'_>,
    found: &mut Diagnostics,
) {
    let name = &listener.name;
    let from = path.key("from");
    for (number, entry) in policy.from.iter().flatten().enumerate() {
        let asks = [
            ("principals", entry.principals.is_some()),
            ("namespaces", entry.namespaces.is_some()),
            ("service_accounts", entry.service_accounts.is_some()),
        ];
        let asks = asks.iter().find(|(_, present)| *present);
        if let Some((key, _)) = asks.filter(|_| matches!(tls, CallerTls::Off | CallerTls::Edge)) {
            let entry = from.index(number);
            let message = format!("callers of the listener `{name}` do not show who they are: `{key}` can never fit there");
            found.key_error(&entry.key(key), message).hint =
                Some(format!("give `{name}` `tls: strict`, or name other `listeners`"));
        }
    }
    let to = path.key("to");
    let carried = match listener.protocol {
        ListenerProtocol::Auto | ListenerProtocol::Http => return,
        ListenerProtocol::Tcp => "carries opaque TCP, which has",
        ListenerProtocol::Tls => "passes TLS on, which shows",
    };
    for (number, entry) in compiled.to.iter().flatten().enumerate() {
        if entry.is_about_requests() || (listener.protocol == ListenerProtocol::Tcp && !entry.hosts.is_idle()) {
            let message = format!("the listener `{name}` {carried} no methods, paths or headers");
            found.error(&to.index(number), message).hint =
                Some("name the `listeners` that speak HTTP; for TCP there are `from` and `ports`".to_owned());
        }
    }
}

fn entries<S, C>(
    entries: Option<&[S]>,
    path: &Path<'_>,
    found: &mut Diagnostics,
    compile: impl Fn(&S, &Path<'_>, &mut Diagnostics) -> Option<C>,
) -> Option<Box<[C]>> {
    let entries = entries?;
    if entries.is_empty() {
        found.error(path, "an empty list fits nothing").hint = Some("leave it out to fit everything".to_owned());
    }
    let mut compiled = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let path = path.index(index);
        match compile(entry, &path, found) {
            Some(entry) => compiled.push(entry),
            None => {
                found.error(&path, "this asks for nothing, so it fits everything").hint =
                    Some("give it a condition, or leave the list out".to_owned());
            }
        }
    }
    Some(compiled.into())
}

/// A list, and the list of what is not meant.
fn one_of<S, T>(
    (key, these): (&str, Option<&Vec<S>>),
    but: Option<&Vec<S>>,
    path: &Path<'_>,
    found: &mut Diagnostics,
    compile: impl Fn(&S, &Path<'_>, &mut Diagnostics) -> Option<T>,
) -> OneOf<T> {
    let mut list = |list: &Vec<S>, path: &Path<'_>| -> Box<[T]> {
        if list.is_empty() {
            found.error(path, "an empty list fits nothing").hint = Some("leave it out".to_owned());
        }
        list.iter().enumerate().filter_map(|(index, one)| compile(one, &path.index(index), found)).collect()
    };
    OneOf {
        these: these.map(|these| list(these, &path.key(key))),
        but: but.map(|but| list(but, &path.key(&format!("not_{key}")))).unwrap_or_default(),
    }
}

/// `None` if it asks for nothing.
fn caller(entry: &CallerMatch, path: &Path<'_>, found: &mut Diagnostics) -> Option<CallerTest> {
    if *entry == CallerMatch::default() {
        return None;
    }
    Some(CallerTest {
        principals: one_of(("principals", entry.principals.as_ref()), entry.not_principals.as_ref(), path, found, principal),
        namespaces: one_of(("namespaces", entry.namespaces.as_ref()), entry.not_namespaces.as_ref(), path, found, namespace),
        accounts: one_of(
            ("service_accounts", entry.service_accounts.as_ref()),
            entry.not_service_accounts.as_ref(),
            path,
            found,
            account,
        ),
        addresses: one_of(("addresses", entry.addresses.as_ref()), entry.not_addresses.as_ref(), path, found, addresses),
    })
}

fn principal(text: &String, path: &Path<'_>, found: &mut Diagnostics) -> Option<Principal> {
    if text == "*" {
        return Some(Principal::Anybody);
    }
    match PeerPattern::parse(text) {
        Ok(pattern) => Some(Principal::Pattern(pattern)),
        Err(why) => {
            found.error(path, format!("`{text}` names no caller: {why}")).hint =
                Some("for example `spiffe://prod/ns/shop/sa/cart`, `spiffe://prod/ns/shop/*`, or `*`".to_owned());
            None
        }
    }
}

fn is_label(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

fn namespace(text: &String, path: &Path<'_>, found: &mut Diagnostics) -> Option<Box<str>> {
    if !is_label(text) {
        found.error(path, format!("`{text}` is not a namespace")).hint = Some("for example `shop`".to_owned());
        return None;
    }
    Some(text.as_str().into())
}

fn account(text: &String, path: &Path<'_>, found: &mut Diagnostics) -> Option<(Box<str>, Box<str>)> {
    match text.split_once('/').filter(|(namespace, name)| is_label(namespace) && is_label(name)) {
        Some((namespace, name)) => Some((namespace.into(), name.into())),
        None => {
            found.error(path, format!("`{text}` is not a service account")).hint =
                Some("write `namespace/name`, for example `shop/cart`".to_owned());
            None
        }
    }
}

fn addresses(text: &String, path: &Path<'_>, found: &mut Diagnostics) -> Option<Trust> {
    let trust = Trust::parse(std::slice::from_ref(text)).ok();
    if trust.is_none() {
        not_addresses(text, path, found);
    }
    trust
}

/// `None` if it asks for nothing.
fn call(entry: &CallMatch, path: &Path<'_>, found: &mut Diagnostics) -> Option<CallTest> {
    if *entry == CallMatch::default() {
        return None;
    }
    let port = |port: &u16, path: &Path<'_>, found: &mut Diagnostics| {
        if *port == 0 {
            found.error(path, "0 is no port");
        }
        Some(*port)
    };
    let headers_path = path.key("headers");
    let headers = entry.headers.as_ref();
    if headers.is_some_and(std::collections::BTreeMap::is_empty) {
        found.error(&headers_path, "no header is named").hint = Some("leave it out".to_owned());
    }
    Some(CallTest {
        ports: one_of(("ports", entry.ports.as_ref()), entry.not_ports.as_ref(), path, found, port),
        hosts: one_of(("hosts", entry.hosts.as_ref()), entry.not_hosts.as_ref(), path, found, |text, path, found| {
            filing::host_pattern(text, path, found)
        }),
        methods: one_of(("methods", entry.methods.as_ref()), entry.not_methods.as_ref(), path, found, method),
        paths: one_of(("paths", entry.paths.as_ref()), entry.not_paths.as_ref(), path, found, |test, path, found| {
            matches::path_test(test, path, found).map(PathRule::new)
        }),
        headers: headers.map(|headers| matches::header_tests(headers, &headers_path, found)).unwrap_or_default(),
    })
}

fn method(text: &String, path: &Path<'_>, found: &mut Diagnostics) -> Option<Method> {
    matches::methods(std::slice::from_ref(text), path, found).first().cloned()
}
