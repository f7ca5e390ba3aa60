use super::identity::file;
use crate::error::{Diagnostics, Path};
use crate::schema::{
    Cluster, ClusterTls, ClusterTlsSettings, Config, Direction, Listener, ListenerProtocol, ListenerTls, Mesh, MeshWord, TlsMode,
};
use crate::snapshot::{CallerTls, EdgeTls, Endpoint, ServerTls, Target, UpstreamTls};
use crate::spiffe::PeerPattern;

const NEEDED: &str = "mutual TLS needs an `identity`";
const EXAMPLE: &str = "identity: { files: { cert: tls.crt, key: tls.key, trust: ca.crt } }";

/// How a cluster's endpoints are spoken to.
pub(super) fn upstream(
    config: &Config,
    cluster: &Cluster,
    endpoints: &[Endpoint],
    path: &Path<'_>,
    found: &mut Diagnostics,
) -> Option<UpstreamTls> {
    let path = path.key("tls");
    let (mesh, settings) = match cluster.tls.as_ref()? {
        ClusterTls::Word(MeshWord::Mesh) => (None, None),
        ClusterTls::Settings(settings) => (settings.mesh.as_ref(), settings.mesh.is_none().then_some(settings)),
    };
    if let Some(settings) = settings {
        return Some(UpstreamTls::Server(server(settings, endpoints, &path, found)));
    }
    if config.identity.is_none() {
        found.error(&path, NEEDED).hint = Some(format!("for example `{EXAMPLE}`"));
    }
    if let ClusterTls::Settings(settings) = cluster.tls.as_ref()? {
        nothing_beside_mesh(settings, &path, found);
    }
    Some(UpstreamTls::Mesh { peers: mesh.map(|mesh| peers(mesh, &path.key("mesh"), found)) })
}

fn nothing_beside_mesh(settings: &ClusterTlsSettings, path: &Path<'_>, found: &mut Diagnostics) {
    let beside = [
        ("server_name", settings.server_name.is_some()),
        ("roots", settings.roots.is_some()),
        ("client", settings.client.is_some()),
        ("min_version", settings.min_version.is_some()),
        ("insecure", settings.insecure),
    ];
    for (key, _) in beside.iter().filter(|(_, present)| *present) {
        found.key_error(&path.key(key), format!("`{key}` is for servers outside the mesh")).hint =
            Some("members of the mesh are known by `peers` and by the roots of `identity`".to_owned());
    }
}

fn peers(mesh: &Mesh, path: &Path<'_>, found: &mut Diagnostics) -> Box<[PeerPattern]> {
    let all = path.key("peers");
    let mut peers = Vec::new();
    if mesh.peers.is_empty() {
        found.error(&all, "nobody may answer").hint =
            Some("name peers, or write `tls: mesh` for this proxy's own trust domain".to_owned());
    }
    for (index, text) in mesh.peers.iter().enumerate() {
        match PeerPattern::parse(text) {
            Ok(peer) => peers.push(peer),
            Err(why) => {
                found.error(&all.index(index), format!("`{text}` names no peer: {why}")).hint =
                    Some("for example `spiffe://prod/ns/shop/sa/cart` or `spiffe://prod/ns/shop/*`".to_owned());
            }
        }
    }
    peers.into()
}

fn server(settings: &ClusterTlsSettings, endpoints: &[Endpoint], path: &Path<'_>, found: &mut Diagnostics) -> ServerTls {
    let roots = settings.roots.as_deref().map(|roots| file(roots, &path.key("roots"), found));
    let client = settings.client.as_ref().map(|client| {
        let path = path.key("client");
        (file(&client.cert, &path.key("cert"), found), file(&client.key, &path.key("key"), found))
    });
    if settings.insecure && settings.roots.is_some() {
        found.key_error(&path.key("insecure"), "with `insecure` nobody looks at `roots`").hint =
            Some("leave `insecure` out; a certificate of one's own authority needs only `roots`".to_owned());
    }
    ServerTls {
        name: server_name(settings, endpoints, path, found),
        roots,
        client,
        min_version: settings.min_version.unwrap_or_default(),
        insecure: settings.insecure,
    }
}

/// The name that is given, or that all endpoints have.
fn server_name(
    settings: &ClusterTlsSettings,
    endpoints: &[Endpoint],
    path: &Path<'_>,
    found: &mut Diagnostics,
) -> Option<Box<str>> {
    if let Some(name) = &settings.server_name {
        let label = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 253 || !name.bytes().all(label) {
            found.error(&path.key("server_name"), format!("`{name}` is not a server name")).hint =
                Some("for example `api.partner.example`".to_owned());
        }
        return Some(name.to_ascii_lowercase().into());
    }
    let mut names = endpoints.iter().map(|endpoint| match &endpoint.target {
        Target::Name { host, .. } => Some(host.clone()),
        Target::Address(_) => None,
    });
    let first = names.next().flatten();
    if names.any(|name| name != first) {
        found.error(path, "the endpoints have several names: which is the server's?").hint =
            Some("say it with `server_name`".to_owned());
    }
    first
}

/// How a listener's callers are spoken to.
pub(super) fn listener(
    config: &Config,
    listener: &Listener,
    path: &Path<'_>,
    found: &mut Diagnostics,
) -> (CallerTls, Option<EdgeTls>) {
    let path = path.key("tls");
    let (tls, edge) = match &listener.tls {
        ListenerTls::Mode(TlsMode::Off) => return (CallerTls::Off, None),
        ListenerTls::Mode(TlsMode::Permissive) => (CallerTls::Permissive, None),
        ListenerTls::Mode(TlsMode::Strict) => (CallerTls::Strict, None),
        ListenerTls::Edge(edge) => {
            let cert = file(&edge.cert, &path.key("cert"), found);
            let key = file(&edge.key, &path.key("key"), found);
            (CallerTls::Edge, Some(EdgeTls { cert, key, min_version: edge.min_version }))
        }
    };
    if edge.is_none() && config.identity.is_none() {
        found.error(&path, NEEDED).hint = Some(format!("for example `{EXAMPLE}`"));
    }
    if edge.is_none() && listener.direction == Direction::Outbound {
        found.error(&path, "the app itself does not speak the mesh's TLS to an outbound listener").hint =
            Some("what leaves for a cluster is encrypted by the cluster's `tls: mesh`".to_owned());
    }
    if listener.protocol == ListenerProtocol::Tls {
        found.error(&path, "a listener with `protocol: tls` passes TLS on and does not end it").hint =
            Some("leave either out; `tls: permissive` passes the app's own TLS on too".to_owned());
    }
    (tls, edge)
}
