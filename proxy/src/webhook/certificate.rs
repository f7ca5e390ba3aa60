//! A certificate of the webhook's own, where nobody else makes one: an authority in a Secret, which all replicas share, a
//! certificate of each replica's own, and the authority's in the webhook configuration, by which the API server knows it.
//!
//! All three are looked after: whatever a deployment or a person puts there instead is put right again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::api::Api;
use crate::tls::outside::server_of;

/// How long the authority lasts.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a replica's certificate lasts; it is renewed at half of that.
const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(300);
/// Between two looks when something is wrong.
const SOON: Duration = Duration::from_secs(2);
/// Clocks that are behind.
const EARLIER: Duration = Duration::from_secs(300);

/// Where things are kept.
#[derive(Debug, Clone)]
pub struct Place {
    /// The API server.
    pub api: String,
    /// The directory of the service account.
    pub account: PathBuf,
    /// The namespace of the service and the Secret.
    pub namespace: String,
    /// The service by which the API server calls the webhook.
    pub service: String,
    /// The Secret of the authority.
    pub secret: String,
    /// The MutatingWebhookConfiguration.
    pub configuration: String,
}

/// A certificate of its own.
pub struct Own {
    api: Api,
    place: Place,
}

/// An authority, in PEM.
struct Authority {
    certificate: String,
    key: String,
    /// What the API server is to believe: this one, and the one before it.
    believed: String,
    not_after: SystemTime,
}

impl Own {
    /// By where things are kept.
    ///
    /// # Errors
    /// The URL of the API server is none.
    pub fn new(place: Place) -> anyhow::Result<Self> {
        Ok(Self { api: Api::new(&place.api, place.account.clone())?, place })
    }

