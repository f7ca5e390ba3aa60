use std::path::PathBuf;

use crate::error::{Diagnostics, Path};
use crate::schema::{ClusterTls, ClusterTlsSettings, Config, Direction, Listener, ListenerProtocol, ListenerTls, MeshWord};
use crate::snapshot::{Identity, UpstreamTls};
use crate::spiffe::{PeerPattern, SpiffeId};

const NEEDED: &str = "mutual TLS needs an `identity`";
const EXAMPLE: &str = "identity: { files: { cert: tls.crt, key: tls.key, trust: ca.crt } }";

pub(super) fn compile(config: &Config, found: &mut Diagnostics) -> Option<Identity> {
    let identity = config.identity.as_ref()?;
    let root = Path::ROOT;
    let path = root.key("identity");
    let files_path = path.key("files");
    let mut file = |text: &str, path: &Path<'_>| {
        if text.is_empty() {
            found.error(path, "the path is empty");
        }
        PathBuf::from(text)
    };
    let cert = file(&identity.files.cert, &files_path.key("cert"));
    let key = file(&identity.files.key, &files_path.key("key"));
    let trust = file(&identity.files.trust, &files_path.key("trust"));
    let crl = identity.crl.as_deref().map(|crl| file(crl, &path.key("crl")));
    let domains = path.key("trust_domains");
    let mut others = Vec::new();
    for (name, roots) in &identity.trust_domains {
        let path = domains.key(name);
        let name = name.strip_prefix("spiffe://").unwrap_or(name);
        match SpiffeId::parse(&format!("spiffe://{name}")) {
            Ok(id) if id.path().is_empty() => others.push((name.into(), roots.into())),
            Ok(_) => drop(found.key_error(&path, format!("`{name}` has a path; a trust domain has none"))),
            Err(why) => drop(found.key_error(&path, format!("`{name}` is not a trust domain: {why}"))),
        }
    }
    Some(Identity { cert, key, trust, others: others.into(), crl })
}

/// How a cluster's endpoints are spoken to.
pub(super) fn upstream(
    config: &Config,
    tls: Option<&ClusterTls>,
    path: &Path<'_>,
    found: &mut Diagnostics,
) -> Option<UpstreamTls> {
    let path = path.key("tls");
    let tls = tls?;
    if config.identity.is_none() {
        found.error(&path, NEEDED).hint = Some(format!("for example `{EXAMPLE}`"));
    }
    match tls {
        ClusterTls::Word(MeshWord::Mesh) => Some(UpstreamTls::Mesh { peers: None }),
        ClusterTls::Settings(ClusterTlsSettings { mesh }) => {
            let mesh_path = path.key("mesh");
            let all = mesh_path.key("peers");
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
            Some(UpstreamTls::Mesh { peers: Some(peers.into()) })
        }
    }
}

/// Whether a listener's callers speak mutual TLS.
pub(super) fn check_listener(config: &Config, listener: &Listener, path: &Path<'_>, found: &mut Diagnostics) {
    let path = path.key("tls");
    if listener.tls == ListenerTls::Off {
        return;
    }
    if config.identity.is_none() {
        found.error(&path, NEEDED).hint = Some(format!("for example `{EXAMPLE}`"));
    }
    if listener.direction == Direction::Outbound {
        found.error(&path, "the app itself does not speak the mesh's TLS to an outbound listener").hint =
            Some("what leaves for a cluster is encrypted by the cluster's `tls: mesh`".to_owned());
    }
    if listener.protocol == ListenerProtocol::Tls {
        found.error(&path, "a listener with `protocol: tls` passes TLS on and does not end it").hint =
            Some("leave either out; `tls: permissive` passes the app's own TLS on too".to_owned());
    }
}
