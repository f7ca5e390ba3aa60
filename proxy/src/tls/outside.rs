//! TLS with those outside the mesh: servers that clusters call, and callers at an edge listener.
//!
//! What a snapshot needs of it is read before the snapshot serves, so that a file that is missing rejects the
//! configuration. The files are watched from then on; one that cannot be used leaves what was there in use.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::sync::Notify;
use weir_config::Snapshot;
use weir_config::schema::TlsVersion;
use weir_config::snapshot::{EdgeTls, ServerTls, UpstreamTls};
use weir_control::file::{Watch, read};

use super::identity::{certificates, provider};
use super::verify::Anyone;

/// What is in use.
#[derive(Default)]
pub struct Outside {
    loaded: ArcSwap<Loaded>,
    /// Of the snapshot before: a worker may not have taken the new one yet.
    before: Mutex<Arc<Loaded>>,
    changed: Notify,
}

/// All that one snapshot needs.
#[derive(Default, Clone)]
pub struct Loaded {
    edges: HashMap<EdgeTls, Entry<ServerConfig>>,
    servers: HashMap<ServerTls, Entry<ClientConfig>>,
}

/// What was made, and what the files said of which it was made.
struct Entry<C> {
    texts: Vec<String>,
    config: Arc<C>,
}

impl<C> Clone for Entry<C> {
    fn clone(&self) -> Self {
        Self { texts: self.texts.clone(), config: Arc::clone(&self.config) }
    }
}

impl Outside {
    /// Reads what a snapshot needs.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn prepare(snapshot: &Snapshot) -> anyhow::Result<Loaded> {
        let mut loaded = Loaded::default();
        for listener in &snapshot.listeners {
            if let Some(edge) = &listener.edge {
                let entry = edge.load().with_context(|| format!("the `tls` of listener `{}`", listener.name))?;
                loaded.edges.insert(edge.clone(), entry);
            }
        }
        for cluster in &snapshot.clusters {
            if let Some(UpstreamTls::Server(server)) = &cluster.tls {
                let entry = server.load().with_context(|| format!("the `tls` of cluster `{}`", cluster.name))?;
                loaded.servers.insert(server.clone(), entry);
            }
        }
        Ok(loaded)
    }

    /// Uses it from now on.
    pub fn commit(&self, loaded: Loaded) {
        let before = self.loaded.swap(Arc::new(loaded));
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = before;
        self.changed.notify_one();
    }

    /// For callers of an edge listener.
    pub fn edge(&self, edge: &EdgeTls) -> Option<Arc<ServerConfig>> {
        self.find(|loaded| loaded.edges.get(edge).map(|entry| Arc::clone(&entry.config)))
    }

    /// For a server that is called.
    pub fn server(&self, server: &ServerTls) -> Option<Arc<ClientConfig>> {
        self.find(|loaded| loaded.servers.get(server).map(|entry| Arc::clone(&entry.config)))
    }

    fn find<T>(&self, find: impl Fn(&Loaded) -> Option<T>) -> Option<T> {
        let now = find(&self.loaded.load());
        now.or_else(|| find(&self.before.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Keeps up with the files; never ends.
    pub async fn follow(&self) {
        loop {
            let loaded = self.loaded.load_full();
            let paths: Vec<PathBuf> = loaded.paths();
            if paths.is_empty() {
                self.changed.notified().await;
                continue;
            }
            let mut watch = Watch::new(paths.iter().map(PathBuf::as_path));
            loop {
                tokio::select! {
                    () = self.changed.notified() => break,
                    () = watch.stirred() => {}
                }
                let mut fresh = Loaded::clone(&self.loaded.load());
                if refresh(&mut fresh.edges) | refresh(&mut fresh.servers) {
                    // Not by way of `commit`: what the snapshot before needs stays as it is.
                    self.loaded.store(Arc::new(fresh));
                }
            }
        }
    }
}

impl Loaded {
    /// One certificate alone.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn of_edge(edge: &EdgeTls) -> anyhow::Result<Self> {
        Ok(Self { edges: HashMap::from([(edge.clone(), edge.load().with_context(|| edge.name())?)]), servers: HashMap::new() })
    }

    fn paths(&self) -> Vec<PathBuf> {
        let edges = self.edges.keys().flat_map(Material::paths);
        edges.chain(self.servers.keys().flat_map(Material::paths)).map(Path::to_owned).collect()
    }
}

/// Reads anew what has changed; tells whether anything has.
fn refresh<M: Material>(entries: &mut HashMap<M, Entry<M::Config>>) -> bool {
    let mut changed = false;
    for (material, entry) in entries {
        match material.read() {
            Ok(texts) if texts == entry.texts => {}
            Ok(texts) => match material.make(&texts) {
                Ok(config) => {
                    tracing::info!(file = %material.name(), "TLS certificates taken");
                    *entry = Entry { texts, config };
                    changed = true;
                }
                Err(error) => warn(&material.name(), &error),
            },
            Err(error) => warn(&material.name(), &error),
        }
    }
    changed
}

fn warn(name: &str, error: &anyhow::Error) {
    tracing::error!(file = name, error = format!("{error:#}"), "TLS certificates cannot be used; what was in use stays");
}

/// Files, and what is made of them.
trait Material: Eq + Hash {
    type Config;

    fn paths(&self) -> Vec<&Path>;

    fn make(&self, texts: &[String]) -> anyhow::Result<Arc<Self::Config>>;

    fn name(&self) -> String {
        self.paths().first().map(|path| path.display().to_string()).unwrap_or_default()
    }

    fn read(&self) -> anyhow::Result<Vec<String>> {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or(path.to_owned());
        let text = |path: &Path| read(path).with_context(|| format!("cannot read {}", absolute(path).display()));
        self.paths().into_iter().map(text).collect()
    }

    fn load(&self) -> anyhow::Result<Entry<Self::Config>> {
        let texts = self.read()?;
        let config = self.make(&texts)?;
        Ok(Entry { texts, config })
    }
}

fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match oldest {
        TlsVersion::Tls12 => &BOTH,
        TlsVersion::Tls13 => &BOTH[..1],
    }
}

