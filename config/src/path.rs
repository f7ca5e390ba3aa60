//! Normal forms of hosts and paths, for matching only.
//!
//! Requests are matched on a normalised copy and forwarded as received, so that a rule cannot be slipped by writing
//! the same path another way. RFC 3986 section 6.2.2: percent-encoded unreserved characters are decoded, dot segments
//! are removed; besides, repeated slashes are merged and `;parameters` of segments are dropped (servlet containers
//! ignore them). `%2F` and `%5C` stay encoded: whether they separate segments is the upstream's affair.

use std::borrow::Cow;

/// Why a path cannot be matched safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// It has an encoded NUL (`%00`), which many file and string functions take for the end.
    EncodedNul,
}

/// The path in its normal form. Borrowed when it is already normal, which is the usual case.
///
/// # Errors
/// See [`PathError`].
pub fn normalise(path: &str) -> Result<Cow<'_, str>, PathError> {
    if is_normal(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(path)?;
    Ok(Cow::Owned(resolve(&decoded, true)))
}

/// A path as an app may read it: in its normal form, which is how weir reads it, and in the other ways. Some apps decode
/// `%2F` and `%5C`, some take a backslash for a slash, some decode twice, and not all drop `;parameters`.
#[derive(Debug)]
pub struct Readings<'p> {
    normal: &'p str,
    others: Vec<Reading>,
    complete: bool,
}

/// A path as an app may read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read<T> {
    /// Percent-encoding stands for what has no other form.
    Encoded(T),
    /// Nothing is encoded any more.
    Decoded(T),
}

type Reading = Read<String>;

/// How often an app may decode a path.
const DECODINGS: usize = 3;

impl<'p> Readings<'p> {
    /// Of a path as received, and in its normal form.
    pub fn of(received: &str, normal: &'p str) -> Self {
        let mut readings = Self { normal, others: Vec::new(), complete: true };
        if !received.contains(['%', ';', '\\']) {
            return readings;
        }
        let unreserved = decode_unreserved(received).unwrap_or_default();
        let undotted = undotted(received);
        for way in 0..8 {
            let [slashes, without_parameters, stepwise] = [way & 1 != 0, way & 2 != 0, way & 4 != 0];
            let resolve = |path: &str| {
                let path = if slashes { Cow::Owned(path.replace('\\', "/")) } else { Cow::Borrowed(path) };
                resolve(&path, without_parameters)
            };
            readings.add(Read::Encoded(resolve(&unreserved)));
            readings.add(Read::Encoded(resolve(&undotted)));
            let mut path = received.to_owned();
            for _ in 0..DECODINGS {
                path = decode(&path);
                let resolved = resolve(&path);
                // Somebody in front of the app may have resolved it between two decodings.
                if stepwise {
                    path.clone_from(&resolved);
                }
                readings.complete &= !resolved.contains('\0');
                readings.add(Read::Decoded(resolved));
            }
            // Who encodes more often than that has something to hide.
            readings.complete &= decode(&path) == path;
        }
        readings
    }

    fn add(&mut self, reading: Reading) {
        if !self.others.contains(&reading) {
            self.others.push(reading);
        }
    }

    /// All of them, the normal form first.
    pub fn all(&self) -> impl Iterator<Item = Read<&str>> {
        let others = self.others.iter().map(|reading| match reading {
            Read::Encoded(path) => Read::Encoded(path.as_str()),
            Read::Decoded(path) => Read::Decoded(path.as_str()),
        });
        std::iter::once(Read::Encoded(self.normal)).chain(others)
    }

    /// Whether there is no further one.
    pub fn are_complete(&self) -> bool {
        self.complete
    }
}

/// Unreserved characters decoded, but for dots that would make a dot segment: to an app that does not decode, `%2e%2e` is a
/// name like any other.
fn undotted(path: &str) -> String {
    let names = path.split_inclusive(['/', '\\', ';']).map(|piece| {
        let decoded = decode_unreserved(piece).unwrap_or_default();
        let is_dots = matches!(decoded.trim_end_matches(['/', '\\', ';']), "." | "..");
        if is_dots { Cow::Borrowed(piece) } else { Cow::Owned(decoded) }
    });
    names.collect()
}

