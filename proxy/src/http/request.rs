//! The request path: every request, whatever its protocol, goes through [`handle`], top to bottom.
//!
//! First everything is decided, without waiting for anything; then it is done. The snapshot is taken once and serves
//! the request to its end, so no request sees two generations. What happens to the request is in its record, which is
//! finished by the response's body, or by being dropped when the caller goes away.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Instant;

use http::header::{EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode, Uri, Version};
use weir_config::path::normalise_host;
use weir_config::schema::{ForwardingHeaders, UpstreamProtocol};
use weir_config::snapshot::{Action, Backend, CallerTls, Rewrite, Rule, RuleId, UpstreamTls};
use weir_config::{Decision, Facts, NoRoute, decide};

use super::admission::{admit, permits_opaque};
use super::body::{ResponseBody, Tunnel, grpc_status};
use super::connection::Connection;
use super::correlation::{self, Correlation, REQUEST_ID};
use super::head::{authority, check, outgoing, path};
use super::informational::Caller;
use super::seen::Seen;
use super::upgrade::{self, Asked};
use super::{forwarding, hop, logged};
use crate::balance::cluster::ClusterState;
use crate::clock::{Alarm, Clocks};
use crate::error::Fault;
use crate::h1::spare;
use crate::h1::spelling::Spelling;
use crate::observe::Record;
use crate::observe::record::LogEntry;
use crate::policy::attempts::{self, Job, Report};
use crate::policy::deadline;
use crate::respond::{self, UNPROCESSED, WEIR_ERROR};
use crate::state::Worker;
use crate::state::listener::Current;
use crate::upstream::body::{RequestBody, Source};
use crate::upstream::informational::{Hold, HoldGate, Inform};
use crate::upstream::{Answer, Waiting};

/// Tells the caller that it took more than one attempt.
static ATTEMPTS: HeaderName = HeaderName::from_static("x-weir-attempts");

/// Serves one request; `spelling` is how its head came over HTTP/1.
pub async fn handle(
    connection: &Rc<Connection>,
    mut head: Box<Parts>,
    source: Source,
    spelling: &Spelling,
    caller: Caller,
) -> Response<ResponseBody> {
    let mut record = Record::start(Instant::now());
    let current = connection.listener.current(&connection.worker);
    let seen = Seen::of(&head.headers);
    record.grpc = seen.grpc();
    let is_head = head.method == Method::HEAD;
    let correlation = correlate(connection, &mut head.headers, seen, record.start_at());
    record.log = logged::log_entry(connection, &current, &head, &correlation);

    let response = match plan(connection, &current, &head, seen, &mut record) {
        Ok(Plan::Forward(forward)) => {
            let came = Came { head, source, spelling, caller };
            forward.run(connection, &current, came, record).await
        }
        // It would be taken for a tunnel.
        Ok(Plan::Respond(rule)) if upgrade::expects_tunnel(&head) && is_2xx(rule_of(&current, rule)) => {
            respond::fault(Fault::ConnectRefused, record)
        }
        Ok(Plan::Respond(rule)) => match &rule_of(&current, rule).action {
            Action::Respond(answer) => respond::direct(answer, rule_of(&current, rule), record),
            Action::Forward(_) | Action::Redirect(_) => respond::fault(Fault::NoRule, record),
        },
        Ok(Plan::Redirect(rule, location)) => match &rule_of(&current, rule).action {
            Action::Redirect(redirect) => respond::redirect(&location, redirect.status, rule_of(&current, rule), record),
            Action::Forward(_) | Action::Respond(_) => respond::fault(Fault::NoRule, record),
        },
        Err(fault) => {
            if matches!(fault, Fault::BadRequest(_)) {
                connection.listener.shard.malformed.add(1);
            }
            respond::fault(fault, record)
        }
    };
    tag(response, correlation.request_id, is_head)
}

fn is_2xx(rule: &Rule) -> bool {
    matches!(&rule.action, Action::Respond(answer) if answer.status.is_success())
}

fn rule_of(current: &Current, rule: RuleId) -> &Rule {
    current.prepared.snapshot().rule(rule)
}

