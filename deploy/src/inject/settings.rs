//! What may be said of injection: for all pods, and by annotations of one pod in place of that.
//!
//! Annotations of App Mesh, Istio and Linkerd that say the same are understood, so that a namespace moves by a change of its
//! label. Our own come before them; of theirs the first in the table counts.

use ipnet::IpNet;
use weir_config::error::suggest;

use super::resources::{Resources, quantity};
use crate::manifest::Node;
use crate::redirect::options::{self, Options, Ports};

/// What annotations of ours begin with.
pub const PREFIX: &str = "weir.proxy/";

/// All of them, behind that.
const NAMES: [&str; 27] = [
    "inject",
    "image",
    "pull-policy",
    "native",
    "config-map",
    "config",
    "redirect",
    "log",
    "rewrite-probes",
    "identity-secret",
    "workload-api",
    "opaque-ports",
    "wait-before-exit",
    "cpu-request",
    "cpu-limit",
    "memory-request",
    "memory-limit",
    "include-inbound-ports",
    "exclude-inbound-ports",
    "include-outbound-ports",
    "exclude-outbound-ports",
    "include-outbound-cidrs",
    "exclude-outbound-cidrs",
    "preserve-source",
    "exclude-interfaces",
    // These are written by injection.
    "status",
    "default-config",
];

/// Options that are no annotations, and what annotation says the same.
const OPTIONS: [(&str, &str); 14] = [
    ("classic", "native: \"false\""),
    ("no-redirect", "redirect: \"false\""),
    ("keep-probes", "rewrite-probes: \"false\""),
    ("no-inbound", ""),
    ("no-outbound", ""),
    ("inbound-port", ""),
    ("outbound-port", ""),
    ("uid", ""),
    ("gid", ""),
    ("mark", ""),
    ("exclude-uids", ""),
    ("exclude-gids", ""),
    ("exclude-inbound-cidrs", ""),
    ("ipv6", ""),
];

/// How pods get their sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The image of weir.
    pub image: String,
    /// When the image is fetched: `Always`, `IfNotPresent`, `Never`; `None` leaves it to Kubernetes.
    pub pull_policy: Option<String>,
    /// A native sidecar (Kubernetes 1.29), which starts before the app and leaves after it, also of a Job.
    pub native: bool,
    /// A ConfigMap with `weir.yaml`; `None` is the configuration that stands in the pod's annotation.
    pub config_map: Option<String>,
    /// Whether the pod's connections are handed to weir.
    pub redirect: bool,
    /// Which of them.
    pub rules: Options,
    /// What weir may use.
    pub resources: Resources,
    /// The level of weir's own log.
    pub log: Option<String>,
    /// Whether weir makes the kubelet's probes of the app.
    pub rewrite_probes: bool,
    /// A Secret with `tls.crt`, `tls.key` and `ca.crt`, which is who weir is in the mesh.
    pub identity_secret: Option<String>,
    /// The CSI driver that mounts the socket of the SPIFFE Workload API, which tells who weir is; usually `csi.spiffe.io`.
    pub workload_api: Option<String>,
    /// Ports on which the bytes are nobody's business, besides those of the listener's own list; in the configuration that is
    /// made where there is no other.
    pub opaque_ports: Vec<Ports>,
    /// How long callers are still served after weir was told to leave, before it leaves; in a classic sidecar only.
    pub wait_before_exit: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            image: format!("weir:{}", env!("CARGO_PKG_VERSION")),
            pull_policy: None,
            native: true,
            config_map: None,
            redirect: true,
            rules: Options::default(),
            resources: Resources::default(),
            log: None,
            rewrite_probes: true,
            identity_secret: None,
            workload_api: None,
            opaque_ports: Vec::new(),
            wait_before_exit: None,
        }
    }
}

impl Settings {
    /// Whether weir is somebody in the mesh.
    pub fn has_identity(&self) -> bool {
        self.identity_secret.is_some() || self.workload_api.is_some()
    }
}

