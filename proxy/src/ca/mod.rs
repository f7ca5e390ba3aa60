//! A certificate authority for development and small fleets: one root for a trust domain, in two files, and certificates
//! for workloads by their SPIFFE IDs.
//!
//! Files are replaced whole, the key before the certificate, and keys are readable by their owner only. Who may have which
//! certificate is decided by who may read the directory.

pub mod serve;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use weir_config::spiffe::SpiffeId;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// How long a root lasts.
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates are valid from a little before now on, for clocks that are behind.
const EARLIER: Duration = Duration::from_secs(60);

/// A trust domain's root and its key.
pub struct Authority {
    /// The trust domain.
    pub trust_domain: String,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key (PKCS #8).
    pub key: String,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

impl Authority {
    /// Makes a root for a trust domain. Gives the authority and its key in PEM.
    ///
    /// # Errors
    /// The name is none.
    pub fn create(trust_domain: &str) -> anyhow::Result<(Self, String)> {
        let id = SpiffeId::parse(&format!("spiffe://{trust_domain}"));
        let id = match id {
            Ok(id) if id.path().is_empty() => id,
            Ok(_) => bail!("`{trust_domain}` has a path; a trust domain has none, for example `shop.example`"),
            Err(why) => bail!("`{trust_domain}` is not a trust domain: {why}"),
        };
        let key = KeyPair::generate()?;
        let mut params = params(&id, ROOT_LIFE)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("{trust_domain} root"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        let pem = key.serialize_pem();
        Ok((Self { trust_domain: trust_domain.to_owned(), certificate, issuer: Issuer::new(params, key) }, pem))
    }

    /// Reads one back from its directory.
    ///
    /// # Errors
    /// What is not there, or not right.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}; `weir ca init` makes an authority", path.display()))
        };
        let (certificate, key) = (read("ca.crt")?, read("ca.key")?);
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).context("ca.crt has no certificate")?;
        let (_, parsed) = X509Certificate::from_der(&der).context("ca.crt")?;
        if !parsed.is_ca() {
            bail!("ca.crt is no certificate authority's");
        }
        let names = parsed.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
        let domain = names.into_iter().flatten().find_map(|name| match name {
            GeneralName::URI(uri) => SpiffeId::parse(uri).ok(),
            _ => None,
        });
        let domain = domain.context("ca.crt names no trust domain: it needs `spiffe://NAME` as a URI (subjectAltName)")?;
        let key = KeyPair::from_pem(&key).context("ca.key")?;
        let issuer = Issuer::from_ca_cert_der(&der, key).context("ca.crt")?;
        Ok(Self { trust_domain: domain.trust_domain().to_owned(), certificate, issuer })
    }

    /// The root, in PEM.
    pub fn root(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate.
    ///
    /// # Errors
    /// The ID is not a workload's of this trust domain.
    pub fn issue(&self, id: &SpiffeId, life: Duration) -> anyhow::Result<Issued> {
        if id.trust_domain() != self.trust_domain {
            bail!("`{id}` is of another trust domain than `{}`", self.trust_domain);
        }
        if id.path().is_empty() {
            bail!(
                "`{id}` is the trust domain itself; a workload has a path, for example `spiffe://{}/ns/shop/sa/cart`",
                self.trust_domain
            );
        }
        let key = KeyPair::generate()?;
        let mut params = params(id, life)?;
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem(), not_after: SystemTime::now() + life })
    }
}

fn params(id: &SpiffeId, life: Duration) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    params.not_before = (now - EARLIER).into();
    params.not_after = now.checked_add(life).context("that is too long a life")?.into();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    // Positive, and of 16 bytes as RFC 5280 allows.
    params.serial_number = Some(SerialNumber::from(
        uuid::Uuid::from_u64_pair(fastrand::u64(..) >> 1 | 1 << 62, fastrand::u64(..)).as_bytes().to_vec(),
    ));
    Ok(params)
}

/// Writes a file as a whole: who reads it meanwhile reads the old one or the new one.
///
/// # Errors
/// What the system says.
pub fn write(path: &Path, text: &str, secret: bool) -> anyhow::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        let _ = std::fs::remove_file(&temporary);
        let mode = if secret { 0o600 } else { 0o644 };
        let mut file = std::fs::File::options().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    written.with_context(|| format!("cannot write {}", path.display()))
}
