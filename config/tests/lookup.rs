//! The compiled lookup agrees with a naive reading of the same configuration, on random tables and random requests.

#![allow(clippy::unwrap_used, reason = "a test must fail loudly")]

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use proptest::sample::select;
use weir_config::snapshot::{ListenerId, RuleId};
use weir_config::{Decision, Facts, NoRoute, Reason, decide, path};

/// A condition as the test understands it, independent of the code under test.
#[derive(Debug, Clone)]
struct Rule {
    path: Option<(&'static str, String)>,
    method: Option<&'static str>,
    header: Option<(&'static str, &'static str, &'static str, bool)>,
    query: Option<(&'static str, &'static str)>,
}

const PATHS: [&str; 9] = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/b", "/b/a", "/c", "/a/bc"];
const HOSTS: [&str; 8] = ["shop", "a.shop", "*.shop", "*.a.shop", "b.a.shop", "x.b.a.shop", "other", "*.x.b.a.shop"];

fn rule() -> impl Strategy<Value = Rule> {
    let kind = select(vec!["exact", "prefix", "string_prefix", "regex"]);
    let path = proptest::option::weighted(0.8, (kind, select(PATHS.to_vec()).prop_map(str::to_owned)));
    let header =
        (select(vec!["x-a", "x-b"]), select(vec!["exact", "prefix", "present"]), select(vec!["1", "2", "12"]), any::<bool>());
    let query = proptest::option::weighted(0.2, (select(vec!["q", "r"]), select(vec!["1", "2"])));
    let method = proptest::option::weighted(0.3, select(vec!["GET", "POST"]));
    (path, method, proptest::option::weighted(0.4, header), query).prop_map(|(path, method, header, query)| Rule {
        path,
        method,
        header,
        query,
    })
}

fn yaml(hosts: &[Vec<&str>], routes: &[Vec<Rule>]) -> String {
    let mut text = "listeners: [{ name: o, listen: 127.0.0.1:1, direction: outbound }]\nroutes:\n".to_owned();
    for (number, (hosts, rules)) in hosts.iter().zip(routes).enumerate() {
        let hosts: Vec<String> = hosts.iter().map(|host| format!("\"{host}\"")).collect();
        let _ = write!(text, "  - name: r{number}\n    hosts: [{}]\n    rules:\n", hosts.join(", "));
        for rule in rules {
            let mut parts = Vec::new();
            if let Some((kind, value)) = &rule.path {
                parts.push(format!("path: {{ {kind}: \"{value}\" }}"));
            }
            if let Some(method) = rule.method {
                parts.push(format!("method: {method}"));
            }
            if let Some((name, kind, value, not)) = rule.header {
                let value = if kind == "present" { "true".to_owned() } else { format!("\"{value}\"") };
                parts.push(format!("headers: {{ {name}: {{ {kind}: {value}, not: {not} }} }}"));
            }
            if let Some((name, value)) = rule.query {
                parts.push(format!("query: {{ {name}: \"{value}\" }}"));
            }
            let _ = writeln!(text, "      - match: [{{ {} }}]\n        respond: {{ status: 200 }}", parts.join(", "));
        }
    }
    text
}

fn naive(rule: &Rule, method: &str, path: &str, query: &[(&str, &str)], headers: &[(&str, &str)]) -> bool {
    let path_holds = rule.path.as_ref().is_none_or(|(kind, value)| match *kind {
        "exact" | "regex" => path == value,
        "prefix" => value == "/" || path == value || path.starts_with(&format!("{value}/")),
        _ => path.starts_with(value.as_str()),
    });
    let header_holds = rule.header.is_none_or(|(name, kind, wanted, not)| {
        let values: Vec<&str> = headers.iter().filter(|(n, _)| *n == name).map(|(_, v)| *v).collect();
        let joined = values.join(",");
        let holds = !values.is_empty()
            && match kind {
                "exact" => joined == wanted,
                "prefix" => joined.starts_with(wanted),
                _ => true,
            };
        holds != not
    });
    let query_holds =
        rule.query.is_none_or(|(name, wanted)| query.iter().find(|(n, _)| *n == name).is_some_and(|(_, v)| *v == wanted));
    path_holds && header_holds && query_holds && rule.method.is_none_or(|m| m == method)
}

fn naive_host<'h>(host: &str, patterns: impl Iterator<Item = (usize, &'h str)>) -> Option<usize> {
    let score = |pattern: &str| match pattern.strip_prefix('*') {
        None => (pattern == host).then_some(usize::MAX),
        Some("") => Some(0),
        Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix)).then_some(suffix.len()),
    };
    patterns.filter_map(|(route, pattern)| Some((score(pattern)?, route))).max().map(|(_, route)| route)
}

