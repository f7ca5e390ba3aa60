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

/// Whether callers of a listener speak mutual TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListenerTls {
    /// They do not.
    #[default]
    Off,
    /// They may: the mesh's TLS is taken off, the app's own goes to the app untouched, and what is in the clear is served
    /// too. For the time until every caller speaks it.
    Permissive,
    /// They must. Who does not, or cannot show whom it is, is refused.
    Strict,
}

/// TLS towards the endpoints of a cluster: the word `mesh`, or settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ClusterTls {
    /// `mesh`: mutual TLS with anybody of this proxy's own trust domain.
    Word(MeshWord),
    /// With settings.
    Settings(ClusterTlsSettings),
}

/// The word `mesh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MeshWord {
    /// Mutual TLS.
    Mesh,
}

/// TLS towards the endpoints of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterTlsSettings {
    /// Mutual TLS with peers of the mesh.
    pub mesh: Mesh,
}

/// Mutual TLS with peers of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mesh {
    /// Who may answer: SPIFFE IDs (`spiffe://prod/ns/shop/sa/cart`), everybody below a path (`spiffe://prod/ns/shop/*`) or
    /// of a trust domain (`spiffe://prod`). Anybody else is refused before anything is sent. Default: this proxy's own
    /// trust domain.
    #[schemars(length(min = 1))]
    pub peers: Vec<String>,
}
