//! The correlation ID and the trace context.
//!
//! `x-request-id` is kept verbatim from a trusted hop; else it is a fresh UUIDv7 (RFC 9562). It is opaque: nothing is
//! encoded in it, and it is the same on every hop, in the response and in the log.
//!
//! Trace context is accepted as W3C `traceparent`, B3 (single and multi) and `X-Amzn-Trace-Id`, and sent on in kind,
//! byte for byte, whether sampled or not: weir makes no span of its own, so it must not put itself between parent and
//! child. What is malformed is removed and counted. Nothing is invented in its place: an unsampled `traceparent` made
//! here would keep every service behind it from sampling.
//!
//! What usually differs from request to request is marked as sensitive, which to HPACK means: never indexed (RFC 7541, section
//! 6.2.3). In the dynamic table it would find no match and push out what does, and cost a tenth of an HTTP/2 request.

use bytes::BytesMut;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// The correlation ID's header.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
static BAGGAGE: HeaderName = HeaderName::from_static("baggage");
static B3: HeaderName = HeaderName::from_static("b3");
static B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
static B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
static B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
static B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
static B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
static AMZN: HeaderName = HeaderName::from_static("x-amzn-trace-id");

/// Every header of a trace context.
pub const TRACE_HEADERS: [&str; 10] = [
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-amzn-trace-id",
];

/// Those that usually differ from request to request.
const UNIQUE: [&HeaderName; 7] = [&TRACEPARENT, &TRACESTATE, &B3, &B3_TRACE, &B3_SPAN, &B3_PARENT, &AMZN];

/// The longest id that is kept.
const MAX_ID: usize = 128;
/// The longest `tracestate` and `baggage` that are sent on.
const MAX_STATE: usize = 8 << 10;

/// What was found and done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correlation {
    /// The correlation ID, for the response and the log.
    pub request_id: HeaderValue,
    /// Whether an id from a trusted hop had to be replaced.
    pub replaced: bool,
    /// Trace headers that were malformed and removed.
    pub malformed: u8,
}

/// Gives the request its id and checks its trace context, if it has one. `fresh` makes an id.
pub fn ensure(headers: &mut HeaderMap, traced: bool, trusted: bool, fresh: impl FnOnce() -> HeaderValue) -> Correlation {
    let given = if trusted { headers.get(&REQUEST_ID) } else { None };
    let kept = given.filter(|id| is_id(id.as_bytes())).cloned();
    let replaced = given.is_some() && kept.is_none();
    let request_id = match kept {
        Some(id) => {
            let mut id = id;
            id.set_sensitive(true);
            headers.insert(REQUEST_ID.clone(), id.clone());
            id
        }
        None => {
            let mut id = fresh();
            id.set_sensitive(true);
            headers.insert(REQUEST_ID.clone(), id.clone());
            id
        }
    };
    let malformed = match (traced, trusted) {
        (false, _) => 0,
        (true, true) => check_trace(headers),
        (true, false) => {
            forget_trace(headers);
            0
        }
    };
    Correlation { request_id, replaced, malformed }
}

fn is_id(id: &[u8]) -> bool {
    (1..=MAX_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// Ids are cut from pieces of this size: a piece of memory for each would cost more than the id.
const IDS: usize = 1 << 10;

/// A fresh id: UUIDv7 of this moment and 74 random bits. Ids are no secrets, so a fast generator is good enough. Its bytes
/// are taken from `room`.
pub fn fresh_id(unix_millis: u64, random: u128, room: &mut BytesMut) -> HeaderValue {
    let bytes = random.to_le_bytes();
    let mut tail = [0; 10];
    tail.copy_from_slice(&bytes[..10]);
    let uuid: Uuid = uuid::Builder::from_unix_timestamp_millis(unix_millis, &tail).into_uuid();
    let mut text = [0; Hyphenated::LENGTH];
    let text = uuid.hyphenated().encode_lower(&mut text);
    if room.capacity() < text.len() {
        *room = BytesMut::with_capacity(IDS);
    }
    room.extend_from_slice(text.as_bytes());
    let id = HeaderValue::from_maybe_shared(room.split().freeze());
    id.unwrap_or(HeaderValue::from_static("00000000-0000-7000-8000-000000000000"))
}

/// The trace that the request belongs to: of `traceparent`, B3 single, B3 multi, X-Ray, the first there is.
pub fn trace_id(headers: &HeaderMap) -> Option<Box<str>> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok();
    if let Some(parent) = text(&TRACEPARENT) {
        return parent.get(3..35).map(Into::into);
    }
    if let Some((trace, _)) = text(&B3).and_then(|b3| b3.split_once('-')) {
        return Some(trace.into());
    }
    if let Some(trace) = text(&B3_TRACE) {
        return Some(trace.into());
    }
    let root = amzn_root(headers.get(&AMZN)?.as_bytes())?;
    std::str::from_utf8(root).ok().map(|root| [&root[2..10], &root[11..]].concat().into())
}

fn forget_trace(headers: &mut HeaderMap) {
    for name in TRACE_HEADERS {
        headers.remove(name);
    }
}

/// Removes the malformed and counts it.
fn check_trace(headers: &mut HeaderMap) -> u8 {
    let mut malformed = 0;
    if headers.contains_key(&TRACEPARENT) && !single(headers, &TRACEPARENT).is_some_and(is_traceparent) {
        headers.remove(&TRACEPARENT);
        headers.remove(&TRACESTATE);
        malformed += 1;
    }
    if headers.contains_key(&B3) && !single(headers, &B3).is_some_and(is_b3) {
        headers.remove(&B3);
        malformed += 1;
    }
    let multi = headers.contains_key(&B3_TRACE) || headers.contains_key(&B3_SPAN);
    if multi && !is_b3_multi(headers) {
        for name in [&B3_TRACE, &B3_SPAN, &B3_PARENT, &B3_SAMPLED, &B3_FLAGS] {
            headers.remove(name);
        }
        malformed += 1;
    }
    if headers.contains_key(&AMZN) && single(headers, &AMZN).and_then(amzn_root).is_none() {
        headers.remove(&AMZN);
        malformed += 1;
    }
    for name in [&TRACESTATE, &BAGGAGE] {
        if headers.contains_key(name) {
            let length: usize = headers.get_all(name).iter().map(HeaderValue::len).sum();
            if length > MAX_STATE {
                headers.remove(name);
                malformed += 1;
            }
        }
    }
    for name in UNIQUE {
        if let Some(value) = headers.get_mut(name) {
            value.set_sensitive(true);
        }
    }
    malformed
}

/// The value, if there is exactly one.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.as_bytes())
}