/// Decodes whatever is percent-encoded, once.
pub(crate) fn decode(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at] == b'%').then(|| hex_pair(bytes.get(at + 1), bytes.get(at + 2))).flatten() {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn is_normal(path: &[u8]) -> bool {
    let mut previous = 0_u8;
    for &byte in path {
        match byte {
            b'%' | b';' => return false,
            b'/' | b'.' if previous == b'/' => return false,
            _ => {}
        }
        previous = byte;
    }
    true
}

fn decode_unreserved(path: &str) -> Result<String, PathError> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let decoded = (byte == b'%').then(|| hex_pair(bytes.get(at + 1), bytes.get(at + 2))).flatten();
        match decoded {
            Some(0) => return Err(PathError::EncodedNul),
            Some(c) if c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'~') => {
                out.push(c);
                at += 3;
            }
            // Kept encoded, in upper case, so that `%2f` and `%2F` compare equal.
            Some(_) => {
                out.push(b'%');
                out.extend(bytes[at + 1..at + 3].iter().map(u8::to_ascii_uppercase));
                at += 3;
            }
            // A percent sign that encodes nothing stands for itself.
            None if byte == b'%' => {
                out.extend_from_slice(b"%25");
                at += 1;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    // Only ASCII was put in place of ASCII, so this is UTF-8 as `path` was.
    Ok(String::from_utf8(out).unwrap_or_else(|_| path.to_owned()))
}

fn hex_pair(high: Option<&u8>, low: Option<&u8>) -> Option<u8> {
    let digit = |b: &u8| (*b as char).to_digit(16);
    let value = digit(high?)? * 16 + digit(low?)?;
    u8::try_from(value).ok()
}

/// Removes dot segments, repeated slashes and, if asked, parameters.
pub(crate) fn resolve(path: &str, without_parameters: bool) -> String {
    if !path.starts_with('/') {
        return path.to_owned();
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_slash = false;
    for raw in path.split('/').skip(1) {
        let segment = if without_parameters { raw.split(';').next().unwrap_or("") } else { raw };
        ends_in_slash = false;
        match segment {
            "" | "." => ends_in_slash = true,
            ".." => {
                kept.pop();
                ends_in_slash = true;
            }
            other => kept.push(other),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if ends_in_slash || kept.is_empty() {
        out.push('/');
    }
    out
}

/// The host of a `Host` or `:authority` value in its normal form: lower case, no port, no trailing dot.
/// Borrowed when it is already normal.
pub fn normalise_host(authority: &str) -> Cow<'_, str> {
    let host = strip_port(authority);
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|b| b.is_ascii_uppercase()) { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) }
}

/// The authority without `:port`. An IPv6 literal keeps its brackets.
pub fn strip_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') && authority[colon + 1..].bytes().all(|b| b.is_ascii_digit()) => {
            &authority[..colon]
        }
        _ => authority,
    }
}

/// The port of an authority, if it names one.
pub fn port(authority: &str) -> Option<u16> {
    let host = strip_port(authority);
    authority.get(host.len() + 1..)?.parse().ok()
}

/// Whether `prefix` is a prefix of `path` by whole segments. `prefix` has no trailing slash, or is `/`.
pub fn has_segment_prefix(path: &str, prefix: &str) -> bool {
    prefix == "/" || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_forms() {
        let cases = [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/../../x", "/x"),
            ("/a/%2e%2E/b", "/b"),
            ("/%61dmin", "/admin"),
            ("/a%2fb", "/a%2Fb"),
            ("/a;x=1/b;y", "/a/b"),
            ("/a/;/b", "/a/b"),
            ("/..;/b", "/b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a.b/..c", "/a.b/..c"),
            ("/%zz%4", "/%25zz%254"),
            ("*", "*"),
            ("/ü/%C3%BC", "/ü/%C3%BC"),
        ];
        for (raw, normal) in cases {
            assert_eq!(normalise(raw).unwrap(), normal, "{raw}");
        }
        assert_eq!(normalise("/a%00b"), Err(PathError::EncodedNul));
    }

    #[test]
    fn hosts() {
        assert_eq!(normalise_host("Checkout.Shop.:8080"), "checkout.shop");
        assert_eq!(normalise_host("[::1]:80"), "[::1]");
        assert_eq!(normalise_host("[::1]"), "[::1]");
        assert_eq!(normalise_host("a:b"), "a:b");
        assert_eq!(port("a:80"), Some(80));
        assert_eq!(port("[::1]"), None);
        assert_eq!(port("a"), None);
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(path in "/[a-c./;%2Ee0-9]{0,24}") {
            if let Ok(once) = normalise(&path) {
                let twice = normalise(&once).map(Cow::into_owned);
                // `%252e` decodes to nothing further: `%25` is not unreserved.
                prop_assert_eq!(twice, Ok(once.into_owned()));
            }
        }

        #[test]
        fn no_dot_segments_remain(path in "/[ab./%2eE]{0,24}") {
            if let Ok(normal) = normalise(&path) {
                prop_assert!(!normal.split('/').any(|s| s == "." || s == ".."), "{}", normal);
                prop_assert!(!normal.contains("//"));
            }
        }
    }
}
