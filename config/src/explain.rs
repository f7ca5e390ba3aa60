//! Why a request goes where it goes: the same [`decide()`] that serves, with its reasons put into words.
//!
//! Every value comes with its source: the line of the file that says so, or that it is a default. Pure: whoever asks
//! brings the snapshot, the text it was made from, and what is known of endpoints.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Method, Uri};
use serde_json::{Value, json};

use crate::authorize::{Call, Caller, Refused, Request, Truth, authorize};
use crate::decide::{Decision, Facts, NoRoute, Reason, decide};
use crate::error::{Diagnostics, Step};
use crate::headers::HeaderOps;
use crate::matcher::Failed;
use crate::path::{normalise, normalise_host};
use crate::schema::PolicyAction;
use crate::snapshot::{Action, Cluster, ListenerId, PolicyId, Rule, RuleId, Snapshot, Speaks, Target};
use crate::spiffe::SpiffeId;
use crate::yaml::{self, Node};

/// A request that need not have been made.
#[derive(Debug, Clone)]
pub struct Question {
    /// The method.
    pub method: Method,
    /// The URL; its host is the `Host` header unless the headers have one.
    pub url: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// The listener it comes to; the only outbound one if it is not said.
    pub listener: Option<String>,
    /// Who asks.
    pub from: Asker,
}

/// Who asks.
#[derive(Debug, Clone, Default)]
pub struct Asker {
    /// As mutual TLS would show it.
    pub principal: Option<SpiffeId>,
    /// From where; loopback if it is not said.
    pub address: Option<IpAddr>,
    /// The trust domain of the proxy that is asked; the asker's own if it is not known.
    pub own_domain: Option<String>,
}

impl Asker {
    /// From text: `spiffe://prod/ns/shop/sa/cart`, `10.0.0.1`.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn parse(principal: Option<&str>, address: Option<&str>) -> Result<Self, String> {
        let principal = principal.map(|text| SpiffeId::parse(text).map_err(|why| format!("`{text}` is no SPIFFE ID: {why}")));
        let address = address.map(|text| text.parse().map_err(|_| format!("`{text}` is not an address")));
        Ok(Self { principal: principal.transpose()?, address: address.transpose()?, own_domain: None })
    }

    fn caller(&self) -> Caller<'_> {
        let principal = self.principal.as_ref();
        let is_own_domain = match (&self.own_domain, principal) {
            (Some(own), Some(id)) => own == id.trust_domain(),
            _ => true,
        };
        Caller { principal, is_own_domain, address: self.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)) }
    }
}

impl Question {
    /// From text: `GET`, `http://shop/x?y` or `/x?y`, `name: value`.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn parse(method: &str, url: &str, headers: &[String], listener: Option<String>, from: Asker) -> Result<Self, String> {
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is not a method"))?;
        let url: Uri = url.parse().map_err(|error| format!("`{url}` is not a URL: {error}"))?;
        let mut map = HeaderMap::new();
        for line in headers {
            let parsed = line.split_once(':').and_then(|(name, value)| {
                let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
                Some((name, HeaderValue::from_str(value.trim()).ok()?))
            });
            let (name, value) = parsed.ok_or_else(|| format!("`{line}` is not a header; write `name: value`"))?;
            map.append(name, value);
        }
        Ok(Self { method, url, headers: map, listener, from })
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A line of the file.
    Line(u64),
    /// Nothing says otherwise.
    Default,
    /// It follows from the rest.
    Derived,
}

/// One thing worth knowing.
#[derive(Debug, Clone)]
struct Fact {
    section: &'static str,
    name: String,
    value: String,
    source: Source,
}

/// The answer.
#[derive(Debug, Clone, Default)]
pub struct Explanation {
    facts: Vec<Fact>,
}

impl Explanation {
    fn add(&mut self, section: &'static str, name: impl Into<String>, value: impl Into<String>, source: Source) {
        self.facts.push(Fact { section, name: name.into(), value: value.into(), source });
    }

