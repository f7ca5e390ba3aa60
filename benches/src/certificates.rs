//! Certificates for a pair with mutual TLS: one authority, and one certificate for each of the two.

use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Writes `ca.crt`, and for `caller` and `callee` a `.crt`, a `.key` and both in a `.pem`; nothing if they are there.
///
/// # Errors
/// They cannot be written.
pub fn write(dir: &Path) -> Result<()> {
    if dir.join("ca.crt").exists() {
        return Ok(());
    }
    std::fs::create_dir_all(dir)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named("root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    for name in ["caller", "callee"] {
        let key = KeyPair::generate()?;
        // A DNS name too, for who does not know SPIFFE IDs.
        let mut params = CertificateParams::new(vec![format!("{name}.bench")])?;
        params.distinguished_name = named(name);
        params.subject_alt_names.push(SanType::URI(format!("spiffe://bench/ns/bench/sa/{name}").as_str().try_into()?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = (params.signed_by(&key, &issuer)?.pem(), key.serialize_pem());
        let file = |end: &str, text: &str| std::fs::write(dir.join(format!("{name}.{end}")), text);
        file("crt", &certificate)?;
        file("key", &key)?;
        file("pem", &format!("{certificate}{key}"))?;
    }
    std::fs::write(dir.join("ca.crt"), root).context("cannot write certificates")
}

/// OpenSSL takes a certificate for self-signed whose subject and issuer have one name.
fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}
