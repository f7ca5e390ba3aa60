//! Why a request goes where it goes: the same [`decide()`] and [`decide_bytes()`] that serve, with their reasons put into
//! words.
//!
//! Every value comes with its source: the line of the file that says so, or that it is a default. Pure: whoever asks
//! brings the snapshot, the text it was made from, and what is known of endpoints.

mod question;
mod told;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::Uri;
use http::header::HeaderMap;
use http::uri::Authority;

use crate::authorize::{Call, Request, Truth, authorize};
use crate::decide::{Decision, Facts, NoRoute, Reason, decide, decide_bytes};
use crate::error::{Diagnostics, Step};
use crate::headers::HeaderOps;
use crate::matcher::Failed;
use crate::path::{normalise, normalise_host};
use crate::schema::{PolicyAction, PortProtocol};
use crate::snapshot::{
    Action, CallerTls, Cluster, ClusterId, Destination, Listener, ListenerId, Original, PolicyId, Rule, RuleId, Snapshot, Speaks,
    Target,
};
use crate::yaml;

pub use question::{Asked, Asker, Question};
pub use told::Explanation;
use told::{Lines, Source, steps};

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
    let id = choose_listener(snapshot, question)?;
    let lines = Lines(yaml::parse(text, &mut Diagnostics::default()));
    let mut talk = Talk { snapshot, id, question, to: question.to, draw, states, lines, out: Explanation::default() };
    let listener = talk.listener();
    talk.out.add("Listener", &*listener.name, listed(&listener.addresses), talk.lines.at(&talk.place()));
    if let Some(port) = talk.own_port() {
        if !listener.addresses.iter().any(|address| address.port() == port) {
            talk.reset("own_port: a port of weir's own, where nobody but weir and the app has business", Source::Derived);
            return Ok(talk.out);
        }
        talk.to = None;
    }
    match talk.spoken()? {
        Spoken::Tcp(cluster) => talk.tcp(cluster),
        Spoken::Tls(url) => talk.tls(url),
        Spoken::Bytes(name) => talk.bytes(name.as_deref()),
        Spoken::Http(url) => talk.http(url)?,
    }
    Ok(talk.out)
}

/// What is said on the connection, as far as it decides anything.
enum Spoken<'q> {
    /// It does not matter: all of it goes to this cluster.
    Tcp(ClusterId),
    /// TLS that is passed through.
    Tls(&'q Uri),
    /// What was redirected and is not HTTP: TLS that shows a name, or anything.
    Bytes(Option<String>),
    /// A request.
    Http(&'q Uri),
}

/// An answer as it grows.
struct Talk<'a> {
    snapshot: &'a Snapshot,
    id: ListenerId,
    question: &'a Question,
    /// Where the connection was going, unless that is the listener itself.
    to: Option<SocketAddr>,
    draw: u64,
    states: &'a States<'a>,
    lines: Lines,
    out: Explanation,
}

fn choose_listener(snapshot: &Snapshot, question: &Question) -> Result<ListenerId, String> {
    let names = || snapshot.listeners.iter().map(|listener| &*listener.name);
    if let Some(name) = &question.listener {
        let hint = || format!("there is no listener `{name}`; {}", crate::error::suggest(name, names()));
        return snapshot.listener_named(name).ok_or_else(hint);
    }
    let fits = |listener: &&Listener| !listener.is_inbound() && (question.to.is_none() || listener.original.is_some());
    let mut outbound = snapshot.listeners.iter().filter(fits);
    let only = match (snapshot.listeners.len(), outbound.next(), outbound.next()) {
        (1, _, _) => snapshot.listeners.first(),
        (_, Some(only), None) => Some(only),
        _ => None,
    };
    let all = || format!("say which listener it comes to (`listener`): {}", names().collect::<Vec<_>>().join(", "));
    only.and_then(|only| snapshot.listener_named(&only.name)).ok_or_else(all)
}

