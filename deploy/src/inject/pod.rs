//! One pod: what a sidecar adds to it, and what is taken away again.
//!
//! Injection begins by taking away what an earlier one has added, so that twice is once and new settings take the place of old
//! ones. What is ours is known by its name, and only in a pod that says in an annotation that it was injected.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::Value;
use weir_config::schema::Direction;
use weir_config::snapshot::{AdminAddress, Listener};

use super::probes::{self, PORT};
use super::settings::{PREFIX, Said, Settings};
use super::{Outcome, config};
use crate::manifest::{Item, Node};
use crate::redirect::options::{ADMIN, INBOUND, OUTBOUND, UID};

/// The sidecar.
pub const CONTAINER: &str = "weir";
/// What installs the redirect rules.
pub const INSTALLER: &str = "weir-redirect";

const CONFIG_VOLUME: &str = "weir-config";
const IDENTITY_VOLUME: &str = "weir-identity";
const WORKLOAD_API_VOLUME: &str = "weir-workload-api";
const VOLUMES: [&str; 3] = [CONFIG_VOLUME, IDENTITY_VOLUME, WORKLOAD_API_VOLUME];
/// Annotations that injection puts there: of what it was done, and the configuration where nobody gave one.
const STATUS: &str = "status";
const DEFAULT_CONFIG: &str = "default-config";
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Sidecars of other meshes.
const OTHERS: [(&str, &str); 3] = [("istio-proxy", "Istio"), ("linkerd-proxy", "Linkerd"), ("envoy", "App Mesh")];
/// `terminationGracePeriodSeconds` where it is not said.
const USUAL_GRACE: &str = "30";
/// How long a sidecar may take to be ready, in seconds.
const START: u32 = 120;

/// Which pod it is, as far as it matters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    /// It is to end by itself.
    pub job: bool,
}

/// Puts a sidecar in a pod. `pod` has `metadata` and `spec`.
///
/// # Errors
/// Everything that its annotations have wrong.
pub(super) fn inject(
    pod: &mut Node,
    settings: &Settings,
    kind: Kind,
    warnings: &mut Vec<String>,
) -> Result<Outcome, Vec<String>> {
    // What is empty now keeps its place, so that twice is once to the letter.
    let config_map_before = config_map(pod);
    let was_there = take_out(pod);
    if let Some(why) = unfit(pod)? {
        if was_there {
            prune(pod);
        }
        return Ok(Outcome::LeftAlone(why));
    }
    let said = Said::new(pod.get("metadata"));
    let settings = said.apply(settings)?;
    let own_config = said.has("config");
    warnings.extend(said.unknown());
    if let Some(text) = said.config().filter(|_| own_config) {
        check(text, &settings)?;
    }
    if let Some(name) = config_map_before.filter(|_| settings.config_map.is_none() && !own_config) {
        warnings.push(format!(
            "the ConfigMap `{name}` is its configuration no more, for nobody says so this time; the annotation `{PREFIX}config-map` \
             says it whoever injects"
        ));
    }
    let orphans = probes::orphans(pod);
    if !orphans.is_empty() {
        return Err(orphans);
    }
    if settings.redirect && settings.rules.uid.is_none() && settings.rules.gid.is_none() {
        return Err(vec!["the sidecar is known by its user or its group: leave one of `--uid` and `--gid`".to_owned()]);
    }
    if !settings.redirect && settings.config_map.is_none() && !own_config {
        return Err(vec![format!(
            "without redirection weir must be told where the app listens and whom it calls: give it a configuration by \
             `{PREFIX}config-map` or `{PREFIX}config`"
        )]);
    }
    let (annotations, spec) = match parts(pod) {
        Some(parts) => parts,
        None => return Err(vec!["`metadata` and `spec` of the pod must be mappings".to_owned()]),
    };
    let mut status = format!("injected by weir {}", env!("CARGO_PKG_VERSION"));
    if !settings.native && annotations.get(DEFAULT_CONTAINER).is_none() {
        // kubectl takes the first container, and nobody wants a shell in weir.
        if let Some(first) = containers(spec, "containers").first().and_then(|first| first.get("name")).cloned() {
            annotations.set(DEFAULT_CONTAINER, first);
            status.push_str(", with default-container");
        }
    }
    // What somebody has copied from elsewhere is not kept in its place: the next time it would be ours.
    annotations.remove(&own(DEFAULT_CONFIG));
    annotations.set(&own(STATUS), Node::text(status));
    if settings.config_map.is_none() && !own_config {
        annotations.set(&own(DEFAULT_CONFIG), Node::text(config::default(&settings)));
    }
    warn(spec, &settings, kind, warnings);
    let mut told = Vec::new();
    if settings.rewrite_probes {
        for list in ["initContainers", "containers"] {
            for container in containers(spec, list) {
                told.extend(probes::rewrite(container, warnings));
            }
        }
    }
    let grace = spec.get("terminationGracePeriodSeconds").and_then(Node::as_text).map(str::to_owned);
    let weir = sidecar(&settings, &told, grace.as_deref());
    let installer = settings.redirect.then(|| installer(&settings));
    place(spec, settings.native, weir, installer);
    if let Some(volumes) = spec.list_at("volumes") {
        volumes.extend(made_volumes(&settings, own_config).into_iter().map(Item::from));
    }
    Ok(Outcome::Injected)
}

