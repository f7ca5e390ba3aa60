//! SPIFFE IDs: who somebody is, as a URI in a certificate (SPIFFE-ID, sections 2 and 3), and patterns over them.
//!
//! Judges text only; that a certificate which carries an ID may be believed is judged where chains are verified. IDs are
//! compared byte for byte, which is right only because nothing but the normal form is taken for one.

use std::fmt;

/// The longest ID (SPIFFE-ID, section 2.3).
const MAX_ID: usize = 2048;
/// The longest name of a trust domain (SPIFFE-ID, section 2.1).
const MAX_TRUST_DOMAIN: usize = 255;

const SCHEME: &str = "spiffe://";

/// A SPIFFE ID: `spiffe://trust-domain/path`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Box<str>,
    /// Where the path begins, slash included; the length of the text if there is none.
    path: usize,
}

impl SpiffeId {
    /// Reads an ID.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > MAX_ID {
            return Err("it is longer than 2048 bytes");
        }
        let rest = text.strip_prefix(SCHEME).ok_or("it does not begin with `spiffe://`")?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        check_trust_domain(domain)?;
        if let Some(segments) = path.strip_prefix('/') {
            segments.split('/').try_for_each(check_segment)?;
        }
        Ok(Self { text: text.into(), path: SCHEME.len() + domain.len() })
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.path]
    }

    /// Namespace and service account, as Kubernetes meshes write them: `/ns/NAMESPACE/sa/NAME`.
    pub fn workload(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
    }

    /// The path, its first slash included; empty if the ID is that of the trust domain itself.
    pub fn path(&self) -> &str {
        &self.text[self.path..]
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn check_trust_domain(domain: &str) -> Result<(), &'static str> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    match domain {
        "" => Err("it names no trust domain"),
        _ if domain.len() > MAX_TRUST_DOMAIN => Err("the trust domain is longer than 255 bytes"),
        _ if !domain.bytes().all(fits) => Err("a trust domain has only lower case letters, digits, `.`, `-` and `_`"),
        _ => Ok(()),
    }
}

fn check_segment(segment: &str) -> Result<(), &'static str> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    match segment {
        "" => Err("a segment of the path is empty"),
        "." | ".." => Err("a segment of the path is relative"),
        _ if !segment.bytes().all(fits) => Err("a path has only letters, digits, `.`, `-`, `_`, and `/` between segments"),
        _ => Ok(()),
    }
}

/// Which peers are meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerPattern {
    /// This one: `spiffe://prod/ns/shop/sa/cart`.
    Exact(SpiffeId),
    /// Everybody of a trust domain (`spiffe://prod`, `spiffe://prod/*`), or those below a path (`spiffe://prod/ns/shop/*`).
    Below(SpiffeId),
}

impl PeerPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (base, below) = text.strip_suffix("/*").map_or((text, false), |base| (base, true));
        let id = SpiffeId::parse(base)?;
        Ok(if below || id.path().is_empty() { Self::Below(id) } else { Self::Exact(id) })
    }

    /// Whether this peer is meant.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(exact) => exact == id,
            // By whole segments: `/ns/shop` is not above `/ns/shopping`.
            Self::Below(base) => id.as_str().strip_prefix(base.as_str()).is_some_and(|rest| rest.starts_with('/')),
        }
    }

    /// The trust domain that it is about.
    pub fn trust_domain(&self) -> &str {
        let (Self::Exact(id) | Self::Below(id)) = self;
        id.trust_domain()
    }
}

impl fmt::Display for PeerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => write!(f, "{id}"),
            Self::Below(id) => write!(f, "{id}/*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_in_normal_form_and_no_others() {
        for text in ["spiffe://prod/ns/shop/sa/cart", "spiffe://prod", "spiffe://a.b-c_d.9/X.y-Z_0/..."] {
            assert_eq!(SpiffeId::parse(text).map(|id| id.to_string()), Ok(text.to_owned()));
        }
        let id = SpiffeId::parse("spiffe://prod/ns/shop").unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("prod", "/ns/shop"));
        let long = format!("spiffe://prod/{}", "x".repeat(MAX_ID));
        for text in [
            "",
            "prod/ns",
            "SPIFFE://prod/x",
            "https://prod/x",
            "spiffe://",
            "spiffe:///x",
            "spiffe://Prod/x",
            "spiffe://prod:80/x",
            "spiffe://me@prod/x",
            "spiffe://prod/",
            "spiffe://prod/x/",
            "spiffe://prod//x",
            "spiffe://prod/./x",
            "spiffe://prod/x/..",
            "spiffe://prod/x%2fy",
            "spiffe://prod/x?y",
            "spiffe://prod/x#y",
            "spiffe://prod/x\0y",
            "spiffe://prod/\u{fc}",
            &long,
        ] {
            assert!(SpiffeId::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn patterns_go_by_whole_segments() {
        let meant = |pattern: &str, id: &str| PeerPattern::parse(pattern).unwrap().matches(&SpiffeId::parse(id).unwrap());
        for (pattern, id, expected) in [
            ("spiffe://prod/ns/shop/sa/cart", "spiffe://prod/ns/shop/sa/cart", true),
            ("spiffe://prod/ns/shop/sa/cart", "spiffe://prod/ns/shop/sa/carts", false),
            ("spiffe://prod/ns/shop/sa/cart", "spiffe://prod2/ns/shop/sa/cart", false),
            ("spiffe://prod/ns/shop/*", "spiffe://prod/ns/shop/sa/cart", true),
            ("spiffe://prod/ns/shop/*", "spiffe://prod/ns/shopping/sa/cart", false),
            ("spiffe://prod/ns/shop/*", "spiffe://prod/ns/shop", false),
            ("spiffe://prod", "spiffe://prod/ns/shop", true),
            ("spiffe://prod/*", "spiffe://prod/ns/shop", true),
            ("spiffe://prod", "spiffe://prod.evil/ns/shop", false),
        ] {
            assert_eq!(meant(pattern, id), expected, "{pattern} {id}");
        }
        assert!(PeerPattern::parse("spiffe://prod/*/sa/cart").is_err());
    }

    proptest! {
        #[test]
        fn what_is_taken_for_an_id_is_its_own_normal_form(text in "(spiffe://)?[a-z.]{0,4}(/[a-zA-Z.%/ ]{0,6}){0,3}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
                prop_assert!(!id.path().contains("//") && !id.path().ends_with('/') && !id.path().contains('%'));
            }
        }
    }
}