/// The last of the path: the request's id, and no content for HEAD of what weir itself says.
fn tag(mut response: Response<ResponseBody>, id: HeaderValue, is_head: bool) -> Response<ResponseBody> {
    if is_head && response.body().is_own() {
        response.body_mut().without_content();
    }
    response.headers_mut().insert(REQUEST_ID.clone(), id);
    response
}

fn correlate(connection: &Connection, headers: &mut HeaderMap, seen: Seen, began: Instant) -> Correlation {
    let fresh = || fresh_id(&connection.worker, began);
    let found = correlation::ensure(headers, seen.trace(), connection.caller.is_trusted(), fresh);
    let shard = &connection.listener.shard;
    if found.replaced {
        shard.bad_ids.add(1);
    }
    if found.malformed > 0 {
        shard.bad_traces.add(found.malformed.into());
    }
    found
}

/// An id for a request that began at this moment.
pub(super) fn fresh_id(worker: &Worker, began: Instant) -> HeaderValue {
    correlation::fresh_id(worker.unix_millis(began), worker.draw_wide(), &mut worker.ids.borrow_mut())
}

/// What to do with a request, decided.
enum Plan {
    Forward(Forward),
    Respond(RuleId),
    Redirect(RuleId, String),
}

/// A request as it came.
struct Came<'r> {
    head: Box<Parts>,
    source: Source,
    spelling: &'r Spelling,
    caller: Caller,
}

/// A request that goes upstream.
struct Forward {
    rule: RuleId,
    backend: usize,
    cluster: Rc<ClusterState>,
    /// The path and query to send, if the rule rewrites it.
    target: Option<PathAndQuery>,
    seen: Seen,
}

/// Decides. Nothing here waits, and nothing has happened yet when it returns.
fn plan(connection: &Connection, current: &Current, head: &Parts, seen: Seen, record: &mut Record) -> Result<Plan, Fault> {
    let decided = admit(connection, current, head, &mut record.log)
        .and_then(|()| check(current, head, seen))
        .and_then(|()| decide_route(connection, current, head));
    let (rule, backend) = match decided {
        Ok(Decision::Forward { rule, backend }) => (rule, backend),
        Ok(Decision::Respond(rule) | Decision::Redirect(rule)) => (rule, 0),
        Ok(Decision::None(why)) => {
            record.belongs_to(&current.prepared.unmatched(&connection.worker));
            return Err(no_route(why, current, record));
        }
        Err(fault) => {
            record.belongs_to(&current.prepared.unmatched(&connection.worker));
            return Err(fault);
        }
    };
    record.belongs_to(&current.prepared.series(&connection.worker, rule, backend));
    if let Some(log) = &mut record.log {
        name_rule(log, current, rule);
    }
    let found = rule_of(current, rule);
    match &found.action {
        Action::Respond(_) => Ok(Plan::Respond(rule)),
        Action::Redirect(redirect) => {
            // The path as it came, unless it is the path that changes.
            let path = if redirect.path.is_some() { path(head)? } else { Cow::Borrowed(head.uri.path()) };
            let location = redirect.location(scheme(connection, head), authority(head)?, &path, head.uri.query());
            Ok(Plan::Redirect(rule, location))
        }
        Action::Forward(split) => {
            let cluster = current.prepared.cluster(&connection.worker, split.backends[backend].cluster);
            if head.method == Method::CONNECT && !found.upgrades.connect && !may_ask_proxy(connection, current, &cluster, head) {
                return Err(Fault::ConnectRefused);
            }
            if let Some(log) = &mut record.log {
                log.cluster = cluster.config().name.clone();
            }
            let target = match &found.rewrite {
                Some(rewrite) => rewritten(rewrite, &path(head)?, head.uri.query()),
                None => None,
            };
            Ok(Plan::Forward(Forward { rule, backend, cluster, target, seen }))
        }
    }
}

/// Whether it goes where it was going, for no route speaks for it. That may be a forward proxy, which is asked in words of its own:
/// they stay as they are.
fn goes_on(connection: &Connection, cluster: &ClusterState) -> bool {
    connection.ends.destination.is_some() && cluster.config().destination.is_some()
}

