//! Whether a call may be made at all: over mutual TLS where that is a must, and as the policies of the listener say.
//!
//! What policies mean is decided in `weir_config::authorize`; here it is asked, counted, and told to the log.

use http::request::Parts;
use weir_config::path::normalise_host;
use weir_config::snapshot::CallerTls;
use weir_config::{Call, Caller, Verdict, authorize, authorize::Request};

use super::connection::Connection;
use super::head::{authority, path};
use crate::error::Fault;
use crate::observe::callers::Speaks;
use crate::observe::record::LogEntry;
use crate::state::listener::Current;

/// Whether a request may be made.
///
/// # Errors
/// Why not.
pub(super) fn admit(
    connection: &Connection,
    current: &Current,
    head: &Parts,
    log: &mut Option<Box<LogEntry>>,
) -> Result<(), Fault> {
    if connection.is_loop.get() {
        return Err(Fault::Loop);
    }
    let listener = current.prepared.snapshot().listener(current.id);
    // A connection that was opened in the clear is served until the listener is strict.
    let in_the_clear = connection.peer.is_none() && !connection.caller.is_encrypted();
    match listener.tls {
        CallerTls::Strict if connection.peer.is_none() => return Err(plaintext(connection)),
        CallerTls::Edge if in_the_clear => return Err(plaintext(connection)),
        // It may have been open before.
        CallerTls::Permissive if connection.peer.is_none() => connection.note(Speaks::Plaintext),
        CallerTls::Off | CallerTls::Permissive | CallerTls::Strict | CallerTls::Edge => {}
    }
    if listener.policies.is_empty() {
        return Ok(());
    }
    let path = path(head)?;
    let request = Request { method: &head.method, path: &path, received: head.uri.path(), headers: &head.headers };
    let host = normalise_host(authority(head)?);
    judge(connection, current, Some(&host), Some(request), log)
}

fn plaintext(connection: &Connection) -> Fault {
    connection.listener.shard.plaintext_refused.add(1);
    Fault::Plaintext
}

/// Whether opaque bytes may come, for this host if it can be seen.
///
/// # Errors
/// Why not.
pub fn admit_opaque(
    connection: &Connection,
    current: &Current,
    host: Option<&str>,
    log: &mut Option<Box<LogEntry>>,
) -> Result<(), Fault> {
    if connection.is_loop.get() {
        return Err(Fault::Loop);
    }
    judge(connection, current, host, None, log)
}

/// Whether opaque bytes may come, for no host. Asked ahead of time: it is not counted.
pub fn permits_opaque(connection: &Connection, current: &Current) -> bool {
    let snapshot = current.prepared.snapshot();
    let policies = &snapshot.listener(current.id).policies;
    policies.is_empty() || authorize(snapshot, current.id, &call(connection, current, None, None), &mut ()).refused.is_none()
}

fn call<'c>(connection: &'c Connection, current: &Current, host: Option<&'c str>, request: Option<Request<'c>>) -> Call<'c> {
    let peer = connection.peer.as_deref();
    let caller = Caller {
        principal: peer.map(|peer| &peer.id),
        is_own_domain: peer.is_some_and(|peer| peer.is_own_domain),
        address: connection.ends.peer.ip(),
    };
    let port = current.prepared.snapshot().listener(current.id).port;
    // On an outbound listener ports are its own, and where calls go is not for policies to say.
    let port = connection.ends.destination.filter(|_| connection.listener.is_inbound()).map_or(port, |to| to.port());
    Call { caller, port, host, request }
}

fn judge(
    connection: &Connection,
    current: &Current,
    host: Option<&str>,
    request: Option<Request<'_>>,
    log: &mut Option<Box<LogEntry>>,
) -> Result<(), Fault> {
    let snapshot = current.prepared.snapshot();
    let listener = snapshot.listener(current.id);
    if listener.policies.is_empty() {
        return Ok(());
    }
    let call = call(connection, current, host, request);
    let verdict = authorize(snapshot, current.id, &call, &mut ());
    count(connection, &verdict);
    if let Some(log) = log {
        log.authorization = verdict.tell(snapshot).map(String::into_boxed_str);
    }
    if verdict.refused.is_some() { Err(Fault::Denied) } else { Ok(()) }
}

fn count(connection: &Connection, verdict: &Verdict) {
    let [allowed, denied, would_allow, would_deny, audited] = &connection.listener.shard.authorization;
    let judged = if verdict.refused.is_some() { denied } else { allowed };
    judged.add(1);
    match (verdict.refused.is_some(), verdict.on_trial.is_some()) {
        (true, false) => would_allow.add(1),
        (false, true) => would_deny.add(1),
        (true, true) | (false, false) => {}
    }
    if !verdict.audited.is_empty() {
        audited.add(1);
    }
}