/// Annotations of others that say what one of ours says.
const ALIASES: [(&str, &[&str]); 16] = [
    ("inject", &["sidecar.istio.io/inject", "linkerd.io/inject", "appmesh.k8s.aws/sidecarInjectorWebhook"]),
    (
        "native",
        &[
            "sidecar.istio.io/nativeSidecar",
            "config.linkerd.io/proxy-enable-native-sidecar",
            "config.beta.linkerd.io/proxy-enable-native-sidecar",
            "config.alpha.linkerd.io/proxy-enable-native-sidecar",
        ],
    ),
    ("log", &["sidecar.istio.io/logLevel", "config.linkerd.io/proxy-log-level"]),
    ("cpu-request", &["sidecar.istio.io/proxyCPU", "config.linkerd.io/proxy-cpu-request", "appmesh.k8s.aws/cpuRequest"]),
    ("cpu-limit", &["sidecar.istio.io/proxyCPULimit", "config.linkerd.io/proxy-cpu-limit", "appmesh.k8s.aws/cpuLimit"]),
    (
        "memory-request",
        &["sidecar.istio.io/proxyMemory", "config.linkerd.io/proxy-memory-request", "appmesh.k8s.aws/memoryRequest"],
    ),
    (
        "memory-limit",
        &["sidecar.istio.io/proxyMemoryLimit", "config.linkerd.io/proxy-memory-limit", "appmesh.k8s.aws/memoryLimit"],
    ),
    ("include-inbound-ports", &["traffic.sidecar.istio.io/includeInboundPorts", "appmesh.k8s.aws/ports"]),
    ("exclude-inbound-ports", &["traffic.sidecar.istio.io/excludeInboundPorts", "config.linkerd.io/skip-inbound-ports"]),
    (
        "exclude-outbound-ports",
        &[
            "traffic.sidecar.istio.io/excludeOutboundPorts",
            "config.linkerd.io/skip-outbound-ports",
            "appmesh.k8s.aws/egressIgnoredPorts",
        ],
    ),
    ("include-outbound-cidrs", &["traffic.sidecar.istio.io/includeOutboundIPRanges"]),
    (
        "exclude-outbound-cidrs",
        &[
            "traffic.sidecar.istio.io/excludeOutboundIPRanges",
            "config.linkerd.io/skip-subnets",
            "appmesh.k8s.aws/egressIgnoredIPs",
        ],
    ),
    ("rewrite-probes", &["sidecar.istio.io/rewriteAppHTTPProbers"]),
    ("opaque-ports", &["config.linkerd.io/opaque-ports"]),
    ("exclude-interfaces", &["traffic.sidecar.istio.io/excludeInterfaces"]),
    (
        "wait-before-exit",
        &["config.linkerd.io/proxy-wait-before-exit-seconds", "config.alpha.linkerd.io/proxy-wait-before-exit-seconds"],
    ),
];

/// What a pod says of itself.
pub struct Said<'n> {
    annotations: Option<&'n Node>,
    labels: Option<&'n Node>,
}

impl<'n> Said<'n> {
    /// By the metadata of a pod.
    pub fn new(metadata: Option<&'n Node>) -> Self {
        let part = |key| metadata.and_then(|metadata| metadata.get(key));
        Self { annotations: part("annotations"), labels: part("labels") }
    }

