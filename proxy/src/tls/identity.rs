//! Who this proxy is, and whom it believes: one immutable value, made as a whole or not at all.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, TrustAnchor};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use webpki::OwnedCertRevocationList;
use weir_config::schema::TlsVersion;
use weir_config::spiffe::SpiffeId;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::verify::{Expected, Trust, Verifier, spiffe_id};
use super::{ALPN_H1, ALPN_H2, ALPN_TCP};

/// What the files of an identity say, not looked into yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    /// The chain, leaf first.
    pub cert: String,
    /// Its key.
    pub key: String,
    /// Roots of the own trust domain.
    pub trust: String,
    /// Other trust domains, and their roots.
    pub others: Vec<(Box<str>, String)>,
    /// Revoked certificates.
    pub crl: Option<String>,
}

/// What an identity is made of.
pub struct Parts {
    /// The chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// Roots of the own trust domain.
    pub roots: Vec<CertificateDer<'static>>,
    /// Other trust domains, and their roots.
    pub others: Vec<(Box<str>, Vec<CertificateDer<'static>>)>,
    /// Revoked certificates.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
}

impl Parts {
    /// Of what files say.
    ///
    /// # Errors
    /// What is no PEM, or nothing.
    pub fn of_texts(texts: &Texts) -> anyhow::Result<Self> {
        let crls = CertificateRevocationListDer::pem_slice_iter(texts.crl.as_deref().unwrap_or_default().as_bytes());
        let crls: Vec<_> = crls.collect::<Result<_, _>>().context("`crl`")?;
        if texts.crl.is_some() && crls.is_empty() {
            bail!("`crl`: there is no list in it");
        }
        let others = texts
            .others
            .iter()
            .map(|(name, text)| Ok((name.clone(), certificates(text).with_context(|| format!("the roots of `{name}`"))?)));
        Ok(Self {
            chain: certificates(&texts.cert).context("`cert`")?,
            key: PrivateKeyDer::from_pem_slice(texts.key.as_bytes()).context("`key`: there is no private key in it")?,
            roots: certificates(&texts.trust).context("`trust`")?,
            others: others.collect::<anyhow::Result<_>>()?,
            crls,
        })
    }
}

/// Who this proxy is, and whom it believes.
#[derive(Debug)]
pub struct Identity {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// The serial number of its certificate, in hexadecimal.
    pub serial: String,
    /// From when on the certificate is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// When it was loaded.
    pub loaded: SystemTime,
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
    server: Arc<ServerConfig>,
    client: ClientConfig,
}

/// AES-128 first: it is as good here, and cheaper. Post-quantum key agreement where the peer has it.
pub(super) fn provider(oldest: TlsVersion) -> Arc<CryptoProvider> {
    let mut cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    // All with forward secrecy and authenticated encryption.
    if oldest == TlsVersion::Tls12 {
        cipher_suites.extend([
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ]);
    }
    Arc::new(CryptoProvider {
        cipher_suites,
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    })
}

impl Identity {
    /// Makes one of its parts.
    ///
    /// # Errors
    /// What cannot be used, and why.
    pub fn new(parts: Parts) -> anyhow::Result<Arc<Self>> {
        let provider = provider(TlsVersion::Tls13);
        let Parts { chain, key, roots, others, crls } = parts;
        let leaf = chain.first().context("`cert`: there is no certificate in it")?.clone();
        let id = spiffe_id(&leaf).map_err(|_| {
            anyhow::anyhow!(
                "`cert`: its first certificate is no workload's: it needs exactly one SPIFFE ID as its URI (subjectAltName)"
            )
        })?;
        let certified = CertifiedKey::from_der(chain, key, &provider).context("`key` does not fit `cert`")?;
        let (_, parsed) = X509Certificate::from_der(&leaf).context("`cert`")?;
        let moment = |time: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(time).unwrap_or(0));
        let (not_before, not_after) =
            (moment(parsed.validity().not_before.timestamp()), moment(parsed.validity().not_after.timestamp()));
        let serial = parsed.raw_serial_as_string();
        let trust = Arc::new(trust(&id, &roots, others, &crls)?);
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        let verifier = Verifier::new(&trust, Expected::Anybody, &provider);
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(resolver.clone());
        // A resumed handshake would verify nobody.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.alpn_protocols = [ALPN_H2, ALPN_H1, ALPN_TCP, b"h2", b"http/1.1"].map(<[u8]>::to_vec).into();
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(resolver);
        client.resumption = Resumption::disabled();
        let loaded = SystemTime::now();
        Ok(Arc::new(Self { id, serial, not_before, not_after, loaded, trust, provider, server: Arc::new(server), client }))
    }

