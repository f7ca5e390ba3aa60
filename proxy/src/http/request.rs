//! The request path: every request, whatever its protocol, goes through [`handle`], top to bottom.
//!
//! First everything is decided, without waiting for anything; then it is done. The snapshot is taken once and serves
//! the request to its end, so no request sees two generations. What happens to the request is in its record, which is
//! finished by the response's body, or by being dropped when the caller goes away.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::header::{EXPECT, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri, Version};
use weir_config::path::{normalise, normalise_host};
use weir_config::schema::UpstreamProtocol;
use weir_config::snapshot::{Action, Backend, Rewrite, Rule, RuleId};
use weir_config::{Decision, Facts, NoRoute, decide};

use super::body::{ResponseBody, grpc_status};
use super::connection::Connection;
use super::correlation::{self, Correlation, REQUEST_ID};
use super::informational::Caller;
use super::{forwarding, hop};
use crate::balance::cluster::ClusterState;
use crate::error::{BadRequest, Fault};
use crate::observe::Record;
use crate::observe::record::LogEntry;
use crate::respond::{self, WEIR_ERROR};
use crate::state::Worker;
use crate::state::listener::Current;
use crate::upstream::body::{Meter, RequestBody, Source};
use crate::upstream::informational::{Hold, HoldGate};
use crate::upstream::{self, Answer, Waiting};

/// Serves one request.
pub async fn handle(connection: &Rc<Connection>, request: Request<Source>, caller: Caller) -> Response<ResponseBody> {
    let mut record = Record::start(Instant::now());
    let current = connection.listener.current(&connection.worker);
    let (mut head, source) = request.into_parts();
    record.grpc = weir_config::matcher::is_grpc(&head.headers);
    let correlation = correlate(connection, &mut head.headers);
    record.log = log_entry(connection, &current, &head, &correlation);

    let response = match plan(connection, &current, &mut head, &mut record) {
        Ok(Plan::Forward(forward)) => forward.run(connection, &current, head, source, caller, record).await,
        Ok(Plan::Respond(rule)) => match &rule_of(&current, rule).action {
            Action::Respond(answer) => respond::direct(answer, rule_of(&current, rule), record),
            Action::Forward(_) | Action::Redirect(_) => respond::fault(Fault::NoRule, record),
        },
        Ok(Plan::Redirect(rule, location)) => match &rule_of(&current, rule).action {
            Action::Redirect(redirect) => respond::redirect(&location, redirect.status, rule_of(&current, rule), record),
            Action::Forward(_) | Action::Respond(_) => respond::fault(Fault::NoRule, record),
        },
        Err(fault) => respond::fault(fault, record),
    };
    tag(response, correlation.request_id)
}

fn rule_of(current: &Current, rule: RuleId) -> &Rule {
    current.prepared.snapshot().rule(rule)
}

fn tag(mut response: Response<ResponseBody>, id: HeaderValue) -> Response<ResponseBody> {
    response.headers_mut().insert(REQUEST_ID.clone(), id);
    response
}

fn correlate(connection: &Connection, headers: &mut HeaderMap) -> Correlation {
    let found = correlation::ensure(headers, connection.caller.is_trusted(), || fresh_id(&connection.worker));
    let shard = &connection.listener.shard;
    if found.replaced {
        shard.bad_ids.add(1);
    }
    if found.malformed > 0 {
        shard.bad_traces.add(found.malformed.into());
    }
    found
}

fn fresh_id(worker: &Worker) -> HeaderValue {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    correlation::fresh_id(u64::try_from(millis).unwrap_or(u64::MAX), worker.draw_wide())
}

/// What to do with a request, decided.
enum Plan {
    Forward(Forward),
    Respond(RuleId),
    Redirect(RuleId, String),
}

/// A request that goes upstream.
struct Forward {
    rule: RuleId,
    backend: usize,
    cluster: Rc<ClusterState>,
    /// The path and query to send, if the rule rewrites it.
    target: Option<PathAndQuery>,
}

