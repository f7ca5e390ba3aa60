use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use http::uri::Authority;

use super::listeners::Draft;
use super::{ClusterNames, check_name, filing, matches, policy};
use crate::error::{Diagnostics, Path, suggest};
use crate::headers::{HeaderOp, HeaderOps, protected};
use crate::matcher::{CompiledMatch, PathTest};
use crate::path;
use crate::schema::{self, Config, HeaderChanges};
use crate::snapshot::{Action, Backend, PathRewrite, Redirect, Respond, Rewrite, Route, RouteId, Rule, RuleId, Split};
use crate::table::{Entry, RuleTable};
use crate::weights::Weights;

pub(super) fn compile(
    config: &Config,
    clusters: &ClusterNames,
    listeners: &mut [Draft],
    found: &mut Diagnostics,
) -> (Vec<Route>, Vec<Rule>) {
    let root = Path::ROOT;
    let all = root.key("routes");
    let (mut routes, mut rules) = (Vec::with_capacity(config.routes.len()), Vec::new());
    let mut names: HashMap<&str, usize> = HashMap::new();
    for ((index, route), id) in config.routes.iter().enumerate().zip(0_u32..) {
        let path = all.index(index);
        let name_path = path.key("name");
        check_name(&route.name, &name_path, found);
        if names.insert(&route.name, index).is_some() {
            found.error(&name_path, format!("there already is a route `{}`", route.name));
        }
        filing::file(config, route, RouteId(id), listeners, &path, found);
        let mut entries = Vec::new();
        let rules_path = path.key("rules");
        if route.rules.is_empty() {
            found.error(&rules_path, "a route without rules answers nothing").hint =
                Some("add a rule with `backends`, `redirect` or `respond`".to_owned());
        }
        for (place, rule) in route.rules.iter().enumerate() {
            let rule_path = rules_path.index(place);
            let rule_id = RuleId(u32::try_from(rules.len()).unwrap_or(u32::MAX));
            let tests = tests(rule, &rule_path, found);
            let name = rule_name(route, place, &rule_path, found);
            rules.push(one(rule, name, RouteId(id), &tests, clusters, &rule_path, found));
            entries.extend(tests.into_iter().map(|matches| Entry { rule: rule_id, matches }));
        }
        routes.push(Route { name: route.name.as_str().into(), table: RuleTable::new(entries) });
    }
    (routes, rules)
}

fn rule_name(route: &schema::Route, place: usize, path: &Path<'_>, found: &mut Diagnostics) -> Box<str> {
    let Some(name) = &route.rules[place].name else {
        return format!("rule-{place}").into();
    };
    let name_path = path.key("name");
    check_name(name, &name_path, found);
    if route.rules[..place].iter().any(|other| other.name.as_ref() == Some(name)) {
        found.error(&name_path, format!("the route `{}` already has a rule `{name}`", route.name));
    }
    name.as_str().into()
}

/// The matches of a rule; one that always holds if it has none.
fn tests(rule: &schema::Rule, path: &Path<'_>, found: &mut Diagnostics) -> Vec<CompiledMatch> {
    let here = path.key("match");
    match &rule.matches {
        None => vec![CompiledMatch::default()],
        Some(list) if list.is_empty() => {
            found.error(&here, "an empty list matches nothing").hint =
                Some("leave `match` out to match every request".to_owned());
            vec![]
        }
        Some(list) => list.iter().enumerate().map(|(i, m)| matches::compile(m, &here.index(i), found)).collect(),
    }
}

