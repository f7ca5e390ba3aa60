//! Members of a mesh, honest and otherwise: authorities, certificates, and peers that show them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Result;

/// An authority of a trust domain.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

/// What a certificate says. The default is a good one for a day.
#[derive(Debug, Clone)]
pub struct Says {
    /// URIs.
    pub uris: Vec<String>,
    /// Host names and addresses.
    pub hosts: Vec<String>,
    /// When its validity begins, in seconds from now.
    pub from: i64,
    /// When it ends.
    pub to: i64,
    /// What it is for.
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    /// Its serial number.
    pub serial: u64,
    /// Whether it says that it is an authority's.
    pub is_ca: bool,
}

impl Says {
    /// That somebody is this.
    pub fn id(uri: &str) -> Self {
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let (uris, hosts) = (vec![uri.to_owned()], Vec::new());
        Self { uris, hosts, from: -60, to: 86400, usages, serial: fastrand::u64(1..1 << 62), is_ca: false }
    }

    /// That somebody has this host name or address, as servers outside the mesh say it.
    pub fn host(name: &str) -> Self {
        Self { uris: Vec::new(), hosts: vec![name.to_owned()], ..Self::id("") }
    }
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub cert: String,
    /// The key.
    pub key: String,
}

fn moment(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { SystemTime::now() - distance } else { SystemTime::now() + distance }
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// No key can be made.
    pub fn new(trust_domain: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("{trust_domain} {}", fastrand::u32(..)));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").as_str().try_into()?)];
        let root = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), root })
    }

    /// The root, in PEM.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Signs what is said.
    ///
    /// # Errors
    /// It cannot be said.
    pub fn issue(&self, says: &Says) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let cert = params(says)?.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { cert, key: key.serialize_pem() })
    }

    /// A list that revokes one certificate, in PEM.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn revoke(&self, serial: u64) -> Result<String> {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: moment(-30).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: moment(-60).into(),
            next_update: moment(86400).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

/// What nobody else has signed.
///
/// # Errors
/// It cannot be said.
pub fn self_signed(says: &Says) -> Result<Pair> {
    let key = KeyPair::generate()?;
    Ok(Pair { cert: params(says)?.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

fn params(says: &Says) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = moment(says.from).into();
    params.not_after = moment(says.to).into();
    params.extended_key_usages.clone_from(&says.usages);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.serial_number = Some(SerialNumber::from(says.serial));
    params.is_ca = if says.is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::NoCa };
    for host in &says.hosts {
        params.subject_alt_names.push(match host.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.as_str().try_into()?),
        });
    }
    for uri in &says.uris {
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
    }
    Ok(params)
}

/// The files of an identity.
pub struct Files {
    /// Where they are.
    pub dir: PathBuf,
}

impl Files {
    /// Writes them.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(dir: &Path, pair: &Pair, trust: &str) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("tls.crt"), &pair.cert)?;
        std::fs::write(dir.join("tls.key"), &pair.key)?;
        std::fs::write(dir.join("ca.crt"), trust)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// As the configuration wants it.
    pub fn yaml(&self) -> String {
        let dir = self.dir.display();
        format!("identity: {{ files: {{ cert: {dir}/tls.crt, key: {dir}/tls.key, trust: {dir}/ca.crt }} }}")
    }
}

fn chain(pair: &Pair) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes()).collect::<Result<_, _>>()?;
    Ok((chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?))
}

/// Believes everybody.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS caller that believes everybody and shows `shows`.
///
/// # Errors
/// No handshake from its own point of view.
pub async fn call(
    address: SocketAddr,
    shows: Option<&Pair>,
    alpn: &[&str],
) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    secure(stream, shows, alpn).await
}

/// The same, over a connection that is there already.
///
/// # Errors
/// No handshake from its own point of view.
pub async fn secure(
    stream: TcpStream,
    shows: Option<&Pair>,
    alpn: &[&str],
) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match shows {
        Some(pair) => {
            let (chain, key) = chain(pair)?;
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("app.example")?;
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

/// Asks for `/` by HTTP/1.1 and gives all that comes back before the end.
///
/// # Errors
/// The connection breaks.
pub async fn ask(stream: &mut tokio_rustls::client::TlsStream<TcpStream>) -> Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A TLS server that shows `shows`, asks callers for a certificate of `trust`, and answers every HTTP/1.1 request with its
/// text.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Starts one.
    ///
    /// # Errors
    /// No port is free, or the pair is no good.
    pub async fn start(shows: &Pair, trust: &str, text: &'static str) -> Result<Self> {
        let provider = Arc::new(default_provider());
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(trust.as_bytes()) {
            roots.add(root?)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
        let (chain, key) = chain(shows)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut seen = Vec::new();
                    while !seen.ends_with(b"\r\n\r\n") {
                        match stream.read_buf(&mut seen).await {
                            Ok(0) | Err(_) => return,
                            Ok(_) => {}
                        }
                    }
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