    /// The annotation that says this, and what it says.
    fn find(&self, name: &'static str) -> Option<(String, &'n str)> {
        let own = format!("{PREFIX}{name}");
        let aliases = ALIASES.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, aliases)| aliases);
        let keys = std::iter::once(own).chain(aliases.iter().map(|alias| (*alias).to_owned()));
        keys.into_iter().find_map(|key| {
            let said = self.annotations.and_then(|all| all.get(&key)).or_else(|| self.labels.and_then(|all| all.get(&key)));
            Some((key, said?.as_text()?))
        })
    }

    /// Annotations of ours that mean nothing, each with what may be meant.
    pub(super) fn unknown(&self) -> Vec<String> {
        let keys = self.annotations.into_iter().flat_map(Node::entries).filter_map(|(key, _)| key.strip_prefix(PREFIX));
        let unknown = keys.filter(|name| !NAMES.contains(name));
        let meant = |name: &str| match OPTIONS.iter().find(|(option, _)| *option == name) {
            Some((_, "")) => "it is an option of `weir inject` and `weir webhook` only".to_owned(),
            Some((_, annotation)) => format!("write `{PREFIX}{annotation}`"),
            None => suggest(name, NAMES),
        };
        unknown.map(|name| format!("`{PREFIX}{name}` means nothing here; {}", meant(name))).collect()
    }

    /// What the configuration says that an annotation of ours has.
    pub(super) fn config(&self) -> Option<&'n str> {
        self.annotations?.get(&format!("{PREFIX}config"))?.as_text()
    }

    /// Whether it says this by an annotation of ours.
    pub fn has(&self, name: &str) -> bool {
        self.annotations.and_then(|all| all.get(&format!("{PREFIX}{name}"))).is_some_and(|said| !said.is_null())
    }

    /// Whether it wants a sidecar; `None` if it does not say.
    ///
    /// # Errors
    /// It says something else.
    pub fn wants(&self) -> Result<Option<bool>, String> {
        let Some((key, said)) = self.find("inject") else { return Ok(None) };
        match said {
            "true" | "enabled" | "ingress" | "yes" | "on" => Ok(Some(true)),
            "false" | "disabled" | "no" | "off" => Ok(Some(false)),
            _ => Err(format!("`{key}: {said}` is neither `true` nor `false`")),
        }
    }

    /// Of two annotations one may be said; what whoever injects says of the other then counts no more.
    fn one_of(&self, names: [&'static str; 2], places: [&mut Option<String>; 2]) -> Option<String> {
        let said = names.map(|name| self.find(name).is_some_and(|(_, said)| !said.trim().is_empty()));
        let [first, second] = places;
        match said {
            [true, true] => {
                return Some(format!("`{PREFIX}{}` and `{PREFIX}{}` cannot both be: leave one out", names[0], names[1]));
            }
            [true, false] => *second = None,
            [false, true] => *first = None,
            [false, false] => {}
        }
        None
    }

    /// The settings with what this pod says in their place.
    ///
    /// # Errors
    /// Every annotation that cannot be understood.
    pub fn apply(&self, settings: &Settings) -> Result<Settings, Vec<String>> {
        let mut all = settings.clone();
        let mut mistakes = Vec::new();
        for (name, place) in [
            ("image", &mut all.image as &mut dyn Place),
            ("pull-policy", &mut Policy(&mut all.pull_policy)),
            ("native", &mut all.native),
            ("config-map", &mut Named(&mut all.config_map)),
            ("redirect", &mut all.redirect),
            ("log", &mut Level(&mut all.log)),
            ("rewrite-probes", &mut all.rewrite_probes),
            ("identity-secret", &mut Named(&mut all.identity_secret)),
            ("workload-api", &mut Driver(&mut all.workload_api)),
            ("opaque-ports", &mut More(&mut all.opaque_ports)),
            ("wait-before-exit", &mut all.wait_before_exit),
            ("cpu-request", &mut Amount(&mut all.resources.cpu_request)),
            ("cpu-limit", &mut Amount(&mut all.resources.cpu_limit)),
            ("memory-request", &mut Amount(&mut all.resources.memory_request)),
            ("memory-limit", &mut Amount(&mut all.resources.memory_limit)),
            ("include-inbound-ports", &mut all.rules.include_inbound_ports),
            ("exclude-inbound-ports", &mut More(&mut all.rules.exclude_inbound_ports)),
            ("include-outbound-ports", &mut all.rules.include_outbound_ports),
            ("exclude-outbound-ports", &mut More(&mut all.rules.exclude_outbound_ports)),
            ("include-outbound-cidrs", &mut all.rules.include_outbound_cidrs),
            ("exclude-outbound-cidrs", &mut More(&mut all.rules.exclude_outbound_cidrs)),
            ("preserve-source", &mut all.rules.preserve_source),
            ("exclude-interfaces", &mut More(&mut all.rules.exclude_interfaces)),
        ] {
            if let Some((key, said)) = self.find(name)
                && let Err(mistake) = place.take(match name {
                    "log" => level(said.trim()),
                    _ => said.trim(),
                })
            {
                mistakes.push(format!("`{key}: {said}`: {mistake}"));
            }
        }
        // Istio means none by nothing, where weir has an annotation for that.
        let none = |key: &str| self.annotations.and_then(|all| all.get(key)?.as_text()).is_some_and(str::is_empty);
        if none("traffic.sidecar.istio.io/includeInboundPorts") {
            all.rules.inbound = None;
        }
        if none("traffic.sidecar.istio.io/includeOutboundIPRanges") {
            all.rules.outbound = None;
        }
        mistakes.extend(self.one_of(["config-map", "config"], [&mut all.config_map, &mut None]));
        mistakes.extend(self.one_of(["identity-secret", "workload-api"], [&mut all.identity_secret, &mut all.workload_api]));
        all.rules.follow_user();
        mistakes.extend(all.rules.mistakes());
        all.resources.give_way(|name| self.find(name).is_some());
        mistakes.extend(all.resources.mistakes());
        if mistakes.is_empty() { Ok(all) } else { Err(mistakes) }
    }
}

/// Levels that others have by other names. What is said of parts of another proxy means nothing here: the level of all counts.
fn level(said: &str) -> &str {
    let of_all = said.split(',').find(|word| !word.contains(['=', ':']) || word.starts_with("weir="));
    match of_all.unwrap_or("info").trim() {
        "warning" => "warn",
        "critical" | "fatal" => "error",
        "none" => "off",
        level => level,
    }
}

/// Where what an annotation says is put.
trait Place {
    fn take(&mut self, said: &str) -> Result<(), String>;
}

impl Place for String {
    fn take(&mut self, said: &str) -> Result<(), String> {
        if said.is_empty() {
            return Err("this is empty".to_owned());
        }
        said.clone_into(self);
        Ok(())
    }
}

impl Place for Option<String> {
    fn take(&mut self, said: &str) -> Result<(), String> {
        *self = (!said.is_empty()).then(|| said.to_owned());
        Ok(())
    }
}