fn one(
    rule: &schema::Rule,
    name: Box<str>,
    route: RouteId,
    tests: &[CompiledMatch],
    clusters: &ClusterNames,
    path: &Path<'_>,
    found: &mut Diagnostics,
) -> Rule {
    let (request_headers, response_headers) = headers(rule.headers.as_ref(), &path.key("headers"), found);
    let rewrite = rule.rewrite.as_ref().map(|rewrite| self::rewrite(rewrite, tests, &path.key("rewrite"), found));
    if rule.rewrite.is_some() && rule.backends.is_none() {
        found.error(&path.key("rewrite"), "a rewrite changes what goes to `backends`, and this rule has none");
    }
    Rule {
        name,
        route,
        action: action(rule, tests, clusters, path, found),
        rewrite,
        request_headers,
        response_headers,
        timeouts: policy::timeouts(rule, path, found),
        retry: policy::retry(rule, path, found),
        upgrades: policy::upgrades(rule, path, found),
    }
}

fn action(
    rule: &schema::Rule,
    tests: &[CompiledMatch],
    clusters: &ClusterNames,
    path: &Path<'_>,
    found: &mut Diagnostics,
) -> Action {
    match (&rule.backends, &rule.redirect, &rule.respond) {
        (Some(backends), None, None) => {
            if let Some(split) = split(backends, clusters, &path.key("backends"), found) {
                return Action::Forward(split);
            }
        }
        (None, Some(redirect), None) => return Action::Redirect(self::redirect(redirect, tests, &path.key("redirect"), found)),
        (None, None, Some(respond)) => return Action::Respond(self::respond(respond, &path.key("respond"), found)),
        _ => {
            found.error(path, "a rule has exactly one of `backends`, `redirect`, `respond`").hint =
                Some("for example `backends: [{ cluster: checkout-v1 }]`".to_owned());
        }
    }
    // Something was recorded; this stand-in never serves.
    Action::Respond(Respond { status: StatusCode::NOT_FOUND, body: Bytes::new() })
}

fn split(backends: &[schema::Backend], clusters: &ClusterNames, path: &Path<'_>, found: &mut Diagnostics) -> Option<Split> {
    let mut compiled = Vec::with_capacity(backends.len());
    for (place, backend) in backends.iter().enumerate() {
        let here = path.index(place);
        let cluster_path = here.key("cluster");
        if backends[..place].iter().any(|other| other.cluster == backend.cluster && other.headers == backend.headers) {
            found.error(&cluster_path, format!("the cluster `{}` is listed twice", backend.cluster)).hint =
                Some("add the weights up".to_owned());
        }
        let (request_headers, response_headers) = headers(backend.headers.as_ref(), &here.key("headers"), found);
        match clusters.get(&backend.cluster) {
            Some(cluster) => compiled.push(Backend { cluster: *cluster, request_headers, response_headers }),
            None => {
                found.error(&cluster_path, format!("there is no cluster `{}`", backend.cluster)).hint =
                    Some(suggest(&backend.cluster, clusters.keys().map(String::as_str)));
            }
        }
    }
    if backends.is_empty() {
        found.error(path, "an empty list of backends serves nothing");
        return None;
    }
    let weights = Weights::new(backends.iter().map(|backend| backend.weight));
    if weights.is_none() {
        found.error(path, "all weights are zero, so no request could go anywhere").hint =
            Some("give at least one backend a weight, or use `respond`".to_owned());
    }
    (compiled.len() == backends.len()).then(|| Some(Split { backends: compiled.into(), weights: weights? }))?
}