/// Decides. Nothing here waits, and nothing has happened yet when it returns.
fn plan(connection: &Connection, current: &Current, head: &mut Parts, record: &mut Record) -> Result<Plan, Fault> {
    let series =
        |record: &mut Record, rule, backend| record.belongs_to(&current.prepared.series(&connection.worker, rule, backend));
    let decided = check(connection, current, head).and_then(|authority| decide_route(connection, current, head, &authority));
    let (decision, path) = match decided {
        Ok(decided) => decided,
        Err(fault) => {
            record.belongs_to(&current.prepared.unmatched(&connection.worker));
            return Err(fault);
        }
    };
    match decision {
        Decision::Forward { rule, backend } => {
            series(record, rule, backend);
            let Action::Forward(split) = &rule_of(current, rule).action else { return Err(Fault::NoRule) };
            let cluster = current.prepared.cluster(&connection.worker, split.backends[backend].cluster);
            if let Some(log) = &mut record.log {
                log.cluster = cluster.config().name.clone();
                name_rule(log, current, rule);
            }
            let rewrite = rule_of(current, rule).rewrite.as_ref();
            let target = rewrite.and_then(|rewrite| rewritten(rewrite, &path, head.uri.query()));
            Ok(Plan::Forward(Forward { rule, backend, cluster, target }))
        }
        Decision::Respond(rule) => {
            series(record, rule, 0);
            if let Some(log) = &mut record.log {
                name_rule(log, current, rule);
            }
            Ok(Plan::Respond(rule))
        }
        Decision::Redirect(rule) => {
            series(record, rule, 0);
            if let Some(log) = &mut record.log {
                name_rule(log, current, rule);
            }
            let Action::Redirect(redirect) = &rule_of(current, rule).action else { return Err(Fault::NoRule) };
            let authority = authority(head)?;
            Ok(Plan::Redirect(rule, redirect.location("http", &authority, &path, head.uri.query())))
        }
        Decision::None(why) => {
            record.belongs_to(&current.prepared.unmatched(&connection.worker));
            Err(match why {
                NoRoute::Host => Fault::NoRoute,
                NoRoute::Rule(route) => {
                    if let Some(log) = &mut record.log {
                        log.route = current.prepared.snapshot().route(route).name.clone();
                    }
                    Fault::NoRule
                }
            })
        }
    }
}

fn name_rule(log: &mut LogEntry, current: &Current, rule: RuleId) {
    let snapshot = current.prepared.snapshot();
    let rule = snapshot.rule(rule);
    log.rule = rule.name.clone();
    log.route = snapshot.route(rule.route).name.clone();
}

/// Refuses what is malformed whatever the route, and gives the authority.
fn check(connection: &Connection, current: &Current, head: &Parts) -> Result<String, Fault> {
    if head.method == Method::CONNECT {
        return Err(Fault::ConnectRefused);
    }
    if head.version == Version::HTTP_2 {
        check_h2(connection, current, head)?;
    }
    if let Some(expect) = head.headers.get(EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Fault::BadExpectation);
    }
    authority(head).map(Cow::into_owned)
}

/// What the HTTP/1 gate checks before there is a request, HTTP/2 requests are checked for here.
fn check_h2(connection: &Connection, current: &Current, head: &Parts) -> Result<(), Fault> {
    let limits = &current.prepared.snapshot().listener(current.id).limits;
    // RFC 9113, section 6.5.2: 32 octets of overhead for each field.
    let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    let bad = if bytes + head.uri.path().len() > limits.header_bytes {
        BadRequest::HeaderBytes
    } else if head.headers.len() > limits.header_count {
        BadRequest::HeaderCount
    } else if head.uri.authority().is_some_and(|authority| differs(&head.headers, authority)) {
        BadRequest::Host
    } else {
        return Ok(());
    };
    connection.listener.shard.malformed.add(1);
    Err(Fault::BadRequest(bad))
}

/// Whether a `Host` beside `:authority` names another host.
fn differs(headers: &HeaderMap, authority: &Authority) -> bool {
    headers.get_all(HOST).iter().any(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
}

/// The host that the caller asked for, with its port, as the caller wrote it. Empty for HTTP/1.0 without one.
fn authority(head: &Parts) -> Result<Cow<'_, str>, Fault> {
    if let Some(authority) = head.uri.authority() {
        return Ok(Cow::Borrowed(authority.as_str()));
    }
    match head.headers.get(HOST).map(HeaderValue::to_str) {
        Some(Ok(host)) => Ok(Cow::Borrowed(host)),
        Some(Err(_)) => Err(Fault::BadRequest(BadRequest::Host)),
        None if head.version == Version::HTTP_2 => Err(Fault::BadRequest(BadRequest::Pseudo)),
        None => Ok(Cow::Borrowed("")),
    }
}