/// A level of weir's own log.
struct Level<'p>(&'p mut Option<String>);

impl Place for Level<'_> {
    fn take(&mut self, said: &str) -> Result<(), String> {
        Place::take(self.0, &log_level(said)?)
    }
}

/// The name of an object.
struct Named<'p>(&'p mut Option<String>);

impl Place for Named<'_> {
    fn take(&mut self, said: &str) -> Result<(), String> {
        Place::take(self.0, &object_name(said)?)
    }
}

/// The name of a CSI driver.
struct Driver<'p>(&'p mut Option<String>);

impl Place for Driver<'_> {
    fn take(&mut self, said: &str) -> Result<(), String> {
        match said {
            "true" | "enabled" => Err("write the name of the CSI driver, usually `csi.spiffe.io`".to_owned()),
            _ => Named(self.0).take(said),
        }
    }
}

/// A quantity of Kubernetes.
struct Amount<'p>(&'p mut Option<String>);

impl Place for Amount<'_> {
    fn take(&mut self, said: &str) -> Result<(), String> {
        *self.0 = Some(quantity(said)?);
        Ok(())
    }
}

/// A level of weir's log, or levels of its parts. Nothing is nothing said.
///
/// # Errors
/// What it may be.
pub fn log_level(said: &str) -> Result<String, String> {
    let is_level = |word: &str| matches!(word, "off" | "error" | "warn" | "info" | "debug" | "trace");
    let is_part = |word: &str| word.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c));
    let fits = |word: &str| match word.split_once('=') {
        Some((part, level)) => is_part(part) && is_level(level),
        None => is_level(word),
    };
    match said.is_empty() || said.split(',').all(fits) {
        true => Ok(said.to_owned()),
        false => Err("write `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `weir=debug,info`".to_owned()),
    }
}

/// The name of an object (RFC 1123, section 2.1, as Kubernetes has it). Nothing is nothing said.
///
/// # Errors
/// What it may be.
pub fn object_name(said: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    let is_name = said.len() <= 253 && said.chars().all(fits) && !said.starts_with(['-', '.']) && !said.ends_with(['-', '.']);
    is_name.then(|| said.to_owned()).ok_or("write a name: lower-case letters, digits, `-` and `.` between them".to_owned())
}

/// When an image is fetched.
struct Policy<'p>(&'p mut Option<String>);

impl Place for Policy<'_> {
    fn take(&mut self, said: &str) -> Result<(), String> {
        if !matches!(said, "" | "Always" | "IfNotPresent" | "Never") {
            return Err("write `Always`, `IfNotPresent` or `Never`".to_owned());
        }
        Place::take(self.0, said)
    }
}

impl Place for Option<u32> {
    fn take(&mut self, said: &str) -> Result<(), String> {
        let seconds = said.strip_suffix('s').unwrap_or(said).parse();
        *self = Some(seconds.map_err(|_| "write a number of seconds".to_owned())?);
        Ok(())
    }
}

impl Place for bool {
    fn take(&mut self, said: &str) -> Result<(), String> {
        *self = match said {
            "true" | "enabled" => true,
            "false" | "disabled" => false,
            _ => return Err("write `true` or `false`".to_owned()),
        };
        Ok(())
    }
}

/// A list of which the items are separated by commas. `*` is all, which is an empty list.
impl<T: Listed + PartialEq> Place for Vec<T> {
    fn take(&mut self, said: &str) -> Result<(), String> {
        let words = said.split(',').map(str::trim).filter(|word| !word.is_empty() && *word != "*");
        *self = words.map(T::parse).collect::<Result<_, _>>()?;
        Ok(())
    }
}

/// A list that is added to what is there.
struct More<'l, T>(&'l mut Vec<T>);

impl<T: Listed + PartialEq> Place for More<'_, T> {
    fn take(&mut self, said: &str) -> Result<(), String> {
        let mut more = Vec::new();
        Place::take(&mut more, said)?;
        for one in more {
            if !self.0.contains(&one) {
                self.0.push(one);
            }
        }
        Ok(())
    }
}

/// What lists are of.
trait Listed: Sized {
    fn parse(word: &str) -> Result<Self, String>;
}

impl Listed for Ports {
    fn parse(word: &str) -> Result<Self, String> {
        word.parse()
    }
}

impl Listed for IpNet {
    fn parse(word: &str) -> Result<Self, String> {
        options::network(word)
    }
}

impl Listed for String {
    fn parse(word: &str) -> Result<Self, String> {
        Ok(word.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_levels() {
        assert!(object_name("csi.spiffe.io").is_ok() && object_name("A B").is_err() && object_name("-").is_err());
        assert!(log_level("weir=debug,info").is_ok() && log_level("warn").is_ok() && log_level("loud").is_err());
    }
}