    /// For people; `file` is what lines are of.
    pub fn text(&self, file: &str) -> String {
        let width = self.facts.iter().map(|fact| fact.name.chars().count()).max().unwrap_or(0);
        let (mut out, mut section) = (String::new(), "");
        for fact in &self.facts {
            if fact.section != section {
                section = fact.section;
                let _ = writeln!(out, "{}{section}", if out.is_empty() { "" } else { "\n" });
            }
            let source = match fact.source {
                Source::Line(line) => format!("  ({file}:{line})"),
                Source::Default => "  (default)".to_owned(),
                Source::Derived => String::new(),
            };
            let _ = writeln!(out, "  {:width$}  {}{source}", fact.name, fact.value);
        }
        out
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let facts = self.facts.iter().map(|fact| {
            let source = match fact.source {
                Source::Line(line) => json!({ "line": line }),
                Source::Default => json!("default"),
                Source::Derived => Value::Null,
            };
            json!({ "section": fact.section, "name": fact.name, "value": fact.value, "source": source })
        });
        json!({ "facts": facts.collect::<Vec<_>>() })
    }

    /// The value of a fact, for tests and programs in this process.
    pub fn value(&self, section: &str, name: &str) -> Option<&str> {
        self.facts.iter().find(|fact| fact.section == section && fact.name == name).map(|fact| fact.value.as_str())
    }
}

/// Looks lines up.
struct Lines(Option<Node>);

impl Lines {
    fn at(&self, steps: &[Step]) -> Source {
        match self.0.as_ref().and_then(|tree| tree.find(steps, matches!(steps.last(), Some(Step::Key(_))))) {
            Some((line, _)) => Source::Line(line),
            None => Source::Default,
        }
    }

    /// The line of a key below `steps`, if the file has it.
    fn below(&self, steps: &[Step], keys: &[&str]) -> Source {
        let mut path = steps.to_vec();
        path.extend(keys.iter().map(|key| Step::Key((*key).to_owned())));
        let exists = self.0.as_ref().is_some_and(|tree| tree.has(&path));
        if exists { self.at(&path) } else { Source::Default }
    }
}

fn steps(parts: &[&dyn AsStep]) -> Vec<Step> {
    parts.iter().map(|part| part.step()).collect()
}

trait AsStep {
    fn step(&self) -> Step;
}

impl AsStep for &str {
    fn step(&self) -> Step {
        Step::Key((*self).to_owned())
    }
}

impl AsStep for usize {
    fn step(&self) -> Step {
        Step::Index(*self)
    }
}

/// Tells what is known of a cluster's endpoints, address or name and state; `None` if that is nothing beyond the file.
pub type States<'s> = dyn Fn(&Cluster) -> Option<Vec<(String, String)>> + 's;

/// TLS shows none.
static NO_HEADERS: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(HeaderMap::new);

