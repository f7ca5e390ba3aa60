//! A mesh turned into the configuration of each sidecar, purely.
//!
//! What the file has besides `services` goes into every one of them, so a route is written once. Each service has a route of its
//! own name unless one speaks for it, and each sidecar has a port for every service.

use std::path::Path;

use weir_config::error::{self, Diagnostic, Diagnostics};
use weir_config::yaml;
use weir_deploy::manifest::{self, Document, Node};

use super::mesh::{MOST, Mesh, Place, Service};

/// The trust domain of certificates that are made for one run.
pub(super) const TRUST_DOMAIN: &str = "dev.localhost";
/// Whoever calls from outside of all services: a person, a browser.
pub(super) const YOU: &str = "you";

/// Where things listen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    /// Where people call services by name.
    pub(super) entry: u16,
    /// The admin server of the entry's sidecar.
    pub(super) admin: u16,
    /// The first port of the sidecars; each has a hundred.
    pub(super) base: u16,
}

/// The slot of whoever is no service.
const OUTSIDE: usize = MOST;

impl Ports {
    fn of(self, slot: usize, offset: usize) -> u16 {
        self.base.saturating_add(u16::try_from(slot * 100 + offset).unwrap_or(u16::MAX))
    }
    /// The admin server of a service's sidecar.
    pub(super) fn admin(self, service: Option<&Service>) -> u16 {
        service.map_or(self.admin, |service| self.of(service.slot, 0))
    }
    /// Where others call a service.
    fn inbound(self, service: &Service) -> u16 {
        self.of(service.slot, 1)
    }
    /// Where a service calls others by their hosts.
    fn outbound(self, service: Option<&Service>) -> u16 {
        service.map_or(self.entry, |service| self.of(service.slot, 2))
    }
    /// All that sidecars listen on, and whose.
    fn of_sidecars(self, mesh: &Mesh) -> Vec<(u16, &str)> {
        let here = mesh.services.iter().filter(|service| service.port().is_some());
        let mut all = Vec::new();
        for service in here.map(Some).chain([None]) {
            let name = service.map_or(YOU, |service| &service.name);
            let links = mesh.services.iter().map(|other| self.link(service, other));
            let inbound = service.map(|service| self.inbound(service));
            let ports = [self.admin(service), self.outbound(service)].into_iter().chain(inbound).chain(links);
            all.extend(ports.map(|port| (port, name)));
        }
        all
    }
    /// Where a service calls another whatever host it names.
    fn link(self, service: Option<&Service>, other: &Service) -> u16 {
        self.of(service.map_or(OUTSIDE, |service| service.slot), 10 + other.slot)
    }
}

/// No app listens where a sidecar does.
///
/// # Errors
/// The apps that do.
pub(super) fn ports_are_free(text: &str, mesh: &Mesh, ports: Ports) -> Result<(), Vec<Diagnostic>> {
    let mut found = Diagnostics::default();
    let (root, sidecars) = (error::Path::ROOT, ports.of_sidecars(mesh));
    let services = root.key("services");
    for service in &mesh.services {
        let Some((_, whose)) = sidecars.iter().find(|(port, _)| Some(*port) == service.port()) else { continue };
        found.error(&services.key(&service.name).key("port"), format!("the sidecar of {whose} listens there")).hint =
            Some("take another port, or `--base-port`, `--port`, `--admin-port`".to_owned());
    }
    if let Some(tree) = yaml::parse(text, &mut Diagnostics::default()) {
        found.locate(&tree);
    }
    if found.has_errors() { Err(found.into_sorted()) } else { Ok(()) }
}

/// The SPIFFE ID of a service.
pub(super) fn id(name: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/dev/sa/{name}")
}

/// The variables by which a service, or somebody who is none, finds the others.
pub(super) fn environment(mesh: &Mesh, service: Option<&Service>, ports: Ports) -> Vec<(String, String)> {
    let mut all = Vec::new();
    if let Some(port) = service.and_then(Service::port) {
        all.push(("PORT".to_owned(), port.to_string()));
    }
    let proxy = format!("http://127.0.0.1:{}", ports.outbound(service));
    all.extend(["http_proxy", "HTTP_PROXY"].map(|name| (name.to_owned(), proxy.clone())));
    // What is here is not called by way of a proxy: the ports below are.
    all.extend(["no_proxy", "NO_PROXY"].map(|name| (name.to_owned(), "127.0.0.1,localhost,::1".to_owned())));
    // Node.js asks for it only then.
    all.push(("NODE_USE_ENV_PROXY".to_owned(), "1".to_owned()));
    for other in &mesh.services {
        let name = other.name.to_uppercase().replace('-', "_");
        let address = format!("127.0.0.1:{}", ports.link(service, other));
        if !other.tcp {
            all.push((format!("{name}_URL"), format!("http://{address}")));
        }
        all.push((format!("{name}_ADDRESS"), address));
    }
    all
}

