//! The file of `weir dev`: services of one machine, and the routes between them.
//!
//! `services` is read here; everything else in it is what a configuration of weir may have, and is judged as such
//! ([`super::plan`]).

use weir_config::error::{Diagnostic, Diagnostics, Path, suggest};
use weir_config::yaml::{self, Node, Value};

/// Services, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mesh {
    pub(super) services: Vec<Service>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) name: String,
    /// By which its ports are told. It keeps it as long as it is in the file.
    pub(super) slot: usize,
    pub(super) place: Place,
    /// Opaque bytes, not HTTP.
    pub(super) tcp: bool,
}

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// On this machine.
    Here {
        port: u16,
        /// What starts it, for a shell.
        run: Option<String>,
        /// Where, from the directory of the file on.
        dir: Option<String>,
        env: Vec<(String, String)>,
    },
    /// Elsewhere.
    Remote { host: String, port: u16, tls: bool },
}

impl Mesh {
    /// Gives every service a slot: the one that it had, else a free one.
    pub(super) fn assign(&mut self, before: Option<&Self>) {
        let had = |name: &str| before?.services.iter().find(|other| other.name == name).map(|other| other.slot);
        let kept: Vec<Option<usize>> = self.services.iter().map(|service| had(&service.name)).collect();
        let mut free = (0..).filter(|slot| !kept.contains(&Some(*slot)));
        for (service, kept) in self.services.iter_mut().zip(&kept) {
            service.slot = kept.or_else(|| free.next()).unwrap_or_default();
        }
    }

    /// Whoever is this service is started by somebody else.
    pub(super) fn leave_to_others(&mut self, name: &str) {
        for service in self.services.iter_mut().filter(|service| service.name == name) {
            if let Place::Here { run, .. } = &mut service.place {
                *run = None;
            }
        }
    }

    /// A service by its name.
    pub(super) fn get(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }
}

impl Service {
    /// The port of the app, if it is here.
    pub(super) fn port(&self) -> Option<u16> {
        match self.place {
            Place::Here { port, .. } => Some(port),
            Place::Remote { .. } => None,
        }
    }

    /// The command that starts it.
    pub(super) fn run(&self) -> Option<&str> {
        match &self.place {
            Place::Here { run, .. } => run.as_deref(),
            Place::Remote { .. } => None,
        }
    }
}

/// More would not fit in the ports that each sidecar has.
pub(super) const MOST: usize = 40;
const KEYS: [&str; 6] = ["port", "run", "dir", "env", "remote", "protocol"];

/// Reads a mesh. `remotes` are services that are elsewhere, however the file has them.
///
/// # Errors
/// Every mistake in `services`.
pub(super) fn read(text: &str, remotes: &[(String, String)]) -> Result<Mesh, Vec<Diagnostic>> {
    let mut found = Diagnostics::default();
    // Whatever else would be said of an empty text is said of a sidecar's configuration.
    let text = if text.trim().is_empty() { "{}" } else { text };
    let Some(tree) = yaml::parse(text, &mut found) else { return Err(found.into_sorted()) };
    let root = Path::ROOT;
    for key in ["admin", "probes", "listeners", "identity", "workers"] {
        if entry(&tree, key).is_some() {
            found.key_error(&root.key(key), format!("each sidecar has `{key}` of its own here: leave it out"));
        }
    }
    let path = root.key("services");
    let mut services = Vec::new();
    match entry(&tree, "services") {
        Some(Node { value: Value::Mapping(entries), .. }) if !entries.is_empty() => {
            for (key, node) in entries {
                services.extend(service(&key.name, node, remotes, &path.key(&key.name), &mut found));
            }
        }
        _ => match misspelt(&tree) {
            Some(key) => {
                found.key_error(&root.key(key), format!("unknown field `{key}`")).hint =
                    Some("did you mean `services`?".to_owned());
            }
            None => {
                found.error(&path, "a mesh needs services").hint =
                    Some("for example `services: { web: { port: 3000, run: npm start } }`".to_owned());
            }
        },
    }
    let known = || match entry(&tree, "services") {
        Some(Node { value: Value::Mapping(entries), .. }) => entries.iter().map(|(key, _)| key.name.as_str()).collect(),
        _ => Vec::new(),
    };
    for (name, url) in remotes.iter().filter(|(name, _)| !known().is_empty() && !known().contains(&name.as_str())) {
        found.error(&path, format!("`--remote {name}={url}` is about none of the services")).hint = Some(suggest(name, known()));
    }
    for (place, service) in services.iter().enumerate() {
        let same = |other: &Service| other.port().is_some() && other.port() == service.port();
        if let Some(other) = services[..place].iter().find(|other| same(other)) {
            let path = path.key(&service.name);
            found.error(&path.key("port"), format!("`{}` listens there already", other.name));
        }
    }
    if services.len() > MOST {
        found.error(&path, format!("more than {MOST} services on one machine are too many for it"));
    }
    found.locate(&tree);
    if found.has_errors() { Err(found.into_sorted()) } else { Ok(Mesh { services }) }
}