fn is_hex(text: &[u8]) -> bool {
    text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Hexadecimal of any case, and not all zeros.
fn is_span_or_trace(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_hexdigit) && text.iter().any(|b| *b != b'0')
}

/// W3C Trace Context, section 3.2: `version-traceid-parentid-flags`, lower case.
fn is_traceparent(text: &[u8]) -> bool {
    let fits = text.len() == 55 || (text.len() > 55 && !text.starts_with(b"00") && text[55] == b'-');
    fits && text[2] == b'-'
        && text[35] == b'-'
        && text[52] == b'-'
        && is_hex(&text[..2])
        && !text.starts_with(b"ff")
        && is_hex(&text[3..35])
        && text[3..35].iter().any(|b| *b != b'0')
        && is_hex(&text[36..52])
        && text[36..52].iter().any(|b| *b != b'0')
        && is_hex(&text[53..55])
}

/// `trace-span`, `trace-span-sampled`, `trace-span-sampled-parent`, or a bare sampling decision.
fn is_b3(text: &[u8]) -> bool {
    let sampling = |part: &[u8]| matches!(part, b"0" | b"1" | b"d");
    if sampling(text) {
        return true;
    }
    let mut parts = text.split(|b| *b == b'-');
    let trace = parts.next().is_some_and(|t| matches!(t.len(), 16 | 32) && is_span_or_trace(t));
    let span = parts.next().is_some_and(|s| s.len() == 16 && is_span_or_trace(s));
    let sampled = parts.next().is_none_or(sampling);
    let parent = parts.next().is_none_or(|p| p.len() == 16 && is_span_or_trace(p));
    trace && span && sampled && parent && parts.next().is_none()
}

fn is_b3_multi(headers: &HeaderMap) -> bool {
    let optional =
        |name: &HeaderName, check: fn(&[u8]) -> bool| !headers.contains_key(name) || single(headers, name).is_some_and(check);
    single(headers, &B3_TRACE).is_some_and(|t| matches!(t.len(), 16 | 32) && is_span_or_trace(t))
        && single(headers, &B3_SPAN).is_some_and(|s| s.len() == 16 && is_span_or_trace(s))
        && optional(&B3_PARENT, |p| p.len() == 16 && is_span_or_trace(p))
        && optional(&B3_SAMPLED, |s| matches!(s, b"0" | b"1" | b"true" | b"false"))
        && optional(&B3_FLAGS, |f| matches!(f, b"0" | b"1"))
}

/// The valid `Root` of an `X-Amzn-Trace-Id`: `1-<8 hex>-<24 hex>`. Other fields are the sender's affair.
fn amzn_root(text: &[u8]) -> Option<&[u8]> {
    let root = text.split(|b| *b == b';').map(<[u8]>::trim_ascii).find_map(|field| field.strip_prefix(b"Root="))?;
    let fits = root.len() == 35
        && root.starts_with(b"1-")
        && root[10] == b'-'
        && root[2..10].iter().all(u8::is_ascii_hexdigit)
        && root[11..].iter().all(u8::is_ascii_hexdigit);
    fits.then_some(root)
}

#[cfg(test)]
#[path = "correlation_tests.rs"]
mod tests;
