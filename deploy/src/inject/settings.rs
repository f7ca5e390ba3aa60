//! What may be said of injection: for all pods, and by annotations of one pod in place of that.
//!
//! Annotations of App Mesh, Istio and Linkerd that say the same are understood, so that a namespace moves by a change of its
//! label. Our own come before them; of theirs the first in the table counts.

use ipnet::IpNet;

use crate::manifest::Node;
use crate::redirect::options::{self, Options, Ports};

/// What annotations of ours begin with.
pub const PREFIX: &str = "weir.proxy/";

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
    /// Whether weir makes the kubelet's probes of the app, and its HTTP hooks.
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

/// What a container may use; `None` says nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU that is reserved.
    pub cpu_request: Option<String>,
    /// The most CPU.
    pub cpu_limit: Option<String>,
    /// Memory that is reserved.
    pub memory_request: Option<String>,
    /// The most memory.
    pub memory_limit: Option<String>,
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
            resources: Resources {
                cpu_request: Some("10m".to_owned()),
                cpu_limit: None,
                memory_request: Some("24Mi".to_owned()),
                memory_limit: Some("256Mi".to_owned()),
            },
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

impl Resources {
    /// As a container says it; `None` if nothing is said.
    pub(super) fn node(&self) -> Option<Node> {
        let pair = |cpu: &Option<String>, memory: &Option<String>| {
            let said = [("cpu", cpu), ("memory", memory)].into_iter();
            let said: Vec<_> = said.filter_map(|(key, said)| Some((key, Node::text(said.as_deref()?)))).collect();
            (!said.is_empty()).then(|| Node::map(said))
        };
        let limits = pair(&self.cpu_limit, &self.memory_limit).map(|limits| ("limits", limits));
        let requests = pair(&self.cpu_request, &self.memory_request).map(|requests| ("requests", requests));
        let said: Vec<_> = limits.into_iter().chain(requests).collect();
        (!said.is_empty()).then(|| Node::map(said))
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
            ("config-map", &mut all.config_map),
            ("redirect", &mut all.redirect),
            ("log", &mut Level(&mut all.log)),
            ("rewrite-probes", &mut all.rewrite_probes),
            ("identity-secret", &mut all.identity_secret),
            ("workload-api", &mut all.workload_api),
            ("opaque-ports", &mut More(&mut all.opaque_ports)),
            ("wait-before-exit", &mut all.wait_before_exit),
            ("cpu-request", &mut all.resources.cpu_request),
            ("cpu-limit", &mut all.resources.cpu_limit),
            ("memory-request", &mut all.resources.memory_request),
            ("memory-limit", &mut all.resources.memory_limit),
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
        all.rules.follow_user();
        mistakes.extend(all.rules.mistakes());
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
        if !said.chars().all(|c| c.is_ascii_alphanumeric() || "_=,:-".contains(c)) {
            return Err("write `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `weir=debug,info`".to_owned());
        }
        Place::take(self.0, said)
    }
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