/// What was perhaps meant to be `services`.
fn misspelt(tree: &Node) -> Option<&str> {
    let Value::Mapping(entries) = &tree.value else { return None };
    let mut keys = entries.iter().map(|(key, _)| &*key.name);
    keys.find(|key| *key != "services" && suggest(key, ["services"]).contains("did you mean"))
}

fn service(name: &str, node: &Node, remotes: &[(String, String)], path: &Path<'_>, found: &mut Diagnostics) -> Option<Service> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 63 || !name.chars().all(fits) || name.starts_with('-') || name.ends_with('-') {
        found.key_error(path, format!("`{name}` cannot be a host: lower-case letters, digits, and `-` between them"));
    }
    if name == super::plan::YOU {
        found.key_error(path, format!("`{name}` is whoever calls from outside of all services; call this one something else"));
    }
    let Value::Mapping(entries) = &node.value else {
        found.error(path, format!("a service is a mapping, not {}", node.kind())).hint =
            Some(format!("for example `{name}: {{ port: 8080, run: npm start }}`"));
        return None;
    };
    for (key, _) in entries {
        if !KEYS.contains(&&*key.name) {
            found.key_error(&path.key(&key.name), format!("a service has no `{}`", key.name)).hint =
                Some(suggest(&key.name, KEYS));
        }
    }
    let tcp = match word(node, "protocol", path, found).as_deref() {
        None | Some("http") => false,
        Some("tcp") => true,
        Some(other) => {
            found.error(&path.key("protocol"), format!("`{other}` is neither `http` nor `tcp`"));
            false
        }
    };
    let told = remotes.iter().find(|(known, _)| known == name).map(|(_, url)| url.clone());
    if let Some(url) = told.or_else(|| word(node, "remote", path, found)) {
        return remote(name, &url, tcp, &path.key("remote"), found);
    }
    let said = entry(node, "port");
    let port = match said.map(|node| &node.value) {
        Some(Value::Int(port)) => u16::try_from(*port).ok().filter(|port| *port > 0),
        _ => None,
    };
    if port.is_none() && said.is_some() {
        found.error(&path.key("port"), "a port is a number from 1 to 65535");
    } else if port.is_none() {
        found.error(&path.key("port"), "where does the app listen?").hint =
            Some("write `port: 8080`, or where it is elsewhere `remote: https://...`".to_owned());
    }
    let env = entry(node, "env").map_or_else(Vec::new, |node| variables(node, &path.key("env"), found));
    let (run, dir) = (word(node, "run", path, found), word(node, "dir", path, found));
    Some(Service { name: name.to_owned(), place: Place::Here { port: port?, run, dir, env }, tcp, slot: 0 })
}

fn remote(name: &str, url: &str, tcp: bool, path: &Path<'_>, found: &mut Diagnostics) -> Option<Service> {
    let parsed: Option<http::Uri> = url.parse().ok();
    let parts = parsed.as_ref().and_then(|url| Some((url.scheme_str()?, url.host()?, url.port_u16(), url.path())));
    let Some((scheme @ ("http" | "https" | "tcp"), host, port, "" | "/")) = parts else {
        found.error(path, format!("`{url}` is not where a service is")).hint =
            Some("write `https://host`, `http://host:port` or `tcp://host:port`, without a path".to_owned());
        return None;
    };
    let tls = scheme == "https";
    let port = port.unwrap_or(if tls { 443 } else { 80 });
    let place = Place::Remote { host: host.to_owned(), port, tls };
    Some(Service { name: name.to_owned(), place, tcp: tcp || scheme == "tcp", slot: 0 })
}

