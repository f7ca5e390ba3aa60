//! No way of writing a request walks past a policy: apps that read requests in many ways, written down here apart from the
//! code that is tested, and policies that must hold for all of them.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::{IpAddr, Ipv4Addr};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use proptest::prelude::*;
use weir_config::authorize::Request;
use weir_config::path::{normalise, normalise_host};
use weir_config::snapshot::ListenerId;
use weir_config::{Call, Caller, Snapshot, authorize};

fn snapshot(policy: &str) -> Snapshot {
    let text = format!(
        "listeners: [{{ name: in, listen: '127.0.0.1:1', direction: inbound, app: '127.0.0.1:2' }}]\nauthorization: [{policy}]\n"
    );
    weir_config::load(&text).unwrap().1
}

/// Whether the call may be made; `None` if it is refused before policies see it.
fn may(snapshot: &Snapshot, host: &str, path: &str, headers: &HeaderMap) -> Option<bool> {
    let uri: Uri = path.parse().ok()?;
    let normal = normalise(uri.path()).ok()?;
    let request = Request { method: &Method::GET, path: &normal, received: uri.path(), headers };
    let caller = Caller { principal: None, is_own_domain: false, address: IpAddr::V4(Ipv4Addr::LOCALHOST) };
    let host = normalise_host(host);
    let call = Call { caller, port: 2, host: Some(&host), request: Some(request) };
    Some(authorize(snapshot, ListenerId(0), &call, &mut ()).refused.is_none())
}

/// How an app reads a path.
#[derive(Debug, Clone, Copy)]
struct Reader {
    decodings: usize,
    backslash: bool,
    parameters: bool,
    /// Dot segments are resolved before the last decoding, as by a proxy in front of the app, and again after it.
    twice: bool,
}

fn readers() -> impl Iterator<Item = Reader> {
    (0..3_usize).flat_map(|decodings| {
        (0..8).map(move |bits| Reader { decodings, backslash: bits & 1 != 0, parameters: bits & 2 != 0, twice: bits & 4 != 0 })
    })
}

impl Reader {
    fn read(self, raw: &str) -> String {
        let mut path = raw.to_owned();
        for turn in 0..self.decodings {
            if self.twice && turn > 0 {
                path = self.resolve(&path);
            }
            path = percent_decode(&path);
        }
        self.resolve(&path)
    }

    fn resolve(self, path: &str) -> String {
        let path = if self.backslash { path.replace('\\', "/") } else { path.to_owned() };
        let mut segments: Vec<&str> = Vec::new();
        for segment in path.split('/') {
            let segment = if self.parameters { segment.split(';').next().unwrap_or("") } else { segment };
            match segment {
                "" | "." => {}
                ".." => drop(segments.pop()),
                other => segments.push(other),
            }
        }
        format!("/{}", segments.join("/"))
    }
}

fn percent_decode(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let digit = |place: usize| bytes.get(place).and_then(|b| (*b as char).to_digit(16));
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            (byte, _, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Pieces that mean something to somebody.
fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "/", "/", "/", "admin", "admin", "%61dmin", "adm%69n", "public", "x", ".", "..", "%2e", "%2E%2e", "%2f", "%2F", "%5c",
        "\\", ";", ";a=b", "..;", "%3b", "%252f", "%252e", "%25", "%", "%2", "%%", "A", "%00", "%2500", "~", "%20",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1024), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_an_app_reads_as_denied_is_denied(pieces in prop::collection::vec(piece(), 0..9)) {
        let path = format!("/{}", pieces.concat());
        let denies = snapshot("{ name: d, action: deny, to: [{ paths: [{ prefix: /admin }] }] }");
        let Some(allowed) = may(&denies, "a", &path, &HeaderMap::new()) else { return Ok(()) };
        for reader in readers() {
            let read = reader.read(&path);
            prop_assert!(!(allowed && is_below(&read, "/admin")), "{path} is {read} for {reader:?}");
        }
    }

    #[test]
    fn what_is_allowed_is_so_for_every_app(pieces in prop::collection::vec(piece(), 0..9)) {
        let path = format!("/public/{}", pieces.concat());
        let allows = snapshot("{ name: a, action: allow, to: [{ paths: [{ prefix: /public }] }] }");
        if may(&allows, "a", &path, &HeaderMap::new()) != Some(true) {
            return Ok(());
        }
        for reader in readers() {
            let read = reader.read(&path);
            prop_assert!(is_below(&read, "/public"), "{path} is {read} for {reader:?}");
        }
    }

    #[test]
    fn plain_paths_are_in_no_doubt(segments in prop::collection::vec("[a-z0-9_.~-]{1,6}", 0..4), encoded in any::<bool>()) {
        prop_assume!(!segments.iter().any(|segment| segment == "." || segment == ".."));
        let plain = segments.join("/");
        let path = format!("/public/{}", if encoded { plain.replace('a', "%61").replace('b', "%20") } else { plain });
        let allows = snapshot("{ name: a, action: allow, to: [{ paths: [{ prefix: /public }] }] }");
        prop_assert_eq!(may(&allows, "a", &path, &HeaderMap::new()), Some(true));
    }

    #[test]
    fn a_host_is_the_same_however_it_is_written(
        upper in prop::collection::vec(any::<bool>(), 10),
        dot in any::<bool>(),
        port in prop::option::of(1_u16..),
    ) {
        let mut host: String =
            "admin.shop".chars().zip(upper).map(|(c, upper)| if upper { c.to_ascii_uppercase() } else { c }).collect();
        if dot {
            host.push('.');
        }
        if let Some(port) = port {
            host += &format!(":{port}");
        }
        let denies = snapshot("{ name: d, action: deny, to: [{ hosts: [admin.shop] }] }");
        prop_assert_eq!(may(&denies, &host, "/", &HeaderMap::new()), Some(false));
        let others = snapshot("{ name: a, action: allow, to: [{ not_hosts: ['*.shop'] }] }");
        prop_assert_eq!(may(&others, &host, "/", &HeaderMap::new()), Some(false));
    }

    #[test]
    fn whichever_field_an_app_takes(
        fields in prop::collection::vec(
            (prop::sample::select(vec!["x-role", "x_role"]), prop::sample::select(vec!["root", "user", "root,user", "user, root", ""])),
            0..4,
        ),
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in &fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let ours: Vec<&str> = fields.iter().map(|(_, value)| *value).collect();
        let plain: Vec<&str> = fields.iter().filter(|(name, _)| *name == "x-role").map(|(_, value)| *value).collect();
        // Apps that know the difference between the names, and those that do not; the first, the last, or all together.
        let mut taken: Vec<Option<String>> = Vec::new();
        for values in [&ours, &plain] {
            taken.push(values.first().map(|value| (*value).to_owned()));
            taken.push(values.last().map(|value| (*value).to_owned()));
            taken.push((!values.is_empty()).then(|| values.join(",")));
        }
        let denies = snapshot("{ name: d, action: deny, to: [{ headers: { x-role: root } }] }");
        if taken.iter().flatten().any(|value| value == "root") {
            prop_assert_eq!(may(&denies, "a", "/", &headers), Some(false), "{:?}", fields);
        }
        let allows = snapshot("{ name: a, action: allow, to: [{ headers: { x-role: user } }] }");
        if may(&allows, "a", "/", &headers) == Some(true) {
            prop_assert!(taken.iter().all(|value| value.as_deref() == Some("user")), "{fields:?}");
        }
    }
}