/// Whether CONNECT goes on, to be a tunnel if whom the app called agrees: bytes that nobody judges. Callers of the app could say in
/// them what no rule has seen, to an app that agrees to anything.
fn may_ask_proxy(connection: &Connection, current: &Current, cluster: &ClusterState, head: &Parts) -> bool {
    let asks_proxy = goes_on(connection, cluster) && !connection.listener.is_inbound() && head.version != Version::HTTP_2;
    asks_proxy && permits_opaque(connection, current)
}

/// The scheme that the caller used, as far as it is known: a trusted proxy in front may have ended TLS.
fn scheme(connection: &Connection, head: &Parts) -> &'static str {
    let told = head.headers.get("x-forwarded-proto").filter(|_| connection.caller.is_trusted());
    match told.map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        _ => connection.caller.scheme(),
    }
}

fn no_route(why: NoRoute, current: &Current, record: &mut Record) -> Fault {
    match why {
        NoRoute::Host => Fault::NoRoute,
        NoRoute::Rule(route) => {
            if let Some(log) = &mut record.log {
                log.route = current.prepared.snapshot().route(route).name.clone();
            }
            Fault::NoRule
        }
    }
}

fn name_rule(log: &mut LogEntry, current: &Current, rule: RuleId) {
    let snapshot = current.prepared.snapshot();
    let rule = snapshot.rule(rule);
    log.rule = rule.name.clone();
    log.route = snapshot.route(rule.route).name.clone();
}

/// The route's decision.
fn decide_route(connection: &Connection, current: &Current, head: &Parts) -> Result<Decision, Fault> {
    let facts = Facts {
        method: &head.method,
        host: &normalise_host(authority(head)?),
        path: &path(head)?,
        query: head.uri.query(),
        headers: &head.headers,
    };
    Ok(decide(current.prepared.snapshot(), current.id, &facts, connection.worker.draw(), &mut ()))
}

/// The target after the rewrite. A result that is no valid target leaves the request as it was.
fn rewritten(rewrite: &Rewrite, path: &str, query: Option<&str>) -> Option<PathAndQuery> {
    let path = rewrite.path.as_ref()?.apply(path);
    match query {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(&*path),
    }
    .ok()
}

impl Forward {
    /// Answers CONNECT: with a tunnel to an endpoint of the cluster.
    async fn open_tunnel(self, connection: &Connection, caller: Source, mut record: Record) -> Response<ResponseBody> {
        let mut report = Report::default();
        let opened = attempts::open(&self.cluster, &connection.worker, &connection.ends, &mut report).await;
        record.tried(report.attempts, report.denied, report.upstream);
        match opened {
            Ok((lease, upstream)) => {
                record.head(StatusCode::OK);
                Response::new(ResponseBody::tunnel(Spelling::default(), record, lease, Tunnel { caller, upstream }))
            }
            Err(fault) => respond::fault(fault, record),
        }
    }

