//! Conditions of a match, compiled, and the proof that one match covers another.
//!
//! Decides whether one match holds for a request; not which rule wins (that is `table`).

use std::borrow::Cow;

use http::header::HeaderName;
use http::{HeaderMap, Method};

use crate::decide::Facts;
use crate::path::has_segment_prefix;

/// Conditions that must all hold.
#[derive(Debug, Clone, Default)]
pub struct CompiledMatch {
    pub(crate) path: Option<PathTest>,
    pub(crate) methods: Box<[Method]>,
    pub(crate) headers: Box<[(HeaderName, ValueTest)]>,
    pub(crate) query: Box<[(Box<str>, ValueTest)]>,
    pub(crate) grpc: bool,
    /// A condition had a mistake and is left out, so nothing may be concluded from this match.
    pub(crate) incomplete: bool,
}

/// A condition on the normalised path.
#[derive(Debug, Clone)]
pub enum PathTest {
    /// The whole path.
    Exact(Box<str>),
    /// A prefix by segments; without a trailing slash, or `/`.
    Segments(Box<str>),
    /// A prefix by characters.
    Characters(Box<str>),
    /// A regular expression, anchored at both ends.
    Regex(regex::Regex),
}

/// A test of one value.
#[derive(Debug, Clone)]
pub struct ValueTest {
    pub(crate) kind: ValueKind,
    pub(crate) not: bool,
}

/// What a value is compared with.
#[derive(Debug, Clone)]
pub(crate) enum ValueKind {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    Contains(Box<[u8]>),
    Regex(regex::bytes::Regex),
    Range(i64, i64),
    Present(bool),
}

/// The first condition of a match that does not hold; for `explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// The path differs.
    Path,
    /// The method differs.
    Method,
    /// This header's test does not hold.
    Header(String),
    /// This query parameter's test does not hold.
    Query(String),
    /// The request is not gRPC.
    Grpc,
}

impl CompiledMatch {
    /// Whether every condition holds.
    pub fn holds(&self, facts: &Facts<'_>) -> bool {
        self.path.as_ref().is_none_or(|test| test.holds(facts.path)) && self.holds_beside_path(facts)
    }

    /// Whether every condition but the path's holds.
    pub(crate) fn holds_beside_path(&self, facts: &Facts<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(facts.method))
            && (!self.grpc || is_grpc(facts.headers))
            && self.headers.iter().all(|(name, test)| test.holds(header_value(facts.headers, name).as_deref()))
            && self.query.iter().all(|(name, test)| test.holds(query_value(facts.query, name).as_deref()))
    }

    /// The first condition that does not hold.
    pub fn first_failed(&self, facts: &Facts<'_>) -> Option<Failed> {
        if self.path.as_ref().is_some_and(|test| !test.holds(facts.path)) {
            return Some(Failed::Path);
        }
        if !self.methods.is_empty() && !self.methods.contains(facts.method) {
            return Some(Failed::Method);
        }
        if self.grpc && !is_grpc(facts.headers) {
            return Some(Failed::Grpc);
        }
        let header = self.headers.iter().find(|(name, test)| !test.holds(header_value(facts.headers, name).as_deref()));
        if let Some((name, _)) = header {
            return Some(Failed::Header(name.to_string()));
        }
        let query = self.query.iter().find(|(name, test)| !test.holds(query_value(facts.query, name).as_deref()));
        query.map(|(name, _)| Failed::Query(name.to_string()))
    }

    /// Whether every request that `other` holds for, this one holds for too. Errs on the side of "no".
    pub(crate) fn covers(&self, other: &Self) -> bool {
        if self.incomplete || other.incomplete {
            return false;
        }
        let path = match (&self.path, &other.path) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => mine.covers(theirs),
        };
        path && (self.methods.is_empty()
            || (!other.methods.is_empty() && other.methods.iter().all(|method| self.methods.contains(method))))
            && (!self.grpc || other.grpc)
            && self.headers.iter().all(|(name, test)| other.headers.iter().any(|(n, t)| n == name && test.covers(t)))
            && self.query.iter().all(|(name, test)| other.query.iter().any(|(n, t)| n == name && test.covers(t)))
    }
}

impl PathTest {
    /// Whether the normalised path passes.
    pub fn holds(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == &**exact,
            Self::Segments(prefix) => has_segment_prefix(path, prefix),
            Self::Characters(prefix) => path.starts_with(&**prefix),
            Self::Regex(regex) => regex.is_match(path),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (mine, Self::Exact(path)) => mine.holds(path),
            (Self::Segments(mine), Self::Segments(theirs)) => has_segment_prefix(theirs, mine),
            (Self::Segments(mine), Self::Characters(theirs)) => {
                &**mine == "/" || theirs.strip_prefix(&**mine).is_some_and(|rest| rest.starts_with('/'))
            }
            (Self::Characters(mine), Self::Segments(theirs) | Self::Characters(theirs)) => theirs.starts_with(&**mine),
            (Self::Regex(mine), Self::Regex(theirs)) => mine.as_str() == theirs.as_str(),
            (Self::Exact(_), _) | (Self::Regex(_), _) | (_, Self::Regex(_)) => false,
        }
    }
}

