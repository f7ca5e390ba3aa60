//! Who may call what: one pure function, over the policies of a listener.
//!
//! Policies that deny are looked at first; if there are any that allow, one must hold (Istio `AuthorizationPolicy`). Serving
//! and `explain` ask the same function.
//!
//! An app may read a request in another way than weir does: decode `%2F` or not, take the first of two header fields or the
//! last. So a condition does not hold or fail but holds, fails, or may be either ([`Truth`]): a policy that denies or audits
//! takes the doubt for a yes, one that allows for a no. What breaks if this is changed carelessly: whoever finds a way of writing a
//! request that one side reads otherwise walks past a policy. `tests/suite/mesh/authorization` and the property tests
//! here are about that.

use std::net::IpAddr;

use http::header::{CONNECTION, HeaderName};
use http::{HeaderMap, Method};

use crate::decide::{Reason, Reasons};
use crate::matcher::{PathTest, ValueTest, header_value};
use crate::path::{Read, Readings, decode, resolve};
use crate::schema::PolicyAction;
use crate::snapshot::{ListenerId, PolicyId, Snapshot};
use crate::spiffe::{PeerPattern, SpiffeId};
use crate::table::HostPattern;
use crate::trust::Trust;

/// What is known of a call.
#[derive(Debug, Clone, Copy)]
pub struct Call<'r> {
    /// Who calls.
    pub caller: Caller<'r>,
    /// The app's port.
    pub port: u16,
    /// The host in its normal form ([`crate::path::normalise_host`]); `None` where it cannot be seen.
    pub host: Option<&'r str>,
    /// The request; `None` if the bytes are opaque.
    pub request: Option<Request<'r>>,
}

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'r> {
    /// As mutual TLS has shown it.
    pub principal: Option<&'r SpiffeId>,
    /// Whether that is of this proxy's own trust domain.
    pub is_own_domain: bool,
    /// From where.
    pub address: IpAddr,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'r> {
    /// The method.
    pub method: &'r Method,
    /// The path in its normal form ([`crate::path::normalise`]).
    pub path: &'r str,
    /// The path as it came.
    pub received: &'r str,
    /// The header fields as received.
    pub headers: &'r HeaderMap,
}

/// What was decided of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it may not be made; `None` if it may.
    pub refused: Option<Refused>,
    /// What would be decided if the policies on trial were enforced.
    pub on_trial: Option<Refused>,
    /// The policies that want it in the log.
    pub audited: Vec<PolicyId>,
}

/// Why a call may not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// This policy denies it.
    By(PolicyId),
    /// There are policies that allow, and none allows this.
    ByNone,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    /// It does not.
    No,
    /// It cannot be seen, or depends on how the app reads the request.
    Unknown,
    /// It does.
    Yes,
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

impl Truth {
    /// Whether something holds, each way it may be read. Of nothing at all nothing is known.
    fn over(mut ways: impl Iterator<Item = bool>) -> Self {
        match ways.next() {
            None => Self::Unknown,
            Some(first) if ways.all(|way| way == first) => first.into(),
            Some(_) => Self::Unknown,
        }
    }
}

/// A policy, compiled.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its unique name.
    pub name: Box<str>,
    /// What it does when it holds.
    pub action: PolicyAction,
    /// Whether it is on trial.
    pub dry_run: bool,
    pub(crate) from: Option<Box<[CallerTest]>>,
    pub(crate) to: Option<Box<[CallTest]>>,
}

/// Any of these, and none of those.
#[derive(Debug, Clone)]
pub(crate) struct OneOf<T> {
    pub(crate) these: Option<Box<[T]>>,
    pub(crate) but: Box<[T]>,
}

impl<T> OneOf<T> {
    fn holds(&self, fits: impl Fn(&T) -> bool) -> bool {
        self.these.as_ref().is_none_or(|these| these.iter().any(&fits)) && !self.but.iter().any(&fits)
    }

    /// Whether it asks for nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.these.is_none() && self.but.is_empty()
    }
}

/// Conditions on a caller.
#[derive(Debug, Clone)]
pub(crate) struct CallerTest {
    pub(crate) principals: OneOf<Principal>,
    pub(crate) namespaces: OneOf<Box<str>>,
    /// Namespace and name.
    pub(crate) accounts: OneOf<(Box<str>, Box<str>)>,
    pub(crate) addresses: OneOf<Trust>,
}

/// Who may be meant.
#[derive(Debug, Clone)]
pub(crate) enum Principal {
    /// Anybody that is known.
    Anybody,
    /// These.
    Pattern(PeerPattern),
}