/// The configuration of a service's sidecar; of the entry's, for `None`. `dir` has a directory of certificates for each.
///
/// # Errors
/// What the file has wrong besides `services`, by its own lines.
pub(super) fn configuration(
    text: &str,
    mesh: &Mesh,
    service: Option<&Service>,
    ports: Ports,
    dir: &Path,
) -> Result<String, Vec<Diagnostic>> {
    let mut root = match manifest::read(text).map(|documents| documents.into_iter().find_map(|document| document.root)) {
        Ok(Some(root @ Node::Map(..))) => root,
        // What cannot be read has been said already.
        _ => return Err(Vec::new()),
    };
    root.remove("services");
    if service.and_then(Service::port).is_none() {
        outbound_only(&mut root);
    }
    local_hosts(&mut root);
    mesh.services.iter().for_each(|service| remote_host(&mut root, service));
    mesh.services.iter().for_each(|service| own_route(&mut root, service));
    if let Some(clusters) = root.map_at("clusters") {
        for service in &mesh.services {
            if clusters.get(&service.name).is_none() {
                clusters.set(&service.name, cluster(service, ports));
            }
        }
    }
    for (key, value) in bootstrap(service, ports, dir) {
        if root.get(key).is_none() {
            root.set(key, value);
        }
    }
    let links: Vec<Node> = listeners(mesh, &root, service, ports);
    if let Some(list) = root.list_at("listeners") {
        list.extend(links.into_iter().map(Into::into));
    }
    let written = manifest::write(&[Document { comments: Vec::new(), root: Some(root) }]);
    match weir_config::load(&written) {
        Ok(_) => Ok(written),
        Err(mut mistakes) => {
            if let Some(tree) = yaml::parse(text, &mut Diagnostics::default()) {
                mistakes.iter_mut().for_each(|mistake| mistake.relocate(&tree));
            }
            Err(mistakes)
        }
    }
}

/// Whoever is no service is called by nobody: what is for inbound listeners alone has no place there.
fn outbound_only(root: &mut Node) {
    for key in ["routes", "authorization"] {
        let Some(list) = root.list_at(key) else { continue };
        list.retain(|item| {
            let listeners = item.value.get("listeners");
            listeners.is_none_or(|listeners| listeners.items().any(|listener| listener.as_text() != Some("inbound")))
        });
    }
}

/// Who is elsewhere is called by its own name, also where the file has a route for it.
fn remote_host(root: &mut Node, service: &Service) {
    let (Place::Remote { .. }, Some(routes)) = (&service.place, root.list_at("routes")) else { return };
    let rules = routes.iter_mut().filter_map(|route| route.value.get_mut("rules")).flat_map(|rules| match rules {
        Node::List(items, _) => items.iter_mut(),
        _ => [].iter_mut(),
    });
    for rule in rules {
        let backends = rule.value.get("backends").into_iter().flat_map(Node::items);
        let names: Vec<&str> = backends.filter_map(|backend| backend.get("cluster")?.as_text()).collect();
        if names.is_empty() || names.iter().any(|name| *name != service.name) || rule.value.get("rewrite").is_some() {
            continue;
        }
        rule.value.set("rewrite", Node::map([("host", Node::text(host_of(service)))]));
    }
}

/// The host that a service elsewhere goes by.
fn host_of(service: &Service) -> String {
    match &service.place {
        Place::Remote { host, port, tls } if *port != if *tls { 443 } else { 80 } => format!("{host}:{port}"),
        Place::Remote { host, .. } => host.clone(),
        Place::Here { .. } => service.name.clone(),
    }
}

/// Hosts without a dot are also found below `localhost`.
fn local_hosts(root: &mut Node) {
    let Some(routes) = root.list_at("routes") else { return };
    for route in routes {
        let Some(hosts) = route.value.list_at("hosts") else { continue };
        let known: Vec<String> = hosts.iter().filter_map(|host| host.value.as_text()).map(str::to_owned).collect();
        let bare = known.iter().filter(|host| !host.contains(['.', '*']));
        let local = bare.map(|host| format!("{host}.localhost")).filter(|host| !known.contains(host));
        hosts.extend(local.map(|host| Node::text(host).into()).collect::<Vec<_>>());
    }
}

