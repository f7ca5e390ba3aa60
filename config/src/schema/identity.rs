use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// Who this proxy is in the mesh: its certificate, which carries a SPIFFE ID, and whose certificates it believes. Either from
/// `files` or from a SPIFFE Workload API. A new certificate serves new connections at once, and none is closed for it. What
/// cannot be used (a key that does not fit its certificate, half a file) is reported, and what was good before stays in use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// From files in PEM, which are watched.
    pub files: Option<IdentityFiles>,
    /// From a SPIFFE Workload API (SPIRE's agent): the path of its socket, `unix:/run/spire/sockets/agent.sock`. It streams
    /// certificates, roots, those of federated trust domains, and what was revoked. weir is not ready before the first; while
    /// the agent is gone, what it gave last serves on.
    #[schemars(example = &"unix:/run/spire/sockets/agent.sock")]
    pub workload_api: Option<String>,
    /// Roots of other trust domains whose members are believed too: the name of the trust domain, and a file of
    /// certificates in PEM. With `files` only.
    #[serde(default)]
    pub trust_domains: BTreeMap<String, String>,
    /// Certificates that were revoked: a file of CRLs in PEM. Issuers without a list there are not asked. With `files` only.
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