/// A condition on a path, however the app reads it.
#[derive(Debug, Clone)]
pub(crate) struct PathRule {
    encoded: PathTest,
    decoded: PathTest,
}

impl PathRule {
    pub(crate) fn new(test: PathTest) -> Self {
        let resolved = |text: &str| resolve(&decode(text), false);
        let decoded = match &test {
            PathTest::Exact(text) => PathTest::Exact(resolved(text).into()),
            PathTest::Segments(text) if &**text == "/" => PathTest::Segments(text.clone()),
            PathTest::Segments(text) => PathTest::Segments(resolved(text).trim_end_matches('/').into()),
            PathTest::Characters(text) => PathTest::Characters(decode(text).into()),
            PathTest::Regex(pattern) => PathTest::Regex(pattern.clone()),
        };
        Self { encoded: test, decoded }
    }

    fn holds(&self, path: Read<&str>) -> bool {
        match path {
            Read::Encoded(path) => self.encoded.holds(path),
            Read::Decoded(path) => self.decoded.holds(path),
        }
    }
}

/// Conditions on what is asked for.
#[derive(Debug, Clone)]
pub(crate) struct CallTest {
    pub(crate) ports: OneOf<u16>,
    pub(crate) hosts: OneOf<HostPattern>,
    pub(crate) methods: OneOf<Method>,
    pub(crate) paths: OneOf<PathRule>,
    pub(crate) headers: Box<[(HeaderName, ValueTest)]>,
}

/// Decides whether a call may be made.
pub fn authorize<R: Reasons>(snapshot: &Snapshot, listener: ListenerId, call: &Call<'_>, reasons: &mut R) -> Verdict {
    let policies = &snapshot.listener(listener).policies;
    if policies.is_empty() {
        return Verdict::default();
    }
    let readings = call.request.map(|request| Readings::of(request.received, request.path));
    let (mut enforced, mut trial, mut audited) = (Tally::default(), Tally::default(), Vec::new());
    for &id in policies {
        let policy = snapshot.policy(id);
        let (from, to) = (policy.is_from(&call.caller), policy.is_to(call, readings.as_ref()));
        let holds = match policy.action {
            PolicyAction::Allow => from.min(to) == Truth::Yes,
            PolicyAction::Deny | PolicyAction::Audit => from.min(to) != Truth::No,
        };
        if R::WANTED {
            reasons.note(Reason::Policy { policy: id, from, to, holds });
        }
        match policy.action {
            PolicyAction::Audit if holds => audited.push(id),
            PolicyAction::Audit => {}
            action @ (PolicyAction::Allow | PolicyAction::Deny) => {
                trial.count(id, action, holds);
                if !policy.dry_run {
                    enforced.count(id, action, holds);
                }
            }
        }
    }
    Verdict { refused: enforced.refused(), on_trial: trial.refused(), audited }
}

/// What policies have said so far.
#[derive(Default)]
struct Tally {
    denied: Option<PolicyId>,
    must_allow: bool,
    allowed: bool,
}

impl Tally {
    fn count(&mut self, id: PolicyId, action: PolicyAction, holds: bool) {
        match action {
            PolicyAction::Deny if holds => self.denied = self.denied.or(Some(id)),
            PolicyAction::Allow => {
                self.must_allow = true;
                self.allowed |= holds;
            }
            PolicyAction::Deny | PolicyAction::Audit => {}
        }
    }

    fn refused(&self) -> Option<Refused> {
        let by_none = (self.must_allow && !self.allowed).then_some(Refused::ByNone);
        self.denied.map(Refused::By).or(by_none)
    }
}

