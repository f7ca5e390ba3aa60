//! The routing decision: one pure function with many callers (serving, `explain`, dry runs, replays, property tests).
//!
//! Decides listener and request -> rule -> backend. Which endpoint of the backend's cluster is a second decision, over
//! the state of endpoints, made where that state lives. Given the same snapshot, facts and draw the answer is the same.

use std::net::SocketAddr;

use http::{HeaderMap, Method};

use crate::authorize::Truth;
use crate::matcher::Failed;
use crate::snapshot::{Action, ClusterId, ListenerId, PolicyId, RouteId, RuleId, Snapshot};

/// What routing may know of a request.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'r> {
    /// The method.
    pub method: &'r Method,
    /// The host in its normal form ([`crate::path::normalise_host`]).
    pub host: &'r str,
    /// The path in its normal form ([`crate::path::normalise`]), without the query.
    pub path: &'r str,
    /// The query, without the question mark.
    pub query: Option<&'r str>,
    /// The header fields as received.
    pub headers: &'r HeaderMap,
}

impl<'r> Facts<'r> {
    /// What routing may know of TLS that is passed through: to whom it wants to be connected.
    pub fn of_tls(server_name: &'r str, no_headers: &'r HeaderMap) -> Self {
        Self { method: &Method::CONNECT, host: server_name, path: "/", query: None, headers: no_headers }
    }
}

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send it to a backend of the rule.
    Forward {
        /// The rule that won.
        rule: RuleId,
        /// The place of the backend in the rule's split.
        backend: usize,
    },
    /// Answer as the rule's `redirect` says.
    Redirect(RuleId),
    /// Answer as the rule's `respond` says.
    Respond(RuleId),
    /// Nothing speaks for it.
    None(NoRoute),
}

/// Why nothing speaks for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// No route of the listener has the host.
    Host,
    /// The route has the host, but none of its rules match.
    Rule(RouteId),
}

/// A step of the decision, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The host led to this route.
    Route(RouteId),
    /// No route has the host.
    NoHost,
    /// Where the connection was going led to this route.
    Destination(RouteId),
    /// No route has the server name, nor where the connection was going.
    NoDestination,
    /// A match of this rule was looked at and lost, by this condition.
    Lost(RuleId, Failed),
    /// This rule won.
    Won(RuleId),
    /// What no rule speaks for goes to the app, or where it was going.
    App(RuleId),
    /// The draw fell to this backend.
    Backend(usize),
    /// A policy was looked at.
    Policy {
        /// Which.
        policy: PolicyId,
        /// Whether it is about this caller.
        from: Truth,
        /// Whether it is about what is asked for.
        to: Truth,
        /// Whether it does what it is there for.
        holds: bool,
    },
}

/// Where reasons go. `()` takes none, and the compiler then removes the work of finding them.
pub trait Reasons {
    /// Whether reasons are wanted.
    const WANTED: bool;
    /// Takes one reason.
    fn note(&mut self, reason: Reason);
}

impl Reasons for () {
    const WANTED: bool = false;
    fn note(&mut self, _: Reason) {}
}

impl Reasons for Vec<Reason> {
    const WANTED: bool = true;
    fn note(&mut self, reason: Reason) {
        self.push(reason);
    }
}

/// Decides. `draw` is uniform over all of `u64` and chooses among weighted backends.
pub fn decide<R: Reasons>(snapshot: &Snapshot, listener: ListenerId, facts: &Facts<'_>, draw: u64, reasons: &mut R) -> Decision {
    let listener = snapshot.listener(listener);
    let found = match listener.hosts.find(facts.host) {
        None => {
            if R::WANTED {
                reasons.note(Reason::NoHost);
            }
            Err(NoRoute::Host)
        }
        Some(id) => {
            let route = snapshot.route(id);
            let won = route.table.find(facts).map(|entry| entry.rule);
            if R::WANTED {
                reasons.note(Reason::Route(id));
                note_losers(snapshot, id, facts, reasons);
            }
            won.ok_or(NoRoute::Rule(id))
        }
    };
    let rule = match (found, listener.app_rule) {
        (Ok(rule), _) => {
            if R::WANTED {
                reasons.note(Reason::Won(rule));
            }
            rule
        }
        (Err(_), Some(app)) => {
            if R::WANTED {
                reasons.note(Reason::App(app));
            }
            app
        }
        (Err(why), None) => return Decision::None(why),
    };
    match &snapshot.rule(rule).action {
        Action::Redirect(_) => Decision::Redirect(rule),
        Action::Respond(_) => Decision::Respond(rule),
        Action::Forward(split) => {
            let backend = split.weights.pick(draw);
            if R::WANTED {
                reasons.note(Reason::Backend(backend));
            }
            Decision::Forward { rule, backend }
        }
    }
}

/// Where bytes go that nobody looks into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes {
    /// The rule that says so; `None` if they go where they were going.
    pub rule: Option<RuleId>,
    /// The place of the backend in the rule's split.
    pub backend: usize,
    /// Where they go.
    pub cluster: ClusterId,
}

/// Decides about a connection that was going `to` somewhere before the kernel handed it over: by the server name, if it is TLS
/// and shows one, else by the destination. `None` if it may not go anywhere.
pub fn decide_bytes<R: Reasons>(
    snapshot: &Snapshot,
    listener: ListenerId,
    to: Option<SocketAddr>,
    server_name: Option<&str>,
    draw: u64,
    reasons: &mut R,
) -> Option<Bytes> {
    let listener = snapshot.listener(listener);
    let original = listener.original.as_ref()?;
    let by_name = server_name.and_then(|name| original.names.find(name));
    let route = by_name.or_else(|| original.destinations.find(to?));
    let no_headers = HeaderMap::new();
    let facts = Facts::of_tls(server_name.unwrap_or_default(), &no_headers);
    let rule = route.and_then(|route| snapshot.route(route).table.find(&facts)).map(|entry| entry.rule);
    if R::WANTED {
        reasons.note(match (by_name, route) {
            (Some(id), _) => Reason::Route(id),
            (None, Some(id)) => Reason::Destination(id),
            (None, None) => Reason::NoDestination,
        });
        if let Some(id) = route {
            note_losers(snapshot, id, &facts, reasons);
        }
        if let Some(last) = rule.map(Reason::Won).or_else(|| listener.app_rule.map(Reason::App)) {
            reasons.note(last);
        }
    }
    match &snapshot.rule(rule.or(listener.app_rule)?).action {
        Action::Forward(split) => {
            let backend = split.weights.pick(draw);
            Some(Bytes { rule, backend, cluster: split.backends[backend].cluster })
        }
        Action::Redirect(_) | Action::Respond(_) => None,
    }
}

fn note_losers<R: Reasons>(snapshot: &Snapshot, route: RouteId, facts: &Facts<'_>, reasons: &mut R) {
    for entry in snapshot.route(route).table.entries() {
        match entry.matches.first_failed(facts) {
            Some(failed) => reasons.note(Reason::Lost(entry.rule, failed)),
            None => return,
        }
    }
}