fn variables(node: &Node, path: &Path<'_>, found: &mut Diagnostics) -> Vec<(String, String)> {
    let Value::Mapping(entries) = &node.value else {
        found.error(path, format!("variables are a mapping, not {}", node.kind()));
        return Vec::new();
    };
    let mut all = Vec::new();
    for (key, node) in entries {
        match text(node) {
            Some(text) => all.push((key.name.clone(), text)),
            None => drop(found.error(&path.key(&key.name), format!("a variable is text, not {}", node.kind()))),
        }
    }
    all
}

fn word(node: &Node, key: &str, path: &Path<'_>, found: &mut Diagnostics) -> Option<String> {
    let node = entry(node, key)?;
    let said = text(node);
    if said.is_none() {
        found.error(&path.key(key), format!("this is text, not {}", node.kind()));
    }
    said
}

fn text(node: &Node) -> Option<String> {
    match &node.value {
        Value::String(text) => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Bool(word) => Some(word.to_string()),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
    }
}

fn entry<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Value::Mapping(entries) = &node.value else { return None };
    entries.iter().find(|(known, _)| known.name == key).map(|(_, node)| node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_as_people_write_them() {
        let text = "services:\n  web: { port: 3000, run: npm start, dir: web, env: { DEBUG: 1 } }\n  db: { port: 5432, protocol: tcp }\n  pay: { remote: https://pay.example }\nroutes: []\n";
        let mesh = read(text, &[("db".to_owned(), "tcp://db.example:6000".to_owned())]).unwrap();
        let names: Vec<&str> = mesh.services.iter().map(|service| &*service.name).collect();
        assert_eq!(names, ["web", "db", "pay"]);
        assert_eq!(mesh.services[0].run(), Some("npm start"));
        assert_eq!(mesh.services[1].place, Place::Remote { host: "db.example".to_owned(), port: 6000, tls: false });
        assert_eq!(mesh.services[2].place, Place::Remote { host: "pay.example".to_owned(), port: 443, tls: true });
    }

    #[test]
    fn who_stays_keeps_its_ports() {
        let mut before = read("services: { a: { port: 1 }, b: { port: 2 }, c: { port: 3 } }", &[]).unwrap();
        before.assign(None);
        let mut after = read("services: { d: { port: 4 }, c: { port: 3 }, b: { port: 2 }, e: { port: 5 } }", &[]).unwrap();
        after.assign(Some(&before));
        let slots: Vec<usize> = after.services.iter().map(|service| service.slot).collect();
        assert_eq!(slots, [0, 2, 1, 3]);
    }

    #[test]
    fn who_is_elsewhere_is_a_service() {
        let away = [("crat".to_owned(), "https://cart.example".to_owned())];
        let mistakes = read("services:\n  cart: { port: 1 }\n", &away).unwrap_err();
        let said: Vec<String> = mistakes.iter().map(|mistake| mistake.render("mesh.yaml")).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        for word in ["mesh.yaml:1", "`--remote crat=https://cart.example` is about none", "did you mean `cart`?"] {
            assert!(said[0].contains(word), "{word}: {said:?}");
        }
    }

    #[test]
    fn every_mistake_has_its_line() {
        let text = "services:\n  Web: { port: 1 }\n  a: { prot: 2 }\n  b: 7\n  c: { port: 1, protocol: udp }\n  d: { remote: ftp://x }\n  e: { port: 9, env: [] }\n  f: { port: 80810 }\n";
        let mistakes = read(text, &[]).unwrap_err();
        let said: Vec<String> = mistakes.iter().map(|mistake| mistake.render("mesh.yaml")).collect();
        for (line, word) in [
            (2, "lower-case"),
            (3, "did you mean `port`"),
            (3, "where does the app listen"),
            (4, "a mapping"),
            (5, "neither `http`"),
            (5, "listens there already"),
            (6, "tcp://host:port"),
            (7, "variables are a mapping"),
            (8, "1 to 65535"),
        ] {
            assert!(
                said.iter().any(|said| said.starts_with(&format!("mesh.yaml:{line}:")) && said.contains(word)),
                "{line} {word}: {said:#?}"
            );
        }
        for nothing in ["routes: []\n", "", "\n"] {
            assert!(read(nothing, &[]).unwrap_err()[0].to_string().contains("needs services"));
        }
    }
}
