//! Who called: `X-Forwarded-For`, `-Proto`, `-Host`, and `Forwarded` (RFC 7239), under the listener's trust.
//!
//! From a trusted peer, existing values are kept and this hop is added. From any other they are removed first, so that
//! nobody can lie about where a request came from. Outbound, weir adds nothing unless asked: the peer is the app itself.

use std::fmt::Write;
use std::net::IpAddr;

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use weir_config::schema::ForwardingHeaders;

/// Who has shown which certificate (Envoy `x-forwarded-client-cert`).
static CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
static FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What else is commonly taken for the truth about who called.
const OTHER_CLAIMS: [&str; 6] = [
    "x-forwarded-client-cert",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-real-ip",
    "x-envoy-external-address",
];

/// The caller of a connection, prepared once.
#[derive(Debug, Clone)]
pub struct Caller {
    address: IpAddr,
    /// The address as a header value.
    value: HeaderValue,
    trusted: bool,
    /// Whether it came over TLS that is no affair of the mesh.
    encrypted: bool,
    certificate: Claim,
}

/// What becomes of `x-forwarded-client-cert`, which tells the app who called.
#[derive(Debug, Clone)]
pub enum Claim {
    /// It is kept as a trusted peer sent it.
    Kept,
    /// It is removed: where callers are known by their certificates, this one has shown none.
    Removed,
    /// It is replaced by what was verified here.
    Verified(HeaderValue),
}

impl Caller {
    /// The peer of a connection, whether it is believed, and whether it came over TLS of its own.
    pub fn new(address: IpAddr, trusted: bool, encrypted: bool, certificate: Claim) -> Self {
        let address = address.to_canonical();
        let value = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        Self { address, value, trusted, encrypted, certificate }
    }

    /// Whether it came over TLS that is no affair of the mesh.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// What it speaks, in a URL. The mesh's TLS is not seen by apps, whose `http` it carries.
    pub fn scheme(&self) -> &'static str {
        if self.encrypted { "https" } else { "http" }
    }

    /// Whether the peer is believed.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Whether all that the peer says of who called stays as it is.
    pub fn is_left_alone(&self) -> bool {
        self.trusted && matches!(self.certificate, Claim::Kept)
    }
}

/// Removes what a caller says of its own certificate.
pub fn disclaim(headers: &mut HeaderMap) {
    headers.remove(&CERTIFICATE);
}

/// Tells the upstream about the caller. `host` is the host that the caller asked for.
pub fn apply(headers: &mut HeaderMap, mode: ForwardingHeaders, caller: &Caller, host: Option<&HeaderValue>) {
    if !caller.trusted {
        for name in [&FOR, &PROTO, &ORIGINAL_HOST, &FORWARDED] {
            headers.remove(name);
        }
        for name in OTHER_CLAIMS {
            headers.remove(name);
        }
    }
    match &caller.certificate {
        Claim::Kept => {}
        Claim::Removed => drop(headers.remove(&CERTIFICATE)),
        Claim::Verified(value) => drop(headers.insert(CERTIFICATE.clone(), value.clone())),
    }
    if matches!(mode, ForwardingHeaders::XForwarded | ForwardingHeaders::Both) {
        append(headers, &FOR, &caller.value);
        if !headers.contains_key(&PROTO) {
            headers.insert(PROTO.clone(), HeaderValue::from_static(caller.scheme()));
        }
        if let (false, Some(host)) = (headers.contains_key(&ORIGINAL_HOST), host) {
            headers.insert(ORIGINAL_HOST.clone(), host.clone());
        }
    }
    if matches!(mode, ForwardingHeaders::Forwarded | ForwardingHeaders::Both)
        && let Ok(element) = HeaderValue::from_str(&element(caller, host))
    {
        append(headers, &FORWARDED, &element);
    }
}

fn element(caller: &Caller, host: Option<&HeaderValue>) -> String {
    let mut element = match caller.address {
        IpAddr::V4(address) => format!("for={address}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    };
    if let Some(host) = host.and_then(|host| host.to_str().ok()) {
        let _ = write!(element, ";host=\"{host}\"");
    }
    element.push_str(";proto=");
    element.push_str(caller.scheme());
    element
}

/// Adds to the list that the fields of one name are, as one field.
fn append(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    let mut list: Vec<u8> = Vec::new();
    for field in headers.get_all(name) {
        list.extend_from_slice(field.as_bytes());
        list.extend_from_slice(b", ");
    }
    if list.is_empty() {
        headers.insert(name.clone(), value.clone());
        return;
    }
    list.extend_from_slice(value.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&list) {
        headers.insert(name.clone(), value);
    }
}

/// The host the caller asked for, as a header value.
pub fn host(headers: &HeaderMap, authority: Option<&http::uri::Authority>) -> Option<HeaderValue> {
    match authority {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => headers.get(HOST).filter(|host| !host.is_empty()).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(incoming: &[(&str, &str)], mode: ForwardingHeaders, peer: &str, trusted: bool) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in incoming {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let caller = Caller::new(peer.parse().unwrap(), trusted, false, Claim::Kept);
        apply(&mut headers, mode, &caller, Some(&HeaderValue::from_static("shop:80")));
        let mut all: Vec<_> = headers.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        all.sort();
        all
    }

    #[test]
    fn the_policy() {
        use ForwardingHeaders::{Both, Forwarded, None, XForwarded};
        let claims = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=9.9.9.9"),
        ];
        assert_eq!(
            run(&claims, None, "10.0.0.1", true),
            ["forwarded=for=9.9.9.9", "x-forwarded-for=1.1.1.1", "x-forwarded-for=2.2.2.2", "x-forwarded-proto=https"]
        );
        assert!(run(&claims, None, "8.8.8.8", false).is_empty());
        assert!(run(&[("x-forwarded-client-cert", "By=x"), ("x-real-ip", "1.1.1.1")], None, "8.8.8.8", false).is_empty());
        assert_eq!(
            run(&claims, XForwarded, "::ffff:10.0.0.1", true),
            [
                "forwarded=for=9.9.9.9",
                "x-forwarded-for=1.1.1.1, 2.2.2.2, 10.0.0.1",
                "x-forwarded-host=shop:80",
                "x-forwarded-proto=https"
            ]
        );
        assert_eq!(
            run(&claims, XForwarded, "8.8.8.8", false),
            ["x-forwarded-for=8.8.8.8", "x-forwarded-host=shop:80", "x-forwarded-proto=http"]
        );
        assert_eq!(
            run(&claims, Forwarded, "2001:db8::1", true)[0],
            "forwarded=for=9.9.9.9, for=\"[2001:db8::1]\";host=\"shop:80\";proto=http"
        );
        assert_eq!(run(&[], Both, "8.8.8.8", false).len(), 4);
    }
}