/// Whether a route is for what services call.
fn is_outbound(route: &Node) -> bool {
    let listeners = route.get("listeners");
    listeners.is_none_or(|listeners| listeners.items().any(|listener| listener.as_text() == Some("outbound")))
}

fn outbound_routes(root: &Node) -> impl Iterator<Item = &Node> {
    root.get("routes").into_iter().flat_map(Node::items).filter(|route| is_outbound(route))
}

fn has_host(route: &Node, host: &str) -> bool {
    route.get("hosts").is_some_and(|hosts| hosts.items().any(|known| known.as_text() == Some(host)))
}

/// The name of the route that speaks for a service.
fn route_of<'n>(root: &'n Node, service: &Service) -> Option<&'n str> {
    outbound_routes(root).find(|route| has_host(route, &service.name))?.get("name").and_then(Node::as_text)
}

/// A route for a service that has none, by hosts that no other route has.
fn own_route(root: &mut Node, service: &Service) {
    if service.tcp || route_of(root, service).is_some() {
        return;
    }
    let mut rule = Node::map([("backends", Node::list([Node::map([("cluster", Node::text(&*service.name))])]))]);
    if matches!(service.place, Place::Remote { .. }) {
        rule.set("rewrite", Node::map([("host", Node::text(host_of(service)))]));
    }
    let hosts = [service.name.clone(), format!("{}.localhost", service.name)];
    let hosts = hosts.into_iter().filter(|host| !outbound_routes(root).any(|route| has_host(route, host))).map(Node::text);
    let named = |name: &str| {
        let mut routes = root.get("routes").into_iter().flat_map(Node::items);
        routes.any(|route| route.get("name").and_then(Node::as_text) == Some(name))
    };
    let mut name = service.name.clone();
    while named(&name) {
        name.push_str("-itself");
    }
    let hosts = Node::list(hosts);
    let route = Node::map([("name", Node::text(name)), ("hosts", hosts), ("rules", Node::list([rule]))]);
    if let Some(routes) = root.list_at("routes") {
        routes.push(route.into());
    }
}

fn cluster(service: &Service, ports: Ports) -> Node {
    match &service.place {
        Place::Here { .. } => {
            let address = format!("127.0.0.1:{}", ports.inbound(service));
            let peers = Node::map([("peers", Node::list([Node::text(id(&service.name))]))]);
            Node::map([("endpoints", Node::list([Node::text(address)])), ("tls", Node::map([("mesh", peers)]))])
        }
        Place::Remote { host, port, tls } => {
            let mut cluster = Node::map([("dns", Node::text(format!("{host}:{port}")))]);
            if *tls {
                cluster.set("tls", Node::map([("server_name", Node::text(host))]));
            }
            cluster
        }
    }
}

fn bootstrap(service: Option<&Service>, ports: Ports, dir: &Path) -> Vec<(&'static str, Node)> {
    let name = service.map_or(YOU, |service| &*service.name);
    let file = |file: &str| Node::text(dir.join(name).join(file).display().to_string());
    let files = [("cert", file("tls.crt")), ("key", file("tls.key")), ("trust", file("ca.crt"))];
    let line = format!(
        "{name}: %REQ(:METHOD)% %REQ(:AUTHORITY)%%REQ(:PATH)% -> %UPSTREAM_CLUSTER% %RESPONSE_CODE% %RESPONSE_FLAGS% %DURATION% ms"
    );
    vec![
        ("workers", Node::plain(1)),
        ("admin", Node::map([("listen", Node::text(format!("127.0.0.1:{}", ports.admin(service))))])),
        ("identity", Node::map([("files", Node::map(files))])),
        ("shutdown", Node::map([("min", Node::text("0s")), ("deadline", Node::text("5s"))])),
        ("access_log", Node::map([("path", Node::text("stdout")), ("format", Node::text(line))])),
    ]
}

