//! Whether a peer is who it says: its chain leads to a root of its own trust domain, is valid now and not revoked, and
//! carries exactly one SPIFFE ID, one that is expected.
//!
//! Decides nothing about what the peer may do. DNS names and common names in certificates are not looked at: in the mesh
//! nobody is known by them.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};
use weir_config::spiffe::{PeerPattern, SpiffeId};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::refusal::Refusal;

/// Whose certificates are believed.
#[derive(Debug)]
pub struct Trust {
    /// Roots by trust domain.
    pub domains: HashMap<Box<str>, Vec<TrustAnchor<'static>>>,
    /// This proxy's own trust domain.
    pub own: Box<str>,
    /// What was revoked.
    pub crls: Vec<CertRevocationList<'static>>,
}

/// Which peers are expected.
#[derive(Debug, Clone)]
pub enum Expected {
    /// Anybody of a trust domain that is believed.
    Anybody,
    /// Anybody of this proxy's own trust domain.
    OwnDomain,
    /// These.
    These(Box<[PeerPattern]>),
}

/// Judges peers.
#[derive(Debug)]
pub struct Verifier {
    trust: Arc<Trust>,
    expected: Expected,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// One that believes `trust` and expects `expected`.
    pub fn new(trust: &Arc<Trust>, expected: Expected, provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self { trust: Arc::clone(trust), expected, algorithms: provider.signature_verification_algorithms })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), Error> {
        let id = spiffe_id(leaf).map_err(refuse)?;
        let roots = self.trust.domains.get(id.trust_domain()).ok_or_else(|| refuse(Refusal::UnknownTrustDomain))?;
        self.verify_chain(leaf, intermediates, roots, usage, now).map_err(judge)?;
        let expected = match &self.expected {
            Expected::Anybody => true,
            Expected::OwnDomain => id.trust_domain() == &*self.trust.own,
            Expected::These(peers) => peers.iter().any(|peer| peer.matches(&id)),
        };
        if expected { Ok(()) } else { Err(refuse(Refusal::UnexpectedPeer)) }
    }

    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        roots: &[TrustAnchor<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let crls: Vec<&CertRevocationList<'_>> = self.trust.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                // An issuer without a list revokes nothing. A list that has expired still names who was revoked.
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        let leaf = EndEntityCert::try_from(leaf)?;
        leaf.verify_for_usage(self.algorithms.all, roots, intermediates, now, usage, revocation, None)?;
        Ok(())
    }
}

/// The one SPIFFE ID that a certificate carries (X509-SVID, section 2).
///
/// # Errors
/// It carries none, several, or something that is none; or it is a certificate authority's.
pub fn spiffe_id(certificate: &CertificateDer<'_>) -> Result<SpiffeId, Refusal> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| Refusal::BadCertificate)?;
    if parsed.is_ca() {
        return Err(Refusal::BadCertificate);
    }
    let names = parsed.subject_alternative_name().map_err(|_| Refusal::BadCertificate)?.ok_or(Refusal::NoSpiffeId)?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    // More than one URI is as bad as none: which of them would be meant?
    let (Some(uri), None) = (uris.next(), uris.next()) else { return Err(Refusal::NoSpiffeId) };
    let id = SpiffeId::parse(uri).map_err(|_| Refusal::NoSpiffeId)?;
    if id.path().is_empty() { Err(Refusal::NoSpiffeId) } else { Ok(id) }
}

fn refuse(refusal: Refusal) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
}

fn judge(error: webpki::Error) -> Error {
    use webpki::Error as E;
    Error::InvalidCertificate(match error {
        E::CertExpired { .. } | E::InvalidCertValidity => CertificateError::Expired,
        E::CertNotValidYet { .. } => CertificateError::NotValidYet,
        E::CertRevoked => CertificateError::Revoked,
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => CertificateError::UnknownIssuer,
        other => CertificateError::Other(OtherError(Arc::new(Unusable(other)))),
    })
}

/// A certificate that cannot be used.
#[derive(Debug)]
struct Unusable(webpki::Error);

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::error::Error for Unusable {}

/// What proves that a key is the peer's own; the same whoever is believed.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signed, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signed, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, intermediates, KeyUsage::server_auth(), now)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, KeyUsage::client_auth(), now)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

/// Believes any server, for a cluster that says `insecure: true`.
#[derive(Debug)]
pub struct Anyone {
    algorithms: WebPkiSupportedAlgorithms,
}

impl Anyone {
    /// One.
    pub fn new(provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self { algorithms: provider.signature_verification_algorithms })
    }
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}
