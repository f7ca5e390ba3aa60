use std::path::PathBuf;

use crate::error::{Diagnostics, Path};
use crate::schema::{self, Config, IdentityFiles};
use crate::snapshot::{Files, Identity};
use crate::spiffe::SpiffeId;

pub(super) fn compile(config: &Config, found: &mut Diagnostics) -> Option<Identity> {
    let identity = config.identity.as_ref()?;
    let root = Path::ROOT;
    let path = root.key("identity");
    match (&identity.files, &identity.workload_api) {
        (Some(files), None) => Some(Identity::Files(self::files(identity, files, &path, found))),
        (None, Some(socket)) => {
            for (key, present) in [("trust_domains", !identity.trust_domains.is_empty()), ("crl", identity.crl.is_some())] {
                if present {
                    found.key_error(&path.key(key), format!("`{key}` is for `files`; a Workload API tells it itself"));
                }
            }
            Some(Identity::WorkloadApi(self::socket(socket, &path.key("workload_api"), found)))
        }
        _ => {
            found.error(&path, "an identity is from either `files` or `workload_api`").hint =
                Some("for example `files: { cert: tls.crt, key: tls.key, trust: ca.crt }`".to_owned());
            None
        }
    }
}

fn files(identity: &schema::Identity, files: &IdentityFiles, path: &Path<'_>, found: &mut Diagnostics) -> Files {
    let files_path = path.key("files");
    let cert = file(&files.cert, &files_path.key("cert"), found);
    let key = file(&files.key, &files_path.key("key"), found);
    let trust = file(&files.trust, &files_path.key("trust"), found);
    let crl = identity.crl.as_deref().map(|crl| file(crl, &path.key("crl"), found));
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
    Files { cert, key, trust, others: others.into(), crl }
}

/// The socket of a Workload API (SPIFFE Workload Endpoint, section 4).
fn socket(text: &str, path: &Path<'_>, found: &mut Diagnostics) -> PathBuf {
    let socket = text.strip_prefix("unix:").map(|rest| rest.strip_prefix("//").unwrap_or(rest));
    match socket.filter(|socket| socket.starts_with('/')) {
        Some(socket) => socket.into(),
        None => {
            found.error(path, format!("`{text}` is not the address of a Unix socket")).hint =
                Some("for example `unix:/run/spire/sockets/agent.sock`".to_owned());
            PathBuf::new()
        }
    }
}

/// The path of a file.
pub(super) fn file(text: &str, path: &Path<'_>, found: &mut Diagnostics) -> PathBuf {
    if text.is_empty() {
        found.error(path, "the path is empty");
    }
    PathBuf::from(text)
}