fn certified(cert: &str, key: &str, provider: &CryptoProvider) -> anyhow::Result<CertifiedKey> {
    let chain = certificates(cert).context("`cert`")?;
    if chain.is_empty() {
        bail!("`cert`: there is no certificate in it");
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("`key`: there is no private key in it")?;
    CertifiedKey::from_der(chain, key, provider).context("`key` does not fit `cert`")
}

impl Material for EdgeTls {
    type Config = ServerConfig;

    fn paths(&self) -> Vec<&Path> {
        vec![&self.cert, &self.key]
    }

    fn make(&self, texts: &[String]) -> anyhow::Result<Arc<ServerConfig>> {
        let [cert, key] = texts else { bail!("two files make a certificate") };
        server(cert, key, self.min_version)
    }
}

impl Material for ServerTls {
    type Config = ClientConfig;

    fn paths(&self) -> Vec<&Path> {
        let client = self.client.iter().flat_map(|(cert, key)| [cert, key]);
        self.roots.iter().chain(client).map(PathBuf::as_path).collect()
    }

    fn make(&self, texts: &[String]) -> anyhow::Result<Arc<ClientConfig>> {
        let provider = provider(self.min_version);
        let mut texts = texts.iter();
        let roots = match &self.roots {
            Some(_) => Some(given_roots(texts.next().map_or("", String::as_str)).context("`roots`")?),
            None => None,
        };
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions(self.min_version))?;
        let builder = if self.insecure {
            builder.dangerous().with_custom_certificate_verifier(Anyone::new(&provider))
        } else {
            let roots = Arc::new(roots.map_or_else(system_roots, Ok)?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
            builder.with_webpki_verifier(verifier)
        };
        let config = match (texts.next(), texts.next()) {
            (Some(cert), Some(key)) => {
                let certified = certified(cert, key, &provider).context("`client`")?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }
}

/// A server with this certificate, for whoever calls.
///
/// # Errors
/// Why it is none.
pub fn server_of(cert: &str, key: &str) -> anyhow::Result<Arc<ServerConfig>> {
    server(cert, key, TlsVersion::Tls12)
}

fn server(cert: &str, key: &str, oldest: TlsVersion) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = provider(oldest);
    let certified = certified(cert, key, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(oldest))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A client that believes these roots (PEM) alone.
///
/// # Errors
/// There are none in it.
pub fn trusting(roots: &str) -> anyhow::Result<Arc<ClientConfig>> {
    let provider = provider(TlsVersion::Tls12);
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions(TlsVersion::Tls12))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(given_roots(roots)?), provider).build()?;
    Ok(Arc::new(builder.with_webpki_verifier(verifier).with_no_client_auth()))
}

/// For a probe of an app that speaks TLS: any certificate will do, as it will for a kubelet.
///
/// # Errors
/// None that can come about.
pub fn for_probes() -> anyhow::Result<Arc<ClientConfig>> {
    let provider = provider(TlsVersion::Tls12);
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions(TlsVersion::Tls12))?;
    let verifier = Anyone::new(&provider);
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

fn given_roots(text: &str) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(text)? {
        roots.add(certificate).context("a certificate in it cannot be a root")?;
    }
    if roots.is_empty() {
        bail!("there is no certificate in it");
    }
    Ok(roots)
}

fn system_roots() -> anyhow::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        bail!("this system has no roots; install them (ca-certificates), or give `roots`");
    }
    Ok(roots)
}
