//! What the access log is told of a request when it begins; its record tells the rest when it ends.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use http::header::{HeaderValue, USER_AGENT};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};

use super::connection::Connection;
use super::correlation::{self, Correlation};
use super::head::authority;
use super::request;
use crate::error::Fault;
use crate::observe::Record;
use crate::observe::record::LogEntry;
use crate::state::listener::Current;

/// What the log is to know of a request; `None` if there is no log.
pub(super) fn log_entry(
    connection: &Connection,
    current: &Current,
    head: &Parts,
    correlation: &Correlation,
) -> Option<Box<LogEntry>> {
    let handle = current.prepared.log.clone()?;
    let target = head.uri.path_and_query().map_or("*", PathAndQuery::as_str);
    let wants_headers = handle.wants_request_headers;
    Some(Box::new(LogEntry {
        began: SystemTime::now(),
        listener: connection.listener.name.clone(),
        generation: current.prepared.generation(),
        method: head.method.clone(),
        path: target.to_owned(),
        authority: authority(head).unwrap_or_default().to_owned(),
        version: head.version,
        peer: connection.ends.peer,
        local: connection.ends.local,
        request_headers: wants_headers.then(|| head.headers.clone()),
        response_headers: None,
        user_agent: head.headers.get(USER_AGENT).cloned(),
        request_id: correlation.request_id.clone(),
        trace_id: correlation::trace_id(&head.headers),
        route: Box::default(),
        rule: Box::default(),
        cluster: Box::default(),
        upstream: None::<SocketAddr>,
        opaque: false,
        principal: connection.peer.clone(),
        authorization: None,
        handle,
    }))
}

/// What the log is to know of an opaque connection for `name`, which may be empty; `None` if there is no log.
pub fn opaque(connection: &Connection, current: &Current, name: &str) -> Option<Box<LogEntry>> {
    current.prepared.log.as_ref()?;
    let (mut head, ()) = Request::new(()).into_parts();
    head.uri = Uri::from_static("/-");
    let request_id = request::fresh_id(&connection.worker, Instant::now());
    let correlation = Correlation { request_id, replaced: false, malformed: 0 };
    let mut entry = log_entry(connection, current, &head, &correlation)?;
    "-".clone_into(&mut entry.path);
    entry.method = Method::from_bytes(b"-").unwrap_or(Method::GET);
    name.clone_into(&mut entry.authority);
    entry.opaque = true;
    Some(entry)
}

/// Logs and counts a request that was refused before it became one, and gives the id it is logged under.
pub fn log_refusal(connection: &Rc<Connection>, fault: Fault) -> HeaderValue {
    let current = connection.listener.current(&connection.worker);
    let mut record = Record::start(Instant::now());
    record.belongs_to(&current.prepared.unmatched(&connection.worker));
    record.fault = Some(fault);
    record.head(fault.status());
    let (mut head, ()) = Request::new(()).into_parts();
    head.uri = Uri::from_static("/-");
    let request_id = request::fresh_id(&connection.worker, record.start_at());
    let correlation = Correlation { request_id, replaced: false, malformed: 0 };
    record.log = log_entry(connection, &current, &head, &correlation);
    if let Some(log) = &mut record.log {
        "-".clone_into(&mut log.path);
        log.method = Method::from_bytes(b"-").unwrap_or(Method::GET);
    }
    record.complete();
    correlation.request_id
}