    /// Whether the certificate is valid at this moment.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        (self.not_before..self.not_after).contains(&now)
    }

    /// For the side that is called.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For the side that calls, with the peers that may answer and the protocols to offer.
    pub fn client(&self, expected: Expected, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut client = self.client.clone();
        client.dangerous().set_certificate_verifier(Verifier::new(&self.trust, expected, &self.provider));
        client.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(client)
    }

    /// The SHA-256 digest of a certificate, in hexadecimal.
    pub fn digest(&self, certificate: &CertificateDer<'_>) -> String {
        let suite = self.provider.cipher_suites.iter().find_map(|suite| suite.tls13());
        let digest = suite.map(|suite| suite.common.hash_provider.hash(certificate));
        digest.iter().flat_map(|digest| digest.as_ref()).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The trust domains that are believed, and how many roots each has.
    pub fn trust_domains(&self) -> Vec<(&str, usize)> {
        let mut domains: Vec<_> = self.trust.domains.iter().map(|(name, roots)| (&**name, roots.len())).collect();
        domains.sort_unstable();
        domains
    }
}

pub(super) fn certificates(text: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().context("it is not PEM")
}

fn trust(
    id: &SpiffeId,
    own: &[CertificateDer<'_>],
    others: Vec<(Box<str>, Vec<CertificateDer<'static>>)>,
    crls: &[CertificateRevocationListDer<'_>],
) -> anyhow::Result<Trust> {
    let mut domains = HashMap::new();
    domains.insert(id.trust_domain().into(), anchors(own).context("`trust`")?);
    for (name, roots) in others {
        if *name == *id.trust_domain() {
            bail!("`trust_domains` names this proxy's own trust domain `{name}`; its roots are those of `files.trust`");
        }
        let anchors = anchors(&roots).with_context(|| format!("the roots of `{name}`"))?;
        domains.insert(name, anchors);
    }
    let crls = crls.iter().map(|list| Ok(OwnedCertRevocationList::from_der(list)?.into()));
    let crls: Vec<_> = crls.collect::<anyhow::Result<_>>().context("`crl`")?;
    Ok(Trust { domains, own: id.trust_domain().into(), crls })
}

fn anchors(certificates: &[CertificateDer<'_>]) -> anyhow::Result<Vec<TrustAnchor<'static>>> {
    let anchors = certificates.iter().map(|root| Ok(webpki::anchor_from_trusted_cert(root)?.to_owned()));
    let anchors = anchors.collect::<anyhow::Result<Vec<_>>>().context("a certificate in it cannot be a root")?;
    if anchors.is_empty() {
        bail!("there is no certificate in it");
    }
    Ok(anchors)
}

/// Reads the files.
///
/// # Errors
/// Which cannot be read, and why.
pub fn read(config: &weir_config::snapshot::Files) -> anyhow::Result<Texts> {
    let read = |path: &Path| {
        weir_control::file::read(path)
            .with_context(|| format!("cannot read {}", std::path::absolute(path).unwrap_or(path.to_owned()).display()))
    };
    Ok(Texts {
        cert: read(&config.cert)?,
        key: read(&config.key)?,
        trust: read(&config.trust)?,
        others: config.others.iter().map(|(name, path)| Ok((name.clone(), read(path)?))).collect::<anyhow::Result<_>>()?,
        crl: config.crl.as_deref().map(read).transpose()?,
    })
}
