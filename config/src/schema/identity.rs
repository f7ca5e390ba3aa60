use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// Who this proxy is in the mesh: its certificate, which carries a SPIFFE ID, and whose certificates it believes. Files are
/// watched: a new certificate serves new connections at once, and none is closed for it. What cannot be used (a key that
/// does not fit its certificate, half a file) is reported, and what was good before stays in use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// From files in PEM.
    pub files: IdentityFiles,
    /// Roots of other trust domains whose members are believed too: the name of the trust domain, and a file of
    /// certificates in PEM.
    #[serde(default)]
    pub trust_domains: BTreeMap<String, String>,
    /// Certificates that were revoked: a file of CRLs in PEM. Issuers without a list there are not asked.
    pub crl: Option<String>,
}

/// The files of an identity. Paths are relative to where weir was started.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityFiles {
    /// The certificate, then the intermediate ones up to the root.
    #[schemars(example = &"tls/tls.crt")]
    pub cert: String,
    /// Its private key (PKCS #8, SEC 1 or PKCS #1).
    #[schemars(example = &"tls/tls.key")]
    pub key: String,
    /// The roots of this proxy's own trust domain. All in the file are believed, so an old and a new one may stand
    /// together while the one follows the other.
    #[schemars(example = &"tls/ca.crt")]
    pub trust: String,
}