    /// Keeps a certificate in force; never ends.
    pub(super) async fn keep(self, config: Arc<ArcSwapOption<ServerConfig>>) {
        let mut renew_at = SystemTime::UNIX_EPOCH;
        let mut authority = String::new();
        loop {
            let looked = self.look(&config, &mut authority, &mut renew_at).await;
            let pause = match looked {
                Ok(()) => PAUSE,
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "the webhook's certificate cannot be looked after");
                    SOON
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn look(
        &self,
        config: &ArcSwapOption<ServerConfig>,
        known: &mut String,
        renew_at: &mut SystemTime,
    ) -> anyhow::Result<()> {
        let authority = self.authority().await?;
        if *known != authority.certificate || SystemTime::now() >= *renew_at {
            let Place { namespace, service, .. } = &self.place;
            let issued = authority.issue(&format!("{service}.{namespace}.svc"))?;
            config.store(Some(server_of(&issued.certificate, &issued.key)?));
            *renew_at = SystemTime::now() + LIFE / 2;
            known.clone_from(&authority.certificate);
            tracing::info!("a certificate of our own is in force");
        }
        self.tell(&authority.believed).await
    }

    /// The authority in the Secret, which is made if there is none, or none that can be used for long.
    async fn authority(&self) -> anyhow::Result<Authority> {
        let Place { namespace, secret, .. } = &self.place;
        let all = format!("/api/v1/namespaces/{namespace}/secrets");
        let what = || format!("the Secret {namespace}/{secret}");
        // Whoever comes second takes what the first has made.
        for _ in 0..2 {
            let (status, found) = self.api.call(Method::GET, &format!("{all}/{secret}"), JSON, &Value::Null).await?;
            let mut made = Authority::make()?;
            let mut metadata =
                json!({ "name": secret, "namespace": namespace, "labels": { "app.kubernetes.io/managed-by": "weir-webhook" } });
            let (method, path) = match status {
                StatusCode::OK => match Authority::of(&found) {
                    Ok(authority) if !authority.is_old(SystemTime::now()) => return Ok(authority),
                    Ok(old) => {
                        tracing::info!(secret, "the authority gets old and is followed by another");
                        // Replicas that have not heard yet show certificates of the old one.
                        made.believed.push_str(&old.certificate);
                        metadata["resourceVersion"] = found["metadata"]["resourceVersion"].clone();
                        (Method::PUT, format!("{all}/{secret}"))
                    }
                    Err(error) => {
                        tracing::error!(
                            secret,
                            error = format!("{error:#}"),
                            "what is in the Secret is no authority, and replaced"
                        );
                        metadata["resourceVersion"] = found["metadata"]["resourceVersion"].clone();
                        (Method::PUT, format!("{all}/{secret}"))
                    }
                },
                StatusCode::NOT_FOUND => (Method::POST, all.clone()),
                _ => bail!("{} cannot be read: {}", what(), said(status, &found)),
            };
            let data = [("tls.crt", &made.certificate), ("tls.key", &made.key), ("ca.crt", &made.believed)];
            let data: Value =
                data.into_iter().map(|(key, text)| (key.to_owned(), Value::String(STANDARD.encode(text)))).collect();
            let kind = found["type"].as_str().unwrap_or("kubernetes.io/tls");
            let object = json!({ "apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": metadata, "data": data });
            let (status, told) = self.api.call(method, &path, JSON, &object).await?;
            match status {
                StatusCode::CREATED | StatusCode::OK => return Ok(made),
                StatusCode::CONFLICT => {}
                _ => bail!("{} cannot be made: {}", what(), said(status, &told)),
            }
        }
        bail!("{} is made and gone again at once", what())
    }

    /// Has the webhook configuration name the authority.
    async fn tell(&self, certificate: &str) -> anyhow::Result<()> {
        let name = &self.place.configuration;
        let path = format!("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}");
        let (status, found) = self.api.call(Method::GET, &path, JSON, &Value::Null).await?;
        ensure!(status == StatusCode::OK, "the MutatingWebhookConfiguration {name} cannot be read: {}", said(status, &found));
        let wanted = STANDARD.encode(certificate);
        let webhooks = found["webhooks"].as_array().map_or(&[][..], Vec::as_slice);
        let stale = webhooks.iter().enumerate().filter(|(_, webhook)| webhook["clientConfig"]["caBundle"] != *wanted);
        let mut patch: Vec<Value> = stale
            .map(|(place, _)| json!({ "op": "add", "path": format!("/webhooks/{place}/clientConfig/caBundle"), "value": wanted }))
            .collect();
        if patch.is_empty() {
            return Ok(());
        }
        // Somebody may change the list meanwhile.
        patch.insert(
            0,
            json!({ "op": "test", "path": "/metadata/resourceVersion", "value": found["metadata"]["resourceVersion"] }),
        );
        let (status, told) = self.api.call(Method::PATCH, &path, PATCH, &Value::Array(patch)).await?;
        ensure!(status == StatusCode::OK, "the MutatingWebhookConfiguration {name} cannot be changed: {}", said(status, &told));
        tracing::info!(configuration = name, "the API server is told by what to know this webhook");
        Ok(())
    }
}

const JSON: &str = "application/json";
const PATCH: &str = "application/json-patch+json";

fn said(status: StatusCode, object: &Value) -> String {
    match object["message"].as_str() {
        Some(message) => format!("{message} ({status})"),
        None => status.to_string(),
    }
}

struct Issued {
    certificate: String,
    key: String,
}

impl Authority {
    fn of(secret: &Value) -> anyhow::Result<Self> {
        let text = |key: &str| {
            let encoded = secret["data"][key].as_str().with_context(|| format!("it has no `{key}`"))?;
            let decoded = STANDARD.decode(encoded).with_context(|| format!("`{key}` is no base64"))?;
            String::from_utf8(decoded).with_context(|| format!("`{key}` is no PEM"))
        };
        let (certificate, key) = (text("tls.crt")?, text("tls.key")?);
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).context("`tls.crt` has no certificate")?;
        let (_, parsed) = X509Certificate::from_der(&der).context("`tls.crt`")?;
        ensure!(parsed.is_ca(), "`tls.crt` is no authority's");
        let pair = KeyPair::from_pem(&key).context("`tls.key`")?;
        ensure!(parsed.public_key().raw == pair.subject_public_key_info(), "`tls.key` does not fit `tls.crt`");
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
        let believed = text("ca.crt").unwrap_or_else(|_| certificate.clone());
        Ok(Self { certificate, key, believed, not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) })
    }

    /// Whether certificates that it issues now would outlive it, or nearly.
    fn is_old(&self, now: SystemTime) -> bool {
        self.not_after < now + LIFE * 2
    }

    fn make() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "weir webhook");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        valid(&mut params, AUTHORITY_LIFE);
        let certificate = params.self_signed(&key)?.pem();
        let not_after = SystemTime::now() + AUTHORITY_LIFE;
        Ok(Self { believed: certificate.clone(), certificate, key: key.serialize_pem(), not_after })
    }

    fn issue(&self, name: &str) -> anyhow::Result<Issued> {
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, LIFE);
        Ok(Issued { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
    }
}

fn valid(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - EARLIER).into();
    params.not_after = (now + life).into();
}