impl<'a> Talk<'a> {
    fn listener(&self) -> &'a Listener {
        self.snapshot.listener(self.id)
    }

    /// Where the listener stands in the file.
    fn place(&self) -> Vec<Step> {
        steps(&[&"listeners", &self.id.index()])
    }

    /// The port, if it was going to one of weir's own servers or listeners here.
    fn own_port(&self) -> Option<u16> {
        let (to, listener) = (self.to?, self.listener());
        let here = listener.is_inbound() || to.ip().is_loopback() || Some(to.ip()) == self.question.from.address;
        (listener.original.is_some() && here && self.snapshot.is_own_port(to.port())).then_some(to.port())
    }

    fn spoken(&mut self) -> Result<Spoken<'a>, String> {
        let (listener, question) = (self.listener(), self.question);
        if question.to.is_some() && listener.original.is_none() {
            let name = &listener.name;
            return Err(format!("`{name}` takes no connections that were going elsewhere (`original_destination: true`)"));
        }
        if listener.tls == CallerTls::Strict && question.from.principal.is_none() {
            let line = self.lines.below(&self.place(), &["tls"]);
            self.out.add("Connection", "caller", "must be of the mesh, or is refused: say who it is, with `--from`", line);
        }
        if let Speaks::Tcp(cluster) = listener.speaks {
            return Ok(Spoken::Tcp(cluster));
        }
        let url = || question.url.as_ref().ok_or_else(|| "it is HTTP that is spoken there: say which URL".to_owned());
        match (&listener.original, listener.speaks) {
            (Some(original), Speaks::Original) => self.found_out(original),
            (_, Speaks::Tls) => Ok(Spoken::Tls(url()?)),
            _ => Ok(Spoken::Http(url()?)),
        }
    }

    /// What is spoken on a redirected connection, as far as the question says.
    fn found_out(&mut self, original: &Original) -> Result<Spoken<'a>, String> {
        let (listener, url) = (self.listener(), self.question.url.as_ref());
        let to = self.to.map_or_else(|| "the listener itself".to_owned(), |to| to.to_string());
        self.out.add("Connection", "was going to", to, Source::Derived);
        let http = || url.map(Spoken::Http).ok_or_else(|| "it is HTTP that is spoken there: say which URL".to_owned());
        match listener.tls {
            CallerTls::Edge => return http(),
            CallerTls::Permissive if self.question.from.principal.is_none() => {}
            CallerTls::Off => {}
            CallerTls::Permissive | CallerTls::Strict => {
                let told = if url.is_some() { "HTTP" } else { "opaque TCP" };
                self.out.add("Connection", "is spoken", format!("{told}, which mutual TLS has agreed on"), Source::Derived);
                return Ok(url.map_or(Spoken::Bytes(None), Spoken::Http));
            }
        }
        let (protocol, source) = self.declared(original);
        let tls = url.filter(|url| url.scheme_str() == Some("https"));
        let (told, spoken) = match (protocol, url, tls) {
            (PortProtocol::Tcp, ..) => ("opaque TCP: nobody looks into it", Spoken::Bytes(None)),
            (PortProtocol::Http, _, None) => ("HTTP", http()?),
            (PortProtocol::Http, _, Some(_)) => {
                return Err("`https:` is TLS, and it is HTTP that is spoken there; what was redirected is asked about with `to`"
                    .to_owned());
            }
            (PortProtocol::Auto, None, _) => {
                ("found out: taken here for neither HTTP nor TLS, which go by host and server name: `--url`", Spoken::Bytes(None))
            }
            (PortProtocol::Auto, Some(_), Some(url)) => {
                ("found out by the first bytes: TLS", Spoken::Bytes(server_name(authority(url, self.question))))
            }
            (PortProtocol::Auto, Some(url), None) => ("found out by the first bytes: HTTP", Spoken::Http(url)),
        };
        self.out.add("Connection", "is spoken", told, source);
        Ok(spoken)
    }

    /// What is declared to be spoken there, and where.
    fn declared(&self, original: &Original) -> (PortProtocol, Source) {
        let listener = self.listener();
        // Who calls an outbound listener itself can say where it wants to go in HTTP only.
        if self.to.is_none() && !listener.is_inbound() {
            return (PortProtocol::Http, Source::Derived);
        }
        let port = self.to.map_or(listener.port, |to| to.port());
        let listed = original.ports.iter().find(|(first, last, _)| (*first..=*last).contains(&port));
        let source = match listed {
            Some((first, last, _)) => {
                let keys = [first.to_string(), format!("{first}-{last}")];
                let found = keys.iter().map(|key| self.lines.below(&self.place(), &["ports", key]));
                found.fold(Source::Default, |known, one| if known == Source::Default { one } else { known })
            }
            None => self.lines.below(&self.place(), &["protocol"]),
        };
        (original.speaks(port), source)
    }

    /// Opaque TCP of a listener that has one cluster for it.
    fn tcp(&mut self, cluster: ClusterId) {
        if self.refuses(None, None) {
            return self.reset("the connection is refused", Source::Derived);
        }
        let line = self.lines.below(&self.place(), &["cluster"]);
        let cluster = self.snapshot.cluster(cluster);
        self.out.add("Backends", &*cluster.name, "takes every connection of the listener, which carries opaque TCP", line);
        self.endpoints(cluster, false);
        self.connect(cluster);
    }

    /// TLS of a listener that passes it through.
    fn tls(&mut self, url: &Uri) {
        let host = normalise_host(authority(url, self.question));
        self.out.add("Request", "server name", &*host, Source::Derived);
        if self.refuses(Some(&host), None) {
            return self.reset("the connection is refused", Source::Derived);
        }
        match self.decide(&Facts::of_tls(&host, &NO_HEADERS)) {
            Decision::Forward { rule, backend } => self.forward(rule, backend, None),
            // Rules of its routes have backends and nothing else.
            Decision::None(_) | Decision::Respond(_) | Decision::Redirect(_) => {
                let why = "no route of the listener has this server name";
                self.out.add("Answer", "TLS alert unrecognized_name", why, Source::Derived);
            }
        }
    }

    /// What was redirected and is not HTTP.
    fn bytes(&mut self, name: Option<&str>) {
        if let Some(name) = name {
            self.out.add("Request", "server name", name, Source::Derived);
        }
        // What the caller's own TLS is for, an inbound listener need not believe.
        if self.refuses(name.filter(|_| !self.listener().is_inbound()), None) {
            return self.reset("the connection is refused", Source::Derived);
        }
        let mut reasons: Vec<Reason> = Vec::new();
        let decided = decide_bytes(self.snapshot, self.id, self.to, name, self.draw, &mut reasons);
        reasons.iter().for_each(|reason| self.tell(reason));
        let decided = decided.and_then(|bytes| Some((bytes.rule.or(self.listener().app_rule)?, bytes.backend)));
        match decided {
            Some((rule, backend)) => self.forward(rule, backend, None),
            None => {
                let line = self.lines.below(&self.place(), &["unknown_destinations"]);
                self.reset("no route is about it, and unknown destinations are denied", line);
            }
        }
    }

    fn reset(&mut self, why: &str, source: Source) {
        self.out.add("Answer", "reset", why, source);
    }

    fn http(&mut self, url: &Uri) -> Result<(), String> {
        let question = self.question;
        let host = normalise_host(authority(url, question));
        let path = normalise(url.path()).map_err(|_| "the path has an encoded NUL in it; weir answers 400".to_owned())?;
        for (name, value) in [("method", question.method.as_str()), ("host", &*host), ("path to match", &*path)] {
            self.out.add("Request", name, value, Source::Derived);
        }
        let request = Request { method: &question.method, path: &path, received: url.path(), headers: &question.headers };
        if self.refuses(Some(&host), Some(request)) {
            self.out.add("Answer", "403 denied", "the request is refused", Source::Derived);
            return Ok(());
        }
        let query = url.query();
        match self.decide(&Facts { method: &question.method, host: &host, path: &path, query, headers: &question.headers }) {
            Decision::None(NoRoute::Host) => {
                self.out.add("Answer", "404 no_route", "no route of the listener has this host", Source::Derived);
            }
            Decision::None(NoRoute::Rule(_)) => {
                self.out.add("Answer", "404 no_rule", "none of the route's rules match", Source::Derived);
            }
            Decision::Respond(id) => {
                if let Action::Respond(respond) = &self.snapshot.rule(id).action {
                    let line = self.lines.below(&self.rule_steps(id), &["respond"]);
                    self.out.add("Answer", respond.status.to_string(), "a direct answer of the rule", line);
                }
            }
            Decision::Redirect(id) => {
                if let Action::Redirect(redirect) = &self.snapshot.rule(id).action {
                    // As when it is served: the host with its port, and the path as it came unless it is the path that changes.
                    let scheme = url.scheme_str().unwrap_or("http");
                    let path = if redirect.path.is_some() { &*path } else { url.path() };
                    let location = redirect.location(scheme, authority(url, question), path, query);
                    let line = self.lines.below(&self.rule_steps(id), &["redirect"]);
                    self.out.add("Answer", redirect.status.to_string(), format!("location: {location}"), line);
                }
            }
            Decision::Forward { rule, backend } => self.forward(rule, backend, Some(url)),
        }
        Ok(())
    }

    fn decide(&mut self, facts: &Facts<'_>) -> Decision {
        let mut reasons: Vec<Reason> = Vec::new();
        let decision = decide(self.snapshot, self.id, facts, self.draw, &mut reasons);
        reasons.iter().for_each(|reason| self.tell(reason));
        decision
    }

    /// Whether the call may not be made; tells what each policy says to it.
    fn refuses(&mut self, host: Option<&str>, request: Option<Request<'_>>) -> bool {
        let listener = self.listener();
        // On an outbound listener ports are its own, and where calls go is not for policies to say.
        let port = self.to.filter(|_| listener.is_inbound()).map_or(listener.port, |to| to.port());
        let call = Call { caller: self.question.from.caller(), port, host, request };
        let mut reasons: Vec<Reason> = Vec::new();
        let verdict = authorize(self.snapshot, self.id, &call, &mut reasons);
        reasons.iter().for_each(|reason| self.tell(reason));
        if !reasons.is_empty() {
            let told = verdict.tell(self.snapshot).unwrap_or_else(|| "allowed".to_owned());
            self.out.add("Authorization", "verdict", told, Source::Derived);
        }
        verdict.refused.is_some()
    }

    fn tell_policy(&mut self, id: PolicyId, [from, to]: [Truth; 2], holds: bool) {
        let policy = self.snapshot.policy(id);
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
        self.out.add("Authorization", &*policy.name, why, self.lines.at(&steps(&[&"authorization", &id.index()])));
    }

    /// Where a rule stands in the file: `routes[i].rules[j]`. Of the rule for an app, nothing stands there.
    fn rule_steps(&self, id: RuleId) -> Vec<Step> {
        let route = self.snapshot.rule(id).route;
        let first = self.snapshot.rules.iter().position(|rule| rule.route == route).unwrap_or(0);
        steps(&[&"routes", &route.index(), &"rules", &(id.index() - first)])
    }

    fn tell(&mut self, reason: &Reason) {
        match reason {
            Reason::Route(id) => {
                let line = self.lines.at(&steps(&[&"routes", &id.index()]));
                self.out.add("Route", &*self.snapshot.route(*id).name, "has the most specific host", line);
            }
            Reason::Destination(id) => {
                let line = self.lines.at(&steps(&[&"routes", &id.index()]));
                self.out.add("Route", &*self.snapshot.route(*id).name, "has the most specific destination", line);
            }
            Reason::NoDestination => self.out.add("Route", "-", "no route is about it", Source::Derived),
            Reason::NoHost => self.out.add("Route", "-", "no route has the host", Source::Derived),
            Reason::Lost(id, failed) => {
                let why = match failed {
                    Failed::Path => "the path differs".to_owned(),
                    Failed::Method => "the method differs".to_owned(),
                    Failed::Header(name) => format!("the header `{name}` does not fit"),
                    Failed::Query(name) => format!("the query parameter `{name}` does not fit"),
                    Failed::Grpc => "the request is not gRPC".to_owned(),
                };
                self.out.add("Rules", &*self.snapshot.rule(*id).name, format!("no: {why}"), self.lines.at(&self.rule_steps(*id)));
            }
            Reason::Won(id) => {
                self.out.add("Rules", &*self.snapshot.rule(*id).name, "matches", self.lines.at(&self.rule_steps(*id)));
            }
            Reason::App(id) => {
                self.out.add("Rules", &*self.snapshot.rule(*id).name, "takes what no route speaks for", Source::Derived);
            }
            Reason::Backend(_) => {}
            Reason::Policy { policy, from, to, holds } => self.tell_policy(*policy, [*from, *to], *holds),
        }
    }

    /// To a backend of a rule; what it is sent, if it is a request.
    fn forward(&mut self, id: RuleId, chosen: usize, url: Option<&Uri>) {
        let rule = self.snapshot.rule(id);
        let here = self.rule_steps(id);
        let Action::Forward(split) = &rule.action else { return };
        for (place, backend) in split.backends.iter().enumerate() {
            let share = 100.0 * split.weights.weight(place) as f64 / split.weights.total().max(1) as f64;
            let drawn = if place == chosen && split.backends.len() > 1 { ", drawn this time" } else { "" };
            let mut at = here.clone();
            at.extend(steps(&[&"backends", &place]));
            // Of what goes where it was going, nothing stands there.
            let line = if self.listener().app_rule == Some(id) { Source::Derived } else { self.lines.at(&at) };
            let name = &*self.snapshot.cluster(backend.cluster).name;
            self.out.add("Backends", name, format!("{share:.4} %{drawn}").replace(".0000", ""), line);
        }
        let backend = &split.backends[chosen];
        let cluster = self.snapshot.cluster(backend.cluster);
        if let Some(url) = url {
            self.sent(rule, &backend.request_headers, url, &here);
        }
        self.endpoints(cluster, url.is_some());
        if url.is_some() {
            self.limits(rule, cluster, &here);
        } else {
            self.connect(cluster);
        }
    }

    fn endpoints(&mut self, cluster: &Cluster, is_http: bool) {
        if let Some(destination) = cluster.destination
            && let Some(to) = self.to
        {
            let told = match destination {
                Destination::Elsewhere => "where the connection was going".to_owned(),
                Destination::App | Destination::AppAsCaller => {
                    format!("the app, where the caller asked for it, or on port {} of loopback", to.port())
                }
            };
            return self.out.add("Endpoints", to.to_string(), told, Source::Derived);
        }
        let known = (self.states)(cluster).unwrap_or_else(|| configured(cluster));
        if known.is_empty() {
            let why = match cluster.destination {
                Some(_) => "nobody knows where it was going (`--to` says it)",
                None => "there is none",
            };
            let end = if is_http { "weir answers 503 no_endpoint" } else { "weir resets the connection" };
            self.out.add("Endpoints", "-", format!("{why}; {end}"), Source::Derived);
        }
        for (address, state) in known {
            self.out.add("Endpoints", address, state, self.lines.at(&steps(&[&"clusters", &&*cluster.name])));
        }
    }

    /// The request as the upstream sees it.
    fn sent(&mut self, rule: &Rule, backend: &HeaderOps, url: &Uri, here: &[Step]) {
        let path = normalise(url.path()).unwrap_or_default();
        let rewrite = rule.rewrite.as_ref();
        let new = rewrite.and_then(|rewrite| rewrite.path.as_ref()).map(|rewrite| rewrite.apply(&path).into_owned());
        let mut target = new.clone().unwrap_or_else(|| url.path().to_owned());
        if let Some(query) = url.query() {
            target = format!("{target}?{query}");
        }
        let source = if new.is_some() { self.lines.below(here, &["rewrite", "path"]) } else { Source::Derived };
        self.out.add("Sent upstream", "target", target, source);
        if let Some((host, _)) = rewrite.and_then(|rewrite| rewrite.host.as_ref()) {
            self.out.add(
                "Sent upstream",
                "host",
                String::from_utf8_lossy(host.as_bytes()),
                self.lines.below(here, &["rewrite", "host"]),
            );
        }
        let (before, mut after) = (&self.question.headers, self.question.headers.clone());
        rule.request_headers.apply(&mut after);
        backend.apply(&mut after);
        let source = || self.lines.below(here, &["headers"]);
        // All values of a name together: a field that comes twice has not changed because of that.
        for name in after.keys().filter(|name| !before.get_all(*name).iter().eq(after.get_all(*name))) {
            for value in after.get_all(name) {
                self.out.add("Sent upstream", name.as_str(), String::from_utf8_lossy(value.as_bytes()), source());
            }
        }
        for name in before.keys().filter(|name| !after.contains_key(*name)) {
            self.out.add("Sent upstream", name.as_str(), "removed", source());
        }
    }

    fn limits(&mut self, rule: &Rule, cluster: &Cluster, here: &[Step]) {
        let span = |limit: Option<Duration>| limit.map_or_else(|| "off".to_owned(), |limit| format!("{limit:?}"));
        for (name, limit) in
            [("request", rule.timeouts.request), ("per_try", rule.timeouts.per_try), ("idle", rule.timeouts.idle)]
        {
            self.out.add("Timeouts", name, span(limit), self.lines.below(here, &["timeout", name]));
        }
        self.connect(cluster);
        let of_cluster = steps(&[&"clusters", &&*cluster.name]);
        match &rule.retry {
            None => self.out.add(
                "Retries",
                "attempts",
                "only what was not processed: failed connects, refused streams",
                Source::Default,
            ),
            Some(retry) => {
                self.out.add("Retries", "attempts", retry.attempts.to_string(), self.lines.below(here, &["retry", "attempts"]));
                self.out.add("Retries", "on", retry.on.to_string(), self.lines.below(here, &["retry", "on"]));
                let backoff = format!("{:?} to {:?}", retry.base, retry.max);
                self.out.add("Retries", "backoff", backoff, self.lines.below(here, &["retry", "backoff"]));
            }
        }
        let budget = cluster.retry_budget;
        let said = format!("{} % of requests and {} a second", budget.percent, budget.min_per_second);
        self.out.add("Retries", "budget", said, self.lines.below(&of_cluster, &["retry_budget"]));
    }

    fn connect(&mut self, cluster: &Cluster) {
        let line = self.lines.below(&steps(&[&"clusters", &&*cluster.name]), &["connect_timeout"]);
        self.out.add("Timeouts", "connect", format!("{:?}", cluster.connect_timeout), line);
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

/// The name that TLS shows; of an address it shows none (RFC 6066, section 3).
fn server_name(authority: &str) -> Option<String> {
    let host = normalise_host(authority);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    (!bare.is_empty() && bare.parse::<IpAddr>().is_err()).then(|| host.into_owned())
}

/// Host and port of a URL, or of the `Host` field.
fn authority<'q>(url: &'q Uri, question: &'q Question) -> &'q str {
    let of_url = url.authority().map(Authority::as_str);
    of_url.or_else(|| question.headers.get("host")?.to_str().ok()).unwrap_or_default()
}

/// Addresses with commas between them.
pub fn listed(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
