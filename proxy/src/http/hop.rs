//! Headers that belong to one connection and end there (RFC 9110, section 7.6.1).

use http::header::{CONNECTION, COOKIE, Entry, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};

use super::seen::Seen;

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Headers that a caller may not have removed by naming them in `Connection`: it would make the next hop believe that
/// they were never there.
fn is_protected(name: &str) -> bool {
    matches!(
        name,
        "host" | "authorization" | "cookie" | "content-length" | "content-type" | "x-request-id" | "forwarded" | "traceparent"
    ) || name.starts_with("x-forwarded-")
}

/// Removes what belongs to the connection the message came by, `seen` among its headers. `TE: trailers` stays: gRPC needs
/// it on every hop.
pub fn remove_seen(headers: &mut HeaderMap, seen: Seen) {
    if seen.hop_beside_connection() {
        remove(headers);
    } else if seen.hop() {
        remove_connection(headers);
    }
}

/// Removes `connection` and what it names.
fn remove_connection(headers: &mut HeaderMap) {
    match headers.entry(CONNECTION) {
        Entry::Vacant(_) => {}
        Entry::Occupied(connection) if connection.iter().nth(1).is_none() => {
            let field = connection.remove();
            remove_named(headers, &field);
        }
        Entry::Occupied(connection) => {
            let fields: Vec<HeaderValue> = connection.remove_entry_mult().1.collect();
            fields.iter().for_each(|field| remove_named(headers, field));
        }
    }
}

/// Removes what belongs to the connection the message came by.
pub fn remove(headers: &mut HeaderMap) {
    remove_connection(headers);
    headers.remove(UPGRADE);
    headers.remove(&KEEP_ALIVE);
    headers.remove(&HTTP2_SETTINGS);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(&PROXY_CONNECTION);
    if headers.contains_key(TE) {
        let is_trailers = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"trailers");
        let keeps = headers.get_all(TE).iter().any(|te| te.as_bytes().split(|b| *b == b',').any(is_trailers));
        headers.remove(TE);
        if keeps {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

fn remove_named(headers: &mut HeaderMap, connection: &HeaderValue) {
    let value = connection.as_bytes();
    if value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close") {
        return;
    }
    for name in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
        if let Ok(name) = HeaderName::from_bytes(name)
            && name != TE
            && !is_protected(name.as_str())
        {
            headers.remove(name);
        }
    }
}

/// Joins `cookie` fields, which HTTP/2 may split, into the one that HTTP/1 knows (RFC 9113, section 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut values = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (values.next(), values.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(values) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(value.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, value);
    }
}

/// Tells the next hop of the mesh that a request came as HTTP/1 though it goes on as HTTP/2, so that the app at the other end
/// gets it as its caller sent it.
static PROTO: HeaderName = HeaderName::from_static("x-weir-proto");

/// Says how a request came, or that nothing was changed.
pub fn tell_h1(headers: &mut HeaderMap, was_h1: bool) {
    if was_h1 {
        headers.insert(PROTO.clone(), HeaderValue::from_static("http1"));
    } else {
        headers.remove(&PROTO);
    }
}

/// Whether a hop of the mesh says that a request came as HTTP/1. What it says goes no further.
pub fn was_h1(headers: &mut HeaderMap) -> bool {
    headers.remove(&PROTO).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap())).collect()
    }

    #[test]
    fn what_stays_and_what_goes() {
        let mut headers = map(&[
            ("connection", "x-private, Host, authorization, TE, close"),
            ("x-private", "1"),
            ("host", "a"),
            ("authorization", "b"),
            ("te", "gzip, trailers"),
            ("keep-alive", "5"),
            ("proxy-connection", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAM"),
            ("x-public", "2"),
        ]);
        remove(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "host", "te", "x-public"]);
        assert_eq!(headers["te"], "trailers");
    }

    #[test]
    fn cookies_are_joined() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1"));
        join_cookies(&mut headers);
        assert_eq!(headers[COOKIE], "a=1");
        headers.append(COOKIE, HeaderValue::from_static("b=2"));
        headers.append(COOKIE, HeaderValue::from_static("c=3"));
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }
}