fn listeners(mesh: &Mesh, root: &Node, service: Option<&Service>, ports: Ports) -> Vec<Node> {
    let listener = |name: &str, port: u16, direction: &str, more: &[(&str, Node)]| {
        let mut node = Node::map([
            ("name", Node::text(name)),
            ("listen", Node::text(format!("127.0.0.1:{port}"))),
            ("direction", Node::text(direction)),
        ]);
        more.iter().for_each(|(key, value)| node.set(key, value.clone()));
        node
    };
    let tcp = ("protocol", Node::text("tcp"));
    let mut all = Vec::new();
    if let Some((service, port)) = service.and_then(|service| Some((service, service.port()?))) {
        let mut more = vec![("app", Node::text(format!("127.0.0.1:{port}"))), ("tls", Node::text("strict"))];
        more.extend(service.tcp.then(|| tcp.clone()));
        all.push(listener("inbound", ports.inbound(service), "inbound", &more));
    }
    all.push(listener("outbound", ports.outbound(service), "outbound", &[]));
    for other in &mesh.services {
        let to = match (other.tcp, route_of(root, other)) {
            (false, Some(route)) => vec![("route", Node::text(route))],
            _ => vec![tcp.clone(), ("cluster", Node::text(&*other.name))],
        };
        all.push(listener(&format!("to-{}", other.name), ports.link(service, other), "outbound", &to));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::mesh::read;
    use super::*;

    const MESH: &str = "
services:
  web: { port: 3000, run: npm start }
  cart: { port: 8080 }
  cart-next: { port: 8081 }
  db: { port: 5432, protocol: tcp }
  pay: { remote: https://pay.example }
routes:
  - name: cart
    hosts: [cart]
    rules: [{ backends: [{ cluster: cart, weight: 9 }, { cluster: cart-next, weight: 1 }] }]
";
    const PORTS: Ports = Ports { entry: 15001, admin: 15000, base: 16000 };

    fn mesh(text: &str) -> Mesh {
        let mut mesh = read(text, &[]).unwrap();
        mesh.assign(None);
        mesh
    }

    #[test]
    fn every_sidecar_reaches_every_service() {
        let mesh = mesh(MESH);
        for service in [None, mesh.get("web"), mesh.get("db")] {
            let text = configuration(MESH, &mesh, service, PORTS, Path::new("/tmp/dev")).unwrap();
            let (_, snapshot) = weir_config::load(&text).unwrap();
            let names: Vec<&str> = snapshot.listeners.iter().map(|listener| &*listener.name).collect();
            assert_eq!(names.len(), usize::from(service.is_some()) + 1 + 5, "{names:?}");
            assert!(text.contains("cart.localhost") && text.contains("server_name: pay.example"), "{text}");
        }
        let variables = environment(&mesh, mesh.get("web"), PORTS);
        for (name, value) in [
            ("PORT", "3000"),
            ("CART_NEXT_URL", "http://127.0.0.1:16012"),
            ("DB_ADDRESS", "127.0.0.1:16013"),
            ("http_proxy", "http://127.0.0.1:16002"),
        ] {
            assert!(variables.contains(&(name.to_owned(), value.to_owned())), "{name}: {variables:?}");
        }
    }

    #[test]
    fn routes_that_only_look_like_those_of_a_service() {
        for more in [
            "  - { name: web, hosts: [shop.example], rules: [{ backends: [{ cluster: web }] }] }\n",
            "  - { name: front, hosts: [web.localhost], rules: [{ backends: [{ cluster: cart }] }] }\n",
            "  - { name: web, listeners: [inbound], hosts: ['*'], rules: [{ backends: [{ cluster: cart }] }] }\n",
        ] {
            let text = format!("{MESH}{more}");
            for service in [None, mesh(&text).get("web")] {
                let made = configuration(&text, &mesh(&text), service, PORTS, Path::new("/tmp/dev"));
                assert!(made.is_ok(), "{more}: {made:?}");
            }
        }
    }

    #[test]
    fn apps_and_sidecars_do_not_share_ports() {
        for (port, whose) in [(15001, "you"), (16001, "web"), (16114, "cart"), (20010, "you")] {
            let text = MESH.replace("8081", &port.to_string());
            let mistakes = ports_are_free(&text, &mesh(&text), PORTS).unwrap_err();
            let said = mistakes[0].render("mesh.yaml");
            assert!(said.starts_with("mesh.yaml:5:") && said.contains(&format!("the sidecar of {whose}")), "{said}");
        }
        let text = MESH.replace("8081", "16050");
        assert!(ports_are_free(&text, &mesh(&text), PORTS).is_ok());
    }

    #[test]
    fn mistakes_in_routes_are_found_by_their_lines() {
        let text = MESH.replace("cluster: cart-next", "cluster: cart-nxt");
        let mistakes = configuration(&text, &mesh(&text), None, PORTS, Path::new("/tmp/dev")).unwrap_err();
        let said = mistakes[0].render("mesh.yaml");
        assert!(said.starts_with("mesh.yaml:11:") && said.contains("did you mean `cart-next`"), "{said}");
        let text = MESH.replace("hosts: [cart]", "hosts: [cart]\n    host: x");
        let mistakes = configuration(&text, &mesh(&text), None, PORTS, Path::new("/tmp/dev")).unwrap_err();
        assert!(mistakes[0].render("mesh.yaml").starts_with("mesh.yaml:11:"), "{mistakes:?}");
    }
}
