//! Probes of the app that the kubelet makes from outside: they are asked of weir's probes server instead, which asks the app. So
//! they need no certificate where callers must show one, and stand in nobody's log.
//!
//! What they were before stands in a variable of weir's container ([`VARIABLE`]), from which weir serves them and by which they
//! are put back. HTTP hooks stay as they are: what they do is not for everybody who reaches that server.

use serde_json::{Value, json};

use crate::manifest::Node;
use crate::manifest::json::{from_json, to_json};

/// The variable of weir's container with all probes that it makes: a JSON list of objects with `path`, `port`, `seconds`, and
/// the probe as it was, `httpGet`, `tcpSocket` or `grpc`.
pub const VARIABLE: &str = "WEIR_APP_PROBES";
/// Where weir answers them.
pub const PORT: u16 = 15020;

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const KINDS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// Rewrites the probes of a container; gives what weir must know of them. What cannot be asked by way of weir stays.
pub(super) fn rewrite(container: &mut Node, warnings: &mut Vec<String>) -> Vec<Value> {
    let name = container.get("name").and_then(Node::as_text).unwrap_or_default().to_owned();
    let ports = container.get("ports").cloned();
    let mut all = Vec::new();
    for place in PROBES {
        let Some(probe) = container.get_mut(place) else { continue };
        let seconds = probe.get("timeoutSeconds").and_then(Node::as_text).and_then(|text| text.parse().ok()).unwrap_or(1);
        all.extend(redirect(probe, &name, place, ports.as_ref(), seconds, warnings));
    }
    all
}

fn redirect(
    probe: &mut Node,
    container: &str,
    place: &str,
    ports: Option<&Node>,
    seconds: u32,
    warnings: &mut Vec<String>,
) -> Option<Value> {
    let kind = *KINDS.iter().find(|kind| probe.get(kind).is_some_and(|said| !said.is_null()))?;
    let said = probe.get(kind)?;
    // Another host than the pod's is none of weir's business.
    if said.get("host").is_some_and(|host| !host.is_null()) {
        return None;
    }
    // A number or a name, as Kubernetes tells them apart: what is quoted is a name.
    let port = said.get("port").map(to_json).unwrap_or_default();
    let Some(number) = number(&port).or_else(|| named(ports, port.as_str()?)) else {
        warnings.push(format!("the {place} of container `{container}` stays as it is: the container has no port `{port}`"));
        return None;
    };
    let path = format!("/app/{container}/{place}");
    let told = json!({ "path": path, "port": number, "seconds": seconds, kind: to_json(said) });
    let ask = Node::map([("path", Node::text(path)), ("port", Node::plain(PORT))]);
    if kind == "httpGet" {
        probe.set(kind, ask);
    } else {
        replace(probe, kind, "httpGet", ask);
    }
    Some(told)
}

/// Puts the probes of a pod back as they were. `said` is what stands in the variable.
pub(super) fn restore(containers: &mut [&mut Node], said: &str) {
    // Whoever makes a pod may say anything here: it is read as what is written here, and nothing else.
    let Ok(list) = serde_json::from_str::<Value>(said) else { return };
    for told in from_json(&list).items() {
        let Some(path) = told.get("path").and_then(Node::as_text) else { continue };
        let Some((_, place)) = path.strip_prefix("/app/").and_then(|rest| rest.rsplit_once('/')) else { continue };
        let Some((kind, original)) = KINDS.iter().find_map(|kind| Some((*kind, told.get(kind)?))) else { continue };
        // Whatever its container is called by now. What somebody has changed since is theirs.
        let asks = |probe: &&mut Node| probe.at(&["httpGet", "path"]).and_then(Node::as_text) == Some(path);
        let probes = containers.iter_mut().filter(|_| PROBES.contains(&place)).filter_map(|container| container.get_mut(place));
        for probe in probes.filter(asks) {
            replace(probe, "httpGet", kind, original.clone());
        }
    }
}

/// Probes that ask weir, and of which nobody knows any more what they asked before.
pub(super) fn orphans(pod: &Node) -> Vec<String> {
    let mut found = Vec::new();
    let of = |list: &str| pod.at(&["spec", list]).into_iter().flat_map(Node::items);
    for container in of("initContainers").chain(of("containers")) {
        let name = container.get("name").and_then(Node::as_text).unwrap_or_default();
        for place in PROBES {
            let says = |key| container.at(&[place, "httpGet", key]).and_then(Node::as_text);
            let (Some(path), Some(port)) = (says("path"), says("port")) else { continue };
            if port == PORT.to_string() && path.starts_with("/app/") && path.ends_with(place) {
                found.push(format!(
                    "the {place} of container `{name}` asks weir ({path}, port {PORT}), and what it asked before `weir inject` is not \
                     known any more: write it as it was"
                ));
            }
        }
    }
    found
}

/// Puts a value under another key in the place of the one that was there.
fn replace(node: &mut Node, key: &str, new: &str, value: Node) {
    // Said, and nothing said of it.
    if new != key {
        node.remove(new);
    }
    if let Node::Map(entries, _) = node
        && let Some(entry) = entries.iter_mut().find(|entry| entry.key.text == key)
    {
        new.clone_into(&mut entry.key.text);
        entry.value = value;
    }
}

fn number(port: &Value) -> Option<u16> {
    u16::try_from(port.as_u64()?).ok().filter(|port| *port > 0)
}

/// The number of a port that the container has by name.
fn named(ports: Option<&Node>, name: &str) -> Option<u16> {
    let port = ports?.items().find(|port| port.get("name").and_then(Node::as_text) == Some(name))?;
    number(&to_json(port.get("containerPort")?))
}