/// The route's decision, and the normalised path it was made on.
fn decide_route(connection: &Connection, current: &Current, head: &Parts, authority: &str) -> Result<(Decision, String), Fault> {
    let path = normalise(head.uri.path()).map_err(|_| Fault::BadRequest(BadRequest::EncodedNul))?;
    let facts = Facts {
        method: &head.method,
        host: &normalise_host(authority),
        path: &path,
        query: head.uri.query(),
        headers: &head.headers,
    };
    let decision = decide(current.prepared.snapshot(), current.id, &facts, connection.worker.draw(), &mut ());
    Ok((decision, path.into_owned()))
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
    /// Sends the request upstream and turns the answer into a response.
    async fn run(
        self,
        connection: &Rc<Connection>,
        current: &Current,
        mut head: Parts,
        source: Source,
        caller: Caller,
        mut record: Record,
    ) -> Response<ResponseBody> {
        let rule = rule_of(current, self.rule);
        let Action::Forward(split) = &rule.action else { return respond::fault(Fault::NoRule, record) };
        let backend = &split.backends[self.backend];
        let cluster = self.cluster.config();
        let http2 = match cluster.protocol {
            UpstreamProtocol::Http1 => false,
            UpstreamProtocol::Http2 => true,
            UpstreamProtocol::Auto => head.version == Version::HTTP_2,
        };
        let from_h2 = head.version == Version::HTTP_2;
        let (mut body, hold) = body(source, &head, from_h2);
        let meter = body.meter();
        let held = hold.map(|(hold, gate)| {
            body.hold(hold);
            gate
        });
        prepare_head(connection, current, rule, backend, &mut head, self.target);
        let request = match outgoing(head, http2, from_h2) {
            Ok(head) => Request::from_parts(head, body),
            Err(fault) => return respond::fault(fault, record),
        };
        let endpoint = match self.cluster.pick(connection.worker.draw()) {
            Ok(endpoint) => endpoint,
            Err(fault) => return respond::fault(fault, record),
        };
        if let Some(log) = &mut record.log {
            log.upstream = Some(endpoint.address);
        }
        let waiting = Waiting { caller: &caller, tell_continue: from_h2 && held.is_some(), hold: held };
        match upstream::exchange(&endpoint, &cluster, http2, request, &waiting).await {
            Ok(answer) => incoming(answer, rule, backend, meter, record),
            Err(mut fault) => {
                if let Some(meter) = &meter {
                    record.bytes_in = meter.bytes.get();
                    if meter.failed.get() {
                        fault = Fault::BadBody;
                    }
                }
                respond::fault(fault, record)
            }
        }
    }
}

type Held = (Hold, Rc<HoldGate>);

/// The request's body; kept back if the caller waits for `100 Continue`.
fn body(source: Source, head: &Parts, from_h2: bool) -> (RequestBody, Option<Held>) {
    let body = RequestBody::new(source);
    let expects = head.headers.contains_key(EXPECT) && body.meter().is_some();
    let knows = from_h2 || head.version == Version::HTTP_11;
    (body, (expects && knows).then(Hold::new))
}

/// Makes the head what the rule, the backend and the protocol's rules want it to be.
fn prepare_head(
    connection: &Connection,
    current: &Current,
    rule: &Rule,
    backend: &Backend,
    head: &mut Parts,
    target: Option<PathAndQuery>,
) {
    let listener = current.prepared.snapshot().listener(current.id);
    let host = forwarding::host(&head.headers, head.uri.authority());
    hop::remove(&mut head.headers);
    forwarding::apply(&mut head.headers, listener.forwarding, &connection.caller, host.as_ref());
    if let Some(host) = host {
        // In HTTP/1 the absolute form overrides `Host` (RFC 9112, section 3.2.2); in HTTP/2 there may be none yet.
        if head.uri.authority().is_some() {
            head.headers.insert(HOST, host);
        }
    }
    if let Some((host, _)) = rule.rewrite.as_ref().and_then(|rewrite| rewrite.host.as_ref()) {
        head.headers.insert(HOST, host.clone());
    }
    if let Some(target) = target {
        head.uri = Uri::from(target);
    }
    rule.request_headers.apply(&mut head.headers);
    backend.request_headers.apply(&mut head.headers);
}