/// Whether weir will start with this configuration and take what it is handed, and whether the kubelet and hooks find it.
fn check(text: &str, settings: &Settings) -> Result<(), Vec<String>> {
    let key = own("config");
    let (_, snapshot) =
        weir_config::load(text).map_err(|wrong| wrong.iter().map(|mistake| mistake.render(&key)).collect::<Vec<_>>())?;
    let mut wrong = Vec::new();
    if !snapshot.bootstrap.probes.iter().any(|address| address.port() == PORT && !address.ip().is_loopback()) {
        wrong.push(format!(
            "`{key}`: nobody could tell whether weir is ready: add `probes: {{ listen: [\"0.0.0.0:{PORT}\", \"[::]:{PORT}\"] }}`"
        ));
    }
    let admin = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), ADMIN);
    if snapshot.bootstrap.admin != Some(AdminAddress::Tcp(admin)) {
        wrong.push(format!("`{key}`: the hook by which weir leaves asks {admin}: leave `admin` as it is by default"));
    }
    let handed = [(Direction::Outbound, settings.rules.outbound), (Direction::Inbound, settings.rules.inbound)];
    for (direction, port) in
        handed.into_iter().filter_map(|(direction, port)| Some((direction, port.filter(|_| settings.redirect)?)))
    {
        let takes = |listener: &Listener| {
            let listens = listener.addresses.iter().any(|address| address.port() == port);
            listener.direction == direction && listener.original.is_some() && listens
        };
        if !snapshot.listeners.iter().any(takes) {
            let direction = if direction == Direction::Outbound { "outbound" } else { "inbound" };
            wrong.push(format!(
                "`{key}`: the pod's {direction} connections are handed to port {port}, and no listener takes them: add one with \
                 `direction: {direction}` and `original_destination: true`, or hand nothing over with `{}: \"false\"`",
                own("redirect")
            ));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// A native sidecar and its rules come before everything, so that init containers are in the mesh too. With a classic one
/// nobody answers before the app starts, and rules that stood earlier would cut init containers off.
fn place(spec: &mut Node, native: bool, weir: Node, installer: Option<Node>) {
    if native {
        if let Some(list) = spec.list_at("initContainers") {
            list.splice(0..0, installer.into_iter().chain([weir]).map(Item::from));
        }
        return;
    }
    if let Some(list) = spec.list_at("initContainers") {
        list.extend(installer.map(Item::from));
    }
    spec.remove_if_empty("initContainers");
    if let Some(list) = spec.list_at("containers") {
        list.insert(0, weir.into());
    }
}

/// Takes the sidecar out of a pod again; tells whether there was one.
pub(super) fn remove(pod: &mut Node) -> bool {
    let was_there = take_out(pod);
    if was_there {
        prune(pod);
    }
    was_there
}

/// Takes away what only the sidecar needed.
fn prune(pod: &mut Node) {
    if let Some(spec) = pod.get_mut("spec") {
        spec.remove_if_empty("initContainers");
        spec.remove_if_empty("volumes");
    }
    if let Some(metadata) = pod.get_mut("metadata") {
        metadata.remove_if_empty("annotations");
    }
    pod.remove_if_empty("metadata");
}

fn take_out(pod: &mut Node) -> bool {
    let Some(status) = pod.at(&["metadata", "annotations", &own(STATUS)]).and_then(Node::as_text).map(str::to_owned) else {
        return false;
    };
    let Some((annotations, spec)) = parts(pod) else { return false };
    annotations.remove(&own(STATUS));
    annotations.remove(&own(DEFAULT_CONFIG));
    if status.ends_with("default-container") {
        annotations.remove(DEFAULT_CONTAINER);
    }
    let mut asked = None;
    for list in ["initContainers", "containers"] {
        let Some(Node::List(items, _)) = spec.get_mut(list) else { continue };
        for item in &*items {
            if name(&item.value) == Some(CONTAINER) {
                asked = asked.or_else(|| variable(&item.value, probes::VARIABLE));
            }
        }
        items.retain(|item| !matches!(name(&item.value), Some(CONTAINER | INSTALLER)));
    }
    if let Some(asked) = asked {
        for list in ["initContainers", "containers"] {
            probes::restore(&mut containers(spec, list), &asked);
        }
    }
    if let Some(Node::List(items, _)) = spec.get_mut("volumes") {
        items.retain(|item| !name(&item.value).is_some_and(|name| VOLUMES.contains(&name)));
    }
    true
}

/// Why a pod gets no sidecar.
fn unfit(pod: &Node) -> Result<Option<String>, Vec<String>> {
    let said = Said::new(pod.get("metadata"));
    if said.wants().map_err(|mistake| vec![mistake])? == Some(false) {
        return Ok(Some("its annotation or label says so".to_owned()));
    }
    let Some(spec) = pod.get("spec") else { return Err(vec!["the pod has no `spec`".to_owned()]) };
    if !matches!(spec.get("containers"), Some(Node::List(items, _)) if !items.is_empty()) {
        return Err(vec!["`spec.containers` of the pod must be a list with something in it".to_owned()]);
    }
    for list in ["initContainers", "volumes"] {
        if !spec.get(list).is_none_or(|said| said.is_null() || matches!(said, Node::List(..))) {
            return Err(vec![format!("`spec.{list}` of the pod must be a list")]);
        }
    }
    let is = |keys: &[&str], word: &str| spec.at(keys).and_then(Node::as_text) == Some(word);
    if is(&["hostNetwork"], "true") {
        return Ok(Some(
            "it shares the network of its node (hostNetwork), and rules for it would be rules for the node".to_owned(),
        ));
    }
    if is(&["os", "name"], "windows") || is(&["nodeSelector", "kubernetes.io/os"], "windows") {
        return Ok(Some("it is for Windows".to_owned()));
    }
    for volume in spec.get("volumes").into_iter().flat_map(Node::items).filter_map(name) {
        if VOLUMES.contains(&volume) {
            return Err(vec![format!("a volume is called `{volume}`, as one of weir's is")]);
        }
    }
    let mut names = Vec::new();
    for list in ["containers", "initContainers"] {
        for container in spec.get(list).into_iter().flat_map(Node::items) {
            let Some(name) = name(container).filter(|name| !name.is_empty()) else {
                return Err(vec![format!("a container in `spec.{list}` has no `name`")]);
            };
            // Their probes could not be told apart.
            if names.contains(&name) {
                return Err(vec![format!("two containers are called `{name}`")]);
            }
            names.push(name);
            if let Some((_, mesh)) = OTHERS.iter().find(|(known, _)| *known == name) {
                return Ok(Some(format!("it has the sidecar of {mesh} already, the container `{name}`")));
            }
            if matches!(name, CONTAINER | INSTALLER) {
                return Ok(Some(format!("it has a container `{name}` that `weir inject` has not put there")));
            }
        }
    }
    Ok(None)
}

/// What is not wrong, but may surprise.
fn warn(spec: &mut Node, settings: &Settings, kind: Kind, warnings: &mut Vec<String>) {
    let uid = settings.rules.uid.map(|uid| uid.to_string());
    let runs_as = |node: &Node| node.at(&["securityContext", "runAsUser"]).and_then(Node::as_text).map(str::to_owned);
    let pod = runs_as(spec);
    if settings.redirect {
        for list in ["initContainers", "containers"] {
            for container in containers(spec, list) {
                if uid.is_some() && runs_as(container).or_else(|| pod.clone()) == uid {
                    let name = name(container).unwrap_or_default();
                    warnings.push(format!(
                        "container `{name}` runs as user {}, which is weir's: what it calls is not handed to weir",
                        uid.as_deref().unwrap_or_default()
                    ));
                }
            }
        }
    }
    for list in ["initContainers", "containers"] {
        for container in containers(spec, list) {
            taken(container, settings, warnings);
        }
    }
    if kind.job && !settings.native {
        warnings.push(
            "a classic sidecar does not end with the job: let the job `POST http://127.0.0.1:15000/shutdown` when it is done, or use \
             a native sidecar"
                .to_owned(),
        );
    }
}

/// Ports of a container that the sidecar has.
fn taken(container: &Node, settings: &Settings, warnings: &mut Vec<String>) {
    let own = [
        (ADMIN, "admin server"),
        (PORT, "probes"),
        (settings.rules.outbound.unwrap_or(OUTBOUND), "outbound listener"),
        (settings.rules.inbound.unwrap_or(INBOUND), "inbound listener"),
    ];
    let name = name(container).unwrap_or_default();
    for port in container.get("ports").map(Node::items).into_iter().flatten() {
        if port.get("protocol").and_then(Node::as_text).is_some_and(|protocol| protocol != "TCP") {
            continue;
        }
        let number: Option<u16> = port.get("containerPort").and_then(Node::as_text).and_then(|text| text.parse().ok());
        if let Some((number, what)) = own.iter().find(|(own, _)| number == Some(*own)) {
            warnings.push(format!(
                "container `{name}` has the port {number}, which the sidecar takes for its {what} unless its configuration says \
                 otherwise: only one of the two can listen"
            ));
        }
    }
}

/// The container that installs the rules.
fn installer(settings: &Settings) -> Node {
    let arguments = ["redirect", "install"].map(str::to_owned).into_iter().chain(settings.rules.arguments());
    let mut node = Node::map([("name", Node::text(INSTALLER)), ("image", Node::text(&*settings.image))]);
    if let Some(policy) = &settings.pull_policy {
        node.set("imagePullPolicy", Node::text(policy));
    }
    node.set("args", Node::list(arguments.map(Node::text)));
    if let Some(resources) = settings.resources.node() {
        node.set("resources", resources);
    }
    // Root, for a capability that is added is in force for root only.
    node.set("securityContext", security(0, 0, Some("NET_ADMIN")));
    node
}

/// weir itself.
fn sidecar(settings: &Settings, told: &[Value], grace: Option<&str>) -> Node {
    let mut node = Node::map([("name", Node::text(CONTAINER)), ("image", Node::text(&*settings.image))]);
    if let Some(policy) = &settings.pull_policy {
        node.set("imagePullPolicy", Node::text(policy));
    }
    if settings.native {
        node.set("restartPolicy", Node::text("Always"));
    }
    let on_sigterm = if settings.native { "leave" } else { "wait" };
    let mut arguments = vec!["run".to_owned(), "-c".to_owned(), format!("{}/weir.yaml", config::DIR), "--json".to_owned()];
    arguments.push(format!("--on-sigterm={on_sigterm}"));
    arguments.push(format!("--grace-period={}s", grace.unwrap_or(USUAL_GRACE)));
    node.set("args", Node::list(arguments.into_iter().map(Node::text)));
    let mut environment = Vec::new();
    if let Some(level) = &settings.log {
        environment.push(("WEIR_LOG", level.clone()));
    }
    if !told.is_empty() {
        environment.push((probes::VARIABLE, Value::Array(told.to_vec()).to_string()));
    }
    if !environment.is_empty() {
        let pair = |(name, value): (&str, String)| Node::map([("name", Node::text(name)), ("value", Node::text(value))]);
        node.set("env", Node::list(environment.into_iter().map(pair)));
    }
    node.set("ports", Node::list([Node::map([("name", Node::text("weir-probes")), ("containerPort", Node::plain(PORT))])]));
    if settings.native {
        node.set("startupProbe", ready(1, START));
    }
    node.set("readinessProbe", ready(5, 2));
    node.set("lifecycle", lifecycle(settings));
    if let Some(resources) = settings.resources.node() {
        node.set("resources", resources);
    }
    let security = match settings.rules.preserve_source {
        // For SO_MARK and IP_TRANSPARENT.
        true => security(0, settings.rules.gid.unwrap_or(UID), Some("NET_ADMIN")),
        false => {
            let user = settings.rules.uid.unwrap_or(UID);
            security(user, settings.rules.gid.unwrap_or(user), None)
        }
    };
    node.set("securityContext", security);
    let mounts = [
        Some((CONFIG_VOLUME, config::DIR)),
        settings.identity_secret.as_ref().map(|_| (IDENTITY_VOLUME, config::IDENTITY)),
        settings.workload_api.as_ref().map(|_| (WORKLOAD_API_VOLUME, config::WORKLOAD_API)),
    ];
    let mount = |(name, path): (&str, &str)| {
        Node::map([("name", Node::text(name)), ("mountPath", Node::text(path)), ("readOnly", Node::plain(true))])
    };
    node.set("volumeMounts", Node::list(mounts.into_iter().flatten().map(mount)));
    node
}

fn ready(period: u32, failures: u32) -> Node {
    Node::map([
        ("httpGet", Node::map([("path", Node::text("/ready")), ("port", Node::plain(PORT))])),
        ("periodSeconds", Node::plain(period)),
        ("failureThreshold", Node::plain(failures)),
    ])
}

/// Callers are told goodbye when the pod begins to leave. A classic sidecar also keeps the app from starting before weir.
fn lifecycle(settings: &Settings) -> Node {
    let exec = |arguments: Vec<String>| {
        let command = std::iter::once("/weir".to_owned()).chain(arguments).map(Node::text);
        Node::map([("exec", Node::map([("command", Node::list(command))]))])
    };
    let mut node = Node::map::<&str>([]);
    if !settings.native {
        node.set("postStart", exec(vec!["wait".to_owned(), format!("--timeout={START}")]));
    }
    let wait = settings.wait_before_exit.filter(|_| !settings.native).map(|seconds| format!("--wait={seconds}s"));
    node.set("preStop", exec(std::iter::once("drain".to_owned()).chain(wait).collect()));
    node
}

fn security(user: u32, group: u32, capability: Option<&str>) -> Node {
    let words = |words: &[&str]| Node::list(words.iter().map(|word| Node::text(*word)));
    let mut capabilities = Node::map([("drop", words(&["ALL"]))]);
    if let Some(capability) = capability {
        capabilities.set("add", words(&[capability]));
    }
    Node::map([
        ("allowPrivilegeEscalation", Node::plain(false)),
        ("capabilities", capabilities),
        ("readOnlyRootFilesystem", Node::plain(true)),
        ("runAsGroup", Node::plain(group)),
        ("runAsNonRoot", Node::plain(user != 0)),
        ("runAsUser", Node::plain(user)),
        ("seccompProfile", Node::map([("type", Node::text("RuntimeDefault"))])),
    ])
}

fn made_volumes(settings: &Settings, own_config: bool) -> Vec<Node> {
    let volume = |name: &str, kind: &str, what: Node| Node::map([("name", Node::text(name)), (kind, what)]);
    let config = match &settings.config_map {
        Some(name) => volume(CONFIG_VOLUME, "configMap", Node::map([("name", Node::text(name))])),
        None => {
            let annotation = own(if own_config { "config" } else { DEFAULT_CONFIG });
            let field = Node::map([("fieldPath", Node::text(format!("metadata.annotations['{annotation}']")))]);
            let item = Node::map([("path", Node::text("weir.yaml")), ("fieldRef", field)]);
            volume(CONFIG_VOLUME, "downwardAPI", Node::map([("items", Node::list([item]))]))
        }
    };
    let identity = settings
        .identity_secret
        .as_ref()
        .map(|name| volume(IDENTITY_VOLUME, "secret", Node::map([("secretName", Node::text(name))])));
    let api = settings.workload_api.as_ref().map(|driver| {
        let what = Node::map([("driver", Node::text(driver)), ("readOnly", Node::plain(true))]);
        volume(WORKLOAD_API_VOLUME, "csi", what)
    });
    std::iter::once(config).chain(identity).chain(api).collect()
}

/// The ConfigMap with the configuration of a pod that was injected.
fn config_map(pod: &Node) -> Option<String> {
    pod.at(&["metadata", "annotations", &own(STATUS)])?;
    let mut volumes = pod.at(&["spec", "volumes"])?.items();
    let volume = volumes.find(|volume| name(volume) == Some(CONFIG_VOLUME))?;
    volume.at(&["configMap", "name"])?.as_text().map(str::to_owned)
}

/// The annotations and the spec of a pod.
fn parts(pod: &mut Node) -> Option<(&mut Node, &mut Node)> {
    pod.map_at("metadata")?.map_at("annotations")?;
    let Node::Map(entries, _) = pod else { return None };
    let (mut metadata, mut spec) = (None, None);
    for entry in entries {
        match &*entry.key.text {
            "metadata" => metadata = Some(&mut entry.value),
            "spec" => spec = Some(&mut entry.value),
            _ => {}
        }
    }
    Some((metadata?.get_mut("annotations").filter(|node| matches!(node, Node::Map(..)))?, spec?))
}

fn containers<'n>(spec: &'n mut Node, list: &str) -> Vec<&'n mut Node> {
    match spec.get_mut(list) {
        Some(Node::List(items, _)) => items.iter_mut().map(|item| &mut item.value).collect(),
        _ => Vec::new(),
    }
}

fn name(node: &Node) -> Option<&str> {
    node.get("name").and_then(Node::as_text)
}

/// The value of a variable of a container.
fn variable(container: &Node, name: &str) -> Option<String> {
    let found = container.get("env")?.items().find(|variable| self::name(variable) == Some(name))?;
    found.get("value")?.as_text().map(str::to_owned)
}

fn own(name: &str) -> String {
    format!("{PREFIX}{name}")
}