/// Explains. `text` is what the snapshot was made from; `states` tells what is known of a cluster's endpoints, address or
/// name and state; `draw` falls to one of the weighted backends.
///
/// # Errors
/// Why the question has no answer.
pub fn explain(
    snapshot: &Snapshot,
    text: &str,
    question: &Question,
    draw: u64,
    states: &States<'_>,
) -> Result<Explanation, String> {
    let lines = Lines(yaml::parse(text, &mut Diagnostics::default()));
    let mut out = Explanation::default();
    let listener = listener(snapshot, question.listener.as_deref())?;
    let place = listener.index();
    let found = snapshot.listener(listener);
    out.add("Listener", &*found.name, listed(&found.addresses), lines.at(&steps(&[&"listeners", &place])));
    if let Speaks::Tcp(cluster) = found.speaks {
        let call = Call { caller: question.from.caller(), port: found.port, host: None, request: None };
        if judge(&mut out, snapshot, listener, &call, &lines).is_some() {
            out.add("Answer", "reset", "the connection is refused", Source::Derived);
            return Ok(out);
        }
        let line = lines.below(&steps(&[&"listeners", &place]), &["cluster"]);
        let cluster = snapshot.cluster(cluster);
        out.add("Backends", &*cluster.name, "takes every connection of the listener, which carries opaque TCP", line);
        endpoints(&mut out, cluster, &lines, states);
        connect(&mut out, cluster, &lines);
        return Ok(out);
    }
    let tls = found.speaks == Speaks::Tls;
    let authority = question.url.authority().map(Authority::as_str);
    let authority = authority.or_else(|| question.headers.get("host")?.to_str().ok()).unwrap_or_default();
    let host = normalise_host(authority);
    let path = normalise(question.url.path()).map_err(|_| "the path has an encoded NUL in it; weir answers 400".to_owned())?;
    let query = question.url.query();
    let facts = if tls {
        out.add("Request", "server name", &*host, Source::Derived);
        Facts::of_tls(&host, &NO_HEADERS)
    } else {
        out.add("Request", "method", question.method.as_str(), Source::Derived);
        out.add("Request", "host", &*host, Source::Derived);
        out.add("Request", "path to match", &*path, Source::Derived);
        Facts { method: &question.method, host: &host, path: &path, query, headers: &question.headers }
    };
    let request = Request { method: &question.method, path: &path, received: question.url.path(), headers: &question.headers };
    let call = Call { caller: question.from.caller(), port: found.port, host: Some(&host), request: (!tls).then_some(request) };
    if judge(&mut out, snapshot, listener, &call, &lines).is_some() {
        let (name, value) = if tls { ("reset", "the connection is refused") } else { ("403 denied", "the request is refused") };
        out.add("Answer", name, value, Source::Derived);
        return Ok(out);
    }
    let mut reasons: Vec<Reason> = Vec::new();
    let decision = decide(snapshot, listener, &facts, draw, &mut reasons);
    for reason in &reasons {
        tell(&mut out, snapshot, reason, &lines);
    }
    match decision {
        Decision::None(_) if tls => {
            out.add("Answer", "TLS alert unrecognized_name", "no route of the listener has this server name", Source::Derived);
        }
        Decision::None(NoRoute::Host) => {
            out.add("Answer", "404 no_route", "no route of the listener has this host", Source::Derived);
        }
        Decision::None(NoRoute::Rule(_)) => out.add("Answer", "404 no_rule", "none of the route's rules match", Source::Derived),
        Decision::Respond(id) => {
            if let Action::Respond(respond) = &snapshot.rule(id).action {
                let line = lines.below(&rule_steps(snapshot, id), &["respond"]);
                out.add("Answer", respond.status.to_string(), "a direct answer of the rule", line);
            }
        }
        Decision::Redirect(id) => {
            if let Action::Redirect(redirect) = &snapshot.rule(id).action {
                // As when it is served: the host with its port, and the path as it came unless it is the path that changes.
                let scheme = question.url.scheme_str().unwrap_or("http");
                let path = if redirect.path.is_some() { &*path } else { question.url.path() };
                let location = redirect.location(scheme, authority, path, query);
                let line = lines.below(&rule_steps(snapshot, id), &["redirect"]);
                out.add("Answer", redirect.status.to_string(), format!("location: {location}"), line);
            }
        }
        Decision::Forward { rule, backend } => {
            let question = (!tls).then_some(question);
            forward(&mut out, snapshot, (rule, backend), question, &lines, states);
        }
    }
    Ok(out)
}

/// Whether the call may be made, and what each policy says to it.
fn judge(out: &mut Explanation, snapshot: &Snapshot, listener: ListenerId, call: &Call<'_>, lines: &Lines) -> Option<Refused> {
    let mut reasons: Vec<Reason> = Vec::new();
    let verdict = authorize(snapshot, listener, call, &mut reasons);
    for reason in &reasons {
        tell(out, snapshot, reason, lines);
    }
    if !reasons.is_empty() {
        let told = verdict.tell(snapshot).unwrap_or_else(|| "allowed".to_owned());
        out.add("Authorization", "verdict", told, Source::Derived);
    }
    verdict.refused
}

fn tell_policy(out: &mut Explanation, snapshot: &Snapshot, id: PolicyId, [from, to]: [Truth; 2], holds: bool, lines: &Lines) {
    let policy = snapshot.policy(id);
    let action = match policy.action {
        PolicyAction::Allow => "allows",
        PolicyAction::Deny => "denies",
        PolicyAction::Audit => "audits",
    };
    let trial = if policy.dry_run { " (dry run)" } else { "" };
    let doubt = to == Truth::Unknown;
    let why = match (holds, from, to) {
        (true, _, _) if doubt => format!("{action} it{trial}: the app may read the request in a way that fits"),
        (true, _, _) => format!("{action} it{trial}"),
        (false, Truth::No, _) => format!("no{trial}: it is about other callers"),
        (false, _, _) if doubt => format!("no{trial}: the app may read the request in a way that does not fit"),
        (false, _, _) => format!("no{trial}: it is about other requests"),
    };
    out.add("Authorization", &*policy.name, why, lines.at(&steps(&[&"authorization", &id.index()])));
}