/// The head in the form that the upstream's protocol wants: origin form and `Host` in HTTP/1, pseudo-headers in HTTP/2.
fn outgoing(mut head: Parts, http2: bool, from_h2: bool) -> Result<Parts, Fault> {
    let target = head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    if http2 {
        let host = head.headers.remove(HOST);
        let authority = match host {
            Some(host) => Authority::try_from(host.as_bytes()).map_err(|_| Fault::BadRequest(BadRequest::Host))?,
            None => return Err(Fault::BadRequest(BadRequest::Host)),
        };
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(authority);
        parts.path_and_query = Some(target);
        head.uri = Uri::from_parts(parts).map_err(|_| Fault::BadRequest(BadRequest::Target))?;
        head.version = Version::HTTP_2;
    } else {
        if from_h2 {
            hop::join_cookies(&mut head.headers);
        }
        head.uri = Uri::from(target);
        head.version = Version::HTTP_11;
    }
    Ok(head)
}

/// The upstream's answer as a response to the caller.
fn incoming(
    answer: Answer,
    rule: &Rule,
    backend: &Backend,
    meter: Option<Rc<Meter>>,
    mut record: Record,
) -> Response<ResponseBody> {
    let (mut head, source) = answer.response.into_parts();
    record.head(head.status);
    if record.grpc {
        record.grpc_status = grpc_status(&head.headers);
    }
    hop::remove(&mut head.headers);
    // Only weir says this; what an app says would be taken for weir's word.
    head.headers.remove(&WEIR_ERROR);
    rule.response_headers.apply(&mut head.headers);
    backend.response_headers.apply(&mut head.headers);
    head.version = Version::HTTP_11;
    if let Some(log) = &mut record.log
        && log.handle.wants_response_headers
    {
        log.response_headers = Some(head.headers.clone());
    }
    Response::from_parts(head, ResponseBody::upstream(source, record, meter, answer.lease))
}

fn log_entry(connection: &Connection, current: &Current, head: &Parts, correlation: &Correlation) -> Option<Box<LogEntry>> {
    let handle = current.prepared.log.clone()?;
    let target = head.uri.path_and_query().map_or("*", PathAndQuery::as_str);
    let wants_headers = handle.wants_request_headers;
    Some(Box::new(LogEntry {
        began: SystemTime::now(),
        listener: connection.listener.name.clone(),
        generation: current.prepared.generation(),
        method: head.method.clone(),
        path: target.to_owned(),
        authority: authority(head).map(Cow::into_owned).unwrap_or_default(),
        version: head.version,
        peer: connection.peer,
        local: connection.local,
        request_headers: wants_headers.then(|| head.headers.clone()),
        response_headers: None,
        user_agent: head.headers.get(USER_AGENT).cloned(),
        request_id: correlation.request_id.clone(),
        trace_id: correlation::trace_id(&head.headers),
        route: Box::default(),
        rule: Box::default(),
        cluster: Box::default(),
        upstream: None::<SocketAddr>,
        handle,
    }))
}

/// Logs and counts a request that the gate refused before it became one.
pub fn log_refusal(connection: &Rc<Connection>, bad: BadRequest) {
    let current = connection.listener.current(&connection.worker);
    let mut record = Record::start(Instant::now());
    record.belongs_to(&current.prepared.unmatched(&connection.worker));
    record.fault = Some(Fault::BadRequest(bad));
    record.head(bad.status());
    let (mut head, ()) = Request::new(()).into_parts();
    head.uri = Uri::from_static("/-");
    let correlation = Correlation { request_id: fresh_id(&connection.worker), replaced: false, malformed: 0 };
    record.log = log_entry(connection, &current, &head, &correlation);
    if let Some(log) = &mut record.log {
        "-".clone_into(&mut log.path);
        log.method = Method::from_bytes(b"-").unwrap_or(Method::GET);
    }
    record.complete();
}