/// Removes rules that the configuration calls unreachable, until it accepts the rest.
fn accepted(hosts: &[Vec<&str>], mut routes: Vec<Vec<Rule>>) -> Option<(weir_config::Snapshot, Vec<Vec<Rule>>)> {
    loop {
        routes.iter_mut().for_each(|rules| rules.truncate(40));
        match weir_config::load(&yaml(hosts, &routes)) {
            Ok((_, snapshot)) => return Some((snapshot, routes)),
            Err(found) => {
                let mut places: Vec<(usize, usize)> = found
                    .iter()
                    .map(|mistake| {
                        assert!(mistake.message.contains("never be reached"), "{mistake}");
                        let numbers: Vec<usize> =
                            mistake.path.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
                        (numbers[0], numbers[1])
                    })
                    .collect();
                places.sort_unstable();
                for (route, rule) in places.into_iter().rev() {
                    routes[route].remove(rule);
                }
                if routes.iter().any(Vec::is_empty) {
                    return None;
                }
            }
        }
    }
}

type Request = (&'static str, &'static str, String, Vec<(&'static str, &'static str)>, Vec<(&'static str, &'static str)>);

fn request() -> impl Strategy<Value = Request> {
    let host = select(vec!["shop", "a.shop", "b.a.shop", "c.a.shop", "x.b.a.shop", "y.x.b.a.shop", "other", "nowhere"]);
    let path = (select(PATHS.to_vec()), select(vec!["", "/", "/x", "x"])).prop_map(|(p, more)| {
        let path = format!("{p}{more}");
        path::normalise(&path).unwrap().into_owned()
    });
    let pairs = proptest::collection::vec((select(vec!["q", "r"]), select(vec!["1", "2", ""])), 0..3);
    let headers = proptest::collection::vec((select(vec!["x-a", "x-b"]), select(vec!["1", "2", "12"])), 0..3);
    (select(vec!["GET", "POST", "PUT"]), host, path, pairs, headers)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn lookups_agree_with_a_naive_reference(
        hosts in proptest::sample::subsequence(HOSTS.to_vec(), 1..=8),
        routes in proptest::collection::vec(proptest::collection::vec(rule(), 1..40), 1..=3),
        any_host: bool,
        requests in proptest::collection::vec(request(), 30),
    ) {
        let mut per_route: Vec<Vec<&str>> = vec![Vec::new(); routes.len()];
        for (number, host) in hosts.iter().copied().chain(any_host.then_some("*")).enumerate() {
            per_route[number % routes.len()].push(host);
        }
        prop_assume!(per_route.iter().all(|hosts| !hosts.is_empty()));
        let Some((snapshot, routes)) = accepted(&per_route, routes) else { return Ok(()) };
        let mut first_rule = vec![0];
        for rules in &routes {
            first_rule.push(first_rule.last().unwrap() + rules.len());
        }
        for (method, host, path, query, headers) in requests {
            let patterns = per_route.iter().enumerate().flat_map(|(route, hosts)| hosts.iter().map(move |host| (route, *host)));
            let wanted = naive_host(host, patterns).map(|route| {
                let place = routes[route].iter().position(|rule| naive(rule, method, &path, &query, &headers));
                place.map(|place| first_rule[route] + place)
            });
            let mut map = HeaderMap::new();
            for (name, value) in &headers {
                map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let query = query.join("&");
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let facts = Facts { method: &method, host, path: &path, query: Some(&query), headers: &map };
            let mut reasons: Vec<Reason> = Vec::new();
            let got = decide(&snapshot, ListenerId(0), &facts, 0, &mut reasons);
            prop_assert_eq!(got, decide(&snapshot, ListenerId(0), &facts, 0, &mut ()));
            match wanted {
                None => prop_assert_eq!(got, Decision::None(NoRoute::Host)),
                Some(None) => prop_assert!(matches!(got, Decision::None(NoRoute::Rule(_)))),
                Some(Some(rule)) => {
                    let rule = RuleId(u32::try_from(rule).unwrap());
                    prop_assert_eq!(got, Decision::Respond(rule));
                    prop_assert_eq!(reasons.last(), Some(&Reason::Won(rule)));
                }
            }
        }
    }
}