fn listener(snapshot: &Snapshot, named: Option<&str>) -> Result<ListenerId, String> {
    let names = || snapshot.listeners.iter().map(|listener| &*listener.name);
    if let Some(name) = named {
        let hint = || format!("there is no listener `{name}`; {}", crate::error::suggest(name, names()));
        return snapshot.listener_named(name).ok_or_else(hint);
    }
    let mut outbound = snapshot.listeners.iter().filter(|listener| !listener.is_inbound());
    let only = match (snapshot.listeners.len(), outbound.next(), outbound.next()) {
        (1, _, _) => snapshot.listeners.first(),
        (_, Some(only), None) => Some(only),
        _ => None,
    };
    let all = || format!("say which listener it comes to: {}", names().collect::<Vec<_>>().join(", "));
    only.and_then(|only| snapshot.listener_named(&only.name)).ok_or_else(all)
}

/// Where a rule stands in the file: `routes[i].rules[j]`. Of the rule for an app, nothing stands there.
fn rule_steps(snapshot: &Snapshot, id: RuleId) -> Vec<Step> {
    let route = snapshot.rule(id).route;
    let first = snapshot.rules.iter().position(|rule| rule.route == route).unwrap_or(0);
    steps(&[&"routes", &route.index(), &"rules", &(id.index() - first)])
}

fn tell(out: &mut Explanation, snapshot: &Snapshot, reason: &Reason, lines: &Lines) {
    match reason {
        Reason::Route(id) => {
            let line = lines.at(&steps(&[&"routes", &id.index()]));
            out.add("Route", &*snapshot.route(*id).name, "has the most specific host", line);
        }
        Reason::NoHost => out.add("Route", "-", "no route has the host", Source::Derived),
        Reason::Lost(id, failed) => {
            let why = match failed {
                Failed::Path => "the path differs".to_owned(),
                Failed::Method => "the method differs".to_owned(),
                Failed::Header(name) => format!("the header `{name}` does not fit"),
                Failed::Query(name) => format!("the query parameter `{name}` does not fit"),
                Failed::Grpc => "the request is not gRPC".to_owned(),
            };
            out.add("Rules", &*snapshot.rule(*id).name, format!("no: {why}"), lines.at(&rule_steps(snapshot, *id)));
        }
        Reason::Won(id) => out.add("Rules", &*snapshot.rule(*id).name, "matches", lines.at(&rule_steps(snapshot, *id))),
        Reason::App(id) => out.add("Rules", &*snapshot.rule(*id).name, "takes what no route speaks for", Source::Derived),
        Reason::Backend(_) => {}
        Reason::Policy { policy, from, to, holds } => tell_policy(out, snapshot, *policy, [*from, *to], *holds, lines),
    }
}

fn forward(
    out: &mut Explanation,
    snapshot: &Snapshot,
    (id, chosen): (RuleId, usize),
    question: Option<&Question>,
    lines: &Lines,
    states: &States<'_>,
) {
    let rule = snapshot.rule(id);
    let here = rule_steps(snapshot, id);
    let Action::Forward(split) = &rule.action else { return };
    for (place, backend) in split.backends.iter().enumerate() {
        let share = 100.0 * split.weights.weight(place) as f64 / split.weights.total().max(1) as f64;
        let drawn = if place == chosen && split.backends.len() > 1 { ", drawn this time" } else { "" };
        let mut at = here.clone();
        at.extend(steps(&[&"backends", &place]));
        let name = &*snapshot.cluster(backend.cluster).name;
        out.add("Backends", name, format!("{share:.4} %{drawn}").replace(".0000", ""), lines.at(&at));
    }
    let backend = &split.backends[chosen];
    if let Some(question) = question {
        sent(out, rule, &backend.request_headers, question, &here, lines);
    }
    let cluster = snapshot.cluster(backend.cluster);
    endpoints(out, cluster, lines, states);
    if question.is_some() {
        limits(out, rule, cluster, &here, lines);
    } else {
        connect(out, cluster, lines);
    }
}

