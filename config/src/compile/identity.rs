use std::path::PathBuf;

use crate::error::{Diagnostics, Path};
use crate::schema::Config;
use crate::snapshot::Identity;
use crate::spiffe::SpiffeId;

pub(super) fn compile(config: &Config, found: &mut Diagnostics) -> Option<Identity> {
    let identity = config.identity.as_ref()?;
    let root = Path::ROOT;
    let path = root.key("identity");
    let files_path = path.key("files");
    let cert = file(&identity.files.cert, &files_path.key("cert"), found);
    let key = file(&identity.files.key, &files_path.key("key"), found);
    let trust = file(&identity.files.trust, &files_path.key("trust"), found);
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
    Some(Identity { cert, key, trust, others: others.into(), crl })
}

/// The path of a file.
pub(super) fn file(text: &str, path: &Path<'_>, found: &mut Diagnostics) -> PathBuf {
    if text.is_empty() {
        found.error(path, "the path is empty");
    }
    PathBuf::from(text)
}