fn redirect(redirect: &schema::Redirect, tests: &[CompiledMatch], path: &Path<'_>, found: &mut Diagnostics) -> Redirect {
    let scheme = match redirect.scheme.as_deref() {
        None => None,
        Some("http") => Some("http"),
        Some("https") => Some("https"),
        Some(other) => {
            found.error(&path.key("scheme"), format!("unknown scheme `{other}`")).hint =
                Some("write `http` or `https`".to_owned());
            None
        }
    };
    let status = redirect.status.unwrap_or(302);
    if ![301, 302, 303, 307, 308].contains(&status) {
        found.error(&path.key("status"), format!("{status} is not a redirect")).hint =
            Some("write 301, 302, 303, 307 or 308".to_owned());
    }
    if let Some(host) = &redirect.host
        && (host.parse::<Authority>().is_err() || path::strip_port(host) != host)
    {
        found.error(&path.key("host"), format!("`{host}` is not a host")).hint = Some("give the port in `port`".to_owned());
    }
    if redirect.scheme.is_none() && redirect.host.is_none() && redirect.port.is_none() && redirect.path.is_none() {
        found.error(path, "this redirect changes nothing, so the caller would come back for ever").hint =
            Some("give `scheme`, `host`, `port` or `path`".to_owned());
    }
    Redirect {
        scheme,
        host: redirect.host.as_deref().map(Into::into),
        port: redirect.port,
        path: redirect.path.as_ref().and_then(|rewrite| path_rewrite(rewrite, tests, &path.key("path"), found)),
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND),
    }
}

fn respond(respond: &schema::Respond, path: &Path<'_>, found: &mut Diagnostics) -> Respond {
    if respond.body.len() > 4096 {
        found.error(&path.key("body"), format!("the body has {} bytes; at most 4096 fit", respond.body.len())).hint =
            Some("serve larger answers from a cluster".to_owned());
    }
    let bodiless = matches!(respond.status, 204 | 304);
    if bodiless && !respond.body.is_empty() {
        found.error(&path.key("body"), format!("a response with status {} has no body", respond.status));
    }
    Respond {
        status: StatusCode::from_u16(respond.status).unwrap_or(StatusCode::OK),
        body: Bytes::copy_from_slice(respond.body.as_bytes()),
    }
}

fn rewrite(rewrite: &schema::Rewrite, tests: &[CompiledMatch], path: &Path<'_>, found: &mut Diagnostics) -> Rewrite {
    let host = rewrite.host.as_ref().and_then(|host| match (host.parse::<HeaderValue>(), host.parse::<Authority>()) {
        (Ok(value), Ok(authority)) if !host.contains('@') => Some((value, authority)),
        _ => {
            found.error(&path.key("host"), format!("`{host}` is not a host"));
            None
        }
    });
    if rewrite.host.is_none() && rewrite.path.is_none() {
        found.error(path, "an empty rewrite changes nothing").hint = Some("give `path` or `host`".to_owned());
    }
    Rewrite { path: rewrite.path.as_ref().and_then(|rewrite| path_rewrite(rewrite, tests, &path.key("path"), found)), host }
}

fn path_rewrite(
    rewrite: &schema::PathRewrite,
    tests: &[CompiledMatch],
    path: &Path<'_>,
    found: &mut Diagnostics,
) -> Option<PathRewrite> {
    match (&rewrite.full, &rewrite.prefix, &rewrite.regex) {
        (Some(full), None, None) => request_path(full, &path.key("full"), found).map(|full| PathRewrite::Full(full.into())),
        (None, Some(prefix), None) => {
            let here = path.key("prefix");
            let replacement = request_path(prefix, &here, found)?;
            let replacement = if replacement.len() > 1 { replacement.trim_end_matches('/') } else { replacement };
            let prefixes = tests.iter().map(|test| match &test.path {
                Some(PathTest::Segments(prefix)) => Some(prefix.clone()),
                _ => None,
            });
            let Some(mut matched) = prefixes.collect::<Option<Vec<Box<str>>>>() else {
                found.error(&here, "a prefix is replaced, but not every match of this rule has one").hint =
                    Some("give each match `path: { prefix: ... }`, or rewrite with `full` or `regex`".to_owned());
                return None;
            };
            matched.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
            Some(PathRewrite::Prefix { matched: matched.into(), replacement: replacement.into() })
        }
        (None, None, Some(regex)) => {
            let here = path.key("regex");
            let pattern = matches::regex(&regex.pattern, false, &here.key("pattern"), found)?;
            check_replacement(&pattern, &regex.replace, &here.key("replace"), found);
            Some(PathRewrite::Regex { pattern, replacement: regex.replace.as_str().into() })
        }
        _ => {
            found.error(path, "a path rewrite has exactly one of `full`, `prefix`, `regex`").hint =
                Some("for example `path: { prefix: /v2 }`".to_owned());
            None
        }
    }
}