    /// Sends the request upstream and turns the answer into a response.
    async fn run(
        self,
        connection: &Rc<Connection>,
        current: &Current,
        came: Came<'_>,
        mut record: Record,
    ) -> Response<ResponseBody> {
        let Came { mut head, source, spelling, caller } = came;
        let rule = rule_of(current, self.rule);
        let Action::Forward(split) = &rule.action else { return respond::fault(Fault::NoRule, record) };
        let backend = &split.backends[self.backend];
        let cluster = self.cluster.config();
        self.cluster.begin(record.start_at());
        if head.method == Method::CONNECT && rule.upgrades.connect {
            return self.open_tunnel(connection, source, record).await;
        }
        let to_proxy = head.method == Method::CONNECT;
        let upgrade = upgrade::asked(rule, &head, &source, self.seen);
        if (to_proxy && !source.is_end()) || (upgrade.is_none() && upgrade::is_extended(&head)) {
            return respond::fault(Fault::ConnectRefused, record);
        }
        let from_h2 = head.version == Version::HTTP_2;
        let was_h1 = connection.peer.is_some() && hop::was_h1(&mut head.headers);
        let in_mesh = cluster.tls.as_ref().is_some_and(UpstreamTls::is_mesh);
        let http2 = match cluster.protocol {
            UpstreamProtocol::Http1 => false,
            UpstreamProtocol::Http2 => true,
            // In the mesh many requests share few connections, for each costs a handshake.
            UpstreamProtocol::Auto => in_mesh || from_h2 && !was_h1,
        };
        if in_mesh {
            hop::tell_h1(&mut head.headers, http2 && !from_h2);
        }
        // What follows a request for another protocol is no body; it waits for the answer.
        let (source, ahead) = if to_proxy || upgrade.is_some() { (Source::Empty, source) } else { (source, Source::Empty) };
        let (body, held) = body(connection, source, &head, self.seen, &caller);
        let mut clocks = clocks(connection, rule, &head.headers, self.seen, &record);
        prepare_head(connection, current, &self, &mut head);
        let asked = match upgrade {
            Some(protocol) => Some(Asked::upstream(protocol, &mut head, from_h2, connection.worker.draw_wide())),
            None => to_proxy.then(Asked::of_proxy),
        };
        let asked = asked.map(|asked| Box::new((asked, ahead)));
        let endpoint = match self.cluster.pick(connection.worker.draw(), &connection.ends) {
            Ok(endpoint) => endpoint,
            Err(fault) => return respond::fault(fault, record),
        };
        let goes_on = goes_on(connection, &self.cluster);
        if let Err(fault) = outgoing(&mut head, http2 && asked.is_none(), from_h2, goes_on, endpoint.address) {
            return respond::fault(fault, record);
        }
        let waiting = Waiting { caller: &caller, tell_continue: from_h2 && held.is_some(), hold: held };
        let grpc = record.grpc;
        let mut job = Job {
            rule,
            cluster: &self.cluster,
            first: endpoint,
            head,
            body: &body,
            spelling,
            http2,
            grpc,
            upgrade: asked.is_some(),
            beyond: !connection.listener.is_inbound(),
            ends: &connection.ends,
            waiting,
        };
        let mut report = Report::default();
        let ended = attempts::run(&connection.worker, &mut job, &mut clocks, &mut report).await;
        spare::give_head(job.head);
        record.tried(report.attempts, report.denied, report.upstream);
        match ended {
            Ok(answer) => {
                body.settle();
                incoming(answer, rule, backend, body, asked, clocks, &report, record)
            }
            Err(fault) => {
                record.bytes_in = body.bytes();
                match body.failed() {
                    // Another weir, or whoever else called, may try another pod.
                    None if !report.reached && connection.listener.is_inbound() => respond::unprocessed(fault, record),
                    failed => respond::fault(failed.unwrap_or(fault), record),
                }
            }
        }
    }
}

/// The clocks of a request: the rule's, and the caller's own deadline.
fn clocks(connection: &Connection, rule: &Rule, headers: &HeaderMap, seen: Seen, record: &Record) -> Clocks {
    let began = tokio::time::Instant::from_std(record.start_at());
    let told = if seen.deadline() { deadline::told(headers, record.grpc) } else { None };
    let limit = match (rule.timeouts.request, told) {
        (Some(limit), Some(told)) => Some(limit.min(told)),
        (limit, told) => limit.or(told),
    };
    let deadline = limit.and_then(|limit| began.checked_add(limit));
    Clocks::start(&connection.worker.alarms, began, deadline, rule.timeouts.idle)
}

/// The request's body, and what opens it; kept back if the caller waits for `100 Continue`.
fn body(
    connection: &Connection,
    source: Source,
    head: &Parts,
    seen: Seen,
    caller: &Caller,
) -> (RequestBody, Option<Rc<HoldGate>>) {
    if source.is_end() {
        return (RequestBody::none(), None);
    }
    let worker = &connection.worker;
    // A gRPC stream may be silent from its first moment: many servers say nothing before their first message.
    let limit = connection.listener.body_read().filter(|_| !seen.grpc());
    let pause = limit.map(|limit| (limit, Alarm::of(&worker.alarms)));
    let body = RequestBody::new(source, &worker.kept, pause);
    if !seen.expect() || !head.headers.contains_key(EXPECT) {
        return (body, None);
    }
    let tell: Option<Box<dyn Inform>> = match caller {
        Caller::Old => return (body, None),
        Caller::H1(_) => None,
        Caller::H2(_) => Some(Box::new(caller.clone())),
    };
    let (hold, gate) = Hold::new(tell);
    body.hold(hold);
    (body, Some(gate))
}

