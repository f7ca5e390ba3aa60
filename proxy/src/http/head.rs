//! The head of a request: judged as it came, and put into the form in which it leaves.
//!
//! Decides what a request may look like whatever its route, and what HTTP/1 and HTTP/2 say differently. What breaks if this is
//! changed carelessly: two readers take one request for two different ones.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::header::{EXPECT, HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri, Version};
use weir_config::path::normalise;

use super::hop;
use super::seen::Seen;
use crate::error::{BadRequest, Fault};
use crate::state::listener::Current;

/// Refuses what is malformed whatever the route.
pub(super) fn check(current: &Current, head: &Parts, seen: Seen) -> Result<(), Fault> {
    if head.version == Version::HTTP_2 {
        check_h2(current, head)?;
    }
    if seen.expect()
        && let Some(expect) = head.headers.get(EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Fault::BadExpectation);
    }
    Ok(())
}

/// What the HTTP/1 codec checks before there is a request, HTTP/2 requests are checked for here.
fn check_h2(current: &Current, head: &Parts) -> Result<(), Fault> {
    let limits = &current.prepared.snapshot().listener(current.id).limits;
    // RFC 9113, section 6.5.2: 32 octets of overhead for each field.
    let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    let bad = if bytes + head.uri.path_and_query().map_or(0, |target| target.as_str().len()) > limits.header_bytes {
        BadRequest::HeaderBytes
    } else if head.headers.len() > limits.header_count {
        BadRequest::HeaderCount
    } else if !is_host_once(head) {
        BadRequest::Host
    } else if !is_origin_form(head) {
        BadRequest::Target
    } else {
        return Ok(());
    };
    Err(Fault::BadRequest(bad))
}

/// Whether the target is a path, the asterisk that belongs to OPTIONS, or nothing, as CONNECT has it. Anything else an
/// HTTP/1 upstream could take for an absolute form, with a host of its own.
fn is_origin_form(head: &Parts) -> bool {
    match head.method {
        Method::CONNECT => head.uri.path().is_empty(),
        Method::OPTIONS => head.uri.path().starts_with('/') || head.uri.path() == "*",
        _ => head.uri.path().starts_with('/'),
    }
}

/// Whether the request names one valid host, in `:authority`, in `Host` or the same in both.
fn is_host_once(head: &Parts) -> bool {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (head.uri.authority(), hosts.next()) {
        (Some(authority), _) => crate::h1::request::is_host(authority.as_str().as_bytes()) && !differs(&head.headers, authority),
        (None, Some(host)) => crate::h1::request::is_host(host.as_bytes()) && hosts.next().is_none(),
        // Refused later, as a missing pseudo-header.
        (None, None) => true,
    }
}

/// Whether a `Host` beside `:authority` names another host.
fn differs(headers: &HeaderMap, authority: &Authority) -> bool {
    headers.get_all(HOST).iter().any(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
}

/// The host that the caller asked for, with its port, as the caller wrote it. Empty where HTTP/1 comes without one.
pub(super) fn authority(head: &Parts) -> Result<&str, Fault> {
    if let Some(authority) = head.uri.authority() {
        return Ok(authority.as_str());
    }
    match head.headers.get(HOST).map(HeaderValue::to_str) {
        Some(Ok(host)) => Ok(host),
        Some(Err(_)) => Err(Fault::BadRequest(BadRequest::Host)),
        None if head.version == Version::HTTP_2 => Err(Fault::BadRequest(BadRequest::Pseudo)),
        None => Ok(""),
    }
}

/// The normalised path.
pub(super) fn path(head: &Parts) -> Result<Cow<'_, str>, Fault> {
    if head.method == Method::CONNECT {
        return Ok(Cow::Borrowed("/"));
    }
    normalise(head.uri.path()).map_err(|_| Fault::BadRequest(BadRequest::EncodedNul))
}

/// The head in the form that the upstream's protocol wants: origin form and `Host` in HTTP/1, pseudo-headers in HTTP/2. What
/// `goes_on` to where it was going may be for a forward proxy there: the absolute form stays, and that of CONNECT.
pub(super) fn outgoing(head: &mut Parts, http2: bool, from_h2: bool, goes_on: bool, endpoint: SocketAddr) -> Result<(), Fault> {
    // There may be none, or an empty one; what goes on must have one, and nobody named another than the endpoint itself.
    if head.headers.get(HOST).is_none_or(HeaderValue::is_empty)
        && let Ok(host) = HeaderValue::from_str(&endpoint.to_string())
    {
        head.headers.insert(HOST, host);
    }
    let target = match head.uri.path_and_query() {
        // The absolute form may leave the path out (RFC 9112, section 3.2.1).
        Some(target) if target.as_str().starts_with('?') => PathAndQuery::try_from(format!("/{}", target.as_str())),
        Some(target) => Ok(target.clone()),
        None => Ok(PathAndQuery::from_static("/")),
    };
    let target = target.map_err(|_| Fault::BadRequest(BadRequest::Target))?;
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
        if !goes_on || from_h2 || head.uri.authority().is_none() {
            head.uri = Uri::from(target);
        } else if head.method != Method::CONNECT {
            let mut parts = std::mem::take(&mut head.uri).into_parts();
            parts.path_and_query = Some(target);
            head.uri = Uri::from_parts(parts).map_err(|_| Fault::BadRequest(BadRequest::Target))?;
        }
        head.version = Version::HTTP_11;
    }
    Ok(())
}