fn endpoints(out: &mut Explanation, cluster: &Cluster, lines: &Lines, states: &States<'_>) {
    let known = states(cluster).unwrap_or_else(|| configured(cluster));
    if known.is_empty() {
        out.add("Endpoints", "-", "there is none; weir answers 503 no_endpoint", Source::Derived);
    }
    for (address, state) in known {
        out.add("Endpoints", address, state, lines.at(&steps(&[&"clusters", &&*cluster.name])));
    }
}

fn configured(cluster: &Cluster) -> Vec<(String, String)> {
    let of = cluster.endpoints.iter().map(|endpoint| match &endpoint.target {
        Target::Address(address) => (address.to_string(), format!("weight {}", endpoint.weight)),
        Target::Name { host, port } => {
            (format!("{host}:{port}"), format!("each of its addresses has weight {}", endpoint.weight))
        }
    });
    of.collect()
}

/// The request as the upstream sees it.
fn sent(out: &mut Explanation, rule: &Rule, backend: &HeaderOps, question: &Question, here: &[Step], lines: &Lines) {
    let path = normalise(question.url.path()).unwrap_or_default();
    let rewrite = rule.rewrite.as_ref();
    let new = rewrite.and_then(|rewrite| rewrite.path.as_ref()).map(|rewrite| rewrite.apply(&path).into_owned());
    let mut target = new.clone().unwrap_or_else(|| question.url.path().to_owned());
    if let Some(query) = question.url.query() {
        target = format!("{target}?{query}");
    }
    let source = if new.is_some() { lines.below(here, &["rewrite", "path"]) } else { Source::Derived };
    out.add("Sent upstream", "target", target, source);
    if let Some((host, _)) = rewrite.and_then(|rewrite| rewrite.host.as_ref()) {
        out.add("Sent upstream", "host", String::from_utf8_lossy(host.as_bytes()), lines.below(here, &["rewrite", "host"]));
    }
    let (before, mut after) = (&question.headers, question.headers.clone());
    rule.request_headers.apply(&mut after);
    backend.apply(&mut after);
    let source = || lines.below(here, &["headers"]);
    // All values of a name together: a field that comes twice has not changed because of that.
    for name in after.keys().filter(|name| !before.get_all(*name).iter().eq(after.get_all(*name))) {
        for value in after.get_all(name) {
            out.add("Sent upstream", name.as_str(), String::from_utf8_lossy(value.as_bytes()), source());
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        out.add("Sent upstream", name.as_str(), "removed", source());
    }
}

fn limits(out: &mut Explanation, rule: &Rule, cluster: &Cluster, here: &[Step], lines: &Lines) {
    let span = |limit: Option<Duration>| limit.map_or_else(|| "off".to_owned(), |limit| format!("{limit:?}"));
    for (name, limit) in [("request", rule.timeouts.request), ("per_try", rule.timeouts.per_try), ("idle", rule.timeouts.idle)] {
        out.add("Timeouts", name, span(limit), lines.below(here, &["timeout", name]));
    }
    connect(out, cluster, lines);
    let of_cluster = steps(&[&"clusters", &&*cluster.name]);
    match &rule.retry {
        None => out.add("Retries", "attempts", "only what was not processed: failed connects, refused streams", Source::Default),
        Some(retry) => {
            out.add("Retries", "attempts", retry.attempts.to_string(), lines.below(here, &["retry", "attempts"]));
            out.add("Retries", "on", retry.on.to_string(), lines.below(here, &["retry", "on"]));
            let backoff = format!("{:?} to {:?}", retry.base, retry.max);
            out.add("Retries", "backoff", backoff, lines.below(here, &["retry", "backoff"]));
        }
    }
    let budget = cluster.retry_budget;
    let said = format!("{} % of requests and {} a second", budget.percent, budget.min_per_second);
    out.add("Retries", "budget", said, lines.below(&of_cluster, &["retry_budget"]));
}

fn connect(out: &mut Explanation, cluster: &Cluster, lines: &Lines) {
    let line = lines.below(&steps(&[&"clusters", &&*cluster.name]), &["connect_timeout"]);
    out.add("Timeouts", "connect", format!("{:?}", cluster.connect_timeout), line);
}

/// Addresses with commas between them.
pub fn listed(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "listeners: [{ name: out, listen: 127.0.0.1:1, direction: outbound }]
routes:
  - name: shop
    hosts: [shop]
    rules:
      - name: beta
        match: [{ headers: { x-beta: 'true' } }]
        respond: { status: 204 }
      - name: main
        match: [{ path: { prefix: /v1 } }]
        backends:
          - { cluster: a, weight: 95 }
          - { cluster: b, weight: 5 }
        rewrite: { path: { prefix: / } }
        timeout: { request: 10s }
        retry: { on: [5xx, reset] }
        headers: { request: { set: { x-env: prod }, remove: [x-debug] } }
clusters:
  a: { endpoints: [127.0.0.1:2] }
  b: { dns: b.test:80, connect_timeout: 2s }
";

    fn ask(url: &str, headers: &[&str], draw: u64) -> Explanation {
        let (_, snapshot) = crate::load(FILE).unwrap();
        let headers: Vec<String> = headers.iter().map(|line| (*line).to_owned()).collect();
        let question = Question::parse("GET", url, &headers, None, Asker::default()).unwrap();
        explain(&snapshot, FILE, &question, draw, &|_| None).unwrap()
    }

    #[test]
    fn every_value_has_its_source() {
        let text = ask("http://shop/v1/x?y=1", &["x-debug: 1"], u64::MAX).text("f.yaml");
        for line in [
            "  out            127.0.0.1:1  (f.yaml:1)",
            "  shop           has the most specific host  (f.yaml:3)",
            "  beta           no: the header `x-beta` does not fit  (f.yaml:6)",
            "  main           matches  (f.yaml:9)",
            "  a              95 %  (f.yaml:12)",
            "  b              5 %, drawn this time  (f.yaml:13)",
            "  target         /x?y=1  (f.yaml:14)",
            "  x-env          prod  (f.yaml:17)",
            "  x-debug        removed  (f.yaml:17)",
            "  b.test:80      each of its addresses has weight 1  (f.yaml:20)",
            "  request        10s  (f.yaml:15)",
            "  idle           300s  (default)",
            "  connect        2s  (f.yaml:20)",
            "  on             5xx, reset  (f.yaml:16)",
            "  attempts       1  (default)",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn dead_ends_are_explained_too() {
        assert_eq!(ask("http://other/", &[], 0).value("Answer", "404 no_route"), Some("no route of the listener has this host"));
        assert_eq!(ask("http://shop/v2", &[], 0).value("Rules", "main"), Some("no: the path differs"));
        assert!(ask("http://shop/", &["x-beta: true"], 0).value("Answer", "204 No Content").is_some());
        let wrong = Question::parse("GET", "/", &["nonsense".to_owned()], None, Asker::default()).unwrap_err();
        assert_eq!(wrong, "`nonsense` is not a header; write `name: value`");
    }

    #[test]
    fn redirects_and_repeated_fields_are_as_served() {
        const MOVED: &str = "listeners: [{ name: out, listen: 127.0.0.1:1, direction: outbound }]
routes:
  - name: all
    hosts: ['*']
    rules:
      - { name: moved, match: [{ path: { prefix: /a } }], redirect: { host: new } }
      - { name: rest, backends: [{ cluster: c }] }
clusters: { c: { endpoints: [127.0.0.1:2] } }
";
        let (_, snapshot) = crate::load(MOVED).unwrap();
        let ask = |url: &str| {
            let question = Question::parse("GET", url, &["x: 1".to_owned(), "x: 2".to_owned()], None, Asker::default()).unwrap();
            explain(&snapshot, MOVED, &question, 0, &|_| None).unwrap()
        };
        assert_eq!(ask("http://shop:8080/%61?b").value("Answer", "302 Found"), Some("location: http://new:8080/%61?b"));
        assert_eq!(ask("http://shop/b").value("Sent upstream", "x"), None, "a field that came twice has not changed");
    }
}