/// Checks what a pattern is replaced with: characters that may stand in a path, and groups that the pattern has.
fn check_replacement(pattern: &regex::Regex, replacement: &str, at: &Path<'_>, found: &mut Diagnostics) {
    let odd = |c: &char| !c.is_ascii_graphic() || matches!(c, '?' | '#');
    if let Some(odd) = replacement.chars().find(odd) {
        found.error(at, format!("`{odd}` may not stand in a path")).hint =
            Some("write it percent-encoded; the query stays as it is".to_owned());
    }
    let groups = regex::Regex::new(r"\$(?:\{([^}]*)\}|([0-9A-Za-z_]+))").ok();
    let literal = replacement.replace("$$", "");
    for group in groups.iter().flat_map(|groups| groups.captures_iter(&literal)) {
        let name = group.get(1).or(group.get(2)).map_or("", |name| name.as_str());
        let by_number = name.parse::<usize>().is_ok_and(|number| number < pattern.captures_len());
        if !by_number && !pattern.capture_names().flatten().any(|known| known == name) {
            found.error(at, format!("the pattern has no group `{name}`")).hint =
                Some(format!("`${name}` takes every letter, digit and `_` that follows; write `${{1}}` to end it earlier"));
        }
    }
}

/// A path that may stand in a request line.
fn request_path<'t>(text: &'t str, at: &Path<'_>, found: &mut Diagnostics) -> Option<&'t str> {
    if text.starts_with('/') && !text.contains(['?', '#']) && http::uri::PathAndQuery::try_from(text).is_ok() {
        return Some(text);
    }
    found.error(at, format!("`{text}` is not a path")).hint = Some("begin with `/`, and leave query and fragment out".to_owned());
    None
}

fn headers(headers: Option<&schema::Headers>, path: &Path<'_>, found: &mut Diagnostics) -> (HeaderOps, HeaderOps) {
    let mut side = |changes: Option<&HeaderChanges>, key| {
        changes.map(|changes| header_ops(changes, &path.key(key), found)).unwrap_or_default()
    };
    match headers {
        None => Default::default(),
        Some(headers) => (side(headers.request.as_ref(), "request"), side(headers.response.as_ref(), "response")),
    }
}

fn header_ops(changes: &HeaderChanges, path: &Path<'_>, found: &mut Diagnostics) -> HeaderOps {
    let mut ops = Vec::new();
    for (place, name) in changes.remove.iter().enumerate() {
        ops.extend(header_name(name, &path.key("remove").index(place), found).map(HeaderOp::Remove));
    }
    let mut pairs = |map: &BTreeMap<String, String>, key, op: fn(HeaderName, HeaderValue) -> HeaderOp| {
        let here = path.key(key);
        for (name, value) in map {
            let place = here.key(name);
            let name = header_name(name, &place, found);
            match HeaderValue::from_str(value) {
                Ok(value) => ops.extend(name.map(|name| op(name, value))),
                Err(_) => {
                    found.error(&place, "a header value may not have control characters or line ends in it");
                }
            }
        }
    };
    pairs(&changes.set, "set", HeaderOp::Set);
    pairs(&changes.add, "add", HeaderOp::Add);
    HeaderOps(ops.into())
}

fn header_name(text: &str, at: &Path<'_>, found: &mut Diagnostics) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        found.key_error(at, format!("`{text}` is not a header name"));
        return None;
    };
    if let Some(why) = protected(&name) {
        found.key_error(at, format!("the header `{name}` cannot be changed here")).hint = Some(why.to_owned());
        return None;
    }
    Some(name)
}
