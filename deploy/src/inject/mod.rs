//! A sidecar in a manifest: what is put there, and how it is taken out again.
//!
//! [`settings`] is what may be said of it, by whoever injects and by annotations of the pod; [`mod@pod`] changes one pod;
//! [`probes`] has the app's probes asked of weir; [`config`] is the configuration where there is no other; [`resources`] is what
//! weir may use; [`review`] answers the API server. Here it is decided which parts of which documents are pods. All of it is a
//! function of the manifest: nothing is looked up.

pub mod config;
pub mod pod;
pub mod probes;
pub mod resources;
pub mod review;
pub mod settings;

pub use resources::Resources;
pub use settings::{Said, Settings};

use crate::manifest::{Document, Node};
use pod::Kind;

/// What became of one object that has pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Which object, as kubectl names it: `deployment/checkout`.
    pub what: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What is not wrong, but may surprise.
    pub warnings: Vec<String>,
}

/// What became of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has a sidecar.
    Injected,
    /// It has none, for this reason.
    LeftAlone(String),
    /// It has none any more.
    Removed,
}

/// Where objects have their pods.
const KINDS: [(&str, &[&str]); 9] = [
    ("Pod", &[]),
    ("PodTemplate", &["template"]),
    ("ReplicationController", &["spec", "template"]),
    ("ReplicaSet", &["spec", "template"]),
    ("Deployment", &["spec", "template"]),
    ("StatefulSet", &["spec", "template"]),
    ("DaemonSet", &["spec", "template"]),
    ("Job", &["spec", "template"]),
    ("CronJob", &["spec", "jobTemplate", "spec", "template"]),
];

/// Puts sidecars in all pods of these documents.
///
/// # Errors
/// Everything that annotations have wrong, each with the object; the documents are then half done.
pub fn inject(documents: &mut [Document], settings: &Settings) -> Result<Vec<Done>, Vec<String>> {
    each(documents, &mut |pod, kind, what| {
        let mut warnings = Vec::new();
        let outcome = pod::inject(pod, settings, kind, &mut warnings)?;
        Ok(Some(Done { what, outcome, warnings }))
    })
}

/// Puts a sidecar in a pod that is no part of a manifest: one that is about to be made.
///
/// # Errors
/// Everything that its annotations have wrong.
pub fn inject_pod(pod: &mut Node, settings: &Settings) -> Result<Done, Vec<String>> {
    let what = format!("pod/{}", name(pod));
    let owner = pod.at(&["metadata", "ownerReferences"]).and_then(|owners| owners.items().next());
    let job = owner.and_then(|owner| owner.get("kind")).and_then(Node::as_text) == Some("Job");
    let mut warnings = Vec::new();
    let outcome = pod::inject(pod, settings, Kind { job }, &mut warnings)?;
    Ok(Done { what, outcome, warnings })
}

/// Takes all sidecars out again.
pub fn uninject(documents: &mut [Document]) -> Vec<Done> {
    let removed = each(documents, &mut |pod, _, what| {
        Ok(pod::remove(pod).then(|| Done { what, outcome: Outcome::Removed, warnings: probes::orphans(pod) }))
    });
    removed.unwrap_or_default()
}

type Change<'c> = dyn FnMut(&mut Node, Kind, String) -> Result<Option<Done>, Vec<String>> + 'c;

fn each(documents: &mut [Document], change: &mut Change<'_>) -> Result<Vec<Done>, Vec<String>> {
    let (mut done, mut mistakes) = (Vec::new(), Vec::new());
    for root in documents.iter_mut().filter_map(|document| document.root.as_mut()) {
        object(root, None, change, &mut done, &mut mistakes);
    }
    if mistakes.is_empty() { Ok(done) } else { Err(mistakes) }
}

/// What an object is, where it does not say so itself: items of a list of their kind need not.
struct Known<'k> {
    kind: &'k str,
    version: &'k str,
}

fn object(node: &mut Node, list: Option<&Known<'_>>, change: &mut Change<'_>, done: &mut Vec<Done>, mistakes: &mut Vec<String>) {
    let says = |key| node.get(key).and_then(Node::as_text).map(str::to_owned);
    let Some(kind) = says("kind").or_else(|| list.map(|list| list.kind.to_owned())) else { return };
    let version = says("apiVersion").or_else(|| list.map(|list| list.version.to_owned())).unwrap_or_default();
    let of_kind = kind.strip_suffix("List").and_then(|kind| KINDS.iter().find(|(known, _)| *known == kind));
    if kind == "List" || of_kind.is_some() {
        let known = of_kind.map(|(kind, _)| Known { kind, version: &version });
        if let Some(Node::List(items, _)) = node.get_mut("items") {
            for item in items {
                object(&mut item.value, known.as_ref(), change, done, mistakes);
            }
        }
        return;
    }
    let Some((_, path)) = KINDS.iter().find(|(known, _)| *known == kind && is_builtin(&version)) else { return };
    let what = format!("{}/{}", kind.to_ascii_lowercase(), name(node));
    let misplaced = if path.is_empty() { None } else { misplaced(node, path) };
    let mut pod = Some(node);
    for key in *path {
        pod = pod.and_then(|node| node.get_mut(key));
    }
    let Some(pod) = pod else {
        mistakes.push(format!("{what}: it has no `{}`", path.join(".")));
        return;
    };
    match change(pod, Kind { job: matches!(&*kind, "Job" | "CronJob") }, what.clone()) {
        Ok(outcome) => done.extend(outcome.map(|mut one| {
            one.warnings.extend(misplaced);
            one
        })),
        Err(wrong) => mistakes.extend(wrong.into_iter().map(|wrong| format!("{what}: {wrong}"))),
    }
}

/// What is said of an object that means something of its pods only.
fn misplaced(object: &Node, pod: &[&str]) -> Option<String> {
    let keys = |node: Option<&Node>| {
        let annotations = node.and_then(|node| node.at(&["metadata", "annotations"]));
        annotations.into_iter().flat_map(Node::entries).map(|(key, _)| key.to_owned()).collect::<Vec<_>>()
    };
    let of_pod = keys(object.at(pod));
    let ours = |key: &String| key.starts_with(settings::PREFIX) && !of_pod.contains(key);
    let lost: Vec<String> = keys(Some(object)).into_iter().filter(ours).map(|key| format!("`{key}`")).collect();
    (!lost.is_empty()).then(|| format!("{} means nothing here: it belongs in `{}.metadata`", lost.join(", "), pod.join(".")))
}

/// Whether it is of one of the groups that Kubernetes comes with: others have Deployments and Jobs too.
fn is_builtin(version: &str) -> bool {
    matches!(version.split_once('/').map_or("", |(group, _)| group), "" | "apps" | "batch")
}

fn name(node: &Node) -> String {
    let of = |key| node.at(&["metadata", key]).and_then(Node::as_text);
    of("name").map(str::to_owned).or_else(|| of("generateName").map(|name| format!("{name}*"))).unwrap_or_else(|| "?".to_owned())
}