impl Verdict {
    /// In words, for the log and `explain`; `None` if there is nothing to tell.
    pub fn tell(&self, snapshot: &Snapshot) -> Option<String> {
        let refused = |refused: Option<Refused>| match refused {
            None => "allowed".to_owned(),
            Some(Refused::By(id)) => format!("denied by {}", snapshot.policy(id).name),
            Some(Refused::ByNone) => "denied: no policy allows it".to_owned(),
        };
        let mut parts = Vec::new();
        if self.refused.is_some() {
            parts.push(refused(self.refused));
        }
        if self.on_trial != self.refused {
            parts.push(format!("dry run: {}", refused(self.on_trial)));
        }
        if !self.audited.is_empty() {
            let names: Vec<&str> = self.audited.iter().map(|id| &*snapshot.policy(*id).name).collect();
            parts.push(format!("audited by {}", names.join(", ")));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

impl Policy {
    fn is_from(&self, caller: &Caller<'_>) -> Truth {
        self.from.as_ref().is_none_or(|tests| tests.iter().any(|test| test.holds(caller))).into()
    }

    fn is_to(&self, call: &Call<'_>, readings: Option<&Readings<'_>>) -> Truth {
        let Some(tests) = &self.to else { return Truth::Yes };
        tests.iter().map(|test| test.holds(call, readings)).max().unwrap_or(Truth::No)
    }
}

impl CallerTest {
    fn holds(&self, caller: &Caller<'_>) -> bool {
        let workload = caller.principal.filter(|_| caller.is_own_domain).and_then(SpiffeId::workload);
        self.principals.holds(|principal| match principal {
            Principal::Anybody => caller.principal.is_some(),
            Principal::Pattern(pattern) => caller.principal.is_some_and(|id| pattern.matches(id)),
        }) && self.namespaces.holds(|namespace| workload.is_some_and(|(own, _)| own == &**namespace))
            && self.accounts.holds(|(namespace, name)| workload == Some((namespace, name)))
            && self.addresses.holds(|addresses| addresses.believes(caller.address))
    }
}

impl CallTest {
    fn holds(&self, call: &Call<'_>, readings: Option<&Readings<'_>>) -> Truth {
        let ports = self.ports.holds(|port| *port == call.port).into();
        let hosts = match call.host {
            _ if self.hosts.is_idle() => Truth::Yes,
            None => Truth::Unknown,
            Some(host) => self.hosts.holds(|pattern| pattern.fits(host)).into(),
        };
        Truth::min(ports, hosts).min(self.request_holds(call.request.as_ref(), readings))
    }

    /// Whether it asks for something that only a request has.
    pub(crate) fn is_about_requests(&self) -> bool {
        !self.methods.is_idle() || !self.paths.is_idle() || !self.headers.is_empty()
    }

    fn request_holds(&self, request: Option<&Request<'_>>, readings: Option<&Readings<'_>>) -> Truth {
        if !self.is_about_requests() {
            return Truth::Yes;
        }
        let (Some(request), Some(readings)) = (request, readings) else { return Truth::Unknown };
        let headers = self.headers.iter().map(|(name, test)| header_holds(request.headers, name, test));
        let headers = headers.min().unwrap_or(Truth::Yes);
        headers.min(self.method_holds(request.method)).min(self.path_holds(readings))
    }

    /// Methods are case-sensitive (RFC 9110, section 9.1), but not every app knows it.
    fn method_holds(&self, method: &Method) -> Truth {
        let exact = self.methods.holds(|one| one == method);
        let loose = self.methods.holds(|one| one.as_str().eq_ignore_ascii_case(method.as_str()));
        Truth::over([exact, loose].into_iter())
    }

    fn path_holds(&self, readings: &Readings<'_>) -> Truth {
        if self.paths.is_idle() {
            return Truth::Yes;
        }
        let truth = Truth::over(readings.all().map(|path| self.paths.holds(|test| test.holds(path))));
        if readings.are_complete() { truth } else { Truth::Unknown }
    }
}

/// Whether a header's test holds. Of several fields an app may take the first, the last, or all joined; CGI and its heirs
/// take `x_name` for `x-name`; and a field that `Connection` names does not arrive.
fn header_holds(headers: &HeaderMap, name: &HeaderName, test: &ValueTest) -> Truth {
    let joined = header_value(headers, name);
    let joined = test.holds(joined.as_deref());
    let same = || headers.iter().filter(|(other, _)| is_same(other, name)).map(|(_, value)| value.as_bytes());
    let each = same().map(|value| test.holds(Some(value)));
    let all = same().nth(1).is_some().then(|| test.holds(Some(&same().collect::<Vec<_>>().join(&b',')[..])));
    let absent = is_named(headers, name).then(|| test.holds(None));
    let truth = Truth::over(std::iter::once(joined).chain(each).chain(all).chain(absent));
    let element = || same().flat_map(|value| value.split(|b| *b == b',')).any(|element| test.holds(Some(element.trim_ascii())));
    // One element of a list is a way to read it that may deny, but a list need not consist of what is allowed.
    if truth == Truth::No && element() { Truth::Unknown } else { truth }
}

fn is_same(other: &HeaderName, name: &HeaderName) -> bool {
    let (other, name) = (other.as_str().as_bytes(), name.as_str().as_bytes());
    let dashed = |b: &u8| if *b == b'_' { b'-' } else { *b };
    other.len() == name.len() && other.iter().map(dashed).eq(name.iter().map(dashed))
}

fn is_named(headers: &HeaderMap, name: &HeaderName) -> bool {
    let listed = headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    listed.into_iter().any(|one| one.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
}
