//! What rewrites and redirects do to a request: pure text to text.

use std::borrow::Cow;

use crate::path::{has_segment_prefix, port, strip_port};
use crate::snapshot::{PathRewrite, Redirect};

impl PathRewrite {
    /// The new path for a normalised one. Always begins with `/`.
    pub fn apply<'p>(&'p self, path: &'p str) -> Cow<'p, str> {
        let new = match self {
            Self::Full(full) => Cow::Borrowed(&**full),
            Self::Prefix { matched, replacement } => {
                let Some(prefix) = matched.iter().find(|prefix| has_segment_prefix(path, prefix)) else {
                    return Cow::Borrowed(path);
                };
                let rest = if &**prefix == "/" { path } else { &path[prefix.len()..] };
                match (&**replacement, rest) {
                    ("/", "") => Cow::Borrowed("/"),
                    ("/", rest) => Cow::Borrowed(rest),
                    (replacement, "") => Cow::Borrowed(replacement),
                    (replacement, "/") if &**prefix == "/" => Cow::Borrowed(replacement),
                    (replacement, rest) => Cow::Owned(format!("{replacement}{rest}")),
                }
            }
            Self::Regex { pattern, replacement } => pattern.replace_all(path, &**replacement),
        };
        if new.starts_with('/') { new } else { Cow::Owned(format!("/{new}")) }
    }
}

impl Redirect {
    /// The `location` for a request: `scheme` and `authority` as the caller used them, `path` normalised.
    pub fn location(&self, scheme: &str, authority: &str, path: &str, query: Option<&str>) -> String {
        let new_scheme = self.scheme.unwrap_or(scheme);
        let host = self.host.as_deref().unwrap_or_else(|| strip_port(authority));
        // As in the Gateway API: a given scheme without a port means that scheme's own port.
        let port = self.port.or_else(|| if self.scheme.is_some() { None } else { port(authority) });
        let port = port.filter(|port| !matches!((new_scheme, port), ("http", 80) | ("https", 443)));
        let path = self.path.as_ref().map_or(Cow::Borrowed(path), |rewrite| rewrite.apply(path));
        // HTTP/1.0 may not say which host it asked; a relative reference then says all there is to say.
        let mut location = if host.is_empty() { String::new() } else { format!("{new_scheme}://{host}") };
        if let (Some(port), false) = (port, host.is_empty()) {
            location.push_str(&format!(":{port}"));
        }
        location.push_str(&path);
        if let Some(query) = query {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(matched: &[&str], replacement: &str) -> PathRewrite {
        PathRewrite::Prefix { matched: matched.iter().map(|m| (*m).into()).collect(), replacement: replacement.into() }
    }

    #[test]
    fn prefixes() {
        // The table of the Gateway API's `HTTPPathModifier`.
        for (from, to, path, new) in [
            ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz", "/foo", "/xyz"),
            ("/foo", "/xyz", "/foo/", "/xyz/"),
            ("/foo", "/", "/foo/bar", "/bar"),
            ("/foo", "/", "/foo", "/"),
            ("/foo", "/", "/foo/", "/"),
            ("/", "/api", "/x", "/api/x"),
            ("/", "/api", "/", "/api"),
        ] {
            assert_eq!(prefix(&[from], to).apply(path), new, "{from} -> {to}: {path}");
        }
        assert_eq!(prefix(&["/a/b", "/a"], "/z").apply("/a/b/c"), "/z/c");
    }

    #[test]
    fn regexes() {
        let rewrite = PathRewrite::Regex { pattern: regex::Regex::new("^/users/([0-9]+)").unwrap(), replacement: "/u/$1".into() };
        assert_eq!(rewrite.apply("/users/7/x"), "/u/7/x");
        assert_eq!(rewrite.apply("/other"), "/other");
    }

    #[test]
    fn locations() {
        let mut redirect =
            Redirect { scheme: Some("https"), host: None, port: None, path: None, status: http::StatusCode::MOVED_PERMANENTLY };
        assert_eq!(redirect.location("http", "shop:8080", "/a", Some("b=1")), "https://shop/a?b=1");
        redirect.port = Some(8443);
        assert_eq!(redirect.location("http", "shop:8080", "/a", None), "https://shop:8443/a");
        redirect.scheme = None;
        redirect.port = None;
        assert_eq!(redirect.location("http", "", "/a", Some("b")), "/a?b");
        redirect.host = Some("new".into());
        assert_eq!(redirect.location("http", "shop:8080", "/a", None), "http://new:8080/a");
    }
}
