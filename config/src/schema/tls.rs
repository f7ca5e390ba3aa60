use schemars::JsonSchema;
use serde::Deserialize;

/// TLS of a listener's callers: a word for mutual TLS, or a certificate for callers from outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ListenerTls {
    /// `off`, `permissive` or `strict`.
    Mode(TlsMode),
    /// TLS ends here, and callers show nothing.
    Edge(EdgeTls),
}

impl Default for ListenerTls {
    fn default() -> Self {
        Self::Mode(TlsMode::Off)
    }
}

/// Whether callers of a listener speak mutual TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// They do not.
    #[default]
    Off,
    /// They may: the mesh's TLS is taken off, the app's own goes to the app untouched, and what is in the clear is served
    /// too. For the time until every caller speaks it.
    Permissive,
    /// They must. Who does not, or cannot show whom it is, is refused.
    Strict,
}

/// TLS that ends at a listener at the edge: callers see an ordinary server. They may offer HTTP/2 or HTTP/1.1. The files are
/// watched, and new handshakes use what is new.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EdgeTls {
    /// The certificate, then the intermediate ones up to the root: a file in PEM.
    #[schemars(example = &"tls/fullchain.pem")]
    pub cert: String,
    /// Its private key (PKCS #8, SEC 1 or PKCS #1).
    #[schemars(example = &"tls/privkey.pem")]
    pub key: String,
    /// The oldest version that callers may speak. Default `tls1.3`.
    #[serde(default)]
    pub min_version: TlsVersion,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246), with forward secrecy and authenticated encryption only.
    #[serde(rename = "tls1.2")]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    #[default]
    #[serde(rename = "tls1.3")]
    Tls13,
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

/// TLS towards the endpoints of a cluster: with members of the mesh (`mesh`), or with a server outside of it (everything else).
/// `{}` is a server that the system's roots vouch for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterTlsSettings {
    /// Mutual TLS with peers of the mesh. Nothing else may stand beside it.
    pub mesh: Option<Mesh>,
    /// The name that is asked for (SNI) and that the certificate must have. Default: the name in `dns` or `endpoints`; the
    /// address, if there are addresses only.
    #[schemars(example = &"api.partner.example")]
    pub server_name: Option<String>,
    /// Whose certificates are believed: a file in PEM. Default: the system's roots.
    #[schemars(example = &"tls/partner-ca.pem")]
    pub roots: Option<String>,
    /// The certificate that weir shows if it is asked for one.
    pub client: Option<ClientCertificate>,
    /// The oldest version that the server may speak. Default `tls1.3`.
    pub min_version: Option<TlsVersion>,
    /// Believe any server whatsoever: what is sent can be read and answered by whoever sits on the way. Default false.
    #[serde(default)]
    pub insecure: bool,
}

/// A certificate that is shown to a server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificate {
    /// The certificate, then the intermediate ones: a file in PEM.
    pub cert: String,
    /// Its private key.
    pub key: String,
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