/// Makes the head what the rule, the backend and the protocol's rules want it to be.
fn prepare_head(connection: &Connection, current: &Current, forward: &Forward, head: &mut Parts) {
    let rule = rule_of(current, forward.rule);
    hop::remove_seen(&mut head.headers, forward.seen);
    let listener = current.prepared.snapshot().listener(current.id);
    let forwarding = listener.forwarding;
    // A connection that was there before callers could show who they are has shown nothing.
    if listener.tls == CallerTls::Permissive && connection.peer.is_none() {
        forwarding::disclaim(&mut head.headers);
    }
    if forwarding != ForwardingHeaders::None || !connection.caller.is_left_alone() {
        let host = forwarding::host(&head.headers, head.uri.authority());
        forwarding::apply(&mut head.headers, forwarding, &connection.caller, host.as_ref());
    }
    // In HTTP/1 the absolute form overrides `Host` (RFC 9112, section 3.2.2); in HTTP/2 there may be none yet.
    if let Some(Ok(host)) = head.uri.authority().map(|authority| HeaderValue::from_str(authority.as_str())) {
        head.headers.insert(HOST, host);
    }
    if let Some((host, _)) = rule.rewrite.as_ref().and_then(|rewrite| rewrite.host.as_ref()) {
        head.headers.insert(HOST, host.clone());
    }
    if let Some(target) = &forward.target {
        head.uri = Uri::from(target.clone());
    }
    rule.request_headers.apply(&mut head.headers);
    if let Action::Forward(split) = &rule.action {
        split.backends[forward.backend].request_headers.apply(&mut head.headers);
    }
}

/// The upstream's answer as a response to the caller.
#[expect(clippy::too_many_arguments, reason = "all that is known of a request comes together here")]
fn incoming(
    answer: Answer,
    rule: &Rule,
    backend: &Backend,
    body: RequestBody,
    asked: Option<Box<(Asked, Source)>>,
    mut clocks: Clocks,
    report: &Report,
    mut record: Record,
) -> Response<ResponseBody> {
    let Answer { response, spelling, mut lease } = answer;
    let (mut head, source) = response.into_parts();
    let switches = match asked.as_ref().map_or(Ok(false), |asked| asked.0.consented(&mut head, lease.is_h2())) {
        Ok(switches) => switches,
        Err(fault) => return respond::fault(fault, record),
    };
    let asked = asked.filter(|_| switches);
    record.head(head.status);
    if record.grpc {
        record.grpc_status = grpc_status(&head.headers);
    }
    let seen = Seen::of(&head.headers);
    let switched = head.headers.get(UPGRADE).filter(|_| asked.is_some()).cloned();
    hop::remove_seen(&mut head.headers, seen);
    if seen.events() || record.grpc {
        // A stream ends when it is over.
        clocks.deadline = None;
    }
    // Only weir says these; what an app says would be taken for weir's word.
    if seen.weir() {
        head.headers.remove(&WEIR_ERROR);
        head.headers.remove(&UNPROCESSED);
    }
    if report.attempts > 1 {
        head.headers.insert(ATTEMPTS.clone(), HeaderValue::from(report.attempts));
    }
    rule.response_headers.apply(&mut head.headers);
    backend.response_headers.apply(&mut head.headers);
    head.version = Version::HTTP_11;
    if let Some(log) = &mut record.log
        && log.handle.wants_response_headers
    {
        log.response_headers = Some(head.headers.clone());
    }
    if let Some(protocol) = switched {
        head.headers.insert(UPGRADE, protocol);
    }
    if let Some(asked) = asked {
        let Some(upstream) = lease.side(source) else { return respond::fault(Fault::UpstreamProtocol, record) };
        return Response::from_parts(head, ResponseBody::tunnel(spelling, record, lease, Tunnel { caller: asked.1, upstream }));
    }
    let body = ResponseBody::upstream(source, spelling, record, body, lease);
    Response::from_parts(head, body.timed(clocks))
}