impl ValueTest {
    /// Whether the value passes; `None` is a value that is not there.
    pub fn holds(&self, value: Option<&[u8]>) -> bool {
        let passes = match (&self.kind, value) {
            (ValueKind::Present(wanted), value) => value.is_some() == *wanted,
            (_, None) => false,
            (ValueKind::Exact(text), Some(value)) => value == &**text,
            (ValueKind::Prefix(text), Some(value)) => value.starts_with(text),
            (ValueKind::Suffix(text), Some(value)) => value.ends_with(text),
            (ValueKind::Contains(text), Some(value)) => memchr::memmem::find(value, text).is_some(),
            (ValueKind::Regex(regex), Some(value)) => regex.is_match(value),
            (ValueKind::Range(start, end), Some(value)) => {
                let number = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<i64>().ok());
                number.is_some_and(|number| (*start..*end).contains(&number))
            }
        };
        passes != self.not
    }

    fn covers(&self, other: &Self) -> bool {
        match (self.not, other.not) {
            (false, false) => self.kind.covers(&other.kind),
            // not A covers not B exactly when B covers A.
            (true, true) => other.kind.covers(&self.kind),
            (false, true) | (true, false) => false,
        }
    }
}

impl ValueKind {
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present(mine), Self::Present(theirs)) => mine == theirs,
            (Self::Present(true), _) => true,
            (Self::Exact(mine), Self::Exact(theirs)) => mine == theirs,
            (Self::Prefix(mine), Self::Prefix(theirs) | Self::Exact(theirs)) => theirs.starts_with(mine),
            (Self::Suffix(mine), Self::Suffix(theirs) | Self::Exact(theirs)) => theirs.ends_with(mine),
            (Self::Contains(mine), Self::Exact(t) | Self::Prefix(t) | Self::Suffix(t) | Self::Contains(t)) => {
                memchr::memmem::find(t, mine).is_some()
            }
            (Self::Regex(mine), Self::Regex(theirs)) => mine.as_str() == theirs.as_str(),
            (Self::Regex(mine), Self::Exact(theirs)) => mine.is_match(theirs),
            (Self::Range(start, end), Self::Range(from, to)) => start <= from && to <= end,
            _ => false,
        }
    }
}

/// Whether the request is gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(is_grpc_type)
}

/// Whether a content type is gRPC's: `application/grpc`, alone or followed by `+` or `;`.
pub fn is_grpc_type(value: &http::HeaderValue) -> bool {
    let value = value.as_bytes();
    value.len() >= 16
        && value[..16].eq_ignore_ascii_case(b"application/grpc")
        && matches!(value.get(16), None | Some(b'+' | b';'))
}

pub(crate) fn header_value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let mut joined = Cow::Borrowed(first.as_bytes());
    for value in values {
        let joined = joined.to_mut();
        joined.push(b',');
        joined.extend_from_slice(value.as_bytes());
    }
    Some(joined)
}

fn query_value<'q>(query: Option<&'q str>, name: &str) -> Option<Cow<'q, [u8]>> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decode_query(key) == *name.as_bytes()).then(|| decode_query(value))
    })
}

fn decode_query(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|b| matches!(b, b'%' | b'+')) {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit = |offset: usize| bytes.get(at + offset).and_then(|b| (*b as char).to_digit(16));
        match (bytes[at], digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            (b'+', _, _) => out.push(b' '),
            (byte, _, _) => out.push(byte),
        }
        at += 1;
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(kind: ValueKind, not: bool) -> ValueTest {
        ValueTest { kind, not }
    }

    #[test]
    fn values() {
        let range = ValueKind::Range(1, 10);
        assert!(test(range.clone(), false).holds(Some(b"1")));
        assert!(!test(range.clone(), false).holds(Some(b"10")));
        assert!(!test(range.clone(), false).holds(Some(b"x")));
        assert!(test(range, true).holds(None), "a missing value passes an inverted test");
        assert!(test(ValueKind::Present(false), false).holds(None));
        assert!(test(ValueKind::Contains((*b"ell").into()), false).holds(Some(b"hello")));
        assert!(!test(ValueKind::Exact((*b"a").into()), false).holds(None));
    }

    #[test]
    fn queries() {
        let q = Some("a=1&b=%41+c&a=2&flag&=x&%62%62=y");
        assert_eq!(query_value(q, "a").as_deref(), Some(&b"1"[..]));
        assert_eq!(query_value(q, "b").as_deref(), Some(&b"A c"[..]));
        assert_eq!(query_value(q, "flag").as_deref(), Some(&b""[..]));
        assert_eq!(query_value(q, "bb").as_deref(), Some(&b"y"[..]));
        assert_eq!(query_value(q, "c"), None);
        assert_eq!(query_value(None, "a"), None);
    }

    #[test]
    fn grpc_content_types() {
        for (value, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC;x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", value.parse().unwrap());
            assert_eq!(is_grpc(&headers), grpc, "{value}");
        }
    }
}
